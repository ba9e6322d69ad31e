"""RoI alignment along time (Align1D of G-TAD), and the same fused with the 1x1 convolution that follows it.

A roi is cut into bins of equal length; a bin averages samples that are interpolated between the two nearest
steps. All of it is linear in the features: row (roi, bin) of a sparse matrix says what it takes of each step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.ops._extension import register

ALIGN = (
    "align1d(Tensor features, Tensor rois, int output_size, int sampling_ratio, bool check_rois=True)"
    " -> Tensor"
)
ALIGN_BACKWARD = (
    "align1d_backward(Tensor grad, Tensor rois, SymInt batch, SymInt frames, int sampling_ratio) -> Tensor"
)
SUM = "sum_aligned1d(Tensor projected, Tensor rois, int sampling_ratio, bool check_rois=True) -> Tensor"
SUM_BACKWARD = (
    "sum_aligned1d_backward(Tensor grad, Tensor rois, int slots, SymInt frames, int sampling_ratio) -> Tensor"
)
LONGEST = 2.0**24  # steps; beyond it float32 does not tell one sample from the next


def align1d(
    features: Tensor, rois: Tensor, output_size: int, sampling_ratio: int = 0, check_rois: bool = True
) -> Tensor:
    """Averages of the features in `output_size` bins of equal length per roi, interpolated between steps.

    A roi covers ``[start, end]`` in steps of the features, step t standing at coordinate t; one shorter than
    1 is made 1 long from its start. A bin takes the mean of `sampling_ratio` equally spaced samples. A sample
    is interpolated linearly between its two neighbours; in [-1, 0] it is step 0, in [T - 1, T] step T - 1,
    and farther out it is 0 and still counts in the mean.

    Args:
        features: floating point (B, C, T).
        rois: (R, 3) of [index into the batch, start, end], any number type; on the device of `features`.
            Samples are placed in float32 (float64 for float64 features).
        output_size: number of bins S.
        sampling_ratio: samples per bin; 0 (as published) for as many as the bin is long, rounded up.
        check_rois: on CUDA, look for rois that are refused, which waits for the device. Without it, and while
            a CUDA graph is captured, such a roi gives NaN.

    Returns:
        (R, C, S), of the type of `features`; differentiable in `features`.

    Raises:
        ValueError: wrong shapes, types or sizes; a roi that is not finite or is longer than 2^24 steps.
        IndexError: a roi names a batch index that is not there.

    Source: ``Align1D`` of the G-TAD code (Xu et al., CVPR 2020).
    """
    _check_features(features)
    _check_rois(rois, 3, features)
    if output_size < 1 or sampling_ratio < 0:
        raise ValueError(
            "output_size must be positive and sampling_ratio not negative, "
            f"not {output_size} and {sampling_ratio}"
        )
    output: Tensor = torch.ops.avfusion.align1d(features, rois, output_size, sampling_ratio, check_rois)
    return output


def project_align1d(
    features: Tensor,
    rois: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sampling_ratio: int = 0,
    check_rois: bool = True,
) -> Tensor:
    """Alignment of every roi in every video, followed by a 1x1 convolution over channels and bins.

    Equal to ``einsum("brcs,ocs->bor", aligned, weight) + bias`` where ``aligned[b]`` is `align1d` of video b
    at S bins, but the features are projected first, once per bin, and then gathered and summed per roi: the
    (rois x channels x bins) tensor never exists, and G-TAD's sizes take 46 to 70 times fewer operations.

    G-TAD concatenates the bins of two features, the snippets and the mean of their nearest neighbours. With
    ``w = conv.weight.reshape(O, C, inner + context)`` (the published layout is channel-major):

    - published G-TAD: both have 16 bins over the same rois, so one call with the two features stacked as
      2 C channels and ``torch.cat([w[:, :, :16], w[:, :, 16:]], 1)``;
    - tal-hmo: 32 and 4 bins, so two calls, ``w[:, :, :32]`` and ``w[:, :, 32:]``, whose results are added.

    Args:
        features: floating point (B, C, T).
        rois: (A, 2) of [start, end] in steps, the same for every video, any number type; see `align1d`.
        weight: (O, C, S); S is the number of bins.
        bias: (O,), or None.
        sampling_ratio: as for `align1d`.
        check_rois: as for `align1d`.

    Returns:
        (B, O, A), a transposed view of (B, A, O), so that ``.reshape(B, O, D, T)`` is in channels-last order;
        differentiable in `features`, `weight` and `bias`. Under autocast the projection runs in the lower
        precision, and so does what is gathered; sums are formed in float32.

    Raises:
        ValueError: wrong shapes, types or sizes; rois as for `align1d`.
    """
    _check_features(features)
    if weight.ndim != 3 or weight.shape[1] != features.shape[1] or weight.shape[2] == 0:
        raise ValueError(f"weight must be (O, {features.shape[1]}, S > 0), not {tuple(weight.shape)}")
    _check_rois(rois, 2, features)
    _check_parameter("weight", weight, features)
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must be ({weight.shape[0]},), not {tuple(bias.shape)}")
        _check_parameter("bias", bias, features)
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must not be negative, not {sampling_ratio}")
    outputs, channels, slots = weight.shape
    flat = weight.permute(2, 0, 1).reshape(slots * outputs, channels)
    projected = functional.linear(features.transpose(1, 2), flat)  # (B, T, S * O)
    projected = projected.reshape(*projected.shape[:2], slots, outputs)
    summed: Tensor = torch.ops.avfusion.sum_aligned1d(projected, rois, sampling_ratio, check_rois)
    if bias is not None:
        summed.add_(bias)  # in place, as the sum itself is needed by no backward pass
    return summed.transpose(1, 2)


def _check_features(features: Tensor) -> None:
    if features.ndim != 3 or features.shape[2] == 0 or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point (B, C, T > 0), not {features.dtype} {tuple(features.shape)}"
        )


def _check_parameter(name: str, parameter: Tensor, features: Tensor) -> None:
    free = torch.is_autocast_enabled(features.device.type) and parameter.is_floating_point()
    if parameter.device != features.device or not (free or parameter.dtype == features.dtype):
        raise ValueError(
            f"{name} must be {features.dtype} on {features.device}, "
            f"not {parameter.dtype} on {parameter.device}"
        )


def _check_rois(rois: Tensor, columns: int, features: Tensor) -> None:
    if rois.ndim != 2 or rois.shape[1] != columns or rois.is_complex() or rois.dtype == torch.bool:
        raise ValueError(f"rois must be numbers (R, {columns}), not {rois.dtype} {tuple(rois.shape)}")
    if rois.device != features.device:
        raise ValueError(f"rois are on {rois.device}, features on {features.device}")


def sampling_matrix(
    bounds: Tensor, bins: int, sampling_ratio: int, frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What every bin takes of which step: indices (roi * bins + bin), steps and weights of equal lengths.

    Args:
        bounds: float32 or float64 (R, 2) of [start, end].
        bins: number of bins per roi.
        sampling_ratio: samples per bin, 0: as many as it is long.
        frames: number of steps.
    """
    start, width = bounds[:, :1], (bounds[:, 1:] - bounds[:, :1]).clamp(min=1)
    if not (bounds.isfinite().all() and (width <= LONGEST).all()):
        raise ValueError("rois must be finite and at most 2^24 steps long")
    size = width / bins
    count = torch.full_like(size, sampling_ratio) if sampling_ratio else size.ceil()
    row = torch.arange(bounds.shape[0] * bins, device=bounds.device).reshape(-1, bins)
    low = start + torch.arange(bins, device=bounds.device, dtype=bounds.dtype) * size  # (R, bins)
    # Samples that can lie within [-1, frames], and some more on either side for the rounding.
    first = ((-1 - low) * count / size - 4.5).ceil().maximum(torch.zeros_like(low)).minimum(count)
    last = ((frames - low) * count / size + 4.5).floor().maximum(torch.zeros_like(low)).minimum(count)
    most = int((last - first).max().clamp(min=0)) if low.numel() else 0
    sample = first[..., None] + torch.arange(most, device=bounds.device, dtype=bounds.dtype)
    place = low[..., None] + (sample + 0.5) * size[..., None] / count[..., None]
    inside = (sample < last[..., None]) & (place >= -1) & (place <= frames)
    row = row[..., None].expand_as(place)[inside]
    share = (1 / count)[..., None].expand_as(place)[inside]
    place = place[inside].clamp(0, frames - 1)
    left = place.floor()
    right_part = place - left
    step = left.long()
    return (
        torch.cat([row, row]),
        torch.cat([step, (step + 1).clamp(max=frames - 1)]),
        torch.cat([(1 - right_part) * share, right_part * share]),
    )


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _apply(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], dense: Tensor) -> Tensor:
    """Product of a sparse matrix with a dense one."""
    if not rows.numel() or not dense.numel():
        return dense.new_zeros(shape[0], dense.shape[1])
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False)
    return torch.sparse.mm(matrix.coalesce(), dense)


