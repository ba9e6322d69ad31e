// Where the groups of a sorted column begin and end.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace avfusion::ops {

// Bounds of the runs of equal values: run g is [bounds[g], bounds[g + 1]).
inline std::vector<int64_t> run_bounds(const at::Tensor& sorted) {
  const int64_t* value = sorted.const_data_ptr<int64_t>();
  const int64_t count = sorted.size(0);
  std::vector<int64_t> bounds;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || value[i] != value[i - 1]) {
      bounds.push_back(i);
    }
  }
  bounds.push_back(count);
  return bounds;
}

}  // namespace avfusion::ops
