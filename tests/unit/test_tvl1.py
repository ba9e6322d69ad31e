"""avfusion.ops.tvl1_flow: the compiled kernels against plain torch, what moves, options and bad input."""

import ctypes
import itertools
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfusion.ops import TVL1Options, extension_status, tvl1_flow
from avfusion.ops.tvl1 import SCHEMA, _arguments, _median, reference_tvl1_flow

compiled = pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
with_cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and extension_status().cuda), reason="needs the CUDA kernels and a GPU"
)
ROOT = Path(__file__).parents[2]
ONE_LEVEL = TVL1Options(scales=1, warps=1)


def frames(count: int = 2, height: int = 40, width: int = 52, seed: int = 0) -> Tensor:
    """A blurred texture that moves right by a pixel and up by half a pixel per frame; not periodic."""
    rng = np.random.RandomState(seed)
    waves = rng.uniform(-0.6, 0.6, (24, 2))
    phases = rng.uniform(0, 2 * np.pi, 24)
    y, x, t = np.mgrid[:height, :width, :count].transpose(0, 3, 1, 2)
    values = sum(np.sin(a * (x - t) + b * (y + t / 2) + c) for (a, b), c in zip(waves, phases, strict=True))
    return torch.from_numpy(np.clip(128 + 18 * values, 0, 255).astype(np.uint8, order="C"))


def assert_equals_plain_torch(images: Tensor, options: TVL1Options) -> Tensor:
    """To the last bit: a rounding that differed would be amplified by the warps, differently by machine."""
    given = images[:-1], images[1:]
    flow = tvl1_flow(*given, options)
    assert torch.equal(flow, reference_tvl1_flow(*given, *_arguments(options)))
    return flow


def test_finds_the_motion() -> None:
    images = frames(3, 64, 80)
    inner = tvl1_flow(images[:-1], images[1:])[:, 8:-8, 8:-8]
    error = (inner - torch.tensor([1.0, -0.5])).norm(dim=-1)
    assert error.mean() < 0.05


def test_equal_images_have_no_flow() -> None:
    images = frames(1)
    assert tvl1_flow(images, images).abs().max() == 0


@compiled
@pytest.mark.parametrize("epsilon", [1.0, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.0])
def test_iterations_end_where_those_of_plain_torch_do(epsilon: float) -> None:
    images = frames(4, seed=1)
    for options in (replace(ONE_LEVEL, epsilon=epsilon), replace(ONE_LEVEL, epsilon=epsilon, median=1)):
        assert_equals_plain_torch(images, options)


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (16, 16), (17, 31), (20, 33), (70, 21)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    images = torch.from_numpy(np.random.RandomState(2).randint(0, 256, (2, *size)).astype(np.uint8))
    assert_equals_plain_torch(images, TVL1Options(outer=2))


@compiled
@pytest.mark.parametrize(
    "options",
    [
        TVL1Options(),
        TVL1Options(epsilon=0.1),
        TVL1Options(tau=0.1, weight=0.3, theta=0.5),
        TVL1Options(scales=3, scale_step=0.5, outer=1),
        TVL1Options(scales=1, warps=3, inner=1, outer=3),
        TVL1Options(scales=2, inner=7, outer=2, median=1),
    ],
)
def test_options_mean_the_same_in_plain_torch(options: TVL1Options) -> None:
    flow = assert_equals_plain_torch(frames(2, 64, 80), options)
    assert flow.abs().max() > 0.1


