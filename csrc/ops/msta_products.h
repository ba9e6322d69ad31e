// Checks of the products that convolve over frequencies.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>

namespace avfusion::ops {

// Largest distance of a tap.
inline int64_t furthest(at::IntArrayRef taps) {
  int64_t reach = 0;
  for (const int64_t tap : taps) {
    reach = std::max<int64_t>(reach, std::abs(tap));
  }
  return reach;
}

inline void check_products(const at::Tensor& planes, at::TensorList weights, at::IntArrayRef taps,
                           int64_t steps) {
  TORCH_CHECK(steps > 0 && steps % 2 == 0, "steps must be even and positive, not ", steps);
  TORCH_CHECK(furthest(taps) < steps / 2, "taps must be nearer than half of the ", steps, " steps");
  TORCH_CHECK(planes.dim() == 3 && planes.size(0) == 3 * (steps / 2) - 1,
              "planes must be (", 3 * (steps / 2) - 1, ", channels, tiles), not ", planes.sizes());
  TORCH_CHECK(planes.scalar_type() == at::kFloat || planes.scalar_type() == at::kDouble,
              "planes must be float32 or float64, not ", planes.scalar_type());
  TORCH_CHECK(!weights.empty(), "weights must be one per branch, not none");
  int64_t count = 0;
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK(weight.dim() == 4 && weight.size(0) == weights[0].size(0) &&
                    weight.size(1) == planes.size(1) && weight.size(2) == 1,
                "weights must be (outputs, ", planes.size(1), ", 1, taps), not ", weight.sizes());
    TORCH_CHECK(weight.scalar_type() == planes.scalar_type() && weight.device() == planes.device(),
                "weights must be ", planes.scalar_type(), " on ", planes.device(), ", not ",
                weight.scalar_type(), " on ", weight.device());
    count += weight.size(3);
  }
  TORCH_CHECK(count == static_cast<int64_t>(taps.size()), "taps must be one for each of the ", count,
              " weights of a channel, not ", taps.size());
}

}  // namespace avfusion::ops
