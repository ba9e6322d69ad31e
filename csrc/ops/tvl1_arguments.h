// Arguments of the operator tvl1_flow, checked.
#pragma once

#include <ATen/ATen.h>

#include "tvl1.h"

namespace avfusion::ops::tvl1 {

inline Options read_arguments(const at::Tensor& first, const at::Tensor& second, double tau, double weight,
                              double theta, int64_t scales, int64_t warps, double epsilon, int64_t inner,
                              int64_t outer, double scale_step, int64_t median) {
  TORCH_CHECK(first.dim() == 3 && first.size(1) > 0 && first.size(2) > 0,
              "first must be (pairs, height, width), not ", first.sizes());
  TORCH_CHECK(first.size(1) < (1 << 15) && first.size(2) < (1 << 15), "images are at most 32767 pixels wide");
  TORCH_CHECK(second.sizes() == first.sizes() && second.device() == first.device(),
              "second must be as large as first and on its device");
  TORCH_CHECK(first.scalar_type() == at::kByte && second.scalar_type() == at::kByte, "images must be uint8");
  TORCH_CHECK(tau > 0 && weight > 0 && theta > 0 && epsilon >= 0 && scale_step > 0 && scale_step < 1,
              "tau, weight, theta and epsilon must be positive, scale_step within 0 and 1");
  TORCH_CHECK(scales > 0 && scales <= MAX_SCALES && warps > 0 && inner > 0 && outer > 0,
              "there must be at least one scale (at most ", MAX_SCALES, "), warp and iteration");
  TORCH_CHECK(median == 1 || median == 5, "the median is over 1 or 5 pixels, not ", median);
  return {static_cast<float>(tau),
          static_cast<float>(weight),
          static_cast<float>(theta),
          epsilon,
          scale_step,
          static_cast<int>(scales),
          static_cast<int>(warps),
          static_cast<int>(inner),
          static_cast<int>(outer),
          median == 5};
}

}  // namespace avfusion::ops::tvl1
