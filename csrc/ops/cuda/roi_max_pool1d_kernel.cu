// RoI max pooling along time on CUDA, forward and backward. Channels lie innermost while it reads, so that a
// warp reads one step of 32 channels at once and all its lanes agree on the bounds of a bin; a block takes
// some rois of the same channels, which then stay in the L1 cache.
//
// A roi of a video that is not there gives NaN: to look at its value on the host would wait for the device.
#include <ATen/ATen.h>
#include <ATen/Context.h>
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

namespace avfusion::ops {
namespace {

constexpr int LANES = 32;
constexpr int WARPS = 8;
constexpr int64_t ROIS = 32;      // of a block
constexpr int BINS = 4;           // stored together
constexpr int64_t FEW_ROIS = 32;  // per video: up to here adding in order is as fast as atomics

template <typename value_t>
struct alignas(BINS * sizeof(value_t) > 16 ? 16 : BINS * sizeof(value_t)) Pack {
  value_t value[BINS];
};

template <typename value_t>
__device__ __forceinline__ void store(value_t* to, const Pack<value_t>& pack, int64_t count, bool whole) {
  if (whole) {
    *reinterpret_cast<Pack<value_t>*>(to) = pack;
    return;
  }
  for (int b = 0; b < BINS && b < count; ++b) {
    to[b] = pack.value[b];
  }
}

// features (batch, frames, channels) -> output, argmax (rois, channels, bins); a warp per roi and 32 channels
template <typename scalar_t, typename coord_t>
__global__ void pool(const scalar_t* __restrict__ features, const coord_t* __restrict__ rois, int64_t count,
                     int64_t batch, int64_t channels, int64_t frames, int64_t bins, coord_t scale,
                     scalar_t* __restrict__ output, int64_t* __restrict__ argmax) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * LANES + threadIdx.x;
  if (c >= channels) {
    return;
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * ROIS,
                end = begin + ROIS < count ? begin + ROIS : count;
  for (int64_t r = begin + threadIdx.y; r < end; r += WARPS) {
    const coord_t video = rois[3 * r];
    const bool missing = !(video > coord_t(-1) && video < static_cast<coord_t>(batch));
    const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, bins);
    const bool readable = !missing && !roi.malformed();
    const scalar_t* rows = features + (missing ? 0 : static_cast<int64_t>(video)) * frames * channels + c;
    for (int64_t first = 0; first < bins; first += BINS) {
      Pack<scalar_t> values;
      Pack<int64_t> places;
#pragma unroll
      for (int b = 0; b < BINS; ++b) {
        coord_t best = missing ? static_cast<coord_t>(NAN) : coord_t(0);
        int64_t where = missing ? -1 : 0;
        if (readable && first + b < bins) {
          const Bin bin = roi.bin(first + b, frames);
          where = -1;
          if (bin.first < bin.last) {
            best = static_cast<coord_t>(rows[bin.first * channels]) - coord_t(1);  // see the CPU kernel
#pragma unroll 4
            for (int64_t t = bin.first; t < bin.last; ++t) {
              const coord_t value = static_cast<coord_t>(rows[t * channels]);
              if (value > best) {
                best = value;
                where = t;
              }
            }
          }
        }
        values.value[b] = static_cast<scalar_t>(best);
        places.value[b] = where;
      }
      const int64_t to = (r * channels + c) * bins + first;
      store(output + to, values, bins - first, bins % BINS == 0);
      store(argmax + to, places, bins - first, bins % BINS == 0);
    }
  }
}

// Adds in the order of the rois: a thread per video and channel. grad, argmax (rois, channels, bins), output
// (batch, channels, frames), zeroed.
template <typename scalar_t, typename acc_t>
__global__ void add_in_order(const scalar_t* __restrict__ grad, const int64_t* __restrict__ argmax,
                             const int64_t* __restrict__ batch_index, int64_t count, int64_t batch,
                             int64_t channels, int64_t frames, int64_t bins, acc_t* output) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= batch * channels) {
    return;
  }
  const int64_t c = i % channels, video = i / channels;
  acc_t* row = output + i * frames;
  for (int64_t r = 0; r < count; ++r) {
    if (batch_index[r] != video) {
      continue;
    }
    const int64_t from = (r * channels + c) * bins;
    for (int64_t b = 0; b < bins; ++b) {
      const int64_t t = argmax[from + b];
      if (t >= 0 && t < frames) {
        row[t] += static_cast<acc_t>(grad[from + b]);
      }
    }
  }
}

