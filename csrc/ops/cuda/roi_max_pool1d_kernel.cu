// RoI max pooling along time on CUDA, forward.
//
// The largest of any number of steps is the larger of two overlapping windows of them, where windows of 1, 2
// and 4 steps are known from every step on. A first kernel finds the two windows of every bin of every roi,
// once for all channels. Meanwhile the blocks of a second one compute the windows of some channels of a video
// in shared memory; then a bin costs two reads there however long it is (more only beyond 8 steps). A thread
// has up to four bins of one or two channels, so that neighbouring threads write neighbouring numbers.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>
#include <ATen/cuda/detail/IntegerDivider.cuh>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>

#include "../roi_max_pool1d.h"
#include "launch_early.h"
#include "roi_check.h"
#include "rois_by_video.h"
#include "video_tiles.h"

namespace avfusion::ops {
namespace {

using Divider = at::cuda::detail::IntDivider<unsigned>;

constexpr int THREADS = 1024;
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ >= 1200 || (__CUDA_ARCH__ > 800 && __CUDA_ARCH__ < 900))
constexpr int RESIDENT = 1;  // blocks of a multiprocessor, which has room for 1536 threads
#else
constexpr int RESIDENT = 2;
#endif
constexpr int LEVELS = 3;  // windows of 1, 2 and 4 steps
constexpr int WIDEST = 1 << (LEVELS - 1);
constexpr int QUAD = 4;                         // channels or bins that lie together
constexpr int WIDE_TILE = 8, NARROW_TILE = 4;   // channels of a block, the latter of long features or few
constexpr int64_t MOST_VIDEOS = (1 << 16) - 1;  // of a grid

template <typename value_t>
using Quad = Some<value_t, QUAD>;

// Places in shared memory: the windows, (level, step), and behind them what bins without a window give.
enum class Special { EMPTY, MALFORMED, MISSING, COUNT };

// The windows of a level. Behind the last step stand a few that no bin has, so that none needs a bound.
__host__ __device__ __forceinline__ int level_size(int frames) {
  return frames + WIDEST - 1;
}

__host__ __device__ __forceinline__ int place_of(Special kind, int frames) {
  return LEVELS * level_size(frames) + static_cast<int>(kind);
}

// The first and the last window of a bin, which are of one level: their places as bytes in shared memory.
// With LONG in `last` there are others between them, each WIDEST steps after the one before.
struct alignas(8) Pair {
  unsigned first, last;
};

constexpr unsigned LONG = 1;

// Windows of TILE channels, (place, channel), and for each place the step where its window begins, in the
// upper half of a word, and in the lower one where in the window a channel's first maximum stands, in two
// bits.
template <typename scalar_t, int TILE>
struct Windows {
  static_assert(TILE == 4 || TILE == 8);
  static constexpr unsigned STRIDE = TILE * sizeof(scalar_t);  // bytes of a place
  unsigned char* values;
  unsigned char* codes;

  __device__ Windows(unsigned char* shared, int frames)
      : values(shared), codes(shared + STRIDE * place_of(Special::COUNT, frames)) {
  }

  static int64_t bytes(int64_t frames, bool with_codes) {
    const int64_t places = LEVELS * (frames + WIDEST - 1) + static_cast<int64_t>(Special::COUNT);
    return places * (STRIDE + (with_codes ? sizeof(int) : 0));
  }

  __device__ __forceinline__ Quad<scalar_t>& quad(int place, int which) const {
    return reinterpret_cast<Quad<scalar_t>*>(values)[place * (TILE / QUAD) + which];
  }

  // Of WIDTH neighbouring channels.
  template <int WIDTH = 1>
  __device__ __forceinline__ Some<scalar_t, WIDTH> some(unsigned at, int channel) const {
    const unsigned from = at + channel * static_cast<unsigned>(sizeof(scalar_t));
    return *reinterpret_cast<const Some<scalar_t, WIDTH>*>(values + from);
  }

  // What a thread with a quad of channels knows of the code of a place.
  __device__ __forceinline__ void set_code(int place, int which, int step, unsigned bits) const {
    unsigned char* code = codes + place * sizeof(int);
    code[which] = static_cast<unsigned char>(bits);
    if (which == 0) {
      reinterpret_cast<short*>(code)[1] = static_cast<short>(step);
    }
  }

