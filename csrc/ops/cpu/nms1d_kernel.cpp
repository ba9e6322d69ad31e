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
  const auto by_score = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const auto by_group = at::argsort(groups.index({by_score}), /*stable=*/true, /*dim=*/0);
  const auto order = by_score.index({by_group});
  const auto sorted_groups = groups.index({order}).contiguous();
  const auto sorted = segments.index({order}).t().contiguous();

  const auto bounds = run_bounds(sorted_groups);
  auto kept = at::ones({count}, at::kByte);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, segments.scalar_type(), "nms1d_cpu", [&] {
    const scalar_t* start = sorted.const_data_ptr<scalar_t>();
    uint8_t* flags = kept.mutable_data_ptr<uint8_t>();
    at::parallel_for(0, static_cast<int64_t>(bounds.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        suppress(start, start + count, bounds[g], bounds[g + 1], threshold, flags);
      }
    });
  });
  // Back to the order of the scores over all groups.
  auto flags = at::empty({count}, at::kBool);
  flags.index_put_({order}, kept.to(at::kBool));
  return by_score.index({flags.index({by_score})});
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("nms1d", &nms1d_cpu);
}

}  // namespace avfusion::ops
