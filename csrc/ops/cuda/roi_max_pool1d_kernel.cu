// RoI max pooling along time on CUDA, forward. The backward pass is the reference in plain torch
// (avfusion/ops/roi_pool.py): a scatter_add, which knows what torch.use_deterministic_algorithms asks for.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../roi_max_pool1d.h"

namespace avfusion::ops {
namespace {

constexpr int64_t THREADS = 256;
constexpr int64_t MAX_BLOCKS = 1 << 16;

// A thread per output element; neighbouring threads take neighbouring bins, which read neighbouring frames.
template <typename scalar_t, typename coord_t>
__global__ void pool(const scalar_t* features, const coord_t* rois, const int64_t* batch_index, int64_t total,
                     int64_t batch, int64_t channels, int64_t frames, int64_t bins, coord_t scale,
                     scalar_t* output, int64_t* argmax) {
  const int64_t stride = static_cast<int64_t>(blockDim.x) * gridDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t b = i % bins, c = (i / bins) % channels, r = i / (bins * channels);
    CUDA_KERNEL_ASSERT(batch_index[r] >= 0 && batch_index[r] < batch && "rois name a video that is not there");
    const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, bins);
    coord_t best = 0;
    int64_t where = 0;
    if (!roi.malformed()) {
      const scalar_t* row = features + (batch_index[r] * channels + c) * frames;
      const Bin bin = roi.bin(b, frames);
      where = -1;
      if (bin.first < bin.last) {
        best = static_cast<coord_t>(row[bin.first]) - coord_t(1);  // see the CPU kernel
        for (int64_t t = bin.first; t < bin.last; ++t) {
          const coord_t value = static_cast<coord_t>(row[t]);
          if (value > best) {
            best = value;
            where = t;
          }
        }
      }
    }
    output[i] = static_cast<scalar_t>(best);
    argmax[i] = where;
  }
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cuda(const at::Tensor& features, const at::Tensor& rois,
                                                       int64_t output_size, double spatial_scale) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  const c10::cuda::CUDAGuard guard(features.device());
  const auto input = features.contiguous();
  const int64_t count = rois.size(0), channels = input.size(1);
  auto output = at::empty({count, channels, output_size}, input.options());
  auto argmax = at::empty({count, channels, output_size}, input.options().dtype(at::kLong));
  const int64_t total = output.numel();
  if (total == 0) {
    return {output, argmax};
  }
  const auto batch_index = rois.select(1, 0).to(at::kLong).contiguous();
  const int64_t blocks = std::min(MAX_BLOCKS, (total + THREADS - 1) / THREADS);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "roi_max_pool1d_cuda", [&] {
    using coord_t = at::opmath_type<scalar_t>;
    const auto coordinates = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
    pool<scalar_t, coord_t><<<blocks, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        input.const_data_ptr<scalar_t>(), coordinates.template const_data_ptr<coord_t>(),
        batch_index.const_data_ptr<int64_t>(), total, input.size(0), channels, input.size(2), output_size,
        static_cast<coord_t>(spatial_scale), output.mutable_data_ptr<scalar_t>(),
        argmax.mutable_data_ptr<int64_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {output, argmax};
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_cuda);
}

}  // namespace avfusion::ops