  // Step of the first maximum of a window.
  __device__ __forceinline__ int step(unsigned at, int channel) const {
    const int code = *reinterpret_cast<const int*>(codes + at / STRIDE * sizeof(int));
    return (code >> 16) + (code >> 2 * channel & 3);
  }
};

// The larger of two, the first if they are equal, and with PLACES whether it is the second.
template <bool PLACES, typename scalar_t>
__device__ __forceinline__ bool keep_larger(scalar_t& best, scalar_t other) {
  using coord_t = at::opmath_type<scalar_t>;
  if constexpr (PLACES) {
    const bool larger = static_cast<coord_t>(other) > static_cast<coord_t>(best);
    best = larger ? other : best;
    return larger;
  } else {
    best = static_cast<scalar_t>(::fmax(static_cast<coord_t>(best), static_cast<coord_t>(other)));
    return false;
  }
}

// Whether the next lower number may not be lower: NaN, infinity, or a huge one, which the published code
// treats in ways of its own.
template <typename coord_t>
__device__ __forceinline__ bool is_odd(coord_t value) {
  constexpr coord_t HUGE_ONE = std::is_same_v<coord_t, double> ? coord_t(int64_t(1) << 52) : coord_t(1 << 23);
  return !(::fabs(value) < HUGE_ONE);
}

// Collective: fills the windows of `here` channels; __syncthreads before they are used. True if an odd value
// is among them.
template <bool PLACES, int TILE, typename scalar_t>
__device__ bool fill(const scalar_t* __restrict__ rows, int here, int frames,
                     const Windows<scalar_t, TILE>& windows) {
  constexpr int QUADS = TILE / QUAD;  // threads of a step
  const int which = threadIdx.x % QUADS, begin = threadIdx.x / QUADS, together = blockDim.x / QUADS;
  const int size = level_size(frames);
  unsigned row[QUAD];  // channels that are not there hold what the last one holds
#pragma unroll
  for (int c = 0; c < QUAD; ++c) {
    row[c] = min(which * QUAD + c, here - 1) * static_cast<unsigned>(frames);
  }
  bool odd = false;
#pragma unroll 2
  for (int t = begin; t < size; t += together) {
    const unsigned step = min(t, frames - 1);
    Quad<scalar_t> quad;
#pragma unroll
    for (int c = 0; c < QUAD; ++c) {
      quad.value[c] = rows[row[c] + step];
      odd |= is_odd(static_cast<at::opmath_type<scalar_t>>(quad.value[c]));
    }
    windows.quad(t, which) = quad;
  }
  if (begin < static_cast<int>(Special::COUNT)) {
    using coord_t = at::opmath_type<scalar_t>;
    const bool missing = begin == static_cast<int>(Special::MISSING);
    const bool malformed = begin == static_cast<int>(Special::MALFORMED);
    const auto value = static_cast<scalar_t>(missing ? static_cast<coord_t>(NAN) : coord_t(0));
    const int place = place_of(static_cast<Special>(begin), frames);
    windows.quad(place, which) = {{value, value, value, value}};
    if (PLACES) {
      windows.set_code(place, which, malformed ? 0 : -1, 0);
    }
  }
  odd = __syncthreads_or(odd);
  for (int t = begin; t < frames; t += together) {
    const Quad<scalar_t>* steps = &windows.quad(t, which);
    Quad<scalar_t> pair = steps[0], upper = steps[2 * QUADS];
    const Quad<scalar_t> second = steps[QUADS], last = steps[3 * QUADS];
    unsigned pairs = 0, fours = 0;
    Quad<scalar_t> four;
#pragma unroll
    for (int c = 0; c < QUAD; ++c) {
      const unsigned in_pair = keep_larger<PLACES>(pair.value[c], second.value[c]);
      const unsigned in_upper = keep_larger<PLACES>(upper.value[c], last.value[c]);
      four.value[c] = pair.value[c];
      const bool later = keep_larger<PLACES>(four.value[c], upper.value[c]);
      pairs |= in_pair << 2 * c;
      fours |= (later ? 2 + in_upper : in_pair) << 2 * c;
    }
    windows.quad(size + t, which) = pair;
    windows.quad(2 * size + t, which) = four;
    if (PLACES) {
      windows.set_code(t, which, t, 0);
      windows.set_code(size + t, which, t, pairs);
      windows.set_code(2 * size + t, which, t, fours);
    }
  }
  return odd;
}

// rois -> pairs (rois, bins), by all blocks but the first `batch`, which sort the rois if there are several
// videos.
template <typename coord_t>
__global__ void __launch_bounds__(THREADS)
    find_windows(const coord_t* __restrict__ rois, int64_t count, int64_t batch, int frames, int bins,
                 Parts<coord_t> divided, coord_t scale, unsigned stride, Pair* __restrict__ pairs,
                 int* __restrict__ order, int* __restrict__ bounds) {
  wait_for_previous_kernel();
  let_next_kernel_begin();
  const int64_t sorters = order == nullptr ? 0 : batch;
  if (blockIdx.x < sorters) {
    list_rois_of(static_cast<int64_t>(blockIdx.x), rois, count, batch, /*lost=*/0, order, bounds);
    return;
  }
  const int64_t i = (blockIdx.x - sorters) * THREADS + threadIdx.x, r = i / bins;
  if (r >= count) {
    return;
  }
  const int b = static_cast<int>(i % bins);
  const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, divided);
  const int first = roi.first(b, frames), steps = roi.last(b, frames) - first;
  const int level = steps >= 4 ? 2 : steps >= 2 ? 1 : 0;
  int from = level * level_size(frames) + first, to = from + steps - (1 << level);
  if (names_no_video(rois[3 * r], batch)) {
    from = to = place_of(Special::MISSING, frames);
  } else if (roi.malformed()) {
    from = to = place_of(Special::MALFORMED, frames);
  } else if (steps <= 0) {
    from = to = place_of(Special::EMPTY, frames);
  }
  pairs[i] = {from * stride, to * stride | (to - from > WIDEST ? LONG : 0)};
}

// What a bin gives in a channel: its largest value and the step where it stands.
template <typename scalar_t>
struct Maximum {
  scalar_t value;
  int step;
};

// Step by step, as published: the running maximum begins just below the first step, so that NaN, infinity or
// a huge number there leaves nothing that is greater.
template <typename scalar_t>
__device__ Maximum<scalar_t> find_step_by_step(const scalar_t* row, int stride, int first, int last) {
  using coord_t = at::opmath_type<scalar_t>;
  coord_t best = static_cast<coord_t>(row[static_cast<int64_t>(first) * stride]) - coord_t(1);
  int step = -1;
#pragma unroll 1
  for (int t = first; t < last; ++t) {
    const auto value = static_cast<coord_t>(row[static_cast<int64_t>(t) * stride]);
    if (value > best) {
      best = value;
      step = t;
    }
  }
  return {static_cast<scalar_t>(best), step};
}

// Of a long bin, or where windows do not say what was published.
template <bool PLACES, int TILE, typename scalar_t>
__device__ __noinline__ Maximum<scalar_t> find_slowly(Windows<scalar_t, TILE> windows, int channel, Pair pair,
                                                      int frames, bool odd) {
  constexpr unsigned STRIDE = Windows<scalar_t, TILE>::STRIDE;
  const unsigned last = pair.last & ~LONG;
  const int place = static_cast<int>(pair.first / STRIDE), level = place / level_size(frames),
            before = level * level_size(frames);
  if (odd && level < LEVELS) {
    const auto* column = reinterpret_cast<const scalar_t*>(windows.values) + channel;
    return find_step_by_step(column, TILE, place - before,
                             static_cast<int>(last / STRIDE) - before + (1 << level));
  }
  unsigned at = pair.first;
  scalar_t best = windows.some(at, channel).value[0];
  const auto take = [&](unsigned next) {
    at = keep_larger<PLACES>(best, windows.some(next, channel).value[0]) ? next : at;
  };
#pragma unroll 1
  for (unsigned next = at + WIDEST * STRIDE; next < last; next += WIDEST * STRIDE) {
    take(next);
  }
  take(last);
  return {best, PLACES ? windows.step(at, channel) : 0};
}

// Neighbouring pairs, two in a read.
template <int COUNT>
__device__ __forceinline__ void read_pairs(const Pair* __restrict__ from, Pair (&pairs)[COUNT]) {
  if constexpr (COUNT == 1) {
    pairs[0] = *from;
  } else {
#pragma unroll
    for (int k = 0; k < COUNT; k += 2) {
      const auto two = *reinterpret_cast<const Some<Pair, 2>*>(from + k);
      pairs[k] = two.value[0];
      pairs[k + 1] = two.value[1];
    }
  }
}

