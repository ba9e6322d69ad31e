// RoI max pooling along time on CUDA, backward. No atomics: the same bits every time.
//
// A block has 32 channels of some steps of a video, a lane a channel. Its warps share the rois that reach
// these steps; each has sums of its own in shared memory, so that none waits for another before all rois are
// added and the sums of the warps become one.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "../roi_max_pool1d.h"
#include "launch_early.h"
#include "roi_check.h"
#include "rois_by_video.h"
#include "video_tiles.h"

namespace avfusion::ops {
namespace {

constexpr int LANES = 32;  // channels of a block
constexpr int SPAN = 64;   // steps of a block
constexpr int MOST_WARPS = 8;
constexpr int LOOKED_AT = 4;                         // rois that a thread looks at together
constexpr int LISTED = MOST_WARPS * 32 * LOOKED_AT;  // and a block
constexpr int HELD = 8, QUAD = 4;  // bins that a lane reads together; the latter where they are fewer

// Collective: which of the next rois of a video, from `base` on and below `end`, reach steps [start, start +
// SPAN); in the order of the video. Returns how many they are.
template <typename acc_t>
__device__ int list_rois(const acc_t* __restrict__ rois, const RoiOrder& order, int base, int end, int bins,
                         Parts<acc_t> divided, acc_t scale, int frames, int start, int* list, int* of_warp) {
  const int begin = base + static_cast<int>(threadIdx.x) * LOOKED_AT;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int own[LOOKED_AT];
  acc_t from[LOOKED_AT], to[LOOKED_AT];
#pragma unroll
  for (int k = 0; k < LOOKED_AT; ++k) {
    own[k] = order.roi(min(begin + k, end - 1));
  }
#pragma unroll
  for (int k = 0; k < LOOKED_AT; ++k) {
    from[k] = rois[3 * static_cast<int64_t>(own[k]) + 1];
    to[k] = rois[3 * static_cast<int64_t>(own[k]) + 2];
  }
  bool mine[LOOKED_AT];
  int count = 0;
#pragma unroll
  for (int k = 0; k < LOOKED_AT; ++k) {
    const Roi<acc_t> roi(from[k], to[k], scale, divided);
    // A malformed one has its maxima at step 0, see the CPU kernel.
    const int first = roi.malformed() ? 0 : roi.first(0, frames),
              last = roi.malformed() ? 1 : roi.last(bins - 1, frames);
    mine[k] = begin + k < end && first < last && first < start + SPAN && last > start;
    count += mine[k];
  }
  const int sum = sum_up_to_lane(count);
  __syncthreads();  // the previous list has been used
  if (lane == 31) {
    of_warp[warp] = sum;
  }
  __syncthreads();
  const int here = lane < warps ? of_warp[lane] : 0;
  int place = sum_of_warp(lane < warp ? here : 0) + sum - count;
#pragma unroll
  for (int k = 0; k < LOOKED_AT; ++k) {
    if (mine[k]) {
      list[place++] = own[k];
    }
  }
  const int found = sum_of_warp(here);
  __syncthreads();
  return found;
}

// HELD bins of a lane's channel, TOGETHER neighbouring ones of a roi.
template <typename scalar_t, typename place_t, int TOGETHER>
struct Held {
  Some<scalar_t, TOGETHER> grads[HELD / TOGETHER];
  Some<place_t, TOGETHER> steps[HELD / TOGETHER];

  // Adds those of steps [start, start + SPAN) to the sums of the lane.
  template <typename acc_t>
  __device__ __forceinline__ void add(int start, acc_t* sums) const {
#pragma unroll
    for (int k = 0; k < HELD / TOGETHER; ++k) {
#pragma unroll
      for (int j = 0; j < TOGETHER; ++j) {
        const auto step = static_cast<unsigned>(static_cast<int>(steps[k].value[j]) - start);
        if (step < SPAN) {
          sums[step * LANES] += static_cast<acc_t>(grads[k].value[j]);
        }
      }
    }
  }
};

// Reads the bins of every so many rois of a list, one roi after the other.
template <typename scalar_t, typename place_t, int TOGETHER>
struct Reader {
  const scalar_t* grad;  // of the lane's channel in the first roi of all
  const place_t* argmax;
  int64_t of_roi;  // numbers
  const int* list;
  int found, every, bins;
  int place, bin = 0;

