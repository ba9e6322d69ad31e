// What the CPU and the CUDA kernel of roi_max_pool1d share: which frames a bin covers, and the checks.
#pragma once

#include <ATen/ATen.h>
#include <c10/macros/Macros.h>

#include <cmath>

namespace avfusion::ops {

// Frames [first, last) of one of `bins` bins of a roi.
struct Bin {
  int64_t first;
  int64_t last;
};

// Start of a roi in frames and length of its bins; length <= 0 marks a malformed roi (end + 1 <= start).
template <typename coord_t>
struct Roi {
  coord_t start;
  coord_t step;

  C10_HOST_DEVICE Roi(coord_t from, coord_t to, coord_t scale, int64_t bins)
      : start(from * scale), step(((to + coord_t(1)) * scale - start) / static_cast<coord_t>(bins)) {
  }

  C10_HOST_DEVICE bool malformed() const {
    return !(step > coord_t(0));
  }

  // Bounds are clamped before they become integers: the conversion of a huge float is undefined.
  C10_HOST_DEVICE Bin bin(int64_t index, int64_t frames) const {
    const coord_t limit = static_cast<coord_t>(frames);
    const coord_t low = std::floor(static_cast<coord_t>(index) * step + start);
    const coord_t high = std::ceil(static_cast<coord_t>(index + 1) * step + start);
    return {clamp(low, limit), clamp(high, limit)};
  }

 private:
  C10_HOST_DEVICE static int64_t clamp(coord_t value, coord_t limit) {
    return static_cast<int64_t>(value > coord_t(0) ? (value < limit ? value : limit) : coord_t(0));
  }
};

// Arguments of the forward operator; the batch indices themselves are checked by the kernels.
inline void check_roi_max_pool1d(const at::Tensor& features, const at::Tensor& rois, int64_t output_size,
                                 double spatial_scale) {
  TORCH_CHECK(features.dim() == 3, "features must be (batch, channels, frames), not of ", features.dim(),
              " dimensions");
  TORCH_CHECK(features.size(2) > 0 && features.size(2) < (int64_t(1) << 31),
              "features must have from one to 2^31 - 1 frames, not ", features.size(2));
  TORCH_CHECK(at::isFloatingType(features.scalar_type()), "features must be floating point, not ",
              features.scalar_type());
  TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 3, "rois must be (rois, 3): batch index, start, end");
  TORCH_CHECK(!rois.is_complex() && rois.scalar_type() != at::kBool, "rois must be numbers, not ",
              rois.scalar_type());
  TORCH_CHECK(rois.device() == features.device(), "rois are on ", rois.device(), ", features on ",
              features.device());
  TORCH_CHECK(output_size > 0, "output_size must be positive, not ", output_size);
  TORCH_CHECK(spatial_scale > 0, "spatial_scale must be positive, not ", spatial_scale);
}

// Arguments of the backward operator.
inline void check_roi_max_pool1d_backward(const at::Tensor& grad, const at::Tensor& argmax,
                                          const at::Tensor& batch_index, int64_t batch, int64_t frames) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()),
              "grad must be floating point (rois, channels, bins)");
  TORCH_CHECK(argmax.sizes() == grad.sizes() && argmax.scalar_type() == at::kInt,
              "argmax must be int32 and as large as grad");
  TORCH_CHECK(
      batch_index.dim() == 1 && batch_index.size(0) == grad.size(0) && batch_index.scalar_type() == at::kLong,
      "batch_index must be int64, one for every roi");
  TORCH_CHECK(argmax.device() == grad.device() && batch_index.device() == grad.device(),
              "grad, argmax and batch_index must be on one device");
  TORCH_CHECK(batch >= 0 && frames >= 0 && frames < (int64_t(1) << 31),
              "batch and frames must not be negative, and frames are at most 2^31 - 1");
}

}  // namespace avfusion::ops
