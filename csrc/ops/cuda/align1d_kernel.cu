// RoI alignment along time on CUDA. No atomics: the same bits every time.
//
// Forward, a block has TILE channels of a video in shared memory, and a thread a bin of all of them.
// Backward, a thread has a channel, whose steps lie in shared memory, and goes through the samples of one roi
// after the other; blocks that share a video are summed at the end.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "../align1d.h"
#include "align_rois.h"
#include "rois_by_video.h"
#include "video_tiles.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 256;
constexpr int TILE = 16;     // channels of a block, forward
constexpr int COLUMNS = 64;  // channels of a block, backward
constexpr int BINS = 32;     // whose gradients are in shared memory together

// features (batch, channels, frames) -> output (rois, channels, bins). Block (tile of a video, part of the
// rois).
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(THREADS)
    align(const scalar_t* __restrict__ features, const acc_t* __restrict__ rois, int64_t count,
          int64_t per_block, int64_t batch, int64_t channels, int64_t frames, int bins,
          int64_t sampling_ratio, scalar_t* __restrict__ output) {
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ RoisOfVideo<THREADS> list;
  const int64_t tiles = (channels + TILE - 1) / TILE, video = blockIdx.x / tiles;
  const int64_t channel = blockIdx.x % tiles * TILE;
  const int here = static_cast<int>(channels - channel < TILE ? channels - channel : TILE);
  const scalar_t* rows = features + (video * channels + channel) * frames;
  if (STAGED) {
    stage<THREADS>(rows, static_cast<int>(here * frames), reinterpret_cast<scalar_t*>(staged));
    rows = reinterpret_cast<const scalar_t*>(staged);
  }
  using place_t = std::conditional_t<STAGED, int, int64_t>;
  const auto stride = static_cast<place_t>(frames);
  const int64_t begin = blockIdx.y * per_block, end = begin + per_block < count ? begin + per_block : count;
  for (int64_t base = begin; base < end; base += THREADS) {
    const int items =
        bins * list.find(base, end, [&](int64_t r) { return video_of(rois[3 * r], batch) == video; });
    for (int item = threadIdx.x; item < items; item += THREADS) {
      const int64_t r = list.roi[item / bins];
      const int b = item % bins;
      const AlignedRoi<acc_t> roi(rois[3 * r + 1], rois[3 * r + 2], bins, sampling_ratio);
      const bool bad = !roi.valid || names_no_video(rois[3 * r], batch);
      acc_t sum[TILE];
#pragma unroll
      for (int k = 0; k < TILE; ++k) {
        sum[k] = bad ? static_cast<acc_t>(NAN) : acc_t(0);
      }
      if (!bad) {
        roi.visit(b, frames, [&](int64_t step, acc_t weight) {
          const scalar_t* at = rows + static_cast<place_t>(step);
#pragma unroll
          for (int k = 0; k < TILE; ++k) {
            sum[k] = fused(weight, static_cast<acc_t>(at[(k < here ? k : 0) * stride]), sum[k]);
          }
        });
      }
      scalar_t* to = output + (r * channels + channel) * bins + b;
#pragma unroll
      for (int k = 0; k < TILE; ++k) {
        if (k < here) {
          to[k * bins] = static_cast<scalar_t>(sum[k]);
        }
      }
    }
  }
}

template <typename acc_t>
struct Sample {
  int left;  // step before it; -1: outside the features
  int bin;   // of those in shared memory
  acc_t left_weight, right_weight;
};

