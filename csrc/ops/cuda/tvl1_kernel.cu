// TV-L1 optical flow on CUDA: a cluster of blocks per pair of images, or one block before compute
// capability 9. One launch computes a batch; which iteration is a pair's last is decided on the device, pair
// by pair.
//
// The work space of the clusters that run together is a few dozen megabytes, so that the iterations run in
// the second-level cache. Pointers to it are not `const __restrict__`: the read-only path is not coherent
// with what other blocks of the cluster write.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cooperative_groups.h>
#include <torch/library.h>

#include <algorithm>

#include "../tvl1_arguments.h"
#include "tvl1_pair.h"

namespace avfusion::ops {
namespace {

using tvl1::Layout;
using tvl1::Options;
using tvl1::Size;

constexpr int WARP = 32;
constexpr int WARPS = 32;                         // of a block
constexpr int CLUSTER = 8;                        // blocks; more need not be possible
constexpr int64_t WORK_SPACE = int64_t{2} << 30;  // bytes; a larger batch is computed in several launches

// The blocks of a cluster; a warp takes 32 pixels of a row at a time.
template <int BLOCKS>
class Team {
 public:
  __device__ explicit Team(double* sums) : sums_(sums), lane_(threadIdx.x), warp_(threadIdx.y) {}

  template <typename Function>
  __device__ void each(Size size, Function&& function) const {
    const int pieces = (size.width + WARP - 1) / WARP, total = pieces * size.height;
    for (int piece = (blockIdx.x % BLOCKS) * WARPS + warp_; piece < total; piece += BLOCKS * WARPS) {
      const int y = piece / pieces, x = (piece - y * pieces) * WARP + lane_;
      if (x < size.width) {
        function(x, y);
      }
    }
  }

  __device__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if constexpr (BLOCKS > 1) {
      cooperative_groups::this_cluster().sync();
      return;
    }
#endif
    __syncthreads();
  }

  __device__ void post(float value) const {
    const double sum = over_warp(value);
    if (lane_ == 0) {
      sums_[warp_] = sum;
    }
  }

  // Every warp adds the sums of all warps of all blocks in the same order.
  __device__ double total() const {
    double sum = 0;
    if (lane_ < WARPS) {
#if __CUDA_ARCH__ >= 900
      if constexpr (BLOCKS > 1) {
        for (int block = 0; block < BLOCKS; ++block) {
          sum += cooperative_groups::this_cluster().map_shared_rank(sums_, block)[lane_];
        }
      } else {
        sum = sums_[lane_];
      }
#else
      sum = sums_[lane_];
#endif
    }
    return over_warp(sum);
  }

 private:
  __device__ static double over_warp(double value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
      value += __shfl_xor_sync(0xffffffffu, value, offset);
    }
    return value;
  }

  double* const sums_;  // in shared memory, one of each warp
  const int lane_, warp_;
};

template <int BLOCKS>
__global__ void __launch_bounds__(WARP* WARPS)
    solve(const uint8_t* first, const uint8_t* second, const __grid_constant__ Options options,
          const __grid_constant__ Layout layout, float* memory, float* flow) {
  __shared__ double sums[WARPS];
  const int64_t pair = blockIdx.x / BLOCKS, area = layout.sizes[0].area();
  Team<BLOCKS> team(sums);
  tvl1::PairSolver<Team<BLOCKS>> solver(team, options, layout, memory + pair * layout.total);
  solver.run(first + pair * area, second + pair * area, flow + 2 * pair * area);
}

template <int BLOCKS>
void launch(int64_t pairs, const uint8_t* first, const uint8_t* second, const Options& options,
            const Layout& layout, float* memory, float* flow) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(pairs * BLOCKS));
  config.blockDim = dim3(WARP, WARPS);
  config.stream = c10::cuda::getCurrentCUDAStream();
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = BLOCKS;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = BLOCKS > 1 ? 1 : 0;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, solve<BLOCKS>, first, second, options, layout, memory, flow));
}

// Whether the kernel that this device runs was compiled to wait for a cluster.
bool has_clusters() {
  cudaFuncAttributes attributes{};
  C10_CUDA_CHECK(cudaFuncGetAttributes(&attributes, solve<CLUSTER>));
  return attributes.ptxVersion >= 90;
}

at::Tensor tvl1_flow_cuda(const at::Tensor& first, const at::Tensor& second, double tau, double weight,
                          double theta, int64_t scales, int64_t warps, double epsilon, int64_t inner,
                          int64_t outer, double scale_step, int64_t median) {
  const Options options = tvl1::read_arguments(first, second, tau, weight, theta, scales, warps, epsilon,
                                               inner, outer, scale_step, median);
  const c10::cuda::CUDAGuard guard(first.device());
  const auto from = first.contiguous(), to = second.contiguous();
  const Size size{static_cast<int>(first.size(1)), static_cast<int>(first.size(2))};
  auto flow = at::empty({first.size(0), size.height, size.width, 2}, first.options().dtype(at::kFloat));
  if (first.size(0) == 0) {
    return flow;
  }
  const Layout layout = tvl1::lay_out(size, options);
  const int64_t most = WORK_SPACE / (layout.total * static_cast<int64_t>(sizeof(float)));
  const int64_t together = std::clamp<int64_t>(most, 1, first.size(0));
  auto memory = at::empty({together * layout.total}, flow.options());
  const bool clusters = has_clusters();
  for (int64_t begin = 0; begin < first.size(0); begin += together) {
    const int64_t pairs = std::min(together, first.size(0) - begin), place = begin * size.area();
    (clusters ? launch<CLUSTER> : launch<1>)(pairs, from.const_data_ptr<uint8_t>() + place,
                                             to.const_data_ptr<uint8_t>() + place, options, layout,
                                             memory.mutable_data_ptr<float>(),
                                             flow.mutable_data_ptr<float>() + 2 * place);
  }
  return flow;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("tvl1_flow", &tvl1_flow_cuda);
}

}  // namespace avfusion::ops
