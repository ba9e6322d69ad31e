// Multi-scale temporal aggregation as one convolution, and that convolution over frequencies, out of torch's
// own operators: it is written in C++ because on a GPU its many small steps would otherwise wait for Python.
// avfusion/ops/msta.py and tiled_conv.py say what it computes and why, and serve installations without this
// extension.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <initializer_list>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace avfusion::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t TILE = 20;  // outputs of a tile, as in tiled_conv.py

std::tuple<Tensor, Tensor> merge_taps(at::TensorList weights, at::TensorList biases, at::IntArrayRef places,
                                      int64_t width) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("avfusion::merge_taps", "")
          .typed<std::tuple<Tensor, Tensor>(at::TensorList, at::TensorList, at::IntArrayRef, int64_t)>();
  return op.call(weights, biases, places, width);
}

std::vector<Tensor> split_taps(const Tensor& grad, at::IntArrayRef places, at::IntArrayRef counts) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("avfusion::split_taps", "")
                             .typed<std::vector<Tensor>(const Tensor&, at::IntArrayRef, at::IntArrayRef)>();
  return op.call(grad, places, counts);
}

Tensor tiled_conv1d(const Tensor& features, const Tensor& kernel, const Tensor& bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("avfusion::tiled_conv1d", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&)>();
  return op.call(features, kernel, bias);
}

// Where the taps go: one argument, as autograd counts the elements of a vector as arguments.
struct Taps {
  std::vector<int64_t> places;
  int64_t width;
};

class MergeTaps : public torch::autograd::Function<MergeTaps> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList weights, at::TensorList biases,
                               const Taps& taps) {
    at::AutoDispatchBelowADInplaceOrView guard;
    std::vector<int64_t> counts;
    for (const Tensor& weight : weights) {
      counts.push_back(weight.size(-1));
    }
    context->saved_data["places"] = taps.places;
    context->saved_data["counts"] = counts;
    context->saved_data["biases"] = static_cast<int64_t>(biases.size());
    context->set_materialize_grads(false);
    const auto [kernel, bias] = merge_taps(weights, biases, taps.places, taps.width);
    return {kernel, bias};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const std::vector<int64_t> counts = context->saved_data["counts"].toIntVector();
    variable_list parts(counts.size());
    if (grads[0].defined()) {
      parts = split_taps(grads[0], context->saved_data["places"].toIntVector(), counts);
    }
    parts.insert(parts.end(), context->saved_data["biases"].toInt(), grads[1]);
    parts.emplace_back();  // of the places
    return parts;
  }
};

std::tuple<Tensor, Tensor> merge_taps_autograd(at::TensorList weights, at::TensorList biases,
                                               at::IntArrayRef places, int64_t width) {
  const variable_list merged = MergeTaps::apply(weights, biases, Taps{places.vec(), width});
  return {merged[0], merged[1]};
}

// The three matrices of `_transforms` in tiled_conv.py, (planes, steps), (planes, taps) and (steps, planes).
struct Transforms {
  Tensor to_planes, kernel_to_planes, to_outputs;
};

// Rows of cosines and sines over `count` places: of the two real frequencies, and (a c + b s) of the others
// for every (a, b).
std::vector<double> waves(int64_t steps, int64_t count,
                          std::initializer_list<std::pair<double, double>> sums) {
  const double pi = std::acos(-1.0);
  std::vector<double> rows;
  for (int64_t n = 0; n < count; ++n) {
    rows.push_back(1);
  }
  for (int64_t n = 0; n < count; ++n) {
    rows.push_back(std::cos(pi * static_cast<double>(n)));
  }
  for (const auto& [of_cosine, of_sine] : sums) {
    for (int64_t f = 1; f < (steps + 1) / 2; ++f) {
      for (int64_t n = 0; n < count; ++n) {
        const double angle = 2 * pi / static_cast<double>(steps) * static_cast<double>(f * n);
        rows.push_back(of_cosine * std::cos(angle) + of_sine * std::sin(angle));
      }
    }
  }
  return rows;
}

