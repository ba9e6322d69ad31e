// The largest of many numbers, some of which change or go.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "overlaps.h"

namespace avfusion::ops {

// Numbers, of which NaN do not take part, and above them the largest of every BLOCK, and of these again.
template <typename scalar_t>
class Tournament {
 public:
  // Takes `count` numbers, all NaN; after they are set, `refresh` says which.
  void resize(int64_t count) {
    depth_ = 0;
    do {
      const int64_t blocks = (count + BLOCK - 1) / BLOCK;
      if (static_cast<int64_t>(levels_.size()) == depth_) {
        levels_.emplace_back();
      }
      levels_[depth_++].assign(blocks * BLOCK, std::numeric_limits<scalar_t>::quiet_NaN());
      count = blocks;
    } while (count > 1);
  }

  scalar_t* data() {
    return levels_[0].data();
  }

  // Numbers [first, last) have changed.
  void refresh(int64_t first, int64_t last) {
    for (int64_t level = 1; level < depth_; ++level) {
      first /= BLOCK;
      last = (last + BLOCK - 1) / BLOCK;
      largest_of_blocks(levels_[level - 1].data(), first, last, levels_[level].data());
    }
  }

  // Calls use(place) for every number that is as large as the largest, if any is not NaN.
  template <typename Use>
  void for_each_best(const Use& use) const {
    scalar_t best;
    largest_of_blocks(levels_[depth_ - 1].data(), 0, 1, &best);
    visit(best, depth_ - 1, 0, use);
  }

 private:
  std::vector<std::vector<scalar_t>> levels_;
  int64_t depth_ = 0;

  template <typename Use>
  void visit(scalar_t best, int64_t level, int64_t block, const Use& use) const {
    for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK; ++i) {
      if (levels_[level][i] == best) {
        if (level == 0) {
          use(i);
        } else {
          visit(best, level - 1, i, use);
        }
      }
    }
  }
};

}  // namespace avfusion::ops