@compiled
def test_neither_batch_nor_threads_change_a_pair() -> None:
    images = torch.cat([frames(3), frames(3, seed=5)])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = tvl1_flow(images[:-1], images[1:])
        torch.set_num_threads(1)
        alone = torch.cat([tvl1_flow(a[None], b[None]) for a, b in itertools.pairwise(images)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)


@compiled
def test_a_view_is_read_as_it_is() -> None:
    images = frames(2, 40, 104)[..., ::2]
    assert torch.equal(
        tvl1_flow(images[:1], images[1:]), tvl1_flow(images[:1].contiguous(), images[1:].contiguous())
    )


@compiled
def test_the_median_is_that_of_25_pixels() -> None:
    # With one iteration that hardly moves, the result is the median of the coarser level's enlarged flow.
    images = frames(2, 64, 80)
    still = TVL1Options(weight=1e-12, scales=1, warps=2, inner=3, outer=2)
    assert tvl1_flow(images[:1], images[1:], still).abs().max() < 1e-6
    flow = torch.from_numpy(np.random.RandomState(0).randn(1, 2, 9, 11).astype(np.float32))
    padded = np.pad(flow[0, 0].numpy(), 2, mode="edge")
    expected = [[np.median(padded[y : y + 5, x : x + 5]) for x in range(11)] for y in range(9)]
    assert np.array_equal(_median(flow)[0, 0].numpy(), np.array(expected, np.float32))


def test_no_pairs() -> None:
    empty = torch.empty((0, 20, 30), dtype=torch.uint8)
    assert tvl1_flow(empty, empty).shape == (0, 20, 30, 2)
    assert reference_tvl1_flow(empty, empty, *_arguments(TVL1Options())).shape == (0, 20, 30, 2)


def test_registration() -> None:
    assert str(torch.ops.avfusion.tvl1_flow.default._schema) == f"avfusion::{SCHEMA}"
    images = frames()
    torch.library.opcheck(
        torch.ops.avfusion.tvl1_flow.default,
        (images[:1], images[1:], *_arguments(ONE_LEVEL)),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_bad_images() -> None:
    images = frames()
    with pytest.raises(ValueError, match=r"first must be uint8 \(N, H, W\), not torch.float32 \(1, 40, 52\)"):
        tvl1_flow(images[:1].float(), images[1:].float())
    with pytest.raises(ValueError, match=r"first must be uint8 \(N, H, W\), not torch.uint8 \(40, 52\)"):
        tvl1_flow(images[0], images[1])
    with pytest.raises(ValueError, match=r"second must be .* as first, not torch.uint8 \(1, 40, 51\) on cpu"):
        tvl1_flow(images[:1], images[1:, :, 1:])


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("tau", 0.0, "must be positive, not 0.0"),
        ("weight", -1.0, "must be positive, not -1.0"),
        ("theta", 0.0, "must be positive, not 0.0"),
        ("scales", 0, "must be 1 to 32, not 0"),
        ("warps", 0, "must be at least 1, not 0"),
        ("inner", 0, "must be at least 1, not 0"),
        ("outer", 0, "must be at least 1, not 0"),
        ("epsilon", -0.1, "must not be negative, but is -0.1"),
        ("scale_step", 1.0, "must lie within 0 and 1, not be 1.0"),
        ("median", 3, "must be 5, or 1 for none, not 3"),
    ],
)
def test_bad_options(name: str, value: float, problem: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: {problem}"):
        TVL1Options(**{name: value})


@compiled
def test_the_operator_itself_refuses_what_would_not_work() -> None:
    images, arguments = frames(), list(_arguments(TVL1Options()))
    operator = torch.ops.avfusion.tvl1_flow
    with pytest.raises(RuntimeError, match="images must be uint8"):
        operator(images[:1].float(), images[1:].float(), *arguments)
    with pytest.raises(RuntimeError, match="median is over 1 or 5"):
        operator(images[:1], images[1:], *arguments[:-1], 3)


# --- CUDA


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The code of the CUDA kernel, compiled for a team of one thread of the CPU."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("team") / "team.so"
    include = Path(torch.__file__).parent / "include"
    source = ROOT / "tests" / "native" / "tvl1_team.cpp"
    options = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", f"-I{include}"]
    subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def by_team(team: ctypes.CDLL, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Tensor:
    flow = np.empty((*first.shape, 2), np.float32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (first, second, flow)]
    team.tvl1_team(*pointers[:2], *first.shape, pointers[2])
    return torch.from_numpy(flow)


@compiled
@pytest.mark.parametrize("size", [(64, 80), (40, 52), (19, 70)])
def test_code_of_the_cuda_kernel_equals_that_of_the_cpu(team: ctypes.CDLL, size: tuple[int, int]) -> None:
    images = frames(2, *size, seed=3)
    expected = tvl1_flow(images[:1], images[1:])[0]
    assert torch.equal(by_team(team, images[0].numpy(), images[1].numpy()), expected)


@with_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("size", [(64, 80), (256, 340), (19, 70), (1, 40)])
def test_cuda_equals_cpu(size: tuple[int, int]) -> None:
    images = torch.cat([frames(4, *size, seed=3), frames(3, *size, seed=4)])
    flow = tvl1_flow(images[:-1].cuda(), images[1:].cuda()).cpu()
    expected = tvl1_flow(images[:-1], images[1:])
    # Equal but for the order of a sum in float64 and float32, which may move the end of the iterations.
    difference = (flow - expected).abs().amax((1, 2, 3))
    assert (difference == 0).sum() >= len(difference) - 1, difference
    assert (flow - expected).abs().mean() < 5e-3


@with_cuda
@pytest.mark.gpu
def test_a_pair_on_cuda_does_not_depend_on_its_batch() -> None:
    images = torch.cat([frames(40, 48, 64, seed=s) for s in range(5)]).cuda()
    together = tvl1_flow(images[:-1], images[1:])
    assert torch.equal(together[77:78], tvl1_flow(images[77:78], images[78:79]))
    assert torch.equal(together, tvl1_flow(images[:-1], images[1:]))


@with_cuda
@pytest.mark.gpu
def test_cuda_splits_a_batch_that_is_too_large() -> None:
    images = frames(9, 1080, 1920, seed=1).cuda()  # work space for few pairs at a time
    options = TVL1Options(scales=2, warps=1, inner=3, outer=1)
    together = tvl1_flow(images[:-1], images[1:], options)
    assert torch.equal(together[-1:], tvl1_flow(images[-2:-1], images[-1:], options))
