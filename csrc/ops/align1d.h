// What the CPU and the CUDA kernels of align1d and sum_aligned1d share: where samples lie, and the checks.
#pragma once

#include <ATen/ATen.h>
#include <c10/macros/Macros.h>

#include <cmath>

namespace avfusion::ops {

// A roi cut into bins of equal length, each the mean of equally spaced samples.
template <typename coord_t>
struct AlignedRoi {
  coord_t start;
  coord_t size;   // of a bin, in steps
  coord_t count;  // samples per bin
  bool valid;     // finite and not so long that neighbouring samples cannot be told apart

  C10_HOST_DEVICE AlignedRoi(coord_t from, coord_t to, int64_t bins, int64_t sampling_ratio) : start(from) {
    const coord_t width = to - from > coord_t(1) ? to - from : coord_t(1);
    const coord_t longest = coord_t(1 << 24);
    // A NaN fails every comparison; one infinite bound fails the second or the third.
    valid = to - from <= longest && from > -coord_t(3e38) && from < coord_t(3e38) && to > -coord_t(3e38);
    size = width / static_cast<coord_t>(bins);
    count = sampling_ratio > 0 ? static_cast<coord_t>(sampling_ratio) : std::ceil(size);
  }

  // Calls take(step, weight) for all that a bin is made of, steps ascending from sample to sample; a step may
  // come several times.
  template <typename Take>
  C10_HOST_DEVICE void visit(int64_t bin, int64_t frames, const Take& take) const {
    visit_between(bin, frames, coord_t(-1), static_cast<coord_t>(frames), take);
  }

  // What a bin takes of one step.
  C10_HOST_DEVICE coord_t weight_of(int64_t step, int64_t bin, int64_t frames) const {
    const coord_t from = static_cast<coord_t>(step) - coord_t(1);
    const coord_t to = static_cast<coord_t>(step == frames - 1 ? frames : step + 1);
    coord_t sum = 0;
    visit_between(bin, frames, from, to,
                  [&](int64_t found, coord_t weight) { sum += found == step ? weight : coord_t(0); });
    return sum;
  }

  // The first step that a bin can take anything of, and at most how many there are, the same for all bins.
  C10_HOST_DEVICE int64_t first_step(int64_t bin, int64_t frames) const {
    const coord_t low = std::floor(start + static_cast<coord_t>(bin) * size);
    const coord_t end = static_cast<coord_t>(frames - 1);
    return static_cast<int64_t>(low > coord_t(0) ? (low < end ? low : end) : coord_t(0));
  }

  C10_HOST_DEVICE int64_t most_steps(int64_t frames) const {
    const coord_t most = std::ceil(size) + coord_t(2), all = static_cast<coord_t>(frames);
    return static_cast<int64_t>(most < all ? most : all);
  }

  // Sample i of a bin: the place it is read at, or less than -1 if it lies outside the features.
  C10_HOST_DEVICE coord_t place(int64_t bin, int64_t i, int64_t frames) const {
    const coord_t low = start + static_cast<coord_t>(bin) * size, limit = static_cast<coord_t>(frames);
    const coord_t sample = low + (static_cast<coord_t>(i) + coord_t(0.5)) * size / count;
    if (!(sample >= coord_t(-1) && sample <= limit)) {
      return coord_t(-2);
    }
    const coord_t end = limit - coord_t(1);
    return sample > coord_t(0) ? (sample < end ? sample : end) : coord_t(0);
  }

  // Number of the first sample, counted over all bins, that can lie at `at` or later, less some for rounding
  // (`side` -1), or of the first that certainly lies later (`side` 1).
  C10_HOST_DEVICE int64_t sample_near(coord_t at, coord_t origin, coord_t most, coord_t side) const {
    const coord_t margin = coord_t(1.5) + count * coord_t(1e-6);
    const coord_t index = std::floor((at - origin) * count / size + side * margin);
    return static_cast<int64_t>(index > coord_t(0) ? (index < most ? index : most) : coord_t(0));
  }

