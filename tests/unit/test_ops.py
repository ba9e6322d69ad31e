"""avfusion.ops: compiled kernels against plain torch, gradients, registration, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avfusion.evaluation.segments import segment_iou
from avfusion.ops import (
    _extension,
    extension_status,
    iou1d,
    merge_branches,
    msta_conv1d,
    nms1d,
    roi_max_pool1d,
)
from avfusion.ops._extension import register
from avfusion.ops.msta import LONG, branch_taps
from avfusion.ops.msta_tiles import convolve_on_cpu
from avfusion.ops.nms import reference_nms1d
from avfusion.ops.roi_pool import reference_roi_max_pool1d, reference_roi_max_pool1d_backward
from avfusion.ops.tiled_conv import reference_tiled_conv1d, tiled_conv1d

compiled = pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
MUSES_BRANCHES: dict[str, Any] = {"kernel_sizes": [(1, 3), (3, 3), (3, 3), (3, 3)], "units": [3, 3, 6, 9]}


def example(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Features and rois, some of which begin before, end after, or end before they begin."""
    rng = np.random.RandomState(seed)
    features = torch.from_numpy(rng.standard_normal((3, 5, 17))).to(dtype)
    start = rng.randint(-20, 150, 40)
    rois = np.stack([rng.randint(0, 3, 40), start, start + rng.randint(-3, 80, 40)], 1)
    return features, torch.from_numpy(rois)


# --- roi_max_pool1d


def test_bins_of_a_whole_number_of_steps() -> None:
    features = torch.arange(8.0).reshape(1, 1, 8)
    pooled = roi_max_pool1d(features, torch.tensor([[0, 0, 63]]), 4, 0.125)
    assert pooled.tolist() == [[[1.0, 3.0, 5.0, 7.0]]]


def test_neighbouring_bins_share_a_step_that_both_touch() -> None:
    features = torch.tensor([[[0.0, 9.0, 0.0]]])
    assert roi_max_pool1d(features, torch.tensor([[0, 0, 2]]), 2, 1.0).tolist() == [[[9.0, 9.0]]]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "scale"), [(8, 0.125), (5, 1.0), (3, 0.3), (1, 0.125)])
def test_compiled_pooling_equals_the_reference(dtype: torch.dtype, size: int, scale: float) -> None:
    features, rois = example(1, dtype)
    got = torch.ops.avfusion.roi_max_pool1d(features, rois, size, scale)
    wanted = reference_roi_max_pool1d(features, rois, size, scale)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    grad = torch.randn(got[0].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    backward = torch.ops.avfusion.roi_max_pool1d_backward(grad, got[1], rois, scale, 3, 17)
    assert torch.equal(backward, reference_roi_max_pool1d_backward(grad, got[1], rois, scale, 3, 17))


finite = st.floats(-(2.0**90), 2.0**90, width=32) | st.integers(-40, 200).map(float)
anything = finite | st.sampled_from([float("nan"), float("inf"), float("-inf")])


@compiled
@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 1), anything, anything), max_size=4),
    st.integers(1, 9),
    st.integers(1, 12),
)
def test_any_roi_gives_the_same_compiled_and_in_plain_torch(rois: list[Any], size: int, frames: int) -> None:
    features = torch.randn(2, 3, frames, generator=torch.Generator().manual_seed(frames))
    table = torch.tensor(rois, dtype=torch.float32).reshape(-1, 3)
    got = torch.ops.avfusion.roi_max_pool1d(features, table, size, 0.125)
    wanted = reference_roi_max_pool1d(features, table, size, 0.125)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


def test_pooling_gradient_is_right_to_numerical_precision() -> None:
    features, rois = example(3, torch.float64)
    rois = rois[rois[:, 2] >= rois[:, 1]]  # the published gradient of a malformed roi is not its derivative
    assert torch.autograd.gradcheck(
        lambda x: roi_max_pool1d(x, rois, 4, 0.125), (features.requires_grad_(),), fast_mode=True
    )


def test_non_contiguous_features_and_rois() -> None:
    features, rois = example(4)
    turned = features.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    wide = torch.cat([rois, rois], 1)[:, :3]
    assert torch.equal(roi_max_pool1d(turned, wide, 4, 0.125), roi_max_pool1d(features, rois, 4, 0.125))


def test_no_rois_and_no_videos() -> None:
    none = torch.zeros(0, 3)
    assert roi_max_pool1d(torch.ones(2, 5, 4, requires_grad=True), none, 8, 1.0).shape == (0, 5, 8)
    assert roi_max_pool1d(torch.ones(0, 5, 4), none, 8, 1.0).shape == (0, 5, 8)


