// TV-L1 flow of one pair of images by a team: threads that share memory and can wait for each other.
//
// On CUDA the team is a block or a cluster of blocks (tvl1_kernel.cu); all iterations run without the host,
// and the team decides when they end. Compiled for the host, a team of one thread runs the very same code,
// which is how it is tested where there is no GPU (tests/unit/test_tvl1.py).
//
// A team has
//   each(size, f)   calls f(x, y) for every pixel, each in one of its threads;
//   sync()          waits for all threads, whose writes are then seen by all;
//   post(value)     adds a thread's value to a sum,
//   total()         which all threads get alike, after the next sync() and before the one after it.
#pragma once

#include <initializer_list>

#include "../tvl1.h"

#ifdef __CUDACC__
#define AVFUSION_TEAM __device__ inline
#else
#define AVFUSION_TEAM inline
#endif

namespace avfusion::ops::tvl1 {

// Places in a pair's memory, in floats.
struct Layout {
  Size sizes[MAX_SCALES];
  int scales;
  int64_t first[MAX_SCALES], second[MAX_SCALES];  // images
  int64_t flow[2][2];                             // two sets of u, v
  int64_t dual[2][2];                             // of u, v; x, y
  int64_t residual, dx, dy, inverse;              // see Data
  int64_t bordered;                               // second image and its derivatives, with a border of zeros
  int64_t total;
};

inline Layout lay_out(Size image, const Options& options) {
  Layout layout{};
  layout.scales = pyramid(image, options, layout.sizes);
  int64_t next = 0;
  const auto take = [&next](int64_t count) {
    const int64_t place = next;
    next += (count + 31) / 32 * 32;  // a cache line of CUDA
    return place;
  };
  layout.bordered =
      take(static_cast<int64_t>(image.height + 2 * BORDER) * (image.width + 2 * BORDER) * CHANNELS);
  for (int scale = 0; scale < layout.scales; ++scale) {
    layout.first[scale] = take(layout.sizes[scale].area());
    layout.second[scale] = take(layout.sizes[scale].area());
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      layout.flow[i][j] = take(image.area());
      layout.dual[i][j] = take(image.area());
    }
  }
  for (int64_t* plane : {&layout.residual, &layout.dx, &layout.dy, &layout.inverse}) {
    *plane = take(image.area());
  }
  layout.total = next;
  return layout;
}

struct alignas(CHANNELS * sizeof(float)) Texel {
  float value, dx, dy, unused;
};

template <typename Team>
class PairSolver {
 public:
  AVFUSION_TEAM PairSolver(Team& team, const Options& options, const Layout& layout, float* memory)
      : team_(team), options_(options), layout_(layout), memory_(memory) {}

  // flow: (height, width, 2)
  AVFUSION_TEAM void run(const uint8_t* first, const uint8_t* second, float* flow) {
    make_pyramid(first, layout_.first);
    make_pyramid(second, layout_.second);
    for (int scale = layout_.scales - 1; scale >= 0; --scale) {
      size_ = layout_.sizes[scale];
      begin_level(scale);
      for (int warp = 0; warp < options_.warps; ++warp) {
        warp_second(memory_ + layout_.first[scale]);
        iterate();
      }
    }
    const float *u = flow_plane(0), *v = flow_plane(1);
    team_.each(size_, [&](int x, int y) {
      const int64_t i = static_cast<int64_t>(y) * size_.width + x;
      flow[2 * i] = u[i];
      flow[2 * i + 1] = v[i];
    });
    team_.sync();  // the memory may serve another pair
  }

 private:
  AVFUSION_TEAM float* flow_plane(int component) const {
    return memory_ + layout_.flow[set_][component];
  }

  AVFUSION_TEAM float* other_plane(int component) const {
    return memory_ + layout_.flow[1 - set_][component];
  }

  AVFUSION_TEAM void make_pyramid(const uint8_t* image, const int64_t* places) {
    const Size finest = layout_.sizes[0];
    float* const level = memory_ + places[0];
    team_.each(finest, [&](int x, int y) {
      const int64_t i = static_cast<int64_t>(y) * finest.width + x;
      level[i] = static_cast<float>(image[i]);
    });
    team_.sync();
    const double step = 1 / options_.scale_step;
    for (int scale = 1; scale < layout_.scales; ++scale) {
      resize(memory_ + places[scale - 1], layout_.sizes[scale - 1], memory_ + places[scale],
             layout_.sizes[scale], step, step, 1.0f);
      team_.sync();
    }
  }

