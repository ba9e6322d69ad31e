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
#include "tvl1_rows.h"

namespace avfusion::ops {
namespace {

using tvl1::DataPlanes;
using tvl1::LANES;
using tvl1::Options;
using tvl1::Plane;
using tvl1::Size;
using tvl1::State;
using tvl1::Taps;

constexpr int MAX_TOGETHER = 6;  // iterations per sweep

// Flow of one pair at a time; memory is kept from pair to pair.
class Solver {
 public:
  Solver(const Options& options, Size image)
      : options_(options),
        scales_(tvl1::pyramid(image, options, sizes_)),
        columns_(image.width),
        across_(image.width),
        down_(image.width) {
    const int64_t plane = plane_size(image);
    int64_t total = 18 * plane + bordered_size(image) + 8 * tvl1::stride_of(image.width);
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
    return (size.height + 1) * tvl1::stride_of(size.width);
  }

  static int64_t bordered_size(Size size) {
    const int64_t pixels =
        static_cast<int64_t>(size.height + 2 * tvl1::BORDER) * (size.width + 2 * tvl1::BORDER);
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
    const int64_t stride = tvl1::stride_of(size.width);
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
    const int64_t row = tvl1::stride_of(size.width);
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
      tvl1::resize_row(size.width, columns_.data(), from.row(at.first), from.row(at.second), at.share, factor,
                       to.row(y));
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
    tvl1::find_taps(size_.width, length, start, step, offset, taps->first.data(), taps->weights[0].data(),
                    taps->weights[1].data(), taps->weights[2].data(), taps->weights[3].data());
  }

  // The second image where the flow leads, and the data term there.
  void warp_second(Plane first) {
    for (int64_t y = 0; y < size_.height; ++y) {
      const float *u = now_.u.row(y), *v = now_.v.row(y);
      float *dx = data_.dx.row(y), *dy = data_.dy.row(y);
      find_row(size_.width, 0, 1, u, &across_);
      find_row(size_.height, static_cast<float>(y), 0, v, &down_);
      tvl1::read_row(size_, bordered_, across_, down_, rows_[0], dx, dy);
      tvl1::linearise_row(size_.width, first.row(y), rows_[0], dx, dy, u, v, data_.residual.row(y),
                          data_.inverse.row(y));
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
          tvl1::primal_row(width, data_, from, next_, y, limit, options_.theta,
                           y > 0 ? from.py.row(y - 1) : zeros_, y > 0 ? from.qy.row(y - 1) : zeros_,
                           rows_[1]);
          std::fill_n(rows_[1] + width, LANES, 0.0f);
          errors[i] += tvl1::sum_row(rows_[1], width);
          next_.u.row(y)[width] = next_.u.row(y)[width - 1];  // no difference beyond the last column
          next_.v.row(y)[width] = next_.v.row(y)[width - 1];
        }
        if (y > 0) {
          const int done = y - 1, below = std::min(y, height - 1);
          tvl1::dual_row(width, rate, next_.u.row(done), next_.u.row(below), from.px.row(done),
                         from.py.row(done), next_.px.row(done), next_.py.row(done));
          tvl1::dual_row(width, rate, next_.v.row(done), next_.v.row(below), from.qx.row(done),
                         from.qy.row(done), next_.qx.row(done), next_.qy.row(done));
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
      tvl1::sort_columns(width, column, rows_[0], rows_[1], rows_[2], rows_[3], rows_[4]);
      for (int i = 0; i < 5; ++i) {
        rows_[i][-2] = rows_[i][-1] = rows_[i][0];
        rows_[i][width] = rows_[i][width + 1] = rows_[i][width - 1];
      }
      tvl1::median_row(width, rows_[0], rows_[1], rows_[2], rows_[3], rows_[4], to.row(y));
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

at::Tensor tvl1_flow_cpu(const at::Tensor& first, const at::Tensor& second, double tau, double weight,
                         double theta, int64_t scales, int64_t warps, double epsilon, int64_t inner,
                         int64_t outer, double scale_step, int64_t median) {
  const Options options = tvl1::read_arguments(first, second, tau, weight, theta, scales, warps, epsilon,
                                               inner, outer, scale_step, median);
  const auto from = first.contiguous(), to = second.contiguous();
  const Size size{static_cast<int>(first.size(1)), static_cast<int>(first.size(2))};
  auto flow = at::empty({first.size(0), size.height, size.width, 2}, first.options().dtype(at::kFloat));
  const uint8_t *from_data = from.const_data_ptr<uint8_t>(), *to_data = to.const_data_ptr<uint8_t>();
  float* const flow_data = flow.mutable_data_ptr<float>();
  at::parallel_for(0, first.size(0), 1, [&](int64_t begin, int64_t end) {
    Solver solver(options, size);
    for (int64_t pair = begin; pair < end; ++pair) {
      solver.run(from_data + pair * size.area(), to_data + pair * size.area(),
                 flow_data + 2 * pair * size.area());
    }
  });
  return flow;
}

}  // namespace

TORCH_LIBRARY_IMPL(avfusion, CPU, m) {
  m.impl("tvl1_flow", &tvl1_flow_cpu);
}

}  // namespace avfusion::ops
