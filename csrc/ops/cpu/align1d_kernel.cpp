// RoI alignment along time on the CPU, and the gather and sum of its fused form. Both directions are
// deterministic: every output element belongs to one thread, which adds in the order of the rois.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../align1d.h"
#include "rows.h"

namespace avfusion::ops {
namespace {

constexpr int64_t GRAIN = 1 << 14;  // multiplications worth a thread of their own
constexpr int64_t CHUNK = 128;      // channels that are worth finding a roi's taps again

template <typename scalar_t>
using Taps = std::vector<Tap<scalar_t>>;

// Appends what a bin is made of, every step once: `row` of step t is t * stride + offset.
template <typename scalar_t>
void append_taps(const AlignedRoi<scalar_t>& roi, int64_t bin, int64_t frames, int64_t stride, int64_t offset,
                 Taps<scalar_t>& taps) {
  const size_t begin = taps.size();
  roi.visit(bin, frames, [&](int64_t step, scalar_t weight) {
    const int64_t row = step * stride + offset;
    // Neighbouring samples share steps; the ones before the last two cannot come again.
    for (size_t k = taps.size(); k > begin && k + 2 > taps.size(); --k) {
      if (taps[k - 1].row == row) {
        taps[k - 1].weight += weight;
        return;
      }
    }
    taps.push_back({row, weight});
  });
}

// The rois in the type of the sums; refuses what a GPU kernel can only answer with NaN.
template <typename scalar_t>
std::vector<AlignedRoi<scalar_t>> read_rois(const at::Tensor& bounds, int64_t bins, int64_t sampling_ratio) {
  const auto table = bounds.to(c10::CppTypeToScalarType<scalar_t>::value).contiguous();
  const scalar_t* data = table.template const_data_ptr<scalar_t>();
  std::vector<AlignedRoi<scalar_t>> rois;
  rois.reserve(bounds.size(0));
  for (int64_t r = 0; r < bounds.size(0); ++r) {
    rois.emplace_back(data[2 * r], data[2 * r + 1], bins, sampling_ratio);
    TORCH_CHECK_VALUE(rois.back().valid, "rois[", r, "] is [", data[2 * r], ", ", data[2 * r + 1],
                      "]: rois must be finite and at most 2^24 steps long");
  }
  return rois;
}

std::vector<int64_t> read_batch_index(const at::Tensor& rois, int64_t batch) {
  const auto column = rois.select(1, 0).to(at::kLong).contiguous();
  const int64_t* data = column.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < column.size(0); ++r) {
    TORCH_CHECK_INDEX(data[r] >= 0 && data[r] < batch, "rois[", r, "] names batch ", data[r],
                      ", features have ", batch);
  }
  return {data, data + column.size(0)};
}

int64_t grain(int64_t cost) {
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, cost));
}

// Looking at the rois costs nothing here, whatever `check_rois` says.
at::Tensor align1d_cpu(const at::Tensor& features, const at::Tensor& rois, int64_t output_size,
                       int64_t sampling_ratio, bool /*check_rois*/) {
  check_align1d(features, rois, output_size, sampling_ratio);
  const int64_t batch = features.size(0), channels = features.size(1), frames = features.size(2);
  const int64_t count = rois.size(0);
  const auto index = read_batch_index(rois, batch);
  const auto input =
      features.to(sum_type(features)).transpose(1, 2).contiguous();  // (batch, frames, channels)
  auto output = at::empty({count, channels, output_size}, input.options());
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "align1d_cpu", [&] {
    const auto regions = read_rois<scalar_t>(rois.narrow(1, 1, 2), output_size, sampling_ratio);
    const scalar_t* in = input.const_data_ptr<scalar_t>();
    scalar_t* out = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, count, grain(4 * channels * output_size), [&](int64_t begin, int64_t end) {
      Taps<scalar_t> taps;
      std::vector<scalar_t> rows(output_size * channels);
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t s = 0; s < output_size; ++s) {
          taps.clear();
          append_taps(regions[r], s, frames, 1, index[r] * frames, taps);
          gather_rows(in, channels, taps.data(), taps.size(), channels, rows.data() + s * channels);
        }
        scalar_t* to = out + r * channels * output_size;
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t s = 0; s < output_size; ++s) {
            to[c * output_size + s] = rows[s * channels + c];
          }
        }
      }
    });
  });
  return output.to(features.scalar_type());
}

