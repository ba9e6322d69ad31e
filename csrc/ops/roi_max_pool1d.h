// What the CPU and the CUDA kernel of roi_max_pool1d share: which frames a bin covers, and the checks.
#pragma once

#include <ATen/ATen.h>
#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace avfusion::ops {

// Steps where maxima stand: int16 where that can name every step, as the half of what is written for a
// gradient would otherwise be positions.
inline at::ScalarType position_type(int64_t frames) {
  return frames <= (int64_t(1) << 15) ? at::kShort : at::kInt;
}

// Calls `work` with a number of the type of such positions.
template <typename Work>
void with_positions(at::ScalarType type, const Work& work) {
  if (type == at::kShort) {
    work(int16_t(0));
  } else {
    work(int32_t(0));
  }
}

// A number of bins that divides: by a multiplication where that is exact, as for 8 bins.
template <typename coord_t>
struct Parts {
  coord_t count, inverse;

  explicit Parts(int64_t bins)
      : count(static_cast<coord_t>(bins)),
        inverse((bins & (bins - 1)) == 0 ? coord_t(1) / count : coord_t(0)) {
  }

  C10_HOST_DEVICE coord_t of(coord_t length) const {
    return inverse > coord_t(0) ? length * inverse : length / count;
  }
};

// Start of a roi in frames and length of its bins; length <= 0 marks a malformed roi (end + 1 <= start).
template <typename coord_t>
struct Roi {
  coord_t start;
  coord_t step;

  C10_HOST_DEVICE Roi(coord_t from, coord_t to, coord_t scale, Parts<coord_t> bins)
      : start(from * scale), step(bins.of((to + coord_t(1)) * scale - start)) {
  }

  C10_HOST_DEVICE bool malformed() const {
    return !(step > coord_t(0));
  }

  // Where bin `index` begins and ends, cut to the frames. Cut before it becomes an integer: the conversion of
  // a huge float is undefined.
  template <typename index_t>
  C10_HOST_DEVICE index_t first(index_t index, index_t frames) const {
    return clamp(std::floor(static_cast<coord_t>(index) * step + start), frames);
  }

  template <typename index_t>
  C10_HOST_DEVICE index_t last(index_t index, index_t frames) const {
    return clamp(std::ceil(static_cast<coord_t>(index + 1) * step + start), frames);
  }

 private:
  template <typename index_t>
  C10_HOST_DEVICE static index_t clamp(coord_t value, index_t frames) {
    const coord_t limit = static_cast<coord_t>(frames);  // may be rounded up
    const coord_t positive = value > coord_t(0) ? value : coord_t(0);
    const auto within = static_cast<index_t>(positive < limit ? positive : limit);
    return within < frames ? within : frames;
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
                                          const at::Tensor& rois, int64_t batch, int64_t frames) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()),
              "grad must be floating point (rois, channels, bins)");
  TORCH_CHECK(argmax.sizes() == grad.sizes() &&
                  (argmax.scalar_type() == at::kShort || argmax.scalar_type() == at::kInt),
              "argmax must be int16 or int32 and as large as grad");
  TORCH_CHECK(rois.dim() == 2 && rois.size(0) == grad.size(0) && rois.size(1) == 3 && !rois.is_complex() &&
                  rois.scalar_type() != at::kBool,
              "rois must be numbers (", grad.size(0), ", 3): batch index, start, end");
  TORCH_CHECK(argmax.device() == grad.device() && rois.device() == grad.device(),
              "grad, argmax and rois must be on one device");
  TORCH_CHECK(batch >= 0 && frames >= 0 && frames < (int64_t(1) << 31),
              "batch and frames must not be negative, and frames are at most 2^31 - 1");
}

}  // namespace avfusion::ops
