// RoI max pooling along time on CUDA, forward and backward. No atomics: the same bits every time.
//
// Forward, a block has 32 channels of a video in shared memory, a warp a roi, a lane a channel: all lanes
// agree on the bounds of a bin, which the block computes beforehand. Backward, some lanes have the bins of a
// roi in one channel, and add to the steps of that channel in shared memory.
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

constexpr int LANES = 32;
constexpr int POOLERS = 1024;  // threads of a block, forward
constexpr int ROIS = 128;      // whose bounds are in shared memory
constexpr int BINS = 8;        // of them, and of a thread
constexpr int PITCH = LANES + 1;  // of a step in shared memory, so that a channel's steps lie in all banks
constexpr int ADDERS = 256;       // threads of a block at most, backward
constexpr int AHEAD = 4;          // rois whose gradients a thread reads before it adds the first
constexpr int QUAD = 4;           // neighbouring bins of a thread

// Channels [channel, channel + 32) of (channels, frames) to (frames, PITCH); a warp takes a channel.
template <typename scalar_t>
__device__ void stage_turned(const scalar_t* __restrict__ rows, int here, int64_t frames, scalar_t* to) {
  for (int c = threadIdx.x / LANES; c < here; c += blockDim.x / LANES) {
    const scalar_t* row = rows + c * frames;
#pragma unroll 8
    for (int t = threadIdx.x % LANES; t < static_cast<int>(frames); t += LANES) {
      to[t * PITCH + c] = row[t];
    }
  }
}

template <typename value_t>
struct alignas(4 * sizeof(value_t)) Four {
  value_t value[4];
};

// The eight values of every lane to `to`, eight apart from lane to lane. Lanes first exchange halves with their
// neighbour, so that both write halves of the same 8 numbers: memory is written in whole sectors.
template <typename value_t>
__device__ __forceinline__ void store_eight(value_t* to, const value_t (&values)[BINS], int lane, int here) {
  const bool odd = lane % 2 != 0;
  Four<value_t> kept, given, got;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    kept.value[k] = odd ? values[k + 4] : values[k];
    given.value[k] = odd ? values[k] : values[k + 4];
  }
#pragma unroll
  for (int word = 0; word < static_cast<int>(sizeof(got) / sizeof(int)); ++word) {
    reinterpret_cast<int*>(&got)[word] =
        __shfl_xor_sync(0xffffffffu, reinterpret_cast<const int*>(&given)[word], 1);
  }
  // Even lanes: first half of their own, then of the neighbour's; odd ones: second of the neighbour's, own.
  Four<value_t> of_even, of_odd;  // chosen by value: else each choice becomes a store of its own
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    of_even.value[k] = odd ? got.value[k] : kept.value[k];
    of_odd.value[k] = odd ? kept.value[k] : got.value[k];
  }
  const int pair = lane - odd, half = odd ? 4 : 0;
  if (pair < here) {
    *reinterpret_cast<Four<value_t>*>(to + pair * BINS + half) = of_even;
  }
  if (pair + 1 < here) {
    *reinterpret_cast<Four<value_t>*>(to + (pair + 1) * BINS + half) = of_odd;
  }
}

// Of a bin: its first step and how many there are; 0 for a roi that is not to be read as well.
struct Bounds {
  int first, count;
};

// Of two numbers the larger, of a number and NaN the number.
__device__ __forceinline__ float larger(float a, float b) {
  return fmaxf(a, b);
}

__device__ __forceinline__ double larger(double a, double b) {
  return fmax(a, b);
}

// The first of the largest of COUNT steps, if it is greater than `best`; `at` is step `j`. Without PLACES, only
// which value it has: one instruction instead of three.
template <int COUNT, bool PLACES, typename scalar_t, typename coord_t, typename place_t>
__device__ __forceinline__ void take(const scalar_t* at, int j, place_t pitch, coord_t& best, int& where) {
  coord_t values[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    values[k] = static_cast<coord_t>(at[k * pitch]);
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    if constexpr (PLACES) {
      if (values[k] > best) {
        best = values[k];
        where = j + k;
      }
    } else {
      best = larger(best, values[k]);
    }
  }
}

