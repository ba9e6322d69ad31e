// Merging the kernels of several convolutions into one on CUDA, and taking its gradient apart. Bound by
// bandwidth: every number is read and written once. A tap of the merged kernel is a sum in the order of the
// branches.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace avfusion::ops {
namespace {

constexpr int THREADS = 256;
constexpr int BRANCHES = 8;  // at most; avfusion/ops/merge_taps.py knows these three
constexpr int TAPS = 256;    // of all branches together
constexpr int WIDTH = 256;   // of the merged kernel

// Where the branches lie, and which of their taps make up tap k: those of sources [first[k], first[k + 1]).
template <typename pointer_t>
struct Table {
  pointer_t branch[BRANCHES];
  int taps[BRANCHES];
  uint16_t first[WIDTH + 1];
  uint8_t of_branch[TAPS];
  uint8_t tap[TAPS];
};

template <typename scalar_t>
__global__ void __launch_bounds__(THREADS)
    merge(const __grid_constant__ Table<const scalar_t*> table, int64_t total, int width,
          scalar_t* __restrict__ kernel) {
  using acc_t = at::opmath_type<scalar_t>;
  __shared__ Table<const scalar_t*> own;  // as lanes want different entries of it
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(own) / sizeof(int)); i += THREADS) {
    reinterpret_cast<int*>(&own)[i] = reinterpret_cast<const int*>(&table)[i];
  }
  __syncthreads();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < total; i += stride) {
    const int64_t pair = i / width;
    const int k = static_cast<int>(i - pair * width);
    acc_t sum = 0;
    for (int source = own.first[k]; source < own.first[k + 1]; ++source) {
      const int b = own.of_branch[source];
      sum += static_cast<acc_t>(own.branch[b][pair * own.taps[b] + own.tap[source]]);
    }
    kernel[i] = static_cast<scalar_t>(sum);
  }
}

// Block (.., branch); here `tap` of a branch's tap, counted over all branches, is its place.
template <typename scalar_t>
__global__ void __launch_bounds__(THREADS)
    split(const __grid_constant__ Table<scalar_t*> table, const scalar_t* __restrict__ grad, int64_t pairs,
          int width) {
  __shared__ uint8_t place[TAPS];
  const int b = blockIdx.y, taps = table.taps[b];
  for (int i = threadIdx.x; i < taps; i += THREADS) {
    place[i] = table.tap[table.first[b] + i];
  }
  __syncthreads();
  scalar_t* to = table.branch[b];
  const int64_t total = pairs * taps, stride = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < total; i += stride) {
    const int64_t pair = i / taps;
    to[i] = grad[pair * width + place[i - pair * taps]];
  }
}

void check_sizes(size_t branches, at::IntArrayRef places, int64_t width) {
  TORCH_CHECK(branches > 0 && branches <= BRANCHES, "weights must be of 1 to ", BRANCHES, " branches, not ",
              branches);
  TORCH_CHECK(width > 0 && width <= WIDTH && places.size() <= TAPS, "a kernel has at most ", WIDTH,
              " taps, and its branches ", TAPS, ", not ", width, " and ", places.size());
  for (const int64_t place : places) {
    TORCH_CHECK(place >= 0 && place < width, "places must be from 0 to ", width - 1, ", not ", place);
  }
}

unsigned blocks_for(int64_t total) {
  return static_cast<unsigned>(std::min<int64_t>((total + THREADS - 1) / THREADS, 1 << 14));
}

at::Tensor merge_taps_cuda(at::TensorList weights, at::IntArrayRef places, int64_t width) {
  check_sizes(weights.size(), places, width);
  const at::Tensor& like = weights[0];
  const c10::cuda::CUDAGuard guard(like.device());
  std::vector<at::Tensor> inputs;
  int64_t taps = 0;
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 1 && weight.size(0) == like.size(0) &&
                    weight.size(1) == like.size(1) && weight.scalar_type() == like.scalar_type() &&
                    weight.device() == like.device(),
                "weights must all be (outputs, channels, 1, taps) of one type on one device");
    inputs.push_back(weight.contiguous());
    taps += weight.size(3);
  }
  TORCH_CHECK(taps == static_cast<int64_t>(places.size()), "places must be one for each of the ", taps,
              " taps, not ", places.size());
  auto kernel = at::empty({like.size(0), like.size(1), width}, like.options());
  if (kernel.numel() == 0) {
    return kernel;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, like.scalar_type(), "merge_taps_cuda", [&] {
    Table<const scalar_t*> table = {};
    int source = 0;
    for (int64_t k = 0; k < width; ++k) {
      table.first[k] = static_cast<uint16_t>(source);
      size_t at = 0;
      for (size_t b = 0; b < inputs.size(); ++b) {
        for (int64_t tap = 0; tap < inputs[b].size(3); ++tap, ++at) {
          if (places[at] == k) {
            table.of_branch[source] = static_cast<uint8_t>(b);
            table.tap[source++] = static_cast<uint8_t>(tap);
          }
        }
      }
    }
    table.first[width] = static_cast<uint16_t>(source);
    for (size_t b = 0; b < inputs.size(); ++b) {
      table.branch[b] = inputs[b].const_data_ptr<scalar_t>();
      table.taps[b] = static_cast<int>(inputs[b].size(3));
    }
    merge<scalar_t><<<blocks_for(kernel.numel()), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        table, kernel.numel(), static_cast<int>(width), kernel.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return kernel;
}

std::vector<at::Tensor> split_taps_cuda(const at::Tensor& grad, at::IntArrayRef places,
                                        at::IntArrayRef counts) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()),
              "grad must be floating point (outputs, channels, taps)");
  check_sizes(counts.size(), places, grad.size(2));
  const c10::cuda::CUDAGuard guard(grad.device());
  const auto from = grad.contiguous();
  const int64_t pairs = grad.size(0) * grad.size(1);
  std::vector<at::Tensor> grads;
  int64_t taps = 0, most = 0;
  for (const int64_t count : counts) {
    TORCH_CHECK(count >= 0, "counts must not be negative");
    grads.push_back(at::empty({grad.size(0), grad.size(1), 1, count}, grad.options()));
    taps += count;
    most = std::max(most, count);
  }
  TORCH_CHECK(taps == static_cast<int64_t>(places.size()), "places must be one for each of the ", taps,
              " taps, not ", places.size());
  if (pairs * most == 0) {
    return grads;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, grad.scalar_type(), "split_taps_cuda", [&] {
    Table<scalar_t*> table = {};
    int first = 0;
    for (size_t b = 0; b < grads.size(); ++b) {
      table.branch[b] = grads[b].mutable_data_ptr<scalar_t>();
      table.taps[b] = static_cast<int>(counts[b]);
      table.first[b] = static_cast<uint16_t>(first);
      first += table.taps[b];
    }
    for (size_t at = 0; at < places.size(); ++at) {
      table.tap[at] = static_cast<uint8_t>(places[at]);
    }
    const dim3 grid(blocks_for(pairs * most), static_cast<unsigned>(grads.size()));
    split<scalar_t><<<grid, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        table, from.const_data_ptr<scalar_t>(), pairs, static_cast<int>(grad.size(2)));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return grads;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("merge_taps", &merge_taps_cuda);
  m.impl("split_taps", &split_taps_cuda);
}

}  // namespace avfusion::ops
