// The inner loops of the search for the nearest codes (nearest.hpp): scores of 6 vectors and a panel of codes stay in registers,
// and each lane keeps its best score, its index and its second best. In float by vectors of every width, or in pairs of bfloat16.
#pragma once

#include <vaelib/backend/cpu/microkernel.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Some vectors and the codes of a part, in panels (see pack.hpp). Each row keeps `lanes` best scores, second best scores and
/// indices. A step of `steps` is one number, or in bfloat16 a pair of numbers in one word.
struct SearchBlock {
  const float* x;
  int rows, steps;
  const float* codes;
  const float* half_norms;  // |e|^2 / 2; infinite behind the last code, up to whole vectors
  int count;
  float *best, *second;
  std::int32_t* index;
};

namespace detail {

template <int Lanes>
struct IntegersOf {
  typedef std::int32_t type __attribute__((vector_size(Lanes * sizeof(float)), may_alias));
};

/// Takes the scores of one row and the codes from `code` on into account.
template <int Lanes, int Vectors>
[[gnu::always_inline]] inline void keep_best(const SearchBlock& block, int row, int code, const typename VectorOf<Lanes>::Aligned (&scores)[Vectors]) {
  using Vector = typename VectorOf<Lanes>::Aligned;
  using Integers = typename IntegersOf<Lanes>::type;
  Vector& best = *reinterpret_cast<Vector*>(block.best + row * Lanes);
  Vector& second = *reinterpret_cast<Vector*>(block.second + row * Lanes);
  Integers& index = *reinterpret_cast<Integers*>(block.index + row * Lanes);
  Vector b = best, s = second;
  Integers at = index;
#pragma GCC unroll 4
  for (int j = 0; j < Vectors; ++j) {
    const Vector score = scores[j];
    const auto better = score > b;
    const Vector loser = better ? b : score;
    s = loser > s ? loser : s;
    b = better ? score : b;
    at = better ? Integers{} + (code + j * Lanes) : at;
  }
  best = b;
  second = s;
  index = at;
}

/// The rows of a tile; those behind the last one repeat it.
inline const float* row_of(const SearchBlock& block, int row) { return block.x + long(std::min(row, block.rows - 1)) * block.steps; }

template <int Lanes, int Vectors>
[[gnu::always_inline]] inline void search_tile(const SearchBlock& block, int first, const float* codes, int code) {
  using Vector = typename VectorOf<Lanes>::Aligned;
  const float* x[tile_rows];
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i) x[i] = row_of(block, first + i);
  Vector sum[tile_rows][Vectors];
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = -*reinterpret_cast<const Vector*>(block.half_norms + code + j * Lanes);
  for (int p = 0; p < block.steps; ++p, codes += Vectors * Lanes) {
    Vector values[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) values[j] = *reinterpret_cast<const Vector*>(codes + j * Lanes);
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      const Vector factor = x[i][p] - Vector{};
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] += factor * values[j];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i)
    if (first + i < block.rows) keep_best<Lanes, Vectors>(block, first + i, code, sum[i]);
}

/// Panel by panel, so that a panel stays in the first-level cache while the rows go by.
template <int Lanes>
[[gnu::always_inline]] inline void search(const SearchBlock& block) {
  constexpr int columns = panel_columns<Lanes>;
  for (int j = 0; j < block.count; j += columns) {
    const int vectors = (std::min(columns, block.count - j) + Lanes - 1) / Lanes;
    const float* codes = block.codes + long(j) * block.steps;
    for (int i = 0; i < block.rows; i += tile_rows) {
      if (vectors == 1) search_tile<Lanes, 1>(block, i, codes, j);
      if (vectors == 2) search_tile<Lanes, 2>(block, i, codes, j);
      if constexpr (Lanes >= 16) {
        if (vectors == 3) search_tile<Lanes, 3>(block, i, codes, j);
        if (vectors == 4) search_tile<Lanes, 4>(block, i, codes, j);
      }
    }
  }
}

