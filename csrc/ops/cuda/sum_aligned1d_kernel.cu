// The gather and sum of project_align1d on CUDA. No atomics: an output row belongs to one block, backward too.
//
// Both directions are products of a sparse matrix, whose numbers are computed as they are needed, with a dense
// one. A block first finds rows and their weights, each row once however many samples take of it, and then
// adds them up, a thread a few channels.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>

#include "../align1d.h"
#include "align_rois.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 128;
constexpr int LANES = 4;  // channels of a thread
constexpr int CHANNELS = THREADS * LANES;
constexpr int FOUND = 2 * THREADS;  // rows that are remembered
constexpr int AHEAD = 4;            // rows that a thread reads before it adds the first

template <typename scalar_t>
struct alignas(LANES * sizeof(scalar_t)) Pack {
  scalar_t value[LANES];
};

// The channels of a thread: neighbours that are read at once, or (not PACKED) THREADS apart.
template <typename scalar_t, typename acc_t, bool PACKED>
struct Channels {
  int64_t first, count;
  acc_t sum[LANES] = {};

  __device__ Channels(int64_t part, int64_t channels)
      : first(part * CHANNELS + threadIdx.x * (PACKED ? LANES : 1)), count(channels) {
  }

  __device__ Pack<scalar_t> read(const scalar_t* __restrict__ row) const {
    Pack<scalar_t> pack = {};
    if constexpr (PACKED) {
      if (first < count) {
        pack = *reinterpret_cast<const Pack<scalar_t>*>(row + first);
      }
    } else {
#pragma unroll
      for (int k = 0; k < LANES; ++k) {
        if (first + k * THREADS < count) {
          pack.value[k] = row[first + k * THREADS];
        }
      }
    }
    return pack;
  }

  __device__ void add(acc_t weight, const Pack<scalar_t>& pack) {
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      sum[k] = fused(weight, static_cast<acc_t>(pack.value[k]), sum[k]);
    }
  }

  __device__ void write(scalar_t* row) const {
    if constexpr (PACKED) {
      Pack<scalar_t> pack;
#pragma unroll
      for (int k = 0; k < LANES; ++k) {
        pack.value[k] = static_cast<scalar_t>(sum[k]);
      }
      if (first < count) {
        *reinterpret_cast<Pack<scalar_t>*>(row + first) = pack;
      }
    } else {
#pragma unroll
      for (int k = 0; k < LANES; ++k) {
        if (first + k * THREADS < count) {
          row[first + k * THREADS] = static_cast<scalar_t>(sum[k]);
        }
      }
    }
  }
};

// Rows that a block has found, with their weights, in the order in which they were brought.
template <typename acc_t>
struct Found {
  int64_t row[FOUND];
  acc_t weight[FOUND];
  int of_warp[THREADS / 32];

  // Collective: every thread brings one row, those of weight 0 are left out; returns how many there are now.
  __device__ int append(int held, int64_t my_row, acc_t my_weight) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool hit = my_weight != acc_t(0);
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    if (lane == 0) {
      of_warp[warp] = __popc(hits);
    }
    __syncthreads();
    int place = held + __popc(hits & ((1u << lane) - 1u));
    for (int w = 0; w < THREADS / 32; ++w) {
      place += w < warp ? of_warp[w] : 0;
      held += of_warp[w];
    }
    if (hit) {
      row[place] = my_row;
      weight[place] = my_weight;
    }
    __syncthreads();
    return held;
  }

  // Collective: adds what was found, rows lying `channels` apart.
  template <typename scalar_t, bool PACKED>
  __device__ void add(int held, const scalar_t* __restrict__ rows, Channels<scalar_t, acc_t, PACKED>& to) {
    int i = 0;
    for (; i + AHEAD <= held; i += AHEAD) {
      Pack<scalar_t> packs[AHEAD];
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        packs[a] = to.read(rows + row[i + a] * to.count);
      }
#pragma unroll
      for (int a = 0; a < AHEAD; ++a) {
        to.add(weight[i + a], packs[a]);
      }
    }
    for (; i < held; ++i) {
      to.add(weight[i], to.read(rows + row[i] * to.count));
    }
    __syncthreads();  // so that others may come in their place
  }
};

// projected (batch, frames, slots, channels) -> output (batch, rois, channels). Block (roi, video, CHANNELS
// channels).
template <typename scalar_t, typename acc_t, bool PACKED>
__global__ void __launch_bounds__(THREADS)
    sum_aligned(const scalar_t* __restrict__ projected, const acc_t* __restrict__ rois, int64_t count,
                int64_t frames, int64_t slots, int64_t channels, int64_t sampling_ratio,
                scalar_t* __restrict__ output) {
  __shared__ Found<acc_t> found;
  const int64_t a = blockIdx.x, video = blockIdx.y;
  const AlignedRoi<acc_t> roi(rois[2 * a], rois[2 * a + 1], slots, sampling_ratio);
  const scalar_t* rows = projected + video * frames * slots * channels;
  Channels<scalar_t, acc_t, PACKED> own(blockIdx.z, channels);
  const int64_t most = roi.valid ? roi.most_steps(frames) : 0, tries = most * slots;
  int held = 0;
  for (int64_t base = 0; base < tries; base += THREADS) {
    const int64_t i = base + threadIdx.x, slot = i / most, step = roi.first_step(slot, frames) + i % most;
    const bool there = i < tries && step < frames;
    held = found.append(held, step * slots + slot, there ? roi.weight_of(step, slot, frames) : acc_t(0));
    if (held > FOUND - THREADS) {
      found.add(held, rows, own);
      held = 0;
    }
  }
  found.add(held, rows, own);
  if (!roi.valid) {
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      own.sum[k] = static_cast<acc_t>(NAN);
    }
  }
  own.write(output + (video * count + a) * channels);
}

