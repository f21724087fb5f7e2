// The transforms of Winograd's convolutions: 2 x 2 outputs of a kernel of R x R taps (R = 2, 3) by (R + 1)^2 products
// instead of 4 R^2.
//
//   Y = A^T [ (G g G^T) .* (B^T d B) ] A
//
//              B^T                A             G                     B^T            A         G
//   R = 3:   1  0 -1  0         1  0      1    0    0      R = 2:    1 -1  0       1  0      1  0
//            0  1  1  0         1  1     1/2  1/2  1/2               0  1  0       1  1      1  1
//            0 -1  1  0         1 -1     1/2 -1/2  1/2               0 -1  1       0  1      0  1
//            0 -1  0  1         0  1      0    0    1
//
// Lavin & Gray 2016, "Fast algorithms for convolutional neural networks". Each transform is sums of two (B, A) or three
// (A^T) numbers and multiplications by 1/2, which are exact: an element is one order of additions in any width of
// vectors.
#pragma once

#include <vaelib/backend/cpu/microkernel.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

inline constexpr int most_positions = 4;  // R + 1, in one direction

/// A row of B^T or A: number `first`, plus sign * number `second`.
struct TransformRow {
  int first, second, sign;
};
/// Of `Positions` = R + 1 rows; `Inputs` = Positions: B^T, Inputs = 2: A.
template <int Positions, int Inputs>
constexpr TransformRow transform_row(int position) {
  constexpr TransformRow of_data_4[] = {{0, 2, -1}, {1, 2, 1}, {2, 1, -1}, {3, 1, -1}};
  constexpr TransformRow of_data_3[] = {{0, 1, -1}, {1, 1, 0}, {2, 1, -1}};
  constexpr TransformRow of_outputs_4[] = {{0, 0, 0}, {0, 1, 1}, {0, 1, -1}, {1, 1, 0}};
  constexpr TransformRow of_outputs_3[] = {{0, 0, 0}, {0, 1, 1}, {1, 1, 0}};
  if (Inputs == 4) return of_data_4[position];
  if (Inputs == 3) return of_data_3[position];
  return Positions == 4 ? of_outputs_4[position] : of_outputs_3[position];
}

/// Some channels of one tile: its pixels, and where its positions begin, `apart` floats apart.
struct SpreadTile {
  const float* pixels[most_positions][most_positions];
  float* positions;
  long apart;
  int channels;     // a multiple of the lanes
  int first, last;  // the rows of positions to be computed; `positions` is that of the first
};
struct CollectTile {
  const float* positions;
  long apart;
  float* pixels[2][2];
  int channels;
  bool add;
};

/// positions = B^T d B or A y A^T
template <int Lanes, int Positions, int Inputs>
[[gnu::always_inline]] inline void spread(const SpreadTile& tile) {
  using Vector = typename VectorOf<Lanes>::Aligned;
  using Unaligned = typename VectorOf<Lanes>::Unaligned;
  const long apart = tile.apart;  // in variables, for a store might have changed what `tile` refers to
  const int channels = tile.channels, last = tile.last;
  float* out = tile.positions;
  for (int position = tile.first; position < last; ++position, out += Positions * apart) {
    const TransformRow row = transform_row<Positions, Inputs>(position);
    const float sign = static_cast<float>(row.sign);
    const float *a[Inputs], *b[Inputs];
#pragma GCC unroll 4
    for (int i = 0; i < Inputs; ++i) a[i] = tile.pixels[row.first][i], b[i] = tile.pixels[row.second][i];
    for (int c = 0; c < channels; c += Lanes) {
      Vector sums[Inputs];
#pragma GCC unroll 4
      for (int i = 0; i < Inputs; ++i) {
        sums[i] = *reinterpret_cast<const Unaligned*>(a[i] + c);
        if (row.sign != 0) sums[i] += sign * *reinterpret_cast<const Unaligned*>(b[i] + c);
      }
#pragma GCC unroll 4
      for (int j = 0; j < Positions; ++j) {
        const TransformRow column = transform_row<Positions, Inputs>(j);
        const Vector &first = sums[column.first], &second = sums[column.second];
        *reinterpret_cast<Unaligned*>(out + j * apart + c) = column.sign == 0  ? first
                                                             : column.sign > 0 ? first + second
                                                                               : first - second;
      }
    }
  }
}

/// Two numbers from R + 1: A^T m.
template <int Positions, class Vector>
[[gnu::always_inline]] inline void collect_line(const Vector* m, Vector& first, Vector& second) {
  if constexpr (Positions == 4) {
    first = (m[0] + m[1]) + m[2];
    second = (m[1] - m[2]) + m[3];
  } else {
    first = m[0] + m[1];
    second = m[1] + m[2];
  }
}