// A thread per gradient, in whatever order.
template <typename scalar_t, typename acc_t>
__global__ void add_atomically(const scalar_t* __restrict__ grad, const int64_t* __restrict__ argmax,
                               const int64_t* __restrict__ batch_index, int64_t total, int64_t batch,
                               int64_t channels, int64_t frames, int64_t bins, acc_t* output) {
  const int64_t stride = static_cast<int64_t>(blockDim.x) * gridDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t c = i / bins % channels, video = batch_index[i / (bins * channels)], t = argmax[i];
    if (t >= 0 && t < frames && video >= 0 && video < batch) {
      atomicAdd(output + (video * channels + c) * frames + t, static_cast<acc_t>(grad[i]));
    }
  }
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cuda(const at::Tensor& features, const at::Tensor& rois,
                                                       int64_t output_size, double spatial_scale) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), channels = features.size(1);
  auto output = at::empty({count, channels, output_size}, features.options());
  auto argmax = at::empty({count, channels, output_size}, features.options().dtype(at::kLong));
  if (output.numel() == 0) {
    return {output, argmax};
  }
  const int64_t blocks = (count + ROIS - 1) / ROIS, parts = (channels + LANES - 1) / LANES;
  TORCH_CHECK(blocks < (int64_t(1) << 31) && parts < 65536, "rois or features are too many for one call");
  const auto input = features.transpose(1, 2).contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "roi_max_pool1d_cuda", [&] {
    using coord_t = at::opmath_type<scalar_t>;
    const auto table = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)), block(LANES, WARPS);
    pool<scalar_t, coord_t><<<grid, block, 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), table.template const_data_ptr<coord_t>(), count, features.size(0),
        channels, features.size(2), output_size, static_cast<coord_t>(spatial_scale),
        output.mutable_data_ptr<scalar_t>(), argmax.mutable_data_ptr<int64_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {output, argmax};
}

at::Tensor roi_max_pool1d_backward_cuda(const at::Tensor& grad, const at::Tensor& argmax,
                                        const at::Tensor& batch_index, int64_t batch, int64_t frames) {
  check_roi_max_pool1d_backward(grad, argmax, batch_index, batch, frames);
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  // Half types are summed in float32, as the frames of a short roi get many contributions.
  const auto type = grad.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto output = at::zeros({batch, channels, frames}, grad.options().dtype(type));
  if (grad.numel() == 0 || output.numel() == 0) {
    return output.to(grad.scalar_type());
  }
  const auto from = grad.contiguous(), where = argmax.contiguous(), index = batch_index.contiguous();
  const bool ordered = at::globalContext().deterministicAlgorithms() || count <= FEW_ROIS * batch;
  const int64_t threads = ordered ? 64 : 256, work = ordered ? batch * channels : grad.numel();
  const int64_t blocks = std::min<int64_t>((work + threads - 1) / threads, ordered ? INT32_MAX : 1 << 16);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, from.scalar_type(),
                                  "roi_max_pool1d_backward_cuda", [&] {
                                    using acc_t = at::opmath_type<scalar_t>;
                                    const auto stream = c10::cuda::getCurrentCUDAStream();
                                    if (ordered) {
                                      add_in_order<scalar_t, acc_t><<<blocks, threads, 0, stream>>>(
                                          from.const_data_ptr<scalar_t>(), where.const_data_ptr<int64_t>(),
                                          index.const_data_ptr<int64_t>(), count, batch, channels, frames,
                                          bins, output.template mutable_data_ptr<acc_t>());
                                    } else {
                                      add_atomically<scalar_t, acc_t><<<blocks, threads, 0, stream>>>(
                                          from.const_data_ptr<scalar_t>(), where.const_data_ptr<int64_t>(),
                                          index.const_data_ptr<int64_t>(), grad.numel(), batch, channels,
                                          frames, bins, output.template mutable_data_ptr<acc_t>());
                                    }
                                    C10_CUDA_KERNEL_LAUNCH_CHECK();
                                  });
  return output.to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_cuda);
  m.impl("roi_max_pool1d_backward", &roi_max_pool1d_backward_cuda);
}

}  // namespace avfusion::ops
