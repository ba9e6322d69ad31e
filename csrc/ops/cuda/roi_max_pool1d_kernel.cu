// RoI max pooling along time on CUDA, forward and backward. No atomics: the same bits every time.
//
// Forward, a block has TILE channels of a video in shared memory, and a thread a bin of all of them, so that
// bounds are computed once for TILE values and neighbouring threads write neighbouring bins. Backward, a warp
// has a channel, whose steps lie in shared memory: it takes 32 gradients at a time, and those of one step one
// after the other.
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

#include "../roi_max_pool1d.h"
#include "roi_check.h"
#include "video_tiles.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 256;
constexpr int TILE = 8;   // channels of a block
constexpr int WARPS = 8;  // of a block, backward
constexpr int AHEAD = 4;  // gradients that a thread reads before it adds the first

// features (batch, channels, frames) -> output, argmax (rois, channels, bins). Block (tile of a video, part of
// the rois).
template <typename scalar_t, typename coord_t, bool STAGED>
__global__ void __launch_bounds__(THREADS)
    pool(const scalar_t* __restrict__ features, const coord_t* __restrict__ rois, int64_t count,
         int64_t per_block, int64_t batch, int64_t channels, int64_t frames, int bins, coord_t scale,
         scalar_t* __restrict__ output, int* __restrict__ argmax) {
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
  place_t row[TILE];
#pragma unroll
  for (int k = 0; k < TILE; ++k) {
    row[k] = static_cast<place_t>((k < here ? k : 0) * frames);
  }
  const int64_t begin = blockIdx.y * per_block, end = begin + per_block < count ? begin + per_block : count;
  for (int64_t base = begin; base < end; base += THREADS) {
    const int items = list.find(rois, base, end, video, batch) * bins;
    for (int item = threadIdx.x; item < items; item += THREADS) {
      const int64_t r = list.roi[item / bins];
      const int b = item % bins;
      const bool missing = names_no_video(rois[3 * r], batch);
      const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, bins);
      const bool readable = !missing && !roi.malformed();
      coord_t best[TILE];
      int where[TILE];
#pragma unroll
      for (int k = 0; k < TILE; ++k) {
        best[k] = missing ? static_cast<coord_t>(NAN) : coord_t(0);
        where[k] = missing || readable ? -1 : 0;
      }
      const Bin bin = readable ? roi.bin(b, frames) : Bin{0, 0};
      const auto first = static_cast<place_t>(bin.first), last = static_cast<place_t>(bin.last);
      if (first < last) {
#pragma unroll
        for (int k = 0; k < TILE; ++k) {
          best[k] = static_cast<coord_t>(rows[row[k] + first]) - coord_t(1);  // see the CPU kernel
        }
      }
      for (place_t t = first; t < last; ++t) {
#pragma unroll
        for (int k = 0; k < TILE; ++k) {
          const coord_t value = static_cast<coord_t>(rows[row[k] + t]);
          if (value > best[k]) {
            best[k] = value;
            where[k] = static_cast<int>(t);
          }
        }
      }
      const int64_t to = (r * channels + channel) * bins + b;
#pragma unroll
      for (int k = 0; k < TILE; ++k) {
        if (k < here) {
          output[to + k * bins] = static_cast<scalar_t>(best[k]);
          argmax[to + k * bins] = where[k];
        }
      }
    }
  }
}

// What a warp adds up for one channel: values at steps, in the order of the calls and, within one, of lanes.
template <typename acc_t>
__device__ __forceinline__ void add_in_order(acc_t* row, int step, acc_t value, int lane) {
  const unsigned same = __match_any_sync(0xffffffffu, step < 0 ? -1 - lane : step);
  const int rank = __popc(same & ((1u << lane) - 1u));
  for (int turn = 0; __any_sync(0xffffffffu, step >= 0 && rank >= turn); ++turn) {
    if (step >= 0 && rank == turn) {
      row[step] += value;
    }
    __syncwarp();
  }
}

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames). A block has WARPS / shares channels
// of a video; the warps of a channel each take a share of the rois into a row of their own. Without room in
// shared memory a channel has one warp, and the row is the output, zeroed and of type acc_t.
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(WARPS * 32)
    add(const scalar_t* __restrict__ grad, const int* __restrict__ argmax,
        const int64_t* __restrict__ batch_index, int64_t count, int shares, int64_t channels, int64_t frames,
        int bins, scalar_t* __restrict__ output, acc_t* __restrict__ sums) {
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ int64_t list[WARPS][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t per_video = (channels + warps / shares - 1) / (warps / shares);
  const int64_t video = blockIdx.x / per_video, first = blockIdx.x % per_video * (warps / shares);
  const int64_t channel = first + warp / shares;
  acc_t* row = STAGED ? reinterpret_cast<acc_t*>(staged) + warp * frames
                      : sums + (video * channels + channel) * frames;
  if (STAGED) {
    for (int64_t t = lane; t < frames; t += 32) {
      row[t] = 0;
    }
    __syncwarp();
  }
  const int64_t share = (count + shares - 1) / shares, begin = warp % shares * share;
  const int64_t end = channel >= channels ? 0 : begin + share < count ? begin + share : count;
  for (int64_t base = begin; base < end; base += 32) {
    const bool mine = base + lane < end && batch_index[base + lane] == video;
    const unsigned hits = __ballot_sync(0xffffffffu, mine);
    if (mine) {
      list[warp][__popc(hits & ((1u << lane) - 1u))] = base + lane;
    }
    __syncwarp();
    const int items = __popc(hits) * bins;
    for (int item = lane; item - lane < items; item += 32 * AHEAD) {
      int steps[AHEAD];
      scalar_t values[AHEAD];
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        const int i = item + 32 * a;
        steps[a] = -1;
        values[a] = scalar_t(0);
        if (i < items) {
          const int64_t from = (list[warp][i / bins] * channels + channel) * bins + i % bins;
          steps[a] = argmax[from];
          values[a] = grad[from];
        }
      }
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        add_in_order(row, steps[a] < frames ? steps[a] : -1, static_cast<acc_t>(values[a]), lane);
      }
    }
    __syncwarp();  // the list has been used
  }
  if (!STAGED) {
    return;
  }
  __syncthreads();
  const acc_t* rows = reinterpret_cast<const acc_t*>(staged);
  const int64_t rest = channels - first, here = rest < warps / shares ? rest : warps / shares;
  for (int64_t i = threadIdx.x; i < here * frames; i += blockDim.x) {
    const int64_t c = i / frames, t = i % frames;
    acc_t sum = rows[c * shares * frames + t];
    for (int s = 1; s < shares; ++s) {
      sum += rows[(c * shares + s) * frames + t];
    }
    output[(video * channels + first) * frames + i] = static_cast<scalar_t>(sum);
  }
}

