// RoI max pooling along time on the CPU, forward and backward. Both are deterministic: every output element
// (forward) and every channel (backward) belongs to one thread, which adds in the order of the rois.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../roi_max_pool1d.h"

namespace avfusion::ops {
namespace {

constexpr int64_t GRAIN = 1 << 15;  // comparisons worth a thread of their own

void check_batch_index(const int64_t* index, int64_t count, int64_t batch) {
  for (int64_t r = 0; r < count; ++r) {
    TORCH_CHECK_INDEX(index[r] >= 0 && index[r] < batch, "rois[", r, "] names batch ", index[r],
                      ", features have ", batch);
  }
}

// Frames [first, last).
struct Bin {
  int64_t first, last;
};

// The running maximum starts just below the first frame, as published: with NaN, infinity or beyond 2^24 in
// the first frame nothing is greater, and argmax stays -1.
template <typename scalar_t, typename place_t>
void pool_row(const scalar_t* row, const std::vector<Bin>& bins, scalar_t* output, place_t* argmax) {
  using compute_t = at::opmath_type<scalar_t>;
  for (size_t b = 0; b < bins.size(); ++b) {
    const Bin bin = bins[b];
    compute_t best = 0;
    place_t where = -1;
    if (bin.first < bin.last) {
      best = static_cast<compute_t>(row[bin.first]) - compute_t(1);
      for (int64_t t = bin.first; t < bin.last; ++t) {
        const compute_t value = static_cast<compute_t>(row[t]);
        if (value > best) {
          best = value;
          where = static_cast<place_t>(t);
        }
      }
    }
    output[b] = static_cast<scalar_t>(best);
    argmax[b] = where;
  }
}

// features (batch, channels, frames), rois (rois, 3) -> output, argmax (rois, channels, bins), which hold
// zeros: what a malformed roi gives is output 0 at frame 0.
template <typename scalar_t, typename place_t>
void pool(const at::Tensor& features, const at::Tensor& rois, const int64_t* videos, double scale,
          at::Tensor& output, at::Tensor& argmax) {
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t channels = features.size(1), frames = features.size(2), output_size = output.size(2);
  const auto coordinates = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
  const coord_t* roi_data = coordinates.template const_data_ptr<coord_t>();
  const Parts<coord_t> parts(output_size);
  const scalar_t* in = features.const_data_ptr<scalar_t>();
  scalar_t* out = output.mutable_data_ptr<scalar_t>();
  place_t* arg = argmax.mutable_data_ptr<place_t>();
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, channels * frames));
  at::parallel_for(0, rois.size(0), grain, [&](int64_t begin, int64_t end) {
    std::vector<Bin> bins(output_size);
    for (int64_t r = begin; r < end; ++r) {
      const Roi<coord_t> roi(roi_data[3 * r + 1], roi_data[3 * r + 2], static_cast<coord_t>(scale), parts);
      if (roi.malformed()) {
        continue;
      }
      for (int64_t b = 0; b < output_size; ++b) {
        bins[b] = {roi.first(b, frames), roi.last(b, frames)};
      }
      const scalar_t* video = in + videos[r] * channels * frames;
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t place = (r * channels + c) * output_size;
        pool_row(video + c * frames, bins, out + place, arg + place);
      }
    }
  });
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cpu(const at::Tensor& features, const at::Tensor& rois,
                                                      int64_t output_size, double spatial_scale,
                                                      bool /*check_rois: it costs nothing here*/,
                                                      bool with_argmax) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  const auto input = features.contiguous(), index = rois.select(1, 0).to(at::kLong).contiguous();
  const int64_t count = rois.size(0), channels = input.size(1);
  const auto positions = position_type(input.size(2));
  auto output = at::zeros({count, channels, output_size}, input.options());
  auto argmax = at::zeros({count, channels, output_size}, input.options().dtype(positions));
  const int64_t* videos = index.const_data_ptr<int64_t>();
  check_batch_index(videos, count, input.size(0));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "roi_max_pool1d_cpu", [&] {
    with_positions(positions, [&](auto place) {
      pool<scalar_t, decltype(place)>(input, rois, videos, spatial_scale, output, argmax);
    });
  });
  return {output, with_argmax ? argmax : argmax.slice(0, 0, 0).clone()};
}

// Adds grad (rois, channels, bins) to output (batch, channels, frames) where argmax says.
template <typename scalar_t, typename place_t>
void scatter(const at::Tensor& grad, const at::Tensor& argmax, const int64_t* videos, at::Tensor& output) {
  const int64_t count = grad.size(0), channels = grad.size(1), bins = grad.size(2), frames = output.size(2);
  const scalar_t* from = grad.const_data_ptr<scalar_t>();
  const place_t* frame = argmax.const_data_ptr<place_t>();
  scalar_t* to = output.mutable_data_ptr<scalar_t>();
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, count * bins));
  at::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = begin; c < end; ++c) {
        scalar_t* row = to + (videos[r] * channels + c) * frames;
        const int64_t place = (r * channels + c) * bins;
        for (int64_t b = 0; b < bins; ++b) {
          const int64_t t = frame[place + b];
          if (t >= 0 && t < frames) {
            row[t] += from[place + b];
          }
        }
      }
    }
  });
}

at::Tensor roi_max_pool1d_backward_cpu(const at::Tensor& grad, const at::Tensor& argmax,
                                       const at::Tensor& rois, double /*spatial_scale: argmax says it all*/,
                                       int64_t batch, int64_t frames) {
  check_roi_max_pool1d_backward(grad, argmax, rois, batch, frames);
  // Half types are summed in float32, as the frames of a short roi get many contributions.
  const auto sum_type = grad.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto grad_out = grad.to(sum_type).contiguous();
  const auto where = argmax.contiguous(), index = rois.select(1, 0).to(at::kLong).contiguous();
  const int64_t* videos = index.const_data_ptr<int64_t>();
  check_batch_index(videos, grad.size(0), batch);
  auto grad_in = at::zeros({batch, grad.size(1), frames}, grad_out.options());
  AT_DISPATCH_FLOATING_TYPES(sum_type, "roi_max_pool1d_backward_cpu", [&] {
    with_positions(where.scalar_type(),
                   [&](auto place) { scatter<scalar_t, decltype(place)>(grad_out, where, videos, grad_in); });
  });
  return grad_in.to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_cpu);
  m.impl("roi_max_pool1d_backward", &roi_max_pool1d_backward_cpu);
}

}  // namespace avfusion::ops
