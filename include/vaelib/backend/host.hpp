// The loops of the processor's backends, written once for float lanes (Cpu) and for double (Oracle).
//
// Work is cut into blocks whose boundaries depend on sizes alone, and sums over rows are partial sums of such blocks added
// in order: so the bits of a result do not depend on the number of threads.
//
// A loop body gets an access `at`: at.load(p) and at.store(p, v) move as many lanes as are left, so that the last elements
// of a row take the same path as all others.
#pragma once

#include <vaelib/core/operand.hpp>
#include <vaelib/core/vectorize.hpp>

#include <algorithm>
#include <array>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

template <class T>
inline constexpr int lane_count = detail::LaneTraits<T>::width;

/// Lanes [index, index + count) of some rows of numbers; T is a vector of lanes or one double.
template <class T, class Real>
struct Access {
  long index;
  int count;

  static constexpr int width = lane_count<T>;
  VAELIB_INLINE T load(const Real* p) const { return vaelib::load<T>(p + index, count); }
  VAELIB_INLINE void store(Real* p, const T& v) const { vaelib::store<T>(p + index, v, count); }
  /// Writes the first gradient, adds later ones.
  VAELIB_INLINE void store(Real* p, bool add, const T& v) const {
    if (add) {
      store(p, load(p) + v);
    } else {
      store(p, v);
    }
  }
  /// v with zeros in the lanes that are not there, for sums.
  VAELIB_INLINE T only(const T& v) const {
    if (count == width) return v;
    Real lanes[width];
    vaelib::store<T>(lanes, v);
    return vaelib::load<T>(lanes, count);
  }
};

template <class Derived, class R>
class HostLoops {
 public:
  using Real = R;

  /// body(at) for every element of [0, count).
  template <class Body>
  void elements(long count, Body body) {
    self().parallel(blocks_of(count), [&](long b) {
      self().with_lanes([&](auto tag) VAELIB_LOOP {
        using T = typename decltype(tag)::type;
        const long end = std::min(count, (b + 1) * block_size);
        for (long i = b * block_size; i < end; i += lane_count<T>) body(access<T>(i, end));
      });
    });
  }

  /// The same one number at a time and in this thread: for the few numbers of a loss, where code costs more than time.
  template <class Body>
  void few_elements(long count, Body body) {
    for (long i = 0; i < count; ++i) body(Access<Real, Real>{i, 1});
  }

  /// body(at, column, row) for every element of rows x columns; column accesses numbers that are the same in all rows.
  template <class Body>
  void lines(long rows, long columns, Body body) {
    const long block = rows_of_block(columns);
    self().parallel((rows + block - 1) / block, [&](long b) {
      self().with_lanes([&](auto tag) VAELIB_LOOP {
        using T = typename decltype(tag)::type;
        for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r)
          for (long j = 0; j < columns; j += lane_count<T>) body(access<T>(r * columns + j, (r + 1) * columns), access<T>(j, columns), r);
      });
    });
  }

  /// out[r] = finish(sum over the columns of row r of body(at, r)).
  template <class Body, class Finish>
  void row_sums(long rows, long columns, Real* out, Body body, Finish finish) {
    const long block = rows_of_block(columns);
    self().parallel((rows + block - 1) / block, [&](long b) {
      self().with_lanes([&](auto tag) VAELIB_LOOP {
        using T = typename decltype(tag)::type;
        for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
          T sum(Real(0));
          for (long j = 0; j < columns; j += lane_count<T>) {
            const auto at = access<T>(r * columns + j, (r + 1) * columns);
            sum = sum + at.only(body(at, r));
          }
          out[r] = finish(vaelib::sum(sum), r);
        }
      });
    });
  }

  /// out[k][j] (+)= scale * sum over the rows of term k of body(at, column, row), which returns K terms.
  template <int K, class Body>
  void column_sums(long rows, long columns, const std::array<Real*, K>& out, const std::array<bool, K>& add, Body body, Real scale = 1) {
    const long block = rows_of_sum(rows, columns), blocks = std::max(1L, (rows + block - 1) / block);
    if (partial.size() < std::size_t(blocks * K * columns)) partial.resize(blocks * K * columns);
    self().parallel(blocks, [&](long b) {
      self().with_lanes([&](auto tag) VAELIB_LOOP {
        using T = typename decltype(tag)::type;
        for (long j = 0; j < columns; j += lane_count<T>) {
          const auto column = access<T>(j, columns);
          std::array<T, K> sum;
          for (int k = 0; k < K; ++k) sum[k] = T(Real(0));
          for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
            const std::array<T, K> term = body(access<T>(r * columns + j, (r + 1) * columns), column, r);
            for (int k = 0; k < K; ++k) sum[k] = sum[k] + term[k];
          }
          for (int k = 0; k < K; ++k) column.store(partial.data() + (b * K + k) * columns, sum[k]);
        }
      });
    });
    for (int k = 0; k < K; ++k)
      if (out[k]) add_partial_sums(blocks, K * columns, columns, partial.data() + k * columns, scale, {out[k], add[k]});
  }

  /// out[b] = sum of body(at) over the b-th block of 8192 elements; `blocks_of(count)` numbers.
  template <class Body>
  void block_sums(long count, Real* out, Body body) {
    self().parallel(blocks_of(count), [&](long b) {
      self().with_lanes([&](auto tag) VAELIB_LOOP {
        using T = typename decltype(tag)::type;
        const long end = std::min(count, (b + 1) * block_size);
        T sum(Real(0));
        for (long i = b * block_size; i < end; i += lane_count<T>) {
          const auto at = access<T>(i, end);
          sum = sum + at.only(body(at));
        }
        out[b] = vaelib::sum(sum);
      });
    });
  }
  static long blocks_of(long count) { return (count + block_size - 1) / block_size; }

 private:
  static constexpr long block_size = 8192;

  Derived& self() { return static_cast<Derived&>(*this); }

  /// target (+)= scale * (the sums of all blocks, one after another); `stride` apart.
  void add_partial_sums(long blocks, long stride, long columns, const Real* sums, Real scale, Target<Real> target) {
    elements(columns, [=](auto at) VAELIB_LOOP {
      auto sum = at.load(sums);
      for (long b = 1; b < blocks; ++b) sum = sum + at.load(sums + b * stride);
      at.store(target.data, target.add, sum * scale);
    });
  }

  template <class T>
  static VAELIB_INLINE Access<T, Real> access(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
  }
  static long rows_of_block(long columns) { return std::max(1L, block_size / std::max(1L, columns)); }
  static long rows_of_sum(long rows, long columns) { return std::max(rows_of_block(columns), (rows + 31) / 32); }

  std::vector<Real> partial;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI
