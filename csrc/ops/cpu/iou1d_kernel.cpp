// Temporal intersection over union of two sets of segments on the CPU: one pass, where plain torch makes ten.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "../nms1d.h"
#include "overlaps.h"

namespace avfusion::ops {
namespace {

at::Tensor iou1d_cpu(const at::Tensor& a, const at::Tensor& b) {
  for (const auto& [name, segments] : {std::pair{"a", a}, std::pair{"b", b}}) {
    TORCH_CHECK(segments.dim() == 2 && segments.size(1) == 2, name, " must be (segments, 2): start and end");
    check_numbers(segments, name);
  }
  TORCH_CHECK((a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble) &&
                  b.scalar_type() == a.scalar_type() && b.device() == a.device(),
              "a and b must both be float32 or float64 on one device, not ", a.scalar_type(), " on ",
              a.device(), " and ", b.scalar_type(), " on ", b.device());
  constexpr int64_t WORTHWHILE = 1 << 15;  // pairs for a thread
  const auto rows = a.contiguous(), columns = b.t().contiguous();
  const int64_t count = b.size(0), grain = std::max<int64_t>(1, WORTHWHILE / std::max<int64_t>(1, count));
  const auto table = at::empty({a.size(0), count}, a.options());
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "iou1d_cpu", [&] {
    const scalar_t* segment = rows.const_data_ptr<scalar_t>();
    const scalar_t* starts = columns.const_data_ptr<scalar_t>();
    scalar_t* out = table.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, a.size(0), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        overlap_row(segment[2 * i], segment[2 * i + 1], starts, starts + count, count, out + i * count);
      }
    });
  });
  return table;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("iou1d", &iou1d_cpu);
}

}  // namespace avfusion::ops
