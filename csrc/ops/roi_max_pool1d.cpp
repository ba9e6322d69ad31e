// Schemas of RoI max pooling along time and its gradient, in C++ because a GPU would wait for Python.
// avfusion/ops/roi_pool.py repeats them for installations without this extension (a test compares the two),
// and holds the shape functions.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

namespace avfusion::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::tuple<Tensor, Tensor> roi_max_pool1d(const Tensor& features, const Tensor& rois, int64_t output_size,
                                          double spatial_scale, bool check_rois, bool with_argmax) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("avfusion::roi_max_pool1d", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, double, bool, bool)>();
  return op.call(features, rois, output_size, spatial_scale, check_rois, with_argmax);
}

Tensor roi_max_pool1d_backward(const Tensor& grad, const Tensor& argmax, const Tensor& rois,
                               double spatial_scale, const c10::SymInt& batch, const c10::SymInt& frames) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("avfusion::roi_max_pool1d_backward", "")
          .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, double, c10::SymInt, c10::SymInt)>();
  return op.call(grad, argmax, rois, spatial_scale, batch, frames);
}

class RoiMaxPool1d : public torch::autograd::Function<RoiMaxPool1d> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& features, const Tensor& rois,
                               int64_t output_size, double spatial_scale, bool check_rois, bool with_argmax) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto [output, argmax] =
        roi_max_pool1d(features, rois, output_size, spatial_scale, check_rois, with_argmax);
    context->save_for_backward({argmax, rois});
    context->saved_data["spatial_scale"] = spatial_scale;
    context->saved_data["batch"] = features.sym_size(0);
    context->saved_data["frames"] = features.sym_size(2);
    context->mark_non_differentiable({argmax});
    context->set_materialize_grads(false);  // zeros for argmax
    return {output, argmax};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list gradients(6);  // of every argument
    if (grads[0].defined()) {
      const variable_list saved = context->get_saved_variables();
      auto& data = context->saved_data;
      gradients[0] = roi_max_pool1d_backward(grads[0], saved[0], saved[1], data["spatial_scale"].toDouble(),
                                             data["batch"].toSymInt(), data["frames"].toSymInt());
    }
    return gradients;
  }
};

std::tuple<Tensor, Tensor> roi_max_pool1d_autograd(const Tensor& features, const Tensor& rois,
                                                   int64_t output_size, double spatial_scale, bool check_rois,
                                                   bool with_argmax) {
  const variable_list pooled =
      RoiMaxPool1d::apply(features, rois, output_size, spatial_scale, check_rois, with_argmax);
  return {pooled[0], pooled[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def(
      "roi_max_pool1d(Tensor features, Tensor rois, int output_size, float spatial_scale,"
      " bool check_rois=True, bool with_argmax=True) -> (Tensor output, Tensor argmax)");
  m.def(
      "roi_max_pool1d_backward(Tensor grad, Tensor argmax, Tensor rois, float spatial_scale, SymInt batch,"
      " SymInt frames) -> Tensor");
}

TORCH_LIBRARY_IMPL(avfusion, Autograd, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_autograd);
}

}  // namespace avfusion::ops