// All three, one after the other, on the host.
const std::vector<double>& host_transforms(int64_t reach) {
  static std::map<int64_t, std::vector<double>> known;
  static std::mutex lock;
  const std::lock_guard<std::mutex> guard(lock);
  auto& values = known[reach];
  if (values.empty()) {
    const int64_t steps = TILE + 2 * reach;
    values = waves(steps, steps, {{1, 0}, {0, -1}, {1, -1}});
    const auto of_kernel = waves(steps, 2 * reach + 1, {{1, 0}, {0, 1}, {1, 1}});
    values.insert(values.end(), of_kernel.begin(), of_kernel.end());
    const auto back = waves(steps, TILE, {{2, 2}, {-2, 2}, {0, -2}});
    const int64_t planes = static_cast<int64_t>(back.size()) / TILE;
    for (int64_t n = 0; n < TILE; ++n) {
      for (int64_t p = 0; p < planes; ++p) {
        values.push_back(back[p * TILE + n] / static_cast<double>(steps));
      }
    }
  }
  return values;
}

// In the type and on the device of `like`, in one copy that does not wait for the device.
Tensor joined_transforms(int64_t reach, const Tensor& like) {
  const std::vector<double>& values = host_transforms(reach);
  const auto size = static_cast<int64_t>(values.size());
  const auto options = at::TensorOptions().dtype(like.scalar_type()).pinned_memory(like.is_cuda());
  Tensor host = at::empty({size}, options);
  host.copy_(at::from_blob(const_cast<double*>(values.data()), {size}, at::kDouble));
  return like.is_cuda() ? host.to(like.device(), /*non_blocking=*/true) : host;
}

Transforms parts_of(const Tensor& joined, int64_t reach) {
  const int64_t steps = TILE + 2 * reach, taps = 2 * reach + 1;
  const int64_t planes = joined.size(0) / (steps + taps + TILE);
  return {joined.narrow(0, 0, planes * steps).view({planes, steps}),
          joined.narrow(0, planes * steps, planes * taps).view({planes, taps}),
          joined.narrow(0, planes * (steps + taps), planes * TILE).view({TILE, planes})};
}

// A kernel (outputs, channels, taps), in memory best (outputs, taps, channels), as (outputs, planes,
// channels).
Tensor transformed(const Tensor& kernel, const Transforms& by) {
  const Tensor by_tap = kernel.transpose(1, 2).contiguous();
  const int64_t planes = by.kernel_to_planes.size(0), taps = kernel.size(2);
  return at::bmm(by.kernel_to_planes.expand({kernel.size(0), planes, taps}), by_tap);
}

// As `_TiledConvolution` in tiled_conv.py, step by step.
class TiledConvolution : public torch::autograd::Function<TiledConvolution> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& features, const Tensor& kernel,
                        const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t batch = features.size(0), channels = features.size(1), frames = features.size(2);
    const int64_t outputs = kernel.size(0), taps = kernel.size(2), reach = taps / 2;
    const int64_t tiles = (frames + TILE - 1) / TILE;
    const Tensor joined = joined_transforms(reach, features);
    const Transforms by = parts_of(joined, reach);
    const int64_t planes = by.to_planes.size(0), steps = by.to_planes.size(1);
    const Tensor padded = at::constant_pad_nd(features, {reach, reach + tiles * TILE - frames});
    const Tensor cut = padded.unfold(2, steps, TILE).permute({3, 0, 2, 1}).reshape({steps, -1});
    const Tensor of_features = at::mm(by.to_planes, cut).view({planes, batch * tiles, channels});
    const Tensor of_kernel = transformed(kernel, by);
    const Tensor products = at::bmm(of_features, of_kernel.permute({1, 2, 0}));
    const Tensor convolved = at::mm(by.to_outputs, products.view({planes, -1}));
    context->save_for_backward({of_features, of_kernel, joined});
    context->saved_data["frames"] = frames;
    context->saved_data["batch"] = batch;
    context->saved_data["taps"] = taps;
    context->saved_data["biased"] = bias.has_value();
    const Tensor by_tile = convolved.view({TILE, batch, tiles, outputs}).permute({1, 3, 2, 0});
    Tensor ordered = at::empty({batch, outputs, tiles, TILE}, features.options());
    if (bias) {
      at::add_out(ordered, by_tile, bias->view({outputs, 1, 1}));
    } else {
      ordered.copy_(by_tile);
    }
    return ordered.view({batch, outputs, tiles * TILE}).narrow(2, 0, frames);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "tiled_conv1d has no second derivative");
    const variable_list saved = context->get_saved_variables();
    const Tensor& of_features = saved[0];
    const Tensor& kernel = saved[1];  // (outputs, planes, channels)
    const int64_t frames = context->saved_data["frames"].toInt(),
                  batch = context->saved_data["batch"].toInt();
    const int64_t outputs = kernel.size(0), channels = kernel.size(2);
    const int64_t taps = context->saved_data["taps"].toInt(), reach = taps / 2;
    const Transforms by = parts_of(saved[2], reach);
    const int64_t planes = of_features.size(0), all_tiles = of_features.size(1),
                  tiles = (frames + TILE - 1) / TILE;
    const Tensor padded = at::constant_pad_nd(grads[0], {0, tiles * TILE - frames});
    const Tensor cut =
        padded.reshape({batch, outputs, tiles, TILE}).permute({3, 0, 2, 1}).reshape({TILE, -1});
    const Tensor products = at::mm(by.to_outputs.t(), cut).view({planes, all_tiles, outputs});
    Tensor of_kernel, of_steps, of_bias;
    if (context->needs_input_grad(1)) {
      const Tensor summed = at::bmm(products.transpose(1, 2), of_features).transpose(0, 1);
      const Tensor back = by.kernel_to_planes.t().expand({outputs, taps, planes});
      of_kernel = at::bmm(back, summed).transpose(1, 2);
    }
    if (context->needs_input_grad(0)) {
      const Tensor summed = at::bmm(products, kernel.transpose(0, 1));
      const Tensor pieces = at::mm(by.to_planes.t(), summed.view({planes, -1}));
      const int64_t span = pieces.size(0);
      const Tensor columns = pieces.view({span, batch, tiles, channels})
                                 .permute({1, 3, 0, 2})
                                 .reshape({batch * channels, span, tiles});
      const Tensor laid =
          at::col2im(columns, {1, tiles * TILE + 2 * reach}, {1, span}, {1, 1}, {0, 0}, {1, TILE});
      of_steps = laid.view({batch, channels, -1}).narrow(2, reach, frames);
    }
    if (context->saved_data["biased"].toBool() && context->needs_input_grad(2)) {
      of_bias = at::sum(grads[0], at::IntArrayRef({0, 2}));
    }
    return {of_steps, of_kernel, of_bias};
  }
};

