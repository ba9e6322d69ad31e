"""RoI max pooling along time, as MUSES and P-GCN pool proposals (RoIPool of Fast R-CNN in one dimension)."""

import math
from typing import Any

import torch
from torch import Tensor

from avfusion.ops._extension import extension_status, register

FORWARD = (
    "roi_max_pool1d(Tensor features, Tensor rois, int output_size, float spatial_scale, bool check_rois=True,"
    " bool with_argmax=True) -> (Tensor output, Tensor argmax)"
)
BACKWARD = (
    "roi_max_pool1d_backward(Tensor grad, Tensor argmax, Tensor rois, float spatial_scale, SymInt batch,"
    " SymInt frames) -> Tensor"
)


def roi_max_pool1d(
    features: Tensor, rois: Tensor, output_size: int, spatial_scale: float, check_rois: bool = True
) -> Tensor:
    """Largest value of every channel in `output_size` bins of equal length per roi.

    A roi covers ``[start, end + 1)`` in its own unit (end inclusive, as for frame numbers), that is
    ``[start, end + 1) * spatial_scale`` in steps of the features. Bin k begins at the floor of its lower and
    ends at the ceiling of its upper bound, both cut to the features; neighbouring bins may share a step.
    A bin without a step gives 0 and no gradient. Of equal maxima the first takes the gradient.

    Published corner cases that are kept (golden data ``roi_pool_{malformed,nan_inf,huge_values}``): a roi
    with ``end + 1 <= start`` gives 0 and sends its gradient to step 0; NaN counts only as the first step of a
    bin, which it makes NaN; where the first step of a bin is the maximum and infinite or beyond 2^24, no
    gradient flows.

    Args:
        features: floating point (B, C, T).
        rois: (R, 3) of [index into the batch, start, end], any number type; on the device of `features`.
            Bounds are computed in float32 (float64 for float64 features).
        output_size: number of bins S.
        spatial_scale: steps of the features per unit of the rois; 0.125 with 8 ticks per snippet.
        check_rois: on CUDA, look for rois of a video that is not there, which waits for the device. Without
            it, and while a CUDA graph is captured, such a roi gives NaN and no gradient.

    Returns:
        (R, C, S), of the type of `features`; differentiable in `features`.

    Raises:
        ValueError: wrong shapes, types or sizes.
        IndexError: a roi names a batch index that is not there.

    Source: ``ops/roi_pool`` of the MUSES code.
    """
    if features.ndim != 3 or features.shape[2] == 0 or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point (B, C, T > 0), not {features.dtype} {tuple(features.shape)}"
        )
    if rois.ndim != 2 or rois.shape[1] != 3 or rois.is_complex() or rois.dtype == torch.bool:
        raise ValueError(f"rois must be numbers (R, 3), not {rois.dtype} {tuple(rois.shape)}")
    if rois.device != features.device:
        raise ValueError(f"rois are on {rois.device}, features on {features.device}")
    if output_size < 1 or not 0 < spatial_scale < math.inf:
        raise ValueError(
            "output_size and spatial_scale must be positive and finite, "
            f"not {output_size} and {spatial_scale}"
        )
    pool = torch.ops.avfusion.roi_max_pool1d
    # Where the maxima stand is for the gradient alone, and half of what is written.
    differentiable = torch.is_grad_enabled() and features.requires_grad
    output: Tensor = pool(features, rois, output_size, spatial_scale, check_rois, differentiable)[0]
    return output


def position_type(frames: int) -> torch.dtype:
    """Of the steps where maxima stand: half of what is written with them would be positions in int32."""
    return torch.int16 if frames <= 2**15 else torch.int32