// All values at once.
template <int COUNT, typename value_t>
__device__ __forceinline__ void write_together(value_t* to, const value_t (&values)[COUNT]) {
  if constexpr (COUNT == QUAD) {
    *reinterpret_cast<Quad<value_t>*>(to) = {{values[0], values[1], values[2], values[3]}};
  } else {
    *to = values[0];
  }
}

// Steps of neighbouring bins, two in a register.
template <int COUNT>
struct Steps {
  unsigned words[(COUNT + 1) / 2];

  __device__ __forceinline__ void set(int bin, int step) {
    words[bin / 2] |= (static_cast<unsigned>(step) & 0xffffu) << 16 * (bin % 2);
  }

  __device__ __forceinline__ void write(int16_t* to) const {
    if constexpr (COUNT == QUAD) {
      *reinterpret_cast<uint2*>(to) = {words[0], words[1]};
    } else {
      *to = static_cast<int16_t>(words[0]);
    }
  }
};

// features (batch, channels, frames) -> output, argmax (rois, channels, bins), the latter only with PLACES.
// Block (TILE channels, part of the rois, video); a thread has BINS bins of a roi and WIDTH channels, and
// `grouped` says how many threads share those channels.
template <typename scalar_t, int TILE, int BINS, int WIDTH, bool PLACES>
__global__ void __launch_bounds__(THREADS, RESIDENT)
    pool_windows(const scalar_t* __restrict__ features, const Pair* __restrict__ pairs, RoiOrder order,
                 int channels, int frames, int bins, Divider grouped, scalar_t* __restrict__ output,
                 int16_t* __restrict__ argmax) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int video = blockIdx.z, channel = blockIdx.x * TILE, here = min(channels - channel, TILE);
  const Windows<scalar_t, TILE> windows(shared, frames);
  const bool odd = fill<PLACES>(features + (static_cast<int64_t>(video) * channels + channel) * frames, here,
                                frames, windows);
  wait_for_previous_kernel();
  const int begin = order.begin(video);
  const unsigned per_roi = TILE / WIDTH * grouped.divisor, items = (order.end(video) - begin) * per_roi;
  const unsigned of_roi = channels * bins;
  Pair own[BINS];
  unsigned to = 0;  // where its first bin is written
  int c = 0;
  const auto begin_item = [&](unsigned i) {
    if (i < items) {
      const auto split = grouped.divmod(i);
      const unsigned r = order.roi(begin + static_cast<int>(split.div / (TILE / WIDTH))),
                     bin = split.mod * BINS;
      c = static_cast<int>(split.div % (TILE / WIDTH)) * WIDTH;
      to = r * of_roi + (channel + c) * bins + bin;
      read_pairs(pairs + (r * bins + bin), own);
    }
  };
  unsigned i = blockIdx.y * blockDim.x + threadIdx.x;
  begin_item(i);  // on its way while others still fill windows
  __syncthreads();
  while (i < items) {
    scalar_t values[WIDTH][BINS];
    Steps<BINS> steps[WIDTH] = {};
    bool slowly = odd;
#pragma unroll
    for (int b = 0; b < BINS; ++b) {
      slowly |= (own[b].last & LONG) != 0;
    }
    if (slowly) {
#pragma unroll
      for (int b = 0; b < BINS; ++b) {
#pragma unroll
        for (int w = 0; w < WIDTH; ++w) {
          const Maximum<scalar_t> found = find_slowly<PLACES>(windows, c + w, own[b], frames, odd);
          values[w][b] = found.value;
          steps[w].set(b, found.step);
        }
      }
    } else {
#pragma unroll
      for (int b = 0; b < BINS; ++b) {
        auto best = windows.template some<WIDTH>(own[b].first, c), last = best;
        if (own[b].last != own[b].first) {  // one, two or four steps are a single window
          last = windows.template some<WIDTH>(own[b].last, c);
        }
#pragma unroll
        for (int w = 0; w < WIDTH; ++w) {
          const bool later = keep_larger<PLACES>(best.value[w], last.value[w]);
          values[w][b] = best.value[w];
          if (PLACES) {
            steps[w].set(b, windows.step(later ? own[b].last : own[b].first, c + w));
          }
        }
      }
    }
    const unsigned at = to;
    const int valid = here - c;
    i += gridDim.y * blockDim.x;
    begin_item(i);
#pragma unroll
    for (int w = 0; w < WIDTH; ++w) {
      if (w < valid) {
        write_together(output + at + w * bins, values[w]);
        if (PLACES) {
          steps[w].write(argmax + at + w * bins);
        }
      }
    }
  }
}

