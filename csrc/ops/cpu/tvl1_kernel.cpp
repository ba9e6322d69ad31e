// TV-L1 optical flow on the CPU, a pair of images per thread.
//
// The time goes to iterations over ten planes of float32, which for usual images do not fit the second-level
// cache. Several iterations therefore run down the image together, each a row behind the one before it
// (`Solver::sweep`), so that a row is fetched once for all of them. Whether to stop is known only when an
// iteration reaches the last row; a sweep writes to a second set of planes, and if one of its iterations but
// the last was the one to stop at, it is repeated with just as many (rarely: their number is foreseen).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "../tvl1_arguments.h"

// Rows are written as loops that compilers turn into vector instructions; on Linux with GCC for several
// instruction sets, of which the loader takes the best. The options make square roots and comparisons
// vectorisable, and change no result, as images hold no NaN.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno,no-trapping-math,finite-math-only,no-signed-zeros")
#endif
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__) && __GNUC__ >= 12
#define AVFUSION_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AVFUSION_CLONES
#endif

namespace avfusion::ops {
namespace {

using tvl1::Options;
using tvl1::Size;

constexpr int LANES = 16;        // floats per cache line; sums are of so many partial ones
constexpr int MAX_TOGETHER = 6;  // iterations per sweep

// A float32 image; at least LANES floats lie before and after every row, which begins at a cache line.
struct Plane {
  float* data;
  int64_t stride;

