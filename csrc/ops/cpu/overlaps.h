// Overlaps of one segment with a row of others, the inner loops of suppression: compiled for several
// instruction sets, as the loops of rows.h are.
#pragma once

#include <cstdint>

namespace avfusion::ops {

// An integer as wide as the number, so that both fill vectors alike.
template <typename scalar_t>
struct Flag;
template <>
struct Flag<float> {
  using type = int32_t;
};
template <>
struct Flag<double> {
  using type = int64_t;
};
template <typename scalar_t>
using flag_t = typename Flag<scalar_t>::type;

// Clears left[j] if segment j has a tIoU of more than `most` with [start, stop]. The quotient is formed as
// published; NaN (0 / 0: two segments without length at one place) counts as no overlap.
void clear_overlapping(float start, float stop, const float* starts, const float* stops, int64_t count,
                       float most, int32_t* left);
void clear_overlapping(double start, double stop, const double* starts, const double* stops, int64_t count,
                       double most, int64_t* left);

// out[j] = overlap(start, stop, starts[j], stops[j]) of nms1d.h
void overlap_row(float start, float stop, const float* starts, const float* stops, int64_t count, float* out);
void overlap_row(double start, double stop, const double* starts, const double* stops, int64_t count,
                 double* out);

// out[b] = the largest of the BLOCK values from values[b * BLOCK] on, for b in [first, last); NaN do not
// count, and -infinity stands for none
constexpr int64_t BLOCK = 16;
void largest_of_blocks(const float* values, int64_t first, int64_t last, float* out);
void largest_of_blocks(const double* values, int64_t first, int64_t last, double* out);

}  // namespace avfusion::ops