// The same for features too long for shared memory, which are read where they are. A thread has a bin of a
// roi and channel.
template <typename scalar_t, typename coord_t, typename place_t>
__global__ void __launch_bounds__(THREADS)
    pool_unstaged(const scalar_t* __restrict__ features, const coord_t* __restrict__ rois, int64_t count,
                  int64_t batch, int64_t channels, int64_t frames, int bins, Parts<coord_t> divided,
                  coord_t scale, bool with_argmax, scalar_t* __restrict__ output,
                  place_t* __restrict__ argmax) {
  const int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x, b = i % bins;
  const int64_t channel = i / bins % channels, r = i / bins / channels;
  if (r >= count) {
    return;
  }
  const Roi<coord_t> roi(rois[3 * r + 1], rois[3 * r + 2], scale, divided);
  const bool missing = names_no_video(rois[3 * r], batch), malformed = roi.malformed();
  const int64_t video = missing ? 0 : static_cast<int64_t>(rois[3 * r]);
  const scalar_t* row = features + (video * channels + channel) * frames;
  const int first = static_cast<int>(roi.first(b, frames)), last = static_cast<int>(roi.last(b, frames));
  Maximum<scalar_t> found = {scalar_t(0), -1};
  if (missing) {
    found.value = static_cast<scalar_t>(static_cast<coord_t>(NAN));
  } else if (malformed) {
    found.step = 0;
  } else if (first < last) {
    found = find_step_by_step(row, 1, first, last);
  }
  output[i] = found.value;
  if (with_argmax) {
    argmax[i] = static_cast<place_t>(found.step);
  }
}

// The operator's arguments, contiguous, and its results.
template <typename scalar_t>
struct Pooling {
  using coord_t = at::opmath_type<scalar_t>;
  at::Tensor features, rois, output, argmax;
  int bins;
  coord_t scale;

  bool with_argmax() const {
    return argmax.size(0) > 0;
  }
};

