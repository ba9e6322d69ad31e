// Sums of weighted rows, the inner loops of the CPU kernels: compiled for several instruction sets, of which
// the loader takes the best that the machine has. Without fused multiply-add all give the same bits.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define AVFUSION_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define AVFUSION_CLONES
#endif

#if defined(__GNUC__)
#define AVFUSION_INLINE inline __attribute__((always_inline))
#define AVFUSION_PREFETCH(address) __builtin_prefetch(address)
#else
#define AVFUSION_INLINE inline
#define AVFUSION_PREFETCH(address)
#endif

namespace avfusion::ops {

template <typename scalar_t>
struct Tap {
  int64_t row;
  scalar_t weight;
};

// out[j] = sum of taps[k].weight * rows[taps[k].row * stride + j] for j < width
void gather_rows(const float* rows, int64_t stride, const Tap<float>* taps, int64_t count, int64_t width,
                 float* out);
void gather_rows(const double* rows, int64_t stride, const Tap<double>* taps, int64_t count, int64_t width,
                 double* out);

// rows[taps[k].row * stride + j] += taps[k].weight * in[j] for j < width
void scatter_row(float* rows, int64_t stride, const Tap<float>* taps, int64_t count, int64_t width,
                 const float* in);
void scatter_row(double* rows, int64_t stride, const Tap<double>* taps, int64_t count, int64_t width,
                 const double* in);

}  // namespace avfusion::ops
