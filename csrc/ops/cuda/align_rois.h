// What the CUDA kernels of align1d and sum_aligned1d share.
#pragma once

#include <ATen/ATen.h>

#include "../align1d.h"
#include "roi_check.h"

namespace avfusion::ops {

// a * b + c, rounded once: sums may be more exact than the CPU's, coordinates (compiled without) must not.
__device__ __forceinline__ float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}

__device__ __forceinline__ double fused(double a, double b, double c) {
  return __fma_rn(a, b, c);
}

inline at::Tensor table_of(const at::Tensor& rois, const at::Tensor& like) {
  return rois.to(sum_type(like)).contiguous();
}

template <typename coord_t>
struct HasBadBounds {
  int64_t column, bins, sampling_ratio;

  __device__ bool operator()(const coord_t* row) const {
    return !AlignedRoi<coord_t>(row[column], row[column + 1], bins, sampling_ratio).valid;
  }
};

// Raises the CPU's error if a roi, whose bounds stand in `column` and the next, is not finite or too long.
template <typename coord_t>
void check_bounds(const at::Tensor& rois, int64_t column, int64_t bins, int64_t sampling_ratio) {
  const HasBadBounds<coord_t> bad{column, bins, sampling_ratio};
  const std::pair<at::Tensor, int64_t> refused = first_refused<coord_t>(rois, bad);
  if (refused.second >= 0) {
    const double* row = refused.first.const_data_ptr<double>();
    TORCH_CHECK_VALUE(false, "rois[", refused.second, "] is [", row[column], ", ", row[column + 1],
                      "]: rois must be finite and at most 2^24 steps long");
  }
}

}  // namespace avfusion::ops
