// Schemas of RoI alignment along time and of its fused form; avfusion/ops/align.py repeats them for
// installations without this extension, and holds the shape functions and the autograd formulas.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def("align1d(Tensor features, Tensor rois, int output_size, int sampling_ratio,"
      " bool check_rois=True) -> Tensor");
  m.def(
      "align1d_backward(Tensor grad, Tensor rois, SymInt batch, SymInt frames, int sampling_ratio) -> "
      "Tensor");
  m.def("sum_aligned1d(Tensor projected, Tensor rois, int sampling_ratio,"
      " bool check_rois=True) -> Tensor");
  m.def(
      "sum_aligned1d_backward(Tensor grad, Tensor rois, int slots, SymInt frames, int sampling_ratio)"
      " -> Tensor");
}