  // Whether there were any; those that are not there have no step.
  __device__ __forceinline__ bool read(Held<scalar_t, place_t, TOGETHER>& held) {
    if (place >= found) {
      return false;
    }
#pragma unroll
    for (int k = 0; k < HELD / TOGETHER; ++k) {
      if (k > 0 && place >= found) {
#pragma unroll
        for (int j = 0; j < TOGETHER; ++j) {
          held.steps[k].value[j] = -1;
        }
        continue;
      }
      const int64_t at = list[place] * of_roi + bin;
      held.grads[k] = *reinterpret_cast<const Some<scalar_t, TOGETHER>*>(grad + at);
      held.steps[k] = *reinterpret_cast<const Some<place_t, TOGETHER>*>(argmax + at);
      bin += TOGETHER;
      if (bin >= bins) {
        bin = 0;
        place += every;
      }
    }
    return true;
  }
};

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames).
template <typename scalar_t, typename acc_t, typename place_t, int TOGETHER>
__global__ void __launch_bounds__(MOST_WARPS * 32)
    gather(const scalar_t* __restrict__ grad, const place_t* __restrict__ argmax,
           const acc_t* __restrict__ rois, RoiOrder order, int64_t channels, int frames, int parts, int bins,
           Parts<acc_t> divided, acc_t scale, scalar_t* __restrict__ output) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ int list[LISTED], of_warp[MOST_WARPS];
  auto* all = reinterpret_cast<acc_t*>(memory);  // (warps, SPAN, LANES)
  const auto tiles = static_cast<unsigned>((channels + LANES - 1) / LANES);
  const unsigned tile = blockIdx.x / parts, video = tile / tiles;
  const int64_t channel = tile % tiles * LANES;
  const int here = static_cast<int>(channels - channel < LANES ? channels - channel : LANES);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int start = blockIdx.x % parts * SPAN;
  acc_t* sums = all + warp * SPAN * LANES + lane;
#pragma unroll 16
  for (int t = 0; t < SPAN; ++t) {
    sums[t * LANES] = 0;
  }
  wait_for_previous_kernel();
  const int64_t before =
      (channel + min(lane, here - 1)) * bins;  // lanes without a channel repeat the last one
  const int end = order.end(video), together = blockDim.x * LOOKED_AT;
  for (int base = order.begin(video); base < end; base += together) {
    const int found = list_rois(rois, order, base, end, bins, divided, scale, frames, start, list, of_warp);
    Reader<scalar_t, place_t, TOGETHER> reader{
        grad + before, argmax + before, channels * bins, list, found, warps, bins, warp};
    Held<scalar_t, place_t, TOGETHER> held, next;  // one is added while the other is on its way
    bool more = reader.read(held);
    while (more) {
      more = reader.read(next);
      held.add(start, sums);
      if (!more) {
        break;
      }
      more = reader.read(held);
      next.add(start, sums);
    }
  }
  __syncthreads();
  // A row of steps is one warp's; turned within itself, so that reading down a column meets all banks.
  for (int t = warp; t < SPAN; t += warps) {
    acc_t sum = 0;
    for (int w = 0; w < warps; ++w) {
      sum += all[(w * SPAN + t) * LANES + lane];
    }
    __syncwarp();
    all[t * LANES + (lane + t) % LANES] = sum;
  }
  __syncthreads();
  const int length = min(frames - start, SPAN);
  for (int c = warp; c < here; c += warps) {
    scalar_t* to = output + (video * channels + channel + c) * frames + start;
    for (int t = lane; t < length; t += 32) {
      to[t] = static_cast<scalar_t>(all[t * LANES + (c + t) % LANES]);
    }
  }
}