void check_bins(int64_t bins) {
  TORCH_CHECK(bins <= LARGEST_OUTPUT, "output_size is at most ", LARGEST_OUTPUT, " on CUDA, not ", bins);
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cuda(const at::Tensor& features, const at::Tensor& rois,
                                                       int64_t output_size, double spatial_scale,
                                                       bool check_rois) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  check_bins(output_size);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), batch = features.size(0), channels = features.size(1),
                frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  auto argmax = at::empty({count, channels, output_size}, features.options().dtype(at::kInt));
  const auto input = features.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "roi_max_pool1d_cuda", [&] {
    using coord_t = at::opmath_type<scalar_t>;
    const auto table = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
    if (check_rois || batch == 0) {  // without a video there is none to read instead
      check_videos<coord_t>(table, batch);
    }
    if (output.numel() == 0 || batch == 0) {
      return;
    }
    const int64_t blocks = batch * ((channels + TILE - 1) / TILE), bytes = TILE * frames * sizeof(scalar_t);
    TORCH_CHECK(blocks < (int64_t(1) << 31), "features are too many for one call: ", blocks, " blocks");
    const int64_t parts = parts_for(blocks, 4, (count + 31) / 32);
    const int64_t per_block = (count + parts - 1) / parts;
    const bool staged = bytes <= STAGED_BYTES;
    const auto kernel = staged ? pool<scalar_t, coord_t, true> : pool<scalar_t, coord_t, false>;
    allow_shared(kernel, staged ? bytes : 0);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
    kernel<<<grid, THREADS, staged ? bytes : 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), table.template const_data_ptr<coord_t>(), count, per_block, batch,
        channels, frames, static_cast<int>(output_size), static_cast<coord_t>(spatial_scale),
        output.mutable_data_ptr<scalar_t>(), argmax.mutable_data_ptr<int>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {output, argmax};
}

at::Tensor roi_max_pool1d_backward_cuda(const at::Tensor& grad, const at::Tensor& argmax,
                                        const at::Tensor& batch_index, int64_t batch, int64_t frames) {
  check_roi_max_pool1d_backward(grad, argmax, batch_index, batch, frames);
  check_bins(grad.size(2));
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  if (grad.numel() == 0 || batch * frames == 0) {
    return at::zeros({batch, channels, frames}, grad.options());
  }
  const auto from = grad.contiguous(), where = argmax.contiguous(), index = batch_index.contiguous();
  auto output = at::empty({batch, channels, frames}, grad.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "roi_max_pool1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;  // the frames of a short roi get many contributions
        const int64_t row = frames * static_cast<int64_t>(sizeof(acc_t));
        int warps = WARPS;
        while (warps > 1 && warps * row > STAGED_BYTES) {
          warps /= 2;
        }
        const bool staged = warps * row <= STAGED_BYTES;
        int shares = 1;
        while (staged && shares < warps && batch * channels * shares < 16 * multiprocessors() &&
               count >= 64 * shares) {
          shares *= 2;
        }
        warps = staged ? warps : WARPS;
        const int64_t blocks = batch * ((channels + warps / shares - 1) / (warps / shares));
        TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
        const auto type = c10::CppTypeToScalarType<acc_t>::value;
        auto sums = at::zeros({staged ? 0 : batch, channels, frames}, grad.options().dtype(type));
        const auto kernel = staged ? add<scalar_t, acc_t, true> : add<scalar_t, acc_t, false>;
        allow_shared(kernel, staged ? warps * row : 0);
        kernel<<<static_cast<unsigned>(blocks), warps * 32, staged ? warps * row : 0,
                 c10::cuda::getCurrentCUDAStream()>>>(
            from.const_data_ptr<scalar_t>(), where.const_data_ptr<int>(), index.const_data_ptr<int64_t>(),
            count, shares, channels, frames, static_cast<int>(bins), output.mutable_data_ptr<scalar_t>(),
            sums.template mutable_data_ptr<acc_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
        if (!staged) {
          output = sums.to(grad.scalar_type());
        }
      });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_cuda);
  m.impl("roi_max_pool1d_backward", &roi_max_pool1d_backward_cuda);
}

}  // namespace avfusion::ops