// grad (batch, rois, channels) -> output (batch, frames, slots, channels). Block (step and slot, video,
// CHANNELS channels).
template <typename scalar_t, typename acc_t, bool PACKED>
__global__ void __launch_bounds__(THREADS)
    sum_aligned_backward(const scalar_t* __restrict__ grad, const acc_t* __restrict__ rois, int64_t count,
                         int64_t frames, int64_t slots, int64_t channels, int64_t sampling_ratio,
                         scalar_t* __restrict__ output) {
  __shared__ Found<acc_t> found;
  const int64_t slot = blockIdx.x % slots, step = blockIdx.x / slots, video = blockIdx.y;
  const scalar_t* rows = grad + video * count * channels;
  Channels<scalar_t, acc_t, PACKED> own(blockIdx.z, channels);
  const acc_t per_slot = acc_t(1) / static_cast<acc_t>(slots);
  int held = 0;
  for (int64_t base = 0; base < count; base += THREADS) {
    const int64_t a = base + threadIdx.x;
    acc_t weight = 0;
    if (a < count) {
      const acc_t from = rois[2 * a], to = rois[2 * a + 1];
      const acc_t size = (to - from > acc_t(1) ? to - from : acc_t(1)) * per_slot;
      const acc_t low = from + static_cast<acc_t>(slot) * size - static_cast<acc_t>(step);
      if (low < acc_t(2) && low + size > acc_t(-2)) {  // most are not, and this is cheaper than the weight
        weight = AlignedRoi<acc_t>(from, to, slots, sampling_ratio).weight_of(step, slot, frames);
      }
    }
    if (!__syncthreads_or(weight != acc_t(0))) {
      continue;
    }
    held = found.append(held, a, weight);
    if (held > FOUND - THREADS) {
      found.add(held, rows, own);
      held = 0;
    }
  }
  found.add(held, rows, own);
  own.write(output + ((video * frames + step) * slots + slot) * channels);
}

// Grids have at most 2^31 - 1 blocks in x and 65535 in y and z.
void check_grid(int64_t blocks, int64_t batch, int64_t channels) {
  TORCH_CHECK(blocks < (int64_t(1) << 31) && batch < 65536 && channels / CHANNELS < 65535,
              "features or rois are too many for one call: ", blocks, " blocks, ", batch, " videos, ",
              channels, " channels");
}

dim3 grid_of(int64_t blocks, int64_t batch, int64_t channels) {
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(batch),
          static_cast<unsigned>((channels + CHANNELS - 1) / CHANNELS)};
}

// Whether LANES channels can be read at once; what torch allocates lies at multiples of 512 bytes.
bool packable(const at::Tensor& tensor, int64_t channels) {
  return channels % LANES == 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 32 == 0;
}

at::Tensor sum_aligned1d_cuda(const at::Tensor& projected, const at::Tensor& rois, int64_t sampling_ratio,
                              bool check_rois) {
  check_sum_aligned1d(projected, rois, sampling_ratio);
  const c10::cuda::CUDAGuard guard(projected.device());
  const auto input = projected.contiguous(), table = table_of(rois, projected);
  const int64_t batch = input.size(0), frames = input.size(1), slots = input.size(2),
                channels = input.size(3), count = rois.size(0);
  auto output = at::empty({batch, count, channels}, input.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "sum_aligned1d_cuda", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    if (check_rois) {
      check_bounds<acc_t>(table, 0, slots, sampling_ratio);
    }
    if (output.numel() == 0) {
      return;
    }
    check_grid(count, batch, channels);
    const auto kernel =
        packable(input, channels) ? sum_aligned<scalar_t, acc_t, true> : sum_aligned<scalar_t, acc_t, false>;
    kernel<<<grid_of(count, batch, channels), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), count, frames, slots, channels,
        sampling_ratio, output.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

at::Tensor sum_aligned1d_backward_cuda(const at::Tensor& grad, const at::Tensor& rois, int64_t slots,
                                       int64_t frames, int64_t sampling_ratio) {
  check_sum_aligned1d_backward(grad, rois, slots, frames, sampling_ratio);
  const c10::cuda::CUDAGuard guard(grad.device());
  const auto rows = grad.contiguous(), table = table_of(rois, grad);
  const int64_t batch = grad.size(0), count = grad.size(1), channels = grad.size(2);
  auto output = at::empty({batch, frames, slots, channels}, rows.options());
  if (output.numel() == 0 || count == 0) {
    return output.zero_();
  }
  check_grid(frames * slots, batch, channels);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, rows.scalar_type(), "sum_aligned1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;
        const auto kernel = packable(rows, channels) ? sum_aligned_backward<scalar_t, acc_t, true>
                                                     : sum_aligned_backward<scalar_t, acc_t, false>;
        kernel<<<grid_of(frames * slots, batch, channels), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
            rows.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), count, frames, slots, channels,
            sampling_ratio, output.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("sum_aligned1d", &sum_aligned1d_cuda);
  m.impl("sum_aligned1d_backward", &sum_aligned1d_backward_cuda);
}

}  // namespace avfusion::ops