// grad (rois, channels, bins) -> sums (parts, batch, frames, channels), zeroed unless STAGED. Block (COLUMNS
// channels of a video, part of its rois).
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(COLUMNS)
    align_backward(const scalar_t* __restrict__ grad, const acc_t* __restrict__ rois, RoiOrder order,
                   int64_t batch, int64_t channels, int64_t frames, int bins, int64_t sampling_ratio,
                   acc_t* sums) {
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ acc_t grads[COLUMNS][BINS + 1];
  __shared__ Sample<acc_t> samples[COLUMNS];
  const int64_t tiles = (channels + COLUMNS - 1) / COLUMNS, video = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * COLUMNS, channel = first + threadIdx.x;
  const int here = static_cast<int>(channels - first < COLUMNS ? channels - first : COLUMNS);
  acc_t* target = sums + (blockIdx.y * batch + video) * frames * channels + channel;
  acc_t* column = STAGED ? reinterpret_cast<acc_t*>(staged) + threadIdx.x : target;
  const int64_t stride = STAGED ? COLUMNS : channels;
  if (STAGED) {
    for (int64_t t = 0; t < frames; ++t) {
      column[t * stride] = 0;
    }
  }
  const int64_t start = order.begin(video), all = order.end(video) - start;
  const int64_t begin = start + all * blockIdx.y / gridDim.y,
                end = start + all * (blockIdx.y + 1) / gridDim.y;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r = order.roi(static_cast<int>(i));
    const AlignedRoi<acc_t> roi(rois[3 * r + 1], rois[3 * r + 2], bins, sampling_ratio);
    if (!roi.valid) {
      continue;
    }
    const int64_t per_bin = static_cast<int64_t>(roi.count);
    const acc_t share = acc_t(1) / roi.count;
    int64_t step = -1;  // whose sum is `now`; that of the next one is `next`
    acc_t now = 0, next = 0;
    const auto leave = [&](int64_t for_step) {
      if (step >= 0) {
        column[step * stride] += now;
        if (for_step != step + 1 && step + 1 < frames) {
          column[(step + 1) * stride] += next;
          next = 0;
        }
      }
      now = next;
      next = 0;
      step = for_step;
    };
    for (int b0 = 0; b0 < bins; b0 += BINS) {
      const int width = bins - b0 < BINS ? bins - b0 : BINS;
      __syncthreads();  // the previous gradients and samples have been used
      const scalar_t* from = grad + (r * channels + first) * bins + b0;
      for (int j = threadIdx.x; j < here * BINS; j += COLUMNS) {
        const int c = j / BINS, b = j % BINS;
        if (b < width) {
          grads[c][b] = static_cast<acc_t>(from[static_cast<int64_t>(c) * bins + b]);
        }
      }
      // Samples before the features and behind them are jumped over.
      const acc_t low = roi.start + static_cast<acc_t>(b0) * roi.size,
                  most = roi.count * static_cast<acc_t>(width);
      const int64_t from_sample = roi.sample_near(acc_t(-1), low, most, acc_t(-1));
      const int64_t to_sample = roi.sample_near(static_cast<acc_t>(frames), low, most, acc_t(1));
      for (int64_t base = from_sample; base < to_sample; base += COLUMNS) {
        if (base != from_sample) {
          __syncthreads();
        }
        const int64_t sample = base + threadIdx.x, bin = sample / per_bin;
        if (sample < to_sample) {
          const acc_t at = roi.place(b0 + bin, sample % per_bin, frames);
          const int left = at < acc_t(0) ? -1 : static_cast<int>(at);
          const acc_t part = at - static_cast<acc_t>(left);
          samples[threadIdx.x] = {left, static_cast<int>(bin), (acc_t(1) - part) * share, part * share};
        }
        __syncthreads();
        const int found = static_cast<int>(to_sample - base < COLUMNS ? to_sample - base : COLUMNS);
        if (threadIdx.x < here) {
          for (int j = 0; j < found; ++j) {
            const Sample<acc_t> taken = samples[j];
            if (taken.left < 0) {
              continue;
            }
            if (taken.left != step) {
              leave(taken.left);
            }
            const acc_t value = grads[threadIdx.x][taken.bin];
            now = fused(taken.left_weight, value, now);
            next = fused(taken.right_weight, value, next);
          }
        }
      }
    }
    if (threadIdx.x < here) {
      leave(-2);
    }
  }
  if (STAGED && threadIdx.x < here) {
    for (int64_t t = 0; t < frames; ++t) {
      target[t * channels] = column[t * stride];
    }
  }
}