 private:
  template <typename Take>
  C10_HOST_DEVICE void visit_between(int64_t bin, int64_t frames, coord_t from, coord_t to,
                                     const Take& take) const {
    if (!valid) {
      return;
    }
    const coord_t low = start + static_cast<coord_t>(bin) * size, share = coord_t(1) / count;
    const int64_t last = sample_near(to, low, count, coord_t(1));
    for (int64_t i = sample_near(from, low, count, coord_t(-1)); i < last; ++i) {
      const coord_t at = place(bin, i, frames);
      if (at < coord_t(0)) {
        continue;
      }
      const int64_t left = static_cast<int64_t>(at);
      const coord_t part = at - static_cast<coord_t>(left);
      take(left, (coord_t(1) - part) * share);
      if (part > coord_t(0)) {
        take(left + 1, part * share);
      }
    }
  }
};

inline void check_align_rois(const at::Tensor& rois, int64_t columns, const at::Tensor& features,
                             int64_t sampling_ratio) {
  TORCH_CHECK(rois.dim() == 2 && rois.size(1) == columns, "rois must be (rois, ", columns, ")");
  TORCH_CHECK(!rois.is_complex() && rois.scalar_type() != at::kBool, "rois must be numbers, not ",
              rois.scalar_type());
  TORCH_CHECK(rois.device() == features.device(), "rois are on ", rois.device(), ", the features on ",
              features.device());
  TORCH_CHECK(sampling_ratio >= 0 && sampling_ratio <= (1 << 24),
              "sampling_ratio must be from 0 to 2^24, not ", sampling_ratio);
}

inline void check_align1d(const at::Tensor& features, const at::Tensor& rois, int64_t output_size,
                          int64_t sampling_ratio) {
  TORCH_CHECK(features.dim() == 3 && features.size(2) > 0, "features must be (batch, channels, frames > 0)");
  TORCH_CHECK(at::isFloatingType(features.scalar_type()), "features must be floating point, not ",
              features.scalar_type());
  TORCH_CHECK(output_size > 0, "output_size must be positive, not ", output_size);
  check_align_rois(rois, 3, features, sampling_ratio);
}

inline void check_align1d_backward(const at::Tensor& grad, const at::Tensor& rois, int64_t batch,
                                   int64_t frames, int64_t sampling_ratio) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()) && grad.size(2) > 0,
              "grad must be floating point (rois, channels, bins > 0)");
  TORCH_CHECK(batch >= 0 && frames > 0, "batch and frames must be positive");
  check_align_rois(rois, 3, grad, sampling_ratio);
  TORCH_CHECK(rois.size(0) == grad.size(0), "grad must have one row for each of the ", rois.size(0), " rois");
}

inline void check_sum_aligned1d(const at::Tensor& projected, const at::Tensor& rois, int64_t sampling_ratio) {
  TORCH_CHECK(projected.dim() == 4 && projected.size(1) > 0 && projected.size(2) > 0,
              "projected must be (batch, frames > 0, slots > 0, channels)");
  TORCH_CHECK(at::isFloatingType(projected.scalar_type()), "projected must be floating point, not ",
              projected.scalar_type());
  check_align_rois(rois, 2, projected, sampling_ratio);
}

inline void check_sum_aligned1d_backward(const at::Tensor& grad, const at::Tensor& rois, int64_t slots,
                                         int64_t frames, int64_t sampling_ratio) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()),
              "grad must be floating point (batch, rois, channels)");
  TORCH_CHECK(slots > 0 && frames > 0, "slots and frames must be positive");
  check_align_rois(rois, 2, grad, sampling_ratio);
  TORCH_CHECK(rois.size(0) == grad.size(1), "grad must have one row for each of the ", rois.size(0), " rois");
}

// Type that sums are formed in and samples are placed in: float32, or float64 for float64.
inline at::ScalarType sum_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace avfusion::ops
