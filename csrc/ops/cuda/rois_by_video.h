// Rois in the order of their videos, for kernels whose blocks take some channels of one video and all its
// rois.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

#include "launch_early.h"
#include "roi_check.h"
#include "video_tiles.h"

namespace avfusion::ops {

constexpr int SORTERS = 1024;  // threads

// Collective: writes the rois of `video` to order[bounds[video]..bounds[video + 1]), in the order of their
// table. A roi that names no video counts as one of `lost`, which may be none. Every thread has neighbouring
// rois.
template <typename coord_t>
__device__ void list_rois_of(int64_t video, const coord_t* __restrict__ rois, int64_t count, int64_t batch,
                             int64_t lost, int* __restrict__ order, int* __restrict__ bounds) {
  __shared__ int earlier_of_warp[SORTERS / 32], own_of_warp[SORTERS / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t per_thread = (count + SORTERS - 1) / SORTERS;
  const int64_t first = threadIdx.x * per_thread,
                last = first + per_thread < count ? first + per_thread : count;
  const auto video_of = [&](int64_t r) {
    return names_no_video(rois[3 * r], batch) ? lost : static_cast<int64_t>(rois[3 * r]);
  };
  int earlier = 0, own = 0;
#pragma unroll 8
  for (int64_t r = first; r < last; ++r) {
    const int64_t of = video_of(r);
    earlier += of >= 0 && of < video;
    own += of == video;
  }
  const int sum = sum_up_to_lane(own);
  earlier = sum_of_warp(earlier);
  if (lane == 31) {
    earlier_of_warp[warp] = earlier;
    own_of_warp[warp] = sum;
  }
  __syncthreads();
  static_assert(SORTERS / 32 == 32, "a lane for every warp");
  const int begin = sum_of_warp(earlier_of_warp[lane]), all = sum_of_warp(own_of_warp[lane]);
  int place = begin + sum_of_warp(lane < warp ? own_of_warp[lane] : 0) + sum - own;
  if (threadIdx.x == 0) {
    bounds[video] = begin;
    if (video == batch - 1) {
      bounds[batch] = begin + all;
    }
  }
  for (int64_t r = first; own > 0 && r < last; ++r) {
    if (video_of(r) == video) {
      order[place++] = static_cast<int>(r);
    }
  }
}

// A block per video.
template <typename coord_t>
__global__ void __launch_bounds__(SORTERS)
    sort_by_video(const coord_t* __restrict__ rois, int64_t count, int64_t batch, int64_t lost,
                  int* __restrict__ order, int* __restrict__ bounds) {
  wait_for_previous_kernel();
  let_next_kernel_begin();
  list_rois_of(static_cast<int64_t>(blockIdx.x), rois, count, batch, lost, order, bounds);
}

// Which rois are a video's, for kernels. Without an order all `count` are the only video's.
struct RoiOrder {
  const int* order;
  const int* bounds;
  int count;

  __device__ __forceinline__ int begin(int64_t video) const {
    return order == nullptr ? 0 : bounds[video];
  }

  __device__ __forceinline__ int end(int64_t video) const {
    return order == nullptr ? count : bounds[video + 1];
  }

  __device__ __forceinline__ int roi(int place) const {
    return order == nullptr ? place : order[place];
  }
};

// The memory of an order on the device, not yet written.
struct OrderMemory {
  at::Tensor order, bounds;

  OrderMemory(const at::Tensor& rois, int64_t batch) {
    TORCH_CHECK(rois.size(0) < (int64_t(1) << 31), "rois are too many for one call: ", rois.size(0));
    order = at::empty({rois.size(0)}, rois.options().dtype(at::kInt));
    bounds = at::empty({batch + 1}, order.options());
  }

  RoiOrder view() const {
    return {order.const_data_ptr<int>(), bounds.const_data_ptr<int>(), static_cast<int>(order.size(0))};
  }
};

// Sorts a table (rois, 3). Rois that name no video of `batch` count as those of video `lost`, or are left out
// if that is -1.
template <typename coord_t>
OrderMemory rois_by_video(const at::Tensor& table, int64_t batch, int64_t lost) {
  OrderMemory memory(table, batch);
  launch_early(sort_by_video<coord_t>, static_cast<unsigned>(batch), SORTERS, 0,
               c10::cuda::getCurrentCUDAStream(), table.const_data_ptr<coord_t>(), table.size(0), batch, lost,
               memory.order.mutable_data_ptr<int>(), memory.bounds.mutable_data_ptr<int>());
  return memory;
}

}  // namespace avfusion::ops