def _batched_matrix(
    rois: Tensor, dtype: torch.dtype, bins: int, sampling_ratio: int, batch: int, frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampling_matrix` of rois with a batch index, over the steps of all videos."""
    index = rois[:, 0].long()
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= batch):
        raise IndexError(f"rois name batch {int(index.min())} to {int(index.max())}, features have {batch}")
    row, step, value = sampling_matrix(rois[:, 1:].to(dtype), bins, sampling_ratio, frames)
    return row, index[row // bins] * frames + step, value


def reference_align1d(
    features: Tensor, rois: Tensor, output_size: int, sampling_ratio: int, check_rois: bool = True
) -> Tensor:
    """`align1d` in plain torch."""
    batch, channels, frames = features.shape
    count, wide = rois.shape[0], _wide(features)
    row, column, value = _batched_matrix(rois, wide, output_size, sampling_ratio, batch, frames)
    flat = features.transpose(1, 2).reshape(batch * frames, channels).to(wide)
    aligned = _apply(row, column, value, (count * output_size, batch * frames), flat)
    return aligned.reshape(count, output_size, channels).transpose(1, 2).to(features.dtype).contiguous()


def reference_align1d_backward(
    grad: Tensor, rois: Tensor, batch: int, frames: int, sampling_ratio: int
) -> Tensor:
    """Gradient of `align1d` in the features, in plain torch."""
    count, channels, bins = grad.shape
    wide = _wide(grad)
    row, column, value = _batched_matrix(rois, wide, bins, sampling_ratio, batch, frames)
    flat = grad.transpose(1, 2).reshape(count * bins, channels).to(wide)
    summed = _apply(column, row, value, (batch * frames, count * bins), flat)
    return summed.reshape(batch, frames, channels).transpose(1, 2).to(grad.dtype).contiguous()


def reference_sum_aligned1d(
    projected: Tensor, rois: Tensor, sampling_ratio: int, check_rois: bool = True
) -> Tensor:
    """Gather and sum in plain torch: (B, T, S, O), projected per bin, to (B, A, O)."""
    batch, frames, slots, outputs = projected.shape
    count, wide = rois.shape[0], _wide(projected)
    row, step, value = sampling_matrix(rois.to(wide), slots, sampling_ratio, frames)
    flat = projected.permute(1, 2, 0, 3).reshape(frames * slots, batch * outputs).to(wide)
    summed = _apply(row // slots, step * slots + row % slots, value, (count, frames * slots), flat)
    by_video = summed.reshape(count, batch, outputs).transpose(0, 1).to(projected.dtype)
    return by_video.clone(
        memory_format=torch.contiguous_format
    )  # no view, so that the bias can be added in place


def reference_sum_aligned1d_backward(
    grad: Tensor, rois: Tensor, slots: int, frames: int, sampling_ratio: int
) -> Tensor:
    """Gradient of the gathering in what was projected, in plain torch."""
    batch, count, outputs = grad.shape
    wide = _wide(grad)
    row, step, value = sampling_matrix(rois.to(wide), slots, sampling_ratio, frames)
    flat = grad.transpose(0, 1).reshape(count, batch * outputs).to(wide)
    summed = _apply(step * slots + row % slots, row // slots, value, (frames * slots, count), flat)
    return summed.reshape(frames, slots, batch, outputs).permute(2, 0, 1, 3).to(grad.dtype).contiguous()


def _fake_align(
    features: Tensor, rois: Tensor, output_size: int, sampling_ratio: int, check_rois: bool = True
) -> Tensor:
    return features.new_empty(rois.shape[0], features.shape[1], output_size)


def _fake_align_backward(grad: Tensor, rois: Tensor, batch: int, frames: int, sampling_ratio: int) -> Tensor:
    return grad.new_empty(batch, grad.shape[1], frames)


def _fake_sum(projected: Tensor, rois: Tensor, sampling_ratio: int, check_rois: bool = True) -> Tensor:
    return projected.new_empty(projected.shape[0], rois.shape[0], projected.shape[3])


def _fake_sum_backward(grad: Tensor, rois: Tensor, slots: int, frames: int, sampling_ratio: int) -> Tensor:
    return grad.new_empty(grad.shape[0], frames, slots, grad.shape[2])


def _save_align(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, _, ctx.sampling_ratio, _ = inputs
    ctx.save_for_backward(rois)
    ctx.batch, ctx.frames = features.shape[0], features.shape[2]


def _align_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.avfusion.align1d_backward
    gradient = backward(grad, *ctx.saved_tensors, ctx.batch, ctx.frames, ctx.sampling_ratio)
    return gradient, None, None, None, None


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    projected, rois, ctx.sampling_ratio, _ = inputs
    ctx.save_for_backward(rois)
    ctx.frames, ctx.slots = projected.shape[1], projected.shape[2]


def _sum_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.avfusion.sum_aligned1d_backward
    gradient = backward(grad, *ctx.saved_tensors, ctx.slots, ctx.frames, ctx.sampling_ratio)
    return gradient, None, None, None


register(ALIGN, reference_align1d, _fake_align)
register(ALIGN_BACKWARD, reference_align1d_backward, _fake_align_backward)
register(SUM, reference_sum_aligned1d, _fake_sum)
register(SUM_BACKWARD, reference_sum_aligned1d_backward, _fake_sum_backward)
torch.library.register_autograd("avfusion::align1d", _align_gradient, setup_context=_save_align)
torch.library.register_autograd("avfusion::sum_aligned1d", _sum_gradient, setup_context=_save_sum)