  AVFUSION_TEAM void resize(const float* from, Size small, float* to, Size size, double down, double across,
                            float factor) {
    team_.each(size, [&](int x, int y) {
      const Between column = between(x, across, small.width), row = between(y, down, small.height);
      const float* upper = from + static_cast<int64_t>(row.first) * small.width;
      const float* lower = from + static_cast<int64_t>(row.second) * small.width;
      const float above = blend(upper[column.first], upper[column.second], column.share);
      const float below = blend(lower[column.first], lower[column.second], column.share);
      to[static_cast<int64_t>(y) * size.width + x] = blend(above, below, row.share) * factor;
    });
  }

  // Flow from the coarser level, dual variables of zero, the image to warp.
  AVFUSION_TEAM void begin_level(int scale) {
    const int width = size_.width, height = size_.height;
    if (scale + 1 < layout_.scales) {
      const Size coarse = layout_.sizes[scale + 1];
      const double down = static_cast<double>(coarse.height) / height;
      const double across = static_cast<double>(coarse.width) / width;
      for (int component = 0; component < 2; ++component) {
        resize(flow_plane(component), coarse, other_plane(component), size_, down, across,
               static_cast<float>(1 / options_.scale_step));
      }
      set_ = 1 - set_;
    } else {
      zero(flow_plane(0));
      zero(flow_plane(1));
    }
    for (int component = 0; component < 2; ++component) {
      zero(memory_ + layout_.dual[component][0]);
      zero(memory_ + layout_.dual[component][1]);
    }
    const float* image = memory_ + layout_.second[scale];
    Texel* bordered = reinterpret_cast<Texel*>(memory_ + layout_.bordered);
    const Size outer = {height + 2 * BORDER, width + 2 * BORDER};
    team_.each(outer, [&](int column, int row) {
      const int x = column - BORDER, y = row - BORDER;
      Texel texel = {0, 0, 0, 0};
      if (x >= 0 && x < width && y >= 0 && y < height) {
        const float* at = image + static_cast<int64_t>(y) * width;
        const float* above = y > 0 ? at - width : at;
        const float* below = y + 1 < height ? at + width : at;
        texel.value = at[x];
        texel.dx = 0.5f * (at[x + 1 < width ? x + 1 : x] - at[x > 0 ? x - 1 : x]);
        texel.dy = 0.5f * (below[x] - above[x]);
      }
      bordered[static_cast<int64_t>(row) * outer.width + column] = texel;
    });
    team_.sync();
  }

  AVFUSION_TEAM void zero(float* plane) {
    const int width = size_.width;
    team_.each(size_, [&](int x, int y) { plane[static_cast<int64_t>(y) * width + x] = 0; });
  }

  // The second image where the flow leads, and the data term there.
  AVFUSION_TEAM void warp_second(const float* first) {
    const Size size = size_;
    const int64_t pitch = size.width + 2 * BORDER;
    const Texel* bordered = reinterpret_cast<const Texel*>(memory_ + layout_.bordered);
    const float *u = flow_plane(0), *v = flow_plane(1);
    float *residual = memory_ + layout_.residual, *dx = memory_ + layout_.dx, *dy = memory_ + layout_.dy;
    float* inverse = memory_ + layout_.inverse;
    team_.each(size, [&](int x, int y) {
      const int64_t i = static_cast<int64_t>(y) * size.width + x;
      const Tap across = tap(static_cast<float>(x) + u[i], size.width);
      const Tap down = tap(static_cast<float>(y) + v[i], size.height);
      float wx[4], wy[4];
      cubic(across.share, wx);
      cubic(down.share, wy);
      const Texel* from = bordered + down.first * pitch + across.first;
      float value[3] = {0, 0, 0};
      for (int column = 0; column < 4; ++column) {  // in the order of the CPU's kernel, to round alike
        float sums[3] = {0, 0, 0};
        for (int row = 0; row < 4; ++row) {
          const Texel texel = from[row * pitch + column];
          sums[0] += wy[row] * texel.value;
          sums[1] += wy[row] * texel.dx;
          sums[2] += wy[row] * texel.dy;
        }
        for (int c = 0; c < 3; ++c) {
          value[c] += wx[column] * sums[c];
        }
      }
      const Data data = linearise(first[i], value[0], value[1], value[2], u[i], v[i]);
      residual[i] = data.residual;
      dx[i] = data.dx;
      dy[i] = data.dy;
      inverse[i] = data.inverse;
    });
    team_.sync();
  }

