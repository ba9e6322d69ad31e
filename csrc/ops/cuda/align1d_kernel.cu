// RoI alignment along time on CUDA, and the gather and sum of its fused form. No atomics: an output element
// belongs to one thread, backward too, where a block looks for the rois that touch its step. Channels lie
// innermost, so that a warp reads neighbouring ones. A roi that the CPU refuses gives NaN: to look at its
// values on the host would wait for the device.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>

#include "../align1d.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 128;
constexpr int LANES = 4;  // channels of a thread, THREADS apart
constexpr int CHANNELS = THREADS * LANES;
constexpr int BINS = 4;  // bins whose sums stay in registers until they are stored together

// acc[k] += weight * row[channel k of this thread]
template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void add_row(acc_t (&acc)[LANES], acc_t weight, const scalar_t* __restrict__ row,
                                        int64_t first, int64_t channels) {
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    const int64_t c = first + k * THREADS;
    if (c < channels) {
      acc[k] += weight * static_cast<acc_t>(row[c]);
    }
  }
}

// Weighted rows that a block has found, in the order of its threads.
template <typename acc_t>
struct Found {
  int64_t row[THREADS];
  acc_t weight[THREADS];
  int count[THREADS / 32];

  // Collective: every thread brings one row, those of weight 0 are left out; returns how many there are.
  __device__ int gather(int64_t my_row, acc_t my_weight) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool hit = my_weight != acc_t(0);
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    __syncthreads();  // the previous rows have been used
    if (lane == 0) {
      count[warp] = __popc(hits);
    }
    __syncthreads();
    int place = __popc(hits & ((1u << lane) - 1u)), total = 0;
    for (int w = 0; w < THREADS / 32; ++w) {
      place += w < warp ? count[w] : 0;
      total += count[w];
    }
    if (hit) {
      row[place] = my_row;
      weight[place] = my_weight;
    }
    __syncthreads();
    return total;
  }
};

template <typename scalar_t>
struct alignas(BINS * sizeof(scalar_t)) Pack {
  scalar_t value[BINS];
};

// features (batch, frames, channels) -> output (rois, channels, bins); a block per roi and CHANNELS channels
template <typename scalar_t, typename acc_t>
__global__ void align(const scalar_t* __restrict__ features, const acc_t* __restrict__ rois, int64_t batch,
                      int64_t channels, int64_t frames, int64_t bins, int64_t sampling_ratio,
                      scalar_t* __restrict__ output) {
  const int64_t r = blockIdx.x, first = static_cast<int64_t>(blockIdx.y) * CHANNELS + threadIdx.x;
  const AlignedRoi<acc_t> roi(rois[3 * r + 1], rois[3 * r + 2], bins, sampling_ratio);
  const acc_t video = rois[3 * r];
  const bool bad = !roi.valid || !(video > acc_t(-1) && video < static_cast<acc_t>(batch));
  const scalar_t* rows = features + (bad ? 0 : static_cast<int64_t>(video) * frames * channels);
  for (int64_t s = 0; s < bins; s += BINS) {
    acc_t sums[BINS][LANES] = {};
#pragma unroll
    for (int b = 0; b < BINS; ++b) {
      if (!bad && s + b < bins) {
        roi.visit(s + b, frames, [&](int64_t step, acc_t weight) {
          add_row(sums[b], weight, rows + step * channels, first, channels);
        });
      }
    }
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      const int64_t c = first + k * THREADS;
      if (c >= channels) {
        continue;
      }
      Pack<scalar_t> pack;
#pragma unroll
      for (int b = 0; b < BINS; ++b) {
        pack.value[b] = static_cast<scalar_t>(bad ? static_cast<acc_t>(NAN) : sums[b][k]);
      }
      scalar_t* to = output + (r * channels + c) * bins + s;
      if (bins % BINS == 0) {
        *reinterpret_cast<Pack<scalar_t>*>(to) = pack;
      } else {
        for (int b = 0; b < BINS && s + b < bins; ++b) {
          to[b] = pack.value[b];
        }
      }
    }
  }
}

