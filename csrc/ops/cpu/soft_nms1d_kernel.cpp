// Soft temporal non-maximum suppression and voting on the CPU, all groups (videos, classes) in one call.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "../nms1d.h"
#include "order.h"
#include "overlaps.h"
#include "rows.h"
#include "timeline.h"
#include "tournament.h"

namespace avfusion::ops {
namespace {

// What a thread needs for a group. What is left of the scores stands by place on
// the timeline; NaN marks what has gone.
template <typename scalar_t>
class SoftGroup {
 public:
  // Takes the best of the rows and decays the rest, until nothing is left or `limit` (if any) are taken;
  // take(row, score) in order. Of equal scores the earlier row is taken.
  template <typename Take>
  void suppress(const scalar_t* segments, const scalar_t* scores, const int64_t* rows, int64_t count,
                const Decay& decay, scalar_t min_score, int64_t limit, const Take& take) {
    timeline_.fill(segments, rows, count);
    left_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      AVFUSION_PREFETCH(scores + rows[std::min(i + AHEAD, count - 1)]);
      left_.data()[timeline_.place[i]] = scores[rows[i]];
    }
    left_.refresh(0, count);
    overlap_.resize(count);
    met_.resize(count);
    const double least = decay.linear ? decay.threshold : 0;
    for (int64_t taken = 0, number = count; number > 0 && (limit == 0 || taken < limit); ++taken) {
      const int64_t leader = find_best();
      const scalar_t start = timeline_.start[leader], stop = timeline_.stop[leader];
      take(rows[timeline_.row[leader]], left_.data()[leader]);
      left_.data()[leader] = std::numeric_limits<scalar_t>::quiet_NaN();
      const auto [first, last] = timeline_.neighbours(start, stop, least);
      number -= 1 + decay_row(start, stop, first, last, decay, min_score);
      left_.refresh(first, last);
    }
  }

 private:
  static constexpr int64_t AHEAD = 16;
  Timeline<scalar_t> timeline_;
  Tournament<scalar_t> left_;
  std::vector<scalar_t> overlap_;
  std::vector<int64_t> met_;

  // Place of the best; the earliest row of equal ones.
  int64_t find_best() const {
    int64_t found = -1;
    left_.for_each_best([&](int64_t place) {
      found = found < 0 || timeline_.row[place] < timeline_.row[found] ? place : found;
    });
    return found;
  }

  // Decays what overlaps [start, stop]; returns how many have gone.
  int64_t decay_row(scalar_t start, scalar_t stop, int64_t first, int64_t last, const Decay& decay,
                    scalar_t min_score) {
    const int64_t width = last - first;
    scalar_t* score = left_.data() + first;
    overlap_row(start, stop, timeline_.start.data() + first, timeline_.stop.data() + first, width,
                overlap_.data());
    int64_t number = 0, gone = 0;
    for (int64_t i = 0; i < width; ++i) {  // without branches, which nobody could predict
      met_[number] = i;
      number += (overlap_[i] > 0) & (score[i] == score[i]);
    }
    for (int64_t k = 0; k < number; ++k) {
      const int64_t i = met_[k];
      score[i] *= decay.factor(overlap_[i]);
      if (!(score[i] >= min_score)) {
        score[i] = std::numeric_limits<scalar_t>::quiet_NaN();
        ++gone;
      }
    }
    return gone;
  }
};

std::tuple<at::Tensor, at::Tensor> soft_nms1d_cpu(const at::Tensor& segments, const at::Tensor& scores,
                                                  const at::Tensor& groups, std::string method,
                                                  double threshold, double sigma, double min_score,
                                                  int64_t limit) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const Decay decay = check_decay(method, threshold, sigma, limit);
  const auto type = segment_type(segments);
  const auto table = segments.to(type).contiguous(), column = scores.to(type).contiguous();
  at::Tensor kept, decayed;
  AT_DISPATCH_FLOATING_TYPES(type, "soft_nms1d_cpu", [&] {
    const scalar_t* segment = table.const_data_ptr<scalar_t>();
    const scalar_t* score = column.const_data_ptr<scalar_t>();
    const scalar_t least = static_cast<scalar_t>(min_score);
    const Runs runs = rows_by_group(groups, [=](int64_t i) { return score[i] >= least; });
    const int64_t* rows = runs.rows.const_data_ptr<int64_t>();
    std::vector<int64_t> taken(runs.rows.size(0), -1);
    std::vector<scalar_t> value(taken.size());
    for_each_run<SoftGroup<scalar_t>>(runs, [&](int64_t run, SoftGroup<scalar_t>& group) {
      const int64_t begin = runs.bounds[run];
      int64_t place = begin;
      group.suppress(segment, score, rows + begin, runs.bounds[run + 1] - begin, decay, least, limit,
                     [&](int64_t row, scalar_t found) {
                       taken[place] = row;
                       value[place++] = found;
                     });
    });
    kept = rows_by_score(
        static_cast<int64_t>(taken.size()), [&](int64_t i) { return value[i]; },
        [&](int64_t i) { return taken[i] >= 0; });
    decayed = at::empty({kept.size(0)}, table.options());
    int64_t* to = kept.mutable_data_ptr<int64_t>();
    scalar_t* of = decayed.mutable_data_ptr<scalar_t>();
    for_each_part(kept.size(0), [&](int64_t first, int64_t last, int64_t) {
      for (int64_t k = first; k < last; ++k) {
        of[k] = value[to[k]];
        to[k] = taken[to[k]];
      }
    });
  });
  return {kept, decayed.to(scores.scalar_type())};
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
