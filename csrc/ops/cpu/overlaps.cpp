#include "overlaps.h"

#include <algorithm>
#include <limits>

#include "../nms1d.h"
#include "rows.h"

namespace avfusion::ops {
namespace {

template <typename scalar_t>
AVFUSION_INLINE void clear(scalar_t start, scalar_t stop, const scalar_t* starts, const scalar_t* stops,
                           int64_t count, scalar_t most, flag_t<scalar_t>* left) {
  const scalar_t length = stop - start;
  for (int64_t j = 0; j < count; ++j) {
    const scalar_t end = stops[j] < stop ? stops[j] : stop;
    const scalar_t begin = start < starts[j] ? starts[j] : start;
    const scalar_t shared = end - begin;
    const scalar_t whole = length + (stops[j] - starts[j]) - shared;
    left[j] = shared / whole > most ? 0 : left[j];
  }
}

template <typename scalar_t>
AVFUSION_INLINE void overlaps(scalar_t start, scalar_t stop, const scalar_t* starts, const scalar_t* stops,
                              int64_t count, scalar_t* out) {
  for (int64_t j = 0; j < count; ++j) {
    out[j] = overlap(start, stop, starts[j], stops[j]);
  }
}

template <typename scalar_t>
AVFUSION_INLINE void largest(const scalar_t* values, int64_t first, int64_t last, scalar_t* out) {
  for (int64_t b = first; b < last; ++b) {
    constexpr int64_t LANES = 4;  // that do not wait for each other
    scalar_t lane[LANES];
    std::fill(lane, lane + LANES, -std::numeric_limits<scalar_t>::infinity());
    for (int64_t i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES) {
      for (int64_t l = 0; l < LANES; ++l) {
        lane[l] = values[i + l] > lane[l] ? values[i + l] : lane[l];
      }
    }
    const scalar_t one = lane[0] > lane[1] ? lane[0] : lane[1], two = lane[2] > lane[3] ? lane[2] : lane[3];
    out[b] = one > two ? one : two;
  }
}

}  // namespace

AVFUSION_CLONES void clear_overlapping(float start, float stop, const float* starts, const float* stops,
                                       int64_t count, float most, int32_t* left) {
  clear(start, stop, starts, stops, count, most, left);
}

AVFUSION_CLONES void clear_overlapping(double start, double stop, const double* starts, const double* stops,
                                       int64_t count, double most, int64_t* left) {
  clear(start, stop, starts, stops, count, most, left);
}

AVFUSION_CLONES void overlap_row(float start, float stop, const float* starts, const float* stops,
                                 int64_t count, float* out) {
  overlaps(start, stop, starts, stops, count, out);
}

AVFUSION_CLONES void overlap_row(double start, double stop, const double* starts, const double* stops,
                                 int64_t count, double* out) {
  overlaps(start, stop, starts, stops, count, out);
}

AVFUSION_CLONES void largest_of_blocks(const float* values, int64_t first, int64_t last, float* out) {
  largest(values, first, last, out);
}

AVFUSION_CLONES void largest_of_blocks(const double* values, int64_t first, int64_t last, double* out) {
  largest(values, first, last, out);
}

}  // namespace avfusion::ops