// grad (rois, bins, channels) -> output (batch, frames, channels); a block per step and CHANNELS channels
template <typename scalar_t, typename acc_t>
__global__ void align_backward(const scalar_t* __restrict__ grad, const acc_t* __restrict__ rois,
                               int64_t count, int64_t channels, int64_t frames, int64_t bins,
                               int64_t sampling_ratio, scalar_t* __restrict__ output) {
  __shared__ Found<acc_t> found;
  const int64_t step = blockIdx.x % frames, video = blockIdx.x / frames;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * CHANNELS + threadIdx.x;
  acc_t sum[LANES] = {};
  for (int64_t base = 0; base < count; base += THREADS) {
    const int64_t r = base + threadIdx.x < count ? base + threadIdx.x : count - 1;
    const AlignedRoi<acc_t> roi(rois[3 * r + 1], rois[3 * r + 2], bins, sampling_ratio);
    const bool near = base + threadIdx.x < count && rois[3 * r] > acc_t(-1) &&
                      static_cast<int64_t>(rois[3 * r]) == video && roi.near(step, bins);
    if (!__syncthreads_or(near)) {
      continue;
    }
    for (int64_t s = 0; s < bins; ++s) {
      const int hits = found.gather(r * bins + s, near ? roi.weight_of(step, s, frames) : acc_t(0));
      for (int i = 0; i < hits; ++i) {
        add_row(sum, found.weight[i], grad + found.row[i] * channels, first, channels);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    if (first + k * THREADS < channels) {
      output[static_cast<int64_t>(blockIdx.x) * channels + first + k * THREADS] =
          static_cast<scalar_t>(sum[k]);
    }
  }
}

// projected (batch, frames, slots, channels) -> output (batch, rois, channels); a block per roi, video and
// CHANNELS channels. Its threads place a sample each, and then all add the two rows of every sample.
template <typename scalar_t, typename acc_t>
__global__ void sum_aligned(const scalar_t* __restrict__ projected, const acc_t* __restrict__ rois,
                            int64_t count, int64_t frames, int64_t slots, int64_t channels,
                            int64_t sampling_ratio, scalar_t* __restrict__ output) {
  __shared__ int64_t left_row[THREADS];
  __shared__ acc_t left_weight[THREADS], right_weight[THREADS];
  const int64_t a = blockIdx.x, video = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.z) * CHANNELS + threadIdx.x;
  const AlignedRoi<acc_t> roi(rois[2 * a], rois[2 * a + 1], slots, sampling_ratio);
  const scalar_t* rows = projected + video * frames * slots * channels;
  const acc_t most = roi.count * static_cast<acc_t>(slots), share = acc_t(1) / roi.count;
  const int64_t per_slot = roi.valid ? static_cast<int64_t>(roi.count) : 1;
  const int64_t last = roi.valid ? roi.sample_near(static_cast<acc_t>(frames), roi.start, most, acc_t(1)) : 0;
  acc_t sum[LANES] = {};
  for (int64_t base = roi.valid ? roi.sample_near(acc_t(-1), roi.start, most, acc_t(-1)) : 0; base < last;
       base += THREADS) {
    const int64_t sample = base + threadIdx.x, slot = sample / per_slot;
    const acc_t at = sample < last ? roi.place(slot, sample % per_slot, frames) : acc_t(-2);
    const int64_t left = at < acc_t(0) ? 0 : static_cast<int64_t>(at);
    const acc_t part = at - static_cast<acc_t>(left);
    __syncthreads();
    left_row[threadIdx.x] = left * slots + slot;
    left_weight[threadIdx.x] = at < acc_t(0) ? acc_t(0) : (acc_t(1) - part) * share;
    right_weight[threadIdx.x] = at < acc_t(0) ? acc_t(0) : part * share;
    __syncthreads();
    const int here = static_cast<int>(last - base < THREADS ? last - base : THREADS);
    for (int i = 0; i < here; ++i) {
      const scalar_t* row = rows + left_row[i] * channels;
      if (left_weight[i] > acc_t(0)) {
        add_row(sum, left_weight[i], row, first, channels);
      }
      if (right_weight[i] > acc_t(0)) {
        add_row(sum, right_weight[i], row + slots * channels, first, channels);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    if (first + k * THREADS < channels) {
      output[(video * count + a) * channels + first + k * THREADS] =
          static_cast<scalar_t>(roi.valid ? sum[k] : static_cast<acc_t>(NAN));
    }
  }
}

// grad (batch, rois, channels) -> output (batch, frames, slots, channels); a block per step, slot, video and
// CHANNELS channels
template <typename scalar_t, typename acc_t>
__global__ void sum_aligned_backward(const scalar_t* __restrict__ grad, const acc_t* __restrict__ rois,
                                     int64_t count, int64_t frames, int64_t slots, int64_t channels,
                                     int64_t sampling_ratio, scalar_t* __restrict__ output) {
  __shared__ Found<acc_t> found;
  const int64_t slot = blockIdx.x % slots, step = blockIdx.x / slots, video = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.z) * CHANNELS + threadIdx.x;
  const scalar_t* rows = grad + video * count * channels;
  acc_t sum[LANES] = {};
  for (int64_t base = 0; base < count; base += THREADS) {
    const int64_t a = base + threadIdx.x;
    acc_t weight = 0;
    if (a < count) {
      const AlignedRoi<acc_t> roi(rois[2 * a], rois[2 * a + 1], slots, sampling_ratio);
      const acc_t low = roi.start + static_cast<acc_t>(slot) * roi.size - static_cast<acc_t>(step);
      if (low < acc_t(2) && low + roi.size > acc_t(-2)) {
        weight = roi.weight_of(step, slot, frames);
      }
    }
    if (!__syncthreads_or(weight != acc_t(0))) {
      continue;
    }
    const int hits = found.gather(a, weight);
    for (int i = 0; i < hits; ++i) {
      add_row(sum, found.weight[i], rows + found.row[i] * channels, first, channels);
    }
  }
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    if (first + k * THREADS < channels) {
      output[((video * frames + step) * slots + slot) * channels + first + k * THREADS] =
          static_cast<scalar_t>(sum[k]);
    }
  }
}

unsigned parts(int64_t channels) {
  return static_cast<unsigned>((channels + CHANNELS - 1) / CHANNELS);
}

// Grids have at most 2^31 - 1 blocks in x and 65535 in y and z.
void check_grid(int64_t blocks, int64_t batch, int64_t channels) {
  TORCH_CHECK(blocks < (int64_t(1) << 31) && batch < 65536 && channels / CHANNELS < 65535,
              "features or rois are too many for one call: ", blocks, " blocks, ", batch, " videos, ",
              channels, " channels");
}

at::Tensor table_of(const at::Tensor& rois, const at::Tensor& like) {
  return rois.to(sum_type(like)).contiguous();
}

at::Tensor align1d_cuda(const at::Tensor& features, const at::Tensor& rois, int64_t output_size,
                        int64_t sampling_ratio) {
  check_align1d(features, rois, output_size, sampling_ratio);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), channels = features.size(1), frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  if (output.numel() == 0) {
    return output;
  }
  check_grid(count, 1, channels);
  const auto input = features.transpose(1, 2).contiguous(), table = table_of(rois, features);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "align1d_cuda", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const dim3 grid(static_cast<unsigned>(count), parts(channels));
    align<scalar_t, acc_t><<<grid, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), features.size(0), channels, frames,
        output_size, sampling_ratio, output.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