at::Tensor align1d_backward_cpu(const at::Tensor& grad, const at::Tensor& rois, int64_t batch, int64_t frames,
                                int64_t sampling_ratio) {
  check_align1d_backward(grad, rois, batch, frames, sampling_ratio);
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2);
  const auto index = read_batch_index(rois, batch);
  const auto grad_out = grad.to(sum_type(grad)).contiguous();
  auto grad_in = at::zeros({batch, frames, channels}, grad_out.options());
  AT_DISPATCH_FLOATING_TYPES(grad_out.scalar_type(), "align1d_backward_cpu", [&] {
    const auto regions = read_rois<scalar_t>(rois.narrow(1, 1, 2), bins, sampling_ratio);
    const scalar_t* from = grad_out.const_data_ptr<scalar_t>();
    scalar_t* to = grad_in.mutable_data_ptr<scalar_t>();
    // A thread has some channels of all rois: nobody else adds to them.
    at::parallel_for(0, channels, std::max<int64_t>(16, grain(4 * count * bins)),
                     [&](int64_t begin, int64_t end) {
                       Taps<scalar_t> taps;
                       const int64_t width = end - begin;
                       std::vector<scalar_t> row(width);
                       for (int64_t r = 0; r < count; ++r) {
                         const scalar_t* values = from + (r * channels + begin) * bins;
                         for (int64_t s = 0; s < bins; ++s) {
                           taps.clear();
                           append_taps(regions[r], s, frames, 1, index[r] * frames, taps);
                           for (int64_t c = 0; c < width; ++c) {
                             row[c] = values[c * bins + s];
                           }
                           scatter_row(to + begin, channels, taps.data(), taps.size(), width, row.data());
                         }
                       }
                     });
  });
  return grad_in.transpose(1, 2).to(grad.scalar_type()).contiguous();
}

at::Tensor sum_aligned1d_cpu(const at::Tensor& projected, const at::Tensor& rois, int64_t sampling_ratio,
                             bool /*check_rois*/) {
  check_sum_aligned1d(projected, rois, sampling_ratio);
  const auto input = projected.to(sum_type(projected)).contiguous();
  const int64_t batch = input.size(0), frames = input.size(1), slots = input.size(2),
                channels = input.size(3);
  const int64_t count = rois.size(0), video = frames * slots * channels;
  auto output = at::empty({batch, count, channels}, input.options());
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "sum_aligned1d_cpu", [&] {
    const auto regions = read_rois<scalar_t>(rois, slots, sampling_ratio);
    const scalar_t* in = input.const_data_ptr<scalar_t>();
    scalar_t* out = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, count, grain(4 * batch * slots * channels), [&](int64_t begin, int64_t end) {
      Taps<scalar_t> taps;
      for (int64_t a = begin; a < end; ++a) {
        taps.clear();
        for (int64_t s = 0; s < slots; ++s) {
          append_taps(regions[a], s, frames, slots, s, taps);
        }
        for (int64_t b = 0; b < batch; ++b) {
          gather_rows(in + b * video, channels, taps.data(), taps.size(), channels,
                      out + (b * count + a) * channels);
        }
      }
    });
  });
  return output.to(projected.scalar_type());
}

at::Tensor sum_aligned1d_backward_cpu(const at::Tensor& grad, const at::Tensor& rois, int64_t slots,
                                      int64_t frames, int64_t sampling_ratio) {
  check_sum_aligned1d_backward(grad, rois, slots, frames, sampling_ratio);
  const auto grad_out = grad.to(sum_type(grad)).contiguous();
  const int64_t batch = grad.size(0), count = grad.size(1), channels = grad.size(2);
  auto grad_in = at::zeros({batch, frames, slots, channels}, grad_out.options());
  // A thread has one slot of a video, or some channels of it where there are few: nobody else adds to them.
  const bool few = batch * slots < 4 * at::get_num_threads();
  const int64_t chunk = few ? CHUNK : std::max<int64_t>(1, channels), parts = (channels + chunk - 1) / chunk;
  AT_DISPATCH_FLOATING_TYPES(grad_out.scalar_type(), "sum_aligned1d_backward_cpu", [&] {
    const auto regions = read_rois<scalar_t>(rois, slots, sampling_ratio);
    const scalar_t* from = grad_out.const_data_ptr<scalar_t>();
    scalar_t* to = grad_in.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, batch * slots * parts, grain(4 * count * chunk), [&](int64_t begin, int64_t end) {
      Taps<scalar_t> taps;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % parts * chunk, s = i / parts % slots, b = i / (parts * slots);
        const int64_t width = std::min(chunk, channels - first);
        for (int64_t a = 0; a < count; ++a) {
          taps.clear();
          append_taps(regions[a], s, frames, slots, s, taps);
          scatter_row(to + b * frames * slots * channels + first, channels, taps.data(), taps.size(), width,
                      from + (b * count + a) * channels + first);
        }
      }
    });
  });
  return grad_in.to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("align1d", &align1d_cpu);
  m.impl("align1d_backward", &align1d_backward_cpu);
  m.impl("sum_aligned1d", &sum_aligned1d_cpu);
  m.impl("sum_aligned1d_backward", &sum_aligned1d_backward_cpu);
}

}  // namespace avfusion::ops