@pytest.mark.parametrize("batch", [-1, 3])
def test_a_roi_of_a_video_that_is_not_there(batch: int) -> None:
    with pytest.raises(IndexError, match="3"):
        roi_max_pool1d(torch.ones(3, 2, 4), torch.tensor([[batch, 0, 3]]), 2, 1.0)
    with pytest.raises(IndexError):
        reference_roi_max_pool1d(torch.ones(3, 2, 4), torch.tensor([[batch, 0, 3]]), 2, 1.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"features": torch.ones(2, 4)}, "features"),
        ({"features": torch.ones(1, 2, 0)}, "features"),
        ({"features": torch.ones(1, 2, 4, dtype=torch.int64)}, "features"),
        ({"rois": torch.ones(1, 2)}, "rois"),
        ({"rois": torch.ones(1, 3, dtype=torch.bool)}, "rois"),
        ({"rois": torch.ones(1, 3, device="meta")}, "rois"),
        ({"output_size": 0}, "output_size"),
        ({"spatial_scale": 0.0}, "spatial_scale"),
        ({"spatial_scale": float("nan")}, "spatial_scale"),
    ],
)
def test_bad_pooling_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    good = {"features": torch.ones(1, 2, 4), "rois": torch.ones(1, 3), "output_size": 2, "spatial_scale": 1.0}
    with pytest.raises(ValueError, match=named):
        roi_max_pool1d(**(good | changes))


@compiled
def test_the_kernels_check_what_torch_ops_gets_directly() -> None:
    ops = torch.ops.avfusion
    with pytest.raises(RuntimeError, match="rois must be"):
        ops.roi_max_pool1d(torch.ones(1, 2, 4), torch.ones(1, 2), 2, 1.0)
    with pytest.raises(RuntimeError, match="argmax"):
        ops.roi_max_pool1d_backward(
            torch.ones(1, 2, 3), torch.ones(1, 2, 4).int(), torch.zeros(1, 3), 1.0, 1, 4
        )
    with pytest.raises(RuntimeError, match="rois must be"):
        ops.roi_max_pool1d_backward(
            torch.ones(1, 2, 3), torch.ones(1, 2, 3).int(), torch.zeros(2, 3), 1.0, 1, 4
        )
    with pytest.raises(RuntimeError, match="groups"):
        ops.nms1d(torch.ones(3, 2), torch.ones(3), torch.zeros(2).long(), 0.5)
    huge = torch.full((1, 2, 3), 10**9, dtype=torch.int32)
    assert ops.roi_max_pool1d_backward(torch.ones(1, 2, 3), huge, torch.zeros(1, 3), 1.0, 1, 4).sum() == 0


def test_positions_are_left_out_where_no_gradient_is_wanted() -> None:
    features, rois = example(5)
    whole = torch.ops.avfusion.roi_max_pool1d(features, rois, 4, 0.125)
    alone = torch.ops.avfusion.roi_max_pool1d(features, rois, 4, 0.125, with_argmax=False)
    assert torch.equal(alone[0], whole[0]) and len(whole[1]) == len(rois) and not len(alone[1])


