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
constexpr int GROUP = 4;          // steps of a bin that are read at once
constexpr int ADDERS = 256;       // threads of a block at most, backward
constexpr int AHEAD = 4;          // rois whose gradients a thread reads before it adds the first

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
  const int pair = lane - odd, half = odd ? 4 : 0;
  if (pair < here) {
    *reinterpret_cast<Four<value_t>*>(to + pair * BINS + half) = odd ? got : kept;
  }
  if (pair + 1 < here) {
    *reinterpret_cast<Four<value_t>*>(to + (pair + 1) * BINS + half) = odd ? kept : got;
  }
}

// Of a bin: its first step and how many there are; 0 for a roi that is not to be read as well.
struct Bounds {
  int first, count;
};

// The largest of `best` and of the GROUP steps from `j` on, of which those below `count` exist, and its number.
template <typename scalar_t, typename coord_t, bool STAGED, typename place_t>
__device__ __forceinline__ void take_group(const scalar_t* at, int j, int count, place_t pitch, coord_t& best,
                                           int& where) {
  coord_t values[GROUP];
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {  // behind the features there is room, but only in shared memory
    values[g] = static_cast<coord_t>(at[(STAGED || j + g < count ? j + g : 0) * pitch]);
  }
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
    if (j + g < count && values[g] > best) {
      best = values[g];
      where = j + g;
    }
  }
}

// features (batch, channels, frames) if STAGED, else (batch, frames, channels) -> output, argmax (rois,
// channels, bins). Block (32 channels of a video, part of the rois).
template <typename scalar_t, typename coord_t, bool STAGED>
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
              best = static_cast<coord_t>(*at) - coord_t(1);  // see the CPU kernel
              int found_at = -1;
              take_group<scalar_t, coord_t, STAGED>(at, 0, bin.count, pitch, best, found_at);
#pragma unroll 1
              for (int j = GROUP; j < bin.count; j += GROUP) {
                take_group<scalar_t, coord_t, STAGED>(at, j, bin.count, pitch, best, found_at);
              }
              where = found_at < 0 ? -1 : bin.first + found_at;
            }
            values[b] = static_cast<scalar_t>(best);
            places[b] = where;
          }
          const int64_t to = (list.roi[some + i] * channels + channel) * bins + first;
          if (bins == BINS) {
            store_eight(output + to, values, lane, here);
            store_eight(argmax + to, places, lane, here);
          } else if (lane < here) {
#pragma unroll
            for (int b = 0; b < BINS; ++b) {
              if (b < width) {
                output[to + lane * bins + b] = values[b];
                argmax[to + lane * bins + b] = places[b];
              }
            }
          }
        }
        __syncthreads();  // the bounds have been used
      }
    }
  }
}

// The maxima of two neighbouring bins of a roi: their steps (-1: none) and gradients.
template <typename scalar_t>
struct Pair {
  int step[2];
  scalar_t grad[2];
};

// Whether another lane of the group before this one has the same step, or a later one. The maxima of a roi
// stand in order, so that in well-formed data none has, unless bins are shorter than a step.
__device__ __forceinline__ bool out_of_order(int step, int lane, unsigned group) {
  const unsigned before = __ballot_sync(0xffffffffu, step >= 0) & group & ((1u << lane) - 1u);
  const int last = __shfl_sync(0xffffffffu, step, before != 0 ? 31 - __clz(static_cast<int>(before)) : lane);
  return step >= 0 && before != 0 && last >= step;
}