// The same for any number of steps: all lanes have the same, and the usual ones are read at once.
template <bool PLACES, typename scalar_t, typename coord_t, typename place_t>
__device__ __forceinline__ void take_all(const scalar_t* at, int count, place_t pitch, coord_t& best,
                                         int& where) {
  int j = 0;
  for (; count - j > 6; j += 4) {
    take<4, PLACES>(at + j * pitch, j, pitch, best, where);
  }
  at += j * pitch;
  switch (count - j) {
    case 1:
      return take<1, PLACES>(at, j, pitch, best, where);
    case 2:
      return take<2, PLACES>(at, j, pitch, best, where);
    case 3:
      return take<3, PLACES>(at, j, pitch, best, where);
    case 4:
      return take<4, PLACES>(at, j, pitch, best, where);
    case 5:
      return take<5, PLACES>(at, j, pitch, best, where);
    default:
      return take<6, PLACES>(at, j, pitch, best, where);
  }
}

// features (batch, channels, frames) if STAGED, else (batch, frames, channels) -> output, argmax (rois,
// channels, bins), the latter only with PLACES. Block (32 channels of a video, part of the rois).
template <typename scalar_t, typename coord_t, bool STAGED, bool PLACES>
__global__ void __launch_bounds__(POOLERS)
    pool(const scalar_t* __restrict__ features, const coord_t* __restrict__ rois, int64_t count,
         int64_t per_block, int64_t batch, int64_t channels, int64_t frames, int bins, coord_t scale,
         scalar_t* __restrict__ output, int* __restrict__ argmax) {
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ RoisOfVideo<POOLERS> list;
  __shared__ Bounds bounds[ROIS * BINS];
  const int64_t tiles = (channels + LANES - 1) / LANES, video = blockIdx.x / tiles;
  const int64_t channel = blockIdx.x % tiles * LANES;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const int here = static_cast<int>(channels - channel < LANES ? channels - channel : LANES);
  const int own = lane < here ? lane : 0;
  const scalar_t* column = features + video * frames * channels + channel + own;
  if (STAGED) {
    auto* to = reinterpret_cast<scalar_t*>(staged);
    stage_turned(features + (video * channels + channel) * frames, here, frames, to);
    column = to + own;
  }
  using place_t = std::conditional_t<STAGED, int, int64_t>;
  const place_t pitch = STAGED ? PITCH : static_cast<place_t>(channels);
  __shared__ bool missing[ROIS], malformed[ROIS];
  const int64_t begin = blockIdx.y * per_block, end = begin + per_block < count ? begin + per_block : count;
  for (int64_t base = begin; base < end; base += POOLERS) {
    const int found =
        list.find(base, end, [&](int64_t r) { return video_of(rois[3 * r], batch) == video; });
    for (int some = 0; some < found; some += ROIS) {
      const int several = found - some < ROIS ? found - some : ROIS;
      for (int first = 0; first < bins; first += BINS) {
        const int width = bins - first < BINS ? bins - first : BINS;
        for (int i = threadIdx.x; i < several * BINS; i += POOLERS) {
          const int64_t r = list.roi[some + i / BINS];
          const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, bins);
          const bool none = names_no_video(rois[3 * r], batch), bad = roi.malformed();
          const Bin bin = roi.bin(first + i % BINS, frames);
          const bool read = !none && !bad && bin.first < bin.last && i % BINS < width;
          bounds[i] = {static_cast<int>(bin.first), read ? static_cast<int>(bin.last - bin.first) : 0};
          if (i % BINS == 0) {
            missing[i / BINS] = none;
            malformed[i / BINS] = bad;
          }
        }
        __syncthreads();
        for (int i = warp; i < several; i += POOLERS / LANES) {
          scalar_t values[BINS];
          int places[BINS];
          const coord_t nothing = missing[i] ? static_cast<coord_t>(NAN) : coord_t(0);
          const int nowhere = malformed[i] && !missing[i] ? 0 : -1;
#pragma unroll
          for (int b = 0; b < BINS; ++b) {
            const Bounds bin = bounds[i * BINS + b];
            coord_t best = nothing;
            int where = nowhere;
            if (bin.count > 0) {
              const scalar_t* at = column + bin.first * pitch;
              const coord_t start = static_cast<coord_t>(*at);
              best = start - coord_t(1);  // see the CPU kernel
              int found_at = -1;
              take_all<PLACES>(at, bin.count, pitch, best, found_at);
              where = found_at < 0 ? -1 : bin.first + found_at;
              if (!PLACES && start != start) {
                best = start;
              }
            }
            values[b] = static_cast<scalar_t>(best);
            places[b] = where;
          }
          const int64_t to = (list.roi[some + i] * channels + channel) * bins + first;
          if (bins == BINS) {
            store_eight(output + to, values, lane, here);
            if (PLACES) {
              store_eight(argmax + to, places, lane, here);
            }
          } else if (lane < here) {
#pragma unroll
            for (int b = 0; b < BINS; ++b) {
              if (b < width) {
                output[to + lane * bins + b] = values[b];
                if (PLACES) {
                  argmax[to + lane * bins + b] = places[b];
                }
              }
            }
          }
        }
        __syncthreads();  // the bounds have been used
      }
    }
  }
}

