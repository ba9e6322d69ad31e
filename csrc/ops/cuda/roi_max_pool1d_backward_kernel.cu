// RoI max pooling along time on CUDA, backward. No atomics but on bits: the same bits every time.
//
// A block has 32 channels of some steps of a video, a lane a channel, a warp a few of those steps. The
// gradients of the rois that reach the block pass through shared memory; every warp takes those of the bins
// that cover steps of its own, and adds to sums that no other warp touches.
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
#include "roi_check.h"
#include "rois_by_video.h"
#include "video_tiles.h"

namespace avfusion::ops {
namespace {

constexpr int LANES = 32;  // channels of a block
constexpr int STEPS = 8;   // of a warp
constexpr int MOST_WARPS = 16, FEWEST_WARPS = 8;
constexpr int QUAD = 4;                       // neighbouring bins that a thread reads at once
constexpr int HELD = 8;                       // bins of one channel that a thread has in registers
constexpr int MOST_BINS = MOST_WARPS * HELD;  // of several rois, in shared memory together
constexpr int PITCH = LANES + 2;  // of a bin there: four neighbouring bins of eight channels lie in all banks
constexpr int SUM_PITCH = LANES + 1;

template <typename value_t>
struct alignas(QUAD * sizeof(value_t) < 16 ? QUAD * sizeof(value_t) : 16) Quad {
  value_t value[QUAD];
};

// A gradient, and the step that it belongs to.
template <typename acc_t>
struct alignas(2 * sizeof(acc_t)) Entry {
  acc_t grad;
  int step;
};

// What a block has in shared memory: entries (bins, PITCH) and sums (steps, SUM_PITCH).
template <typename acc_t>
struct Shared {
  Entry<acc_t>* entries;
  acc_t* sums;

  __device__ explicit Shared(unsigned char* memory)
      : entries(reinterpret_cast<Entry<acc_t>*>(memory)),
        sums(reinterpret_cast<acc_t*>(memory + blockDim.x / 32 * HELD * PITCH * sizeof(Entry<acc_t>))) {
  }

  static int64_t bytes(int64_t warps) {
    return warps * (HELD * PITCH * sizeof(Entry<acc_t>) + STEPS * SUM_PITCH * sizeof(acc_t));
  }
};

// Of a bin, or of a roi: steps [first, last), counted from the block's first and cut to its steps.
struct Range {
  int first, last;
};

// Steps that bins [from, to] of a roi cover; a malformed one has its maxima at step 0, see the CPU kernel.
template <typename coord_t>
__device__ __forceinline__ Range range_of(const Roi<coord_t>& roi, int from, int to, int frames, int start,
                                          int span) {
  const int first = roi.malformed() ? 0 : roi.first(from, frames),
            last = roi.malformed() ? 1 : roi.last(to, frames);
  return {max(first - start, 0), min(last - start, span)};
}

// Some bins of one channel on their way from memory to the entries: of every so many rois a bin, or a quad of
// neighbouring ones. 2^shift bins of a roi are read together.
template <typename scalar_t>
struct Held {
  scalar_t grads[HELD];
  int steps[HELD];
};

// Which of them are a thread's.
struct Share {
  bool quads;
  int channel, bin, roi, every;

