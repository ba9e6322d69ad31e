"""Whatever operators get on a GPU, they do as on the CPU: the same result or the same exception."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from avfusion.ops import align1d, nms1d, project_align1d, roi_max_pool1d, soft_nms1d

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
fuzzed = settings(deadline=None, max_examples=150, derandomize=True)

number = st.floats(width=32) | st.integers(-40, 200).map(float)  # NaN and infinity among them
video = st.integers(0, 2).map(float) | number
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


@pytest.fixture(autouse=True, scope="module")
def full_precision() -> Iterator[None]:
    """No TF32: the CPU has none."""
    saved = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = saved


@st.composite
def features(draw: Any) -> Tensor:
    """(B, C, T), among it nothing at all, NaN, infinity and numbers for which the next lower is not lower."""
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 60)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(shape, generator=generator)
    for odd in draw(st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e7]), max_size=3)):
        if values.numel():
            values.view(-1)[draw(st.integers(0, values.numel() - 1))] = odd
    return values.to(draw(dtypes))


def table_of(rows: list[Any], columns: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, columns)


rois = st.lists(st.tuples(video, number, number), max_size=12).map(lambda rows: table_of(rows, 3))
segments = st.lists(st.tuples(number, number), max_size=30).map(lambda rows: table_of(rows, 2))


def outcome(call: Callable[..., Tensor], device: str, *tensors: Tensor) -> tuple[type | None, list[Tensor]]:
    """The type of the exception, or output and gradient of the first tensor."""
    moved = [tensor.detach().clone().to(device) for tensor in tensors]
    moved[0].requires_grad_()
    try:
        output = call(*moved)
    except (ValueError, IndexError, TypeError) as error:
        return type(error), []
    output.backward(torch.ones_like(output))
    assert moved[0].grad is not None
    return None, [output.detach(), moved[0].grad]


def same_as_on_the_cpu(call: Callable[..., Tensor], *tensors: Tensor) -> None:
    wanted, there = outcome(call, "cpu", *tensors), outcome(call, DEVICE, *tensors)
    assert there[0] == wanted[0]
    for got, value in zip(there[1], wanted[1], strict=True):
        step = 1e-4 if value.dtype in (torch.float32, torch.float64) else 0.05
        finite = value[value.isfinite()].abs()
        scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
        torch.testing.assert_close(got.cpu(), value, rtol=step, atol=step * scale, equal_nan=True)


@fuzzed
@given(features(), rois, st.integers(1, 20), st.sampled_from([0.125, 1.0, 3.7]))
def test_pooling(x: Tensor, table: Tensor, bins: int, scale: float) -> None:
    same_as_on_the_cpu(lambda y, r: roi_max_pool1d(y, r, bins, scale), x, table)
    if len(x):  # without looking at the rois first: anything, but no illegal access
        roi_max_pool1d(
            x.to(DEVICE).requires_grad_(), table.to(DEVICE), bins, scale, check_rois=False
        ).sum().backward()
        torch.cuda.synchronize()


@fuzzed
@given(features(), rois, st.integers(1, 20), st.integers(0, 3))
def test_alignment(x: Tensor, table: Tensor, bins: int, ratio: int) -> None:
    x = x.nan_to_num(0, 1, -1)
    same_as_on_the_cpu(lambda y, r: align1d(y, r, bins, ratio), x, table)
    if len(x):
        align1d(
            x.to(DEVICE).requires_grad_(), table.to(DEVICE), bins, ratio, check_rois=False
        ).sum().backward()
        torch.cuda.synchronize()


@fuzzed
@given(features(), segments, st.integers(1, 9), st.integers(0, 40))
def test_projection(x: Tensor, table: Tensor, bins: int, outputs: int) -> None:
    x = x.nan_to_num(0, 1, -1)
    weight = torch.randn(outputs, x.shape[1], bins, generator=torch.Generator().manual_seed(1)).to(x)
    same_as_on_the_cpu(project_align1d, x, table, weight)


@fuzzed
@given(segments, st.data())
def test_suppression(table: Tensor, data: Any) -> None:
    """Kept are the same segments, or both refuse them."""
    scores = torch.tensor(data.draw(st.lists(number, min_size=len(table), max_size=len(table))))
    groups = torch.tensor(
        data.draw(st.lists(st.integers(0, 2), min_size=len(table), max_size=len(table))), dtype=torch.long
    )

    def both(call: Callable[..., Any]) -> list[Any]:
        results: list[Any] = []
        for device in ("cpu", DEVICE):
            try:
                results.append(call(table.to(device), scores.to(device), groups.to(device)))
            except ValueError:
                results.append(ValueError)
        return results

    here, there = both(lambda s, c, g: nms1d(s, c, 0.4, g))
    assert here is there is ValueError or torch.equal(there.cpu(), here)
    here, there = both(lambda s, c, g: soft_nms1d(s, c, groups=g).kept)
    assert here is there is ValueError or len(there) == len(here)


@fuzzed
@given(
    st.data(),
    st.sampled_from(["dtype", "device", "dimension", "size"]),
    st.sampled_from([roi_max_pool1d, align1d, project_align1d, nms1d]),
)
def test_wrong_arguments(data: Any, wrong: str, operator: Callable[..., Tensor]) -> None:
    """A Python exception, and the GPU goes on working."""
    x = torch.ones(2, 3, 9, device=DEVICE)
    arguments: list[Any] = {
        roi_max_pool1d: [x, torch.zeros(4, 3, device=DEVICE), 4, 1.0],
        align1d: [x, torch.zeros(4, 3, device=DEVICE), 4],
        project_align1d: [x, torch.zeros(4, 2, device=DEVICE), torch.ones(5, 3, 4, device=DEVICE)],
        nms1d: [torch.zeros(4, 2, device=DEVICE), torch.ones(4, device=DEVICE), 0.5],
    }[operator]
    tensors = [k for k, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    k = data.draw(st.sampled_from(tensors))
    tensor: Tensor = arguments[k]
    arguments[k] = {
        "dtype": lambda: tensor.to(torch.complex64),
        "device": lambda: tensor.cpu(),
        "dimension": lambda: tensor[None] if data.draw(st.booleans()) else tensor[0],
        "size": lambda: torch.cat([tensor, tensor[..., :1]], -1),
    }[wrong]()
    if wrong == "size" and operator is not nms1d and k != 1:
        operator(*arguments)  # one frame more is as good, or one bin
        return
    with pytest.raises((ValueError, TypeError, IndexError)):
        operator(*arguments)
    assert float((x * 2).sum()) == 108
