// Schema of TV-L1 optical flow. avfusion/ops/tvl1.py repeats it for installations without this extension (a
// test compares the two), and holds the shape function.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def(
      "tvl1_flow(Tensor first, Tensor second, float tau, float weight, float theta, int scales, int warps,"
      " float epsilon, int inner, int outer, float scale_step, int median) -> Tensor");
}
