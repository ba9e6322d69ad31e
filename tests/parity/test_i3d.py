"""I3D against pytorch-i3d and video_features, with the recipe's weights."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import layout, load_recipe, recipe_input, recipe_weights

from avfusion.backbones.i3d import I3D, pytorch_i3d_name

CLIPS = {"a": (16, 224, 224), "odd": (21, 230, 226)}
CHANNELS = {"rgb": 3, "flow": 2}
CLIP_PARAMETERS = ["a", pytest.param("odd", marks=pytest.mark.slow)]
# All cases with their marks: one of every kind is fast.
FAST = {("rgb", "a", "recipe"), ("flow", "a", "converted")}
VIDEO_FEATURES_CASES = [
    pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
    for case in product(CHANNELS, CLIPS, ("recipe", "converted", "converted_eps1e-3"))
]


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    limit = 1e-5 * np.abs(expected).max() + 1e-5 * np.abs(expected)
    assert actual.shape == expected.shape
    assert (np.abs(actual.numpy() - expected) <= limit).all()


def clip(stream: str, name: str) -> torch.Tensor:
    values = recipe_input(f"in:i3d/{stream}/{name}", (1, CHANNELS[stream], *CLIPS[name]))
    return torch.from_numpy(values).clamp(-1, 1)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("name", CLIP_PARAMETERS)
def test_pytorch_i3d(golden: Path, stream: str, name: str) -> None:
    model = load_recipe(I3D(CHANNELS[stream])).eval()
    x = clip(stream, name)
    with np.load(golden / "i3d/i3d.npz", allow_pickle=False) as stored, torch.inference_mode():
        features, logits = (stored[f"{stream}/{name}/pytorch_i3d/{what}"] for what in ("features", "logits"))
        steps = model.extract_steps(x)
        close(steps, features)
        scores = model.logits(steps)
        close(scores.squeeze(3).squeeze(3) if name == "a" else scores, logits)


@pytest.mark.parametrize(("stream", "name", "weights"), VIDEO_FEATURES_CASES)
def test_video_features(golden: Path, stream: str, name: str, weights: str) -> None:
    model = I3D(CHANNELS[stream], eps=1e-3 if weights.endswith("eps1e-3") else 1e-5, padding="fixed")
    if weights == "recipe":  # drawn under the names of video_features
        drawn = recipe_weights(layout(golden, f"video_features_i3d_{stream}"))
        model.load_state_dict({pytorch_i3d_name(key): torch.as_tensor(value) for key, value in drawn.items()})
    else:
        load_recipe(model)
    model.eval()
    x = clip(stream, name)
    with np.load(golden / "i3d/i3d.npz", allow_pickle=False) as stored, torch.inference_mode():
        key = f"{stream}/{name}/video_features_i3d/{weights}"
        steps = model.extract_steps(x)
        scores = model.logits(steps)
        wanted = stored[f"{key}/features"]
        close(steps.mean(2).reshape(wanted.shape), wanted)
        close(scores.mean(2).reshape(stored[f"{key}/logits"].shape), stored[f"{key}/logits"])


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("name", ["a", "odd"])
def test_every_end_point(golden: Path, stream: str, name: str) -> None:
    expected = json.loads((golden / "i3d/i3d.json").read_text())[f"{stream}/{name}"]["endpoints"]
    model = load_recipe(I3D(CHANNELS[stream])).eval()
    assert list(expected) == list(model.endpoints)
    x = clip(stream, name)
    with torch.inference_mode():
        for endpoint, values in expected.items():
            x = model.get_submodule(endpoint)(x)
            assert list(x.shape) == values["shape"]
            assert x.double().mean().item() == pytest.approx(values["mean"], rel=1e-5)
            assert x.double().norm().item() == pytest.approx(values["l2"], rel=1e-5)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_layouts(golden: Path, stream: str) -> None:
    model = I3D(CHANNELS[stream])
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == layout(
        golden, f"pytorch_i3d_{stream}"
    )


def test_name_map(golden: Path) -> None:
    names = json.loads((golden / "layouts/i3d_name_map.json").read_text())["map"]
    assert len(names) == 344
    assert {theirs: pytorch_i3d_name(theirs) for theirs in names.values()} == {b: a for a, b in names.items()}
    assert all(pytorch_i3d_name(name) == name for name in names)
