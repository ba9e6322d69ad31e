"""Residual multimodal attention: its formula, what it refuses, and that it learns."""

import pytest
import torch
from torch import nn

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


def test_width_of_the_picture() -> None:
    assert attended_width([1024, 128]) == 1024
    assert attended_width([8, 4, 4]) == 8


@pytest.mark.parametrize(
    ("widths", "message"), [([8], "needs a visual stream and sound"), ([4, 5], "5 channels.*more than the 4")]
)
def test_streams_that_cannot_be_joined(widths: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"config: attention: .*{message}"):
        attended_width(widths)
