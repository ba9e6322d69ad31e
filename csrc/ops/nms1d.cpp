// Schema of temporal non-maximum suppression; avfusion/ops/nms.py repeats it for installations without this
// extension.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def("nms1d(Tensor segments, Tensor scores, Tensor groups, float threshold) -> Tensor");
}
