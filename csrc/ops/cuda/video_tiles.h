// What kernels share whose blocks take some channels of one video and all rois of that video: the channels in
// shared memory, the list of the rois, and how to divide the work into enough blocks.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>
#include <cstdint>

#include "roi_check.h"

namespace avfusion::ops {

constexpr int64_t LARGEST_OUTPUT = int64_t(1) << 20;  // bins of a roi, as blocks count those of many in an int

// Neighbouring numbers that a thread reads or writes at once.
template <typename value_t, int COUNT>
struct alignas(COUNT * sizeof(value_t) < 16 ? COUNT * sizeof(value_t) : 16) Some {
  value_t value[COUNT];
};

// Copies `count` numbers that lie in a row to shared memory; __syncthreads before they are used.
template <int THREADS, typename scalar_t>
__device__ __forceinline__ void stage(const scalar_t* __restrict__ from, int count, scalar_t* to) {
  constexpr int PACK = 16 / sizeof(scalar_t);
  int done = 0;
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const int packs = count / PACK;
    for (int i = threadIdx.x; i < packs; i += THREADS) {
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
    }
    done = packs * PACK;
  }
  for (int i = done + threadIdx.x; i < count; i += THREADS) {
    to[i] = from[i];
  }
}

// Collective: the sum of the values of all lanes.
__device__ __forceinline__ int sum_of_warp(int value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_add_sync(0xffffffffu, value);
#else
  for (int apart = 16; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, apart);
  }
  return value;
#endif
}

// Collective: the sum of the values of this lane and of those before.
__device__ __forceinline__ int sum_up_to_lane(int value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, value, step);
    value += lane >= step ? before : 0;
  }
  return value;
}

// Collective: how many threads before this one say yes; and in `total` all that do.
__device__ __forceinline__ int place_among(bool yes, int* of_warp, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const unsigned hits = __ballot_sync(0xffffffffu, yes);
  __syncthreads();
  if (lane == 0) {
    of_warp[warp] = __popc(hits);
  }
  __syncthreads();
  const int place = __popc(hits & ((1u << lane) - 1u)), here = lane < warps ? of_warp[lane] : 0;
  total = sum_of_warp(here);
  return place + sum_of_warp(lane < warp ? here : 0);
}

// Rois of one video, in the order of their table.
template <int THREADS>
struct RoisOfVideo {
  int64_t roi[THREADS];
  int of_warp[THREADS / 32];

  // Collective: of the rois from `base` on, one per thread, those below `end` for which `is_mine(roi)` holds;
  // returns how many there are.
  template <typename Mine>
  __device__ int find(int64_t base, int64_t end, const Mine& is_mine) {
    const int64_t r = base + threadIdx.x;
    const bool mine = r < end && is_mine(r);
    int total = 0;
    const int place = place_among(mine, of_warp, total);  // the previous list has been used
    if (mine) {
      roi[place] = r;
    }
    __syncthreads();
    return total;
  }
};

// The video of a roi; one that names none counts as the first video's.
template <typename coord_t>
__device__ __forceinline__ int64_t video_of(coord_t index, int64_t batch) {
  return names_no_video(index, batch) ? 0 : static_cast<int64_t>(index);
}

inline int64_t multiprocessors() {
  int count = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, c10::cuda::current_device()));
  return count;
}

// Bytes of shared memory that a block can ask for when it is launched, beside 24 KB of its own.
inline int64_t most_shared() {
  int bytes = 0;
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, c10::cuda::current_device()));
  return bytes - 24 * 1024;
}

// Into how many parts to divide what each of `blocks` blocks does, for at most `wanted` blocks on a
// multiprocessor.
inline int64_t parts_for(int64_t blocks, int64_t wanted, int64_t most) {
  const int64_t parts = wanted * multiprocessors() / blocks;
  return std::max<int64_t>(1, std::min({parts, most, int64_t(65535)}));
}

// Lets a kernel use more than the 48 KB of shared memory that it may have unasked.
template <typename Kernel>
void allow_shared(Kernel kernel, int64_t bytes) {
  if (bytes > 24 * 1024) {  // with what the kernel declares itself
    C10_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  }
}

}  // namespace avfusion::ops
