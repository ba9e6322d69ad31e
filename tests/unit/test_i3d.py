"""I3D: padding, pooling, end points and width, on clips and networks small enough to check by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avfusion.backbones.i3d import ENDPOINTS, I3D, POOLS, MaxPool, Padding, Triple, pytorch_i3d_name

WIDTH = 1 / 16


def network(**options: object) -> I3D:
    torch.manual_seed(0)
    return I3D(**{"width": WIDTH, "num_classes": 5, **options}).eval()


def clip(frames: int = 16, size: int = 32, channels: int = 3, batch: int = 1) -> Tensor:
    return torch.rand(batch, channels, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def naive_pool(x: Tensor, kernel: Triple, stride: Triple, padding: Padding) -> Tensor:
    """The published way: pad with zeros, then pool, the last window rounded up under the fixed rule."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0) if padding == "same" else max(k - s, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.max_pool3d(F.pad(x, pads), kernel, stride, ceil_mode=padding == "fixed")


@pytest.mark.parametrize("padding", ["same", "fixed"])
@pytest.mark.parametrize(("kernel", "stride"), [*POOLS.values(), ((3, 3, 3), (1, 1, 1))])
def test_pooling_with_and_without_gradients(padding: Padding, kernel: Triple, stride: Triple) -> None:
    pool = MaxPool(kernel, stride, padding)
    for frames, height, width in [
        (1, 1, 1),
        (1, 2, 3),
        (2, 1, 1),
        (4, 5, 6),
        (5, 8, 7),
        (8, 9, 4),
        (3, 16, 2),
    ]:
        x = torch.rand(2, 3, frames, height, width)
        expected = naive_pool(x, kernel, stride, padding)
        assert torch.equal(pool(x), expected)
        assert torch.equal(pool(x.clone().requires_grad_()), expected)


def test_same_padding_gives_the_ceiling_of_every_size() -> None:
    model = network(num_classes=0)
    for frames, size in [(16, 32), (21, 45), (9, 31), (1, 33)]:
        shape = model.activations(clip(frames, size), "Conv3d_1a_7x7").shape
        assert shape[2:] == (-(-frames // 2), -(-size // 2), -(-size // 2))
        shape = model.activations(clip(frames, size)).shape
        assert shape[2:] == (-(-frames // 8), -(-size // 32), -(-size // 32))


def test_the_two_paddings_agree_on_multiples_and_differ_on_odd_sizes() -> None:
    same, fixed = network(), network(padding="fixed")
    fixed.load_state_dict(same.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(same.activations(clip(16, 64)), fixed.activations(clip(16, 64)))
        one, other = (model.activations(clip(16, 61), "MaxPool3d_2a_3x3") for model in (same, fixed))
        assert one.shape != other.shape or not torch.allclose(one, other)


def test_small_clips_are_averaged_over_time_and_space() -> None:
    model, x = network(), clip(16, 64, batch=2)
    with torch.inference_mode():
        for endpoint in ENDPOINTS:
            expected = model.activations(x, endpoint).mean(dim=(2, 3, 4))
            torch.testing.assert_close(model.extract_features(x, endpoint), expected)
        assert model.extract_features(x).shape == (2, model.channels) == (2, 64)
        with pytest.raises(ValueError, match="fewer than the pool"):
            model.extract_steps(x)


def test_published_pool_counts_the_middle_steps_twice() -> None:
    model, x = network(), clip(24, 224)
    with torch.inference_mode():
        places = model.activations(x).mean(dim=(3, 4))
        assert places.shape == (1, 64, 3)
        torch.testing.assert_close(
            model.extract_steps(x)[:, :, :, 0, 0], (places[..., :2] + places[..., 1:]) / 2
        )
        expected = (places[..., 0] + 2 * places[..., 1] + places[..., 2]) / 4
        torch.testing.assert_close(model.extract_features(x), expected)


def test_class_scores_are_the_mean_of_the_scores_per_step() -> None:
    model, x = network(), clip(24, 224)
    assert model.logits is not None
    with torch.inference_mode():
        expected = model.logits(model.extract_steps(x)).mean(dim=(2, 3, 4))
        torch.testing.assert_close(model(x), expected)
    assert network(num_classes=0)(clip()).shape == (1, 64)


def test_a_truncated_network_gives_the_same_activations_and_classifies_them() -> None:
    whole, short = network(), network(endpoint="Mixed_3c")
    short.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k in short.state_dict() and "logits" not in k},
        strict=False,
    )
    with torch.inference_mode():
        torch.testing.assert_close(short.extract_features(clip()), whole.extract_features(clip(), "Mixed_3c"))
    assert short(clip()).shape == (1, 5)
    assert not hasattr(short, "Mixed_4b")


@pytest.mark.parametrize(("width", "channels"), [(1.0, 1024), (0.25, 256), (0.125, 128), (0.01, 10)])
def test_width_scales_every_layer(width: float, channels: int) -> None:
    with torch.device("meta"):
        model = I3D(2, width)
    assert model.channels == channels
    assert model.Conv3d_1a_7x7.conv3d.weight.shape == (max(1, round(64 * width)), 2, 7, 7, 7)
    assert model.Mixed_5c.b2a.conv3d.weight.shape[0] == max(1, round(48 * width))


def test_eps_and_momentum_reach_every_batch_norm() -> None:
    norms = [m for m in network(eps=0.5, momentum=0.25).modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert len(norms) == 57
    assert all((norm.eps, norm.momentum) == (0.5, 0.25) for norm in norms)


def test_every_parameter_gets_a_gradient() -> None:
    model = network().train()
    model(clip(16, 64, batch=2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_unknown_end_point_is_named() -> None:
    with pytest.raises(ValueError, match="no I3D end point 'Mixed_6a'"):
        I3D(endpoint="Mixed_6a")
    with pytest.raises(ValueError, match="Mixed_9"):
        network().extract_features(clip(), "Mixed_9")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7.conv3d.weight"),
        ("conv3d_2c_3x3.batch3d.running_var", "Conv3d_2c_3x3.bn.running_var"),
        ("mixed_3b.branch_0.batch3d.bias", "Mixed_3b.b0.bn.bias"),
        ("mixed_4f.branch_2.1.conv3d.weight", "Mixed_4f.b2b.conv3d.weight"),
        ("mixed_5c.branch_3.1.conv3d.weight", "Mixed_5c.b3b.conv3d.weight"),
        ("conv3d_0c_1x1.conv3d.bias", "logits.conv3d.bias"),
        ("logits.conv3d.bias", "logits.conv3d.bias"),
        ("Mixed_4f.b2b.conv3d.weight", "Mixed_4f.b2b.conv3d.weight"),
    ],
)
def test_names_of_the_other_layout(theirs: str, ours: str) -> None:
    assert pytorch_i3d_name(theirs) == ours