at::Tensor align1d_backward_cuda(const at::Tensor& grad, const at::Tensor& rois, int64_t batch,
                                 int64_t frames, int64_t sampling_ratio) {
  check_align1d_backward(grad, rois, batch, frames, sampling_ratio);
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  auto output = at::zeros({batch, frames, channels}, grad.options());
  if (output.numel() > 0 && count > 0) {
    check_grid(batch * frames, 1, channels);
    const auto rows = grad.transpose(1, 2).contiguous(), table = table_of(rois, grad);
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, rows.scalar_type(), "align1d_backward_cuda", [&] {
          using acc_t = at::opmath_type<scalar_t>;
          const dim3 grid(static_cast<unsigned>(batch * frames), parts(channels));
          align_backward<scalar_t, acc_t><<<grid, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
              rows.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), count, channels, frames, bins,
              sampling_ratio, output.mutable_data_ptr<scalar_t>());
          C10_CUDA_KERNEL_LAUNCH_CHECK();
        });
  }
  return output.transpose(1, 2).contiguous();
}

at::Tensor sum_aligned1d_cuda(const at::Tensor& projected, const at::Tensor& rois, int64_t sampling_ratio) {
  check_sum_aligned1d(projected, rois, sampling_ratio);
  const c10::cuda::CUDAGuard guard(projected.device());
  const auto input = projected.contiguous();
  const int64_t batch = input.size(0), frames = input.size(1), slots = input.size(2),
                channels = input.size(3);
  const int64_t count = rois.size(0);
  auto output = at::empty({batch, count, channels}, input.options());
  if (output.numel() == 0) {
    return output;
  }
  check_grid(count, batch, channels);
  const auto table = table_of(rois, projected);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "sum_aligned1d_cuda", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(batch), parts(channels));
    sum_aligned<scalar_t, acc_t><<<grid, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
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
  const auto rows = grad.contiguous();
  const int64_t batch = grad.size(0), count = grad.size(1), channels = grad.size(2);
  auto output = at::zeros({batch, frames, slots, channels}, rows.options());
  if (output.numel() == 0 || count == 0) {
    return output;
  }
  check_grid(frames * slots, batch, channels);
  const auto table = table_of(rois, grad);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, rows.scalar_type(), "sum_aligned1d_backward_cuda", [&] {
        using acc_t = at::opmath_type<scalar_t>;
        const dim3 grid(static_cast<unsigned>(frames * slots), static_cast<unsigned>(batch), parts(channels));
        sum_aligned_backward<scalar_t, acc_t><<<grid, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
            rows.const_data_ptr<scalar_t>(), table.const_data_ptr<acc_t>(), count, frames, slots, channels,
            sampling_ratio, output.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("align1d", &align1d_cuda);
  m.impl("align1d_backward", &align1d_backward_cuda);
  m.impl("sum_aligned1d", &sum_aligned1d_cuda);
  m.impl("sum_aligned1d_backward", &sum_aligned1d_backward_cuda);
}

}  // namespace avfusion::ops
