// Temporal non-maximum suppression on the CPU, all groups (videos, classes) in one call.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../nms1d.h"
#include "groups.h"

namespace avfusion::ops {
namespace {

// Suppress within the segments [begin, end), which stand in the order of their scores. `kept` gets 1 for
// every one that stays. The quotient is formed as published, so that one at the threshold stays.
template <typename scalar_t>
void suppress(const scalar_t* start, const scalar_t* stop, int64_t begin, int64_t end, double threshold,
              uint8_t* kept) {
  for (int64_t i = begin; i < end; ++i) {
    if (!kept[i]) {
      continue;
    }
    const scalar_t length = stop[i] - start[i];
    for (int64_t j = i + 1; j < end; ++j) {
      const scalar_t shared = std::min(stop[i], stop[j]) - std::max(start[i], start[j]);
      const scalar_t whole = length + (stop[j] - start[j]) - shared;
      // NaN (0 / 0: two segments without length at one place) counts as no overlap.
      if (static_cast<double>(shared / whole) > threshold) {
        kept[j] = 0;
      }
    }
  }
}

at::Tensor nms1d_cpu(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups,
                     double threshold) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const int64_t count = segments.size(0);
  const auto type = segment_type(segments);
  const auto by_group = at::argsort(groups, /*stable=*/true, /*dim=*/0).contiguous();
  const auto bounds = run_bounds(groups.index({by_group}).contiguous());
  const auto table = segments.to(type).contiguous(), column = scores.to(at::kDouble).contiguous();
  auto kept = at::zeros({count}, at::kBool);
  AT_DISPATCH_FLOATING_TYPES(type, "nms1d_cpu", [&] {
    const scalar_t* segment = table.const_data_ptr<scalar_t>();
    const double* score = column.const_data_ptr<double>();
    const int64_t* row = by_group.const_data_ptr<int64_t>();
    bool* flags = kept.mutable_data_ptr<bool>();
    at::parallel_for(0, static_cast<int64_t>(bounds.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> order;
      std::vector<scalar_t> start, stop;
      std::vector<uint8_t> left;
      for (int64_t g = begin; g < end; ++g) {
        order.assign(row + bounds[g], row + bounds[g + 1]);
        std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
          return score[i] > score[j] || (score[i] == score[j] && i < j);
        });
        const int64_t size = static_cast<int64_t>(order.size());
        start.resize(size);
        stop.resize(size);
        for (int64_t i = 0; i < size; ++i) {
          start[i] = segment[2 * order[i]];
          stop[i] = segment[2 * order[i] + 1];
        }
        left.assign(size, 1);
        suppress(start.data(), stop.data(), 0, size, threshold, left.data());
        for (int64_t i = 0; i < size; ++i) {
          flags[order[i]] = left[i] != 0;
        }
      }
    });
  });
  const auto indices = at::nonzero(kept).select(1, 0);
  return indices.index(
      {at::argsort(scores.index({indices}), /*stable=*/true, /*dim=*/0, /*descending=*/true)});
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("nms1d", &nms1d_cpu);
}

}  // namespace avfusion::ops