// The maxima of neighbouring bins of a roi: their steps (-1: none) and gradients.
template <typename scalar_t>
struct Quad {
  Four<int> step;
  Four<scalar_t> grad;
};

// Reads the bins of a thread, of which `width` exist; all at once if they lie so.
template <typename scalar_t>
__device__ __forceinline__ Quad<scalar_t> read_quad(const scalar_t* __restrict__ grad,
                                                    const int* __restrict__ argmax, int width,
                                                    bool aligned) {
  Quad<scalar_t> quad;
  if (aligned) {
    quad.step = *reinterpret_cast<const Four<int>*>(argmax);
    quad.grad = *reinterpret_cast<const Four<scalar_t>*>(grad);
    return quad;
  }
#pragma unroll
  for (int k = 0; k < QUAD; ++k) {
    quad.step.value[k] = k < width ? argmax[k] : -1;
    quad.grad.value[k] = k < width ? grad[k] : scalar_t(0);
  }
  return quad;
}

// Whether a lane before this one of the same group may have the same step. As the maxima of a roi stand in
// order, it has not if that of its neighbour is smaller.
__device__ __forceinline__ bool may_clash(int step, int place) {
  const int before = __shfl_up_sync(0xffffffffu, step, 1);
  return step >= 0 && place > 0 && (before >= step || (before < 0 && place > 1));
}

