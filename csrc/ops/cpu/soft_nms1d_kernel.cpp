// Soft temporal non-maximum suppression and voting on the CPU, all groups (videos, classes) in one call.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "../nms1d.h"
#include "groups.h"

namespace avfusion::ops {
namespace {

template <typename scalar_t>
struct Candidate {
  scalar_t start;
  scalar_t stop;
  scalar_t score;
  int64_t index;
};

// Takes the best candidate and decays the rest, until nothing is left or `limit` (if any) are taken. The
// candidates keep their order, so that of equal scores the earlier is found. `take(index, score)` in order.
template <typename scalar_t, typename Take>
void suppress_softly(std::vector<Candidate<scalar_t>>& left, const Decay& decay, scalar_t min_score,
                     int64_t limit, const Take& take) {
  size_t best = 0;
  for (size_t i = 1; i < left.size(); ++i) {
    best = left[i].score > left[best].score ? i : best;
  }
  for (int64_t taken = 0; !left.empty() && (limit == 0 || taken < limit); ++taken) {
    const Candidate<scalar_t> leader = left[best];
    take(leader.index, leader.score);
    size_t count = 0;
    best = 0;
    for (size_t i = 0; i < left.size(); ++i) {
      Candidate<scalar_t> other = left[i];
      if (other.index == leader.index) {
        continue;
      }
      // Most pairs do not meet.
      if (other.stop > leader.start && leader.stop > other.start) {
        other.score *= decay.factor(overlap(leader.start, leader.stop, other.start, other.stop));
        if (!(other.score >= min_score)) {
          continue;
        }
      }
      left[count] = other;
      best = other.score > left[best].score ? count : best;
      ++count;
    }
    left.resize(count);
  }
}

std::tuple<at::Tensor, at::Tensor> soft_nms1d_cpu(const at::Tensor& segments, const at::Tensor& scores,
                                                  const at::Tensor& groups, std::string method,
                                                  double threshold, double sigma, double min_score,
                                                  int64_t limit) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const Decay decay = check_decay(method, threshold, sigma, limit);
  const auto type = segment_type(segments);
  const auto order = at::argsort(groups, /*stable=*/true, /*dim=*/0).contiguous();
  const auto bounds = run_bounds(groups.index({order}).contiguous());
  const auto table = segments.to(type).contiguous(), column = scores.to(type).contiguous();
  const int64_t count = segments.size(0);
  auto kept = at::full({count}, -1, order.options()), decayed = at::empty({count}, table.options());
  AT_DISPATCH_FLOATING_TYPES(type, "soft_nms1d_cpu", [&] {
    const scalar_t* segment = table.const_data_ptr<scalar_t>();
    const scalar_t* score = column.const_data_ptr<scalar_t>();
    const int64_t* row = order.const_data_ptr<int64_t>();
    int64_t* to = kept.mutable_data_ptr<int64_t>();
    scalar_t* value = decayed.mutable_data_ptr<scalar_t>();
    const scalar_t least = static_cast<scalar_t>(min_score);
    at::parallel_for(0, static_cast<int64_t>(bounds.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      std::vector<Candidate<scalar_t>> left;
      for (int64_t g = begin; g < end; ++g) {
        left.clear();
        for (int64_t i = bounds[g]; i < bounds[g + 1]; ++i) {
          const int64_t r = row[i];
          if (score[r] >= least) {
            left.push_back({segment[2 * r], segment[2 * r + 1], score[r], r});
          }
        }
        int64_t place = bounds[g];
        suppress_softly(left, decay, least, limit, [&](int64_t index, scalar_t found) {
          to[place] = index;
          value[place++] = found;
        });
      }
    });
  });
  const auto places = at::nonzero(kept.ge(0)).select(1, 0);
  const auto values = decayed.index({places});
  const auto by_score = at::argsort(values, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  return {kept.index({places.index({by_score})}), values.index({by_score}).to(scores.scalar_type())};
}

at::Tensor vote1d_cpu(const at::Tensor& segments, const at::Tensor& groups, const at::Tensor& voters,
                      const at::Tensor& scores, const at::Tensor& voter_groups, double threshold) {
  check_segments(segments, groups);
  check_segments(voters, voter_groups, "voters");
  check_scores(scores, voters);
  const auto type = segment_type(segments);
  const auto order = at::argsort(voter_groups, /*stable=*/true, /*dim=*/0);
  const auto names = voter_groups.index({order}).contiguous();
  const auto first = at::searchsorted(names, groups.contiguous(), /*out_int32=*/false, /*right=*/false);
  const auto last = at::searchsorted(names, groups.contiguous(), /*out_int32=*/false, /*right=*/true);
  const auto table = voters.to(type).index({order}).contiguous();
  const auto column = scores.to(type).index({order}).contiguous();
  auto moved = segments.to(type).contiguous().clone();
  AT_DISPATCH_FLOATING_TYPES(type, "vote1d_cpu", [&] {
    const scalar_t* voter = table.const_data_ptr<scalar_t>();
    const scalar_t* score = column.const_data_ptr<scalar_t>();
    const int64_t* from = first.const_data_ptr<int64_t>();
    const int64_t* to = last.const_data_ptr<int64_t>();
    scalar_t* segment = moved.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, segments.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        scalar_t total = 0, start = 0, stop = 0;
        for (int64_t i = from[m]; i < to[m]; ++i) {
          const scalar_t iou = overlap(segment[2 * m], segment[2 * m + 1], voter[2 * i], voter[2 * i + 1]);
          if (iou >= static_cast<scalar_t>(threshold)) {
            const scalar_t weight = iou * score[i];
            total += weight;
            start += weight * voter[2 * i];
            stop += weight * voter[2 * i + 1];
          }
        }
        if (total > 0) {
          segment[2 * m] = start / total;
          segment[2 * m + 1] = stop / total;
        }
      }
    });
  });
  return moved.to(segments.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("soft_nms1d", &soft_nms1d_cpu);
  m.impl("vote1d", &vote1d_cpu);
}

}  // namespace avfusion::ops
