// Stable orders of many rows, by group and by score, in linear time for what occurs.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <tuple>
#include <vector>

namespace avfusion::ops {

// Rows side by side that belong together: run k is rows[bounds[k]], ..., rows[bounds[k + 1] - 1], ascending
// and at least one. There are as many runs as bounds, less one.
struct Runs {
  at::Tensor rows;  // int64
  std::vector<int64_t> bounds{0};

  int64_t size() const {
    return static_cast<int64_t>(bounds.size()) - 1;
  }
};

// Into how many parts so many rows are cut, one for each thread that they are worth.
inline int64_t parts_of(int64_t count) {
  constexpr int64_t WORTHWHILE = 1 << 16;  // rows
  return std::clamp<int64_t>(count / WORTHWHILE, 1, at::get_num_threads());
}

// Calls use(first, last, part) for every part of the rows 0 to count - 1.
template <typename Use>
void for_each_part(int64_t count, const Use& use) {
  const int64_t parts = parts_of(count);
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      use(count * part / parts, count * (part + 1) / parts, part);
    }
  });
}

// Rows 0 to count - 1 by bucket_of(row), in [0, buckets) or negative for a row to leave out.
template <typename Bucket>
Runs partition(int64_t count, int64_t buckets, const Bucket& bucket_of) {
  const int64_t parts = parts_of(count);
  std::vector<int64_t> place(parts * buckets);  // first the number of rows, then where the next one goes
  for_each_part(count, [&](int64_t first, int64_t last, int64_t part) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t bucket = bucket_of(i);
      if (bucket >= 0) {
        ++place[part * buckets + bucket];
      }
    }
  });
  Runs runs;
  int64_t total = 0;
  for (int64_t bucket = 0; bucket < buckets; ++bucket) {
    for (int64_t part = 0; part < parts; ++part) {
      int64_t& mine = place[part * buckets + bucket];
      const int64_t number = mine;
      mine = total;
      total += number;
    }
    if (total > runs.bounds.back()) {
      runs.bounds.push_back(total);
    }
  }
  runs.rows = at::empty({total}, at::kLong);
  int64_t* rows = runs.rows.mutable_data_ptr<int64_t>();
  for_each_part(count, [&](int64_t first, int64_t last, int64_t part) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t bucket = bucket_of(i);
      if (bucket >= 0) {
        rows[place[part * buckets + bucket]++] = i;
      }
    }
  });
  return runs;
}

// Rows by group, groups ascending; rows for which `stays` is false are left out.
template <typename Stays>
Runs rows_by_group(const at::Tensor& groups, const Stays& stays) {
  const int64_t count = groups.size(0);
  if (count == 0) {
    return partition(0, 0, [](int64_t) { return -1; });
  }
  const auto column = groups.contiguous();
  const int64_t* name = column.const_data_ptr<int64_t>();
  const auto [least, most] = at::aminmax(column);
  const int64_t first = least.item<int64_t>();
  const uint64_t span = static_cast<uint64_t>(most.item<int64_t>()) - static_cast<uint64_t>(first);
  if (span < 2 * static_cast<uint64_t>(count) + 256) {
    return partition(count, static_cast<int64_t>(span) + 1,
                     [=](int64_t i) { return stays(i) ? name[i] - first : -1; });
  }
  // Few names that are far apart: their ranks are counted instead.
  const auto rank = std::get<1>(at::_unique(column, /*sorted=*/true, /*return_inverse=*/true));
  return rows_by_group(rank, stays);
}

// Calls use(run, scratch) for every run. A thread takes the next one as soon as it is free, as some runs are
// a hundred times as long as others; each has one `Scratch` for all of its runs.
template <typename Scratch, typename Use>
void for_each_run(const Runs& runs, const Use& use) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), runs.size());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    Scratch scratch;
    for (int64_t run = next++; run < runs.size(); run = next++) {
      use(run, scratch);
    }
  });
}

// A number whose order is the opposite of that of the scores, which must not be NaN.
inline uint64_t descending(double score) {
  constexpr uint64_t SIGN = uint64_t(1) << 63;
  const double unsigned_zero = score + 0.0;
  uint64_t bits;
  std::memcpy(&bits, &unsigned_zero, sizeof(bits));
  return bits & SIGN ? bits : ~(bits | SIGN);
}

