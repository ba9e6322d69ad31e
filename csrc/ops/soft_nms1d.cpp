// Schemas of soft temporal non-maximum suppression and of voting; avfusion/ops/soft_nms.py repeats them for
// installations without this extension.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(avfusion, m) {
  m.def(
      "soft_nms1d(Tensor segments, Tensor scores, Tensor groups, str method, float threshold, float sigma,"
      " float min_score, int limit) -> (Tensor kept, Tensor decayed)");
  m.def(
      "vote1d(Tensor segments, Tensor groups, Tensor voters, Tensor scores, Tensor voter_groups,"
      " float threshold) -> Tensor");
}
