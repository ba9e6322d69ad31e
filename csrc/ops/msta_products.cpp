// Schemas of the products that convolve over frequencies; avfusion/ops/msta_tiles.py repeats them for
// installations without this extension, and says what planes are.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def("msta_products(Tensor planes, Tensor[] weights, int[] taps, int steps) -> Tensor");
  m.def(
      "msta_products_backward(Tensor grad, Tensor planes, Tensor[] weights, int[] taps, int steps,"
      " bool features) -> (Tensor grad_planes, Tensor[] grad_weights)");
}