template <typename scalar_t, typename place_t, typename acc_t>
auto gather_kernel(int64_t together) {
  return together == HELD   ? gather<scalar_t, acc_t, place_t, HELD>
         : together == QUAD ? gather<scalar_t, acc_t, place_t, QUAD>
                            : gather<scalar_t, acc_t, place_t, 1>;
}

// How many neighbouring bins can be read at once from every such place of a tensor.
int64_t readable_together(const at::Tensor& tensor, int64_t bins) {
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  for (const int64_t together : {HELD, QUAD}) {
    if (bins % together == 0 && begin % std::min<int64_t>(16, together * tensor.element_size()) == 0) {
      return together;
    }
  }
  return 1;
}

template <typename scalar_t, typename place_t>
void launch_gather(const at::Tensor& grad, const at::Tensor& argmax, const at::Tensor& rois, double scale,
                   at::Tensor& output) {
  using acc_t = at::opmath_type<scalar_t>;  // the frames of a short roi get many contributions
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  const int64_t batch = output.size(0), frames = output.size(2);
  const int64_t parts = (frames + SPAN - 1) / SPAN, blocks = batch * ((channels + LANES - 1) / LANES) * parts;
  TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
  int warps = MOST_WARPS;
  const auto bytes = [&] { return warps * int64_t(SPAN * LANES * sizeof(acc_t)); };
  while (warps > 1 && bytes() > most_shared()) {
    warps /= 2;
  }
  const auto table = rois.to(c10::CppTypeToScalarType<acc_t>::value).contiguous();
  std::optional<OrderMemory> sorted;
  if (batch > 1) {
    sorted = rois_by_video<acc_t>(table, batch, /*lost=*/0);
  }
  const auto kernel = gather_kernel<scalar_t, place_t, acc_t>(
      std::min(readable_together(grad, bins), readable_together(argmax, bins)));
  allow_shared(kernel, bytes());
  launch_early(kernel, static_cast<unsigned>(blocks), warps * 32, bytes(), c10::cuda::getCurrentCUDAStream(),
               grad.const_data_ptr<scalar_t>(), argmax.const_data_ptr<place_t>(),
               table.template const_data_ptr<acc_t>(),
               sorted ? sorted->view() : RoiOrder{nullptr, nullptr, static_cast<int>(count)}, channels,
               static_cast<int>(frames), static_cast<int>(parts), static_cast<int>(bins), Parts<acc_t>(bins),
               static_cast<acc_t>(scale), output.mutable_data_ptr<scalar_t>());
}

at::Tensor roi_max_pool1d_backward_cuda(const at::Tensor& grad, const at::Tensor& argmax,
                                        const at::Tensor& rois, double spatial_scale, int64_t batch,
                                        int64_t frames) {
  check_roi_max_pool1d_backward(grad, argmax, rois, batch, frames);
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  TORCH_CHECK(bins <= LARGEST_OUTPUT, "grad has at most ", LARGEST_OUTPUT, " bins on CUDA, not ", bins);
  if (grad.numel() == 0 || batch * frames == 0) {
    return at::zeros({batch, channels, frames}, grad.options());
  }
  TORCH_CHECK(count < (int64_t(1) << 31), "rois are too many for one call: ", count);
  const auto from = grad.contiguous(), where = argmax.contiguous();
  auto output = at::empty({batch, channels, frames}, grad.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "roi_max_pool1d_backward_cuda", [&] {
        with_positions(where.scalar_type(), [&](auto place) {
          launch_gather<scalar_t, decltype(place)>(from, where, rois, spatial_scale, output);
        });
      });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d_backward", &roi_max_pool1d_backward_cuda);
}

}  // namespace avfusion::ops
