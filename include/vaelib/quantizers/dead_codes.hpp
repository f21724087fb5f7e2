// Codes that are used too little are put where vectors of the batch lie that are represented badly.
//
// A code is replaced by a vector of the batch; its count and sum are set with it, so that nothing of the old code comes back. Vectors are
// drawn without repetition, in proportion to their squared distance from their code (as k-means++ does; Arthur & Vassilvitskii
// 2007), by the keys log(u) / weight of Efraimidis & Spirakis 2006. No vector is taken that is a code already or equals another
// one that is taken; where vectors are fewer than dead codes, the least used codes come first, and the rest stays as it is.
#pragma once

#include <vaelib/quantizers/quantizer.hpp>

#include <algorithm>
#include <bit>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {

/// Which codes are dead, and when this is looked at. All counts are moving averages, in vectors a batch.
struct DeadCodes {
  float below_mean = 0.5f;       ///< those counted less than this share of the mean over all codes
  float below = 0;               ///< those counted less than this
  float lowest = 0;              ///< this share of all codes, whatever their counts
  std::int64_t every_steps = 1;  ///< 0: not by steps
  std::int64_t every_epochs = 0; ///< at the first step of each so many epochs; 0: not by epochs

  bool is_due(const Place& at) const {
    const bool by_step = every_steps > 0 && (at.step + 1) % every_steps == 0;
    const bool by_epoch = every_epochs > 0 && at.batch == 0 && at.epoch > 0 && at.epoch % every_epochs == 0;
    return by_step || by_epoch;
  }
};
inline constexpr DeadCodes never_replaced{0, 0, 0, 0, 0};

namespace detail {

/// The dead among the first `codes` codes, the least counted first: their number, and `dead` holds which.
template <class R>
int find_dead(const DeadCodes& rule, int codes, const R* counts, std::int32_t* dead) {
  double sum = 0;
  for (int k = 0; k < codes; ++k) sum += double(counts[k]);
  const double least = std::max(double(rule.below), double(rule.below_mean) * sum / codes);
  const auto lowest = static_cast<int>(double(rule.lowest) * codes);
  for (int k = 0; k < codes; ++k) dead[k] = k;
  const auto fewer = [&](int a, int b) { return counts[a] < counts[b] || (counts[a] == counts[b] && a < b); };
  const int below = int(std::partition(dead, dead + codes, [&](int k) { return double(counts[k]) < least; }) - dead);
  if (lowest > below) std::nth_element(dead, dead + lowest, dead + codes, fewer);
  const int count = std::max(below, lowest);
  std::sort(dead, dead + count, fewer);
  return count;
}

/// Rows of x, at most `wanted`, drawn as the head of this file says: their number, and `chosen` holds which.
template <class S, class R>
int draw_vectors(S& step, long first_row, long rows, int width, const R* x, const R* errors, int wanted, std::int32_t* chosen) {
  struct Candidate {
    double key;
    std::int32_t row;
  };
  auto* all = step.arena.template allocate<Candidate>(rows);
  const auto draws = step.scratch(rows);
  step.backend.uniform(step.next_key(), first_row, rows, 1, draws.data);
  long count = 0;
  for (long r = 0; r < rows; ++r)
    if (double(errors[r]) > 0 && std::isfinite(double(errors[r]))) all[count++] = {-std::log(double(draws.data[r])) / double(errors[r]), std::int32_t(r)};
  using Bits = std::conditional_t<sizeof(R) == 4, std::uint32_t, std::uint64_t>;
  const auto sooner = [](const Candidate& a, const Candidate& b) { return a.key < b.key || (a.key == b.key && a.row < b.row); };
  std::sort(all, all + count, sooner);
  const auto same = [&](std::int32_t a, std::int32_t b) { return std::equal(x + long(a) * width, x + long(a + 1) * width, x + long(b) * width); };
  int taken = 0;
  // Twins have the same hash: what was taken is kept in a table of places, tried one after another.
  const long room = 4L * std::min<long>(wanted, count) + 1;
  auto* table = step.arena.template allocate<std::int32_t>(room);
  std::fill_n(table, room, -1);
  for (long c = 0; c < count && taken < wanted; ++c) {
    const std::int32_t row = all[c].row;
    std::uint64_t hash = 1469598103934665603u;  // FNV-1a by numbers
    for (int j = 0; j < width; ++j) hash = (hash ^ std::bit_cast<Bits>(x[long(row) * width + j] + R(0))) * 1099511628211u;  // -0 + 0 is 0
    long place = long(hash % std::uint64_t(room));
    while (table[place] >= 0 && !same(table[place], row)) place = (place + 1) % room;
    if (table[place] >= 0) continue;
    table[place] = row;
    chosen[taken++] = row;
  }
  return taken;
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
