// TV-L1 optical flow: what the CPU and the CUDA kernel share, which is all arithmetic on single pixels.
//
// Zach, Pock, Bischof: A duality based approach for realtime TV-L1 optical flow (2007), with the choices that
// OpenCV's DualTVL1OpticalFlow makes visible: see avfusion/ops/tvl1.py, which describes the algorithm and
// holds it once more in plain torch. No expression may be contracted to fused multiply-adds (setup.py sees
// to it): then every instruction set and CUDA round alike, and differ in the order of one sum only.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>

#if defined(__GNUC__) || defined(__CUDACC__)
#define AVFUSION_PIXEL C10_HOST_DEVICE inline __attribute__((always_inline))
#else
#define AVFUSION_PIXEL C10_HOST_DEVICE inline
#endif

namespace avfusion::ops::tvl1 {

constexpr int SMALLEST = 16;    // pixels; a level of the pyramid is not smaller
constexpr int MAX_SCALES = 32;  // with a scale step of 0.8 from images of 20,000 pixels
constexpr int BORDER = 4;       // pixels of zeros around an image to warp: a kernel's reach, and one
constexpr int CHANNELS = 4;     // of an image to warp: grey value, its two derivatives, nothing

struct Options {
  float tau, lambda, theta;
  double epsilon, scale_step;
  int scales, warps, inner, outer;
  bool median;
};

struct Size {
  int height, width;

