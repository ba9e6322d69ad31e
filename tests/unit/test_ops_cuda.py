"""avfusion.ops on a GPU: the same as on the CPU, for every operator. Needs torch, numpy and pytest only."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from avfusion.ops import (
    align1d,
    extension_status,
    iou1d,
    merge_branches,
    msta_conv1d,
    nms1d,
    project_align1d,
    roi_max_pool1d,
    soft_nms1d,
    vote1d,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
OPS = torch.ops.avfusion
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """No TF32: the CPU has none."""
    saved = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = saved


def close(got: Tensor, wanted: Tensor) -> None:
    step = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[
        wanted.dtype
    ]
    assert got.is_cuda
    torch.testing.assert_close(
        got.cpu(), wanted, rtol=step, atol=step * float(wanted.abs().max().clamp(min=1))
    )


def rois_and_features(
    channels: int, frames: int = 70, count: int = 90, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Features (3, channels, frames); rois within, around, outside, reversed; in steps."""
    generator = torch.Generator().manual_seed(channels + frames)
    features = torch.randn(3, channels, frames, generator=generator, dtype=torch.float64).to(dtype)
    start = torch.randint(-20, frames + 10, (count,), generator=generator) / 2
    length = torch.randint(-6, 2 * frames, (count,), generator=generator) / 2
    video = torch.randint(0, 3, (count,), generator=generator)
    return features, torch.stack([video, start, start + length], 1)


def differentiate(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output))]


