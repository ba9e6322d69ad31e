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

constexpr int64_t HALF_SHARED = 100 * 1024;   // bytes of shared memory, so that two blocks fit
constexpr int64_t ALL_SHARED = 200 * 1024;    // or one
constexpr int64_t LARGEST_OUTPUT = int64_t(1) << 20;  // bins of a roi; a block counts those of THREADS rois

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

// Collective: how many threads before this one say yes; and in `total` all that do.
__device__ __forceinline__ int place_among(bool yes, int* of_warp, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const unsigned hits = __ballot_sync(0xffffffffu, yes);
  __syncthreads();
  if (lane == 0) {
    of_warp[warp] = __popc(hits);
  }
  __syncthreads();
  int place = __popc(hits & ((1u << lane) - 1u));
  total = 0;
  for (int w = 0; w < warps; ++w) {
    place += w < warp ? of_warp[w] : 0;
    total += of_warp[w];
  }
  return place;
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

constexpr int SORTERS = 1024;  // threads

// Sorts rois by video, in the order of their table: those of video v are order[bounds[v]..bounds[v + 1]). A
// block per video. `video_of(roi)` is -1 for those that are left out.
template <typename VideoOf>
__global__ void __launch_bounds__(SORTERS) sort_by_video(VideoOf video_of, int64_t count, int64_t batch,
                                                         int64_t* __restrict__ order,
                                                         int64_t* __restrict__ bounds) {
  __shared__ int of_warp[SORTERS / 32];
  const int64_t video = blockIdx.x;
  int64_t before = 0;
  int total = 0;
  for (int64_t base = 0; base < count; base += SORTERS) {
    const int64_t r = base + threadIdx.x, of = r < count ? video_of(r) : -1;
    place_among(of >= 0 && of < video, of_warp, total);
    before += total;
  }
  if (threadIdx.x == 0) {
    bounds[video] = before;
  }
  for (int64_t base = 0; base < count; base += SORTERS) {
    const int64_t r = base + threadIdx.x;
    const bool mine = r < count && video_of(r) == video;
    const int place = place_among(mine, of_warp, total);
    if (mine) {
      order[before + place] = r;
    }
    before += total;
  }
  if (threadIdx.x == 0 && video == batch - 1) {
    bounds[batch] = before;
  }
}

template <typename coord_t>
struct VideoOfRoi {
  const coord_t* rois;
  int64_t batch;

  __device__ int64_t operator()(int64_t r) const {
    return names_no_video(rois[3 * r], batch) ? -1 : static_cast<int64_t>(rois[3 * r]);
  }
};

struct VideoOfIndex {
  const int64_t* index;
  int64_t batch;

  __device__ int64_t operator()(int64_t r) const {
    return index[r] < batch ? index[r] : -1;
  }
};

inline int64_t multiprocessors() {
  int count = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, c10::cuda::current_device()));
  return count;
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
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(bytes)));
  }
}

}  // namespace avfusion::ops