at::Tensor align1d_cuda(const at::Tensor& features, const at::Tensor& rois, int64_t output_size,
                        int64_t sampling_ratio, bool check_rois) {
  check_align1d(features, rois, output_size, sampling_ratio);
  TORCH_CHECK(output_size <= LARGEST_OUTPUT, "output_size is at most ", LARGEST_OUTPUT, " on CUDA, not ",
              output_size);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), batch = features.size(0), channels = features.size(1),
                frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  const auto input = features.contiguous(), table = table_of(rois, features);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "align1d_cuda", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    if (check_rois || batch == 0) {
      check_videos<acc_t>(table, batch);
      check_bounds<acc_t>(table, 1, output_size, sampling_ratio);
    }
    if (output.numel() == 0 || batch == 0) {
      return;
    }
    const int64_t blocks = batch * ((channels + TILE - 1) / TILE), bytes = TILE * frames * sizeof(scalar_t);
    TORCH_CHECK(blocks < (int64_t(1) << 31), "features are too many for one call: ", blocks, " blocks");
    const int64_t parts = parts_for(blocks, 16, (count + 31) / 32);
    const bool staged = bytes <= most_shared() / 2;  // so that two blocks fit
    const auto kernel = staged ? align<scalar_t, acc_t, true> : align<scalar_t, acc_t, false>;
    allow_shared(kernel, staged ? bytes : 0);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
    kernel<<<grid, THREADS, staged ? bytes : 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), count, (count + parts - 1) / parts,
        batch, channels, frames, static_cast<int>(output_size), sampling_ratio,
        output.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

at::Tensor align1d_backward_cuda(const at::Tensor& grad, const at::Tensor& rois, int64_t batch,
                                 int64_t frames, int64_t sampling_ratio) {
  check_align1d_backward(grad, rois, batch, frames, sampling_ratio);
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  if (grad.numel() == 0 || batch == 0) {
    return at::zeros({batch, channels, frames}, grad.options());
  }
  TORCH_CHECK(bins <= LARGEST_OUTPUT && frames < (int64_t(1) << 31), "grad is too large for one call");
  const auto from = grad.contiguous(), table = table_of(rois, grad);
  const int64_t blocks = batch * ((channels + COLUMNS - 1) / COLUMNS);
  TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
  const int64_t parts = parts_for(blocks, 8, (count / batch + 15) / 16);
  at::Tensor sums;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, from.scalar_type(), "align1d_backward_cuda", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const auto number = table.const_data_ptr<acc_t>();
    const OrderMemory sorted = rois_by_video<acc_t>(table, batch, /*lost=*/-1);
    const int64_t bytes = frames * COLUMNS * static_cast<int64_t>(sizeof(acc_t));
    const bool staged = bytes <= most_shared() / 2;  // so that two blocks fit
    const auto options = grad.options().dtype(sum_type(grad));
    sums = staged ? at::empty({parts, batch, frames, channels}, options)
                  : at::zeros({parts, batch, frames, channels}, options);
    const auto kernel =
        staged ? align_backward<scalar_t, acc_t, true> : align_backward<scalar_t, acc_t, false>;
    allow_shared(kernel, staged ? bytes : 0);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
    kernel<<<grid, COLUMNS, staged ? bytes : 0, stream>>>(
        from.const_data_ptr<scalar_t>(), number, sorted.view(), batch, channels, frames,
        static_cast<int>(bins), sampling_ratio, sums.mutable_data_ptr<acc_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  const auto total = parts == 1 ? sums.select(0, 0) : sums.sum(0);
  return total.transpose(1, 2).contiguous().to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("align1d", &align1d_cuda);
  m.impl("align1d_backward", &align1d_backward_cuda);
}

}  // namespace avfusion::ops