def both(compute: Any, *leaves: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of `compute(device, *leaves)` on the CPU and on the GPU."""
    here = [leaf.detach().requires_grad_() for leaf in leaves]
    there = [leaf.detach().cuda().requires_grad_() for leaf in leaves]
    return differentiate(compute("cpu", *here), here), differentiate(compute("cuda", *there), there)


def test_the_extension_has_cuda_kernels() -> None:
    assert extension_status().cuda, str(extension_status())
    for name in (
        *("roi_max_pool1d", "roi_max_pool1d_backward", "align1d", "align1d_backward", "sum_aligned1d"),
        *("sum_aligned1d_backward", "merge_taps", "split_taps", "nms1d", "soft_nms1d", "vote1d"),
    ):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"avfusion::{name}", "CUDA"), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("channels", "bins", "scale"),
    [(5, 8, 0.5), (64, 4, 0.3), (33, 5, 1.0), (513, 1, 0.5), (40, 12, 0.5), (9, 13, 0.2)],
)
def test_roi_max_pool1d_sanitizer(dtype: torch.dtype, channels: int, bins: int, scale: float) -> None:
    features, rois = rois_and_features(channels, dtype=dtype)
    here = OPS.roi_max_pool1d(features, rois, bins, scale)
    there = OPS.roi_max_pool1d(features.cuda(), rois.cuda(), bins, scale)
    assert torch.equal(there[0].cpu(), here[0]) and torch.equal(there[1].cpu(), here[1])
    alone = OPS.roi_max_pool1d(features.cuda(), rois.cuda(), bins, scale, with_argmax=False)
    assert torch.equal(alone[0], there[0]) and not len(alone[1])
    cpu, cuda = both(lambda d, x: roi_max_pool1d(x, rois.to(d), bins, scale), features)
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("with_argmax", [True, False])
def test_nan_and_infinity_are_pooled_as_on_the_cpu(with_argmax: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(1, 33, 40, generator=generator)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    place = torch.randint(0, features.numel(), (300,), generator=generator)
    features.view(-1)[place] = odd[torch.randint(0, 4, (300,), generator=generator)]
    rois = torch.tensor([[0, s, s + n] for s in range(30) for n in (1, 3, 9, 38)])
    here = OPS.roi_max_pool1d(features, rois, 3, 1.0)
    there = OPS.roi_max_pool1d(features.cuda(), rois.cuda(), 3, 1.0, with_argmax=with_argmax)
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=0, equal_nan=True)
    assert not with_argmax or torch.equal(there[1].cpu(), here[1])


def test_many_rois_of_one_video() -> None:
    """More than a block lists at once, in part the same for all steps."""
    features, rois = rois_and_features(40, frames=300, count=3_000)
    rois[:, 0], rois[:1_000, 1:] = 0, torch.tensor([0.0, 300.0])
    cpu, cuda = both(lambda d, x: roi_max_pool1d(x, rois.to(d), 8, 1.0), features[:1])
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_that_begin_anywhere_in_memory_sanitizer(dtype: torch.dtype) -> None:
    """Contiguous, but not where several numbers can be read at once."""
    features, rois = rois_and_features(40, dtype=dtype)
    output, argmax = OPS.roi_max_pool1d(features, rois, 8, 0.5)
    wanted = OPS.roi_max_pool1d_backward(output, argmax, rois, 0.5, *features.shape[::2])
    moved = [torch.cat([part.new_zeros(1), part.flatten()]).cuda()[1:] for part in (output, argmax)]
    grad, places = (part.view(output.shape) for part in moved)
    close(OPS.roi_max_pool1d_backward(grad, places, rois.cuda(), 0.5, *features.shape[::2]), wanted)


@pytest.mark.parametrize("frames", [70, 2_500, 5_000, 30_000, 40_000])
def test_features_too_long_for_shared_memory_sanitizer(frames: int) -> None:
    """70 steps have room there, 2,500 and 5,000 in some kernels or with fewer channels, 30,000 never; 40,000
    are more than int16 can name."""
    features, rois = rois_and_features(19, frames=frames)
    for compute in (
        lambda d, x: roi_max_pool1d(x, rois.to(d), 8, 0.5),
        lambda d, x: align1d(x, rois.to(d), 8),
        lambda d, x: align1d(x, rois.to(d), 40, 3),
    ):
        cpu, cuda = both(compute, features)
        for got, wanted in zip(cuda, cpu, strict=True):
            close(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "bins", "ratio"), [(5, 8, 0), (130, 16, 0), (515, 3, 2), (64, 1, 0)])
def test_align1d_sanitizer(dtype: torch.dtype, channels: int, bins: int, ratio: int) -> None:
    features, rois = rois_and_features(channels, dtype=dtype)
    cpu, cuda = both(lambda d, x: align1d(x, rois.to(d), bins, ratio), features)
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "bins", "ratio"), [(7, 4, 0), (515, 16, 0), (32, 3, 5)])
def test_project_align1d_sanitizer(dtype: torch.dtype, outputs: int, bins: int, ratio: int) -> None:
    features, rois = rois_and_features(12, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(outputs, 12, bins, generator=generator, dtype=torch.float64).to(dtype) / 8
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64).to(dtype)
    cpu, cuda = both(
        lambda d, x, w, b: project_align1d(x, rois[:, 1:].to(d), w, b, ratio), features, weight, bias
    )
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


def test_gradients_are_the_same_every_time() -> None:
    features, rois = rois_and_features(64, count=3000)
    x, table = features.cuda().requires_grad_(), rois.cuda()
    weight = torch.ones(8, 64, 4, device="cuda")
    for compute in (
        lambda: align1d(x, table, 8),
        lambda: roi_max_pool1d(x, table, 8, 0.5),
        lambda: project_align1d(x, table[:, 1:], weight),
    ):
        runs = [differentiate(compute(), [x])[1] for _ in range(3)]
        assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("bounds", [(-(2.0**23), 2.0**23), (1e30, 1e30), (-1e29, -1e29)])
def test_rois_far_outside(bounds: tuple[float, float]) -> None:
    features, table = torch.ones(1, 3, 50), torch.tensor([[0.0, *bounds]])
    close(align1d(features.cuda(), table.cuda(), 4), align1d(features, table, 4))


@pytest.mark.parametrize(
    "roi", [(0.0, float("nan"), 1.0), (0.0, 0.0, float("inf")), (-1.0, 0.0, 3.0), (2.0, 0.0, 3.0)]
)
def test_a_roi_that_the_cpu_refuses_is_refused_too_or_gives_nan(roi: tuple[float, float, float]) -> None:
    features = torch.ones(2, 3, 9, device="cuda", requires_grad=True)
    table = torch.tensor([(0.0, 1.0, 4.0), roi], device="cuda")
    missing = not 0 <= roi[0] < 2
    with pytest.raises(IndexError if missing else ValueError, match=r"rois\[1\]"):
        align1d(features, table, 4)
    aligned = align1d(features, table, 4, check_rois=False)
    assert aligned[1].isnan().all() and (aligned[0] == 1).all()
    aligned[0].sum().backward()
    if missing:
        with pytest.raises(IndexError, match=r"rois\[1\]"):
            roi_max_pool1d(features, table, 4, 1.0)
        pooled = roi_max_pool1d(features, table, 4, 1.0, check_rois=False)
        assert pooled[1].isnan().all() and (pooled[0] == 1).all()
        pooled.sum().backward()
    else:
        weight = torch.ones(1, 3, 4, device="cuda")
        with pytest.raises(ValueError, match=r"rois\[1\]"):
            project_align1d(features, table[:, 1:], weight)
        projected = project_align1d(features, table[:, 1:], weight, check_rois=False)
        assert projected[:, :, 1].isnan().all() and (projected[:, :, 0] == 12).all()
    torch.cuda.synchronize()


def test_rois_without_a_video() -> None:
    with pytest.raises(IndexError, match="rois"):
        align1d(torch.ones(0, 3, 9, device="cuda"), torch.zeros(1, 3, device="cuda"), 4)
    with pytest.raises(IndexError, match="rois"):
        roi_max_pool1d(torch.ones(0, 3, 9, device="cuda"), torch.zeros(1, 3, device="cuda"), 4, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [100, 1203])
def test_msta_conv1d(frames: int, dtype: torch.dtype) -> None:
    """Over frequencies, as full precision always is on CUDA."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 8, frames, generator=generator).to(dtype)
    sizes, units = [(1, 3), (3, 3), (3, 3), (3, 3)], [3, 3, 6, 9]
    weights = [torch.randn(6, 8, 1, k, generator=generator).to(dtype) / 8 for k in (3, 9, 9, 9)]
    biases = [torch.randn(6, generator=generator).to(dtype) for _ in weights]
    cpu, cuda = both(
        lambda d, x, *parameters: msta_conv1d(x, parameters[:4], parameters[4:], sizes, units),
        features,
        *weights,
        *biases,
    )
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


def test_msta_conv1d_by_cudnn() -> None:
    """As in TF32, but in float64, which torch.compile leaves to cuDNN."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(2, 8, 40, generator=generator, dtype=torch.float64)
    places = [0, 3, 2, 6, 4]
    weights = [torch.randn(5, 8, 1, k, generator=generator, dtype=torch.float64) for k in (3, 2)]
    biases = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in weights]
    cpu, cuda = both(
        lambda d, x, *p: OPS.msta_conv1d(x, p[:2], p[2:], places, 7, False), features, *weights, *biases
    )
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("branches", [1, 4, 9])
def test_merge_branches_sanitizer(branches: int, dtype: torch.dtype) -> None:
    """Nine are more than the kernel takes."""
    generator = torch.Generator().manual_seed(5)
    sizes, units = [(1, 3), (3, 3), (3, 1), (5, 3)] * 3, [1, 1, 4, 5] * 3
    weights = [
        torch.randn(7, 33, 1, rows * columns, generator=generator, dtype=torch.float64).to(dtype)
        for rows, columns in sizes[:branches]
    ]
    cpu, cuda = both(lambda d, *w: merge_branches(w, sizes[:branches], units[:branches]), *weights)
    for got, wanted in zip(cuda, cpu, strict=True):
        close(got, wanted)


def segments_of(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Segments on a grid of whole numbers with few different scores: many ties, many equal overlaps."""
    generator = torch.Generator().manual_seed(count)
    start = torch.randint(0, 40, (count,), generator=generator)
    length = torch.randint(0, 12, (count,), generator=generator)
    scores = torch.randint(1, 9, (count,), generator=generator) / 8
    groups = torch.randint(-2, 5, (count,), generator=generator)
    return torch.stack([start, start + length], 1).to(dtype), scores.to(dtype), groups


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 30, 4000])
def test_nms1d_decides_ties_as_the_cpu_does_sanitizer(count: int, dtype: torch.dtype) -> None:
    segments, scores, groups = segments_of(count, dtype)
    there = segments.cuda(), scores.cuda(), groups.cuda()
    for threshold in (0.0, 1 / 3, 0.5):  # tIoU that equal the threshold stay on both
        kept = nms1d(there[0], there[1], threshold, there[2])
        assert kept.cpu().tolist() == nms1d(segments, scores, threshold, groups).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 30, 2000])
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms1d_sanitizer(method: Literal["linear", "gaussian"], count: int, dtype: torch.dtype) -> None:
    """The linear rule takes the same in the same order; exp may differ in its last bit, so no order there."""
    segments, scores, groups = segments_of(count, dtype)
    here = soft_nms1d(segments, scores, method, groups=groups, min_score=0.01, voting_threshold=0.4)
    there = soft_nms1d(
        segments.cuda(), scores.cuda(), method, groups=groups.cuda(), min_score=0.01, voting_threshold=0.4
    )
    if method == "linear":
        assert there.kept.cpu().tolist() == here.kept.tolist()
        torch.testing.assert_close(there.scores.cpu(), here.scores)
        torch.testing.assert_close(there.segments.cpu(), here.segments)
    else:
        assert abs(len(there.kept) - len(here.kept)) <= count // 200
        few = min(len(here.kept), 50)
        torch.testing.assert_close(there.scores[:few].cpu(), here.scores[:few])