@pytest.mark.parametrize(("frames", "positions"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_positions_can_name_every_step(frames: int, positions: torch.dtype) -> None:
    features = torch.zeros(1, 1, frames)
    features[..., -1] = 1.0
    rois = torch.tensor([[0.0, 0.0, float(frames)]])
    output, argmax = torch.ops.avfusion.roi_max_pool1d(features, rois, 1, 1.0)
    assert argmax.dtype == positions and int(argmax) == frames - 1
    gradient = torch.ops.avfusion.roi_max_pool1d_backward(output, argmax, rois, 1.0, 1, frames)
    assert torch.equal(gradient, features)


# --- registration


def test_opcheck() -> None:
    features, rois = example(5)
    ops = torch.ops.avfusion
    torch.library.opcheck(ops.roi_max_pool1d, (features.requires_grad_(), rois.float(), 4, 0.125))
    output, argmax = ops.roi_max_pool1d(features.detach(), rois, 4, 0.125)
    torch.library.opcheck(ops.roi_max_pool1d_backward, (torch.ones_like(output), argmax, rois, 0.125, 3, 17))
    segments = rois[:, 1:].sort(1).values.float()
    torch.library.opcheck(ops.nms1d, (segments, torch.rand(len(rois)), rois[:, 0], 0.4))


REPORT = """
import json, torch
from avfusion.ops import _extension, extension_status, nms1d, roi_max_pool1d

def report():
    x = torch.arange(12.0).reshape(1, 2, 6).requires_grad_()
    y = roi_max_pool1d(x, torch.tensor([[0, 0, 40]]), 2, 0.125)
    y.sum().backward()
    kept = nms1d(torch.tensor([[0.0, 2.0], [0.0, 1.9], [5.0, 6.0]]), torch.tensor([0.5, 0.9, 0.1]), 0.4)
    names = ("roi_max_pool1d", "roi_max_pool1d_backward", "nms1d")
    return {
        "loaded": extension_status().loaded, "status": str(extension_status()), "output": y.tolist(),
        "gradient": x.grad.tolist(), "kept": kept.tolist(),
        "schemas": [str(getattr(torch.ops.avfusion, name).default._schema) for name in names],
    }
"""


def run_without_extension(code: str) -> str:
    environment = os.environ | {"AVFUSION_NO_EXTENSION": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@compiled
def test_without_the_extension_everything_is_the_same_but_the_status() -> None:
    namespace: dict[str, Any] = {}
    exec(REPORT, namespace)
    with_it = namespace["report"]()
    without = json.loads(run_without_extension(REPORT + "print(json.dumps(report()))"))
    assert with_it.pop("loaded") is True and without.pop("loaded") is False
    assert "AVFUSION_NO_EXTENSION" in without.pop("status") and "C++" in with_it.pop("status")
    assert with_it == without


def test_the_status_says_why_there_is_no_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "_FOLDER", tmp_path)
    monkeypatch.delenv("AVFUSION_NO_EXTENSION", raising=False)
    assert str(_extension._load()).startswith("plain torch, slower: not built; run `pip install -e")
    (tmp_path / "_C_torch199.abi3.so").touch()
    assert f"built for another torch than {torch.__version__}: _C_torch199" in str(_extension._load())
    (tmp_path / f"{_extension._NAME}.abi3.so").write_text("no library")
    assert f"{_extension._NAME}.abi3.so cannot be loaded" in str(_extension._load())


@compiled
def test_an_extension_of_another_version_is_refused() -> None:
    for schema in ("nms1d(Tensor segments) -> Tensor", "nms2d(Tensor segments) -> Tensor"):
        with pytest.raises(ImportError, match=r"built from other sources .* run `pip install -e"):
            register(schema, reference_nms1d, reference_nms1d)


@compiled
@pytest.mark.slow
def test_opcheck_without_the_extension() -> None:
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); from test_ops import test_opcheck; test_opcheck()"
    assert run_without_extension(code + "; print('passed')").strip() == "passed"


# --- nms1d and iou1d


def plain_nms(
    segments: list[list[float]], scores: list[float], groups: list[int], threshold: float
) -> list[int]:
    """The rule, one segment after the other."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(segment_iou([segments[i]], [segments[j]])[0, 0] <= threshold for j in rivals):
            kept.append(i)
    return kept


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_nms_is_greedy_per_group(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 25))
    start = data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    length = data.draw(st.lists(st.integers(0, 10), min_size=count, max_size=count))
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.5]), min_size=count, max_size=count))
    groups = data.draw(st.lists(st.integers(-1, 1), min_size=count, max_size=count))
    segments = [[float(s), float(s + n)] for s, n in zip(start, length, strict=True)]
    wanted = plain_nms(segments, scores, groups, 0.5)
    tensors = (
        torch.tensor(segments, dtype=torch.float64).reshape(-1, 2),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(groups, dtype=torch.int64),
    )
    assert nms1d(tensors[0], tensors[1], 0.5, tensors[2]).tolist() == wanted
    assert reference_nms1d(*tensors, 0.5).tolist() == wanted


def test_a_tiou_at_the_threshold_stays_and_ties_go_to_the_earlier() -> None:
    segments = torch.tensor([[0.0, 3.0], [0.0, 2.0], [1.0, 3.0]], dtype=torch.float64)  # tIoU 2/3, 2/3, 1/3
    scores = torch.tensor([0.5, 0.5, 0.5])
    assert nms1d(segments, scores, 2 / 3).tolist() == [0, 1, 2]
    assert nms1d(segments, scores, 0.66).tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"segments": torch.ones(3, 3)}, "segments"),
        ({"segments": torch.ones(3, 2, dtype=torch.int64)}, "segments"),
        ({"scores": torch.ones(2)}, "scores"),
        ({"groups": torch.ones(3)}, "groups"),
        ({"groups": torch.ones(4, dtype=torch.int64)}, "groups"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_bad_nms_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {"segments": torch.ones(3, 2), "scores": torch.ones(3), "threshold": 0.5}
    with pytest.raises(ValueError, match=named):
        nms1d(**(good | changes))


def test_iou1d_is_that_of_the_evaluation() -> None:
    rng = np.random.RandomState(0)
    a, b = (np.sort(rng.randint(0, 12, (20, 2)), 1).astype(float) for _ in range(2))
    got = iou1d(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(got.numpy(), segment_iou(a, b))
    with pytest.raises(ValueError, match="b must be"):
        iou1d(torch.from_numpy(a), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iou1d_is_the_same_with_a_gradient_and_without(dtype: torch.dtype) -> None:
    """Segments that touch, that have no length, that end before they begin; more of them than a vector."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 12, (n, 2), generator=generator).to(dtype) for n in (37, 700))
    a[:30] += torch.rand(30, 2, generator=generator, dtype=dtype)
    wide = torch.cat([b, b], 1)[:, :2]
    plain = iou1d(a.clone().requires_grad_(), wide)
    assert plain.requires_grad and torch.equal(iou1d(a, wide), plain.detach())
    assert iou1d(a.half(), b.half()).dtype == torch.float16
    traced = torch.compile(iou1d, backend="eager", fullgraph=True)
    assert torch.equal(traced(a, b), plain.detach())
    torch.library.opcheck(torch.ops.avfusion.iou1d, (a, b))
    with pytest.raises(ValueError, match="b must not be NaN"):
        iou1d(a.requires_grad_(), b * torch.nan)


# --- msta_conv1d


def test_the_four_branches_of_muses_cover_21_taps() -> None:
    taps = [branch_taps(*branch) for branch in zip(*MUSES_BRANCHES.values(), strict=True)]
    assert sorted({tap for offsets in taps for tap in offsets}) == list(range(-10, 11))
    assert taps[3] == [-10, -9, -8, -1, 0, 1, 8, 9, 10]


def test_one_convolution_equals_gathering_for_every_branch() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 13, generator=generator, dtype=torch.float64)
    weights = [torch.randn(4, 3, 1, k, generator=generator, dtype=torch.float64) for k in (3, 9, 9, 9)]
    biases = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in weights]
    wanted = torch.zeros(2, 4, 13, dtype=torch.float64)
    for weight, bias, size, unit in zip(weights, biases, *MUSES_BRANCHES.values(), strict=True):
        wanted += bias[None, :, None]
        for k, tap in enumerate(branch_taps(size, unit)):
            for t in range(13):
                if 0 <= t + tap < 13:
                    wanted[:, :, t] += features[:, :, t + tap] @ weight[:, :, 0, k].T
    torch.testing.assert_close(msta_conv1d(features, weights, biases, **MUSES_BRANCHES), wanted)