// Adds a value of every lane to the row of its group, if they may clash in turns.
template <typename acc_t>
__device__ __forceinline__ void add_in_order(acc_t* row, int step, acc_t value, int place, int turns) {
  for (int turn = 0; turn < turns; ++turn) {
    if (step >= 0 && (turns == 1 || place == turn)) {
      row[step] += value;
    }
    __syncwarp();
  }
}

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames). A group is `lanes` lanes, QUAD bins
// each, and has a row of sums; `shares` groups take a share each of the rois of one channel, and a block has
// `together` channels of one video. Rois stand sorted by video in `order`; there is none for a single video. Without room
// in shared memory shares is 1, and the row is one of `sums` (batch, channels, frames), zeroed.
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(ADDERS)
    add(const scalar_t* __restrict__ grad, const int* __restrict__ argmax,
        const int64_t* __restrict__ order,
        const int64_t* __restrict__ bounds, int64_t count, int lanes, int shares, int together,
        int64_t channels, int64_t frames, int bins, scalar_t* __restrict__ output, acc_t* sums) {
  extern __shared__ __align__(16) unsigned char staged[];
  auto* rows = reinterpret_cast<acc_t*>(staged);
  const int own = threadIdx.x / lanes, groups = blockDim.x / lanes;
  const int place = threadIdx.x % lanes;
  const int64_t tiles = (channels + together - 1) / together, video = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * together, channel = first + own % together;
  const bool idle = channel >= channels || own / together >= shares;
  acc_t* row = STAGED ? rows + own * frames : sums + (video * channels + (idle ? 0 : channel)) * frames;
  if (STAGED) {
    for (int64_t t = threadIdx.x; t < groups * frames; t += blockDim.x) {
      rows[t] = 0;
    }
    __syncthreads();
  }
  const int64_t begin = order == nullptr ? 0 : bounds[video], end = order == nullptr ? count : bounds[video + 1];
  // The same number of turns for all lanes of a warp, which has groups of several shares.
  const int64_t turns = (end - begin + shares - 1) / shares;
  const bool aligned = bins % QUAD == 0;
  const int64_t of_roi = channels * bins;
  for (int b = QUAD * place; b - QUAD * place < bins; b += QUAD * lanes) {
    const scalar_t* grads = grad + channel * bins + b;
    const int* places = argmax + channel * bins + b;
    const auto read = [&](int64_t turn) {
      const int64_t i = begin + turn * shares + own / together;
      Quad<scalar_t> quad = {{{-1, -1, -1, -1}}, {}};
      if (i < end && !idle && b < bins) {
        const int64_t r = order == nullptr ? i : order[i];
        quad = read_quad(grads + r * of_roi, places + r * of_roi, bins - b, aligned);
      }
      return quad;
    };
    Quad<scalar_t> coming[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; ++a) {
      coming[a] = read(a);
    }
    for (int64_t turn = 0; turn < turns; turn += AHEAD) {
      Quad<scalar_t> quads[AHEAD];
      bool clash = false;
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        quads[a] = coming[a];
        coming[a] = read(turn + AHEAD + a);
#pragma unroll
        for (int k = 0; k < QUAD; ++k) {
          int& step = quads[a].step.value[k];
          step = step < frames ? step : -1;
          clash |= may_clash(step, place);
        }
      }
      const int rounds = __any_sync(0xffffffffu, clash) ? lanes : 1;
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
#pragma unroll
        for (int k = 0; k < QUAD; ++k) {  // one after the other, as neighbouring bins can share a step
          const auto value = static_cast<acc_t>(quads[a].grad.value[k]);
          add_in_order(row, quads[a].step.value[k], value, place, rounds);
        }
      }
    }
  }
  if (!STAGED) {
    return;
  }
  __syncthreads();
  const int64_t here = channels - first < together ? channels - first : together;
  for (int64_t i = threadIdx.x; i < here * frames; i += blockDim.x) {
    acc_t sum = rows[i];
    for (int s = 1; s < shares; ++s) {
      sum += rows[s * together * frames + i];
    }
    output[(video * channels + first) * frames + i] = static_cast<scalar_t>(sum);
  }
}