  float* row(int64_t y) const {
    return data + y * stride;
  }
};

int64_t stride_of(int width) {
  return (width + 3 * LANES - 1) / LANES * LANES;
}

// Flow (u, v) and its dual variables (p of u, q of v; x and y).
struct State {
  Plane u, v, px, py, qx, qy;
};

// What does not change in the iterations after a warp: see tvl1::Data.
struct DataPlanes {
  Plane residual, dx, dy, inverse;
};

AVFUSION_CLONES
void primal_row(int width, const DataPlanes data, const State from, const State to, int64_t y, float limit,
                float theta, const float* above_py, const float* above_qy, float* __restrict squares) {
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
    tvl1::primal({residual[x], dx[x], dy[x], inverse[x]}, limit, theta, divergence_u, divergence_v, old_u, old_v,
                 &next_u, &next_v);
    new_u[x] = next_u;
    new_v[x] = next_v;
    squares[x] = (next_u - old_u) * (next_u - old_u) + (next_v - old_v) * (next_v - old_v);
  }
}

AVFUSION_CLONES
void dual_row(int width, float rate, const float* u, const float* below, const float* x_from, const float* y_from,
              float* x_to, float* y_to) {
#pragma GCC ivdep
  for (int x = 0; x < width; ++x) {
    float px = x_from[x], py = y_from[x];
    tvl1::dual(rate, u[x + 1] - u[x], below[x] - u[x], &px, &py);
    x_to[x] = px;
    y_to[x] = py;
  }
}

// Sum of a row in an order that does not depend on the instruction set; zeros follow the row.
AVFUSION_CLONES
double sum_row(const float* values, int width) {
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
void sort_columns(int width, const std::array<const float*, 5>& from, float* __restrict to0,
                  float* __restrict to1, float* __restrict to2, float* __restrict to3, float* __restrict to4) {
  const float *r0 = from[0], *r1 = from[1], *r2 = from[2], *r3 = from[3], *r4 = from[4];
  for (int x = 0; x < width; ++x) {
    float a = r0[x], b = r1[x], c = r2[x], d = r3[x], e = r4[x];
    tvl1::sort5(a, b, c, d, e);
    to0[x] = a;
    to1[x] = b;
    to2[x] = c;
    to3[x] = d;
    to4[x] = e;
  }
}

AVFUSION_CLONES
void median_row(int width, const float* r0, const float* r1, const float* r2, const float* r3, const float* r4,
                float* __restrict to) {
  for (int x = 0; x < width; ++x) {
    float m[5][5] = {{r0[x - 2], r0[x - 1], r0[x], r0[x + 1], r0[x + 2]},
                     {r1[x - 2], r1[x - 1], r1[x], r1[x + 1], r1[x + 2]},
                     {r2[x - 2], r2[x - 1], r2[x], r2[x + 1], r2[x + 2]},
                     {r3[x - 2], r3[x - 1], r3[x], r3[x + 1], r3[x + 2]},
                     {r4[x - 2], r4[x - 1], r4[x], r4[x + 1], r4[x + 2]}};
    to[x] = tvl1::median_of_sorted_columns(m);
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
void find_taps(int width, int length, float start, float step, const float* offset, int* __restrict first,
               float* __restrict w0, float* __restrict w1, float* __restrict w2, float* __restrict w3) {
  for (int x = 0; x < width; ++x) {
    const tvl1::Tap tap = tvl1::tap((start + step * static_cast<float>(x)) + offset[x], length);
    float weights[4];
    tvl1::cubic(tap.share, weights);
    first[x] = tap.first;
    w0[x] = weights[0];
    w1[x] = weights[1];
    w2[x] = weights[2];
    w3[x] = weights[3];
  }
}

// Reads an image with its border (4 channels per pixel) where the taps say.
AVFUSION_CLONES
void read_row(Size size, const float* bordered, const Taps& across, const Taps& down, float* __restrict warped,
              float* __restrict to_x, float* __restrict to_y) {
  constexpr int C = tvl1::CHANNELS;
  const int64_t pitch = static_cast<int64_t>(size.width + 2 * tvl1::BORDER) * C;
  for (int x = 0; x < size.width; ++x) {
    const float wx[4] = {across.weights[0][x], across.weights[1][x], across.weights[2][x], across.weights[3][x]};
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
void linearise_row(int width, const float* image, const float* warped, const float* dx, const float* dy,
                   const float* u, const float* v, float* __restrict residual, float* __restrict inverse) {
  for (int x = 0; x < width; ++x) {
    const tvl1::Data pixel = tvl1::linearise(image[x], warped[x], dx[x], dy[x], u[x], v[x]);
    residual[x] = pixel.residual;
    inverse[x] = pixel.inverse;
  }
}

// Bilinear resizing, `factor` times the values.
AVFUSION_CLONES
void resize_row(int width, const tvl1::Between* columns, const float* upper, const float* lower, float share,
                float factor, float* __restrict to) {
  for (int x = 0; x < width; ++x) {
    const tvl1::Between at = columns[x];
    const float above = tvl1::blend(upper[at.first], upper[at.second], at.share);
    const float below = tvl1::blend(lower[at.first], lower[at.second], at.share);
    to[x] = tvl1::blend(above, below, share) * factor;
  }
}

// Flow of one pair at a time; memory is kept from pair to pair.
class Solver {
 public:
  Solver(const Options& options, Size image) : options_(options), scales_(tvl1::pyramid(image, options, sizes_)), columns_(image.width), across_(image.width), down_(image.width) {
    const int64_t plane = plane_size(image);
    int64_t total = 18 * plane + bordered_size(image) + 8 * stride_of(image.width);
    for (int scale = 0; scale < scales_; ++scale) {
      total += 2 * plane_size(sizes_[scale]);
    }
    memory_ = at::empty({total + LANES}, at::kFloat);
  }

  // flow: (height, width, 2)
  void run(const uint8_t* first, const uint8_t* second, float* flow) {
    start();
    std::array<Plane, tvl1::MAX_SCALES> firsts, seconds;
    make_pyramid(first, firsts.data());
    make_pyramid(second, seconds.data());
    float* const bordered = take(bordered_size(sizes_[0]));
    float* const level = free_;
    Plane u{nullptr, 0}, v{nullptr, 0};  // of the level before
    for (int scale = scales_ - 1; scale >= 0; --scale) {
      free_ = level;
      lay_out(sizes_[scale], bordered);
      if (u.data == nullptr) {
        clear(now_.u);
        clear(now_.v);
      } else {
        enlarge(u, sizes_[scale + 1], now_.u);
        enlarge(v, sizes_[scale + 1], now_.v);
      }
      solve(firsts[scale], seconds[scale]);
      // The next level lays out its planes anew, but for these two.
      keep(&u, now_.u, 0);
      keep(&v, now_.v, 1);
    }
    for (int64_t y = 0; y < size_.height; ++y) {
      for (int64_t x = 0; x < size_.width; ++x) {
        flow[(y * size_.width + x) * 2] = u.row(y)[x];
        flow[(y * size_.width + x) * 2 + 1] = v.row(y)[x];
      }
    }
  }

 private:
  static int64_t plane_size(Size size) {
    return (size.height + 1) * stride_of(size.width);
  }

  static int64_t bordered_size(Size size) {
    const int64_t pixels = static_cast<int64_t>(size.height + 2 * tvl1::BORDER) * (size.width + 2 * tvl1::BORDER);
    return (pixels * tvl1::CHANNELS + LANES - 1) / LANES * LANES;
  }

  void start() {
    float* const begin = memory_.mutable_data_ptr<float>();
    free_ = begin;
    while (reinterpret_cast<uintptr_t>(free_) % (LANES * sizeof(float)) != 0) {
      ++free_;
    }
    kept_[0] = take(plane_size(sizes_[0]));
    kept_[1] = take(plane_size(sizes_[0]));
  }

  float* take(int64_t count) {
    float* const place = free_;
    free_ += count;
    return place;
  }

  Plane plane(Size size) {
    const int64_t stride = stride_of(size.width);
    return {take(plane_size(size)) + LANES, stride};
  }

  // Zeros, also beside the rows.
  void clear(Plane plane) const {
    std::fill_n(plane.data - LANES, plane_size(size_), 0.0f);
  }

  void lay_out(Size size, float* bordered) {
    size_ = size;
    bordered_ = bordered;
    for (State* state : {&now_, &next_}) {
      for (Plane* one : {&state->u, &state->v, &state->px, &state->py, &state->qx, &state->qy}) {
        *one = plane(size);
      }
    }
    for (Plane* one : {&data_.residual, &data_.dx, &data_.dy, &data_.inverse}) {
      *one = plane(size);
    }
    const int64_t row = stride_of(size.width);
    for (float*& one : rows_) {
      one = take(row) + LANES;
    }
    zeros_ = take(row) + LANES;
    std::fill_n(zeros_ - LANES, row, 0.0f);
    // The dual variables are zero at first, and left of the image for good; the other set is read left of it.
    for (const State* state : {&now_, &next_}) {
      for (const Plane& one : {state->px, state->py, state->qx, state->qy}) {
        clear(one);
      }
    }
  }

  void keep(Plane* to, Plane from, int place) {
    to->data = kept_[place] + LANES;
    to->stride = from.stride;
    std::copy_n(from.data - LANES, plane_size(size_), kept_[place]);
  }

  void make_pyramid(const uint8_t* image, Plane* levels) {
    for (int scale = 0; scale < scales_; ++scale) {
      levels[scale] = plane(sizes_[scale]);
      if (scale > 0) {
        const double step = 1 / options_.scale_step;
        resize(levels[scale - 1], sizes_[scale - 1], levels[scale], sizes_[scale], step, step, 1);
        continue;
      }
      for (int64_t y = 0; y < sizes_[0].height; ++y) {
        std::copy_n(image + y * sizes_[0].width, sizes_[0].width, levels[0].row(y));
      }
    }
  }

  void enlarge(Plane from, Size size, Plane to) {
    resize(from, size, to, size_, static_cast<double>(size.height) / size_.height,
           static_cast<double>(size.width) / size_.width, static_cast<float>(1 / options_.scale_step));
  }

  void resize(Plane from, Size small, Plane to, Size size, double down, double across, float factor) {
    for (int x = 0; x < size.width; ++x) {
      columns_[x] = tvl1::between(x, across, small.width);
    }
    for (int y = 0; y < size.height; ++y) {
      const tvl1::Between at = tvl1::between(y, down, small.height);
      resize_row(size.width, columns_.data(), from.row(at.first), from.row(at.second), at.share, factor, to.row(y));
    }
  }

  // Grey values and central differences of an image, one after the other, with zeros around it.
  void set_border(Plane image) {
    constexpr int C = tvl1::CHANNELS, B = tvl1::BORDER;
    const int64_t pitch = static_cast<int64_t>(size_.width + 2 * B) * C;
    std::fill_n(bordered_, bordered_size(size_), 0.0f);
    for (int64_t y = 0; y < size_.height; ++y) {
      const float* row = image.row(y);
      const float* above = image.row(std::max<int64_t>(y - 1, 0));
      const float* below = image.row(std::min<int64_t>(y + 1, size_.height - 1));
      float* to = bordered_ + (y + B) * pitch + B * C;
      for (int64_t x = 0; x < size_.width; ++x, to += C) {
        to[0] = row[x];
        to[1] = 0.5f * (row[std::min<int64_t>(x + 1, size_.width - 1)] - row[std::max<int64_t>(x - 1, 0)]);
        to[2] = 0.5f * (below[x] - above[x]);
      }
    }
  }

  void solve(Plane first, Plane second) {
    set_border(second);
    const double enough = options_.epsilon * options_.epsilon * static_cast<double>(size_.area());
    for (int warp = 0; warp < options_.warps; ++warp) {
      warp_second(first);
      double error = std::numeric_limits<double>::infinity();
      for (int outer = 0; outer < options_.outer && error > enough; ++outer) {
        if (options_.median) {
          median(now_.u, next_.u);
          median(now_.v, next_.v);
          std::swap(now_.u, next_.u);
          std::swap(now_.v, next_.v);
        }
        error = iterate(error, enough);
      }
    }
  }

  void find_row(int length, float start, float step, const float* offset, Taps* taps) const {
    find_taps(size_.width, length, start, step, offset, taps->first.data(), taps->weights[0].data(),
              taps->weights[1].data(), taps->weights[2].data(), taps->weights[3].data());
  }

  // The second image where the flow leads, and the data term there.
  void warp_second(Plane first) {
    for (int64_t y = 0; y < size_.height; ++y) {
      const float *u = now_.u.row(y), *v = now_.v.row(y);
      float *dx = data_.dx.row(y), *dy = data_.dy.row(y);
      find_row(size_.width, 0, 1, u, &across_);
      find_row(size_.height, static_cast<float>(y), 0, v, &down_);
      read_row(size_, bordered_, across_, down_, rows_[0], dx, dy);
      linearise_row(size_.width, first.row(y), rows_[0], dx, dy, u, v, data_.residual.row(y), data_.inverse.row(y));
    }
  }

  // Inner iterations until the flow changes little, or their number is reached; the last change.
  double iterate(double error, double enough) {
    int together = 2;
    for (int done = 0; done < options_.inner && error > enough;) {
      together = std::min(together, options_.inner - done);
      std::array<double, MAX_TOGETHER> errors;
      sweep(together, errors.data());
      const int stop = static_cast<int>(
          std::find_if(errors.begin(), errors.begin() + together, [&](double e) { return e <= enough; }) -
          errors.begin());
      if (stop + 1 < together) {  // too many: again from the old state
        together = stop + 1;
        sweep(together, errors.data());
      }
      std::swap(now_, next_);
      done += together;
      const double before = together > 1 ? errors[together - 2] : error;
      error = errors[together - 1];
      together = foresee(before, error, enough);
    }
    return error;
  }

  // How many more iterations will do if the error goes on to fall as it fell.
  static int foresee(double before, double error, double enough) {
    if (!(error > enough && error < before) || std::isinf(before)) {
      return error < before ? 2 : MAX_TOGETHER;
    }
    const double more = std::log(enough / error) / std::log(error / before);
    return static_cast<int>(std::clamp(std::floor(more), 1.0, static_cast<double>(MAX_TOGETHER)));
  }

  // `count` iterations from `now_` to `next_`, each a row behind the one before; the change in each.
  void sweep(int count, double* errors) {
    std::fill_n(errors, count, 0.0);
    const float limit = options_.lambda * options_.theta, rate = options_.tau / options_.theta;
    const int height = size_.height, width = size_.width;
    for (int front = 0; front < height + count; ++front) {
      for (int i = std::max(0, front - height); i < std::min(count, front + 1); ++i) {
        const int y = front - i;
        const State& from = i == 0 ? now_ : next_;
        if (y < height) {
          primal_row(width, data_, from, next_, y, limit, options_.theta, y > 0 ? from.py.row(y - 1) : zeros_,
                     y > 0 ? from.qy.row(y - 1) : zeros_, rows_[1]);
          std::fill_n(rows_[1] + width, LANES, 0.0f);
          errors[i] += sum_row(rows_[1], width);
          next_.u.row(y)[width] = next_.u.row(y)[width - 1];  // no difference beyond the last column
          next_.v.row(y)[width] = next_.v.row(y)[width - 1];
        }
        if (y > 0) {
          const int done = y - 1, below = std::min(y, height - 1);
          dual_row(width, rate, next_.u.row(done), next_.u.row(below), from.px.row(done), from.py.row(done),
                   next_.px.row(done), next_.py.row(done));
          dual_row(width, rate, next_.v.row(done), next_.v.row(below), from.qx.row(done), from.qy.row(done),
                   next_.qx.row(done), next_.qy.row(done));
        }
      }
    }
  }

  void median(Plane from, Plane to) {
    const int64_t last = size_.height - 1;
    const int width = size_.width;
    for (int64_t y = 0; y <= last; ++y) {
      const std::array<const float*, 5> column = {
          from.row(std::max<int64_t>(y - 2, 0)), from.row(std::max<int64_t>(y - 1, 0)), from.row(y),
          from.row(std::min(y + 1, last)), from.row(std::min(y + 2, last))};
      sort_columns(width, column, rows_[0], rows_[1], rows_[2], rows_[3], rows_[4]);
      for (int i = 0; i < 5; ++i) {
        rows_[i][-2] = rows_[i][-1] = rows_[i][0];
        rows_[i][width] = rows_[i][width + 1] = rows_[i][width - 1];
      }
      median_row(width, rows_[0], rows_[1], rows_[2], rows_[3], rows_[4], to.row(y));
    }
  }

  const Options options_;
  Size sizes_[tvl1::MAX_SCALES];
  const int scales_;
  at::Tensor memory_;
  float* free_ = nullptr;
  std::vector<tvl1::Between> columns_;
  Taps across_, down_;

  // Of the level at work:
  Size size_{};
  float* bordered_ = nullptr;
  float* kept_[2] = {};
  State now_{}, next_{};
  DataPlanes data_{};
  float* rows_[5] = {};  // work space
  float* zeros_ = nullptr;
};

at::Tensor tvl1_flow_cpu(const at::Tensor& first, const at::Tensor& second, double tau, double weight, double theta,
                         int64_t scales, int64_t warps, double epsilon, int64_t inner, int64_t outer,
                         double scale_step, int64_t median) {
  const Options options = tvl1::read_arguments(first, second, tau, weight, theta, scales, warps, epsilon, inner, outer,
                                      scale_step, median);
  const auto from = first.contiguous(), to = second.contiguous();
  const Size size{static_cast<int>(first.size(1)), static_cast<int>(first.size(2))};
  auto flow = at::empty({first.size(0), size.height, size.width, 2}, first.options().dtype(at::kFloat));
  const uint8_t *from_data = from.const_data_ptr<uint8_t>(), *to_data = to.const_data_ptr<uint8_t>();
  float* const flow_data = flow.mutable_data_ptr<float>();
  at::parallel_for(0, first.size(0), 1, [&](int64_t begin, int64_t end) {
    Solver solver(options, size);
    for (int64_t pair = begin; pair < end; ++pair) {
      solver.run(from_data + pair * size.area(), to_data + pair * size.area(), flow_data + 2 * pair * size.area());
    }
  });
  return flow;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("tvl1_flow", &tvl1_flow_cpu);
}

}  // namespace avfusion::ops
