// Merging the kernels of several convolutions into one on CUDA, and taking its gradient apart. Bound by
// bandwidth: every number is read and written once. In memory the merged kernel is (outputs, taps, channels),
// as cuDNN's convolutions for tensor cores and the products of tiled_conv1d read it. A tap of it is a sum in
// the order of the branches.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "video_tiles.h"

namespace avfusion::ops {
namespace {

constexpr int THREADS = 256;
constexpr int CHANNELS = 64;  // of a block, for one output
constexpr int PITCH = CHANNELS + 1;
constexpr int BRANCHES = 8;  // at most; avfusion/ops/merge_taps.py knows these three
constexpr int TAPS = 256;    // of all branches together
constexpr int WIDTH = 256;   // of the merged kernel

// Where weights and biases of the branches lie, and how many taps each has.
template <typename pointer_t>
struct Branches {
  pointer_t branch[BRANCHES], bias[BRANCHES];
  int taps[BRANCHES], count, biases;
};

// Which taps make up tap k of the kernel: [first[k], first[k + 1]), by branch and tap.
struct Sources {
  uint16_t first[WIDTH + 1];
  uint8_t branch[TAPS], tap[TAPS];
};

struct Places {
  uint8_t place[TAPS];  // of the taps, branch by branch
};

// weights (outputs, channels, 1, taps) and biases (outputs) of every branch -> kernel (outputs, width,
// channels) and bias. Block (CHANNELS channels of an output), or the last one: the bias.
template <typename scalar_t>
__global__ void __launch_bounds__(THREADS)
    merge(const __grid_constant__ Branches<const scalar_t*> branches, const __grid_constant__ Sources sources,
          int64_t outputs, int64_t channels, int width, scalar_t* __restrict__ kernel,
          scalar_t* __restrict__ bias) {
  using acc_t = at::opmath_type<scalar_t>;
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t tiles = (channels + CHANNELS - 1) / CHANNELS, output = blockIdx.x / tiles;
  if (output == outputs) {
    for (int64_t o = threadIdx.x; o < outputs; o += THREADS) {
      acc_t sum = 0;
      for (int b = 0; b < branches.biases; ++b) {
        sum += static_cast<acc_t>(branches.bias[b][o]);
      }
      bias[o] = static_cast<scalar_t>(sum);
    }
    return;
  }
  __shared__ int begin[BRANCHES];
  const int64_t first = blockIdx.x % tiles * CHANNELS;
  const int here = static_cast<int>(channels - first < CHANNELS ? channels - first : CHANNELS);
  auto* staged = reinterpret_cast<scalar_t*>(memory);
  int held = 0;
  for (int b = 0; b < branches.count; ++b) {
    const int taps = branches.taps[b];
    stage<THREADS>(branches.branch[b] + (output * channels + first) * taps, here * taps, staged + held);
    begin[b] = held;  // the same from every thread
    held += CHANNELS * taps;
  }
  __syncthreads();
  const int c = threadIdx.x % CHANNELS;
  for (int k = threadIdx.x / CHANNELS; k < width; k += THREADS / CHANNELS) {
    acc_t sum = 0;
    for (int source = sources.first[k]; source < sources.first[k + 1]; ++source) {
      const int b = sources.branch[source];
      sum += static_cast<acc_t>(staged[begin[b] + c * branches.taps[b] + sources.tap[source]]);
    }
    if (c < here) {
      kernel[(output * width + k) * channels + first + c] = static_cast<scalar_t>(sum);
    }
  }
}

// grad (outputs, width, channels) -> the branches (outputs, channels, 1, taps). Block as above.
template <typename scalar_t>
__global__ void __launch_bounds__(THREADS)
    split(const __grid_constant__ Branches<scalar_t*> branches, const __grid_constant__ Places places,
          const scalar_t* __restrict__ grad, int64_t channels, int width) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Places own;  // as lanes want different entries of it
  const int64_t tiles = (channels + CHANNELS - 1) / CHANNELS, output = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * CHANNELS;
  const int here = static_cast<int>(channels - first < CHANNELS ? channels - first : CHANNELS);
  auto* staged = reinterpret_cast<scalar_t*>(memory);
  own.place[threadIdx.x] = places.place[threadIdx.x];
  const int c = threadIdx.x % CHANNELS;
  for (int k = threadIdx.x / CHANNELS; k < width && c < here; k += THREADS / CHANNELS) {
    staged[k * PITCH + c] = grad[(output * width + k) * channels + first + c];
  }
  __syncthreads();
  int before = 0;
  for (int b = 0; b < branches.count; ++b) {
    const unsigned taps = branches.taps[b];
    scalar_t* to = branches.branch[b] + (output * channels + first) * taps;
    for (unsigned i = threadIdx.x; i < here * taps; i += THREADS) {
      to[i] = staged[own.place[before + i % taps] * PITCH + i / taps];
    }
    before += static_cast<int>(taps);
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

unsigned blocks_for(int64_t outputs, int64_t channels) {
  const int64_t blocks = outputs * ((channels + CHANNELS - 1) / CHANNELS);
  TORCH_CHECK(blocks < (int64_t(1) << 31) - 1, "weights are too large for one call: ", outputs, " outputs of ",
              channels, " channels");
  return static_cast<unsigned>(blocks);
}

// The table of branches of these sizes, without where they lie.
template <typename pointer_t>
Branches<pointer_t> branches_of(at::IntArrayRef counts, at::IntArrayRef places) {
  Branches<pointer_t> branches = {};
  int64_t all = 0;
  for (const int64_t count : counts) {
    TORCH_CHECK(count > 0, "a branch has at least one tap, not ", count);
    branches.taps[branches.count++] = static_cast<int>(count);
    all += count;
  }
  TORCH_CHECK(all == static_cast<int64_t>(places.size()), "places must be one for each of the ", all,
              " taps, not ", places.size());
  return branches;
}

Sources sources_of(at::IntArrayRef counts, at::IntArrayRef places, int64_t width) {
  Sources sources = {};
  int count = 0;
  for (int64_t k = 0; k < width; ++k) {
    sources.first[k] = static_cast<uint16_t>(count);
    size_t i = 0;
    for (size_t b = 0; b < counts.size(); ++b) {
      for (int64_t tap = 0; tap < counts[b]; ++tap, ++i) {
        if (places[i] == k) {
          sources.branch[count] = static_cast<uint8_t>(b);
          sources.tap[count++] = static_cast<uint8_t>(tap);
        }
      }
    }
  }
  sources.first[width] = static_cast<uint16_t>(count);
  return sources;
}

std::tuple<at::Tensor, at::Tensor> merge_taps_cuda(at::TensorList weights, at::TensorList biases,
                                                   at::IntArrayRef places, int64_t width) {
  check_sizes(weights.size(), places, width);
  const at::Tensor& like = weights[0];
  const c10::cuda::CUDAGuard guard(like.device());
  const int64_t outputs = like.size(0), channels = like.size(1);
  std::vector<at::Tensor> inputs, sums;
  std::vector<int64_t> counts;
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 1 && weight.size(0) == outputs &&
                    weight.size(1) == channels && weight.scalar_type() == like.scalar_type() &&
                    weight.device() == like.device(),
                "weights must all be (outputs, channels, 1, taps) of one type on one device");
    inputs.push_back(weight.contiguous());
    counts.push_back(weight.size(3));
  }
  TORCH_CHECK(biases.size() <= weights.size(), "biases must be at most one per branch, not ", biases.size());
  for (const at::Tensor& bias : biases) {
    TORCH_CHECK(bias.dim() == 1 && bias.size(0) == outputs && bias.scalar_type() == like.scalar_type() &&
                    bias.device() == like.device(),
                "biases must be (outputs) of the weights' type and device");
    sums.push_back(bias.contiguous());
  }
  auto kernel = at::empty({outputs, width, channels}, like.options());
  auto bias = at::empty({outputs}, like.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, like.scalar_type(), "merge_taps_cuda", [&] {
    auto branches = branches_of<const scalar_t*>(counts, places);
    for (size_t b = 0; b < inputs.size(); ++b) {
      branches.branch[b] = inputs[b].const_data_ptr<scalar_t>();
    }
    for (const at::Tensor& sum : sums) {
      branches.bias[branches.biases++] = sum.const_data_ptr<scalar_t>();
    }
    const int64_t bytes = CHANNELS * static_cast<int64_t>(places.size() * sizeof(scalar_t));
    allow_shared(merge<scalar_t>, bytes);
    const unsigned blocks = blocks_for(outputs, channels) + 1;
    merge<scalar_t><<<blocks, THREADS, bytes, c10::cuda::getCurrentCUDAStream()>>>(
        branches, sources_of(counts, places, width), outputs, channels, static_cast<int>(width),
        kernel.mutable_data_ptr<scalar_t>(), bias.mutable_data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {kernel.transpose(1, 2), bias};
}

std::vector<at::Tensor> split_taps_cuda(const at::Tensor& grad, at::IntArrayRef places,
                                        at::IntArrayRef counts) {
  TORCH_CHECK(grad.dim() == 3 && at::isFloatingType(grad.scalar_type()),
              "grad must be floating point (outputs, channels, taps)");
  check_sizes(counts.size(), places, grad.size(2));
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t outputs = grad.size(0), channels = grad.size(1), width = grad.size(2);
  const auto from = grad.transpose(1, 2).contiguous();
  std::vector<at::Tensor> grads;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, grad.scalar_type(), "split_taps_cuda", [&] {
    auto branches = branches_of<scalar_t*>(counts, places);
    for (const int64_t count : counts) {
      grads.push_back(at::empty({outputs, channels, 1, count}, grad.options()));
      branches.branch[grads.size() - 1] = grads.back().template mutable_data_ptr<scalar_t>();
    }
    Places table = {};
    std::copy(places.begin(), places.end(), table.place);
    if (grad.numel() == 0) {
      return;
    }
    const int64_t bytes = PITCH * width * static_cast<int64_t>(sizeof(scalar_t));
    allow_shared(split<scalar_t>, bytes);
    split<scalar_t><<<blocks_for(outputs, channels), THREADS, bytes, c10::cuda::getCurrentCUDAStream()>>>(
        branches, table, from.const_data_ptr<scalar_t>(), channels, static_cast<int>(width));
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