void check_bins(int64_t bins) {
  TORCH_CHECK(bins <= LARGEST_OUTPUT, "output_size is at most ", LARGEST_OUTPUT, " on CUDA, not ", bins);
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cuda(const at::Tensor& features, const at::Tensor& rois,
                                                       int64_t output_size, double spatial_scale,
                                                       bool check_rois, bool with_argmax) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  check_bins(output_size);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), batch = features.size(0), channels = features.size(1),
                frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  auto argmax = at::empty({with_argmax ? count : 0, channels, output_size}, features.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "roi_max_pool1d_cuda", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        const auto table = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
        if (check_rois || batch == 0) {  // without a video there is none to read instead
          check_videos<coord_t>(table, batch);
        }
        if (output.numel() == 0 || batch == 0) {
          return;
        }
        const int64_t blocks = batch * ((channels + LANES - 1) / LANES);
        const int64_t bytes = PITCH * frames * static_cast<int64_t>(sizeof(scalar_t));
        TORCH_CHECK(blocks < (int64_t(1) << 31), "features are too many for one call: ", blocks, " blocks");
        const bool staged = bytes <= ALL_SHARED;
        const auto input = (staged ? features : features.transpose(1, 2)).contiguous();
        const int64_t parts = parts_for(blocks, staged && bytes > HALF_SHARED ? 1 : 2, (count + 31) / 32);
        const auto kernel = staged ? (with_argmax ? pool<scalar_t, coord_t, true, true>
                                                  : pool<scalar_t, coord_t, true, false>)
                                   : (with_argmax ? pool<scalar_t, coord_t, false, true>
                                                  : pool<scalar_t, coord_t, false, false>);
        allow_shared(kernel, staged ? bytes : 0);
        const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
        kernel<<<grid, POOLERS, staged ? bytes : 0, c10::cuda::getCurrentCUDAStream()>>>(
            input.const_data_ptr<scalar_t>(), table.template const_data_ptr<coord_t>(), count,
            (count + parts - 1) / parts, batch, channels, frames, static_cast<int>(output_size),
            static_cast<coord_t>(spatial_scale), output.mutable_data_ptr<scalar_t>(),
            argmax.mutable_data_ptr<int>());
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
  int lanes = 1;
  while (QUAD * lanes < bins && lanes < 32) {
    lanes *= 2;
  }
  at::Tensor order, bounds;
  if (batch > 1) {  // with one video all rois are its own, and the maxima of others were not found: -1
    order = at::empty({count}, index.options());
    bounds = at::empty({batch + 1}, index.options());
    sort_by_video<<<static_cast<unsigned>(batch), SORTERS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        VideoOfIndex{index.const_data_ptr<int64_t>(), batch}, count, batch, order.mutable_data_ptr<int64_t>(),
        bounds.mutable_data_ptr<int64_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "roi_max_pool1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;  // the frames of a short roi get many contributions
        const int64_t row = frames * static_cast<int64_t>(sizeof(acc_t)), of_warp = 32 / lanes;
        const int64_t warps = std::min<int64_t>(ADDERS / 32, ALL_SHARED / (row * of_warp));
        const bool staged = warps > 0;
        const int threads = staged ? static_cast<int>(warps) * 32 : ADDERS, groups = threads / lanes;
        // Few channels per block keep all multiprocessors busy; the more groups share the rois of one.
        const int64_t fair = (batch * channels + multiprocessors() - 1) / multiprocessors();
        const int together = staged ? static_cast<int>(std::min<int64_t>(groups, fair)) : groups;
        const int shares = groups / together;
        const int64_t blocks = batch * ((channels + together - 1) / together);
        TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
        const auto type = c10::CppTypeToScalarType<acc_t>::value;
        auto sums = at::zeros({staged ? 0 : batch, channels, frames}, grad.options().dtype(type));
        const int64_t bytes = staged ? groups * row : 0;
        const auto kernel = staged ? add<scalar_t, acc_t, true> : add<scalar_t, acc_t, false>;
        allow_shared(kernel, bytes);
        kernel<<<static_cast<unsigned>(blocks), threads, bytes, c10::cuda::getCurrentCUDAStream()>>>(
            from.const_data_ptr<scalar_t>(), where.const_data_ptr<int>(),
            batch > 1 ? order.const_data_ptr<int64_t>() : nullptr,
            batch > 1 ? bounds.const_data_ptr<int64_t>() : nullptr, count, lanes, shares, together, channels, frames,
            static_cast<int>(bins),
            output.mutable_data_ptr<scalar_t>(), sums.template mutable_data_ptr<acc_t>());
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