  __device__ Share(int bins, int shift) : quads(bins % QUAD == 0) {
    const int of_channel = quads ? shift - 2 : shift,
              thread = threadIdx.x;  // log2 of the threads of a channel
    bin = (thread & ((1 << of_channel) - 1)) * (quads ? QUAD : 1);
    channel = thread >> of_channel & (LANES - 1);
    roi = thread / LANES >> of_channel;
    every = static_cast<int>(blockDim.x / LANES) >> of_channel;
  }
};

// Of `some` rois, whose gradients begin at `from`; `within` is the first bin's place there.
template <typename scalar_t>
__device__ __forceinline__ void read(const scalar_t* __restrict__ grad, const int* __restrict__ argmax,
                                     const int64_t* from, int some, int within, const Share& share,
                                     Held<scalar_t>& held) {
  if (share.quads) {
#pragma unroll
    for (int k = 0; k < HELD; k += QUAD) {
      const int roi = share.roi + k / QUAD * share.every;
      if (roi < some) {
        const int64_t at = from[roi] + within;
        const auto grads = *reinterpret_cast<const Quad<scalar_t>*>(grad + at);
        const auto steps = *reinterpret_cast<const Quad<int>*>(argmax + at);
#pragma unroll
        for (int j = 0; j < QUAD; ++j) {
          held.grads[k + j] = grads.value[j];
          held.steps[k + j] = steps.value[j];
        }
      }
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    const int roi = share.roi + k * share.every;
    if (roi < some) {
      held.grads[k] = grad[from[roi] + within];
      held.steps[k] = argmax[from[roi] + within];
    }
  }
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void write(const Held<scalar_t>& held, const Share& share, int shift,
                                      Entry<acc_t>* entries) {
  entries += ((share.roi << shift) + share.bin) * PITCH + share.channel;
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    const int of = share.quads ? (k / QUAD * share.every << shift) + k % QUAD : k * share.every << shift;
    entries[of * PITCH] = {static_cast<acc_t>(held.grads[k]), held.steps[k]};
  }
}

// For every warp of a block the bins that cover steps of its own, bit by bit from the highest.
struct Covering {
  uint4 words[MOST_WARPS];

  __device__ __forceinline__ void mark(int warp, int bin) {
    atomicOr(reinterpret_cast<unsigned*>(words + warp) + bin / 32, 1u << 31 >> bin % 32);
  }
};

// Adds to the sums of a lane the entries of its channel that `covering` names and that belong to one of STEPS
// steps from `own` on.
template <typename acc_t>
__device__ __forceinline__ void add(const uint4& covering, const Entry<acc_t>* column, int own, acc_t* sums) {
  const unsigned words[4] = {covering.x, covering.y, covering.z, covering.w};
#pragma unroll
  for (int word = 0; word < MOST_BINS / 32; ++word) {
    for (unsigned left = words[word]; left != 0;) {
      const int bit = __clz(static_cast<int>(left));
      left &= ~0u >> 1 >> bit;
      const Entry<acc_t> entry = column[(32 * word + bit) * PITCH];
      const int step = entry.step - own;
      if (step >= 0 && step < STEPS) {
        sums[step * SUM_PITCH] += entry.grad;
      }
    }
  }
}

// grad, argmax (rois, channels, bins) -> output (batch, channels, frames). 2^shift bins of a roi are read
// together.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(MOST_WARPS * 32, 2)
    gather(const scalar_t* __restrict__ grad, const int* __restrict__ argmax, const acc_t* __restrict__ rois,
           RoiOrder order, int64_t channels, int frames, int parts, int bins, Parts<acc_t> divided, int shift,
           acc_t scale, scalar_t* __restrict__ output) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ RoisOfVideo<MOST_WARPS * 32> list;
  __shared__ int64_t begins[MOST_WARPS * 32];  // where the gradients of its rois begin
  __shared__ Covering covering[2];             // of this and of the next bins
  const Shared<acc_t> shared(memory);
  const int64_t tiles = (channels + LANES - 1) / LANES, tile = blockIdx.x / parts, video = tile / tiles;
  const int64_t channel = tile % tiles * LANES;
  const int here = static_cast<int>(channels - channel < LANES ? channels - channel : LANES);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int span = warps * STEPS, start = blockIdx.x % parts * span, own = start + warp * STEPS;
  const auto roi_at = [&](int64_t r) { return Roi<acc_t>(rois[3 * r + 1], rois[3 * r + 2], scale, divided); };
  acc_t* sums = shared.sums + warp * STEPS * SUM_PITCH + lane;
#pragma unroll
  for (int k = 0; k < STEPS; ++k) {
    sums[k * SUM_PITCH] = 0;
  }
  if (lane < 2) {
    covering[lane].words[warp] = {0, 0, 0, 0};
  }
  const Share share(bins, shift);
  const int end = order.end(video), together = warps * HELD >> shift,
            turns = (bins + (1 << shift) - 1) >> shift;
  for (int base = order.begin(video); base < end; base += blockDim.x) {
    const int found = list.find(base, end, [&](int64_t i) {
      const Range range = range_of(roi_at(order.roi(static_cast<int>(i))), 0, bins - 1, frames, start, span);
      return range.first < range.last;
    });
    if (threadIdx.x < found) {
      const int64_t r = order.roi(static_cast<int>(list.roi[threadIdx.x]));
      list.roi[threadIdx.x] = r;
      begins[threadIdx.x] = (r * channels + channel) * bins;
    }
    __syncthreads();
    const int chunks = (found + together - 1) / together * turns;
    Held<scalar_t> held;
    const auto prepare = [&](int chunk) {
      const int from = chunk / turns * together, first = chunk % turns << shift,
                some = min(found - from, together);
      if (share.channel < here && first + share.bin < bins) {
        read(grad, argmax, begins + from, some, share.channel * bins + first + share.bin, share, held);
      }
      const int b = first + (threadIdx.x & ((1 << shift) - 1));
      if (threadIdx.x < some << shift && b < bins) {
        const int64_t r = list.roi[from + (threadIdx.x >> shift)];
        const Range range = range_of(roi_at(r), b, b, frames, start, span);
        for (int w = range.first / STEPS; w * STEPS < range.last; ++w) {
          covering[chunk % 2].mark(w, threadIdx.x);
        }
      }
    };
    if (chunks > 0) {
      prepare(0);
    }
    for (int chunk = 0; chunk < chunks; ++chunk) {
      write(held, share, shift, shared.entries);
      __syncthreads();
      if (chunk + 1 < chunks) {  // on its way while this one is added
        prepare(chunk + 1);
      }
      add(covering[chunk % 2].words[warp], shared.entries + lane, own, sums);
      __syncwarp();
      if (lane == 0) {
        covering[chunk % 2].words[warp] = {0, 0, 0, 0};
      }
      __syncthreads();  // the entries have been used
    }
  }
  __syncthreads();
  const int length = min(frames - start, span);
  for (int c = warp; c < here; c += warps) {
    scalar_t* to = output + (video * channels + channel + c) * frames + start;
    for (int t = lane; t < length; t += 32) {
      to[t] = static_cast<scalar_t>(shared.sums[t * SUM_PITCH + c]);
    }
  }
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
  int shift = 0;
  while (shift < 3 && 1 << shift < bins) {
    ++shift;
  }
  const int64_t tiles = batch * ((channels + LANES - 1) / LANES);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "roi_max_pool1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;  // the frames of a short roi get many contributions
        int warps = MOST_WARPS;
        const auto parts = [&] { return (frames + warps * STEPS - 1) / (warps * STEPS); };
        // Short features are divided among more blocks, which are smaller.
        while (warps > FEWEST_WARPS &&
               (tiles * parts() <= multiprocessors() || Shared<acc_t>::bytes(warps) > most_shared())) {
          warps /= 2;
        }
        const int64_t blocks = tiles * parts(), bytes = Shared<acc_t>::bytes(warps);
        TORCH_CHECK(blocks < (int64_t(1) << 31), "grad is too large for one call: ", blocks, " blocks");
        const auto table = rois.to(c10::CppTypeToScalarType<acc_t>::value).contiguous();
        std::optional<OrderMemory> sorted;
        if (batch > 1) {
          sorted = rois_by_video<acc_t>(table, batch, /*lost=*/0);
        }
        const auto kernel = gather<scalar_t, acc_t>;
        allow_shared(kernel, bytes);
        kernel<<<static_cast<unsigned>(blocks), warps * 32, bytes, c10::cuda::getCurrentCUDAStream()>>>(
            from.const_data_ptr<scalar_t>(), where.const_data_ptr<int>(),
            table.template const_data_ptr<acc_t>(),
            sorted ? sorted->view() : RoiOrder{nullptr, nullptr, static_cast<int>(count)}, channels,
            static_cast<int>(frames), static_cast<int>(parts()), static_cast<int>(bins), Parts<acc_t>(bins),
            shift, static_cast<acc_t>(spatial_scale), output.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d_backward", &roi_max_pool1d_backward_cuda);
}

}  // namespace avfusion::ops
