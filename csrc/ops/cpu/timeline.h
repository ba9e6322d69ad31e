// The segments of a group along time: those that a segment may overlap stand side by side.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "rows.h"

namespace avfusion::ops {

// Segments by bins of their starts. Finding what a segment may overlap is exact where it must be: every
// function used here is monotone in floating point, and lengths are taken longer than they can round.
template <typename scalar_t>
class Timeline {
 public:
  std::vector<scalar_t> start, stop;  // in the order of the bins
  std::vector<int64_t> place;         // of every segment in that order
  std::vector<int64_t> row;           // and the segment that stands at a place

  // Takes segments rows[0], ..., rows[count - 1] of a table of [start, stop].
  void fill(const scalar_t* segments, const int64_t* rows, int64_t count) {
    read(segments, rows, count);
    begin_.assign(bins_ + 1, 0);
    bin_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      bin_[i] = bin(start_[i]);
      ++begin_[bin_[i] + 1];
    }
    for (int64_t b = 0; b < bins_; ++b) {
      begin_[b + 1] += begin_[b];
    }
    next_.assign(begin_.begin(), begin_.end() - 1);
    start.resize(count);
    stop.resize(count);
    place.resize(count);
    row.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = next_[bin_[i]]++;
      place[i] = to;
      row[to] = i;
      start[to] = start_[i];
      stop[to] = stop_[i];
    }
  }

  // Places [first, last) outside of which no segment shares time with this one and has a tIoU of `least` or
  // more. All of them if `least` is negative, as it then asks nothing of them.
  std::pair<int64_t, int64_t> neighbours(scalar_t from, scalar_t to, double least) const {
    if (bins_ == 1 || !(least >= 0)) {
      return {0, static_cast<int64_t>(start.size())};
    }
    // One that begins by d earlier shares at most its length - d, and the union is not shorter than it is,
    // nor longer than this one's length / least: d is at most (1 - least) / least of this one's length. One
    // that begins later does so by at most (1 - least) of it.
    const double length = static_cast<double>(to) - static_cast<double>(from);
    const double sure = std::min(least, 1.0) - MARGIN;
    const double before = sure > 0 ? std::min(longest_, length * (1 - sure) / sure) : longest_;
    const double after = sure > 0 ? length * (1 - sure) : length;
    return {begin_[bin(static_cast<scalar_t>(from - before * (1 + MARGIN)))],
            begin_[bin(static_cast<scalar_t>(from + after * (1 + MARGIN))) + 1]};
  }

 private:
  static constexpr double MARGIN = 4e-6;  // many roundings of float32
  static constexpr int64_t PER_BIN = 4, FEW = 32, AHEAD = 16;
  std::vector<scalar_t> start_, stop_;  // in the order of the rows
  std::vector<int64_t> bin_, begin_, next_;
  int64_t bins_ = 1;
  double longest_ = 0;
  scalar_t origin_ = 0, scale_ = 0;

  void read(const scalar_t* segments, const int64_t* rows, int64_t count) {
    start_.resize(count);
    stop_.resize(count);
    scalar_t least = std::numeric_limits<scalar_t>::infinity(), most = -least;
    bool sound = true;  // nothing is infinite, nor ends before it begins
    longest_ = 0;
    for (int64_t i = 0; i < count; ++i) {
      AVFUSION_PREFETCH(segments + 2 * rows[std::min(i + AHEAD, count - 1)]);
      const scalar_t from = segments[2 * rows[i]], to = segments[2 * rows[i] + 1];
      start_[i] = from;
      stop_[i] = to;
      least = from < least ? from : least;
      most = from > most ? from : most;
      const double length = static_cast<double>(to) - static_cast<double>(from);
      sound &= length >= 0 && length <= std::numeric_limits<scalar_t>::max();
      longest_ = length > longest_ ? length : longest_;
    }
    const int64_t bins = count / PER_BIN;
    const scalar_t scale = static_cast<scalar_t>(bins - 1) / (most - least);
    const bool many = sound && count > FEW && scale > 0 && std::isfinite(scale * (most - least));
    bins_ = many ? bins : 1;
    origin_ = least;
    scale_ = scale;
  }

  int64_t bin(scalar_t at) const {
    const scalar_t where = (at - origin_) * scale_;
    return where > 0 ? (where < static_cast<scalar_t>(bins_ - 1) ? static_cast<int64_t>(where) : bins_ - 1)
                     : 0;
  }
};

}  // namespace avfusion::ops
