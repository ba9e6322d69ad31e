// Temporal non-maximum suppression on the CPU, all groups (videos, classes) in one call.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../nms1d.h"
#include "order.h"
#include "overlaps.h"
#include "timeline.h"

namespace avfusion::ops {
namespace {

// What a thread needs for a group.
template <typename scalar_t>
struct Group {
  std::vector<Keyed> by_score;
  Sorter sorter;
  Timeline<scalar_t> timeline;
  std::vector<flag_t<scalar_t>> left;  // by place on the timeline
};

// The largest number of the type that is not above the threshold: a quotient exceeds both or neither.
template <typename scalar_t>
scalar_t round_down(double threshold) {
  const scalar_t near = static_cast<scalar_t>(threshold);
  return static_cast<double>(near) > threshold
             ? std::nextafter(near, -std::numeric_limits<scalar_t>::infinity())
             : near;
}

// Marks those of the rows that stay.
template <typename scalar_t>
void suppress(const scalar_t* segments, const double* scores, const int64_t* rows, int64_t count,
              double threshold, Group<scalar_t>& group, bool* kept) {
  group.by_score.clear();
  for (int64_t i = 0; i < count; ++i) {
    group.by_score.push_back({descending(scores[rows[i]]), i});
  }
  group.sorter.sort(group.by_score);
  Timeline<scalar_t>& timeline = group.timeline;
  timeline.fill(segments, rows, count);
  group.left.assign(count, 1);
  const scalar_t most = round_down<scalar_t>(threshold);
  for (const Keyed& item : group.by_score) {
    const int64_t place = timeline.place[item.row];
    if (!group.left[place]) {
      continue;
    }
    kept[rows[item.row]] = true;
    // What was kept before is looked at again, and stays: the quotient of two is the same either way.
    const scalar_t start = timeline.start[place], stop = timeline.stop[place];
    const auto [first, last] = timeline.neighbours(start, stop, threshold);
    clear_overlapping(start, stop, timeline.start.data() + first, timeline.stop.data() + first, last - first,
                      most, group.left.data() + first);
  }
}

at::Tensor nms1d_cpu(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups,
                     double threshold) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const int64_t count = segments.size(0);
  const auto type = segment_type(segments);
  const Runs runs = rows_by_group(groups, [](int64_t) { return true; });
  const auto table = segments.to(type).contiguous(), column = scores.to(at::kDouble).contiguous();
  const auto kept = at::zeros({count}, at::kBool);
  const double* score = column.const_data_ptr<double>();
  bool* flags = kept.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(type, "nms1d_cpu", [&] {
    const scalar_t* segment = table.const_data_ptr<scalar_t>();
    const int64_t* rows = runs.rows.const_data_ptr<int64_t>();
    for_each_run<Group<scalar_t>>(runs, [&](int64_t run, Group<scalar_t>& group) {
      const int64_t begin = runs.bounds[run];
      suppress(segment, score, rows + begin, runs.bounds[run + 1] - begin, threshold, group, flags);
    });
  });
  if (at::isIntegralType(scores.scalar_type(), /*includeBool=*/false)) {  // float64 may not tell them apart
    const auto indices = at::nonzero(kept).select(1, 0);
    return indices.index(
        {at::argsort(scores.index({indices}), /*stable=*/true, /*dim=*/0, /*descending=*/true)});
  }
  return rows_by_score(
      count, [=](int64_t i) { return score[i]; }, [=](int64_t i) { return flags[i]; });
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("nms1d", &nms1d_cpu);
}

}  // namespace avfusion::ops
