// What the CPU and the CUDA kernels of nms1d, soft_nms1d and vote1d share: the overlap of two segments, the
// decay, and the checks.
#pragma once

#include <ATen/ATen.h>
#include <c10/macros/Macros.h>

#include <cmath>
#include <string>

namespace avfusion::ops {

// tIoU of two segments; 0 for two that touch, or of which neither has a length.
template <typename scalar_t>
C10_HOST_DEVICE inline scalar_t overlap(scalar_t start, scalar_t stop, scalar_t other_start,
                                        scalar_t other_stop) {
  const scalar_t end = stop < other_stop ? stop : other_stop;
  const scalar_t begin = start > other_start ? start : other_start;
  if (!(end > begin)) {
    return scalar_t(0);
  }
  const scalar_t shared = end - begin;
  const scalar_t whole = (stop - start) + (other_stop - other_start) - shared;
  return whole > scalar_t(0) ? shared / whole : scalar_t(0);
}

// How soft suppression takes score away.
struct Decay {
  bool linear;
  double threshold;
  double sigma;

  template <typename scalar_t>
  C10_HOST_DEVICE scalar_t factor(scalar_t overlap) const {
    if (linear) {
      return overlap >= static_cast<scalar_t>(threshold) ? scalar_t(1) - overlap : scalar_t(1);
    }
    return overlap > scalar_t(0) ? std::exp(-(overlap * overlap) / static_cast<scalar_t>(sigma))
                                 : scalar_t(1);
  }
};

inline void check_column(const at::Tensor& column, const at::Tensor& segments, const char* name) {
  TORCH_CHECK(column.dim() == 1 && column.size(0) == segments.size(0), name, " must be one for each of the ",
              segments.size(0), " segments");
  TORCH_CHECK(column.device() == segments.device(), name, " are on ", column.device(), ", segments on ",
              segments.device());
}

inline void check_numbers(const at::Tensor& values, const char* name) {
  // The sum is NaN if any is, and takes one pass; infinities of both signs make it NaN as well.
  const bool suspect = values.sum().isnan().item<bool>();
  TORCH_CHECK_VALUE(!suspect || !values.isnan().any().item<bool>(), name, " must not be NaN");
}

inline void check_segments(const at::Tensor& segments, const at::Tensor& groups,
                           const char* name = "segments") {
  TORCH_CHECK(segments.dim() == 2 && segments.size(1) == 2, name, " must be (segments, 2): start and end");
  TORCH_CHECK(at::isFloatingType(segments.scalar_type()), name, " must be floating point, not ",
              segments.scalar_type());
  check_column(groups, segments, "groups");
  TORCH_CHECK(groups.scalar_type() == at::kLong, "groups must be int64, not ", groups.scalar_type());
  check_numbers(segments, name);
}

inline void check_scores(const at::Tensor& scores, const at::Tensor& segments) {
  check_column(scores, segments, "scores");
  TORCH_CHECK(!scores.is_complex() && scores.scalar_type() != at::kBool, "scores must be real numbers, not ",
              scores.scalar_type());
  check_numbers(scores, "scores");
}

inline Decay check_decay(const std::string& method, double threshold, double sigma, int64_t limit) {
  TORCH_CHECK_VALUE(method == "linear" || method == "gaussian", "method must be linear or gaussian, not ",
                    method);
  TORCH_CHECK_VALUE(sigma > 0, "sigma must be positive, not ", sigma);
  TORCH_CHECK_VALUE(limit >= 0, "limit must not be negative, not ", limit);
  return {method == "linear", threshold, sigma};
}

// Type that overlaps and scores are computed in: float32, or float64 for float64.
inline at::ScalarType segment_type(const at::Tensor& segments) {
  return segments.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace avfusion::ops