def test_vote1d_and_iou1d() -> None:
    segments, scores, groups = segments_of(500)
    here = vote1d(segments[:90], segments, scores, 0.3, groups[:90], groups)
    moved = vote1d(
        segments[:90].cuda(), segments.cuda(), scores.cuda(), 0.3, groups[:90].cuda(), groups.cuda()
    )
    close(moved, here)
    close(iou1d(segments.cuda(), segments[:7].cuda()), iou1d(segments, segments[:7]))


@pytest.mark.parametrize("seed", range(20))
def test_fuzz_sanitizer(seed: int) -> None:
    """Random sizes, among them none, and random rois: the same on both, or the same exception."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    batch, channels, frames, count, bins = draw(0, 3), draw(0, 140), draw(1, 40), draw(0, 200), draw(1, 20)
    features = torch.randn(batch, channels, frames, generator=generator)
    bounds = torch.randn(count, 2, generator=generator) * frames * 10 ** draw(0, 4)
    video = torch.randint(0, max(batch, 1), (count if batch else 0, 1), generator=generator)
    table = torch.cat([video, bounds[: len(video)]], 1)
    cpu, cuda = both(lambda d, x: align1d(x, table.to(d), bins), features)
    pooled_cpu, pooled_cuda = both(lambda d, x: roi_max_pool1d(x, table.to(d), bins, 0.7), features)
    weight = torch.randn(draw(0, 140), channels, bins, generator=generator)
    fused_cpu, fused_cuda = both(lambda d, x, w: project_align1d(x, bounds.to(d), w), features, weight)
    for got, wanted in zip([*cuda, *pooled_cuda, *fused_cuda], [*cpu, *pooled_cpu, *fused_cpu], strict=True):
        assert got.shape == wanted.shape
        if wanted.numel():
            close(got, wanted)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x: align1d(x, torch.zeros(1, 3), 2), "rois"),
        (lambda x: align1d(x, torch.zeros(1, 4, device="cuda"), 2), "rois"),
        (lambda x: align1d(x[0], torch.zeros(1, 3, device="cuda"), 2), "features"),
        (lambda x: roi_max_pool1d(x, torch.zeros(1, 3), 2, 1.0), "rois"),
        (lambda x: roi_max_pool1d(x, torch.zeros(1, 3, device="cuda"), 0, 1.0), "output_size"),
        (lambda x: project_align1d(x, torch.zeros(1, 2, device="cuda"), torch.ones(3, 2, 2)), "weight"),
        (lambda x: nms1d(torch.ones(3, 2, device="cuda"), torch.ones(3), 0.5), "scores"),
        (lambda x: nms1d(torch.full((3, 2), torch.nan, device="cuda"), x.flatten()[:3], 0.5), "segments"),
        (lambda x: soft_nms1d(torch.ones(3, 2, device="cuda"), x.flatten()[:2]), "scores"),
    ],
)
def test_bad_arguments_are_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call(torch.ones(1, 2, 4, device="cuda"))


def test_gradients_are_right_to_numerical_precision() -> None:
    features, rois = rois_and_features(3, frames=9, count=12, dtype=torch.float64)
    x, table = features.cuda().requires_grad_(), rois.cuda()
    whole = table[rois[:, 2] >= rois[:, 1]]
    check = torch.autograd.gradcheck
    assert check(lambda y: roi_max_pool1d(y, whole, 4, 0.5), (x,), fast_mode=True)
    assert check(lambda y: align1d(y, table, 4), (x,), fast_mode=True)
    weight = torch.ones(3, 3, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    assert check(lambda y, w: project_align1d(y, table[:, 1:], w), (x, weight), fast_mode=True)


def test_opcheck() -> None:
    features, rois = rois_and_features(5)
    x, table = features.cuda().requires_grad_(), rois.cuda()
    segments, scores, groups = (tensor.cuda() for tensor in segments_of(50))
    check = torch.library.opcheck
    taps = [torch.ones(3, 4, 1, 2, device="cuda", requires_grad=True) for _ in range(2)]
    check(OPS.merge_taps, (taps, [torch.ones(3, device="cuda", requires_grad=True)], [0, 2, 1, 2], 3))
    check(OPS.split_taps, (torch.ones(3, 4, 3, device="cuda"), [0, 2, 1, 2], [2, 2]))
    check(OPS.roi_max_pool1d, (x, table, 4, 0.5))
    output, argmax = OPS.roi_max_pool1d(x.detach(), table, 4, 0.5)
    check(OPS.roi_max_pool1d_backward, (torch.ones_like(output), argmax, table, 0.5, 3, 70))
    check(OPS.align1d, (x, table, 4, 0))
    check(OPS.align1d_backward, (torch.ones(90, 5, 4, device="cuda"), table, 3, 70, 0))
    projected = torch.ones(2, 70, 4, 6, device="cuda", requires_grad=True)
    check(OPS.sum_aligned1d, (projected, table[:, 1:], 0))
    check(OPS.sum_aligned1d_backward, (torch.ones(2, 90, 6, device="cuda"), table[:, 1:], 4, 70, 0))
    check(OPS.nms1d, (segments, scores, groups, 0.4))
    check(OPS.soft_nms1d, (segments, scores, groups, "linear", 0.1, 0.5, 0.01, 0))
    check(OPS.vote1d, (segments, groups, segments, scores, groups, 0.4))


def test_compiles_without_graph_breaks() -> None:
    features, rois = rois_and_features(5)
    x, table, weight = features.cuda(), rois.cuda(), torch.ones(3, 5, 4, device="cuda")

    def compute(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            roi_max_pool1d(y, table, 4, 0.5),
            align1d(y, table, 4),
            project_align1d(y, table[:, 1:], weight),
        )

    compiled = torch.compile(compute, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(compiled(x), compute(x), strict=True):
        assert torch.equal(got, wanted)


def test_autocast_and_streams() -> None:
    features, rois = rois_and_features(16)
    x, table, weight = features.cuda(), rois.cuda(), torch.ones(8, 16, 4, device="cuda") / 16
    wanted = project_align1d(x, table[:, 1:], weight)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got = project_align1d(x, table[:, 1:], weight)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, rtol=4e-2, atol=4e-2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # work on another stream would overtake this
        y = x * 2
        pooled, aligned = roi_max_pool1d(y, table, 4, 0.5), align1d(y, table, 4)
    stream.synchronize()
    assert torch.equal(pooled, roi_max_pool1d(x * 2, table, 4, 0.5))
    assert torch.equal(aligned, align1d(x * 2, table, 4))


def test_cuda_graphs_capture_them() -> None:
    """Nothing in them waits for the device."""
    features, rois = rois_and_features(16)
    x, table, weight = features.cuda(), rois.float().cuda(), torch.ones(8, 16, 4, device="cuda")
    wanted = align1d(x, table, 4), roi_max_pool1d(x, table, 4, 0.5), project_align1d(x, table[:, 1:], weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = align1d(x, table, 4), roi_max_pool1d(x, table, 4, 0.5), project_align1d(x, table[:, 1:], weight)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("videos", [1, 3])
@pytest.mark.parametrize("before", ["nothing", "copy", "kernel", "two streams"])
def test_pooling_is_captured_after_anything(before: str, videos: int) -> None:
    """Its kernels may begin before the previous one has ended, which a graph must know of."""
    features, rois = rois_and_features(40, frames=300, count=2_000)
    x, table = features[:videos].cuda(), rois.float().cuda()
    table[:, 0] = table[:, 0] % videos
    side = torch.cuda.Stream()

    def pooled() -> list[Tensor]:
        y = x
        if before == "copy":
            y = x.clone()
        elif before == "kernel":
            y = x * 2
        elif before == "two streams":
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                y = (x * 2).sin()
            x.cos()
            torch.cuda.current_stream().wait_stream(side)
        found: list[Tensor] = []
        for _ in range(3):
            output, argmax = OPS.roi_max_pool1d(y, table, 8, 0.5)
            y = OPS.roi_max_pool1d_backward(output, argmax, table, 0.5, *x.shape[::2])
            found += [output, argmax, y]
        return found

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = pooled()
    x.copy_(x.flip(2))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, pooled(), strict=True))