// How far keys must be shifted for the largest difference of two to fall under `limit`, which is at least 2.
inline int shift_under(uint64_t difference, uint64_t limit) {
  int shift = 0;
  while ((difference >> shift) >= limit) {
    ++shift;
  }
  return shift;
}

struct Keyed {
  uint64_t key;
  int64_t row;

  bool operator<(const Keyed& other) const {
    return key < other.key || (key == other.key && row < other.row);
  }
};

// Sorts by key; rows must ascend, and those of equal keys still do afterwards.
class Sorter {
 public:
  void sort(std::vector<Keyed>& items) {
    if (items.size() > FEW && !spread(items)) {
      return;
    }
    for (size_t i = 1; i < items.size(); ++i) {
      const Keyed item = items[i];
      size_t to = i;
      for (; to > 0 && item.key < items[to - 1].key; --to) {
        items[to] = items[to - 1];
      }
      items[to] = item;
    }
  }

 private:
  static constexpr size_t FEW = 16;
  std::vector<Keyed> spare_;
  std::vector<size_t> end_;

  // Puts every item into one of many buckets, and sorts those that hold more than a few. Returns whether
  // anything is left to do.
  bool spread(std::vector<Keyed>& items) {
    uint64_t least = items[0].key, most = least;
    for (const Keyed& item : items) {
      least = std::min(least, item.key);
      most = std::max(most, item.key);
    }
    if (least == most) {
      return false;
    }
    const int shift = shift_under(most - least, 2 * items.size());
    end_.assign(((most - least) >> shift) + 2, 0);
    for (const Keyed& item : items) {
      ++end_[((item.key - least) >> shift) + 1];
    }
    for (size_t bucket = 1; bucket < end_.size(); ++bucket) {
      end_[bucket] += end_[bucket - 1];
    }
    spare_.resize(items.size());
    for (const Keyed& item : items) {
      spare_[end_[(item.key - least) >> shift]++] = item;
    }
    items.swap(spare_);
    for (size_t bucket = 0, begin = 0; bucket + 1 < end_.size(); begin = end_[bucket++]) {
      if (end_[bucket] - begin > FEW) {
        std::sort(items.begin() + begin, items.begin() + end_[bucket]);
      }
    }
    return true;
  }
};

// Rows 0 to count - 1 by descending score_of(row), of equal ones the lower first; rows for which `stays` is
// false are left out.
template <typename Score, typename Stays>
at::Tensor rows_by_score(int64_t count, const Score& score_of, const Stays& stays) {
  constexpr int64_t BUCKET = 64;  // rows that one bucket may hold if all are filled alike
  struct Found {
    uint64_t least = ~uint64_t(0), most = 0;
    int64_t number = 0;
  };
  std::vector<Found> found(parts_of(count));
  for_each_part(count, [&](int64_t first, int64_t last, int64_t part) {
    Found mine;
    for (int64_t i = first; i < last; ++i) {
      if (stays(i)) {
        const uint64_t key = descending(score_of(i));
        mine = {std::min(mine.least, key), std::max(mine.most, key), mine.number + 1};
      }
    }
    found[part] = mine;
  });
  Found all;
  for (const Found& part : found) {
    all = {std::min(all.least, part.least), std::max(all.most, part.most), all.number + part.number};
  }
  if (all.number == 0) {
    return at::empty({0}, at::kLong);
  }
  const uint64_t least = all.least;
  const int shift = shift_under(all.most - least, all.number / BUCKET + 2);
  const Runs runs = partition(count, static_cast<int64_t>((all.most - least) >> shift) + 1, [&](int64_t i) {
    return stays(i) ? static_cast<int64_t>((descending(score_of(i)) - least) >> shift) : -1;
  });
  int64_t* rows = runs.rows.mutable_data_ptr<int64_t>();
  struct Scratch {
    std::vector<Keyed> items;
    Sorter sorter;
  };
  for_each_run<Scratch>(runs, [&](int64_t run, Scratch& scratch) {
    scratch.items.clear();
    for (int64_t i = runs.bounds[run]; i < runs.bounds[run + 1]; ++i) {
      scratch.items.push_back({descending(score_of(rows[i])), rows[i]});
    }
    scratch.sorter.sort(scratch.items);
    for (size_t i = 0; i < scratch.items.size(); ++i) {
      rows[runs.bounds[run] + i] = scratch.items[i].row;
    }
  });
  return runs.rows;
}

}  // namespace avfusion::ops
