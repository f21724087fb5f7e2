// The inner loops of every product and convolution: 6 rows x a few vectors of C stay in registers while the depth runs.
//
//   C (rows x columns) = or += sum over p of A(i, p) B(p, j)
//
// An element of C is one chain of fused multiply-adds over p, whatever the rows around it, its place in a tile or the
// width of the vectors. Where the processor has no fused multiply-add, the products are rounded first.
//
// Written in the vector extensions of GCC and Clang, once for every width. The best width is chosen at run time, so
// that a program needs no compiler flags.
#pragma once

#include <algorithm>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// The depth of one block: 256 x 16 floats of B are half of a 32 KB first-level cache. Blocks are added to C one after
/// another, so this number is part of the order of summation and the same for all widths.
inline constexpr int block_depth = 256;
inline constexpr int tile_rows = 6;

/// One block of depth. Element (i, p) of A lies at a + a_rows[i] + a_steps[p], so that A may be a matrix, a transposed
/// one, or the windows of an image where they are. (The table of steps costs nothing: a tile has loads to spare.)
/// B is packed in panels (see pack.hpp) of all `k` rows, of which this block takes those from `k_begin`.
struct Block {
  const float* a;
  const long* a_rows;
  const int* a_steps;
  int depth;
  const float* b;
  long k, k_begin;
  float* c;
  const long* c_rows;  // row i of C lies at c + c_rows[i]
  int rows, columns;
  bool add;
};

namespace detail {

/// Steps of a matrix whose elements of the depth are `Apart` floats apart.
template <int Apart>
struct Steps {
  int steps[block_depth];
  constexpr Steps() : steps() {
    for (int p = 0; p < block_depth; ++p) steps[p] = p * Apart;
  }
};
inline constexpr Steps<1> consecutive;

template <int Lanes>
struct VectorOf {
  typedef float Aligned __attribute__((vector_size(Lanes * sizeof(float)), may_alias));
  typedef float Unaligned __attribute__((vector_size(Lanes * sizeof(float)), may_alias, aligned(sizeof(float))));
};

template <int Lanes, int Vectors>
[[gnu::always_inline]] inline void tile(const Block& block, const float* const (&a)[tile_rows], const float* b,
                                        float* const (&c)[tile_rows], int width) {
  using Vector = typename VectorOf<Lanes>::Aligned;
  using Unaligned = typename VectorOf<Lanes>::Unaligned;
  Vector sum[tile_rows][Vectors] = {};
  const int* steps = block.a_steps;
  for (const int* end = steps + block.depth; steps != end; ++steps, b += Vectors * Lanes) {
    const long at = *steps;
    Vector values[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) values[j] = *reinterpret_cast<const Vector*>(b + j * Lanes);
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      const Vector factor = a[i][at] - Vector{};
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] += factor * values[j];
    }
  }
  if (width == Vectors * Lanes) {
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        Unaligned& out = *reinterpret_cast<Unaligned*>(c[i] + j * Lanes);
        out = block.add ? out + sum[i][j] : sum[i][j];
      }
    return;
  }
  float edge[tile_rows][Vectors * Lanes];
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) *reinterpret_cast<Unaligned*>(edge[i] + j * Lanes) = sum[i][j];
  for (int i = 0; i < tile_rows; ++i)
    for (int j = 0; j < width; ++j) c[i][j] = block.add ? c[i][j] + edge[i][j] : edge[i][j];
}

/// All rows of one panel. Missing rows of the last tile repeat its first one and are thrown away: on current processors
/// fewer rows would not be faster, for the additions of a chain have to wait for each other.
template <int Lanes, int Vectors>
[[gnu::always_inline]] inline void panel(const Block& block, const float* b, float* c, int width) {
  for (int first = 0; first < block.rows; first += tile_rows) {
    const float* a_row[tile_rows];
    float* c_row[tile_rows];
    float unused[Vectors * Lanes];
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      const bool present = first + i < block.rows;
      a_row[i] = block.a + block.a_rows[present ? first + i : first];
      c_row[i] = present ? c + block.c_rows[first + i] : unused;
    }
    if (first + tile_rows > block.rows && block.add) std::fill(unused, unused + Vectors * Lanes, 0.0f);
    tile<Lanes, Vectors>(block, a_row, b, c_row, width);
  }
}

template <int Lanes>
inline constexpr int panel_columns = Lanes*(Lanes >= 16 ? 4 : 2);

/// The whole block: panel by panel, so that a panel of B stays in the first-level cache while the rows go by.
template <int Lanes>
[[gnu::always_inline]] inline void multiply(const Block& block) {
  constexpr int columns = panel_columns<Lanes>;
  for (int j = 0; j < block.columns; j += columns) {
    const int width = std::min(columns, block.columns - j), vectors = (width + Lanes - 1) / Lanes;
    const float* b = block.b + j * block.k + block.k_begin * (vectors * Lanes);
    float* c = block.c + j;
    if (vectors == 1) panel<Lanes, 1>(block, b, c, width);
    if (vectors == 2) panel<Lanes, 2>(block, b, c, width);
    if constexpr (Lanes >= 16) {
      if (vectors == 3) panel<Lanes, 3>(block, b, c, width);
      if (vectors == 4) panel<Lanes, 4>(block, b, c, width);
    }
  }
}

inline void multiply_4_lanes(const Block& block) { multiply<4>(block); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"), flatten)) inline void multiply_avx2(const Block& block) { multiply<8>(block); }
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), flatten)) inline void multiply_avx512(
    const Block& block) {
  multiply<16>(block);
}
#endif

}  // namespace detail

/// Adds the product of a block to C, or writes it.
using Multiply = void (*)(const Block&);

/// What depends on the instruction set: the width of the panels of B and the loops over them.
struct Kernels {
  const char* name;
  int lanes, panel_columns;
  Multiply multiply;
};

inline constexpr Kernels kernels_4_lanes{"4 lanes", 4, detail::panel_columns<4>, detail::multiply_4_lanes};
#if defined(__x86_64__)
inline constexpr Kernels kernels_avx2{"AVX2", 8, detail::panel_columns<8>, detail::multiply_avx2};
inline constexpr Kernels kernels_avx512{"AVX-512", 16, detail::panel_columns<16>, detail::multiply_avx512};
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
#endif

inline const Kernels& best_kernels() {
#if defined(__x86_64__)
  if (has_avx512()) return kernels_avx512;
  if (has_avx2()) return kernels_avx2;
#endif
  return kernels_4_lanes;
}

/// The kernels in use. Tests point it elsewhere; nothing else may.
inline const Kernels*& kernels() {
  static const Kernels* chosen = &best_kernels();
  return chosen;
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
