// Schemas of merging the kernels of several convolutions into one, and back. avfusion/ops/merge_taps.py repeats
// them for installations without this extension, and holds the shape functions and the autograd formula.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def("merge_taps(Tensor[] weights, int[] places, int width) -> Tensor");
  m.def("split_taps(Tensor grad, int[] places, int[] counts) -> Tensor[]");
}
