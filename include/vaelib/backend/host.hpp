// The loops of the processor's backends, written once for float lanes (Cpu) and for double (Oracle).
//
// Work is cut into blocks whose boundaries depend on sizes alone, and sums over rows are partial sums of such blocks added
// in order: so the bits of a result do not depend on the number of threads.
//
// A loop body is compiled once for each width of vectors, so that loops which wait for memory rather than for arithmetic
// are plain code instead. It gets an access `at`: at.load(p) and at.store(p, v) move as many lanes as are left, so that the last elements
// of a row take the same path as all others.
#pragma once

#include <vaelib/core/buffer.hpp>
#include <vaelib/core/operand.hpp>
#include <vaelib/core/vectorize.hpp>

#include <algorithm>
#include <array>

namespace vaelib::inline VAELIB_ABI {

template <class T>
inline constexpr int lane_count = detail::LaneTraits<T>::width;

/// Lanes [index, index + count) of some rows of numbers; T is a vector of lanes or one double.
template <class T, class Real>
struct Access {
  long index;
  int count;

  using Lanes = T;
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

/// The vectors of every processor, or one double.
template <class Real>
using BaseAccess = Access<std::conditional_t<std::is_same_v<Real, float>, BaseLanes::type, Real>, Real>;

template <class Derived, class R>
class HostLoops {
 public:
  using Real = R;
  static constexpr long block_size = 8192;

  /// body(at) for every element of [0, count).
  template <class Body>
  void elements(long count, const Body& body) {
    self().parallel_lanes(blocks_of(count), [&](auto tag, long b) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const long end = std::min(count, (b + 1) * block_size);
      for (long i = b * block_size; i < end; i += lane_count<T>) body(access<T>(i, end));
    });
  }

  /// The same one number at a time and in this thread: for the few numbers of a loss, where code costs more than time.
  template <class Body>
  void few_elements(long count, Body body) {
    for (long i = 0; i < count; ++i) body(Access<Real, Real>{i, 1});
  }

  /// body(at, column, row) for every element of rows x columns; column accesses numbers that are the same in all rows.
  template <class Body>
  void lines(long rows, long columns, const Body& body) {
    const long block = rows_of_block(columns);
    self().parallel_lanes((rows + block - 1) / block, [&](auto tag, long b) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r)
        for (long j = 0; j < columns; j += lane_count<T>) body(access<T>(r * columns + j, (r + 1) * columns), access<T>(j, columns), r);
    });
  }

  /// out[r] = finish(sum over the columns of row r of body(at, r)).
  template <class Body, class Finish>
  void row_sums(long rows, long columns, Real* out, const Body& body, const Finish& finish) {
    const long block = rows_of_block(columns);
    self().parallel_lanes((rows + block - 1) / block, [&](auto tag, long b) VAELIB_LOOP {
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
  }

  /// out[k][j] (+)= scale * sum over the rows of term k of body(at, column, row), which returns K terms. The last row may be cut
  /// short: there are `count` elements in all.
  template <int K, class Body>
  void column_sums(long count, long columns, const std::array<Target<Real>, K>& out, const Body& body, Real scale = 1) {
    const long rows = columns > 0 ? (count + columns - 1) / columns : 0;
    const long block = rows_of_sum(rows, columns), blocks = std::max(1L, (rows + block - 1) / block);
    Real* sums = partial.at_least(blocks * K * columns);
    self().parallel_lanes(blocks, [&](auto tag, long b) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto column = access<T>(j, columns);
        std::array<T, K> sum;
        for (int k = 0; k < K; ++k) sum[k] = T(Real(0));
        for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
          const std::array<T, K> term = body(access<T>(r * columns + j, std::min(count, (r + 1) * columns)), column, r);
          for (int k = 0; k < K; ++k) sum[k] = sum[k] + term[k];
        }
        for (int k = 0; k < K; ++k) column.store(sums + (b * K + k) * columns, sum[k]);
      }
    });
    for (int k = 0; k < K; ++k) add_blocks(blocks, K * columns, columns, sums + k * columns, scale, out[k]);
  }

  /// out[j] (+)= scale * sum over the rows of x.
  void sum_rows(long rows, long columns, const Real* x, Real scale, Target<Real> out) {
    if (columns < 16 && rows > 16) {  // rows so short that lanes would stay empty: 16 are summed as one
      const long whole = rows / 16 * 16;
      Real* wide = folded.at_least(16 * columns);
      sum_rows(whole / 16, 16 * columns, x, Real(1), {wide});
      for (long i = whole * columns; i < rows * columns; ++i) wide[i - whole * columns] += x[i];
      return sum_rows(16, columns, wide, scale, out);
    }
    const long block = rows_of_sum(rows, columns), blocks = std::max(1L, (rows + block - 1) / block);
    Real* sums = partial.at_least(blocks * columns);
    self().parallel(blocks, [&](long b) {
      sum_block(std::min(rows, (b + 1) * block) - b * block, columns, x + b * block * columns, sums + b * columns);
    });
    add_blocks(blocks, columns, columns, sums, scale, out);
  }

  static long blocks_of(long count) { return (count + block_size - 1) / block_size; }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  /// out[j] = sum over the rows of x; four vectors at a time, as an addition takes longer than a load.
  static void sum_block(long rows, long columns, const Real* x, Real* out) {
    constexpr int width = BaseAccess<Real>::width;
    long j = 0;
    for (; j + 4 * width <= columns; j += 4 * width) {
      typename BaseAccess<Real>::Lanes sum[4];
      for (auto& s : sum) s = Real(0);
      for (long r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) sum[k] += BaseAccess<Real>{r * columns + j + k * width, width}.load(x);
      for (int k = 0; k < 4; ++k) BaseAccess<Real>{j + k * width, width}.store(out, sum[k]);
    }
    std::fill(out + j, out + columns, Real(0));
    for (long r = 0; r < rows; ++r)
      for (long i = j; i < columns; ++i) out[i] += x[r * columns + i];
  }

  /// target (+)= scale * (the sums of all blocks, one after another), which are `stride` apart.
  static void add_blocks(long blocks, long stride, long columns, Real* sums, Real scale, Target<Real> target) {
    if (!target) return;
    for (long b = 1; b < blocks; ++b)
      for (long j = 0; j < columns; ++j) sums[j] += sums[b * stride + j];
    for (long j = 0; j < columns; ++j) target.data[j] = target.add ? target.data[j] + scale * sums[j] : scale * sums[j];
  }

  template <class T>
  static VAELIB_INLINE Access<T, Real> access(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
  }
  static long rows_of_block(long columns) { return std::max(1L, block_size / std::max(1L, columns)); }
  static long rows_of_sum(long rows, long columns) { return std::max(rows_of_block(columns), (rows + 31) / 32); }

  Buffer<Real> partial, folded;  // grow to the largest need and stay
};

}  // namespace vaelib::inline VAELIB_ABI
