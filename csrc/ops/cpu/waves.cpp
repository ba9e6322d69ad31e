#include "waves.h"

#include <algorithm>

#include "rows.h"

namespace avfusion::ops {
namespace {

// Sum of factor[k] * rows[k] over every second k from `first` on, of LANES numbers each.
template <typename scalar_t>
AVFUSION_INLINE void sum_every_second(const scalar_t* factor, const scalar_t* rows, int64_t first,
                                      int64_t end, scalar_t* __restrict out) {
  scalar_t sum[LANES] = {};
  for (int64_t k = first; k < end; k += 2) {
    const scalar_t weight = factor[k];
    for (int64_t l = 0; l < LANES; ++l) {
      sum[l] += weight * rows[k * LANES + l];
    }
  }
  for (int64_t l = 0; l < LANES; ++l) {
    out[l] = sum[l];
  }
}

// Every third number to a row of its own, and back: what compilers turn into shuffles, unlike other strides.
template <typename scalar_t>
AVFUSION_INLINE void split(const scalar_t* __restrict from, int64_t count, scalar_t* __restrict rows) {
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = from[3 * i];
    rows[count + i] = from[3 * i + 1];
    rows[2 * count + i] = from[3 * i + 2];
  }
}

template <typename scalar_t>
AVFUSION_INLINE void join(const scalar_t* __restrict rows, int64_t count, scalar_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) {
    to[3 * i] = rows[i];
    to[3 * i + 1] = rows[count + i];
    to[3 * i + 2] = rows[2 * count + i];
  }
}

template <typename scalar_t>
AVFUSION_INLINE void add_row(const scalar_t* __restrict from, scalar_t* __restrict to) {
  for (int64_t l = 0; l < LANES; ++l) {
    to[l] += from[l];
  }
}

template <typename scalar_t>
AVFUSION_INLINE void add(const scalar_t* from, int64_t count, const int64_t* places, scalar_t* to) {
  scalar_t thirds[9 * LANES], rows[3 * LANES];
  if (count == 3) {
    split(from, LANES, rows);
    for (int64_t k = 0; k < 3; ++k) {
      add_row(rows + k * LANES, to + places[k] * LANES);
    }
  } else if (count == 9) {
    split(from, 3 * LANES, thirds);  // taps 0, 3, 6 of all lanes, then 1, 4, 7, then 2, 5, 8
    for (int64_t third = 0; third < 3; ++third) {
      split(thirds + third * 3 * LANES, LANES, rows);
      for (int64_t k = 0; k < 3; ++k) {
        add_row(rows + k * LANES, to + places[3 * k + third] * LANES);
      }
    }
  } else {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t l = 0; l < LANES; ++l) {
        to[places[k] * LANES + l] += from[l * count + k];
      }
    }
  }
}

template <typename scalar_t>
AVFUSION_INLINE void pick(const scalar_t* from, int64_t count, const int64_t* places, scalar_t* to) {
  scalar_t thirds[9 * LANES], rows[3 * LANES];
  if (count == 3) {
    for (int64_t k = 0; k < 3; ++k) {
      std::copy_n(from + places[k] * LANES, LANES, rows + k * LANES);
    }
    join(rows, LANES, to);
  } else if (count == 9) {
    for (int64_t third = 0; third < 3; ++third) {
      for (int64_t k = 0; k < 3; ++k) {
        std::copy_n(from + places[3 * k + third] * LANES, LANES, rows + k * LANES);
      }
      join(rows, LANES, thirds + third * 3 * LANES);
    }
    join(thirds, 3 * LANES, to);
  } else {
    for (int64_t l = 0; l < LANES; ++l) {
      for (int64_t k = 0; k < count; ++k) {
        to[l * count + k] = from[places[k] * LANES + l];
      }
    }
  }
}

template <typename scalar_t>
AVFUSION_INLINE void forward(const Waves<scalar_t>& waves, const scalar_t* taps, scalar_t* scratch,
                             int64_t stride, scalar_t* __restrict out) {
  const int64_t reach = waves.reach, half = waves.half, ends = reach + 1;
  scalar_t* even = scratch;
  scalar_t* odd = even + ends * LANES;
  for (int64_t k = 0; k < ends; ++k) {
    const scalar_t* after = taps + (reach + k) * LANES;
    const scalar_t* before = taps + (reach - k) * LANES;
    for (int64_t l = 0; l < LANES; ++l) {
      even[k * LANES + l] = k > 0 ? after[l] + before[l] : after[l];
      odd[k * LANES + l] = after[l] - before[l];
    }
  }
  for (int64_t f = 0; f <= half / 2; ++f) {
    const scalar_t* cosine = waves.cosine.data() + f * ends;
    const scalar_t* sine = waves.sine.data() + f * ends;
    scalar_t whole[LANES], turned[LANES], sine_whole[LANES], sine_turned[LANES];
    sum_every_second(cosine, even, 0, ends, whole);
    sum_every_second(cosine, even, 1, ends, turned);
    sum_every_second(sine, odd, 0, ends, sine_whole);
    sum_every_second(sine, odd, 1, ends, sine_turned);
    const int64_t other = half - f;
    for (int64_t l = 0; l < LANES; ++l) {
      out[other * stride + l] = whole[l] - turned[l];
      out[f * stride + l] = whole[l] + turned[l];
    }
    if (f == 0) {
      continue;
    }
    for (int64_t l = 0; l < LANES; ++l) {
      const scalar_t mirrored = sine_turned[l] - sine_whole[l], here = sine_turned[l] + sine_whole[l];
      out[(half + other) * stride + l] = mirrored;
      out[(2 * half - 1 + other) * stride + l] = (whole[l] - turned[l]) + mirrored;
      out[(half + f) * stride + l] = here;
      out[(2 * half - 1 + f) * stride + l] = (whole[l] + turned[l]) + here;
    }
  }
}

