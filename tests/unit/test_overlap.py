"""Overlapping windows through I3D: equal to each window alone, and cheaper."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from avfusion.backbones import overlap
from avfusion.backbones.i3d import I3D, Padding
from avfusion.backbones.overlap import Layout, Windows, shared_layers, window_count, window_features
from avfusion.backbones.weights import randomise


def network(padding: Padding = "same", endpoint: str = "Mixed_5c", channels: int = 3) -> I3D:
    """Random weights and batch norms that move zero, so that padding shows."""
    model = I3D(channels, width=1 / 16, num_classes=0, endpoint=endpoint, padding=padding).eval()
    randomise(model, 3)
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.bias.data = torch.rand(module.bias.shape, generator=generator)
            module.running_mean.data = torch.randn(module.bias.shape, generator=generator) / 10
            module.running_var.data = 0.5 + torch.rand(module.bias.shape, generator=generator)
    return model


def clip(frames: int, size: int = 33, channels: int = 3, seed: int = 0) -> Tensor:
    """Noise that grows brighter and darker, so that no two windows are alike."""
    noise = torch.rand(channels, frames, size, size, generator=torch.Generator().manual_seed(seed))
    return noise + torch.sin(torch.arange(frames) / 9)[:, None, None]


def alone(model: I3D, x: Tensor, window: int, stride: int) -> Tensor:
    starts = range(0, x.shape[1] - window + 1, stride)
    return torch.cat([model.extract_features(x[None, :, s : s + window]) for s in starts])


@pytest.mark.parametrize("padding", ["same", "fixed"])
@pytest.mark.parametrize(
    ("window", "stride", "layers"),
    [
        (64, 8, 12),
        (64, 16, 11),
        (64, 4, 12),
        (32, 8, 8),
        (16, 4, 5),
        (16, 8, 3),
        (64, 6, 7),
        (64, 7, 0),
        (63, 8, 0),
    ],
)
def test_every_window_is_as_if_alone(padding: Padding, window: int, stride: int, layers: int) -> None:
    model = network(padding)
    x = clip(window + 3 * stride)
    assert shared_layers(model, window, stride) == layers
    with torch.inference_mode():
        expected = alone(model, x, window, stride)
        values = window_features(model, [x], window, stride)
    assert values.shape == (4, model.channels)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("at_once", [1, 20_000])
@pytest.mark.parametrize(("window", "stride"), [(64, 8), (16, 4), (63, 8)])
def test_a_few_steps_at_a_time_change_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: int, window: int, stride: int
) -> None:
    model, clips = network(), [clip(window + stride * extra, seed=extra) for extra in (4, 0)]
    with torch.inference_mode():
        expected = torch.cat([alone(model, x, window, stride) for x in clips])
        monkeypatch.setattr(overlap, "AT_ONCE", at_once)
        values = window_features(model, clips, window, stride)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def test_clips_of_several_videos_go_together() -> None:
    model = network()
    clips = [clip(64 + 8 * extra, seed=extra) for extra in (0, 2, 1)]
    with torch.inference_mode():
        expected = torch.cat([alone(model, x, 64, 8) for x in clips])
        values = window_features(model, clips, 64, 8)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("endpoint", ["Conv3d_1a_7x7", "Mixed_3c", "MaxPool3d_4a_3x3"])
def test_truncated_networks(endpoint: str) -> None:
    model = network(endpoint=endpoint)
    x = clip(64 + 16)
    with torch.inference_mode():
        expected = alone(model, x, 64, 8)
        values = window_features(model, [x], 64, 8)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def test_a_folded_network_gives_the_same() -> None:
    model, x = network(), clip(64 + 16)
    with torch.inference_mode():
        expected = alone(model, x, 64, 8)
        model.fold()
        model.fold()  # once is enough
        values = window_features(model, [x], 64, 8)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in model.modules())
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def test_the_published_geometry_costs_less_than_half() -> None:
    with torch.device("meta"):
        model = I3D(num_classes=0).eval()
        x = torch.empty(3, 64 + 15 * 8, 224, 224)

        def flops(windows: Tensor | None) -> int:
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                if windows is None:
                    window_features(model, [x], 64, 8)
                else:
                    model.extract_features(windows)
            return counter.get_total_flops()

        assert flops(torch.empty(16, 3, 64, 224, 224)) / flops(None) > 2.1


def test_parts_of_windows() -> None:
    x = torch.arange(20.0).reshape(1, 20, 1, 1)
    windows = Windows.of(x, 8, 4)
    assert windows.whole()[:, 0, :, 0, 0].tolist() == [list(range(k, k + 8)) for k in (0, 4, 8, 12)]
    each = windows.whole()
    longer = Windows(Layout(8, 4, 2, 3), windows.inner[:, :, 2:17], each[:, :, :2], each[:, :, 5:])
    assert torch.equal(longer.whole(), windows.whole())
    for begin, end in ((0, 1), (1, 4), (2, 5), (3, 8), (5, 8), (6, 7)):
        assert torch.equal(longer.part(begin, end), each[:, :, begin:end])
    for count in (1, 3, 4, 9):
        for group, expected in zip(longer.groups(count), each.split(count), strict=True):
            assert torch.equal(group.whole(), expected)


def test_frames_that_are_no_whole_windows() -> None:
    assert window_count(64, 64, 8) == 1
    for frames in (63, 65):
        with pytest.raises(ValueError, match="not whole windows of 64 every 8"):
            window_count(frames, 64, 8)
