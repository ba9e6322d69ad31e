// Planes of float32 for TV-L1 flow on the CPU, and what is done to one row of them.
//
// Rows are written as loops that compilers turn into vector instructions; on Linux with GCC for several
// instruction sets, of which the loader takes the best. The options make square roots and comparisons
// vectorisable, and change no result, as images hold no NaN.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../tvl1.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__) && \
    __GNUC__ >= 12
#define AVFUSION_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AVFUSION_CLONES
#endif

namespace avfusion::ops::tvl1 {

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-math-errno,no-trapping-math,finite-math-only,no-signed-zeros")
#endif

constexpr int LANES = 16;  // floats per cache line; sums are of so many partial ones

// A float32 image; at least LANES floats lie before and after every row, which begins at a cache line.
struct Plane {
  float* data;
  int64_t stride;

  float* row(int64_t y) const {
    return data + y * stride;
  }
};

inline int64_t stride_of(int width) {
  return (width + 3 * LANES - 1) / LANES * LANES;
}

// Flow (u, v) and its dual variables (p of u, q of v; x and y).
struct State {
  Plane u, v, px, py, qx, qy;
};

// What does not change in the iterations after a warp: see Data.
struct DataPlanes {
  Plane residual, dx, dy, inverse;
};

AVFUSION_CLONES
inline void primal_row(int width, const DataPlanes data, const State from, const State to, int64_t y,
                       float limit, float theta, const float* above_py, const float* above_qy,
                       float* __restrict squares) {
  const float *residual = data.residual.row(y), *dx = data.dx.row(y), *dy = data.dy.row(y);
  const float* inverse = data.inverse.row(y);
  const float *u = from.u.row(y), *v = from.v.row(y), *px = from.px.row(y), *py = from.py.row(y);
  const float *qx = from.qx.row(y), *qy = from.qy.row(y);
  float *new_u = to.u.row(y), *new_v = to.v.row(y);
#pragma GCC ivdep
  for (int x = 0; x < width; ++x) {
    const float divergence_u = (px[x] - px[x - 1]) + (py[x] - above_py[x]);
    const float divergence_v = (qx[x] - qx[x - 1]) + (qy[x] - above_qy[x]);
    const float old_u = u[x], old_v = v[x];
    float next_u, next_v;
    primal({residual[x], dx[x], dy[x], inverse[x]}, limit, theta, divergence_u, divergence_v, old_u, old_v,
           &next_u, &next_v);
    new_u[x] = next_u;
    new_v[x] = next_v;
    squares[x] = (next_u - old_u) * (next_u - old_u) + (next_v - old_v) * (next_v - old_v);
  }
}

AVFUSION_CLONES
inline void dual_row(int width, float rate, const float* u, const float* below, const float* x_from,
                     const float* y_from, float* x_to, float* y_to) {
#pragma GCC ivdep
  for (int x = 0; x < width; ++x) {
    float px = x_from[x], py = y_from[x];
    dual(rate, u[x + 1] - u[x], below[x] - u[x], &px, &py);
    x_to[x] = px;
    y_to[x] = py;
  }
}

// Sum of a row in an order that does not depend on the instruction set; zeros follow the row.
AVFUSION_CLONES
inline double sum_row(const float* values, int width) {
  std::array<float, LANES> lanes{};
  for (int x = 0; x < width; x += LANES) {
    for (int lane = 0; lane < LANES; ++lane) {
      lanes[lane] += values[x + lane];
    }
  }
  double sum = 0;
  for (int lane = 0; lane < LANES; ++lane) {
    sum += lanes[lane];
  }
  return sum;
}

AVFUSION_CLONES
inline void sort_columns(int width, const std::array<const float*, 5>& from, float* __restrict to0,
                         float* __restrict to1, float* __restrict to2, float* __restrict to3,
                         float* __restrict to4) {
  const float *r0 = from[0], *r1 = from[1], *r2 = from[2], *r3 = from[3], *r4 = from[4];
  for (int x = 0; x < width; ++x) {
    float a = r0[x], b = r1[x], c = r2[x], d = r3[x], e = r4[x];
    sort5(a, b, c, d, e);
    to0[x] = a;
    to1[x] = b;
    to2[x] = c;
    to3[x] = d;
    to4[x] = e;
  }
}

AVFUSION_CLONES
inline void median_row(int width, const float* r0, const float* r1, const float* r2, const float* r3,
                       const float* r4, float* __restrict to) {
  for (int x = 0; x < width; ++x) {
    float m[5][5] = {{r0[x - 2], r0[x - 1], r0[x], r0[x + 1], r0[x + 2]},
                     {r1[x - 2], r1[x - 1], r1[x], r1[x + 1], r1[x + 2]},
                     {r2[x - 2], r2[x - 1], r2[x], r2[x + 1], r2[x + 2]},
                     {r3[x - 2], r3[x - 1], r3[x], r3[x + 1], r3[x + 2]},
                     {r4[x - 2], r4[x - 1], r4[x], r4[x + 1], r4[x + 2]}};
    to[x] = median_of_sorted_columns(m);
  }
}

// Where to read an image, in one direction: first of 4 pixels, and the weights of all.
struct Taps {
  std::vector<int> first;
  std::array<std::vector<float>, 4> weights;

