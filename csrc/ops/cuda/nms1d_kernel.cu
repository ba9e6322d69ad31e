// Temporal non-maximum suppression on CUDA, hard and soft, and voting: a block per group (video, class), all
// groups in one call. Equal scores are decided as on the CPU (the earlier segment first), so that both keep
// the same; the number that is kept has to be known on the host, so these operators wait for the device
// anyway.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "../nms1d.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 256;

// Begin of every group in the sorted column, and its length at the end: group g is [bounds[g], bounds[g +
// 1]).
at::Tensor group_bounds(const at::Tensor& sorted) {
  const auto counts =
      std::get<2>(at::unique_consecutive(sorted, /*return_inverse=*/false, /*return_counts=*/true));
  return at::constant_pad_nd(counts.cumsum(0), {1, 0}).contiguous();
}

// Segments stand by group and, within it, by descending score; `kept` starts as 1.
template <typename scalar_t>
__global__ void suppress(const scalar_t* __restrict__ segments, const int64_t* __restrict__ bounds,
                         double threshold, bool* kept) {
  const int64_t begin = bounds[blockIdx.x], end = bounds[blockIdx.x + 1];
  for (int64_t i = begin; i < end; ++i) {
    __syncthreads();
    if (!kept[i]) {  // the same for all threads: written before the barrier
      continue;
    }
    const scalar_t start = segments[2 * i], stop = segments[2 * i + 1], length = stop - start;
    for (int64_t j = i + 1 + threadIdx.x; j < end; j += THREADS) {
      const scalar_t from = segments[2 * j], to = segments[2 * j + 1];
      const scalar_t shared = (stop < to ? stop : to) - (start > from ? start : from);
      const scalar_t whole = length + (to - from) - shared;
      if (static_cast<double>(shared / whole) > threshold) {  // formed as on the CPU
        kept[j] = false;
      }
    }
  }
}

template <typename scalar_t>
struct Best {
  scalar_t score;
  int64_t place;

  __device__ bool after(const Best& other) const {
    return other.place >= 0 &&
           (place < 0 || other.score > score || (other.score == score && other.place < place));
  }
};

template <typename scalar_t>
__device__ Best<scalar_t> best_of_block(Best<scalar_t> mine, Best<scalar_t>* shared) {
  shared[threadIdx.x] = mine;
  __syncthreads();
  for (int width = THREADS / 2; width > 0; width /= 2) {
    if (threadIdx.x < width && shared[threadIdx.x].after(shared[threadIdx.x + width])) {
      shared[threadIdx.x] = shared[threadIdx.x + width];
    }
    __syncthreads();
  }
  const Best<scalar_t> best = shared[0];
  __syncthreads();
  return best;
}

// Segments stand by group and, within it, in their own order. `taken[i]` becomes the score that segment i was
// taken with; it starts as NaN. `left` holds the scores, NaN for those that have gone.
template <typename scalar_t>
__global__ void suppress_softly(const scalar_t* __restrict__ segments, const int64_t* __restrict__ bounds,
                                Decay decay, scalar_t min_score, int64_t limit, scalar_t* left,
                                scalar_t* taken) {
  __shared__ Best<scalar_t> shared[THREADS];
  const int64_t begin = bounds[blockIdx.x], end = bounds[blockIdx.x + 1];
  Best<scalar_t> mine{scalar_t(0), -1};
  for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
    if (left[i] >= min_score && mine.after({left[i], i})) {
      mine = {left[i], i};
    }
  }
  for (int64_t rounds = 0; limit == 0 || rounds < limit; ++rounds) {
    const Best<scalar_t> leader = best_of_block(mine, shared);
    if (leader.place < 0) {
      return;
    }
    const scalar_t start = segments[2 * leader.place], stop = segments[2 * leader.place + 1];
    mine = {scalar_t(0), -1};
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {  // always the same thread for one i
      if (i == leader.place) {
        taken[i] = leader.score;
        left[i] = scalar_t(NAN);
      } else if (left[i] >= min_score) {
        left[i] *= decay.factor(overlap(start, stop, segments[2 * i], segments[2 * i + 1]));
        if (left[i] >= min_score && mine.after({left[i], i})) {
          mine = {left[i], i};
        }
      }
    }
  }
}

// A thread per segment; its voters are [first, last) of the sorted ones.
template <typename scalar_t>
__global__ void vote(const scalar_t* __restrict__ voters, const scalar_t* __restrict__ scores,
                     const int64_t* __restrict__ first, const int64_t* __restrict__ last, int64_t count,
                     scalar_t threshold, scalar_t* segments) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (m >= count) {
    return;
  }
  scalar_t total = 0, start = 0, stop = 0;
  for (int64_t i = first[m]; i < last[m]; ++i) {
    const scalar_t iou = overlap(segments[2 * m], segments[2 * m + 1], voters[2 * i], voters[2 * i + 1]);
    if (iou >= threshold) {
      const scalar_t weight = iou * scores[i];
      total += weight;
      start += weight * voters[2 * i];
      stop += weight * voters[2 * i + 1];
    }
  }
  if (total > scalar_t(0)) {
    segments[2 * m] = start / total;
    segments[2 * m + 1] = stop / total;
  }
}

