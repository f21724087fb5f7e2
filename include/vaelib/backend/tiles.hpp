// Small products of blocks that lie in the first-level cache, for kernels that go on with the result before it leaves
// the registers: attention, distances of points.
//
//   tiles<T>(rows, columns, depth, a, b, use)      use(i, j, sum over p of A(i, p) B(p, j .. j + lanes))
//
// A has any strides; B is row-major and has whole vectors. A sum is one chain over p, the same at all widths of
// vectors.
#pragma once

#include <vaelib/core/math.hpp>
#include <vaelib/core/vectorize.hpp>

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// T as the compiler's own vector: arrays of these stay in registers.
template <class T>
struct Registers {
  using type = T;
  using AnyAddress = T;
  static VAELIB_INLINE T lanes(T x) { return x; }
};
#if VAELIB_HAS_LANES
template <int Width>
struct Registers<Lanes<Width>> {
  using type = typename Raw<Width>::Float;
  using AnyAddress = typename Raw<Width>::AnyAddress;
  static VAELIB_INLINE Lanes<Width> lanes(const type& x) { return Lanes<Width>::from(x); }
};
#endif

/// The left operand of a product: element (i, p) is data[i * row + p * step].
template <class Real>
struct Left {
  const Real* data;
  long row, step;
};
/// The right one: row p begins at data + p * row.
template <class Real>
struct Right {
  const Real* data;
  long row;
};

/// Sums of Rows x Vectors; rows behind the last one repeat it.
template <class T, int Rows, int Vectors, class Real>
VAELIB_INLINE void tile(long rows, long depth, const Left<Real>& a, const Right<Real>& b,
                        typename Registers<T>::type (&sum)[Rows][Vectors]) {
  using Vector = typename Registers<T>::type;
  constexpr int lanes = LaneTraits<T>::width;
  const Real* at[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) at[i] = a.data + std::min<long>(i, rows - 1) * a.row;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = Vector{};
  const Real* from = b.data;
  for (long p = 0; p < depth; ++p, from += b.row) {
    Vector values[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      values[j] = *reinterpret_cast<const typename Registers<T>::AnyAddress*>(from + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Vector factor = at[i][p * a.step] - Vector{};
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] += factor * values[j];
    }
  }
}

template <class T, int Rows, int Vectors, class Real, class Use>
VAELIB_INLINE void strip(long rows, long depth, const Left<Real>& a, const Right<Real>& b, long j, const Use& use) {
  constexpr int lanes = LaneTraits<T>::width;
  for (long i = 0; i < rows; i += Rows) {
    typename Registers<T>::type sum[Rows][Vectors];
    tile<T, Rows, Vectors>(rows - i, depth, Left<Real>{a.data + i * a.row, a.row, a.step},
                           Right<Real>{b.data + j, b.row}, sum);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
      if (i + r < rows)
#pragma GCC unroll 4
        for (int n = 0; n < Vectors; ++n) use(i + r, j + n * lanes, Registers<T>::lanes(sum[r][n]));
  }
}

/// See the head of this file.
template <class T, class Real, class Use>
VAELIB_INLINE void tiles(long rows, long columns, long depth, const Left<Real>& a, const Right<Real>& b,
                         const Use& use) {
  constexpr long lanes = LaneTraits<T>::width;
  long j = 0;
  if constexpr (lanes >= 16)
    for (; j + 3 * lanes < columns; j += 4 * lanes) strip<T, 4, 4>(rows, depth, a, b, j, use);
  for (; j + lanes < columns; j += 2 * lanes) strip<T, 4, 2>(rows, depth, a, b, j, use);
  if (j < columns) strip<T, lanes >= 16 ? 16 : 8, 1>(rows, depth, a, b, j, use);
}

/// to[j * line + i] = scale * from[i * row + j] for i < rows, j < columns, and zeros up to i < line.
template <class Real>
VAELIB_INLINE void turn(long rows, long columns, const Real* from, long row, Real scale, Real* to, long line) {
  long i = 0;
#if VAELIB_HAS_LANES
  if constexpr (std::is_same_v<Real, float>) {
    using Four = Raw<4>::Float;
    using InMemory = Raw<4>::AnyAddress;
    const Four factor = scale - Four{};
    for (; i + 4 <= rows; i += 4) {
      long j = 0;
      for (; j + 4 <= columns; j += 4) {
        const float* in = from + i * row + j;
        float* out = to + j * line + i;
        const Four a = *reinterpret_cast<const InMemory*>(in) * factor,
                   b = *reinterpret_cast<const InMemory*>(in + row) * factor,
                   c = *reinterpret_cast<const InMemory*>(in + 2 * row) * factor,
                   d = *reinterpret_cast<const InMemory*>(in + 3 * row) * factor;
        const auto ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                   ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const auto cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                   cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        *reinterpret_cast<InMemory*>(out) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
        *reinterpret_cast<InMemory*>(out + line) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
        *reinterpret_cast<InMemory*>(out + 2 * line) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
        *reinterpret_cast<InMemory*>(out + 3 * line) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
      }
      for (; j < columns; ++j)
        for (long k = i; k < i + 4; ++k) to[j * line + k] = scale * from[k * row + j];
    }
  }
#endif
  for (; i < rows; ++i)
    for (long j = 0; j < columns; ++j) to[j * line + i] = scale * from[i * row + j];
  for (; i < line; ++i)
    for (long j = 0; j < columns; ++j) to[j * line + i] = 0;
}
/// to[i * row + j] = or += scale * from[j * line + i] for i < rows, j < columns.
template <class Real>
VAELIB_INLINE void turn_back(long rows, long columns, const Real* from, long line, Real scale, Real* to, long row,
                             bool add) {
  long i = 0;
#if VAELIB_HAS_LANES
  if constexpr (std::is_same_v<Real, float>) {
    using Four = Raw<4>::Float;
    using InMemory = Raw<4>::AnyAddress;
    const Four factor = scale - Four{};
    for (; i + 4 <= rows; i += 4) {
      long j = 0;
      for (; j + 4 <= columns; j += 4) {
        const float* in = from + j * line + i;
        float* out = to + i * row + j;
        const Four a = *reinterpret_cast<const InMemory*>(in), b = *reinterpret_cast<const InMemory*>(in + line),
                   c = *reinterpret_cast<const InMemory*>(in + 2 * line),
                   d = *reinterpret_cast<const InMemory*>(in + 3 * line);
        const auto ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                   ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const auto cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                   cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        const Four turned[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                                __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                                __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                                __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
        for (int k = 0; k < 4; ++k) {
          InMemory& place = *reinterpret_cast<InMemory*>(out + k * row);
          place = add ? place + factor * turned[k] : factor * turned[k];
        }
      }
      for (; j < columns; ++j)
        for (long k = i; k < i + 4; ++k)
          to[k * row + j] = (add ? to[k * row + j] : Real(0)) + scale * from[j * line + k];
    }
  }
#endif
  for (; i < rows; ++i)
    for (long j = 0; j < columns; ++j) to[i * row + j] = (add ? to[i * row + j] : Real(0)) + scale * from[j * line + i];
}

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
