"""align1d and project_align1d: compiled kernels against plain torch, gradients, registration, bad input."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avfusion.ops import align1d, extension_status, project_align1d
from avfusion.ops.align import (
    reference_align1d,
    reference_align1d_backward,
    reference_sum_aligned1d,
    reference_sum_aligned1d_backward,
)

compiled = pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
OPS = torch.ops.avfusion


def example(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Features (3, 5, 17) and rois, some of which lie outside, or end before they begin."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 5, 17, generator=generator, dtype=torch.float64).to(dtype)
    start = torch.rand(40, generator=generator, dtype=torch.float64) * 30 - 6
    length = torch.rand(40, generator=generator, dtype=torch.float64) * 25 - 2
    video = torch.randint(0, 3, (40,), generator=generator)
    return features, torch.stack([video, start, start + length], 1)


def close(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    step = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(got, wanted, rtol=step, atol=step)


def test_bins_of_one_step_average_the_steps_they_lie_between() -> None:
    features = torch.tensor([[[0.0, 2.0, 4.0, 6.0]]])
    assert align1d(features, torch.tensor([[0, 0, 3]]), 3).tolist() == [[[1.0, 3.0, 5.0]]]


def test_beyond_one_step_outside_samples_are_zero_and_count() -> None:
    features = torch.ones(1, 1, 4)
    rois = torch.tensor([[0.0, -8.0, -2.0], [0.0, -1.0, 0.0], [0.0, 2.0, 6.0], [0.0, 9.0, 12.0]])
    assert align1d(features, rois, 1, 4).flatten().tolist() == [0.0, 1.0, 0.5, 0.0]


def test_a_short_roi_is_made_one_step_long() -> None:
    features = torch.tensor([[[0.0, 2.0, 4.0, 6.0]]])
    rois = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, -7.0], [0.0, 1.0, 2.0]])
    assert align1d(features, rois, 1).flatten().tolist() == [3.0, 3.0, 3.0]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "ratio"), [(8, 0), (5, 2), (1, 0), (3, 7)])
def test_compiled_alignment_equals_the_reference(dtype: torch.dtype, size: int, ratio: int) -> None:
    features, rois = example(1, dtype)
    got = OPS.align1d(features, rois, size, ratio)
    close(got, reference_align1d(features, rois, size, ratio), dtype)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    wanted = reference_align1d_backward(grad, rois, 3, 17, ratio)
    close(OPS.align1d_backward(grad, rois, 3, 17, ratio), wanted, dtype)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 130])
def test_compiled_sum_equals_the_reference(dtype: torch.dtype, channels: int) -> None:
    rois = example(1)[1][:, 1:]
    generator = torch.Generator().manual_seed(3)
    projected = torch.randn(2, 17, 6, channels, generator=generator).to(dtype)
    got = OPS.sum_aligned1d(projected, rois, 0)
    close(got, reference_sum_aligned1d(projected, rois, 0), dtype)
    grad = torch.randn(got.shape, generator=generator).to(dtype)
    wanted = reference_sum_aligned1d_backward(grad, rois, 6, 17, 0)
    close(OPS.sum_aligned1d_backward(grad, rois, 6, 17, 0), wanted, dtype)


far = st.floats(-(2.0**30), 2.0**30, width=32)
near = st.floats(-40, 60, width=32) | st.integers(-20, 40).map(float)


@compiled
@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 1), near | far, near), max_size=4),
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(1, 12),
)
def test_any_roi_gives_the_same_compiled_and_in_plain_torch(
    rois: list[Any], size: int, ratio: int, frames: int
) -> None:
    """Starts anywhere, ends `near` later (or before)."""
    features = torch.randn(2, 3, frames, generator=torch.Generator().manual_seed(frames))
    table = torch.tensor([(b, s, s + length) for b, s, length in rois], dtype=torch.float32).reshape(-1, 3)
    got = OPS.align1d(features, table, size, ratio)
    close(got, reference_align1d(features, table, size, ratio), torch.float32)
    grad = torch.ones_like(got)
    wanted = reference_align1d_backward(grad, table, 2, frames, ratio)
    torch.testing.assert_close(
        OPS.align1d_backward(grad, table, 2, frames, ratio), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("bounds", [(-(2.0**23), 2.0**23), (0.0, 2.0**24), (-(2.0**24), 0.0)])
def test_the_longest_rois_take_no_longer_than_the_features(bounds: tuple[float, float]) -> None:
    features = torch.ones(1, 1, 50, dtype=torch.float64)
    got = align1d(features, torch.tensor([[0.0, *bounds]], dtype=torch.float64), 1)
    assert 0 < float(got) < 52 / 2**24


def test_project_align1d_is_alignment_and_then_a_convolution() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    rois = example(5)[1][:, 1:]
    table = torch.cat([torch.cat([torch.full((40, 1), b), rois], 1) for b in range(2)])
    aligned = align1d(features, table, 4).reshape(2, 40, 5, 4)
    wanted = torch.einsum("brcs,ocs->bor", aligned, weight) + bias[:, None]
    got = project_align1d(features, rois, weight, bias)
    close(got, wanted, torch.float64)
    grad = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    leaves = (features, weight, bias)
    for a, b in zip(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True
    ):
        close(a, b, torch.float64)
    without = project_align1d(features, rois, weight)
    close(without + bias[:, None], wanted, torch.float64)


def test_gradients_are_right_to_numerical_precision() -> None:
    features, rois = example(6, torch.float64)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: align1d(x, rois, 4), (features,), fast_mode=True)
    weight = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    bias = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: project_align1d(x, rois[:, 1:], w, b),
        (features, weight.requires_grad_(), bias),
        fast_mode=True,
    )


def test_opcheck() -> None:
    features, rois = example(8)
    torch.library.opcheck(OPS.align1d, (features.requires_grad_(), rois.float(), 4, 0))
    grad = torch.ones(40, 5, 4)
    torch.library.opcheck(OPS.align1d_backward, (grad, rois.float(), 3, 17, 0))
    projected = torch.ones(2, 17, 4, 6, requires_grad=True)
    torch.library.opcheck(OPS.sum_aligned1d, (projected, rois[:, 1:].float(), 0))
    torch.library.opcheck(OPS.sum_aligned1d_backward, (torch.ones(2, 40, 6), rois[:, 1:].float(), 4, 17, 0))


def test_compiles_without_graph_breaks() -> None:
    features, rois = example(9)
    weight, bias = torch.ones(3, 5, 4), torch.ones(3)
    both = torch.compile(
        lambda x: (align1d(x, rois, 4), project_align1d(x, rois[:, 1:], weight, bias)),
        backend="aot_eager",
        fullgraph=True,
    )
    assert torch.equal(both(features)[0], align1d(features, rois, 4))
    assert torch.equal(both(features)[1], project_align1d(features, rois[:, 1:], weight, bias))


def test_autocast_projects_in_the_lower_precision() -> None:
    features, rois = example(10)
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(11), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = project_align1d(features, rois[:, 1:], weight)
    assert got.dtype == torch.bfloat16
    close(got.float(), project_align1d(features, rois[:, 1:], weight).detach(), torch.bfloat16)
    got.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_non_contiguous_features_and_rois() -> None:
    features, rois = example(12)
    turned = features.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    wide = torch.cat([rois, rois], 1)[:, :3]
    assert torch.equal(align1d(turned, wide, 4), align1d(features, rois, 4))


def test_no_rois_and_no_videos() -> None:
    none = torch.zeros(0, 3)
    features = torch.ones(2, 5, 4, requires_grad=True)
    assert align1d(features, none, 8).shape == (0, 5, 8)
    align1d(features, none, 8).sum().backward()
    assert features.grad is not None and not features.grad.any()
    assert align1d(torch.ones(0, 5, 4), none, 8).shape == (0, 5, 8)
    weight = torch.ones(6, 5, 3, requires_grad=True)
    assert project_align1d(torch.ones(0, 5, 4), torch.zeros(3, 2), weight).shape == (0, 6, 3)
    empty = project_align1d(features, none[:, 1:], weight)
    assert empty.shape == (2, 6, 0)
    empty.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("batch", [-1, 3])
def test_a_roi_of_a_video_that_is_not_there(batch: int) -> None:
    features, table = torch.ones(3, 2, 4), torch.tensor([[batch, 0, 3]])
    for call in (align1d, lambda x, r, s: reference_align1d(x, r, s, 0)):
        with pytest.raises(IndexError, match="3"):
            call(features, table, 2)


@pytest.mark.parametrize(
    "bounds", [(float("nan"), 1.0), (0.0, float("inf")), (float("-inf"), 0.0), (0.0, 2.0**25)]
)
def test_a_roi_without_bounds_is_refused(bounds: tuple[float, float]) -> None:
    features, table = torch.ones(1, 2, 4), torch.tensor([[0.0, *bounds]])
    calls = [
        lambda: align1d(features, table, 2),
        lambda: reference_align1d(features, table, 2, 0),
        lambda: project_align1d(features, table[:, 1:], torch.ones(3, 2, 2)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="rois must be finite and at most 2"):
            call()


BAD_ROIS: list[tuple[dict[str, Any], str]] = [
    ({"features": torch.ones(2, 4)}, "features"),
    ({"features": torch.ones(1, 2, 0)}, "features"),
    ({"features": torch.ones(1, 2, 4, dtype=torch.int64)}, "features"),
    ({"rois": torch.ones(1, 5)}, "rois"),
    ({"rois": torch.ones(1, 3, dtype=torch.bool)}, "rois"),
    ({"rois": torch.ones(1, 3, device="meta")}, "rois"),
    ({"sampling_ratio": -1}, "sampling_ratio"),
]


@pytest.mark.parametrize(("changes", "named"), [*BAD_ROIS, ({"output_size": 0}, "output_size")])
def test_bad_alignment_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    good = {"features": torch.ones(1, 2, 4), "rois": torch.zeros(1, 3), "output_size": 2, "sampling_ratio": 0}
    with pytest.raises(ValueError, match=named):
        align1d(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *BAD_ROIS,
        ({"weight": torch.ones(3, 2)}, "weight"),
        ({"weight": torch.ones(3, 5, 4)}, "weight"),
        ({"weight": torch.ones(3, 2, 0)}, "weight"),
        ({"weight": torch.ones(3, 2, 4, dtype=torch.int32)}, "weight"),
        ({"bias": torch.ones(2)}, "bias"),
    ],
)
def test_bad_projection_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    good = {"features": torch.ones(1, 2, 4), "rois": torch.zeros(1, 2), "weight": torch.ones(3, 2, 4)}
    with pytest.raises(ValueError, match=named):
        project_align1d(**(good | changes))


@compiled
def test_the_kernels_check_what_torch_ops_gets_directly() -> None:
    with pytest.raises(RuntimeError, match="rois must be"):
        OPS.align1d(torch.ones(1, 2, 4), torch.ones(1, 2), 2, 0)
    with pytest.raises(RuntimeError, match="sampling_ratio"):
        OPS.align1d(torch.ones(1, 2, 4), torch.ones(1, 3), 2, -1)
    with pytest.raises(RuntimeError, match="grad must have one row"):
        OPS.align1d_backward(torch.ones(2, 2, 4), torch.zeros(1, 3), 1, 4, 0)
    with pytest.raises(RuntimeError, match="projected must be"):
        OPS.sum_aligned1d(torch.ones(1, 2, 4), torch.ones(1, 2), 0)
    with pytest.raises(RuntimeError, match="slots and frames"):
        OPS.sum_aligned1d_backward(torch.ones(1, 2, 4), torch.ones(2, 2), 0, 4, 0)
