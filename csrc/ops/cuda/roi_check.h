// Looks for rois that the CPU refuses. To know the result the host must wait for the device.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <utility>

namespace avfusion::ops {

// Whether a roi's first column names none of `batch` videos; NaN does not.
template <typename coord_t>
__device__ __forceinline__ bool names_no_video(coord_t index, int64_t batch) {
  return !(index > coord_t(-1) && index < static_cast<coord_t>(batch));
}

// Number of the first roi for which `refused(row)` holds, `count` if there is none.
template <typename coord_t, typename Refused>
__global__ void find_refused(const coord_t* __restrict__ rois, int64_t columns, int64_t count,
                             Refused refused, unsigned long long* first) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r < count && refused(rois + r * columns)) {
    atomicMin(first, static_cast<unsigned long long>(r));
  }
}

// The first row (on the CPU, float64) for which `refused` holds, and its number; undefined if there is none.
// While a CUDA graph is captured nothing is looked for, as nothing may wait.
template <typename coord_t, typename Refused>
std::pair<at::Tensor, int64_t> first_refused(const at::Tensor& rois, const Refused& refused) {
  const int64_t count = rois.size(0);
  if (count == 0 || c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) {
    return {at::Tensor(), -1};
  }
  auto first = at::full({1}, count, rois.options().dtype(at::kLong));
  const auto blocks = static_cast<unsigned>((count + 255) / 256);
  find_refused<coord_t, Refused><<<blocks, 256, 0, c10::cuda::getCurrentCUDAStream()>>>(
      rois.const_data_ptr<coord_t>(), rois.size(1), count, refused,
      reinterpret_cast<unsigned long long*>(first.mutable_data_ptr<int64_t>()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const int64_t found = first.item<int64_t>();
  if (found == count) {
    return {at::Tensor(), -1};
  }
  return {rois.select(0, found).to(at::kCPU, at::kDouble).contiguous(), found};
}

template <typename coord_t>
struct NamesNoVideo {
  int64_t batch;

  __device__ bool operator()(const coord_t* row) const {
    return names_no_video(row[0], batch);
  }
};

// Raises the CPU's error if a roi names no video of `batch`.
template <typename coord_t>
void check_videos(const at::Tensor& rois, int64_t batch) {
  const std::pair<at::Tensor, int64_t> refused = first_refused<coord_t>(rois, NamesNoVideo<coord_t>{batch});
  TORCH_CHECK_INDEX(refused.second < 0, "rois[", refused.second, "] names batch ",
                    refused.first.const_data_ptr<double>()[0], ", features have ", batch);
}

}  // namespace avfusion::ops