def reference_roi_max_pool1d(
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    check_rois: bool = True,
    with_argmax: bool = True,
) -> tuple[Tensor, Tensor]:
    """Forward pass in plain torch: values, and the step that each was found at (-1: none)."""
    batch, channels, frames = features.shape
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    index = rois[:, 0].long()
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= batch):
        raise IndexError(f"rois name batch {int(index.min())} to {int(index.max())}, features have {batch}")
    start, end = rois[:, 1].to(wide), rois[:, 2].to(wide)
    low, high = start * spatial_scale, (end + 1) * spatial_scale
    step = ((high - low) / output_size)[:, None]
    bins = torch.arange(output_size + 1, device=rois.device, dtype=wide) * step + low[:, None]
    first = bins[:, :-1].floor().clamp(0, frames).nan_to_num().long()
    last = bins[:, 1:].ceil().clamp(0, frames).nan_to_num().long()
    well_formed = (step > 0).expand_as(first)

    flat = features.transpose(1, 2).reshape(batch * frames, channels).to(wide)
    offset = index[:, None] * frames
    empty = (first >= last)[..., None]
    best = torch.where(empty, 0, flat[offset + first.clamp(max=frames - 1)] - 1)
    argmax = torch.full_like(best, -1, dtype=torch.int64)
    longest = int((last - first).max()) if first.numel() else 0
    for k in range(longest):
        place = first + k
        values = flat[offset + place.clamp(max=frames - 1)]
        better = (values > best) & (place < last)[..., None]
        best = torch.where(better, values, best)
        argmax = torch.where(better, place[..., None], argmax)
    best = torch.where(well_formed[..., None], best, 0)
    argmax = torch.where(well_formed[..., None], argmax, 0)
    argmax = argmax.to(position_type(frames)).transpose(1, 2).contiguous()
    output = best.transpose(1, 2).to(features.dtype).contiguous()
    return output, argmax if with_argmax else argmax[:0].clone()


def reference_roi_max_pool1d_backward(
    grad: Tensor, argmax: Tensor, rois: Tensor, spatial_scale: float, batch: int, frames: int
) -> Tensor:
    """Backward pass in plain torch: every step gets the gradients of the bins that it is the maximum of.

    `spatial_scale` tells the CUDA kernel, with the rois, which bins may have their maximum where.
    """
    count, channels, bins = grad.shape
    place = rois[:, 0].long()[:, None, None] * frames + argmax
    taken = argmax >= 0
    place = torch.where(taken, place, 0).transpose(0, 1).reshape(channels, count * bins)
    values = torch.where(taken, grad, 0).transpose(0, 1).reshape(channels, count * bins)
    wide = values if values.dtype == torch.float64 else values.float()
    summed = wide.new_zeros(channels, batch * frames).scatter_add_(1, place, wide).to(grad.dtype)
    return summed.reshape(channels, batch, frames).transpose(0, 1).contiguous()


def _fake(
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    check_rois: bool = True,
    with_argmax: bool = True,
) -> tuple[Tensor, Tensor]:
    shape = (features.shape[1], output_size)
    positions = position_type(features.shape[2])
    argmax = features.new_empty(rois.shape[0] if with_argmax else 0, *shape, dtype=positions)
    return features.new_empty(rois.shape[0], *shape), argmax


def _fake_backward(
    grad: Tensor, argmax: Tensor, rois: Tensor, spatial_scale: float, batch: int, frames: int
) -> Tensor:
    return grad.new_empty(batch, grad.shape[1], frames)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois = inputs[:2]
    ctx.save_for_backward(output[1], rois)
    ctx.spatial_scale, ctx.batch, ctx.frames = inputs[3], features.shape[0], features.shape[2]
    ctx.set_materialize_grads(False)  # zeros for argmax


def _gradient(ctx: Any, grad: Tensor | None, grad_argmax: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None, None
    argmax, rois = ctx.saved_tensors
    backward = torch.ops.avfusion.roi_max_pool1d_backward
    gradient = backward(grad, argmax, rois, ctx.spatial_scale, ctx.batch, ctx.frames)
    return gradient, None, None, None, None, None


register(FORWARD, reference_roi_max_pool1d, _fake)
register(BACKWARD, reference_roi_max_pool1d_backward, _fake_backward)
if not extension_status().loaded:  # which has it in C++, as Python takes longer than a GPU
    torch.library.register_autograd("avfusion::roi_max_pool1d", _gradient, setup_context=_save)
