// The code of csrc/ops/cuda/tvl1_pair.h, which is CUDA's, on the CPU by a team of one thread.
#include <vector>

#include "../../csrc/ops/cuda/tvl1_pair.h"

namespace {

using namespace avfusion::ops::tvl1;

struct OneThread {
  double sum = 0;

  template <typename Function>
  void each(Size size, Function&& function) const {
    for (int y = 0; y < size.height; ++y) {
      for (int x = 0; x < size.width; ++x) {
        function(x, y);
      }
    }
  }

  void sync() const {}

  void post(float value) {
    sum = value;
  }

  double total() const {
    return sum;
  }
};

}  // namespace

// Arrays as of the operator tvl1_flow, one pair; its published options.
extern "C" void tvl1_team(const unsigned char* first, const unsigned char* second, int height, int width,
                          float* flow) {
  const Options options{0.25f, 0.15f, 0.3f, 0.01, 0.8, 5, 5, 30, 10, true};
  const Layout layout = lay_out({height, width}, options);
  std::vector<Texel> memory(layout.total / CHANNELS + 1);
  OneThread team;
  PairSolver<OneThread> solver(team, options, layout, reinterpret_cast<float*>(memory.data()));
  solver.run(first, second, flow);
}
