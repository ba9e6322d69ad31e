// Schemas of RoI max pooling along time. avfusion/ops/roi_pool.py repeats them for installations without
// this extension (a test compares the two), and holds the shape functions and the autograd formula.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def(
      "roi_max_pool1d(Tensor features, Tensor rois, int output_size, float spatial_scale,"
      " bool check_rois=True, bool with_argmax=True) -> (Tensor output, Tensor argmax)");
  m.def(
      "roi_max_pool1d_backward(Tensor grad, Tensor argmax, Tensor rois, float spatial_scale, SymInt batch,"
      " SymInt frames) -> Tensor");
}