template <typename scalar_t>
void pool_where_they_are(const Pooling<scalar_t>& of) {
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t blocks = (of.output.numel() + THREADS - 1) / THREADS;
  TORCH_CHECK(blocks < (int64_t(1) << 31), "rois are too many for one call: ", blocks, " blocks");
  with_positions(of.argmax.scalar_type(), [&](auto place) {
    using place_t = decltype(place);
    pool_unstaged<scalar_t, coord_t, place_t>
        <<<static_cast<unsigned>(blocks), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
            of.features.template const_data_ptr<scalar_t>(), of.rois.template const_data_ptr<coord_t>(),
            of.rois.size(0), of.features.size(0), of.features.size(1), of.features.size(2), of.bins,
            Parts<coord_t>(of.bins), of.scale, of.with_argmax(),
            of.output.template mutable_data_ptr<scalar_t>(), of.argmax.template mutable_data_ptr<place_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

template <typename scalar_t, int TILE, int WIDTH, bool PLACES>
auto pool_kernel(int together) {
  return together == QUAD ? pool_windows<scalar_t, TILE, QUAD, WIDTH, PLACES>
                          : pool_windows<scalar_t, TILE, 1, WIDTH, PLACES>;
}

template <int TILE, typename scalar_t>
void pool_staged(const Pooling<scalar_t>& of) {
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t count = of.rois.size(0), batch = of.features.size(0), channels = of.features.size(1);
  const int frames = static_cast<int>(of.features.size(2));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const at::Tensor pairs = at::empty({count, of.bins, 2}, of.rois.options().dtype(at::kInt));
  auto* pair_data = reinterpret_cast<Pair*>(pairs.mutable_data_ptr<int>());
  std::optional<OrderMemory> sorted;
  if (batch > 1) {
    sorted.emplace(of.rois, batch);
  }
  const int64_t finders = (count * of.bins + THREADS - 1) / THREADS + (sorted ? batch : 0);
  launch_early(find_windows<coord_t>, static_cast<unsigned>(finders), THREADS, 0, stream,
               of.rois.template const_data_ptr<coord_t>(), count, batch, frames, of.bins,
               Parts<coord_t>(of.bins), of.scale, Windows<scalar_t, TILE>::STRIDE, pair_data,
               sorted ? sorted->order.mutable_data_ptr<int>() : nullptr,
               sorted ? sorted->bounds.mutable_data_ptr<int>() : nullptr);
  const int together = of.bins % QUAD == 0 ? QUAD : 1, groups = of.bins / together;
  const int64_t bytes = Windows<scalar_t, TILE>::bytes(frames, of.with_argmax());
  const int64_t tiles = (channels + TILE - 1) / TILE;
  const int64_t parts = parts_for(batch * tiles, 2, (count / batch * groups * TILE + THREADS - 1) / THREADS);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts), static_cast<unsigned>(batch));
  // With positions the registers are too few for two channels.
  const auto kernel = of.with_argmax() ? pool_kernel<scalar_t, TILE, 1, true>(together)
                                       : pool_kernel<scalar_t, TILE, 2, false>(together);
  allow_shared(kernel, bytes);
  launch_early(kernel, grid, THREADS, bytes, stream, of.features.template const_data_ptr<scalar_t>(),
               static_cast<const Pair*>(pair_data),
               sorted ? sorted->view() : RoiOrder{nullptr, nullptr, static_cast<int>(count)},
               static_cast<int>(channels), frames, of.bins, Divider(static_cast<unsigned>(groups)),
               of.output.template mutable_data_ptr<scalar_t>(),
               of.argmax.template mutable_data_ptr<int16_t>());
}

template <typename scalar_t>
void pool(const Pooling<scalar_t>& of) {
  const int64_t batch = of.features.size(0), channels = of.features.size(1), frames = of.features.size(2);
  const auto fits = [&](int64_t bytes) { return bytes <= most_shared(); };
  const bool countable = of.output.numel() < (int64_t(1) << 32) &&
                         of.rois.size(0) * WIDE_TILE * of.bins < (int64_t(1) << 31) &&
                         (channels + WIDE_TILE) * of.bins < (int64_t(1) << 31) &&
                         position_type(frames) == at::kShort && batch <= MOST_VIDEOS;
  // Where blocks are few, several would fill the same windows.
  const bool few = batch * channels < WIDE_TILE * multiprocessors();
  if (countable && !few && fits(Windows<scalar_t, WIDE_TILE>::bytes(frames, of.with_argmax()))) {
    pool_staged<WIDE_TILE>(of);
  } else if (countable && fits(Windows<scalar_t, NARROW_TILE>::bytes(frames, of.with_argmax()))) {
    pool_staged<NARROW_TILE>(of);
  } else {
    pool_where_they_are(of);
  }
}

std::tuple<at::Tensor, at::Tensor> roi_max_pool1d_cuda(const at::Tensor& features, const at::Tensor& rois,
                                                       int64_t output_size, double spatial_scale,
                                                       bool check_rois, bool with_argmax) {
  check_roi_max_pool1d(features, rois, output_size, spatial_scale);
  TORCH_CHECK(output_size <= LARGEST_OUTPUT, "output_size is at most ", LARGEST_OUTPUT, " on CUDA, not ",
              output_size);
  const c10::cuda::CUDAGuard guard(features.device());
  const int64_t count = rois.size(0), batch = features.size(0), channels = features.size(1),
                frames = features.size(2);
  auto output = at::empty({count, channels, output_size}, features.options());
  auto argmax = at::empty({with_argmax ? count : 0, channels, output_size},
                          features.options().dtype(position_type(frames)));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "roi_max_pool1d_cuda", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        const auto table = rois.to(c10::CppTypeToScalarType<coord_t>::value).contiguous();
        if (check_rois || batch == 0) {  // without a video there is none to read instead
          check_videos<coord_t>(table, batch);
        }
        if (output.numel() == 0 || batch == 0) {
          return;
        }
        const Pooling<scalar_t> pooling = {features.contiguous(),
                                           table,
                                           output,
                                           argmax,
                                           static_cast<int>(output_size),
                                           static_cast<coord_t>(spatial_scale)};
        pool(pooling);
      });
  return {output, argmax};
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CUDA, m) {
  m.impl("roi_max_pool1d", &roi_max_pool1d_cuda);
}

}  // namespace avfusion::ops
