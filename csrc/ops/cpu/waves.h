// Kernels of a convolution over frequencies: from the taps of many channels to their planes and back. The
// inner loops are compiled for several instruction sets, as those of rows.h are.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace avfusion::ops {

constexpr int64_t LANES = 32;  // channels that are transformed at once

// Cosines and sines of a discrete Fourier transform of an even number of steps, for taps -reach to reach.
//
// With half = steps / 2, plane f in [0, half] of a kernel w is the sum of w[k] cos(2 pi f k / steps) over its
// taps, plane half + f the same with the sine for f in [1, half), and plane 2 half - 1 + f the sum of these
// two. Cosines want only w[k] + w[-k] and sines w[k] - w[-k]; and as frequency half - f differs from f by
// the sign of every second k, both come from the same two sums: a quarter of the multiplications.
template <typename scalar_t>
struct Waves {
  int64_t reach, half;
  std::vector<scalar_t> cosine, sine;  // [f][k] for f in [0, half / 2] and k in [0, reach]

  Waves(int64_t steps, int64_t furthest) : reach(furthest), half(steps / 2) {
    const double unit = 2 * std::acos(-1.0) / static_cast<double>(steps);
    for (int64_t f = 0; f <= half / 2; ++f) {
      for (int64_t k = 0; k <= reach; ++k) {
        cosine.push_back(static_cast<scalar_t>(std::cos(unit * static_cast<double>(f * k % steps))));
        sine.push_back(static_cast<scalar_t>(std::sin(unit * static_cast<double>(f * k % steps))));
      }
    }
  }

  int64_t taps() const {
    return 2 * reach + 1;
  }

  int64_t planes() const {
    return 3 * half - 1;
  }

  // Numbers that both directions need room for.
  int64_t scratch() const {
    return (2 * (reach + 1) + 4 * (half / 2 + 1)) * LANES;
  }
};

// to[tap of k][lane] += from[lane * count + k] for the `count` taps of a branch, places in rows of LANES.
void add_taps(const float* from, int64_t count, const int64_t* places, float* to);
void add_taps(const double* from, int64_t count, const int64_t* places, double* to);

// to[lane * count + k] = from[tap of k][lane]
void pick_taps(const float* from, int64_t count, const int64_t* places, float* to);
void pick_taps(const double* from, int64_t count, const int64_t* places, double* to);

// Planes of LANES channels: out[plane * stride + lane], from taps[(k + reach) * LANES + lane].
void taps_to_planes(const Waves<float>& waves, const float* taps, float* scratch, int64_t stride, float* out);
void taps_to_planes(const Waves<double>& waves, const double* taps, double* scratch, int64_t stride,
                    double* out);

// The transpose of it: gradients of the taps from those of the planes.
void planes_to_taps(const Waves<float>& waves, const float* planes, int64_t stride, float* scratch,
                    float* taps);
void planes_to_taps(const Waves<double>& waves, const double* planes, int64_t stride, double* scratch,
                    double* taps);

}  // namespace avfusion::ops
