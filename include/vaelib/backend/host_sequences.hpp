// What models of sequences of codes take: the cross-entropy of categories and causal attention, on plain pointers.
#pragma once

#include <vaelib/backend/host_images.hpp>

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// Rows of queries and of keys of each sequence: [begin, end). The last query sees all keys, the one before it all but one.
struct CausalRows {
  const long *query_begin, *query_end, *key_begin, *key_end;
  long queries(long g) const { return query_end[g] - query_begin[g]; }
  long keys(long g) const { return key_end[g] - key_begin[g]; }
  /// How many keys query i of its sequence sees.
  long visible(long g, long i) const { return keys(g) - queries(g) + i + 1; }
};

template <class Derived, class R>
class HostSequences : public HostImages<Derived, R> {
 public:
  using Real = R;

  // ---- categories: likelihoods/categorical.hpp

  /// out[r] = sum over the positions of row r of log_sum - logit[target], with log_sum = log sum_k exp(logit[k]).
  void categorical_nll(long rows, long positions, int categories, const Real* logits, const std::int32_t* targets, Real* log_sums, Real* out) {
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
  void categorical_nll_gradient(long rows, long positions, int categories, const Real* logits, const std::int32_t* targets, const Real* log_sums,
                                const Real* upstream, Target<Real> to) {
    this->lines(rows * positions, categories, [=](auto at, auto, long p) VAELIB_LOOP {
      using T = decltype(at.load(logits));
      at.store(to.data, to.add, T(upstream[p / positions]) * exp(at.load(logits) - T(log_sums[p])));
    });
    for (long p = 0; p < rows * positions; ++p) to.data[p * categories + targets[p]] -= upstream[p / positions];
  }

  // ---- causal attention of several heads: layers/causal_attention.hpp; rows of heads * width numbers. The softmax of
  // sequence g begins at places[g]: heads x queries x keys, of which those that are seen are written.

  void causal_attention(long groups, CausalRows rows, int heads, int width, const long* places, const Real* q, const Real* k, const Real* v,
                        Real* softmax, Real* y) {
    const Real scale = Real(1) / std::sqrt(Real(width));
    const long all = long(heads) * width;
    self().parallel_lanes(groups * heads, [=](auto tag, long task) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const long g = task / heads, h = task % heads;
      const Real *keys = k + rows.key_begin[g] * all + h * width, *values = v + rows.key_begin[g] * all + h * width;
      for (long i = 0; i < rows.queries(g); ++i) {
        const long row = (rows.query_begin[g] + i) * all + h * width, seen = rows.visible(g, i);
        Real* p = softmax + places[g] + (h * rows.queries(g) + i) * rows.keys(g);
        for (long j = 0; j < seen; ++j) p[j] = scale * dot<T>(width, q + row, keys + j * all);
        const Real largest = largest_of<T>(seen, p), share = Real(1) / sum_of_exponentials<T>(seen, p, largest);
        for (long j = 0; j < seen; j += lane_count<T>) {
          const auto at = access<T>(j, seen);
          at.store(p, exp(at.load(p) - T(largest)) * T(share));
        }
        for (long d = 0; d < width; d += lane_count<T>) {
          const auto at = access<T>(d, width);
          T sum(Real(0));
          for (long j = 0; j < seen; ++j) sum = sum + T(p[j]) * at.load(values + j * all);
          at.store(y + row, sum);
        }
      }
    });
  }

  void causal_attention_gradient(long groups, CausalRows rows, int heads, int width, const long* places, const Real* q, const Real* k,
                                 const Real* v, const Real* softmax, const Real* y, const Real* upstream, Target<Real> to_q,
                                 Target<Real> to_k, Target<Real> to_v) {
    const Real scale = Real(1) / std::sqrt(Real(width));
    const long all = long(heads) * width;
    const auto begin = [=](Target<Real> t, long first, long last) {
      for (long r = first; t && !t.add && r < last; ++r) std::fill_n(t.data + r * all, width, Real(0));
    };
    self().parallel_lanes(groups * heads, [=](auto tag, long task) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const long g = task / heads, h = task % heads, first_key = rows.key_begin[g] * all + h * width;
      const auto head = [=](Target<Real> t) { return Target<Real>{t ? t.data + h * width : nullptr, t.add}; };
      begin(head(to_q), rows.query_begin[g], rows.query_end[g]);
      begin(head(to_k), rows.key_begin[g], rows.key_end[g]);
      begin(head(to_v), rows.key_begin[g], rows.key_end[g]);
      for (long i = 0; i < rows.queries(g); ++i) {
        const long row = (rows.query_begin[g] + i) * all + h * width;
        const Real *p = softmax + places[g] + (h * rows.queries(g) + i) * rows.keys(g), *dy = upstream + row;
        const Real mean = dot<T>(width, dy, y + row);  // sum of p dp: the softmax's gradient is p (dp - mean)
        for (long j = 0; j < rows.visible(g, i); ++j) {
          const long key = first_key + j * all;
          const Real ds = scale * p[j] * (dot<T>(width, dy, v + key) - mean);
          if (to_q) add_scaled<T>(width, ds, k + key, to_q.data + row);
          if (to_k) add_scaled<T>(width, ds, q + row, to_k.data + key);
          if (to_v) add_scaled<T>(width, p[j], dy, to_v.data + key);
        }
      }
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  template <class T>
  static VAELIB_INLINE Access<T, Real> access(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
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
      sum = sum + at.only(exp(at.load(x) - T(largest)));
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
  /// to += scale * x
  template <class T>
  static VAELIB_INLINE void add_scaled(int n, Real scale, const Real* x, Real* to) {
    for (long i = 0; i < n; i += lane_count<T>) {
      const auto at = access<T>(i, n);
      at.store(to, at.load(to) + T(scale) * at.load(x));
    }
  }
};

}  // namespace vaelib::inline VAELIB_ABI