inline void search_4_lanes(const SearchBlock& block) { search<4>(block); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"), flatten)) inline void search_avx2(const SearchBlock& block) { search<8>(block); }
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), flatten)) inline void search_avx512(const SearchBlock& block) {
  search<16>(block);
}
/// search<16> of pairs of bfloat16; all panels are of 64 codes.
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512bf16"))) inline void search_bfloat16(const SearchBlock& block) {
  using Vector = VectorOf<16>::Aligned;
  using Integers = IntegersOf<16>::type;
  typedef std::int32_t Word __attribute__((may_alias));
  for (int code = 0; code < block.count; code += 64)
    for (int first = 0; first < block.rows; first += tile_rows) {
      const float* codes = block.codes + long(code) * block.steps;
      const Word* x[tile_rows];
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i) x[i] = reinterpret_cast<const Word*>(row_of(block, first + i));
      Vector sum[tile_rows][4];
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sum[i][j] = -*reinterpret_cast<const Vector*>(block.half_norms + code + j * 16);
      for (int p = 0; p < block.steps; ++p, codes += 64) {
        Vector values[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) values[j] = *reinterpret_cast<const Vector*>(codes + j * 16);
#pragma GCC unroll 6
        for (int i = 0; i < tile_rows; ++i) {
          const Integers factor = Integers{} + x[i][p];
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) {
            Vector s = sum[i][j];  // an operand in an array would stay in memory
            asm("vdpbf16ps %2, %1, %0" : "+v"(s) : "v"(factor), "v"(values[j]));
            sum[i][j] = s;
          }
        }
      }
#pragma GCC unroll 6
      for (int i = 0; i < tile_rows; ++i)
        if (first + i < block.rows) keep_best<16, 4>(block, first + i, code, sum[i]);
    }
}
/// A row in bfloat16 (to nearest, ties to even), two numbers a word, and its squared length and what rounding changed of that.
struct Rounding {
  double norm = 0, change = 0;  // |x|^2 and |x - x in bfloat16|^2
};
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512bf16"))) inline Rounding round_row(const float* x, int width, float* words) {
  using Vector = VectorOf<16>::Unaligned;
  using Integers = IntegersOf<16>::type;
  Vector norm{}, change{};
  for (int p = 0; p < width; p += 32) {
    float tail[32] = {};
    if (width - p < 32) std::copy(x + p, x + width, tail);
    const float* from = width - p < 32 ? tail : x + p;
    const Vector low = *reinterpret_cast<const Vector*>(from), high = *reinterpret_cast<const Vector*>(from + 16);
    Integers pairs;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(low), "v"(high));
    std::memcpy(words + p / 2, &pairs, sizeof(float) * std::size_t(std::min(16, (width - p + 1) / 2)));
    for (int half = 0; half < 2; ++half) {
      Vector rounded;
      asm("vpmovzxwd %1, %0" : "=v"(rounded) : "m"(*(reinterpret_cast<const char(*)[32]>(&pairs) + half)));
      rounded = (Vector)((Integers)rounded << 16);
      const Vector v = half ? high : low, d = v - rounded;
      norm += v * v;
      change += d * d;
    }
  }
  Rounding sums;
  for (int k = 0; k < 16; ++k) sums.norm += 1.001 * double(norm[k]), sums.change += 1.001 * double(change[k]);
  return sums;
}
inline bool has_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
#else
inline void search_bfloat16(const SearchBlock&) {}
struct Rounding {
  double norm = 0, change = 0;
};
inline Rounding round_row(const float*, int, float*) { return {}; }
inline bool has_bfloat16() { return false; }
#endif

inline void search(const SearchBlock& block) {
#if defined(__x86_64__)
  if (kernels()->lanes == 16) return search_avx512(block);
  if (kernels()->lanes == 8) return search_avx2(block);
#endif
  search_4_lanes(block);
}

/// Whether scores are computed in bfloat16. Tests set it; nothing else may.
inline bool& searches_in_bfloat16() {
  static bool on = has_bfloat16();
  return on;
}

}  // namespace detail
}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