// Adds the values of a group's lanes to a row, those of one step in the order of the lanes.
template <typename acc_t>
__device__ void add_one_by_one(acc_t* row, int step, acc_t value, int lane, unsigned group) {
  const int rank = __popc(__match_any_sync(0xffffffffu, step) & group & ((1u << lane) - 1u));
  for (int turn = 0; __any_sync(0xffffffffu, step >= 0 && rank >= turn); ++turn) {
    if (step >= 0 && rank == turn) {
      row[step] += value;
    }
    __syncwarp();
  }
}

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames). A group is `lanes` lanes, two bins
// each, and has a row of sums; `shares` groups take a share each of the rois of one channel, and a block has
// channels of one video. Rois stand sorted by video in `order`; there is none for a single video. Without room
// in shared memory shares is 1, and the row is one of `sums` (batch, channels, frames), zeroed.
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(ADDERS)
    add(const scalar_t* __restrict__ grad, const int* __restrict__ argmax,
        const int64_t* __restrict__ batch_index, const int64_t* __restrict__ order,
        const int64_t* __restrict__ bounds, int64_t count, int lanes, int shares, int64_t channels,
        int64_t frames, int bins, scalar_t* __restrict__ output, acc_t* sums) {
  extern __shared__ __align__(16) unsigned char staged[];
  auto* rows = reinterpret_cast<acc_t*>(staged);
  const int own = threadIdx.x / lanes, groups = blockDim.x / lanes, together = groups / shares;
  const int lane = threadIdx.x % 32, place = threadIdx.x % lanes;
  const unsigned group = (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1u) << (lane - place);
  const int64_t tiles = (channels + together - 1) / together, video = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * together, channel = first + own % together;
  const bool idle = channel >= channels;
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
  for (int b = 2 * place; b - 2 * place < bins; b += 2 * lanes) {
    const auto read = [&](int64_t turn) {
      Pair<scalar_t> pair = {{-1, -1}, {scalar_t(0), scalar_t(0)}};
      const int64_t i = begin + turn * shares + own / together;
      const int64_t r = i < end ? (order == nullptr ? i : order[i]) : -1;
      if (r >= 0 && !idle && (order != nullptr || batch_index[r] == 0)) {
        const int64_t from = (r * channels + channel) * bins + b;
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          if (b + k < bins) {
            pair.step[k] = argmax[from + k];
            pair.grad[k] = grad[from + k];
          }
        }
      }
      return pair;
    };
    Pair<scalar_t> coming[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; ++a) {
      coming[a] = read(a);
    }
    for (int64_t turn = 0; turn < turns; turn += AHEAD) {
      Pair<scalar_t> pairs[AHEAD];
      bool disorder = false;
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        pairs[a] = coming[a];
        coming[a] = read(turn + AHEAD + a);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          pairs[a].step[k] = pairs[a].step[k] < frames ? pairs[a].step[k] : -1;
          disorder |= out_of_order(pairs[a].step[k], lane, group);
        }
      }
      const bool slow = __any_sync(0xffffffffu, disorder);
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {  // neighbouring bins can share a step
          const auto value = static_cast<acc_t>(pairs[a].grad[k]);
          if (slow) {
            add_one_by_one(row, pairs[a].step[k], value, lane, group);
          } else if (pairs[a].step[k] >= 0) {
            row[pairs[a].step[k]] += value;
          }
          __syncwarp();
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
                                                       bool check_rois) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  check_bins(output_size);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), batch = features.size(0), channels = features.size(1),
                frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  auto argmax = at::empty({count, channels, output_size}, features.options().dtype(at::kInt));
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
        const int64_t bytes = PITCH * (frames + GROUP) * static_cast<int64_t>(sizeof(scalar_t));
        TORCH_CHECK(blocks < (int64_t(1) << 31), "features are too many for one call: ", blocks, " blocks");
        const bool staged = bytes <= ALL_SHARED;
        const auto input = (staged ? features : features.transpose(1, 2)).contiguous();
        const int64_t parts = parts_for(blocks, staged && bytes > HALF_SHARED ? 1 : 2, (count + 31) / 32);
        const auto kernel = staged ? pool<scalar_t, coord_t, true> : pool<scalar_t, coord_t, false>;
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
  while (2 * lanes < bins && lanes < 32) {
    lanes *= 2;
  }
  at::Tensor order, bounds;
  if (batch > 1) {
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
        const int64_t row = frames * static_cast<int64_t>(sizeof(acc_t));
        int threads = ADDERS;
        while (threads > 32 && threads / lanes * row > ALL_SHARED / 3) {  // so that three blocks fit
          threads /= 2;
        }
        const bool staged = threads / lanes * row <= ALL_SHARED;
        threads = staged ? threads : ADDERS;
        const int groups = threads / lanes;
        int shares = 1;  // as many as keep all multiprocessors busy, and have something to do
        while (staged && shares < groups && 2 * shares <= count / batch / 8 &&
               batch * channels * shares < 3 * multiprocessors() * groups) {
          shares *= 2;
        }
        const int together = groups / shares;
        const int64_t blocks = batch * ((channels + together - 1) / together);
        TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
        const auto type = c10::CppTypeToScalarType<acc_t>::value;
        auto sums = at::zeros({staged ? 0 : batch, channels, frames}, grad.options().dtype(type));
        const int64_t bytes = staged ? groups * row : 0;
        const auto kernel = staged ? add<scalar_t, acc_t, true> : add<scalar_t, acc_t, false>;
        allow_shared(kernel, bytes);
        kernel<<<static_cast<unsigned>(blocks), threads, bytes, c10::cuda::getCurrentCUDAStream()>>>(
            from.const_data_ptr<scalar_t>(), where.const_data_ptr<int>(), index.const_data_ptr<int64_t>(),
            batch > 1 ? order.const_data_ptr<int64_t>() : nullptr,
            batch > 1 ? bounds.const_data_ptr<int64_t>() : nullptr, count, lanes, shares, channels, frames,
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