  explicit Taps(int width) : first(width) {
    weights.fill(std::vector<float>(width));
  }
};

AVFUSION_CLONES
inline void find_taps(int width, int length, float start, float step, const float* offset,
                      int* __restrict first, float* __restrict w0, float* __restrict w1, float* __restrict w2,
                      float* __restrict w3) {
  for (int x = 0; x < width; ++x) {
    const Tap place = tap((start + step * static_cast<float>(x)) + offset[x], length);
    float weights[4];
    cubic(place.share, weights);
    first[x] = place.first;
    w0[x] = weights[0];
    w1[x] = weights[1];
    w2[x] = weights[2];
    w3[x] = weights[3];
  }
}

// Reads an image with its border (4 channels per pixel) where the taps say.
AVFUSION_CLONES
inline void read_row(Size size, const float* bordered, const Taps& across, const Taps& down,
                     float* __restrict warped, float* __restrict to_x, float* __restrict to_y) {
  constexpr int C = CHANNELS;
  const int64_t pitch = static_cast<int64_t>(size.width + 2 * BORDER) * C;
  for (int x = 0; x < size.width; ++x) {
    const float wx[4] = {across.weights[0][x], across.weights[1][x], across.weights[2][x],
                         across.weights[3][x]};
    const float wy[4] = {down.weights[0][x], down.weights[1][x], down.weights[2][x], down.weights[3][x]};
    const float* from = bordered + down.first[x] * pitch + across.first[x] * C;
    float columns[4 * C];
    for (int i = 0; i < 4 * C; ++i) {
      columns[i] = wy[0] * from[i] + wy[1] * from[pitch + i] + wy[2] * from[2 * pitch + i] +
                   wy[3] * from[3 * pitch + i];
    }
    float value[C];
    for (int c = 0; c < C; ++c) {
      value[c] = wx[0] * columns[c] + wx[1] * columns[C + c] + wx[2] * columns[2 * C + c] +
                 wx[3] * columns[3 * C + c];
    }
    warped[x] = value[0];
    to_x[x] = value[1];
    to_y[x] = value[2];
  }
}

AVFUSION_CLONES
inline void linearise_row(int width, const float* image, const float* warped, const float* dx,
                          const float* dy, const float* u, const float* v, float* __restrict residual,
                          float* __restrict inverse) {
  for (int x = 0; x < width; ++x) {
    const Data pixel = linearise(image[x], warped[x], dx[x], dy[x], u[x], v[x]);
    residual[x] = pixel.residual;
    inverse[x] = pixel.inverse;
  }
}

// Bilinear resizing, `factor` times the values.
AVFUSION_CLONES
inline void resize_row(int width, const Between* columns, const float* upper, const float* lower, float share,
                       float factor, float* __restrict to) {
  for (int x = 0; x < width; ++x) {
    const Between at = columns[x];
    const float above = blend(upper[at.first], upper[at.second], at.share);
    const float below = blend(lower[at.first], lower[at.second], at.share);
    to[x] = blend(above, below, share) * factor;
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

}  // namespace avfusion::ops::tvl1