template <typename scalar_t>
AVFUSION_INLINE void backward(const Waves<scalar_t>& waves, const scalar_t* planes, int64_t stride,
                              scalar_t* scratch, scalar_t* __restrict taps) {
  const int64_t reach = waves.reach, half = waves.half, ends = reach + 1, count = half / 2 + 1;
  scalar_t* whole = scratch;  // [f][lane], as are the next three
  scalar_t* turned = whole + count * LANES;
  scalar_t* sine_whole = turned + count * LANES;
  scalar_t* sine_turned = sine_whole + count * LANES;
  for (int64_t f = 0; f < count; ++f) {
    const int64_t other = half - f, at = f * LANES;
    const bool paired = other != f;
    const scalar_t* here = planes + f * stride;
    const scalar_t* there = planes + other * stride;
    for (int64_t l = 0; l < LANES; ++l) {
      scalar_t cosine = here[l], other_cosine = paired ? there[l] : 0, sine = 0, other_sine = 0;
      if (f > 0) {
        const scalar_t both = here[(2 * half - 1) * stride + l];
        cosine += both;
        sine = here[half * stride + l] + both;
        if (paired) {
          const scalar_t other_both = there[(2 * half - 1) * stride + l];
          other_cosine += other_both;
          other_sine = there[half * stride + l] + other_both;
        }
      }
      whole[at + l] = cosine + other_cosine;
      turned[at + l] = cosine - other_cosine;
      sine_whole[at + l] = sine - other_sine;
      sine_turned[at + l] = sine + other_sine;
    }
  }
  for (int64_t k = 0; k < ends; ++k) {
    scalar_t even[LANES] = {}, odd[LANES] = {};
    const scalar_t* cosines = k % 2 ? turned : whole;
    const scalar_t* sines = k % 2 ? sine_turned : sine_whole;
    for (int64_t f = 0; f < count; ++f) {
      const scalar_t cosine = waves.cosine[f * ends + k], sine = waves.sine[f * ends + k];
      for (int64_t l = 0; l < LANES; ++l) {
        even[l] += cosine * cosines[f * LANES + l];
        odd[l] += sine * sines[f * LANES + l];
      }
    }
    for (int64_t l = 0; l < LANES; ++l) {
      taps[(reach - k) * LANES + l] = even[l] - odd[l];
      taps[(reach + k) * LANES + l] = even[l] + odd[l];
    }
  }
}

}  // namespace

AVFUSION_CLONES void add_taps(const float* from, int64_t count, const int64_t* places, float* to) {
  add(from, count, places, to);
}

AVFUSION_CLONES void add_taps(const double* from, int64_t count, const int64_t* places, double* to) {
  add(from, count, places, to);
}

AVFUSION_CLONES void pick_taps(const float* from, int64_t count, const int64_t* places, float* to) {
  pick(from, count, places, to);
}

AVFUSION_CLONES void pick_taps(const double* from, int64_t count, const int64_t* places, double* to) {
  pick(from, count, places, to);
}

AVFUSION_CLONES void taps_to_planes(const Waves<float>& waves, const float* taps, float* scratch,
                                    int64_t stride, float* out) {
  forward(waves, taps, scratch, stride, out);
}

AVFUSION_CLONES void taps_to_planes(const Waves<double>& waves, const double* taps, double* scratch,
                                    int64_t stride, double* out) {
  forward(waves, taps, scratch, stride, out);
}

AVFUSION_CLONES void planes_to_taps(const Waves<float>& waves, const float* planes, int64_t stride,
                                    float* scratch, float* taps) {
  backward(waves, planes, stride, scratch, taps);
}

AVFUSION_CLONES void planes_to_taps(const Waves<double>& waves, const double* planes, int64_t stride,
                                    double* scratch, double* taps) {
  backward(waves, planes, stride, scratch, taps);
}

}  // namespace avfusion::ops
