// What models of sequences of codes take: the cross-entropy of categories and causal attention, on plain pointers.
#pragma once

#include <vaelib/backend/host_images.hpp>

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// Rows of queries and of keys of each sequence: [begin, end). The last query sees all keys, the one before all but one.
struct CausalRows {
  const long *query_begin, *query_end, *key_begin, *key_end;
  long queries(long g) const { return query_end[g] - query_begin[g]; }
  long keys(long g) const { return key_end[g] - key_begin[g]; }
  /// How many keys query i of its sequence sees.
  long visible(long g, long i) const { return keys(g) - queries(g) + i + 1; }
  /// Weights of one query, with room for whole vectors.
  long line(long g) const { return (keys(g) + 15) / 16 * 16; }
};

template <class Derived, class R>
class HostSequences : public HostImages<Derived, R> {
 public:
  using Real = R;

  // ---- categories: likelihoods/categorical.hpp

  /// out[r] = sum over the positions of row r of log_sum - logit[target], with log_sum = log sum_k exp(logit[k]).
  void categorical_nll(long rows, long positions, int categories, const Real* logits, const std::int32_t* targets,
                       Real* log_sums, Real* out) {
    const long block = std::max(1L, this->block_size / std::max(1L, positions * categories));
    self().parallel_lanes((rows + block - 1) / block, [=](auto tag, long b) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
        double total = 0;
        for (long p = r * positions; p < (r + 1) * positions; ++p) {
          const Real* x = logits + p * categories;
          const Real largest = largest_of<T>(categories, x);
          log_sums[p] = largest + std::log(sum_of_exponentials<T>(categories, x, largest));
          total += double(log_sums[p] - x[targets[p]]);
        }
        out[r] = Real(total);
      }
    });
  }
  /// The gradient of each logit is its probability, less one for the target.
  void categorical_nll_gradient(long rows, long positions, int categories, const Real* logits,
                                const std::int32_t* targets, const Real* log_sums, const Real* upstream,
                                Target<Real> to) {
    this->lines(rows * positions, categories, [=](auto at, auto, long p) VAELIB_LOOP {
      using T = decltype(at.load(logits));
      at.store(to.data, to.add, splat<T>(upstream[p / positions]) * exp(at.load(logits) - splat<T>(log_sums[p])));
    });
    for (long p = 0; p < rows * positions; ++p) to.data[p * categories + targets[p]] -= upstream[p / positions];
  }

  // ---- causal attention of several heads: layers/causal_attention.hpp; rows of heads * width numbers. The softmax of
  // sequence g begins at places[g]: heads x queries x line(g). Scratch: for each sequence and head `room` numbers,
  // which are width lines, and for the gradient a line for each query too.

  void causal_attention(long groups, CausalRows rows, int heads, int width, const long* places, const Real* q,
                        const Real* k, const Real* v, Real* softmax, Real* y, Real* scratch, long room) {
    const Real scale = Real(1) / std::sqrt(Real(width));
    const long all = long(heads) * width;
    self().parallel_lanes(groups * heads, [=](auto tag, long task) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const long g = task / heads, h = task % heads, line = rows.line(g),
                 first_key = rows.key_begin[g] * all + h * width;
      Real* const keys = scratch + task * room;
      transpose(rows.keys(g), width, k + first_key, all, keys, line);
      for (long i = 0; i < rows.queries(g); ++i) {
        const long row = (rows.query_begin[g] + i) * all + h * width, seen = rows.visible(g, i);
        Real* p = softmax + places[g] + (h * rows.queries(g) + i) * line;
        combine<T>(width, whole<T>(seen), q + row, 1, keys, line, p, false);
        const T largest = splat<T>(largest_of<T>(seen, p));
        T sum(Real(0));
        for (long j = 0; j < seen; j += lane_count<T>) {
          const auto at = access<T>(j, seen);
          const T e = exp((at.load(p) - largest) * splat<T>(scale));
          sum = sum + at.only(e);
          at.store(p, e);
        }
        const T share = splat<T>(Real(1) / vaelib::sum(sum));
        for (long j = 0; j < seen; j += lane_count<T>) {
          const auto at = access<T>(j, seen);
          at.store(p, at.load(p) * share);
        }
        combine<T>(seen, width, p, 1, v + first_key, all, y + row, false);
      }
    });
  }

  void causal_attention_gradient(long groups, CausalRows rows, int heads, int width, const long* places, const Real* q,
                                 const Real* k, const Real* v, const Real* softmax, const Real* y, const Real* upstream,
                                 Target<Real> to_q, Target<Real> to_k, Target<Real> to_v, Real* scratch, long room) {
    const Real scale = Real(1) / std::sqrt(Real(width));
    const long all = long(heads) * width;
    self().parallel_lanes(groups * heads, [=](auto tag, long task) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const long g = task / heads, h = task % heads, queries = rows.queries(g), line = rows.line(g);
      const long first_query = rows.query_begin[g] * all + h * width, first_key = rows.key_begin[g] * all + h * width;
      Real *const values = scratch + task * room, *const slopes = values + width * line;
      const Real* const weights = softmax + places[g] + h * queries * line;
      transpose(rows.keys(g), width, v + first_key, all, values, line);
      for (long i = 0; i < queries; ++i) {
        const long row = first_query + i * all, seen = rows.visible(g, i);
        const Real* p = weights + i * line;
        Real* ds = slopes + i * line;
        combine<T>(width, whole<T>(seen), upstream + row, 1, values, line, ds, false);
        // the softmax's gradient is p (dp - mean), where the mean is the sum of p dp = dy . y
        const T mean = splat<T>(dot<T>(width, upstream + row, y + row));
        for (long j = 0; j < seen; j += lane_count<T>) {
          const auto at = access<T>(j, seen);
          at.store(ds, splat<T>(scale) * at.load(p) * (at.load(ds) - mean));
        }
        if (to_q) combine<T>(seen, width, ds, 1, k + first_key, all, to_q.data + row, to_q.add);
      }
      for (long j = 0; j < rows.keys(g); ++j) {
        const long key = first_key + j * all, first = std::max(0L, j - (rows.keys(g) - queries)),
                   place = first * line + j;
        if (to_k)
          combine<T>(queries - first, width, slopes + place, line, q + first_query + first * all, all, to_k.data + key,
                     to_k.add);
        if (to_v)
          combine<T>(queries - first, width, weights + place, line, upstream + first_query + first * all, all,
                     to_v.data + key, to_v.add);
      }
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  template <class T>
  static VAELIB_INLINE Access<T, Real> access(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
  }
  /// The same number in all lanes. GCC 12 makes 16 masked instructions of the constructor of Lanes where the number is
  /// not known before, and one of this.
  template <class T>
  static VAELIB_INLINE T splat(Real number) {
    Real lanes[lane_count<T>];
    for (Real& lane : lanes) lane = number;
    return vaelib::load<T>(lanes);
  }
  /// NaN where one is.
  template <class T>
  static VAELIB_INLINE Real largest_of(long count, const Real* x) {
    Real lanes[lane_count<T>], largest = -INFINITY;
    long i = 0;
    if (count >= lane_count<T>) {
      T vector(-INFINITY);
      for (; i + lane_count<T> <= count; i += lane_count<T>) vector = max(vector, vaelib::load<T>(x + i));
      vaelib::store<T>(lanes, vector);
      for (const Real lane : lanes) largest = max(largest, lane);
    }
    for (; i < count; ++i) largest = max(largest, x[i]);
    return largest;
  }
  template <class T>
  static VAELIB_INLINE Real sum_of_exponentials(long count, const Real* x, Real largest) {
    T sum(Real(0));
    for (long i = 0; i < count; i += lane_count<T>) {
      const auto at = access<T>(i, count);
      sum = sum + at.only(exp(at.load(x) - splat<T>(largest)));
    }
    return vaelib::sum(sum);
  }
  template <class T>
  static VAELIB_INLINE Real dot(int n, const Real* a, const Real* b) {
    T sum(Real(0));
    for (long i = 0; i < n; i += lane_count<T>) {
      const auto at = access<T>(i, n);
      sum = sum + at.load(a) * at.load(b);
    }
    return vaelib::sum(sum);
  }
  template <class T>
  static constexpr long whole(long count) {
    return (count + lane_count<T> - 1) / lane_count<T> * lane_count<T>;
  }
  static void transpose(long rows, long columns, const Real* from, long row, Real* to, long line) {
    for (long j = 0; j < columns; ++j) {
      for (long r = 0; r < rows; ++r) to[j * line + r] = from[r * row + j];
      std::fill(to + j * line + rows, to + (j + 1) * line, Real(0));
    }
  }
  /// out[j] (+)= sum over `count` rows of weight * row[j], for j < size, in the order of the rows.
  template <class T>
  static VAELIB_INLINE void combine(long count, long size, const Real* weights, long weight_step, const Real* rows,
                                    long row, Real* out, bool add) {
    constexpr long lanes = lane_count<T>;
    long j = 0;
    for (; j + 4 * lanes <= size; j += 4 * lanes) {  // side by side, as an addition takes longer than a load
      const Access<T, Real> at[4]{{j, lanes}, {j + lanes, lanes}, {j + 2 * lanes, lanes}, {j + 3 * lanes, lanes}};
      T a(Real(0)), b(Real(0)), c(Real(0)), d(Real(0));
      for (long r = 0; r < count; ++r) {
        const T weight = splat<T>(weights[r * weight_step]);
        const Real* x = rows + r * row;
        a = a + weight * at[0].load(x);
        b = b + weight * at[1].load(x);
        c = c + weight * at[2].load(x);
        d = d + weight * at[3].load(x);
      }
      at[0].store(out, add, a);
      at[1].store(out, add, b);
      at[2].store(out, add, c);
      at[3].store(out, add, d);
    }
    for (; j < size; j += lanes) {
      const auto at = access<T>(j, size);
      T sum(Real(0));
      for (long r = 0; r < count; ++r) sum = sum + splat<T>(weights[r * weight_step]) * at.load(rows + r * row);
      at.store(out, add, sum);
    }
  }
};

}  // namespace vaelib::inline VAELIB_ABI