at::Tensor nms1d_cuda(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups,
                      double threshold) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const c10::cuda::CUDAGuard guard(segments.device());
  const auto by_score = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  if (segments.size(0) == 0) {
    return by_score;
  }
  const auto order = by_score.index({at::argsort(groups.index({by_score}), /*stable=*/true, /*dim=*/0)});
  const auto bounds = group_bounds(groups.index({order}));
  const auto type = segment_type(segments);
  const auto sorted = segments.to(type).index({order}).contiguous();
  auto kept = at::ones({segments.size(0)}, segments.options().dtype(at::kBool));
  AT_DISPATCH_FLOATING_TYPES(type, "nms1d_cuda", [&] {
    suppress<scalar_t><<<bounds.size(0) - 1, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sorted.const_data_ptr<scalar_t>(), bounds.const_data_ptr<int64_t>(), threshold,
        kept.mutable_data_ptr<bool>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  auto flags = at::empty_like(kept);
  flags.index_put_({order}, kept);
  return by_score.index({flags.index({by_score})});
}

std::tuple<at::Tensor, at::Tensor> soft_nms1d_cuda(const at::Tensor& segments, const at::Tensor& scores,
                                                   const at::Tensor& groups, std::string method,
                                                   double threshold, double sigma, double min_score,
                                                   int64_t limit) {
  check_segments(segments, groups);
  check_scores(scores, segments);
  const Decay decay = check_decay(method, threshold, sigma, limit);
  const c10::cuda::CUDAGuard guard(segments.device());
  const auto type = segment_type(segments);
  const auto order = at::argsort(groups, /*stable=*/true, /*dim=*/0);
  if (segments.size(0) == 0) {
    return {order, scores.clone()};
  }
  const auto bounds = group_bounds(groups.index({order}));
  const auto table = segments.to(type).index({order}).contiguous();
  auto left = scores.to(type).index({order}).contiguous(), taken = at::full_like(left, NAN);
  AT_DISPATCH_FLOATING_TYPES(type, "soft_nms1d_cuda", [&] {
    suppress_softly<scalar_t><<<bounds.size(0) - 1, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        table.const_data_ptr<scalar_t>(), bounds.const_data_ptr<int64_t>(), decay,
        static_cast<scalar_t>(min_score), limit, left.mutable_data_ptr<scalar_t>(),
        taken.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  // By descending score over all groups; equal ones by group and then as they came in.
  const auto places = at::nonzero(taken.isnan().logical_not()).select(1, 0);
  const auto values = taken.index({places});
  const auto by_score = at::argsort(values, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  return {order.index({places.index({by_score})}), values.index({by_score}).to(scores.scalar_type())};
}

at::Tensor vote1d_cuda(const at::Tensor& segments, const at::Tensor& groups, const at::Tensor& voters,
                       const at::Tensor& scores, const at::Tensor& voter_groups, double threshold) {
  check_segments(segments, groups);
  check_segments(voters, voter_groups, "voters");
  check_scores(scores, voters);
  TORCH_CHECK(voters.device() == segments.device(), "voters are on ", voters.device(), ", segments on ",
              segments.device());
  const c10::cuda::CUDAGuard guard(segments.device());
  const auto type = segment_type(segments);
  auto moved = segments.to(type, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const int64_t count = segments.size(0);
  if (count > 0) {
    const auto order = at::argsort(voter_groups, /*stable=*/true, /*dim=*/0);
    const auto names = voter_groups.index({order}).contiguous(), wanted = groups.contiguous();
    const auto first = at::searchsorted(names, wanted, /*out_int32=*/false, /*right=*/false);
    const auto last = at::searchsorted(names, wanted, /*out_int32=*/false, /*right=*/true);
    const auto table = voters.to(type).index({order}).contiguous();
    const auto column = scores.to(type).index({order}).contiguous();
    AT_DISPATCH_FLOATING_TYPES(type, "vote1d_cuda", [&] {
      vote<scalar_t><<<(count + THREADS - 1) / THREADS, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
          table.const_data_ptr<scalar_t>(), column.const_data_ptr<scalar_t>(),
          first.const_data_ptr<int64_t>(), last.const_data_ptr<int64_t>(), count,
          static_cast<scalar_t>(threshold), moved.mutable_data_ptr<scalar_t>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return moved.to(segments.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("nms1d", &nms1d_cuda);
  m.impl("soft_nms1d", &soft_nms1d_cuda);
  m.impl("vote1d", &vote1d_cuda);
}

}  // namespace avfusion::ops