Tensor tiled_conv1d_autograd(const Tensor& features, const Tensor& kernel,
                             const std::optional<Tensor>& bias) {
  TORCH_CHECK(features.dim() == 3 && kernel.dim() == 3 && features.size(1) == kernel.size(1) &&
                  kernel.size(2) % 2 == 1 && features.scalar_type() == kernel.scalar_type() &&
                  features.device() == kernel.device(),
              "kernel must be (outputs, ", features.size(1), ", odd) of the features' type and device");
  TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == kernel.size(0) &&
                        bias->scalar_type() == kernel.scalar_type() && bias->device() == kernel.device()),
              "bias must be (", kernel.size(0), ") of the features' type and device");
  return TiledConvolution::apply(features, kernel, bias);
}

Tensor msta_conv1d(const Tensor& features, at::TensorList weights, at::TensorList biases,
                   at::IntArrayRef places, int64_t width, bool over_frequencies) {
  const auto [kernel, bias] = merge_taps(weights, biases, places, width);
  if (over_frequencies) {
    return tiled_conv1d(features, kernel, bias);
  }
  if (!features.is_cuda()) {
    return at::conv1d(features, kernel, bias, /*stride=*/1, /*padding=*/width / 2);
  }
  // As a picture of one row whose channels lie innermost, so that cuDNN need not turn the kernel.
  const Tensor row = features.transpose(1, 2).contiguous().transpose(1, 2).unsqueeze(2);
  const std::vector<int64_t> stride = {1, 1}, padding = {0, width / 2};
  return at::conv2d(row, kernel.unsqueeze(2), bias, stride, at::IntArrayRef(padding)).squeeze(2);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def(
      "merge_taps(Tensor[] weights, Tensor[] biases, int[] places, int width) -> (Tensor kernel, Tensor "
      "bias)");
  m.def("split_taps(Tensor grad, int[] places, int[] counts) -> Tensor[]");
  m.def("tiled_conv1d(Tensor features, Tensor kernel, Tensor? bias=None) -> Tensor");
  m.def(
      "msta_conv1d(Tensor features, Tensor[] weights, Tensor[] biases, int[] places, int width,"
      " bool over_frequencies) -> Tensor");
}

TORCH_LIBRARY_IMPL(avfusion, Autograd, m) {
  m.impl("merge_taps", &merge_taps_autograd);
}

TORCH_LIBRARY_IMPL(avfusion, CompositeImplicitAutograd, m) {
  m.impl("tiled_conv1d", &tiled_conv1d_autograd);
  m.impl("msta_conv1d", &msta_conv1d);
}

}  // namespace avfusion::ops