  C10_HOST_DEVICE int64_t area() const {
    return static_cast<int64_t>(height) * width;
  }
};

// Sizes of the pyramid, finest first; returns their number.
inline int pyramid(Size image, const Options& options, Size* sizes) {
  int count = 1;
  for (sizes[0] = image; count < options.scales; ++count) {
    const Size last = sizes[count - 1];
    const Size next = {static_cast<int>(std::nearbyint(last.height * options.scale_step)),
                       static_cast<int>(std::nearbyint(last.width * options.scale_step))};
    if (next.height < SMALLEST || next.width < SMALLEST) {
      break;
    }
    sizes[count] = next;
  }
  return count;
}

// The two neighbours of a position in a row or column, and the share of the second (bilinear resizing).
struct Between {
  int first, second;
  float share;
};

AVFUSION_PIXEL Between between(int index, double scale, int length) {
  const float place = static_cast<float>((index + 0.5) * scale - 0.5);
  const float low = floorf(place);
  const int first = static_cast<int>(low);
  if (first < 0) {
    return {0, 0, 0.0f};
  }
  if (first >= length - 1) {
    return {length - 1, length - 1, 0.0f};
  }
  return {first, first + 1, place - low};
}

AVFUSION_PIXEL float blend(float a, float b, float share) {
  return a * (1.0f - share) + b * share;
}

// Where a kernel of 4 pixels begins that reads at `place`, in an image with its border, and how far `place`
// lies behind the second of them.
struct Tap {
  int first;
  float share;
};

AVFUSION_PIXEL Tap tap(float place, int length) {
  // Far outside there are only zeros, and the conversion of a huge float is undefined.
  const float least = -BORDER + 1.0f, most = length + 1.0f;
  const float inside = place < least ? least : (place > most ? most : place);
  const float whole = floorf(inside);
  return {static_cast<int>(whole) - 1 + BORDER, inside - whole};
}

// Weights of cubic convolution, a = -0.75, for a place x behind the second of four pixels.
AVFUSION_PIXEL void cubic(float x, float weights[4]) {
  // In factors, as sums of large terms that cancel would cost two digits of a residual of grey values.
  const float a = -0.75f, y = 1.0f - x;
  weights[0] = a * x * y * y;
  weights[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
  weights[3] = a * x * x * y;
  weights[2] = 1.0f - weights[0] - weights[1] - weights[3];
}

// The linearised data term at a pixel: residual without flow, gradient and the inverse of its square.
struct Data {
  float residual, dx, dy, inverse;
};

AVFUSION_PIXEL Data linearise(float image, float warped, float dx, float dy, float u, float v) {
  const float square = dx * dx + dy * dy;
  const float least =
      1e-30f;  // where nothing is to be seen dx = dy = 0, and the step is finite and without effect
  return {warped - dx * u - dy * v - image, dx, dy, 1.0f / (square > least ? square : least)};
}

// Flow after the thresholding step and the divergence of the dual variables (eq. 15, 12 of the paper).
AVFUSION_PIXEL void primal(const Data& data, float limit, float theta, float divergence_u, float divergence_v,
                           float u, float v, float* new_u, float* new_v) {
  const float rho = data.residual + (data.dx * u + data.dy * v);
  float step = -rho * data.inverse;
  step = step < -limit ? -limit : step;
  step = step > limit ? limit : step;
  *new_u = (u + step * data.dx) + theta * divergence_u;
  *new_v = (v + step * data.dy) + theta * divergence_v;
}

// Both components of the dual variable of one component of the flow (eq. 13), from its forward differences.
AVFUSION_PIXEL void dual(float rate, float right, float down, float* x, float* y) {
  const float shrink = 1.0f / (1.0f + rate * sqrtf(right * right + down * down));
  *x = (*x + rate * right) * shrink;
  *y = (*y + rate * down) * shrink;
}

AVFUSION_PIXEL void order(float& low, float& high) {
  const float least = low < high ? low : high;
  high = low < high ? high : low;
  low = least;
}

AVFUSION_PIXEL void sort5(float& a, float& b, float& c, float& d, float& e) {
  order(a, b), order(d, e), order(c, e), order(c, d), order(b, e), order(a, d), order(a, c), order(b, d);
  order(b, c);
}

// Median of 5 columns that are sorted each (m[row][column]). With rows sorted too, m[i][j] is at least as
// large as (i + 1)(j + 1) - 1 others and at most as large as (5 - i)(5 - j) - 1: six are certainly not below
// the median and six not above, so that it is the median of the other 13, from which least and largest go in
// pairs.
AVFUSION_PIXEL float median_of_sorted_columns(float m[5][5]) {
  sort5(m[0][0], m[0][1], m[0][2], m[0][3], m[0][4]);
  sort5(m[1][0], m[1][1], m[1][2], m[1][3], m[1][4]);
  sort5(m[2][0], m[2][1], m[2][2], m[2][3], m[2][4]);
  sort5(m[3][0], m[3][1], m[3][2], m[3][3], m[3][4]);
  sort5(m[4][0], m[4][1], m[4][2], m[4][3], m[4][4]);
  float a = m[0][3], b = m[1][2], c = m[2][1], d = m[3][0];  // the least is one of these,
  float e = m[1][4], f = m[2][3], g = m[3][2], h = m[4][1];  // the largest one of these
  float i = m[0][4], j = m[1][3], k = m[2][2], l = m[3][1], n = m[4][0];
  order(a, b), order(c, d), order(a, c);  // a is the least of 13
  order(e, f), order(g, h), order(f, h);  // h is the largest of 13
  // 11 are left: 7 of them hold neither least nor largest of the others' middle for good
  order(b, c), order(d, e), order(f, g), order(b, d), order(b, f), order(c, e), order(e, g), order(b, i),
      order(i, g);  // b least, g largest of b..g, i
  order(c, d), order(e, f), order(i, j), order(c, e), order(c, i), order(d, f), order(f, j);  // of c..f, i, j
  order(d, e), order(i, k), order(d, i), order(e, k), order(d, f), order(f, k);               // of d..f, i, k
  order(e, f), order(i, l), order(e, i), order(f, l);                                         // of e, f, i, l
  order(f, i), order(i, n), order(f, i);                                                      // of f, i, n
  return i;
}

}  // namespace avfusion::ops::tvl1
