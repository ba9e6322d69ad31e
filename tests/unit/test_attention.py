"""Residual multimodal attention: its formula, what it refuses, and that it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_data import LABELS, planted, windows

from avfusion.detectors import build_detector
from avfusion.engine.train import collect_videos
from avfusion.errors import InputError
from avfusion.fusion.attention import attend, attended_width, attention_layers


def zeroed(width: int) -> nn.Module:
    layers = attention_layers(width)
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    return layers


def test_names_and_shapes_are_those_of_the_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in attention_layers(5).state_dict().items()}
    assert shapes == {"0.weight": (5, 5), "0.bias": (5,), "2.weight": (5, 5), "2.bias": (5,)}


def test_residuals_are_crossed_and_sound_is_padded_at_its_end() -> None:
    visual, sound = torch.randn(2, 3, 4), torch.randn(2, 3, 1)
    padded = torch.cat([sound, torch.zeros(2, 3, 3)], dim=-1)
    one = attend(zeroed(4), zeroed(4), visual, sound, 1)
    torch.testing.assert_close(one, (visual.tanh() + padded.tanh()) / 2)
    # With m = 0 the sides change places in every block.
    layers = attention_layers(4)
    two = attend(layers, layers, visual, sound, 2)
    mean = (layers(visual) + layers(padded)) / 2
    seen, heard = torch.tanh(padded + mean), torch.tanh(visual + mean)
    mean = (layers(seen) + layers(heard)) / 2
    torch.testing.assert_close(two, (torch.tanh(heard + mean) + torch.tanh(seen + mean)) / 2)


def test_the_callers_tensors_stay_as_they_are() -> None:
    visual, sound = torch.randn(3, 4), torch.randn(3, 2)
    before = visual.clone(), sound.clone()
    attend(attention_layers(4), attention_layers(4), visual, sound, 2)
    assert torch.equal(visual, before[0])
    assert torch.equal(sound, before[1])


def test_all_parameters_learn() -> None:
    """The target is the product of what is seen and heard, which neither layer gives by itself."""
    torch.manual_seed(0)
    seen, heard = attention_layers(6), attention_layers(6)
    visual, sound = torch.randn(64, 6), torch.randn(64, 2)
    target = 0.5 * torch.sign(visual[:, :1] * sound[:, :1]).expand(-1, 6)
    parameters = [*seen.parameters(), *heard.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.02)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(attend(seen, heard, visual, sound, 1), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("detector", "options"),
    [
        ("muses", {"backbone_dims": [16, 16], "hidden": 32, "dropout": 0.0}),
        ("pgcn", {"hidden": 32, "dropout": 0.0, "graph_dropout": 0.0, "keep_audio": True}),
        (
            "gtad",
            {"temporal_scale": 64, "max_duration": 16, "hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 16}
            | {"groups": 2, "inner_slots": 4, "context_slots": 2},
        ),
    ],
)
def test_attention_learns_inside_of_every_detector(detector: str, options: dict[str, Any]) -> None:
    """Streams of 8 and 4 channels; training reaches all of U_v and U_a, and lowers the loss."""
    torch.manual_seed(0)
    network = build_detector(detector, {**options, "attention": 1}, [8, 4], len(LABELS)).train()
    features, annotations = planted(4, seed=0)
    features = {name: replace(value, widths=(8, 4)) for name, value in features.items()}
    examples = network.training_set(collect_videos(features, windows(annotations), annotations))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng, losses = np.random.RandomState(0), []
    for step in range(30):
        optimiser.zero_grad()
        drawn = [examples.draw(index, rng) for index in range(min(len(examples), 4))]
        loss = network.training_step(drawn)["total"]
        loss.backward()
        attended = {name: value.grad for name, value in network.named_parameters() if name.startswith("U_")}
        assert len(attended) == (16 if detector == "pgcn" else 8)
        for name, gradient in attended.items():
            assert gradient is not None and gradient.abs().max() > 0, (step, name)
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_width_of_the_picture() -> None:
    assert attended_width([1024, 128]) == 1024
    assert attended_width([8, 4, 4]) == 8


@pytest.mark.parametrize(
    ("widths", "message"), [([8], "needs a visual stream and sound"), ([4, 5], "5 channels.*more than the 4")]
)
def test_streams_that_cannot_be_joined(widths: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"config: attention: .*{message}"):
        attended_width(widths)
