// Schema of temporal intersection over union; avfusion/ops/iou.py repeats it for installations without this
// extension.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def("iou1d(Tensor a, Tensor b) -> Tensor");
}
