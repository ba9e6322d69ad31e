#include "rows.h"

// At -O3 GCC unrolls the loop over taps into that over columns, which then no longer computes in vectors:
// five times as slow.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-loop-unroll-and-jam")
#endif

namespace avfusion::ops {
namespace {

constexpr int64_t BLOCK = 64;  // columns whose sums stay in registers

template <typename scalar_t>
AVFUSION_INLINE void gather(const scalar_t* rows, int64_t stride, const Tap<scalar_t>* taps, int64_t count,
                            int64_t width, scalar_t* out) {
  int64_t j = 0;
  for (; j + BLOCK <= width; j += BLOCK) {
    scalar_t sum[BLOCK] = {};
    for (int64_t k = 0; k < count; ++k) {
      const scalar_t* row = rows + taps[k].row * stride + j;
      const scalar_t weight = taps[k].weight;
      for (int64_t i = 0; i < BLOCK; ++i) {
        sum[i] += weight * row[i];
      }
    }
    for (int64_t i = 0; i < BLOCK; ++i) {
      out[j + i] = sum[i];
    }
  }
  for (; j < width; ++j) {
    scalar_t sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      sum += taps[k].weight * rows[taps[k].row * stride + j];
    }
    out[j] = sum;
  }
}

template <typename scalar_t>
AVFUSION_INLINE void scatter(scalar_t* rows, int64_t stride, const Tap<scalar_t>* taps, int64_t count,
                             int64_t width, const scalar_t* __restrict in) {
  for (int64_t k = 0; k < count; ++k) {
    scalar_t* __restrict row = rows + taps[k].row * stride;
    const scalar_t weight = taps[k].weight;
    for (int64_t j = 0; j < width; ++j) {
      row[j] += weight * in[j];
    }
  }
}

}  // namespace

AVFUSION_CLONES void gather_rows(const float* rows, int64_t stride, const Tap<float>* taps, int64_t count,
                                 int64_t width, float* out) {
  gather(rows, stride, taps, count, width, out);
}

AVFUSION_CLONES void gather_rows(const double* rows, int64_t stride, const Tap<double>* taps, int64_t count,
                                 int64_t width, double* out) {
  gather(rows, stride, taps, count, width, out);
}

AVFUSION_CLONES void scatter_row(float* rows, int64_t stride, const Tap<float>* taps, int64_t count,
                                 int64_t width, const float* in) {
  scatter(rows, stride, taps, count, width, in);
}

AVFUSION_CLONES void scatter_row(double* rows, int64_t stride, const Tap<double>* taps, int64_t count,
                                 int64_t width, const double* in) {
  scatter(rows, stride, taps, count, width, in);
}

}  // namespace avfusion::ops