/// pixels (+)= A^T positions A
template <int Lanes, int Positions>
[[gnu::always_inline]] inline void collect(const CollectTile& tile) {
  using Vector = typename VectorOf<Lanes>::Aligned;
  using Unaligned = typename VectorOf<Lanes>::Unaligned;
  const long apart = tile.apart;
  const int channels = tile.channels;
  const bool add = tile.add;
  const float* in = tile.positions;
  float* const pixels[2][2] = {{tile.pixels[0][0], tile.pixels[0][1]}, {tile.pixels[1][0], tile.pixels[1][1]}};
  for (int c = 0; c < channels; c += Lanes) {
    Vector sums[2][Positions];
#pragma GCC unroll 4
    for (int j = 0; j < Positions; ++j) {
      Vector m[Positions];
#pragma GCC unroll 4
      for (int i = 0; i < Positions; ++i)
        m[i] = *reinterpret_cast<const Unaligned*>(in + (i * Positions + j) * apart + c);
      collect_line<Positions>(m, sums[0][j], sums[1][j]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      Vector y[2];
      collect_line<Positions>(sums[i], y[0], y[1]);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        Unaligned& out = *reinterpret_cast<Unaligned*>(pixels[i][j] + c);
        out = add ? out + y[j] : y[j];
      }
    }
  }
}

/// `terms` runs of numbers, a multiple of 16 each, and their factors.
struct Terms {
  const float* in[16];
  float factors[16];
  int terms = 0;

  void append(const float* numbers, float factor) {
    if (factor != 0) in[terms] = numbers, factors[terms++] = factor;
  }
};
/// out[i] (+)= sum of factors[t] * in[t][i]
template <int Lanes>
[[gnu::always_inline]] inline void sum(const Terms& of, float* out, long count, bool add) {
  using Vector = typename VectorOf<Lanes>::Unaligned;
  for (long i = 0; i < count; i += Lanes) {
    Vector total = of.factors[0] * *reinterpret_cast<const Vector*>(of.in[0] + i);
    for (int t = 1; t < of.terms; ++t) total += of.factors[t] * *reinterpret_cast<const Vector*>(of.in[t] + i);
    Vector& result = *reinterpret_cast<Vector*>(out + i);
    result = add ? result + total : total;
  }
}

template <int Lanes>
[[gnu::always_inline]] inline void spread(const SpreadTile& tile, int positions, bool outputs) {
  if (positions == 4) return outputs ? spread<Lanes, 4, 2>(tile) : spread<Lanes, 4, 4>(tile);
  return outputs ? spread<Lanes, 3, 2>(tile) : spread<Lanes, 3, 3>(tile);
}
template <int Lanes>
[[gnu::always_inline]] inline void collect(const CollectTile& tile, int positions) {
  return positions == 4 ? collect<Lanes, 4>(tile) : collect<Lanes, 3>(tile);
}

inline void spread_4_lanes(const SpreadTile& tile, int positions, bool outputs) { spread<4>(tile, positions, outputs); }
inline void collect_4_lanes(const CollectTile& tile, int positions) { collect<4>(tile, positions); }
inline void sum_4_lanes(const Terms& of, float* out, long count, bool add) { sum<4>(of, out, count, add); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"), flatten)) inline void spread_avx2(const SpreadTile& tile, int positions,
                                                                     bool outputs) {
  spread<8>(tile, positions, outputs);
}
__attribute__((target("avx2,fma"), flatten)) inline void collect_avx2(const CollectTile& tile, int positions) {
  collect<8>(tile, positions);
}
__attribute__((target("avx2,fma"), flatten)) inline void sum_avx2(const Terms& of, float* out, long count, bool add) {
  sum<8>(of, out, count, add);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), flatten)) inline void spread_avx512(
    const SpreadTile& tile, int positions, bool outputs) {
  spread<16>(tile, positions, outputs);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), flatten)) inline void collect_avx512(
    const CollectTile& tile, int positions) {
  collect<16>(tile, positions);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), flatten)) inline void sum_avx512(const Terms& of,
                                                                                                       float* out,
                                                                                                       long count,
                                                                                                       bool add) {
  sum<16>(of, out, count, add);
}
#endif

/// The transforms that suit the kernels in use.
struct Transforms {
  void (*spread)(const SpreadTile&, int positions, bool outputs);
  void (*collect)(const CollectTile&, int positions);
  void (*sum)(const Terms&, float* out, long count, bool add);
};
inline Transforms transforms() {
#if defined(__x86_64__)
  if (kernels() == &kernels_avx512) return {spread_avx512, collect_avx512, sum_avx512};
  if (kernels() == &kernels_avx2) return {spread_avx2, collect_avx2, sum_avx2};
#endif
  return {spread_4_lanes, collect_4_lanes, sum_4_lanes};
}

/// The rows of G.
constexpr float weight_factor(int positions, int position, int tap) {
  constexpr float of_3[4][3] = {{1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};
  constexpr float of_2[3][2] = {{1, 0}, {1, 1}, {0, 1}};
  return positions == 4 ? of_3[position][tap] : of_2[position][tap];
}

}  // namespace detail
}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