  AVFUSION_TEAM void iterate() {
    const double enough = options_.epsilon * options_.epsilon * static_cast<double>(size_.area());
    bool moving = true;
    for (int outer = 0; outer < options_.outer && moving; ++outer) {
      if (options_.median) {
        median(flow_plane(0), other_plane(0));
        median(flow_plane(1), other_plane(1));
        set_ = 1 - set_;
        team_.sync();
      }
      for (int inner = 0; inner < options_.inner && moving; ++inner) {
        team_.post(update_flow());
        team_.sync();
        moving = team_.total() > enough;
        update_dual();
        team_.sync();
      }
    }
  }

  // Square of the change at this thread's pixels.
  AVFUSION_TEAM float update_flow() {
    const int width = size_.width;
    const float *residual = memory_ + layout_.residual, *dx = memory_ + layout_.dx,
                *dy = memory_ + layout_.dy;
    const float* inverse = memory_ + layout_.inverse;
    const float *px = memory_ + layout_.dual[0][0], *py = memory_ + layout_.dual[0][1];
    const float *qx = memory_ + layout_.dual[1][0], *qy = memory_ + layout_.dual[1][1];
    float *u = flow_plane(0), *v = flow_plane(1);
    const float limit = options_.lambda * options_.theta, theta = options_.theta;
    float change = 0;
    team_.each(size_, [&](int x, int y) {
      const int64_t i = static_cast<int64_t>(y) * width + x;
      const float left_p = x > 0 ? px[i - 1] : 0.0f, left_q = x > 0 ? qx[i - 1] : 0.0f;
      const float above_p = y > 0 ? py[i - width] : 0.0f, above_q = y > 0 ? qy[i - width] : 0.0f;
      const float old_u = u[i], old_v = v[i];
      float new_u, new_v;
      primal({residual[i], dx[i], dy[i], inverse[i]}, limit, theta, (px[i] - left_p) + (py[i] - above_p),
             (qx[i] - left_q) + (qy[i] - above_q), old_u, old_v, &new_u, &new_v);
      u[i] = new_u;
      v[i] = new_v;
      change += (new_u - old_u) * (new_u - old_u) + (new_v - old_v) * (new_v - old_v);
    });
    return change;
  }

  AVFUSION_TEAM void update_dual() {
    const int width = size_.width, height = size_.height;
    const float *u = flow_plane(0), *v = flow_plane(1);
    float *px = memory_ + layout_.dual[0][0], *py = memory_ + layout_.dual[0][1];
    float *qx = memory_ + layout_.dual[1][0], *qy = memory_ + layout_.dual[1][1];
    const float rate = options_.tau / options_.theta;
    team_.each(size_, [&](int x, int y) {
      const int64_t i = static_cast<int64_t>(y) * width + x;
      const int64_t right = x + 1 < width ? i + 1 : i, below = y + 1 < height ? i + width : i;
      float new_px = px[i], new_py = py[i], new_qx = qx[i], new_qy = qy[i];
      dual(rate, u[right] - u[i], u[below] - u[i], &new_px, &new_py);
      dual(rate, v[right] - v[i], v[below] - v[i], &new_qx, &new_qy);
      px[i] = new_px;
      py[i] = new_py;
      qx[i] = new_qx;
      qy[i] = new_qy;
    });
  }

  AVFUSION_TEAM void median(const float* from, float* to) {
    const int width = size_.width, height = size_.height;
    team_.each(size_, [&](int x, int y) {
      float m[5][5];
      for (int row = 0; row < 5; ++row) {
        const int at = y + row - 2 < 0 ? 0 : (y + row - 2 >= height ? height - 1 : y + row - 2);
        for (int column = 0; column < 5; ++column) {
          const int place = x + column - 2 < 0 ? 0 : (x + column - 2 >= width ? width - 1 : x + column - 2);
          m[row][column] = from[static_cast<int64_t>(at) * width + place];
        }
      }
      for (int column = 0; column < 5; ++column) {
        sort5(m[0][column], m[1][column], m[2][column], m[3][column], m[4][column]);
      }
      to[static_cast<int64_t>(y) * width + x] = median_of_sorted_columns(m);
    });
  }

  Team& team_;
  const Options& options_;
  const Layout& layout_;
  float* const memory_;
  Size size_{};
  int set_ = 0;  // of the two of flow, that in use
};

}  // namespace avfusion::ops::tvl1