def over_frequencies_on_cpu(features: Tensor, weights: list[Tensor]) -> Tensor:
    branches = zip(MUSES_BRANCHES["kernel_sizes"], MUSES_BRANCHES["units"], strict=True)
    return convolve_on_cpu(features, weights, [tap for branch in branches for tap in branch_taps(*branch)])


def over_frequencies_merged(features: Tensor, weights: list[Tensor]) -> Tensor:
    return tiled_conv1d(features, merge_branches(weights, **MUSES_BRANCHES))


def over_frequencies_with_bias(features: Tensor, weights: list[Tensor]) -> Tensor:
    bias = torch.arange(len(weights[0])).to(features).requires_grad_()
    output = tiled_conv1d(features, merge_branches(weights, **MUSES_BRANCHES), bias)
    ones = torch.autograd.grad(output.sum(), bias, retain_graph=True)[0]
    assert torch.equal(ones, torch.full_like(bias, features.shape[0] * features.shape[2]))
    return output - bias[:, None]


def over_frequencies_in_python(features: Tensor, weights: list[Tensor]) -> Tensor:
    return reference_tiled_conv1d(features, merge_branches(weights, **MUSES_BRANCHES))


@pytest.mark.parametrize(
    "convolve",
    [
        over_frequencies_on_cpu,
        over_frequencies_merged,
        over_frequencies_with_bias,
        over_frequencies_in_python,
    ],
)
@pytest.mark.parametrize(("batch", "outputs", "frames"), [(1, 5, 21), (2, 130, 45), (3, 4, 20), (2, 3, 1)])
def test_convolving_over_frequencies_is_the_same(
    convolve: Any, batch: int, outputs: int, frames: int
) -> None:
    """Output and every gradient, in float64."""
    generator = torch.Generator().manual_seed(frames)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    features, weights = leaf(batch, 3, frames), [leaf(outputs, 3, 1, k) for k in (3, 9, 9, 9)]
    biases = [torch.zeros(outputs, dtype=torch.float64) for _ in weights]
    grad = torch.randn(batch, outputs, frames, generator=generator, dtype=torch.float64)
    tiled = convolve(features, weights)
    direct = msta_conv1d(features, weights, biases, **MUSES_BRANCHES)
    torch.testing.assert_close(tiled, direct)
    leaves = [features, *weights]
    for got, wanted in zip(
        *(torch.autograd.grad(output, leaves, grad, retain_graph=True) for output in (tiled, direct)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)
    constant = convolve(features.detach(), weights)  # as in a first layer
    for got, of in ((constant, tiled), (constant, direct)):
        ours, theirs = (torch.autograd.grad(o, weights[1], grad, retain_graph=True)[0] for o in (got, of))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("branches", [1, 4, 9])
def test_merging_taps(branches: int) -> None:
    """Against a plain sum; nine branches are more than the CUDA kernel takes."""
    sizes, units = ([(1, 3), (3, 3), (3, 1), (5, 3)] * 3)[:branches], ([1, 1, 4, 5] * 3)[:branches]
    taps = [branch_taps(size, unit) for size, unit in zip(sizes, units, strict=True)]
    weights = [torch.randn(4, 3, 1, len(offsets), dtype=torch.float64).requires_grad_() for offsets in taps]
    reach = max(abs(tap) for offsets in taps for tap in offsets)
    wanted = torch.zeros(4, 3, 2 * reach + 1, dtype=torch.float64)
    for weight, offsets in zip(weights, taps, strict=True):
        for k, tap in enumerate(offsets):
            wanted[:, :, tap + reach] += weight.detach()[:, :, 0, k]
    merged = merge_branches(weights, sizes, units)
    torch.testing.assert_close(merged.detach(), wanted)
    grads = torch.autograd.grad(merged, weights, wanted)
    for grad, offsets in zip(grads, taps, strict=True):
        assert torch.equal(grad[:, :, 0], wanted[:, :, [tap + reach for tap in offsets]])


def test_a_second_derivative_over_frequencies_is_refused() -> None:
    features = torch.randn(1, 2, 30, requires_grad=True)
    output = tiled_conv1d(features, torch.randn(3, 2, 5, requires_grad=True)).square().sum()
    with pytest.raises(RuntimeError, match=r"derivative|differentiate twice|once_differentiable"):
        torch.autograd.grad(output, features, create_graph=True)[0].sum().backward()


@pytest.mark.parametrize(("channels", "outputs", "frames"), [(16, 8, 2 * LONG), (256, 256, 30)])
def test_long_or_wide_features_are_as_accurate_and_compile_without_graph_breaks(
    channels: int, outputs: int, frames: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, channels, frames, generator=generator)
    weights = [torch.randn(outputs, channels, 1, k, generator=generator) for k in (3, 9, 9, 9)]
    biases = [torch.randn(outputs, generator=generator) for _ in weights]

    def layer(x: Tensor) -> Tensor:
        return msta_conv1d(x, weights, biases, **MUSES_BRANCHES)

    kernel = merge_branches([weight.double() for weight in weights], **MUSES_BRANCHES)
    exact = torch.nn.functional.conv1d(features.double(), kernel, sum(biases).double(), padding=10)
    assert (layer(features) - exact).abs().max() < 2e-6 * exact.abs().max()
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(features), layer(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(features).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"features": torch.ones(3, 4)}, "features"),
        ({"features": torch.ones(1, 3, 0)}, "features"),
        ({"features": torch.ones(1, 3, 4).long()}, "features"),
        ({"weights": []}, "weights"),
        ({"weights": [torch.ones(2, 4, 1, 3)]}, "weights"),
        ({"weights": [torch.ones(2, 3, 1, 3, device="meta")]}, "weights"),
        ({"biases": [torch.ones(3)]}, "biases"),
    ],
)
def test_bad_layers_are_named(changes: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {
        "features": torch.ones(1, 3, 4),
        "weights": [torch.ones(2, 3, 1, 3)],
        "biases": [torch.ones(2)],
    }
    with pytest.raises(ValueError, match=named):
        msta_conv1d(**(good | changes), kernel_sizes=[(1, 3)], units=[3])


def test_bad_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        branch_taps((2, 3), 3)
    with pytest.raises(ValueError, match=r"\(O, C, 1, 9\)"):
        merge_branches([torch.ones(4, 3, 1, 3)], [(3, 3)], [3])


def test_pooling_compiles_without_graph_breaks() -> None:
    features, rois = example(6)
    compiled_pool = torch.compile(roi_max_pool1d, backend="eager", fullgraph=True)
    wanted = roi_max_pool1d(features, rois, 4, 0.125)
    assert torch.equal(compiled_pool(features, rois, 4, 0.125), wanted)
