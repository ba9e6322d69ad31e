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
constexpr int AHEAD = 4;          // gradients that a thread reads before it adds the first

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

struct Bounds {
  int first, last;
};

// Value of a bin that is not to be looked for.
constexpr int MISSING = -1, MALFORMED = -2;

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
          Bounds at = {MISSING, MISSING};
          if (!names_no_video(rois[3 * r], batch)) {
            const Bin bin = roi.bin(first + i % BINS, frames);
            at = roi.malformed() ? Bounds{MALFORMED, MALFORMED}
                                 : Bounds{static_cast<int>(bin.first), static_cast<int>(bin.last)};
          }
          bounds[i] = at;
        }
        __syncthreads();
        for (int i = warp; i < several; i += POOLERS / LANES) {
          scalar_t values[BINS];
          int places[BINS];
#pragma unroll
          for (int b = 0; b < BINS; ++b) {
            const Bounds at = bounds[i * BINS + b];
            coord_t best = at.first == MISSING ? static_cast<coord_t>(NAN) : coord_t(0);
            int where = at.first == MALFORMED ? 0 : -1;
            if (at.first < at.last && b < width) {
              const coord_t start = static_cast<coord_t>(column[at.first * pitch]);
              best = start - coord_t(1);  // see the CPU kernel
              if (start > best) {
                best = start;
                where = at.first;
              }
#pragma unroll 1
              for (int t = at.first + 1; t < at.last; ++t) {
                const coord_t value = static_cast<coord_t>(column[t * pitch]);
                if (value > best) {
                  best = value;
                  where = t;
                }
              }
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

// Adds the values of a group's lanes to a row, those of one step in the order of the lanes. `step` < 0: none.
// The maxima of a roi stand in order, so that equal steps are neighbours; if they do not, it takes longer.
template <typename acc_t>
__device__ __forceinline__ void add_in_order(acc_t* row, int step, acc_t value, int lane, unsigned group) {
  const int before = __shfl_up_sync(0xffffffffu, step, 1);
  const unsigned active = __ballot_sync(0xffffffffu, step >= 0), lower = (1u << lane) - 1u;
  const bool neighbour = (group & lower) != 0;  // the lane before is of the same group
  const bool earlier = (active & group & lower) != 0;
  const bool ordered = step < 0 || !earlier || (neighbour && before >= 0 && before <= step);
  int rank = 0;
  if (__all_sync(0xffffffffu, ordered)) {
    const unsigned starts = __ballot_sync(0xffffffffu, !(neighbour && before == step));
    rank = lane - (31 - __clz(static_cast<int>(starts & (lower | 1u << lane))));
  } else {
    rank = __popc(__match_any_sync(0xffffffffu, step) & group & lower);
  }
  for (int turn = 0; __any_sync(0xffffffffu, step >= 0 && rank >= turn); ++turn) {
    if (step >= 0 && rank == turn) {
      row[step] += value;
    }
    __syncwarp();
  }
}

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames). A group is `lanes` lanes and has a
// row of sums; `shares` groups take a share each of the rois of one channel, and a block has channels of one
// video. Without room in shared memory shares is 1, and the row is one of `sums` (batch, channels, frames),
// zeroed.
template <typename scalar_t, typename acc_t, bool STAGED>
__global__ void __launch_bounds__(ADDERS)
    add(const scalar_t* __restrict__ grad, const int* __restrict__ argmax,
        const int64_t* __restrict__ batch_index, int64_t count, int lanes, int shares, int64_t channels,
        int64_t frames, int bins, scalar_t* __restrict__ output, acc_t* sums) {
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ RoisOfVideo<ADDERS> list;
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
  }
  for (int64_t base = 0; base < count; base += blockDim.x) {
    const int found = list.find(base, count, [&](int64_t r) { return batch_index[r] == video; });
    const int turns = (found + shares - 1) / shares;
    for (int b = place; b - place < bins; b += lanes) {
      for (int turn = 0; turn < turns; turn += AHEAD) {
        int steps[AHEAD];
        scalar_t values[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
          const int i = (turn + a) * shares + own / together;
          steps[a] = -1;
          values[a] = scalar_t(0);
          if (i < found && b < bins && !idle) {
            const int64_t from = (list.roi[i] * channels + channel) * bins + b;
            steps[a] = argmax[from];
            values[a] = grad[from];
          }
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
          const int step = steps[a] < frames ? steps[a] : -1;
          add_in_order(row, step, static_cast<acc_t>(values[a]), lane, group);
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
    const int64_t c = i / frames, t = i % frames;
    acc_t sum = rows[c * frames + t];
    for (int s = 1; s < shares; ++s) {
      sum += rows[(s * together + c) * frames + t];
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
        const int64_t bytes = PITCH * frames * static_cast<int64_t>(sizeof(scalar_t));
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
  while (lanes < bins && lanes < 32) {
    lanes *= 2;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "roi_max_pool1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;  // the frames of a short roi get many contributions
        const int64_t row = frames * static_cast<int64_t>(sizeof(acc_t));
        int threads = ADDERS;
        while (threads > 32 && threads / lanes * row > ALL_SHARED) {
          threads /= 2;
        }
        const bool staged = threads / lanes * row <= ALL_SHARED;
        threads = staged ? threads : ADDERS;
        const int groups = threads / lanes;
        int shares = 1;  // as many as keep all multiprocessors busy, and have something to do
        while (staged && shares < groups && 2 * shares <= count / 8 &&
               batch * channels * shares < multiprocessors() * groups) {
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
            count, lanes, shares, channels, frames, static_cast<int>(bins),
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
