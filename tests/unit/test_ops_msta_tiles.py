"""msta_conv1d over frequencies on the CPU: compiled products against plain torch, accuracy, registration."""

from typing import Any

import pytest
import torch
from torch import Tensor

from avfusion.ops import extension_status, msta_conv1d
from avfusion.ops.msta import branch_taps
from avfusion.ops.msta_tiles import (
    TILE,
    convolve_on_cpu,
    reference_products,
    reference_products_backward,
)

compiled = pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
OPS = torch.ops.avfusion
MUSES = [((1, 3), 3), ((3, 3), 3), ((3, 3), 6), ((3, 3), 9)]
OTHER = [((1, 1), 1), ((1, 5), 2), ((5, 3), 4)]  # branches of 1, 5 and 15 taps, up to 9 away
NARROW = [((1, 3), 1)]  # a number of frequencies that is odd


def layer(
    branches: list[Any], outputs: int, channels: int, dtype: torch.dtype, seed: int = 0
) -> tuple[list[Tensor], list[int]]:
    """Weights of every branch, and the taps of all."""
    generator = torch.Generator().manual_seed(seed)
    taps = [branch_taps(size, unit) for size, unit in branches]
    weights = [torch.randn(outputs, channels, 1, len(t), generator=generator, dtype=dtype) for t in taps]
    return weights, [tap for offsets in taps for tap in offsets]


def problem(
    branches: list[Any], outputs: int, channels: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor], list[int], int]:
    """Planes of features, gradients of products, and what the operators take with them."""
    weights, taps = layer(branches, outputs, channels, dtype)
    steps = TILE + 2 * max(abs(tap) for tap in taps)
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(3 * steps // 2 - 1, channels, 7, generator=generator, dtype=dtype)
    grad = torch.randn(len(planes), outputs, 7, generator=generator, dtype=dtype)
    return planes, grad, weights, taps, steps


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("branches", [MUSES, OTHER, NARROW])
@pytest.mark.parametrize(("outputs", "channels"), [(3, 5), (70, 300), (33, 64), (1, 1)])
def test_compiled_products_equal_the_reference(
    branches: list[Any], outputs: int, channels: int, dtype: torch.dtype
) -> None:
    planes, grad, weights, taps, steps = problem(branches, outputs, channels, dtype)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]

    def close(got: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))

    close(OPS.msta_products(planes, weights, taps, steps), reference_products(planes, weights, taps, steps))
    got = OPS.msta_products_backward(grad, planes, weights, taps, steps, True)
    wanted = reference_products_backward(grad, planes, weights, taps, steps, True)
    close(got[0], wanted[0])
    for ours, theirs in zip(got[1], wanted[1], strict=True):
        close(ours, theirs)
    without, same = OPS.msta_products_backward(grad, planes, weights, taps, steps, False)
    assert not without.numel() and all(map(torch.equal, same, got[1]))


@pytest.mark.parametrize("branches", [MUSES, OTHER, NARROW])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, TILE), (3, 2 * TILE + 5)])
def test_derivatives_are_right_to_numerical_precision(branches: list[Any], batch: int, frames: int) -> None:
    weights, taps = layer(branches, 2, 3, torch.float64)
    features = torch.randn(batch, 3, frames, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = (features.requires_grad_(), *(weight.requires_grad_() for weight in weights))
    assert torch.autograd.gradcheck(lambda x, *w: convolve_on_cpu(x, w, taps), leaves, fast_mode=True)


def test_gradients_of_a_layer_of_muses_are_accurate_in_float32() -> None:
    """Against float64, by the direct way."""
    generator = torch.Generator().manual_seed(3)
    weights, taps = layer(MUSES, 48, 256, torch.float32)
    features = torch.randn(1, 256, 700, generator=generator)
    grad = torch.randn(1, 48, 700, generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (features, *weights)]
        if dtype == torch.float32:
            output = convolve_on_cpu(leaves[0], leaves[1:], taps)
        else:
            kernel = torch.zeros(48, 256, 21, dtype=dtype)
            place = torch.tensor(taps) + 10
            kernel = kernel.index_add(2, place, torch.cat([weight.squeeze(2) for weight in leaves[1:]], 2))
            output = torch.nn.functional.conv1d(leaves[0], kernel, padding=10)
        results.append([output, *torch.autograd.grad(output, leaves, grad.to(dtype))])
    for got, exact in zip(*results, strict=True):
        assert (got - exact).abs().max() < 2e-6 * exact.abs().max()


def test_gradients_compile_without_graph_breaks() -> None:
    weights, _ = layer(MUSES, 4, 5, torch.float32)
    parameters = [weight.requires_grad_() for weight in weights]
    biases = [torch.zeros(4) for _ in weights]
    sizes, units = [size for size, _ in MUSES], [unit for _, unit in MUSES]
    features = torch.randn(1, 5, 500, generator=torch.Generator().manual_seed(4))

    def forward(x: Tensor) -> Tensor:
        return msta_conv1d(x, parameters, biases, sizes, units)

    gradients = [
        torch.autograd.grad(call(features).square().sum(), parameters)
        for call in (forward, torch.compile(forward, backend="aot_eager", fullgraph=True))
    ]
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager)


def test_opcheck() -> None:
    planes, grad, weights, taps, steps = problem(MUSES, 4, 5, torch.float32)
    torch.library.opcheck(OPS.msta_products, (planes, weights, taps, steps))
    for features in (True, False):
        torch.library.opcheck(OPS.msta_products_backward, (grad, planes, weights, taps, steps, features))


@compiled
def test_nothing_is_no_error() -> None:
    for outputs, channels in ((0, 5), (4, 0)):
        planes, grad, weights, taps, steps = problem(MUSES, outputs, channels, torch.float32)
        assert not OPS.msta_products(planes, weights, taps, steps).any()
        got = OPS.msta_products_backward(grad, planes, weights, taps, steps, True)
        assert got[0].shape == planes.shape and not got[0].any()
        assert [part.shape for part in got[1]] == [weight.shape for weight in weights]


@compiled
def test_the_kernels_check_what_torch_ops_gets_directly() -> None:
    planes, grad, weights, taps, steps = problem(MUSES, 4, 5, torch.float32)
    for named, arguments in (
        ("steps must be even", (planes, weights, taps, steps + 1)),
        ("taps must be nearer", (planes[:26], weights, taps, 18)),
        ("planes must be", (planes[1:], weights, taps, steps)),
        ("planes must be float", (planes.half(), weights, taps, steps)),
        ("weights must be one", (planes, [], taps, steps)),
        ("weights must be", (planes[:, 1:], weights, taps, steps)),
        ("weights must be Float", (planes, [weight.double() for weight in weights], taps, steps)),
        ("taps must be one", (planes, weights, taps[1:], steps)),
    ):
        with pytest.raises(RuntimeError, match=named):
            OPS.msta_products(*arguments)
    with pytest.raises(RuntimeError, match="grad must be"):
        OPS.msta_products_backward(grad[1:], planes, weights, taps, steps, True)
