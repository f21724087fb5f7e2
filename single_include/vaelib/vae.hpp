// vaelib 0.1.0 in one file: include/vaelib/vae.hpp and what it includes.
// Made by `./run amalgamate`; what to edit is in include/.
//
// MIT License
//
// Copyright (c) 2026 the vaelib authors
//
// Permission is hereby granted, free of charge, to any person obtaining a copy
// of this software and associated documentation files (the "Software"), to deal
// in the Software without restriction, including without limitation the rights
// to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
// copies of the Software, and to permit persons to whom the Software is
// furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in all
// copies or substantial portions of the Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
// IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
// FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
// AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
// LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
// OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
// SOFTWARE.
#pragma once
// vaelib: variational autoencoders. Assemble a model from layers, train it, ship it.

// The processor: packed products and convolutions, vectorised loops, one pool of threads.

#include <memory>
// The nearest of many codes to each vector, without a matrix of distances.
//
//   index(i) = argmin_j |x_i - e_j|^2 = argmax_j (x_i e_j - |e_j|^2 / 2)       the lowest j where several are as near
//
// The scores of 6 vectors and one panel of codes are a tile of a product and never leave the registers: each lane keeps its
// best score, its index and its second best. Where the processor multiplies pairs of bfloat16 (twice as many a second as
// floats), the scores are those of rounded numbers. What rounding may have added to a score is bounded, by how much was in fact
// rounded; codes that it could have brought behind are compared by their distances in double. So the answer is that of a search
// through all distances, and how the scores were computed does not show in it.
//
// Codes are packed a part at a time, so that this takes little memory beside that of a matrix of distances.

// The inner loops of the search for the nearest codes (nearest.hpp): scores of 6 vectors and a panel of codes stay in registers,
// and each lane keeps its best score, its index and its second best. In float by vectors of every width, or in pairs of bfloat16.

// The inner loops of every product and convolution: 6 rows x a few vectors of C stay in registers while the depth runs.
//
//   C (rows x columns) = or += sum over p of A(i, p) B(p, j)
//
// An element of C is one chain of fused multiply-adds over p, whatever the rows around it, its place in a tile or the
// width of the vectors. Where the processor has no fused multiply-add, the products are rounded first.
//
// Written in the vector extensions of GCC and Clang, once for every width. The best width is chosen at run time, so
// that a program needs no compiler flags.

#include <algorithm>
// The version of the library, and the name of its inline namespace.
//
// Two translation units of one program may be compiled for different processors (-march). Their inline functions then
// differ, and the linker would keep an arbitrary one; so the widest instruction set of a unit is part of every name.

#define VAELIB_VERSION_MAJOR 0
#define VAELIB_VERSION_MINOR 1
#define VAELIB_VERSION_PATCH 0
#define VAELIB_VERSION "0.1.0"

#if defined(__AVX512F__)
#define VAELIB_ABI v0_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define VAELIB_ABI v0_avx2
#elif defined(__AVX__)
#define VAELIB_ABI v0_avx
#elif defined(__SSE4_1__)
#define VAELIB_ABI v0_sse4
#else
#define VAELIB_ABI v0
#endif

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
// C (m x n) = or += A (m x k) B (k x n), in float.
//
// Every element of C is summed in one order that depends on k alone: blocks of 256 are chains of fused multiply-adds
// and are added one after another; from k = 1024 on, sums of longer parts of k are added in turn, so that a product
// with few outputs and a great depth (the gradient of a weight over many rows) can be shared out as well. Hence the
// same bits for any number of threads, any split of the rows, and any place in the matrix.
//
// With the macro VAELIB_CBLAS defined, product() is cblas_sgemm of OpenBLAS on fixed blocks of C instead, OpenBLAS set
// to one thread; splitting the rows may then change bits.

#include <algorithm>
#include <cstring>
// Packing: the operand that all threads read is laid out once per call in the order in which the inner loops read it.
//
//   B (k x n): panels of `panel_columns` columns, one after another, each k x panel_columns and row-major.
//              The last panel is only as wide as the vectors that hold its columns, and filled up with zeros.

#include <algorithm>
#include <cstddef>
#include <cstring>
// One pool of threads for the operations of a processor.
//
// An operation splits its work into tasks whose boundaries depend on shapes only. Which thread takes which task is left
// to chance and must not matter to the result; so a run gives the same bits with any number of threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
// How many threads this process may keep busy: the processors of its affinity mask, cut down to the processor time that
// its control group (version 1 or 2, as containers use them) is given.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// The first line of a small file; empty if it cannot be read.
[[gnu::cold]] inline std::string first_line(const std::string& path) {
  char line[256] = "";
  if (std::FILE* file = std::fopen(path.c_str(), "r")) {
    if (!std::fgets(line, sizeof line, file)) line[0] = 0;
    std::fclose(file);
  }
  return line;
}

/// Whole processors in a quota of microseconds per period; 0 if there is no limit.
inline int processors(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::min(quota / period, 1e6))) : 0;
}

/// The limit of version 2, written "quota period" or "max period".
[[gnu::cold]] inline int quota_v2(const std::string& folder) {
  double quota = 0, period = 0;
  return std::sscanf(first_line(folder + "/cpu.max").c_str(), "%lf %lf", &quota, &period) == 2
             ? processors(quota, period)
             : 0;
}

/// The limit of version 1; a quota of -1 means none.
[[gnu::cold]] inline int quota_v1(const std::string& folder) {
  return processors(std::atof(first_line(folder + "/cpu.cfs_quota_us").c_str()),
                    std::atof(first_line(folder + "/cpu.cfs_period_us").c_str()));
}

/// The smallest limit from a group up to the root; 0 if there is none.
[[gnu::cold]] inline int smallest_quota(const std::string& root, std::string group, int (*quota)(const std::string&)) {
  int smallest = 0;
  for (;;) {
    const int limit = quota(root + group);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
    if (group.empty()) return smallest;
    const auto slash = group.rfind('/');
    group.erase(slash == std::string::npos ? 0 : slash);
  }
}

/// The limit of this process's control groups; 0 if there is none. A line of the list reads "number:controllers:group".
[[gnu::cold]] inline int control_group_quota() {
  std::FILE* list = std::fopen("/proc/self/cgroup", "r");
  if (!list) return 0;
  int smallest = 0;
  char line[4096];
  while (std::fgets(line, sizeof line, list)) {
    line[std::strcspn(line, "\n")] = 0;
    char* controllers = std::strchr(line, ':');
    char* group = controllers ? std::strchr(controllers + 1, ':') : nullptr;
    if (!group) continue;
    *group++ = 0;
    const std::string names = "," + std::string(controllers + 1) + ",";
    if (std::strcmp(group, "/") == 0) group = const_cast<char*>("");
    int limit = 0;
    if (names == ",,") limit = smallest_quota("/sys/fs/cgroup", group, quota_v2);
    if (names.find(",cpu,") != std::string::npos) limit = smallest_quota("/sys/fs/cgroup/cpu", group, quota_v1);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
  }
  std::fclose(list);
  return smallest;
}

[[gnu::cold]] inline int affinity() {
#if defined(__linux__)
  for (int processors = 1024; processors <= 1 << 16; processors *= 4) {  // larger machines need a larger mask
    cpu_set_t* mask = CPU_ALLOC(processors);
    if (!mask) break;
    const std::size_t size = CPU_ALLOC_SIZE(processors);
    const int count = sched_getaffinity(0, size, mask) == 0 ? CPU_COUNT_S(size, mask) : 0;
    CPU_FREE(mask);
    if (count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace detail

/// Threads that can run at the same time, at least 1.
[[gnu::cold]] inline int available_threads() {
  const int quota = detail::control_group_quota();
  return quota > 0 ? std::min(quota, detail::affinity()) : detail::affinity();
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Threads that wait for tasks. They spin for a few dozen microseconds, about the time between two operations of a
/// training step, and then sleep. With more threads than processors they sleep at once: a spinning thread would keep a
/// working one from its processor.
class Pool {
 public:
  /// The calling thread is one of the threads. 0: as many as the machine allows.
  [[gnu::cold]] explicit Pool(int threads = 0)
      : count_(std::max(1, threads > 0 ? threads : available_threads())),
        pauses_(count_ > available_threads() ? 0 : 3000) {
    try {
      workers_.reset(new std::thread[count_]);
      for (int worker = 1; worker < count_; ++worker) workers_[worker] = std::thread([this, worker] { serve(worker); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return count_; }

  /// Calls f(task) or f(task, worker) for each task in [0, tasks) and returns when all are done. A worker, in
  /// [0, threads()), runs one task at a time: it names scratch memory. All tasks are run even if some throw; the first
  /// exception is then thrown here. Called from inside a task, or while another thread uses the pool, it runs in line.
  template <class F>
  void run(long tasks, F&& f) {
    run_all(call<std::remove_reference_t<F>>, const_cast<void*>(static_cast<const void*>(&f)), tasks);
  }

 private:
  using Function = void (*)(void* context, long task, int worker);
  template <class F>
  static void call(void* context, long task, int worker) {
    F& f = *static_cast<F*>(context);
    if constexpr (requires { f(task, worker); }) {
      f(task, worker);
    } else {
      f(task);
    }
  }
  struct Job {
    Function function = nullptr;
    void* context = nullptr;
    long first = 0, tasks = 0;
  };
  struct Place {  // where the current thread is at work
    const Pool* pool = nullptr;
    int worker = 0;
  };
  static Place& place() {
    static thread_local Place here;
    return here;
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void run_all(Function function, void* context, long tasks) {
    constexpr long most = 1L << 30;  // the ticket has 32 bits for the tasks left
    for (long first = 0; first < tasks; first += most) run_job({function, context, first, std::min(most, tasks - first)});
  }

  void run_job(const Job& job) {
    const bool nested = place().pool == this;
    if (job.tasks == 1 || count_ == 1 || nested || busy_.exchange(true, std::memory_order_acquire))
      return run_in_line(job, nested ? place().worker : 0);
    job_ = job;
    unfinished_.store(static_cast<std::uint32_t>(job.tasks), std::memory_order_relaxed);
    const std::uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(generation << 32 | static_cast<std::uint64_t>(job.tasks), std::memory_order_release);
    posted_.fetch_add(1);
    posted_.notify_all();
    work(0);
    wait_until_finished();
    std::exception_ptr error = std::move(error_);
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    busy_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

  void run_in_line(const Job& job, int worker) {
    std::exception_ptr error;
    const Place outside = std::exchange(place(), Place{this, worker});
    for (long task = 0; task < job.tasks; ++task) {
      try {
        job.function(job.context, job.first + task, worker);
      } catch (...) {
        if (!error) error = std::current_exception();
      }
    }
    place() = outside;
    if (error) std::rethrow_exception(error);
  }

  // Takes tasks until none is left. The ticket holds the job's number and the tasks left; whoever takes one by
  // compare-and-exchange holds the job open until it counts the task as finished, so the job may be read in between.
  void work(int worker) {
    const Place outside = std::exchange(place(), Place{this, worker});
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(ticket) != 0) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      const long task = job_.tasks - static_cast<long>(static_cast<std::uint32_t>(ticket));
      try {
        job_.function(job_.context, job_.first + task, worker);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1 && worker != 0) unfinished_.notify_all();
      ticket = ticket_.load(std::memory_order_acquire);
    }
    place() = outside;
  }

  void wait_until_finished() {
    for (int i = 0; i < pauses_; ++i) {
      if (unfinished_.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    for (;;) {
      const std::uint32_t left = unfinished_.load(std::memory_order_acquire);
      if (left == 0) return;
      unfinished_.wait(left, std::memory_order_acquire);
    }
  }

  void serve(int worker) {
    for (;;) {
      const std::uint32_t seen = posted_.load(std::memory_order_acquire);
      if (stopped_.load(std::memory_order_acquire)) return;
      work(worker);
      bool idle = true;
      for (int i = 0; i < pauses_ && idle; ++i) {
        pause();
        idle = posted_.load(std::memory_order_acquire) == seen;
      }
      if (idle) posted_.wait(seen, std::memory_order_acquire);
    }
  }

  [[gnu::cold]] void stop() {
    stopped_.store(true, std::memory_order_release);
    posted_.fetch_add(1);
    posted_.notify_all();
    for (int worker = 1; workers_ && worker < count_; ++worker)
      if (workers_[worker].joinable()) workers_[worker].join();
  }

  int count_, pauses_;
  std::unique_ptr<std::thread[]> workers_;  // by number; 0 is the calling thread
  Job job_;
  std::exception_ptr error_;
  alignas(64) std::atomic<std::uint64_t> ticket_ = 0;      // number of the job, tasks left to take
  alignas(64) std::atomic<std::uint32_t> posted_ = 0;      // grows with every job
  alignas(64) std::atomic<std::uint32_t> unfinished_ = 0;  // tasks not finished yet
  alignas(64) std::atomic<bool> busy_ = false;
  std::atomic<bool> failed_ = false, stopped_ = false;
};

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
// What operations of a backend are told about their operands, in plain numbers.

namespace vaelib::inline VAELIB_ABI {

/// A matrix: element (i, p) is data[i * row + p * step], and one of row and step is 1, so that transposing copies nothing.
template <class Real>
struct MatrixView {
  const Real* data;
  long row, step;
};

/// A convolution of x (height x width x channels) to y (out_height x out_width x out_channels), channels last;
/// the weight is kernel_height x kernel_width x channels x out_channels.
struct ConvolutionShape {
  int height, width, channels, out_height, out_width, out_channels, kernel_height, kernel_width, stride, padding;
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

using Matrix = MatrixView<float>;

namespace detail {
constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }
}  // namespace detail

constexpr long round_up(long count, long multiple) { return (count + multiple - 1) / multiple * multiple; }

/// Floats of a packed k x n matrix.
inline std::size_t packed_size(long k, int n) {
  return static_cast<std::size_t>(k) * static_cast<std::size_t>(round_up(n, kernels()->lanes));
}

namespace detail {

/// out[j * stride + i] = in[i * row + j] for i, j < 4.
[[gnu::always_inline]] inline void transpose_4x4(const float* in, long row, float* out, long stride) {
  using Vector = VectorOf<4>::Aligned;
  using Unaligned = VectorOf<4>::Unaligned;
  const Vector a = *reinterpret_cast<const Unaligned*>(in), b = *reinterpret_cast<const Unaligned*>(in + row);
  const Vector c = *reinterpret_cast<const Unaligned*>(in + 2 * row);
  const Vector d = *reinterpret_cast<const Unaligned*>(in + 3 * row);
  const Vector ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vector cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *reinterpret_cast<Unaligned*>(out) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  *reinterpret_cast<Unaligned*>(out + stride) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  *reinterpret_cast<Unaligned*>(out + 2 * stride) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  *reinterpret_cast<Unaligned*>(out + 3 * stride) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

/// out[p * width + j] = in[j * row + p]: columns x depth becomes depth x width.
inline void transpose(const float* in, long row, long depth, int columns, float* out, int width) {
  long p = 0;
  for (; p + 4 <= depth; p += 4) {
    int j = 0;
    for (; j + 4 <= columns; j += 4) transpose_4x4(in + j * row + p, row, out + p * width + j, width);
    for (; j < columns; ++j)
      for (long q = p; q < p + 4; ++q) out[q * width + j] = in[j * row + q];
  }
  for (; p < depth; ++p)
    for (int j = 0; j < columns; ++j) out[p * width + j] = in[j * row + p];
}

template <int Width>
inline void copy_rows(const float* in, long row, long depth, float* out) {
  for (long p = 0; p < depth; ++p) std::memcpy(out + p * Width, in + p * row, Width * sizeof(float));
}

/// `depth` rows of the `columns` columns of b that begin at its data, as part of a panel of `width` columns.
inline void pack_panel(const Matrix& b, long depth, int columns, float* out, int width) {
  if (columns < width)
    for (long p = 0; p < depth; ++p) std::fill(out + p * width + columns, out + (p + 1) * width, 0.0f);
  if (b.step != 1) return transpose(b.data, b.step, depth, columns, out, width);
  if (columns == 16 && width == 16) return copy_rows<16>(b.data, b.row, depth, out);
  if (columns == 64 && width == 64) return copy_rows<64>(b.data, b.row, depth, out);
  for (long p = 0; p < depth; ++p)
    std::memcpy(out + p * width, b.data + p * b.row, static_cast<std::size_t>(columns) * sizeof(float));
}

/// out[i] += in[i]
inline void add_run(const float* in, float* out, long count) {
  using Vector = VectorOf<4>::Unaligned;
  long i = 0;
  for (; i + 4 <= count; i += 4) *reinterpret_cast<Vector*>(out + i) += *reinterpret_cast<const Vector*>(in + i);
  for (; i < count; ++i) out[i] += in[i];
}

/// Floats of `rows` rows packed by pack_tiles.
constexpr std::size_t packed_tiles_size(int rows) {
  return static_cast<std::size_t>(round_up(rows, tile_rows) / tile_rows * 8 * block_depth);
}
inline constexpr Steps<8> packed_steps;

/// Packs a part of A whose depth lies far apart: the 6 elements that a tile reads together become neighbours, and the
/// next 6 follow after 8. Element (i, p) is a[rows_of_a[i] + step(p)]; `offsets`, which may be rows_of_a, are the rows
/// of the copy.
template <class Step>
void pack_tiles(const float* a, const long* rows_of_a, Step step, int rows, int depth, float* out, long* offsets) {
  for (int i = 0; i < rows; i += tile_rows, out += depth * 8) {
    const int height = std::min(tile_rows, rows - i);
    if (height == tile_rows && rows_of_a[i + tile_rows - 1] - rows_of_a[i] == tile_rows - 1) {
      const float* in = a + rows_of_a[i];
      for (int p = 0; p < depth; ++p) std::memcpy(out + p * 8, in + step(p), tile_rows * sizeof(float));
    } else {
      for (int p = 0; p < depth; ++p)
        for (int r = 0; r < height; ++r) out[p * 8 + r] = a[rows_of_a[i + r] + step(p)];
    }
    for (int r = 0; r < height; ++r) offsets[i + r] = i / tile_rows * depth * 8 + r;
  }
}

}  // namespace detail

/// Packs rows of B: `depth` rows at b.data become the rows from `k_begin` of all panels of a packed k x n matrix.
/// For panels from `first_column` (a multiple of panel_columns) to `last_column`.
inline void pack_rows(const Matrix& b, long depth, int first_column, int last_column, int n, float* packed, long k,
                      long k_begin) {
  const int panel = kernels()->panel_columns, lanes = kernels()->lanes;
  for (int j = first_column; j < last_column; j += panel) {
    const int columns = std::min(panel, n - j), width = static_cast<int>(round_up(columns, lanes));
    const Matrix from{b.data + j * b.step, b.row, b.step};
    detail::pack_panel(from, depth, columns, packed + j * k + k_begin * width, width);
  }
}

/// Packs B (k x n) with all threads. Row-major rows are read in short runs of rows; columns one panel at a time.
inline void pack(Pool& pool, const Matrix& b, long k, int n, float* packed) {
  const long depth = b.step == 1 ? 64 : 512;
  const int columns = b.step == 1 ? 1024 : kernels()->panel_columns;
  const long depth_tasks = (k + depth - 1) / depth, column_tasks = (n + columns - 1) / columns;
  pool.run(depth_tasks * column_tasks, [&](long task) {
    const long p = task % depth_tasks * depth;
    const int j = static_cast<int>(task / depth_tasks) * columns;
    const Matrix rows{b.data + p * b.row, b.row, b.step};
    pack_rows(rows, std::min(depth, k - p), j, std::min(n, j + columns), n, packed, k, p);
  });
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
// Scratch memory of the operations: a part that all threads share (packed operands, partial sums), one for operands in
// another precision, and one for each worker of a pool (gathered pixels). It grows to the largest need and stays, so
// that a training step takes no memory from the heap once the largest batch was seen.

#include <cstddef>
#include <memory>
#include <new>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Uninitialized floats at a multiple of 64 bytes, the length of a cache line and of the widest vector.
class Scratch {
 public:
  /// At least `count` floats. What was in it is lost if it has to grow.
  float* take(std::size_t count) {
    if (count > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t(64))));
      size_ = count;
    }
    return memory_.get();
  }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

/// Serves one operation at a time. An operation asks for all it needs before it starts its tasks.
class Workspace {
 public:
  float* shared(std::size_t count) { return shared_.take(count); }

  float* operands(std::size_t count) { return operands_.take(count); }

  /// Makes sure that each of the workers has `count` floats.
  void reserve_workers(int workers, std::size_t count) {
    if (count_ < workers) workers_.reset(new Scratch[static_cast<std::size_t>(workers)]), count_ = workers;
    for (int worker = 0; worker < workers; ++worker) workers_[static_cast<std::size_t>(worker)].take(count);
  }
  float* worker(int index) { return workers_[static_cast<std::size_t>(index)].take(0); }

  /// All floats held.
  std::size_t size() const {
    std::size_t total = shared_.size() + operands_.size();
    for (int worker = 0; worker < count_; ++worker) total += workers_[static_cast<std::size_t>(worker)].size();
    return total;
  }

 private:
  Scratch shared_, operands_;
  std::unique_ptr<Scratch[]> workers_;
  int count_ = 0;
};

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

#if defined(VAELIB_CBLAS)
#include <cblas.h>
#endif

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Called once on each finished block of C, while it is in the cache: bias, activation. The block has rows x columns
/// elements at c, rows ldc apart, and begins at (row0, column0) of the whole.
struct Finish {
  void (*run)(const void* context, float* c, long ldc, int rows, int columns, long row0, int column0) = nullptr;
  const void* context = nullptr;
};

namespace detail {

inline constexpr int most_rows = 192;  // rows of one Block

/// How a product is cut into tasks; by its shape only.
struct Cut {
  long rows, columns, chunk;  // of one task; a chunk is a part of k that has its own sum
  long row_tasks, column_tasks, chunks;
  bool parallel_chunks, shared;  // shared: B is packed once for all tasks, which pays when many of them read it

  Cut(long m, int n, long k) {
    const int panel = kernels()->panel_columns;
    shared = m > 768;
    const long panels = ceil_div(n, panel), most = std::max(1, 128 / panel);
    columns = panel * (shared ? most : std::clamp<long>((panels + 5) / 10, std::min(2L, most), most));
    column_tasks = ceil_div(n, columns);
    // Few columns: the rows are shared out too, as long as packing B again for each part is little work.
    rows = shared || column_tasks >= 6 ? m : std::max<long>(60, ceil_div(m, ceil_div(8, column_tasks)));
    if (shared) rows = std::clamp<long>((1L << 20) / (std::min<long>(n, columns) * k), 48, most_rows);
    rows = round_up(rows, tile_rows);
    row_tasks = ceil_div(m, rows);
    chunk = std::max(1024L, round_up(ceil_div(k, 16), block_depth));
    chunks = ceil_div(k, chunk);
    parallel_chunks = chunks > 1 && row_tasks * column_tasks < 8;
  }
};

/// The rows [0, rows) of A for one block of depth, in place or, if they are read often, copied to where this is quick.
class Rows {
 public:
  /// Floats of scratch that a block may need.
  static constexpr std::size_t scratch_size = packed_tiles_size(most_rows);

  Rows(const Matrix& a, int rows, long depth, bool often, float* scratch, Block& block) {
    block.depth = static_cast<int>(depth);
    block.a_rows = offsets;
    block.a_steps = consecutive.steps;
    block.a = a.data;
    for (int i = 0; i < rows; ++i) offsets[i] = i * a.row;
    if (a.step != 1 && !often && a.step < (1L << 31) / block_depth) {
      for (int p = 0; p < block.depth; ++p) steps[p] = static_cast<int>(p * a.step);
      block.a_steps = steps;
    } else if (a.step != 1) {
      pack_tiles(
          a.data, offsets, [&](int p) { return p * a.step; }, rows, block.depth, scratch, offsets);
      block.a = scratch;
      block.a_steps = packed_steps.steps;
    }
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

 private:
  long offsets[most_rows];
  int steps[block_depth];
};

/// Adds a matrix.
inline void add_rows(const float* in, long in_row, float* out, long out_row, long rows, long columns) {
  for (long i = 0; i < rows; ++i) add_run(in + i * in_row, out + i * out_row, columns);
}

/// C = or += 0
inline void product_of_no_depth(long m, int n, float* c, long ldc, bool add, Finish finish) {
  for (long i = 0; i < m && !add; ++i) std::fill(c + i * ldc, c + i * ldc + n, 0.0f);
  for (long i = 0; i < m && finish.run; i += 1 << 20)
    finish.run(finish.context, c + i * ldc, ldc, static_cast<int>(std::min(1L << 20, m - i)), n, i, 0);
}

}  // namespace detail

namespace detail {

/// The tasks of a product. A tile is rows x columns elements of C; its sums over one chunk of k are a part of it.
struct ProductTask {
  const Cut& cut;
  long m;
  int n;
  long k;
  Matrix a, b;
  const float* packed;  // all of B, if shared
  float* partial;       // m x n sums of each chunk but the first, if chunks are tasks
  float* c;
  long ldc;
  bool add;
  Finish finish;
  Multiply kernel;

  struct Tile {
    long i, rows;
    int j, columns;
  };
  long tiles() const { return cut.row_tasks * cut.column_tasks; }
  Tile tile(long index) const {
    const long i = index % cut.row_tasks * cut.rows, j = index / cut.row_tasks * cut.columns;
    return {i, std::min(cut.rows, m - i), static_cast<int>(j), static_cast<int>(std::min<long>(cut.columns, n - j))};
  }
  float* output(const Tile& t) const { return c + t.i * ldc + t.j; }
  float* partial_sums(const Tile& t, long chunk) const { return partial + ((chunk - 1) * m + t.i) * n + t.j; }

  std::size_t b_size() const { return cut.shared ? 0 : static_cast<std::size_t>(cut.columns * block_depth); }
  std::size_t scratch_size() const {
    const bool sums = cut.chunks > 1 && !cut.parallel_chunks;
    return Rows::scratch_size + b_size() + (sums ? static_cast<std::size_t>(cut.rows * cut.columns) : 0);
  }

  /// All of a tile.
  void compute(const Tile& t, float* scratch) const {
    compute_part(t, 0, output(t), ldc, add, scratch);
    float* sums = scratch + Rows::scratch_size + b_size();
    for (long chunk = 1; chunk < cut.chunks; ++chunk) {
      compute_part(t, chunk, sums, t.columns, false, scratch);
      add_rows(sums, t.columns, output(t), ldc, t.rows, t.columns);
    }
    finished(t);
  }
  /// One chunk of a tile, to where add_parts finds it.
  void compute_part(const Tile& t, long chunk, float* scratch) const {
    if (chunk == 0) return compute_part(t, 0, output(t), ldc, add, scratch);
    compute_part(t, chunk, partial_sums(t, chunk), n, false, scratch);
  }
  void add_parts(const Tile& t) const {
    for (long chunk = 1; chunk < cut.chunks; ++chunk)
      add_rows(partial_sums(t, chunk), n, output(t), ldc, t.rows, t.columns);
    finished(t);
  }
  void finished(const Tile& t) const {
    if (finish.run) finish.run(finish.context, output(t), ldc, static_cast<int>(t.rows), t.columns, t.i, t.j);
  }

  void compute_part(const Tile& t, long chunk, float* out, long out_row, bool add_to, float* scratch) const {
    const long end = std::min(k, (chunk + 1) * cut.chunk);
    for (long p = chunk * cut.chunk; p < end; p += block_depth) {
      const long depth = std::min<long>(block_depth, end - p);
      Block block{};
      block.columns = t.columns;
      block.add = add_to || p > chunk * cut.chunk;
      if (cut.shared) {
        block.b = packed + t.j * k;
        block.k = k;
        block.k_begin = p;
      } else {
        float* own = scratch + Rows::scratch_size;
        pack_rows({b.data + p * b.row + t.j * b.step, b.row, b.step}, depth, 0, t.columns, t.columns, own, depth, 0);
        block.b = own;
        block.k = depth;
      }
      for (long r = 0; r < t.rows; r += most_rows)
        multiply(block, {a.data + (t.i + r) * a.row + p * a.step, a.row, a.step}, std::min<long>(most_rows, t.rows - r),
                 depth, out + r * out_row, out_row, scratch);
    }
  }

  void multiply(Block& block, const Matrix& rows_of_a, long rows, long depth, float* out, long out_row,
                float* scratch) const {
    long c_rows[most_rows];
    for (long r = 0; r < rows; ++r) c_rows[r] = r * out_row;
    const Rows gathered(rows_of_a, static_cast<int>(rows), depth, block.columns >= 48, scratch, block);
    block.c = out;
    block.c_rows = c_rows;
    block.rows = static_cast<int>(rows);
    kernel(block);
  }
};

}  // namespace detail

/// Of elements that `kernel` knows how to multiply; see the head of this file.
inline void product(Multiply kernel, Pool& pool, Workspace& workspace, long m, int n, long k, Matrix a, Matrix b,
                    float* c, long ldc, bool add, Finish finish = {}) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return detail::product_of_no_depth(m, n, c, ldc, add, finish);
  const detail::Cut cut(m, n, k);
  const std::size_t b_size = cut.shared ? packed_size(k, n) : 0;
  const long parts = cut.parallel_chunks ? cut.chunks - 1 : 0;
  float* packed = workspace.shared(b_size + static_cast<std::size_t>(parts * m * n));
  const detail::ProductTask work{cut, m, n, k, a, b, packed, packed + b_size, c, ldc, add, finish, kernel};
  workspace.reserve_workers(pool.threads(), work.scratch_size());
  if (cut.shared) pack(pool, b, k, n, packed);
  const long tiles = work.tiles();
  if (cut.parallel_chunks) {
    pool.run(tiles * cut.chunks, [&](long task, int worker) {
      work.compute_part(work.tile(task % tiles), task / tiles, workspace.worker(worker));
    });
    pool.run(tiles, [&](long task) { work.add_parts(work.tile(task)); });
  } else {
    pool.run(tiles, [&](long task, int worker) { work.compute(work.tile(task), workspace.worker(worker)); });
  }
}

#if defined(VAELIB_CBLAS)
/// See the head of this file.
inline void product(Pool& pool, Workspace&, long m, int n, long k, Matrix a, Matrix b, float* c, long ldc, bool add,
                    Finish finish = {}) {
  static const bool one_thread = (openblas_set_num_threads(1), true);
  static_cast<void>(one_thread);
  constexpr long rows = 256;
  pool.run(m > 0 && n > 0 ? (m + rows - 1) / rows : 0, [&](long task) {
    const long i = task * rows;
    const int height = static_cast<int>(std::min(rows, m - i));
    cblas_sgemm(CblasRowMajor, a.step == 1 ? CblasNoTrans : CblasTrans, b.step == 1 ? CblasNoTrans : CblasTrans, height,
                n, static_cast<int>(k), 1.0f, a.data + i * a.row,
                static_cast<int>(std::max(1L, a.step == 1 ? std::max(a.row, k) : a.step)), b.data,
                static_cast<int>(std::max(1L, b.step == 1 ? std::max(b.row, long{n}) : b.step)), add ? 1.0f : 0.0f,
                c + i * ldc, static_cast<int>(ldc));
    if (finish.run) finish.run(finish.context, c + i * ldc, ldc, height, n, i, 0);
  });
}
#else
/// See the head of this file.
inline void product(Pool& pool, Workspace& workspace, long m, int n, long k, Matrix a, Matrix b, float* c, long ldc,
                    bool add, Finish finish = {}) {
  product(kernels()->multiply, pool, workspace, m, n, k, a, b, c, ldc, add, finish);
}
#endif

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// |x - e|^2 in double; x alone: |x|^2.
inline double squared_distance(int width, const float* x, const float* e = nullptr) {
  typedef float Floats __attribute__((vector_size(16), aligned(4), may_alias));
  typedef double Doubles __attribute__((vector_size(32)));
  Doubles sums{};
  int p = 0;
  for (; p + 4 <= width; p += 4) {
    const Floats a = *reinterpret_cast<const Floats*>(x + p), b = e ? *reinterpret_cast<const Floats*>(e + p) : Floats{};
    const Doubles d = __builtin_convertvector(a, Doubles) - __builtin_convertvector(b, Doubles);
    sums += d * d;
  }
  double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (; p < width; ++p) {
    const double d = double(x[p]) - (e ? double(e[p]) : 0.0);
    sum += d * d;
  }
  return sum;
}

/// A search: what all its tasks read, and where they write.
///
/// Scores are those of vectors and codes from which one same vector was taken, about the middle of the codes: distances stay as they
/// are, products become small, and with them what rounding can do. Whether bfloat16 is worth it is tried on some rows: where codes lie
/// so close together that it leaves many in question, floats are quicker.
class NearestCodes {
 public:
  static constexpr int rows_of_task = 36;

  NearestCodes(Pool& p, Workspace& w, long n, int k, int d, const float* vectors, const float* table, std::int32_t* out)
      : pool(p), workspace(w), rows(n), count(k), width(d), x(vectors), codes(table), index(out) {
    choose(kernels()->lanes == 16 && searches_in_bfloat16());
  }

  void run() {
    find_middle();
    for (int begin = 0; begin < count; begin += part) {
      pack_codes(begin);
      if (begin == 0 && pairs && !bfloat16_is_worth_it()) {
        choose(false);
        pack_codes(0);
      }
      pool.run(tasks(), [&](long task, int worker) { search_rows(task, workspace.worker(worker)); });
    }
  }

 private:
  static constexpr int panel = 64;  // codes that one task packs

  void choose(bool in_pairs) {
    pairs = in_pairs;
    steps = pairs ? (width + 1) / 2 : width;
    // a part of the codes: packed, it takes less than a hundredth of the distances, or fits into the second-level cache
    const long most = std::max(1L << 16, rows * count / 160) / std::max(1, steps);
    part = int(std::clamp<long>(most / panel * panel, panel, round_up(count, panel)));
    const bool parts = part < count;
    const std::size_t panels = std::size_t(part) / panel;
    packed = workspace.shared(std::size_t(part) * steps + part + 2 * panels + std::size_t(width) + (parts ? std::size_t(rows) : 0));
    half_norms = packed + long(part) * steps;
    extremes = half_norms + part;
    middle = extremes + 2 * panels;
    leads = parts ? middle + width : nullptr;
    const std::size_t search = rows_of_task * (3 * std::size_t(kernels()->lanes) + std::size_t(width) + (pairs ? std::size_t(steps) : 0));
    workspace.reserve_workers(pool.threads(), std::max(search, std::size_t(panel) * std::size_t(steps) + std::size_t(width)));
    if (!centre.empty()) std::copy(centre.begin(), centre.end(), middle);
  }
  long tasks() const { return (rows + rows_of_task - 1) / rows_of_task; }

  /// The mean of some of the codes.
  void find_middle() {
    centre.assign(std::size_t(width), 0.0f);
    const int stride = std::max(1, count / 64), used = (count + stride - 1) / stride;
    for (int j = 0; j < width; ++j) {
      double sum = 0;
      for (int k = 0; k < count; k += stride) sum += double(codes[long(k) * width + j]);
      centre[std::size_t(j)] = std::isfinite(sum) ? float(sum / used) : 0.0f;
    }
    std::copy(centre.begin(), centre.end(), middle);
  }

  void subtract_middle(const float* from, float* to) const {
    using Vector = VectorOf<4>::Unaligned;
    int j = 0;
    for (; j + 4 <= width; j += 4)
      *reinterpret_cast<Vector*>(to + j) = *reinterpret_cast<const Vector*>(from + j) - *reinterpret_cast<const Vector*>(middle + j);
    for (; j < width; ++j) to[j] = from[j] - middle[j];
  }

  /// The codes from `begin` on, their norms, and how much rounding changed them.
  void pack_codes(int begin) {
    first = begin;
    size = std::min(part, count - begin);
    const int panels = (size + panel - 1) / panel;
    pool.run(panels, [&](long task, int worker) {
      float *words = workspace.worker(worker), *moved = words + long(panel) * steps;
      const int offset = int(task) * panel, columns = std::min(panel, size - offset);
      float norm = 0, change = 0;
      std::fill_n(half_norms + offset, panel, std::numeric_limits<float>::infinity());
      for (int j = 0; j < columns; ++j) {
        float* row = pairs ? moved : words + long(j) * steps;
        subtract_middle(codes + long(first + offset + j) * width, row);
        half_norms[offset + j] = float(0.5 * squared_distance(width, row));
        norm = std::max(norm, half_norms[offset + j]);
        if (pairs) change = std::max(change, float(round_row(row, width, words + long(j) * steps).change));
      }
      // as pack.hpp has it: the last panel is only as wide as the vectors that hold its columns; in pairs all are of 64
      const int wide = kernels()->panel_columns, lanes = kernels()->lanes;
      for (int j = 0; j < columns; j += wide) {
        const int some = std::min(wide, columns - j), vectors = pairs ? panel : int(round_up(some, lanes));
        pack_panel({words + long(j) * steps, 1, steps}, steps, some, packed + long(offset + j) * steps, vectors);
      }
      extremes[2 * task] = norm;
      extremes[2 * task + 1] = std::sqrt(change);
    });
    largest = most_changed = 0;
    for (int t = 0; t < panels; ++t) {
      largest = std::max(largest, double(extremes[2 * t]));
      most_changed = std::max(most_changed, 1.001 * double(extremes[2 * t + 1]));
    }
  }

  /// Whether few codes have to be gone through one by one, on some of the rows.
  bool bfloat16_is_worth_it() const {
    int searched = 0, in_question = 0;
    for (const long task : {0L, tasks() / 2}) {
      searched += rows_of(task);
      in_question += search_rows(task, workspace.worker(0));
    }
    return in_question * 5 <= searched;  // to go through the codes of a lane takes three times what bfloat16 saves for a row
  }

  int rows_of(long task) const { return int(std::min<long>(rows_of_task, rows - task * rows_of_task)); }

  /// Gives how many lanes may have had more candidates than they kept, in all rows.
  int search_rows(long task, float* scratch) const {
    const long begin = task * rows_of_task;
    const int lanes = kernels()->lanes, n = rows_of(task);
    float *best = scratch, *second = best + rows_of_task * lanes, *moved = second + 2 * rows_of_task * lanes;
    float* words = moved + long(rows_of_task) * width;
    auto* at = reinterpret_cast<std::int32_t*>(second + rows_of_task * lanes);
    std::fill(best, best + n * lanes, -std::numeric_limits<float>::infinity());
    std::fill(second, second + n * lanes, -std::numeric_limits<float>::infinity());
    std::fill(at, at + n * lanes, 0);
    Rounding rounding[rows_of_task];
    for (int i = 0; i < n; ++i) {
      float* v = moved + long(i) * width;
      subtract_middle(x + (begin + i) * width, v);
      rounding[i] = pairs ? round_row(v, width, words + long(i) * steps) : Rounding{squared_distance(width, v)};
    }
    const SearchBlock block{pairs ? words : moved, n, steps, packed, half_norms, size, best, second, at};
    pairs ? search_bfloat16(block) : search(block);
    int in_question = 0;
    for (int i = 0; i < n; ++i) in_question += finish(begin + i, rounding[i], best + i * lanes, second + i * lanes, at + i * lanes);
    return in_question;
  }

  /// The best of the lanes of one row against what earlier parts found.
  int finish(long row, const Rounding& rounding, const float* best, const float* second, const std::int32_t* at) const {
    const float top = *std::max_element(best, best + kernels()->lanes), least = top - doubt(rounding);
    if (first > 0 && top < leads[row] - (top - least)) return 0;
    int in_question = 0;
    const int winner = settle(row, least, best, second, at, in_question);
    if (first == 0 || distance(row, first + winner) < distance(row, index[row])) index[row] = first + winner;
    if (leads) leads[row] = first == 0 ? top : std::max(top, leads[row]);
    return in_question;
  }

  /// By how much a score may lie behind another whose code is farther: twice what rounding can have done to one. That is a sum of
  /// width + 1 fused products from |e|^2 / 2 on, and differences from the middle before; and in bfloat16 the changes of x and e, by the
  /// Cauchy-Schwarz inequality.
  float doubt(const Rounding& rounding) const {
    const double norm = std::sqrt(rounding.norm), change = std::sqrt(rounding.change), code = std::sqrt(2 * largest);
    const double sums = 1.01 * (width + 7) * 0x1p-24 * (norm * code + largest) + width * 0x1p-125;
    return float(2 * (sums + change * (code + most_changed) + norm * most_changed));
  }
  double distance(long row, int code) const { return squared_distance(width, x + row * width, codes + long(code) * width); }

  /// The nearest of the codes of this part whose score is not below `least`. Where numbers are not finite, of all codes.
  int settle(long row, float least, const float* best, const float* second, const std::int32_t* at, int& in_question) const {
    const int lanes = kernels()->lanes;
    const bool all = !std::isfinite(least);
    int winner = -1, candidates = 0;
    for (int k = 0; k < lanes && !all; ++k) {
      if (best[k] >= least) winner = at[k] + k;
      candidates += best[k] >= least;
      in_question += second[k] >= least;
    }
    if (candidates == 1 && in_question == 0) return winner;
    double smallest = std::numeric_limits<double>::infinity();
    winner = 0;
    const auto compare = [&](int j) {
      const double d = distance(row, first + j);
      if (d < smallest || (d == smallest && j < winner)) smallest = d, winner = j;
    };
    for (int k = 0; k < lanes; ++k) {
      if (all || second[k] >= least) {
        for (int j = k; j < size; j += lanes) compare(j);
      } else if (best[k] >= least) {
        compare(at[k] + k);
      }
    }
    return winner;
  }

  Pool& pool;
  Workspace& workspace;
  long rows;
  int count, width;
  const float *x, *codes;
  std::int32_t* index;
  bool pairs = false;                      // whether scores are computed in bfloat16
  int steps = 0;                           // words of a row
  int part = 0, first = 0, size = 0;       // codes of a part, and of this one
  std::vector<float> centre;               // kept while packed moves
  float *packed = nullptr, *half_norms = nullptr, *extremes = nullptr, *middle = nullptr, *leads = nullptr;
  double largest = 0, most_changed = 0;    // |e|^2 / 2 and |e - e in bfloat16| of this part
};

}  // namespace detail

/// See the head of this file. x is rows x width, codes is count x width.
inline void nearest_codes(Pool& pool, Workspace& workspace, long rows, int count, int width, const float* x, const float* codes, std::int32_t* index) {
  if (rows > 0) detail::NearestCodes(pool, workspace, rows, count, width, x, codes, index).run();
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
// What a processor computes products and convolutions in: float, or bfloat16 (bfloat16.hpp).

// Convolution of images with channels last, its adjoint and the gradient of its weight, as products without a matrix of
// windows.
//
//   y[o, :] (+)= sum over kernel position d of x[o * stride + d - padding, :] weight[d]        (here in one dimension)
//
// Every output is summed in one order that depends on the shape alone: the same bits for any number of threads and any
// split of the batch.

#include <algorithm>
// The adjoint of a convolution: the gradient of its input, and the forward pass of a transposed convolution.
//
//   x[i, :] (+)= sum over outputs o and kernel positions d with o * stride + d - padding = i of weight[d] y[o]
//
// The pixels of x fall into stride x stride phases. Those of one phase are touched by the same kernel positions only,
// so each phase is a small convolution of stride 1 over y: no multiplication by zero, and every pixel is finished at
// once. With few channels (an image's colours) that would leave the vectors nearly empty; then all kernel positions are
// columns of one product instead, and its rows are added into x in a fixed order.

#include <algorithm>
#include <utility>
// What the three products of a convolution share: its shape, copies of parts of an image with their border of zeros,
// and the blocks of depth.
//
// A window of an image with channels last is kernel_height runs of kernel_width * channels neighbouring floats. So the
// product needs no matrix of windows (im2col): it reads the runs in place, as segments of depth, from a copy that has
// the border.

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

inline constexpr int most_pixels = 192;  // rows of one Block of a convolution

/// The rows of an image copied with a border are an odd number of cache lines apart: a power of two would put the
/// pixels of one column all into the same few places of the cache.
constexpr long pitch_of(long floats) { return ceil_div(floats, 16) / 2 * 32 + 16; }

/// Images of one size, channels last.
struct Images {
  const float* data;
  int height, width, channels;

  /// Copies rows [row, row + rows) and columns [column, column + columns) of an image; outside of it lie zeros.
  void copy(long image, long row, long rows, long column, long columns, float* out, long pitch) const {
    const long left = std::clamp<long>(-column, 0, columns), right = std::clamp<long>(width - column, left, columns);
    const float* in = data + image * height * width * channels;
    for (long r = row; r < row + rows; ++r, out += pitch) {
      if (r < 0 || r >= height || left == right) {
        std::fill(out, out + columns * channels, 0.0f);
        continue;
      }
      std::fill(out, out + left * channels, 0.0f);
      std::memcpy(out + left * channels, in + (r * width + column + left) * channels,
                  static_cast<std::size_t>((right - left) * channels) * sizeof(float));
      std::fill(out + right * channels, out + columns * channels, 0.0f);
    }
  }
};

/// Calls f(image, row, rows, done) for the part of each image in rows [first, last), counted through all images of
/// `height` rows; `done` rows came before.
template <class F>
void for_each_image(long first, long last, int height, F&& f) {
  for (long r = first; r < last;) {
    const long image = r / height, row = r % height, rows = std::min(height - row, last - r);
    f(image, row, rows, r - first);
    r += rows;
  }
}

/// The depth of windows that are `segments` runs of `run` floats, `pitch` apart, in blocks of whole runs or, where
/// these are long, of parts of a run. Calls f(steps, first, depth): the offsets of the depth's elements, and their
/// place in k.
template <class F>
void for_each_depth_block(int segments, long run, long pitch, F&& f) {
  const long part = std::min<long>(run, block_depth), group = run > block_depth ? 1 : block_depth / std::max(1L, run);
  int steps[block_depth];
  for (long s = 0; s < segments; s += group)
    for (long at = 0; at < run; at += part) {
      int depth = 0;
      for (long r = s; r < std::min<long>(segments, s + group); ++r)
        for (long i = at; i < std::min(run, at + part); ++i) steps[depth++] = static_cast<int>(r * pitch + i);
      f(steps, s * run + at, depth);
    }
}

/// The windows that rows of outputs see, kernel rows [kernel_row, kernel_row + kernel_rows) of them.
struct Windows {
  const ConvolutionShape& shape;
  int kernel_row, kernel_rows;

  long columns() const { return long{shape.out_width - 1} * shape.stride + shape.kernel_width; }
  long pitch() const { return pitch_of(columns() * shape.channels); }
  long rows_of(long out_rows) const {
    return kernel_rows < shape.stride ? out_rows * kernel_rows : (out_rows - 1) * shape.stride + kernel_rows;
  }
  /// Floats that the windows of `out_rows` rows of outputs may take, wherever they begin.
  std::size_t size(long out_rows) const {
    const long images = out_rows / shape.out_height + 2;
    const long rows = out_rows * std::min(shape.stride, kernel_rows) + images * std::max(0, kernel_rows - shape.stride);
    return static_cast<std::size_t>(rows * pitch());
  }
  /// Copies the windows of the output rows [first, last); row_begin[r] becomes the offset of those of row first + r.
  void gather(const float* x, long first, long last, float* out, long* row_begin) const {
    const Images images{x, shape.height, shape.width, shape.channels};
    const long step = rows_of(2) - rows_of(1);
    long at = 0;
    for_each_image(first, last, shape.out_height, [&](long image, long row, long rows, long done) {
      const long top = row * shape.stride - shape.padding + kernel_row;
      for (long r = 0; r < rows; ++r) row_begin[done + r] = at + r * step * pitch();
      if (kernel_rows < shape.stride) {
        for (long r = 0; r < rows; ++r)
          images.copy(image, top + r * shape.stride, kernel_rows, -shape.padding, columns(), out + row_begin[done + r],
                      pitch());
      } else {
        images.copy(image, top, rows_of(rows), -shape.padding, columns(), out + at, pitch());
      }
      at += rows_of(rows) * pitch();
    });
  }
};

}  // namespace detail
}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
// Convolutions with fewer multiplications: see winograd_transforms.hpp.
//
// A convolution of stride s is the sum of s x s convolutions of stride 1, one for each phase of the image; these share
// one sum of products, for the transform of the outputs is linear. In the adjoint each phase of x is a convolution of y
// of its own, with the kernel turned. Every output is summed in one order that depends on the shape alone.

#include <algorithm>
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

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// The pixels of one phase of images: pixel (i, j) of tile (y, x) is row (2 y + i) * stride + top of the image, and the
/// column likewise.
struct PhasePixels {
  int height, width, channels, stride, top, left;

  /// The offsets among all images of the count x count first pixels of a tile, or -1 for those outside.
  [[gnu::noinline]] void offsets(long image, int y, int x, int count,
                                 long (&out)[most_positions][most_positions]) const {
    const int row = 2 * y * stride + top, column = 2 * x * stride + left;
    const long first = ((image * height + row) * width + column) * channels;
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < count; ++j) {
        const int r = row + i * stride, c = column + j * stride;
        const bool inside = r >= 0 && r < height && c >= 0 && c < width;
        out[i][j] = inside ? first + (long{i} * width + j) * stride * channels : -1;
      }
  }
};

/// A convolution, or its adjoint, in tiles of 2 x 2 outputs.
struct Winograd {
  const ConvolutionShape& s;
  bool adjoint;
  int taps, positions, all_positions, phases;
  int sources, targets;  // phases read by one product, phases written one after another
  int source_channels, columns;
  long k;
  int tile_rows, tile_columns;
  PhasePixels source[4], target[4];

  [[gnu::cold]] Winograd(const ConvolutionShape& shape, bool is_adjoint)
      : s(shape),
        adjoint(is_adjoint),
        taps(s.kernel_height / s.stride),
        positions(taps + 1),
        all_positions(positions * positions),
        phases(s.stride * s.stride),
        sources(adjoint ? 1 : phases),
        targets(adjoint ? phases : 1),
        source_channels(adjoint ? s.out_channels : s.channels),
        columns(adjoint ? s.channels : s.out_channels),
        k(long{sources} * source_channels),
        tile_rows(static_cast<int>(ceil_div(adjoint ? ceil_div(s.height, s.stride) : s.out_height, 2))),
        tile_columns(static_cast<int>(ceil_div(adjoint ? ceil_div(s.width, s.stride) : s.out_width, 2))) {
    for (int phase = 0; phase < phases; ++phase) {
      const int row = phase / s.stride, column = phase % s.stride;
      const PhasePixels y{s.out_height, s.out_width, s.out_channels, 1, 0, 0};
      PhasePixels x{s.height, s.width, s.channels, s.stride, row - s.padding, column - s.padding};
      source[phase] = adjoint ? y : x;
      target[phase] = adjoint ? x : y;
      if (!adjoint) continue;
      // The first pixels of x in this phase, and those of y that they need first.
      target[phase].top = ((row - s.padding) % s.stride + s.stride) % s.stride;
      target[phase].left = ((column - s.padding) % s.stride + s.stride) % s.stride;
      source[phase].top = (target[phase].top + s.padding - row) / s.stride - (taps - 1);
      source[phase].left = (target[phase].left + s.padding - column) / s.stride - (taps - 1);
    }
  }

  /// Whether these sizes are known here, and quicker. Measured on Zen 4, in multiplications: 12 to transform a number of
  /// an image; 1 an image, in a batch of about 32, to transform and pack a weight. The rest is a margin of 1 / 7.
  [[gnu::cold]] static bool pays(const ConvolutionShape& s) {
    const bool three = s.kernel_height == 3 && s.kernel_width == 3 && s.stride == 1;
    const bool four = s.kernel_height == 4 && s.kernel_width == 4 && s.stride == 2;
    if (!(three || four) || s.channels % 16 != 0 || s.out_channels % 16 != 0) return false;
    const long products = long{s.channels} * s.out_channels, phases = long{s.stride} * s.stride;
    const long plain = products * s.kernel_height * s.kernel_width * s.out_height * s.out_width;
    const long tiles = ceil_div(s.out_height, 2) * ceil_div(s.out_width, 2);
    const long transformed = 12 * (phases * s.channels + s.out_channels);
    const long cost = (three ? 16 : 9) * ((tiles + 1) * phases * products + tiles * transformed);
    return products <= 256 * 256 && plain > cost + cost / 7;
  }

  /// f(index, image, row, column) for some tiles, counted through all images.
  template <class F>
  void for_each_tile(long tile, int count, F&& f) const {
    int column = static_cast<int>(tile % tile_columns), row = static_cast<int>(tile / tile_columns % tile_rows);
    long image = tile / tile_columns / tile_rows;
    for (int i = 0; i < count; ++i) {
      f(i, image, row, column);
      if (++column == tile_columns) column = 0, ++row;
      if (row == tile_rows) row = 0, ++image;
    }
  }

  /// Where in the kernel a tap of a phase lies.
  long place(int phase, int tap) const {
    const int i = tap / taps, j = tap % taps;
    return (phase / s.stride + long{s.stride} * i) * s.kernel_width + phase % s.stride + s.stride * j;
  }
  /// Its factor in G g G^T.
  float factor(int position, int tap) const {
    return weight_factor(positions, position / positions, tap / taps) *
           weight_factor(positions, position % positions, tap % taps);
  }

  /// Packs G g G^T, at one position, of the channels of one phase from `channel` on that share a panel of the adjoint.
  [[gnu::cold]] void pack_weights(const float* weight, int position, int phase, int channel, float* plain,
                                  float* packed) const {
    const int channels = std::min(kernels()->panel_columns, s.channels - channel);
    Terms of;
    for (int tap = 0; tap < taps * taps; ++tap)  // turned in the adjoint
      of.append(weight + (place(phase, tap) * s.channels + channel) * s.out_channels,
                factor(position, adjoint ? taps * taps - 1 - tap : tap));
    transforms().sum(of, plain, long{channels} * s.out_channels, false);
    packed += ((adjoint ? phase * all_positions : 0) + position) * packed_size(k, columns);
    if (adjoint) {
      pack_rows({plain, 1, s.out_channels}, k, 0, channels, channels, packed + channel * k, k, 0);
    } else {
      pack_rows({plain, columns, 1}, channels, 0, columns, columns, packed, k, long{phase} * s.channels + channel);
    }
  }
};

/// Transforms some tiles, phase after phase. To `tile.positions` of the first come the others `pitch` floats apart.
struct SpreadTiles {
  const Winograd& shape;
  const PhasePixels* from;
  int phases;
  const float* data;   // the first of the channels
  const float* zeros;  // what lies outside of the images
  long pitch;
  bool outputs;
  SpreadTile tile;

  void run(long first, int count) {
    const int width = outputs ? 2 : shape.positions;
    float* const begin = tile.positions;
    long at[most_positions][most_positions];
    shape.for_each_tile(first, count, [&](int index, long image, int y, int x) {
      for (int phase = 0; phase < phases; ++phase) {
        from[phase].offsets(image, y, x, width, at);
        for (int i = 0; i < width; ++i)
          for (int j = 0; j < width; ++j) tile.pixels[i][j] = at[i][j] < 0 ? zeros : data + at[i][j];
        tile.positions = begin + index * pitch + phase * tile.channels;
        transforms().spread(tile, shape.positions, outputs);
      }
    });
  }
};

/// The products of some positions, each with operands and results `apart` floats from those of the one before.
struct PositionProducts {
  const float* a;  // element (i, p) at i * a_row + p * a_step
  long a_row, a_step, a_apart;
  const float* b;  // packed, all of k
  long b_apart;
  float* c;
  long c_row, c_apart;
  long rows, k;
  int columns;
  bool add;

  [[gnu::cold]] void run(int positions) const {
    long a_rows[most_pixels], c_rows[most_pixels];
    int steps[block_depth];
    for (int i = 0; i < most_pixels; ++i) a_rows[i] = i * a_row, c_rows[i] = i * c_row;
    for (int p = 0; p < block_depth; ++p) steps[p] = static_cast<int>(p * a_step);
    Block block{};
    block.a_rows = a_rows;
    block.a_steps = steps;
    block.c_rows = c_rows;
    block.k = k;
    block.columns = columns;
    for (int position = 0; position < positions; ++position)
      for (long i = 0; i < rows; i += most_pixels)
        for (long p = 0; p < k; p += block_depth) {
          block.a = a + position * a_apart + i * a_row + p * a_step;
          block.b = b + position * b_apart;
          block.c = c + position * c_apart + i * c_row;
          block.rows = static_cast<int>(std::min<long>(most_pixels, rows - i));
          block.depth = static_cast<int>(std::min<long>(block_depth, k - p));
          block.k_begin = p;
          block.add = add || p > 0;
          kernels()->multiply(block);
        }
  }
};

/// Rows of tiles, counted through all images, times columns.
struct WinogradTask {
  const Winograd& shape;
  const float* in;
  const float* packed;  // for each target and position k x columns
  float* out;
  bool add;
  int tiles;  // at a time; more would not fit into the second-level cache
  long pitch, apart, sums_pitch, sums_apart, ends;

  WinogradTask(const Winograd& w, const float* from, const float* weights, float* to, bool add_to)
      : shape(w), in(from), packed(weights), out(to), add(add_to) {
    const long most = (600L << 10) / (4 * w.all_positions * (w.k + w.columns));
    tiles = static_cast<int>(std::clamp<long>(most, 24, most_pixels)) / cpu::tile_rows * cpu::tile_rows;
    pitch = pitch_of(w.k);
    sums_pitch = pitch_of(w.columns);
    apart = tiles * pitch + 16;  // odd numbers of cache lines, see pitch_of
    sums_apart = tiles * sums_pitch + 16;
    ends = std::max(w.source_channels, w.columns);
  }
  std::size_t scratch_size() const {
    return static_cast<std::size_t>(shape.all_positions * (apart + sums_apart) + 2 * ends);
  }

  [[gnu::cold]] void run(long first, long last, int column, int count, float* scratch) const {
    float *sums = scratch + shape.all_positions * apart, *zeros = sums + shape.all_positions * sums_apart;
    std::fill(zeros, zeros + 2 * ends, 0.0f);
    const long b_apart = static_cast<long>(packed_size(shape.k, shape.columns));
    const long end = last * shape.tile_columns;
    for (int target = 0; target < shape.targets; ++target)
      for (long tile = first * shape.tile_columns; tile < end; tile += tiles) {
        const int here = static_cast<int>(std::min<long>(tiles, end - tile));
        SpreadTiles{shape,         &shape.source[target],
                    shape.sources, in,
                    zeros,         pitch,
                    false,         {{}, scratch, apart, shape.source_channels, 0, shape.positions}}
            .run(tile, here);
        const float* b = packed + target * shape.all_positions * b_apart + column * shape.k;
        PositionProducts{scratch,    pitch,      1,    apart,   b,     b_apart, sums,
                         sums_pitch, sums_apart, here, shape.k, count, false}
            .run(shape.all_positions);
        write(shape.target[target], tile, here, column, count, sums, zeros + ends);
      }
  }
  [[gnu::noinline]] void write(const PhasePixels& to, long tile, int count, int column, int channels, const float* sums,
                               float* outside) const {
    CollectTile work{nullptr, sums_apart, {}, channels, add};
    long at[most_positions][most_positions];
    shape.for_each_tile(tile, count, [&](int index, long image, int y, int x) {
      to.offsets(image, y, x, 2, at);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) work.pixels[i][j] = at[i][j] < 0 ? outside : out + at[i][j] + column;
      work.positions = sums + index * sums_pitch;
      transforms().collect(work, shape.positions);
    });
  }
};

}  // namespace detail

/// y (+)= convolution of x, or x (+)= adjoint convolution of y. The Finish sees rows = pixels, columns = channels.
[[gnu::cold]] inline void winograd(Pool& pool, Workspace& workspace, const ConvolutionShape& s, bool adjoint,
                                   long images, const float* in, const float* weight, float* out, bool add,
                                   Finish finish = {}) {
  if (images <= 0) return;
  const detail::Winograd shape(s, adjoint);
  const int n = shape.columns, panel = kernels()->panel_columns, all = shape.all_positions * shape.phases;
  float* packed = workspace.shared(packed_size(shape.k, n) * shape.all_positions * shape.targets);
  const detail::WinogradTask work(shape, in, packed, out, add);
  workspace.reserve_workers(pool.threads(),
                            std::max(work.scratch_size(), static_cast<std::size_t>(panel) * s.out_channels));
  pool.run(all * detail::ceil_div(s.channels, panel), [&](long task, int worker) {
    const int index = static_cast<int>(task % all), channel = static_cast<int>(task / all) * panel;
    shape.pack_weights(weight, index / shape.phases, index % shape.phases, channel, workspace.worker(worker), packed);
  });

  const long rows = images * shape.tile_rows, most = std::max(1, work.tiles / shape.tile_columns);
  const long task_rows = most < 3 ? most : most - most % 3;  // often a multiple of the rows of a register tile
  const long tasks = detail::ceil_div(rows, task_rows);
  const long groups = tasks >= 8 ? 1 : std::min(4L, detail::ceil_div(8, tasks));  // few images: columns are shared out
  const int columns = static_cast<int>(round_up(detail::ceil_div(n, groups), panel));
  pool.run(tasks * detail::ceil_div(n, columns), [&](long task, int worker) {
    const long first = task % tasks * task_rows, last = std::min(rows, first + task_rows);
    const int column = static_cast<int>(task / tasks) * columns, count = std::min(columns, n - column);
    work.run(first, last, column, count, workspace.worker(worker));
    if (!finish.run) return;
    const int height = adjoint ? s.height : s.out_height, width = adjoint ? s.width : s.out_width;
    const int apart = adjoint ? 2 * s.stride : 2;  // rows of pixels in a row of tiles
    detail::for_each_image(first, last, shape.tile_rows, [&](long image, long row, long row_count, long) {
      const long begin = row * apart, end = std::min<long>(height, (row + row_count) * apart);
      const long pixel = (image * height + begin) * width;
      const int pixels = static_cast<int>((end - begin) * width);
      if (pixels > 0) finish.run(finish.context, out + pixel * n + column, n, pixels, count, pixel, column);
    });
  });
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// Largest q with q * stride <= i, also for negative i.
constexpr long floor_div(long i, long stride) { return i >= 0 ? i / stride : -((-i + stride - 1) / stride); }

/// One phase: its first kernel position and the number of positions in both directions.
struct Phase {
  const ConvolutionShape& shape;
  int row, column, rows, columns;

  Phase(const ConvolutionShape& s, int index)
      : shape(s),
        row(index / s.stride),
        column(index % s.stride),
        rows((s.kernel_height - row + s.stride - 1) / s.stride),
        columns((s.kernel_width - column + s.stride - 1) / s.stride) {
    if (row >= s.kernel_height) rows = 0;
    if (column >= s.kernel_width) columns = 0;
  }
  long k() const { return long{rows} * columns * shape.out_channels; }
  long first(int phase) const {  // the first pixel of a row or column of x in the phase
    return ((phase - shape.padding) % shape.stride + shape.stride) % shape.stride;
  }

  /// Packs the weight: rows (u, v, output channel) in the order in which y is read, backwards through the kernel.
  void pack(const float* weight, float* packed) const {
    for (int tap = 0; tap < rows * columns; ++tap) {
      const long y = row + long{shape.stride} * (rows - 1 - tap / columns);
      const long x = column + long{shape.stride} * (columns - 1 - tap % columns);
      const float* from = weight + (y * shape.kernel_width + x) * shape.channels * shape.out_channels;
      pack_rows({from, 1, shape.out_channels}, shape.out_channels, 0, shape.channels, shape.channels, packed, k(),
                long{tap} * shape.out_channels);
    }
  }
};

/// Rows of x, counted through all images, from the phases.
struct AdjointTask {
  const ConvolutionShape& shape;
  const float* y;
  const float* packed;  // all phases
  float* x;
  bool add;
  Multiply kernel;

  long reach() const { return ceil_div(shape.kernel_height, shape.stride); }  // most kernel positions in a phase
  long left() const { return shape.padding / shape.stride - (ceil_div(shape.kernel_width, shape.stride) - 1); }
  long columns() const { return (shape.width - 1 + shape.padding) / shape.stride + 1 - left(); }
  long pitch() const { return pitch_of(columns() * shape.out_channels); }
  std::size_t scratch_size(long rows) const {
    const long images = rows / shape.height + 2;
    return static_cast<std::size_t>((rows / shape.stride + images * (reach() + 2)) * pitch());
  }

  /// Copies the rows of y that rows [first, last) of x need; row_begin: where they begin for each row of x.
  void gather(long first, long last, float* out, long* row_begin) const {
    const Images images{y, shape.out_height, shape.out_width, shape.out_channels};
    long at = 0;
    for_each_image(first, last, shape.height, [&](long image, long row, long rows, long done) {
      const long begin = (row + shape.padding) / shape.stride,
                 end = (row + rows - 1 + shape.padding) / shape.stride + 1;
      for (long r = 0; r < rows; ++r)
        row_begin[done + r] = at + ((row + r + shape.padding) / shape.stride - begin) * pitch();
      images.copy(image, begin - (reach() - 1), end - begin + reach() - 1, left(), columns(), out + at, pitch());
      at += (end - begin + reach() - 1) * pitch();
    });
  }

  void run(long first, long last, float* scratch) const {
    long row_begin[4 * most_pixels];
    gather(first, last, scratch, row_begin);
    const float* weight = packed;
    for (int index = 0; index < shape.stride * shape.stride; ++index) {
      const Phase phase(shape, index);
      run_phase(phase, first, last, weight, scratch, row_begin);
      weight += packed_size(phase.k(), shape.channels);
    }
  }

  void run_phase(const Phase& phase, long first, long last, const float* weight, const float* window,
                 const long* row_begin) const {
    long a_rows[most_pixels], c_rows[most_pixels];
    int count = 0;
    const long top = (reach() - phase.rows) * pitch();
    for (long r = first; r < last; ++r) {
      if ((r % shape.height + shape.padding) % shape.stride != phase.row) continue;
      for (long i = phase.first(phase.column); i < shape.width; i += shape.stride) {
        const long column = (i + shape.padding) / shape.stride - (phase.columns - 1) - left();
        a_rows[count] = row_begin[r - first] + top + column * shape.out_channels;
        c_rows[count++] = (r * shape.width + i) * shape.channels;
        if (count == most_pixels) multiply(phase, weight, window, a_rows, c_rows, std::exchange(count, 0));
      }
    }
    if (count > 0) multiply(phase, weight, window, a_rows, c_rows, count);
  }

  void multiply(const Phase& phase, const float* weight, const float* window, const long* a_rows, const long* c_rows,
                int rows) const {
    if (phase.k() == 0) {
      for (int i = 0; i < rows && !add; ++i) std::fill(x + c_rows[i], x + c_rows[i] + shape.channels, 0.0f);
      return;
    }
    const long run = long{phase.columns} * shape.out_channels;
    Block block{};
    block.a_rows = a_rows;
    block.c_rows = c_rows;
    block.a = window;
    block.b = weight;
    block.k = phase.k();
    block.c = x;
    block.rows = rows;
    block.columns = shape.channels;
    block.add = add;
    for_each_depth_block(phase.rows, run, pitch(), [&](const int* steps, long first, int depth) {
      block.a_steps = steps;
      block.depth = depth;
      block.k_begin = first;
      kernel(block);
      block.add = true;
    });
  }
};

/// Rows of x, counted through all images, for few channels: all kernel positions as columns.
struct ColumnTask {
  const ConvolutionShape& shape;
  const float* y;
  const float* packed;  // out_channels x (kernel_height, kernel_width, channels)
  float* x;
  bool add;
  Multiply kernel;

  int columns() const { return shape.kernel_height * shape.kernel_width * shape.channels; }
  long group() const { return std::max(1, 96 / shape.out_width); }  // rows of y at a time
  std::size_t scratch_size() const { return static_cast<std::size_t>(group() * shape.out_width * columns()); }

  void run(long first, long last, float* scratch) const {
    const long size = long{shape.width} * shape.channels;
    if (!add) std::fill(x + first * size, x + last * size, 0.0f);
    for_each_image(first, last, shape.height, [&](long image, long row, long rows, long) {
      const long begin = std::max(0L, -floor_div(shape.kernel_height - 1 - row - shape.padding, shape.stride));
      const long end = std::min<long>(shape.out_height, (row + rows - 1 + shape.padding) / shape.stride + 1);
      for (long o = begin; o < end; o += group()) {
        const long count = std::min(group(), end - o);
        multiply((image * shape.out_height + o) * shape.out_width, count * shape.out_width, scratch);
        for (long i = 0; i < count; ++i)
          scatter(o + i, row, row + rows, x + image * shape.height * size, scratch + i * shape.out_width * columns());
      }
    });
  }

  void multiply(long pixel, long pixels, float* out) const {
    long a_rows[most_pixels], c_rows[most_pixels];
    for (int i = 0; i < most_pixels; ++i) {
      a_rows[i] = i * shape.out_channels;
      c_rows[i] = i * columns();
    }
    for (long p = 0; p < pixels; p += most_pixels)
      for (long k = 0; k < shape.out_channels; k += block_depth) {
        Block block{};
        block.a = y + (pixel + p) * shape.out_channels + k;
        block.a_rows = a_rows;
        block.a_steps = consecutive.steps;
        block.depth = static_cast<int>(std::min<long>(block_depth, shape.out_channels - k));
        block.b = packed;
        block.k = shape.out_channels;
        block.k_begin = k;
        block.c = out + p * columns();
        block.c_rows = c_rows;
        block.rows = static_cast<int>(std::min<long>(most_pixels, pixels - p));
        block.columns = columns();
        block.add = k > 0;
        kernel(block);
      }
  }

  /// Adds one row of y's columns into rows [begin, end) of an image. Neighbours overlap, so that adding them one after
  /// another would wait for the store before; those a few pixels apart do not.
  void scatter(long o, long begin, long end, float* image, const float* from) const {
    const long run = long{shape.kernel_width} * shape.channels, size = long{shape.width} * shape.channels;
    const long apart = ceil_div(shape.kernel_width, shape.stride);
    for (long d = 0; d < shape.kernel_height; ++d) {
      const long row = o * shape.stride - shape.padding + d;
      if (row < begin || row >= end) continue;
      for (long start = 0; start < apart; ++start)
        for (long p = start; p < shape.out_width; p += apart) {
          const long at = (p * shape.stride - shape.padding) * shape.channels;
          const long low = std::max(0L, -at), high = std::min(run, size - at);
          add_run(from + p * columns() + d * run + low, image + row * size + at + low, high - low);
        }
    }
  }
};

inline constexpr int few_channels = 4;

}  // namespace detail

/// x (+)= adjoint convolution of y. The Finish sees rows = pixels of x, columns = channels.
inline void convolution_adjoint(Multiply kernel, Pool& pool, Workspace& workspace, const ConvolutionShape& shape,
                                long images, const float* y, const float* weight, float* x, bool add,
                                Finish finish = {}) {
  const long rows = images * shape.height;
  if (rows <= 0 || shape.width <= 0 || shape.channels <= 0) return;
  const auto run = [&](long task_rows, const auto& work) {
    pool.run(detail::ceil_div(rows, task_rows), [&](long task, int worker) {
      const long first = task * task_rows, last = std::min(rows, first + task_rows);
      work.run(first, last, workspace.worker(worker));
      const long pixel = first * shape.width;
      if (finish.run)
        finish.run(finish.context, x + pixel * shape.channels, shape.channels,
                   static_cast<int>((last - first) * shape.width), shape.channels, pixel, 0);
    });
  };
  if (shape.channels <= detail::few_channels) {
    const int n = shape.kernel_height * shape.kernel_width * shape.channels;
    float* packed = workspace.shared(packed_size(shape.out_channels, n));
    pack(pool, {weight, 1, shape.out_channels}, shape.out_channels, n, packed);
    const detail::ColumnTask work{shape, y, packed, x, add, kernel};
    workspace.reserve_workers(pool.threads(), work.scratch_size());
    return run(std::clamp<long>(4096 / shape.width, 1, shape.height), work);
  }
  const int phases = shape.stride * shape.stride;
  std::size_t size = 0;
  for (int i = 0; i < phases; ++i) size += packed_size(detail::Phase(shape, i).k(), shape.channels);
  float* packed = workspace.shared(size);
  pool.run(phases, [&](long index) {
    std::size_t before = 0;
    for (int i = 0; i < index; ++i) before += packed_size(detail::Phase(shape, i).k(), shape.channels);
    detail::Phase(shape, static_cast<int>(index)).pack(weight, packed + before);
  });
  const detail::AdjointTask work{shape, y, packed, x, add, kernel};
  const long most = 4 * detail::most_pixels;
  const long task_rows = std::clamp<long>(phases * detail::most_pixels / shape.width, 1, std::min(most, rows));
  workspace.reserve_workers(pool.threads(), work.scratch_size(task_rows));
  run(task_rows, work);
}
inline void convolution_adjoint(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                                const float* y, const float* weight, float* x, bool add, Finish finish = {}) {
  if (detail::Winograd::pays(shape))
    return winograd(pool, workspace, shape, true, images, y, weight, x, add, finish);
  convolution_adjoint(kernels()->multiply, pool, workspace, shape, images, y, weight, x, add, finish);
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
// The gradient of a convolution's weight:
//
//   dweight[d] (+)= sum over images and outputs o of x[o * stride + d - padding]^T dy[o]
//
// A product whose depth is all output pixels. The depth is cut into chunks of rows of outputs, by the shape and the
// number of images only; their sums are added one after another.

#include <algorithm>
// The gradient of a convolution's weight by the adjoint of Winograd's algorithm (see winograd_transforms.hpp):
//
//   dg (+)= G^T [ sum over tiles (B^T d B) .* (A dY A^T) ] G
//
// For each position a product [channels x tiles] [tiles x out_channels]. A row of positions is one task, which computes
// that row of both transforms only: so its operands and sums fit into the second-level cache. The tiles are cut into
// chunks, by the shape and the number of images only; their sums are added one after another.

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

inline constexpr long piece = 512;  // floats of the weight

/// A row of positions and a chunk of the tiles.
struct WinogradGradientTask {
  const Winograd& shape;  // of the convolution, not of its adjoint
  const float* x;
  const float* y_gradient;
  long tiles;  // at a time
  long pitch, apart, packed_apart, ends;

  WinogradGradientTask(const Winograd& w, const float* data, const float* gradient)
      : shape(w), x(data), y_gradient(gradient) {
    tiles = std::clamp<long>((448L << 10) / (4 * w.positions * (w.k + w.columns)), 24, block_depth);
    pitch = pitch_of(w.k);
    apart = tiles * pitch + 16;
    packed_apart = tiles * w.columns + 16;
    ends = std::max(w.source_channels, w.columns);
  }
  std::size_t scratch_size() const { return static_cast<std::size_t>(shape.positions * (apart + packed_apart) + ends); }

  /// sums: of this row of positions, each k x columns.
  [[gnu::cold]] void run(int row, long first, long last, float* sums, float* scratch) const {
    float *packed = scratch + shape.positions * apart, *zeros = packed + shape.positions * packed_apart;
    std::fill(zeros, zeros + ends, 0.0f);
    const int n = shape.columns, panel = kernels()->panel_columns;
    for (long tile = first; tile < last; tile += tiles) {
      const int count = static_cast<int>(std::min(tiles, last - tile));
      SpreadTiles{shape, shape.source, shape.sources, x,
                  zeros, pitch,        false,         {{}, scratch, apart, shape.source_channels, row, row + 1}}
          .run(tile, count);
      for (int column = 0; column < n; column += panel) {  // straight into panels
        const int columns = std::min(panel, n - column);
        SpreadTiles{shape, shape.target, 1,    y_gradient + column,
                    zeros, columns,      true, {{}, packed + column * count, packed_apart, columns, row, row + 1}}
            .run(tile, count);
      }
      PositionProducts{scratch, 1,           pitch,   apart, packed, packed_apart, sums,
                       n,       shape.k * n, shape.k, count, n,      tile > first}
          .run(shape.positions);
    }
  }
  /// G^T [the sum of all chunks] G for a piece of the weights of one phase.
  [[gnu::cold]] void finish(int phase, long begin, const float* sums, long chunks, float* total, float* weight_gradient,
                            bool add) const {
    const long phase_size = long{shape.s.channels} * shape.s.out_channels, size = shape.phases * phase_size;
    const long count = std::min(piece, phase_size - begin);
    begin += phase * phase_size;
    for (int position = 0; position < shape.all_positions; ++position) {
      Terms of;
      for (long part = 0; part < chunks; ++part)
        of.append(sums + (part * shape.all_positions + position) * size + begin, 1);
      transforms().sum(of, total + position * piece, count, false);
    }
    for (int tap = 0; tap < shape.taps * shape.taps; ++tap) {
      Terms of;
      for (int position = 0; position < shape.all_positions; ++position)
        of.append(total + position * piece, shape.factor(position, tap));
      transforms().sum(of, weight_gradient + (shape.place(phase, tap) - phase) * phase_size + begin, count, add);
    }
  }
};

}  // namespace detail

/// See the head of this file. There is an image at least.
[[gnu::cold]] inline void winograd_gradient(Pool& pool, Workspace& workspace, const ConvolutionShape& s, long images,
                                            const float* x, const float* y_gradient, float* weight_gradient, bool add) {
  const detail::Winograd shape(s, false);
  const long phase_size = long{s.channels} * s.out_channels, position_size = shape.phases * phase_size;
  const long size = shape.all_positions * position_size, tiles = images * shape.tile_rows * shape.tile_columns;
  const long parts = std::clamp<long>(tiles / 128, 1, std::clamp<long>((1L << 20) / size, 4, 16));
  const long chunk = detail::ceil_div(tiles, parts), chunks = detail::ceil_div(tiles, chunk);
  float* sums = workspace.shared(static_cast<std::size_t>(parts * size));
  const detail::WinogradGradientTask work(shape, x, y_gradient);
  workspace.reserve_workers(pool.threads(),
                            std::max<std::size_t>(work.scratch_size(), shape.all_positions * detail::piece));
  pool.run(chunks * shape.positions, [&](long task, int worker) {
    const long part = task / shape.positions, row = task % shape.positions;
    work.run(static_cast<int>(row), part * chunk, std::min(tiles, (part + 1) * chunk),
             sums + part * size + row * shape.positions * position_size, workspace.worker(worker));
  });

  const long pieces = detail::ceil_div(phase_size, detail::piece);
  pool.run(shape.phases * pieces, [&](long task, int worker) {
    work.finish(static_cast<int>(task / pieces), task % pieces * detail::piece, sums, chunks, workspace.worker(worker),
                weight_gradient, add);
  });
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// Some rows of the kernel and a chunk of the output rows.
struct WeightGradientTask {
  const ConvolutionShape& shape;
  Windows windows;
  const float* x;
  const float* y_gradient;
  float* out;  // of the first of these kernel rows
  bool add;
  Multiply kernel;

  long group() const { return std::max(1, block_depth / shape.out_width); }
  std::size_t window_size() const { return static_cast<std::size_t>(round_up(long(windows.size(group())), 16)); }
  std::size_t scratch_size() const {
    return window_size() + packed_size(group() * shape.out_width, shape.out_channels) + packed_tiles_size(most_pixels);
  }

  void run(long first, long last, float* scratch) {
    float* packed = scratch + window_size();
    const long n = shape.out_channels, apart = long{shape.stride} * shape.channels;
    long row_begin[block_depth];
    int steps[block_depth];
    for (long r = first; r < last; r += group()) {
      const long rows = std::min(group(), last - r), pixels = rows * shape.out_width;
      windows.gather(x, r, r + rows, scratch, row_begin);
      const Matrix gradients{y_gradient + r * shape.out_width * n, n, 1};
      pack_rows(gradients, pixels, 0, shape.out_channels, shape.out_channels, packed, pixels, 0);
      for (long p = 0; p < pixels; p += block_depth) {
        const long depth = std::min<long>(block_depth, pixels - p);
        long row = p / shape.out_width, column = p % shape.out_width;
        for (long i = 0; i < depth; ++i) {
          steps[i] = static_cast<int>(row_begin[row] + column * apart);
          if (++column == shape.out_width) ++row, column = 0;
        }
        multiply(scratch, steps, static_cast<int>(depth), packed, pixels, p,
                 packed + packed_size(group() * shape.out_width, shape.out_channels));
        add = true;
      }
    }
  }

  void multiply(const float* window, const int* steps, int depth, const float* packed, long pixels, long k_begin,
                float* tiles) const {
    const long run = long{shape.kernel_width} * shape.channels, m = windows.kernel_rows * run;
    long x_rows[most_pixels], a_rows[most_pixels], c_rows[most_pixels];
    Block block{};
    block.depth = depth;
    block.b = packed;
    block.k = pixels;
    block.k_begin = k_begin;
    block.c = out;
    block.c_rows = c_rows;
    block.columns = shape.out_channels;
    block.add = add;
    for (long i = 0; i < m; i += most_pixels) {
      block.rows = static_cast<int>(std::min<long>(most_pixels, m - i));
      for (int r = 0; r < block.rows; ++r) {
        x_rows[r] = (i + r) / run * windows.pitch() + (i + r) % run;
        c_rows[r] = (i + r) * shape.out_channels;
      }
      if (shape.out_channels >= 48) {  // read often enough to be worth a copy
        pack_tiles(
            window, x_rows, [&](int p) { return steps[p]; }, block.rows, depth, tiles, a_rows);
        block.a = tiles;
        block.a_rows = a_rows;
        block.a_steps = packed_steps.steps;
      } else {
        block.a = window;
        block.a_rows = x_rows;
        block.a_steps = steps;
      }
      kernel(block);
    }
  }
};

}  // namespace detail

/// See the head of this file.
inline void convolution_weight_gradient(Multiply kernel, Pool& pool, Workspace& workspace,
                                        const ConvolutionShape& shape, long images, const float* x,
                                        const float* y_gradient, float* weight_gradient, bool add) {
  const long rows = images * shape.out_height,
             row_size = long{shape.kernel_width} * shape.channels * shape.out_channels;
  const long size = shape.kernel_height * row_size;
  if (size <= 0) return;
  if (rows <= 0 || shape.out_width <= 0) {
    if (!add) std::fill(weight_gradient, weight_gradient + size, 0.0f);
    return;
  }
  const long pixels = rows * shape.out_width;
  const long most = std::clamp<long>((1L << 20) / size, 1, 32);  // 4 MB of partial sums
  const long chunk = detail::ceil_div(rows, std::clamp<long>(pixels / 512, 1, most)),
             chunks = detail::ceil_div(rows, chunk);
  const int kernel_rows = chunks >= 8 ? shape.kernel_height : 1, groups = shape.kernel_height / kernel_rows;
  float* partial = workspace.shared(static_cast<std::size_t>((chunks - 1) * size));
  const detail::WeightGradientTask any{shape, {shape, 0, kernel_rows}, x, y_gradient, nullptr, false, kernel};
  workspace.reserve_workers(pool.threads(), any.scratch_size());
  pool.run(chunks * groups, [&](long task, int worker) {
    const long part = task / groups, first = part * chunk;
    const int kernel_row = static_cast<int>(task % groups) * kernel_rows;
    float* out = (part == 0 ? weight_gradient : partial + (part - 1) * size) + kernel_row * row_size;
    detail::WeightGradientTask work{shape, {shape, kernel_row, kernel_rows}, x, y_gradient, out, part == 0 && add,
                                    kernel};
    work.run(first, std::min(rows, first + chunk), workspace.worker(worker));
  });
  if (chunks == 1) return;
  constexpr long piece = 4096;
  pool.run(detail::ceil_div(size, piece), [&](long task) {
    const long begin = task * piece, count = std::min(piece, size - begin);
    for (long part = 0; part < chunks - 1; ++part)
      detail::add_run(partial + part * size + begin, weight_gradient + begin, count);
  });
}
inline void convolution_weight_gradient(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                                        const float* x, const float* y_gradient, float* weight_gradient, bool add) {
  if (images > 0 && detail::Winograd::pays(shape))
    return winograd_gradient(pool, workspace, shape, images, x, y_gradient, weight_gradient, add);
  convolution_weight_gradient(kernels()->multiply, pool, workspace, shape, images, x, y_gradient, weight_gradient, add);
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// Rows of outputs, counted through all images, times columns (output channels).
struct ConvolutionTask {
  const ConvolutionShape& shape;
  Windows windows;
  const float* x;
  const float* packed;
  float* y;
  bool add;
  Multiply kernel;

  void run(long first, long last, int column, int columns, float* scratch) const {
    long row_begin[most_pixels];
    windows.gather(x, first, last, scratch, row_begin);
    const long pixels = (last - first) * shape.out_width;
    for (long p = 0; p < pixels; p += most_pixels)
      multiply(first * shape.out_width, p, std::min<long>(pixels, p + most_pixels), column, columns, scratch,
               row_begin);
  }

  void multiply(long origin, long begin, long end, int column, int columns, const float* window,
                const long* row_begin) const {
    const long run = long{shape.kernel_width} * shape.channels;
    long a_rows[most_pixels], c_rows[most_pixels];
    for (long p = begin; p < end; ++p) {
      a_rows[p - begin] = row_begin[p / shape.out_width] + p % shape.out_width * shape.stride * shape.channels;
      c_rows[p - begin] = (origin + p) * shape.out_channels;
    }
    Block block{};
    block.a_rows = a_rows;
    block.c_rows = c_rows;
    block.a = window;
    block.k = shape.kernel_height * run;
    block.b = packed + column * block.k;
    block.c = y + column;
    block.rows = static_cast<int>(end - begin);
    block.columns = columns;
    block.add = add;
    for_each_depth_block(shape.kernel_height, run, windows.pitch(), [&](const int* steps, long first, int depth) {
      block.a_steps = steps;
      block.depth = depth;
      block.k_begin = first;
      kernel(block);
      block.add = true;
    });
  }
};

}  // namespace detail

/// y (+)= convolution of x. The Finish sees rows = pixels of y, columns = output channels.
inline void convolution(Multiply kernel, Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                        const float* x, const float* weight, float* y, bool add, Finish finish = {}) {
  const long rows = images * shape.out_height, k = long{shape.kernel_height} * shape.kernel_width * shape.channels;
  const int n = shape.out_channels;
  if (rows <= 0 || shape.out_width <= 0 || n <= 0) return;
  const detail::Windows windows{shape, 0, shape.kernel_height};
  const long row_bytes = windows.pitch() * shape.stride * 4;
  const long task_rows = std::max(1L, std::min<long>(detail::most_pixels / shape.out_width, (256L << 10) / row_bytes));
  const long tasks = detail::ceil_div(rows, task_rows);
  const int panel = kernels()->panel_columns;  // few rows, as in inference: columns are shared out instead
  const int columns = tasks >= 8 ? n : std::max(panel, static_cast<int>(round_up(detail::ceil_div(n, 8), panel)));
  float* packed = workspace.shared(packed_size(k, n));
  workspace.reserve_workers(pool.threads(), windows.size(task_rows));
  pack(pool, {weight, n, 1}, k, n, packed);
  const detail::ConvolutionTask work{shape, windows, x, packed, y, add, kernel};
  pool.run(tasks * detail::ceil_div(n, columns), [&](long task, int worker) {
    const long first = task % tasks * task_rows, last = std::min(rows, first + task_rows);
    const int column = static_cast<int>(task / tasks) * columns, count = std::min(columns, n - column);
    work.run(first, last, column, count, workspace.worker(worker));
    const long pixel = first * shape.out_width;
    if (finish.run)
      finish.run(finish.context, y + pixel * n + column, n, static_cast<int>((last - first) * shape.out_width), count,
                 pixel, column);
  });
}
inline void convolution(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images, const float* x,
                        const float* weight, float* y, bool add, Finish finish = {}) {
  if (detail::Winograd::pays(shape))
    return winograd(pool, workspace, shape, false, images, x, weight, y, add, finish);
  convolution(kernels()->multiply, pool, workspace, shape, images, x, weight, y, add, finish);
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

/// A value that brings its code with it: a program that does not name bfloat16_precision does not compile it.
struct Precision {
  void (*product)(cpu::Pool&, cpu::Workspace&, long m, int n, long k, cpu::Matrix a, cpu::Matrix b, float* c, long ldc,
                  bool add, cpu::Finish);
  void (*convolution)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* x,
                      const float* weight, float* y, bool add, cpu::Finish);
  void (*convolution_adjoint)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* y,
                              const float* weight, float* x, bool add, cpu::Finish);
  void (*convolution_weight_gradient)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* x,
                                      const float* y_gradient, float* weight_gradient, bool add);
};

inline constexpr Precision single_precision{cpu::product, cpu::convolution, cpu::convolution_adjoint,
                                            cpu::convolution_weight_gradient};

}  // namespace vaelib::inline VAELIB_ABI
// The operations of quantizers on the processor's backends: sums of vectors by their codes, straight-through gradients.

// The norms and gathers of the processor's backends, on plain pointers.

// What models of sequences of codes take: the cross-entropy of categories and causal attention, on plain pointers.

// Windows of images, group norms and gates of the processor's backends, on plain pointers. Images are channels last.
//
// The loops over channels take whole vectors and then single numbers, and each output (or each image, where windows
// overlap) belongs to one task, so that no bit depends on the number of threads.

// The elementwise operations, norms and segment operations of the processor's backends, on plain pointers.

// The loops of the processor's backends, written once for float lanes (Cpu) and for double (Oracle).
//
// Work is cut into blocks whose boundaries depend on sizes alone, and sums over rows are partial sums of such blocks added
// in order: so the bits of a result do not depend on the number of threads.
//
// A loop body is compiled once for each width of vectors, so that loops which wait for memory rather than for arithmetic
// are plain code instead. It gets an access `at`: at.load(p) and at.store(p, v) move as many lanes as are left, so that the last elements
// of a row take the same path as all others.

// A flat array of numbers, zero at first, aligned to cache lines.

// The one exception of the library. Its text is for the user of a program: where, what was found, what was expected.

#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace vaelib::inline VAELIB_ABI {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// One part of a message: text or a number. A plain type, so that a message costs little to compile.
struct TextPart {
  enum Kind { string, integer, natural, real } kind;
  union {
    std::string_view characters;
    long long i;
    unsigned long long n;
    double d;
  };
  char single = 0;

  TextPart(std::string_view s) : kind(string), characters(s) {}
  TextPart(const char* s) : kind(string), characters(s) {}
  TextPart(const std::string& s) : kind(string), characters(s) {}
  TextPart(char c) : kind(string), characters(), single(c) {}
  TextPart(int v) : kind(integer), i(v) {}
  TextPart(long v) : kind(integer), i(v) {}
  TextPart(long long v) : kind(integer), i(v) {}
  TextPart(unsigned char v) : kind(natural), n(v) {}
  TextPart(unsigned v) : kind(natural), n(v) {}
  TextPart(unsigned long v) : kind(natural), n(v) {}
  TextPart(unsigned long long v) : kind(natural), n(v) {}
  TextPart(double v) : kind(real), d(v) {}

  void append_to(std::string& text) const {
    char number[32];
    switch (kind) {
      case string: text.append(single ? std::string_view(&single, 1) : characters); return;
      case integer: std::snprintf(number, sizeof number, "%lld", i); break;
      case natural: std::snprintf(number, sizeof number, "%llu", n); break;
      case real: std::snprintf(number, sizeof number, "%g", d); break;
    }
    text.append(number);
  }
};

[[gnu::cold]] inline std::string join(std::initializer_list<TextPart> parts) {
  std::string result;
  for (const TextPart& part : parts) part.append_to(result);
  return result;
}
[[noreturn, gnu::cold]] inline void throw_error(std::initializer_list<TextPart> parts) { throw Error(join(parts)); }

}  // namespace detail

/// One string of all parts: text, characters and numbers.
std::string text(const auto&... parts) { return detail::join({detail::TextPart(parts)...}); }

/// Throws Error with the text of all parts.
[[noreturn, gnu::cold]] void fail(const auto&... parts) { detail::throw_error({detail::TextPart(parts)...}); }

}  // namespace vaelib::inline VAELIB_ABI

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

namespace vaelib::inline VAELIB_ABI {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(long n) { resize(n); }
  Buffer(const Buffer& other) {
    resize(other.count);
    std::copy_n(other.memory, count, memory);
  }
  Buffer(Buffer&& other) noexcept : memory(std::exchange(other.memory, nullptr)), count(std::exchange(other.count, 0)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(memory, other.memory);
    std::swap(count, other.count);
    return *this;
  }
  ~Buffer() { release(); }

  /// New memory, all zero.
  [[gnu::cold]] void resize(long n) {
    release();
    memory = static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
    count = n;
    std::fill_n(memory, n, T(0));
  }
  /// At least n numbers; those that were there are lost where it has to grow.
  T* at_least(long n) {
    if (count < n) resize(n);
    return memory;
  }
  T* data() { return memory; }
  const T* data() const { return memory; }
  long size() const { return count; }
  T* begin() { return memory; }
  T* end() { return memory + count; }
  const T* begin() const { return memory; }
  const T* end() const { return memory + count; }
  T& operator[](long i) { return memory[i]; }
  const T& operator[](long i) const { return memory[i]; }

 private:
  void release() {
    if (memory) ::operator delete(memory, std::align_val_t(64));
    memory = nullptr;
    count = 0;
  }
  T* memory = nullptr;
  long count = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
// The operands of an elementwise operation, as backends see them.

namespace vaelib::inline VAELIB_ABI {

/// Where a gradient goes: written first, added to afterwards. No data: nobody needs it.
template <class Real>
struct Target {
  Real* data = nullptr;
  bool add = false;
  explicit operator bool() const { return data != nullptr; }
};

/// rows x columns numbers, with a gradient.
template <class Real>
struct Full {
  static constexpr bool differentiable = true, per_column = false;
  const Real* value;
  Target<Real> target{};
};
/// One number for each column, the same in all rows, with a gradient.
template <class Real>
struct PerColumn {
  static constexpr bool differentiable = true, per_column = true;
  const Real* value;
  Target<Real> target{};
};
/// rows x columns numbers without a gradient.
template <class Real>
struct Given {
  static constexpr bool differentiable = false, per_column = false;
  const Real* value;
};
/// One number for all, without a gradient.
template <class Real>
struct Single {
  static constexpr bool differentiable = false, per_column = false;
  const Real* value;
};

}  // namespace vaelib::inline VAELIB_ABI
// The widest vectors of the processor, chosen at run time: no compiler flag is needed, and one binary serves all.
//
// vectorize(body) calls body(LaneCount<Width>{}) once, from a function compiled for the instruction set of that width:
//
//   vectorize([&](auto lanes) VAELIB_LOOP {
//     using T = typename decltype(lanes)::type;   // Lanes<16>, Lanes<8>, Lanes<4> or float
//     for (long i = 0; i < n; i += lanes.width) store(y + i, f(load<T>(x + i, n - i)), n - i);
//   });
//
// The loop is inside, the choice outside. 16 lanes: AVX-512 (F, DQ, BW, VL); 8: AVX2 with FMA; 4: every x86-64 and
// ARM64.

#include <atomic>
// Lanes<Width>: Width floats that are computed on together, by the vector extensions of GCC and Clang.
//
// A functor written for `auto x` takes Lanes as it takes float: + - * /, comparisons (which give a Mask) and select.
// Numbers mix in freely (2 * x + 1), converted to float. Every operation works lane by lane and is rounded as IEEE
// says. What the extensions compile to follows the function into which this code is inlined, see vectorize.hpp.

#include <cstdint>
#include <type_traits>
// The few function attributes of the library: on the device, always inline, vectorised loop.
//
// [[gnu::cold]] stands before what runs once a program, a file or an epoch: compiled for size, it is compiled sooner.

/// A function that nvcc also compiles for the device; nothing elsewhere.
#if defined(__CUDACC__)
#define VAELIB_HD __host__ __device__
#else
#define VAELIB_HD
#endif

/// A small function that must vanish into its caller, so that it gets the caller's instruction set. Usable on the
/// device.
#if defined(__GNUC__)
#define VAELIB_INLINE VAELIB_HD inline __attribute__((always_inline))
#else
#define VAELIB_INLINE VAELIB_HD inline
#endif

/// After the parameters of a lambda that is given to vectorize(), or of one that such a lambda calls:
///   vectorize([&](auto lanes) VAELIB_LOOP { ... });
/// It and what it calls, functors of users included, is inlined. GCC goes on to what these call; Clang looks one call
/// deep only, so that large functors called by other functors should be VAELIB_INLINE, or they are right but slow.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define VAELIB_LOOP __attribute__((always_inline, flatten))
#else
#define VAELIB_LOOP
#endif

/// Whether vectors of floats exist (GCC, Clang). Elsewhere, and under nvcc, the same code runs one float wide.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define VAELIB_HAS_LANES 1
#else
#define VAELIB_HAS_LANES 0
#endif

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept Arithmetic = std::is_arithmetic_v<T>;

#if VAELIB_HAS_LANES
namespace detail {
template <int Width>
struct Raw {
  typedef float Float __attribute__((vector_size(Width * 4)));
  typedef float AnyAddress __attribute__((vector_size(Width * 4), aligned(4)));
  typedef std::uint32_t UintAnyAddress __attribute__((vector_size(Width * 4), aligned(4)));
  typedef std::int32_t Int __attribute__((vector_size(Width * 4)));
  typedef std::uint32_t Uint __attribute__((vector_size(Width * 4)));
};
}  // namespace detail

/// One truth value a lane: all bits set, or none.
template <int Width>
struct Mask {
  typename detail::Raw<Width>::Int v;

  VAELIB_INLINE Mask() : v{} {}
  VAELIB_INLINE Mask(const Mask& o) : v(o.v) {}
  VAELIB_INLINE Mask& operator=(const Mask& o) { return v = o.v, *this; }
  static VAELIB_INLINE Mask from(const typename detail::Raw<Width>::Int& x) {
    Mask r;
    r.v = x;
    return r;
  }
  friend VAELIB_INLINE Mask operator&&(const Mask& a, const Mask& b) { return from(a.v & b.v); }
  friend VAELIB_INLINE Mask operator||(const Mask& a, const Mask& b) { return from(a.v | b.v); }
  friend VAELIB_INLINE Mask operator!(const Mask& a) { return from(~a.v); }
};

/// The bits of Lanes as integers, computed modulo 2^32.
template <int Width>
struct Bits {
  using Uint = typename detail::Raw<Width>::Uint;
  Uint v;

  VAELIB_INLINE Bits() : v{} {}
  VAELIB_INLINE Bits(std::uint32_t s) : v(Uint{} + s) {}
  VAELIB_INLINE Bits(const Bits& o) : v(o.v) {}
  VAELIB_INLINE Bits& operator=(const Bits& o) { return v = o.v, *this; }
  static VAELIB_INLINE Bits from(const Uint& x) {
    Bits r;
    r.v = x;
    return r;
  }
  friend VAELIB_INLINE Bits operator+(const Bits& a, const Bits& b) { return from(a.v + b.v); }
  friend VAELIB_INLINE Bits operator-(const Bits& a, const Bits& b) { return from(a.v - b.v); }
  friend VAELIB_INLINE Bits operator&(const Bits& a, const Bits& b) { return from(a.v & b.v); }
  friend VAELIB_INLINE Bits operator|(const Bits& a, const Bits& b) { return from(a.v | b.v); }
  friend VAELIB_INLINE Bits operator^(const Bits& a, const Bits& b) { return from(a.v ^ b.v); }
  friend VAELIB_INLINE Bits operator<<(const Bits& a, int n) { return from(a.v << n); }
  friend VAELIB_INLINE Bits operator>>(const Bits& a, int n) { return from(a.v >> n); }
};

/// Width floats. The copy constructor is user-provided on purpose: Lanes are then passed by reference in every ABI, so
/// that functors need no attribute and may be called across functions of different instruction sets.
template <int Width>
struct Lanes {
  static_assert(Width == 4 || Width == 8 || Width == 16, "vaelib: Lanes are 4, 8 or 16 floats wide");
  using Float = typename detail::Raw<Width>::Float;
  Float v;

  VAELIB_INLINE Lanes() : v{} {}
  VAELIB_INLINE Lanes(const Lanes& o) : v(o.v) {}
  VAELIB_INLINE Lanes& operator=(const Lanes& o) { return v = o.v, *this; }
  /// -(-s - 0) is s, -0 included; GCC 12 makes 16 masked instructions of s - 0, and one of this.
  template <Arithmetic Number>
  VAELIB_INLINE Lanes(Number s) : v(-(-static_cast<float>(s) - Float{})) {}
  static VAELIB_INLINE Lanes from(const Float& x) {
    Lanes r;
    r.v = x;
    return r;
  }

  friend VAELIB_INLINE Lanes operator+(const Lanes& a, const Lanes& b) { return from(a.v + b.v); }
  friend VAELIB_INLINE Lanes operator-(const Lanes& a, const Lanes& b) { return from(a.v - b.v); }
  friend VAELIB_INLINE Lanes operator*(const Lanes& a, const Lanes& b) { return from(a.v * b.v); }
  friend VAELIB_INLINE Lanes operator/(const Lanes& a, const Lanes& b) { return from(a.v / b.v); }
  friend VAELIB_INLINE Lanes operator-(const Lanes& a) { return from(-a.v); }
  friend VAELIB_INLINE Lanes operator+(const Lanes& a) { return a; }
  VAELIB_INLINE Lanes& operator+=(const Lanes& b) { return v += b.v, *this; }
  VAELIB_INLINE Lanes& operator-=(const Lanes& b) { return v -= b.v, *this; }
  VAELIB_INLINE Lanes& operator*=(const Lanes& b) { return v *= b.v, *this; }
  VAELIB_INLINE Lanes& operator/=(const Lanes& b) { return v /= b.v, *this; }

  friend VAELIB_INLINE Mask<Width> operator<(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v < b.v); }
  friend VAELIB_INLINE Mask<Width> operator<=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v <= b.v); }
  friend VAELIB_INLINE Mask<Width> operator>(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v > b.v); }
  friend VAELIB_INLINE Mask<Width> operator>=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v >= b.v); }
  friend VAELIB_INLINE Mask<Width> operator==(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v == b.v); }
  friend VAELIB_INLINE Mask<Width> operator!=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v != b.v); }
};
#endif

namespace detail {
template <class T>
struct LaneTraits {
  static constexpr bool single_precision = std::is_same_v<T, float>;
  static constexpr int width = 1;
  using Scalar = T;
  using AnyAddress = T;
};
#if VAELIB_HAS_LANES
template <int Width>
struct LaneTraits<Lanes<Width>> {
  static constexpr bool single_precision = true;
  static constexpr int width = Width;
  using Scalar = float;
  using AnyAddress = typename Raw<Width>::AnyAddress;
};
#endif

/// The type in which two operands meet: that of the Lanes (or, in dual.hpp, of the Dual) where one of them is a number.
template <class A, class B>
struct Common {};
template <Arithmetic A, Arithmetic B>
struct Common<A, B> {
  using type = std::common_type_t<A, B>;
};
#if VAELIB_HAS_LANES
template <int Width>
struct Common<Lanes<Width>, Lanes<Width>> {
  using type = Lanes<Width>;
};
template <int Width, Arithmetic B>
struct Common<Lanes<Width>, B> {
  using type = Lanes<Width>;
};
template <Arithmetic A, int Width>
struct Common<A, Lanes<Width>> {
  using type = Lanes<Width>;
};
#endif
}  // namespace detail

/// float or Lanes: what is computed by this library's own algorithms; double is left to the standard library.
template <class T>
concept SinglePrecision = detail::LaneTraits<T>::single_precision;
/// float, double or Lanes.
template <class T>
concept Real = SinglePrecision<T> || std::is_same_v<T, double>;

template <class A, class B>
using Common = typename detail::Common<A, B>::type;

/// select for two of the same type.
template <Arithmetic T>
VAELIB_INLINE constexpr T pick(bool mask, T a, T b) {
  return mask ? a : b;
}
#if VAELIB_HAS_LANES
template <int Width>
VAELIB_INLINE Lanes<Width> pick(const Mask<Width>& mask, const Lanes<Width>& a, const Lanes<Width>& b) {
  return Lanes<Width>::from(mask.v ? a.v : b.v);
}
#endif

/// a where the mask is true, else b: what functors say instead of `?:`, for it works lane by lane. Both are computed.
template <class M, class A, class B>
VAELIB_INLINE constexpr Common<A, B> select(const M& mask, const A& a, const B& b) {
  return pick(mask, static_cast<Common<A, B>>(a), static_cast<Common<A, B>>(b));
}

/// Whether any lane is true.
VAELIB_INLINE constexpr bool any(bool mask) { return mask; }
#if VAELIB_HAS_LANES
template <int Width>
VAELIB_INLINE bool any(const Mask<Width>& mask) {
  std::int32_t result = 0;
  for (int k = 0; k < Width; ++k) result |= mask.v[k];
  return result != 0;
}
#endif

/// As many consecutive numbers as T is wide, from any address.
template <Real T>
VAELIB_INLINE T load(const typename detail::LaneTraits<T>::Scalar* from) {
  if constexpr (detail::LaneTraits<T>::width == 1) {
    return *from;
  } else {
    T result;
    result.v = *reinterpret_cast<const typename detail::LaneTraits<T>::AnyAddress*>(from);
    return result;
  }
}
template <Real T>
VAELIB_INLINE void store(typename detail::LaneTraits<T>::Scalar* to, const T& x) {
  if constexpr (detail::LaneTraits<T>::width == 1) {
    *to = x;
  } else {
    *reinterpret_cast<typename detail::LaneTraits<T>::AnyAddress*>(to) = x.v;
  }
}

namespace detail {
/// The few numbers at an end. Out of line, for every loop has several of these.
template <class Number>
[[gnu::noinline, gnu::cold]] void copy_few(const Number* from, long count, Number* to) {
  for (long k = 0; k < count; ++k) to[k] = from[k];
}
}  // namespace detail

/// The first `count` numbers, at most as many as T is wide; the other lanes are 0. One loop body then serves full
/// blocks and the tail, so that an element's bits do not depend on its place: load<T>(p + i, n - i).
template <Real T>
VAELIB_INLINE T load(const typename detail::LaneTraits<T>::Scalar* from, long count) {
  constexpr long width = detail::LaneTraits<T>::width;
  if (count >= width) [[likely]]
    return load<T>(from);
  typename detail::LaneTraits<T>::Scalar padded[width] = {};
  detail::copy_few(from, count, padded);
  return load<T>(padded);
}
/// Stores the first `count` lanes, at most as many as there are.
template <Real T>
VAELIB_INLINE void store(typename detail::LaneTraits<T>::Scalar* to, const T& x, long count) {
  constexpr long width = detail::LaneTraits<T>::width;
  if (count >= width) [[likely]]
    return store(to, x);
  typename detail::LaneTraits<T>::Scalar all[width];
  store(all, x);
  detail::copy_few(all, count, to);
}

/// The sum of all lanes, in a fixed order: upper half onto lower half, until one is left.
template <Arithmetic T>
VAELIB_INLINE constexpr T sum(T x) {
  return x;
}
#if VAELIB_HAS_LANES
VAELIB_INLINE float sum(const Lanes<4>& x) {
  const auto pairs = x.v + __builtin_shufflevector(x.v, x.v, 2, 3, 2, 3);
  return pairs[0] + pairs[1];
}
VAELIB_INLINE float sum(const Lanes<8>& x) {
  return sum(Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3) + __builtin_shufflevector(x.v, x.v, 4, 5, 6, 7)));
}
VAELIB_INLINE float sum(const Lanes<16>& x) {
  return sum(Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3, 4, 5, 6, 7) +
                            __builtin_shufflevector(x.v, x.v, 8, 9, 10, 11, 12, 13, 14, 15)));
}
#endif

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

#if VAELIB_HAS_LANES && defined(__x86_64__)
#define VAELIB_X86_DISPATCH 1
#else
#define VAELIB_X86_DISPATCH 0
#endif

/// What vectorize() gives to its body: how many floats are computed on together, and their type.
template <int Width>
struct LaneCount {
  static constexpr int width = Width;
#if VAELIB_HAS_LANES
  using type = Lanes<Width>;
#else
  using type = float;
#endif
};

/// What every processor has: for loops that wait for memory, where more lanes are not worth the code.
using BaseLanes = LaneCount<VAELIB_HAS_LANES ? 4 : 1>;

/// The widest vectors that this processor and this compiler have: 16, 8, 4 or 1 floats.
inline int widest_simd() {
#if VAELIB_X86_DISPATCH
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx512 && avx2 ? 16 : avx2 ? 8 : 4;
#else
  return BaseLanes::width;
#endif
}

namespace detail {
inline std::atomic<int>& simd_width_setting() {
  static std::atomic<int> width{widest_simd()};
  return width;
}

#if VAELIB_X86_DISPATCH
template <class Body, class... Arguments>
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), noinline, flatten)) void run_16(
    Body& body, Arguments... arguments) {
  body(LaneCount<16>{}, arguments...);
}
template <class Body, class... Arguments>
__attribute__((target("avx2,fma"), noinline, flatten)) void run_8(Body& body, Arguments... arguments) {
  body(LaneCount<8>{}, arguments...);
}
#endif
template <class Body, class... Arguments>
#if VAELIB_HAS_LANES
__attribute__((noinline, flatten))
#endif
void run_narrow(Body& body, Arguments... arguments) {
  body(BaseLanes{}, arguments...);
}
}  // namespace detail

/// How many floats vectorize() computes on together.
inline int simd_width() { return detail::simd_width_setting().load(std::memory_order_relaxed); }

/// For tests: sets simd_width() to widest_simd() or less.
inline void set_simd_width(int width) {
  const bool exists = width == 16 || width == 8 || width == 4 || (width == 1 && !VAELIB_HAS_LANES);
  if (!exists || width > widest_simd()) {
    fail("set_simd_width(", width, "): found a processor of ", widest_simd(),
         " lanes; expected 4, 8 or 16, at most these");
  }
  detail::simd_width_setting().store(width, std::memory_order_relaxed);
}

/// The function that calls body(LaneCount<Width>{}, arguments...) at the width of simd_width().
template <class Body, class... Arguments>
auto vectorized() -> void (*)(Body&, Arguments...) {
  switch (simd_width()) {
#if VAELIB_X86_DISPATCH
    case 16: return detail::run_16<Body, Arguments...>;
    case 8: return detail::run_8<Body, Arguments...>;
#endif
    default: return detail::run_narrow<Body, Arguments...>;
  }
}

/// Runs the body once, at the width of simd_width().
template <class Body>
void vectorize(Body&& body) {
  vectorized<std::remove_reference_t<Body>>()(body);
}

/// Whether all numbers lie in [low, high]; NaN does not.
inline bool all_within(long count, const float* x, float low, float high) {
  using T = BaseLanes::type;
  long i = 0;
  auto within = T(low) <= T(low);
  for (; i + BaseLanes::width <= count; i += BaseLanes::width) {
    const T v = load<T>(x + i);
    within = within && v >= T(low) && v <= T(high);
  }
  bool all = !any(!within);
  for (; i < count; ++i) all = all && x[i] >= low && x[i] <= high;
  return all;
}

}  // namespace vaelib::inline VAELIB_ABI

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
// Dual<T, N>: a number with its slopes along N inputs; arithmetic and the functions of math.hpp by the chain rule.
//
// T is float, double or Lanes. A functor called with Dual arguments gives its value and its gradient in one pass:
//   f(Dual<T, 2>::input(x, 0), Dual<T, 2>::input(y, 1)).slope    = {df/dx, df/dy}
// Operands without a slope (T, numbers) mix in and cost nothing. Comparisons look at the value only. Where a function
// has a kink: abs has slope 0 at 0, max and min that of their second operand at a tie, clamp 1 on its bounds.

#include <utility>
// Elementwise mathematics for functors: float, double and Lanes here, Dual in dual.hpp.
//
// Single precision is within 3 units in the last place of the exact result (sigmoid, softplus: 4) and gives IEEE's
// special values: log 0 is -infinity, the log of a negative number NaN, NaN stays NaN (through max, min and clamp too),
// odd functions keep the sign of zero, denormal arguments and results count. sin and cos are accurate for |x| <= 2 pi.
// Double precision is the standard library's.
//
// Functors call these names unqualified, `x * sigmoid(x)`; a namespace other than vaelib then needs
// `using namespace vaelib`, for the sake of float and double. Constants keep their own type until they meet x: 0.5f is
// exact everywhere, 0.1 is better than 0.1f where x is double.

// Single-precision elementary functions without tables and branches, for float and Lanes alike: an element's bits do
// not depend on how many are computed together. Polynomials are minimax fits in single-precision coefficients; errors
// and special values are tested over all exponents in tests/core/math_test.cpp. Called through math.hpp.

#include <cmath>
#include <limits>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

// --- bits ------------------------------------------------------------------------------------------------------------
VAELIB_INLINE std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
VAELIB_INLINE float from_bits(std::uint32_t i) { return __builtin_bit_cast(float, i); }
/// The number of a signed integer, rounded to nearest.
VAELIB_INLINE float to_float(std::uint32_t i) { return static_cast<float>(static_cast<std::int32_t>(i)); }
/// Shift that keeps the sign.
VAELIB_INLINE std::uint32_t shift_signed(std::uint32_t i, int n) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(i) >> n);
}
/// a * b + c, fused where the target has FMA.
VAELIB_INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
VAELIB_INLINE float square_root(float x) { return std::sqrt(x); }

#if VAELIB_HAS_LANES
template <int W>
VAELIB_INLINE Bits<W> bits_of(const Lanes<W>& x) {
  return Bits<W>::from((typename Raw<W>::Uint)x.v);
}
template <int W>
VAELIB_INLINE Lanes<W> from_bits(const Bits<W>& i) {
  return Lanes<W>::from((typename Raw<W>::Float)i.v);
}
template <int W>
VAELIB_INLINE Lanes<W> to_float(const Bits<W>& i) {
  return Lanes<W>::from(__builtin_convertvector((typename Raw<W>::Int)i.v, typename Raw<W>::Float));
}
template <int W>
VAELIB_INLINE Bits<W> shift_signed(const Bits<W>& i, int n) {
  return Bits<W>::from((typename Raw<W>::Uint)((typename Raw<W>::Int)i.v >> n));
}
template <int W>
VAELIB_INLINE Lanes<W> multiply_add(const Lanes<W>& a, const Lanes<W>& b, const Lanes<W>& c) {
  return Lanes<W>::from(a.v * b.v + c.v);
}
VAELIB_INLINE Lanes<4> low_half(const Lanes<8>& x) {
  return Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3));
}
VAELIB_INLINE Lanes<4> high_half(const Lanes<8>& x) {
  return Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<8> low_half(const Lanes<16>& x) {
  return Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<8> high_half(const Lanes<16>& x) {
  return Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 8, 9, 10, 11, 12, 13, 14, 15));
}
VAELIB_INLINE Lanes<8> join(const Lanes<4>& low, const Lanes<4>& high) {
  return Lanes<8>::from(__builtin_shufflevector(low.v, high.v, 0, 1, 2, 3, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<16> join(const Lanes<8>& low, const Lanes<8>& high) {
  return Lanes<16>::from(__builtin_shufflevector(low.v, high.v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

#if defined(__x86_64__)  // the extensions know no square root; the four-wide instruction belongs to every x86-64
VAELIB_INLINE Lanes<4> square_root(const Lanes<4>& x) { return Lanes<4>::from(__builtin_ia32_sqrtps(x.v)); }
template <int W>
VAELIB_INLINE Lanes<W> square_root(const Lanes<W>& x) {
  return join(square_root(low_half(x)), square_root(high_half(x)));
}
#else
template <int W>
VAELIB_INLINE Lanes<W> square_root(const Lanes<W>& x) {
  Lanes<W> r;
  for (int k = 0; k < W; ++k) r.v[k] = __builtin_sqrtf(x.v[k]);
  return r;
}
#endif
#endif

template <class T>
using BitsOf = decltype(bits_of(T()));

inline constexpr std::uint32_t sign_bit = 0x80000000u;

template <SinglePrecision T>
VAELIB_INLINE T magnitude(const T& x) {
  return from_bits(bits_of(x) & BitsOf<T>(~sign_bit));
}
/// A number that is not negative, with the sign of another: odd functions keep the sign of zero.
template <SinglePrecision T>
VAELIB_INLINE T with_sign(const T& not_negative, const T& sign) {
  return from_bits(bits_of(not_negative) | (bits_of(sign) & BitsOf<T>(sign_bit)));
}

/// c0 + c1 x + c2 x^2 + ..., pairs in parallel: half the latency of Horner's rule.
template <SinglePrecision T>
VAELIB_INLINE T polynomial(const T&, const T&, float c) {
  return T(c);
}
template <SinglePrecision T>
VAELIB_INLINE T polynomial(const T& x, const T&, float c0, float c1) {
  return multiply_add(T(c1), x, T(c0));
}
template <SinglePrecision T, class... More>
VAELIB_INLINE T polynomial(const T& x, const T& x2, float c0, float c1, More... more) {
  return multiply_add(polynomial(x, x2, more...), x2, multiply_add(T(c1), x, T(c0)));
}

// --- exponentials ----------------------------------------------------------------------------------------------------
inline constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // the first has few bits: n * it is exact

/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r - 1.
template <SinglePrecision T>
struct ReducedExponent {
  BitsOf<T> n_biased;  // n + 254, in the low 9 bits
  T expm1_r;
};
template <SinglePrecision T>
VAELIB_INLINE ReducedExponent<T> reduce_exponent(const T& x) {
  constexpr float round = 0x1.8p23f + 254.f;  // added and subtracted, it rounds to an integer
  const T shifted = multiply_add(x, T(1.44269504f), T(round)), n = shifted - T(round);
  const T r = multiply_add(n, T(-ln2_low), multiply_add(n, T(-ln2_high), x));
  const T r2 = r * r;
  const T q =
      polynomial(r, r2, 4.999999702e-01f, 1.666654497e-01f, 4.166744649e-02f, 8.366432972e-03f, 1.386978780e-03f);
  return {bits_of(shifted), multiply_add(r2, q, r)};
}

/// e^x for -104 <= x <= 89 or NaN. Two steps of scaling let it overflow, and underflow gradually.
template <SinglePrecision T>
VAELIB_INLINE T exp_in_range(const T& x) {
  const auto e = reduce_exponent(x);
  const auto half = e.n_biased >> 1;
  return (e.expm1_r + T(1)) * from_bits(half << 23) * from_bits((e.n_biased - half) << 23);
}
template <SinglePrecision T>
VAELIB_INLINE T exp_of_negative(const T& x) {  // x <= 0 or NaN
  return exp_in_range(pick(x < T(-104), T(-104), x));
}
template <SinglePrecision T>
VAELIB_INLINE T exp(const T& x) {
  return exp_of_negative(pick(x > T(89), T(89), x));
}

/// 2^x for x <= 0 or NaN; below -100 as at -100, so that no product with it is a slow denormal number. Within 3 units in the last place: the weights of a softmax, whose exponents
/// come with as large an error from the sums that they are.
template <SinglePrecision T>
VAELIB_INLINE T exp2_of_negative(const T& x) {
  constexpr float round = 0x1.8p23f + 127.f;
  const T in = pick(x < T(-100), T(-100), x), shifted = in + T(round), r = in - (shifted - T(round));
  const T p = polynomial(r, r * r, 1.0f, 6.931470037e-01f, 2.402224243e-01f, 5.550733581e-02f, 9.671512991e-03f,
                         1.326472731e-03f);
  return p * from_bits(bits_of(shifted) << 23);
}

/// 1 - e^-x for x >= 0 or NaN.
template <SinglePrecision T>
VAELIB_INLINE T one_minus_exp(const T& x) {
  const auto e = reduce_exponent(-pick(x > T(20), T(20), x));
  const T scale = from_bits((e.n_biased - BitsOf<T>(127)) << 23);
  return multiply_add(scale, -e.expm1_r, T(1) - scale);
}

template <SinglePrecision T>
VAELIB_INLINE T expm1(const T& x) {
  const auto e = reduce_exponent(pick(x > T(89), T(89), pick(x < T(-20), T(-20), x)));
  const T half_scale = from_bits((e.n_biased - BitsOf<T>(128)) << 23);
  const T half = multiply_add(half_scale, e.expm1_r, half_scale - T(0.5f));
  return pick(magnitude(x) < T(0x1p-25f), x, half + half);  // keeps the sign of zero and denormal numbers
}

template <SinglePrecision T>
VAELIB_INLINE T tanh(const T& x) {
  const T a = magnitude(x), u = one_minus_exp(a + a);
  return with_sign(u / (T(2) - u), x);
}

/// erf |x| = 1 - exp(-|x| (c + |x| P(|x|))), c = 2 / sqrt(pi): P's error weighs less the nearer the result is to 1.
template <SinglePrecision T>
VAELIB_INLINE T erf(const T& x) {
  constexpr float c_high = 1.128379226f, c_low = -5.863538342e-08f;
  const T whole = magnitude(x), a = pick(whole > T(4), T(4), whole), a2 = a * a;
  const T p = polynomial(a, a2, 6.366195083e-01f, 1.027768627e-01f, -1.914986596e-02f, -1.658113033e-04f,
                         1.672069542e-03f, -6.354337092e-04f, 1.183316490e-04f, -9.329884051e-06f);
  return with_sign(one_minus_exp(multiply_add(a, T(c_high), a * multiply_add(a, p, T(c_low)))), x);
}

// --- logarithms ------------------------------------------------------------------------------------------------------
/// n ln 2 + log(1 + f) for sqrt(1/2) <= 1 + f <= sqrt(2).
template <SinglePrecision T>
VAELIB_INLINE T log_of_reduced(const T& n, const T& f) {
  const T f2 = f * f;
  const T p = polynomial(f, f2, 3.333333135e-01f, -2.500082552e-01f, 2.000125051e-01f, -1.662319005e-01f,
                         1.420117617e-01f, -1.316146404e-01f, 1.276620775e-01f, -7.636449486e-02f);
  const T small = multiply_add(f2, multiply_add(f, p, T(-0.5f)), n * T(ln2_low));
  return multiply_add(n, T(ln2_high), f + small);
}

/// IEEE's values where a logarithm of `argument` has no finite one.
template <SinglePrecision T>
VAELIB_INLINE T log_specials(const T& argument, const T& result) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const T negative_or_zero = pick(argument < T(0), T(std::numeric_limits<float>::quiet_NaN()), T(-infinity));
  const T finite_or_not = pick(argument < T(infinity), result, argument);  // infinity and NaN give themselves
  return pick(argument <= T(0), negative_or_zero, finite_or_not);
}

/// n of x = 2^n (1 + f), shifted left by 23.
template <class B>
VAELIB_INLINE B shifted_exponent(const B& bits) {
  return (bits - B(0x3f3504f3u)) & B(0xff800000u);
}

template <SinglePrecision T>
VAELIB_INLINE T log(const T& x) {
  const auto denormal = x < T(std::numeric_limits<float>::min());
  const T y = pick(denormal, x * T(0x1p25f), x);
  const auto bits = bits_of(y), exponent = shifted_exponent(bits);
  const T n = to_float(shift_signed(exponent, 23)) - pick(denormal, T(25), T(0));
  return log_specials(x, log_of_reduced(n, from_bits(bits - exponent) - T(1)));
}

template <SinglePrecision T>
VAELIB_INLINE T log1p(const T& x) {
  const T u = T(1) + x, lost = x - (u - T(1));  // u + lost = 1 + x
  const auto bits = bits_of(u), exponent = shifted_exponent(bits);
  const T twice_inverse = from_bits(BitsOf<T>(0x40000000u) - exponent);  // 2^(1 - n)
  const T f = (from_bits(bits - exponent) - T(1)) + lost * twice_inverse * T(0.5f);
  const T result = log_of_reduced(to_float(shift_signed(exponent, 23)), f);
  return log_specials(u, pick(x == T(0), x, result));  // keeps the sign of zero
}

/// log(1 + x) for 0 <= x <= 1 or NaN.
template <SinglePrecision T>
VAELIB_INLINE T log1p_of_unit(const T& x) {
  const auto large = x > T(0.41421356f);
  return log_of_reduced(pick(large, T(1), T(0)), pick(large, multiply_add(x, T(0.5f), T(-0.5f)), x));
}

// --- sigmoid and softplus --------------------------------------------------------------------------------------------
VAELIB_INLINE double magnitude(double x) { return std::fabs(x); }
VAELIB_INLINE double exp_of_negative(double x) { return std::exp(x); }
VAELIB_INLINE double exp2_of_negative(double x) { return std::exp2(x); }
VAELIB_INLINE double log1p_of_unit(double x) { return std::log1p(x); }

/// sigmoid, its derivative without cancellation, and softplus share one exponential.
template <Real T>
struct Logistic {
  T e, inverse;  // exp(-|x|), 1 / (1 + e)
  VAELIB_INLINE explicit Logistic(const T& x) : e(exp_of_negative(-magnitude(x))), inverse(T(1) / (T(1) + e)) {}
  VAELIB_INLINE T sigmoid(const T& x) const { return pick(x < T(0), e * inverse, inverse); }
  VAELIB_INLINE T slope() const { return e * inverse * inverse; }
  VAELIB_INLINE T softplus(const T& x) const { return pick(x < T(0), T(0), x) + log1p_of_unit(e); }
};

// --- sine and cosine -------------------------------------------------------------------------------------------------
/// sin and cos of (quadrant * 90 degrees + r) for |r| <= pi / 4; the quadrant counts modulo 4.
template <Real T>
struct SinCos {
  T sin, cos;
};
template <SinglePrecision T>
VAELIB_INLINE SinCos<T> sincos_of_reduced(const BitsOf<T>& quadrant, const T& r) {
  const T r2 = r * r, r4 = r2 * r2;
  const T s = multiply_add(r * r2, polynomial(r2, r4, -1.666665524e-01f, 8.332187310e-03f, -1.951790764e-04f), r);
  const T c = multiply_add(r4, polynomial(r2, r4, 4.166664556e-02f, -1.388730947e-03f, 2.443233643e-05f),
                           multiply_add(r2, T(-0.5f), T(1)));
  const auto one = BitsOf<T>(1u);
  const BitsOf<T> swap = BitsOf<T>(0u) - (quadrant & one);  // all bits set in odd quadrants
  const BitsOf<T> different = (bits_of(s) ^ bits_of(c)) & swap;
  const BitsOf<T> sin_sign = (quadrant << 30) & BitsOf<T>(sign_bit);
  const BitsOf<T> cos_sign = ((quadrant + one) << 30) & BitsOf<T>(sign_bit);
  return {from_bits(bits_of(s) ^ different ^ sin_sign), from_bits(bits_of(c) ^ different ^ cos_sign)};
}

/// Accurate for |x| <= 2 pi; beyond, the error grows with |x|.
template <SinglePrecision T>
VAELIB_INLINE SinCos<T> sincos(const T& x) {
  constexpr float round = 0x1.8p23f;
  const T shifted = multiply_add(x, T(0.636619772f), T(round)), n = shifted - T(round);
  // pi / 2 in three parts, the first two of few bits
  T r = multiply_add(n, T(-1.5703125f), x);
  r = multiply_add(n, T(-4.83751296997e-04f), r);
  r = multiply_add(n, T(-7.54978995489e-08f), r);
  return sincos_of_reduced<T>(bits_of(shifted), r);
}

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

template <Real T>
VAELIB_INLINE T exp(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::exp(x);
  else
    return std::exp(x);
}
/// e^x - 1, accurate near 0.
template <Real T>
VAELIB_INLINE T expm1(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::expm1(x);
  else
    return std::expm1(x);
}
template <Real T>
VAELIB_INLINE T log(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::log(x);
  else
    return std::log(x);
}
/// log(1 + x), accurate near 0.
template <Real T>
VAELIB_INLINE T log1p(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::log1p(x);
  else
    return std::log1p(x);
}
template <Real T>
VAELIB_INLINE T sqrt(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::square_root(x);
  else
    return std::sqrt(x);
}
/// 1 / sqrt(x)
template <Real T>
VAELIB_INLINE T rsqrt(const T& x) {
  return T(1) / sqrt(x);
}
template <Real T>
VAELIB_INLINE T abs(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::magnitude(x);
  else
    return std::fabs(x);
}
template <Real T>
VAELIB_INLINE T tanh(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::tanh(x);
  else
    return std::tanh(x);
}
template <Real T>
VAELIB_INLINE T erf(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::erf(x);
  else
    return std::erf(x);
}
template <Real T>
VAELIB_INLINE T sin(const T& x) {
  if constexpr (SinglePrecision<T>)
    return pick(x == T(0), x, detail::sincos(x).sin);
  else
    return std::sin(x);
}
template <Real T>
VAELIB_INLINE T cos(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::sincos(x).cos;
  else
    return std::cos(x);
}

/// 1 / (1 + e^-x), without overflow.
template <Real T>
VAELIB_INLINE T sigmoid(const T& x) {
  return detail::Logistic<T>(x).sigmoid(x);
}
/// log(1 + e^x), without overflow.
template <Real T>
VAELIB_INLINE T softplus(const T& x) {
  return detail::Logistic<T>(x).softplus(x);
}
template <Real T>
VAELIB_INLINE constexpr T square(const T& x) {
  return x * x;
}

/// The larger of two; NaN where one is NaN.
template <class A, class B>
VAELIB_INLINE constexpr Common<A, B> max(const A& a, const B& b) {
  const auto x = static_cast<Common<A, B>>(a), y = static_cast<Common<A, B>>(b);
  return pick(x > y, x, pick(x == x, y, x));
}
/// The smaller of two; NaN where one is NaN.
template <class A, class B>
VAELIB_INLINE constexpr Common<A, B> min(const A& a, const B& b) {
  const auto x = static_cast<Common<A, B>>(a), y = static_cast<Common<A, B>>(b);
  return pick(x < y, x, pick(x == x, y, x));
}
/// x within [low, high]; NaN where x is NaN.
template <class T, class Low, class High>
VAELIB_INLINE constexpr auto clamp(const T& x, const Low& low, const High& high) {
  using Result = Common<Common<T, Low>, High>;
  const auto value = static_cast<Result>(x), least = static_cast<Result>(low), most = static_cast<Result>(high);
  return pick(value < least, least, pick(value > most, most, value));
}

/// Neither infinite nor NaN: a Mask for Lanes, else bool.
template <Real T>
VAELIB_INLINE constexpr auto is_finite(const T& x) {
  return x - x == T(0);
}

/// x to an integer power, by multiplication.
template <class T>
VAELIB_INLINE constexpr T pow(const T& x, int n) {
  T result(1), base = x;
  for (unsigned left = n < 0 ? 0u - static_cast<unsigned>(n) : static_cast<unsigned>(n); left != 0; left >>= 1) {
    if (left & 1u) result = result * base;
    base = base * base;
  }
  return n < 0 ? T(1) / result : result;
}

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

template <Real T, int N = 1>
struct Dual {
  static_assert(N >= 1, "vaelib: a Dual has at least one slope");
  T value;
  T slope[N];

  /// slope[k] = slope_of(k), written out for every k, so that nothing of the array remains in memory.
  template <class SlopeOf>
  VAELIB_INLINE constexpr Dual(const T& v, const SlopeOf& slope_of)
      : Dual(v, slope_of, std::make_integer_sequence<int, N>{}) {}
  VAELIB_INLINE constexpr Dual() : Dual(T(0)) {}
  VAELIB_INLINE constexpr Dual(const T& constant) : Dual(constant, [](int) VAELIB_LOOP { return T(0); }) {}
  template <Arithmetic Number>
  requires(!std::is_same_v<Number, T>) VAELIB_INLINE constexpr Dual(Number constant) : Dual(static_cast<T>(constant)) {}

  /// The input of that index: slope 1 along itself, 0 along the others.
  static VAELIB_INLINE constexpr Dual input(const T& value, int index) {
    return Dual(value, [&](int k) VAELIB_LOOP { return T(k == index ? 1 : 0); });
  }

  VAELIB_INLINE constexpr Dual& operator+=(const auto& b) { return *this = *this + b; }
  VAELIB_INLINE constexpr Dual& operator-=(const auto& b) { return *this = *this - b; }
  VAELIB_INLINE constexpr Dual& operator*=(const auto& b) { return *this = *this * b; }
  VAELIB_INLINE constexpr Dual& operator/=(const auto& b) { return *this = *this / b; }

 private:
  template <class SlopeOf, int... K>
  VAELIB_INLINE constexpr Dual(const T& v, const SlopeOf& slope_of, std::integer_sequence<int, K...>)
      : value(v), slope{slope_of(K)...} {}
};

namespace detail {
/// An operand without a slope.
template <class C, class T>
concept ConstantOf = std::is_same_v<C, T> || Arithmetic<C>;

/// f(a) from its value and its derivative at a.
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> chain(const T& value, const T& derivative, const Dual<T, N>& a) {
  return Dual<T, N>(value, [&](int k) VAELIB_LOOP { return derivative * a.slope[k]; });
}

template <class T, int N>
struct Common<Dual<T, N>, Dual<T, N>> {
  using type = Dual<T, N>;
};
template <class T, int N, ConstantOf<T> C>
struct Common<Dual<T, N>, C> {
  using type = Dual<T, N>;
};
template <class T, int N, ConstantOf<T> C>
struct Common<C, Dual<T, N>> {
  using type = Dual<T, N>;
};
}  // namespace detail

template <class M, class T, int N>
VAELIB_INLINE constexpr Dual<T, N> pick(const M& mask, const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(pick(mask, a.value, b.value),
                    [&](int k) VAELIB_LOOP { return pick(mask, a.slope[k], b.slope[k]); });
}

// --- arithmetic ------------------------------------------------------------------------------------------------------
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value + b.value, [&](int k) VAELIB_LOOP { return a.slope[k] + b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a, const C& b) {
  return Dual<T, N>(a.value + static_cast<T>(b), [&](int k) VAELIB_LOOP { return a.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator+(const C& a, const Dual<T, N>& b) {
  return b + a;
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a) {
  return a;
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a) {
  return Dual<T, N>(-a.value, [&](int k) VAELIB_LOOP { return -a.slope[k]; });
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value - b.value, [&](int k) VAELIB_LOOP { return a.slope[k] - b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a, const C& b) {
  return Dual<T, N>(a.value - static_cast<T>(b), [&](int k) VAELIB_LOOP { return a.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator-(const C& a, const Dual<T, N>& b) {
  return Dual<T, N>(static_cast<T>(a) - b.value, [&](int k) VAELIB_LOOP { return -b.slope[k]; });
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator*(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value * b.value, [&](int k) VAELIB_LOOP { return a.slope[k] * b.value + a.value * b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator*(const Dual<T, N>& a, const C& b) {
  const T factor = static_cast<T>(b);
  return detail::chain(a.value * factor, factor, a);
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator*(const C& a, const Dual<T, N>& b) {
  return b * a;
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator/(const Dual<T, N>& a, const Dual<T, N>& b) {
  const T quotient = a.value / b.value, inverse = T(1) / b.value;
  return Dual<T, N>(quotient, [&](int k) VAELIB_LOOP { return (a.slope[k] - quotient * b.slope[k]) * inverse; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator/(const Dual<T, N>& a, const C& b) {
  const T divisor = static_cast<T>(b);
  return detail::chain(a.value / divisor, T(1) / divisor, a);
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator/(const C& a, const Dual<T, N>& b) {
  const T quotient = static_cast<T>(a) / b.value;
  return detail::chain(quotient, -quotient / b.value, b);
}

// --- comparisons: of the values --------------------------------------------------------------------------------------
namespace detail {
template <class A>
inline constexpr bool is_dual = false;
template <class T, int N>
inline constexpr bool is_dual<Dual<T, N>> = true;
/// A or B is a Dual, and they meet in one.
template <class B, class A>
concept DualWith = is_dual<typename Common<A, B>::type>;
/// The value of b, as a number of the Dual in which it meets an A.
template <class A, class B>
VAELIB_INLINE constexpr auto value_as(const B& b) {
  return static_cast<typename Common<A, B>::type>(b).value;
}
}  // namespace detail

template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator<(const A& a, const B& b) {
  return detail::value_as<B>(a) < detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator<=(const A& a, const B& b) {
  return detail::value_as<B>(a) <= detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator>(const A& a, const B& b) {
  return detail::value_as<B>(a) > detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator>=(const A& a, const B& b) {
  return detail::value_as<B>(a) >= detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator==(const A& a, const B& b) {
  return detail::value_as<B>(a) == detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator!=(const A& a, const B& b) {
  return detail::value_as<B>(a) != detail::value_as<A>(b);
}

// --- functions -------------------------------------------------------------------------------------------------------
template <class T, int N>
VAELIB_INLINE Dual<T, N> exp(const Dual<T, N>& a) {
  const T e = exp(a.value);
  return detail::chain(e, e, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> expm1(const Dual<T, N>& a) {
  return detail::chain(expm1(a.value), exp(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> log(const Dual<T, N>& a) {
  return detail::chain(log(a.value), T(1) / a.value, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> log1p(const Dual<T, N>& a) {
  return detail::chain(log1p(a.value), T(1) / (T(1) + a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sqrt(const Dual<T, N>& a) {
  const T root = sqrt(a.value);
  return detail::chain(root, T(0.5f) / root, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> rsqrt(const Dual<T, N>& a) {
  const T r = rsqrt(a.value);
  return detail::chain(r, T(-0.5f) * r / a.value, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> abs(const Dual<T, N>& a) {  // a itself in the middle: 0 at 0, NaN at NaN
  return detail::chain(abs(a.value), select(a.value > 0, T(1), select(a.value < 0, T(-1), a.value)), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> tanh(const Dual<T, N>& a) {
  const T t = tanh(a.value);
  return detail::chain(t, (T(1) - t) * (T(1) + t), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sigmoid(const Dual<T, N>& a) {
  const detail::Logistic<T> logistic(a.value);
  return detail::chain(logistic.sigmoid(a.value), logistic.slope(), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> softplus(const Dual<T, N>& a) {
  const detail::Logistic<T> logistic(a.value);
  return detail::chain(logistic.softplus(a.value), logistic.sigmoid(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> erf(const Dual<T, N>& a) {  // 2 / sqrt(pi) exp(-a^2)
  return detail::chain(erf(a.value), T(1.1283791670955126) * exp(-(a.value * a.value)), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sin(const Dual<T, N>& a) {
  return detail::chain(sin(a.value), cos(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> cos(const Dual<T, N>& a) {
  return detail::chain(cos(a.value), -sin(a.value), a);
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> square(const Dual<T, N>& a) {
  return detail::chain(a.value * a.value, a.value + a.value, a);
}

template <class T, int N>
VAELIB_INLINE constexpr auto is_finite(const Dual<T, N>& a) {
  return is_finite(a.value);
}

}  // namespace vaelib::inline VAELIB_ABI
// The simplest functors; see vectorize.hpp for what they become.

namespace vaelib::inline VAELIB_ABI {

struct Identity {
  VAELIB_HD constexpr auto operator()(auto x) const { return x; }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return decltype(y)(1.0f); }
};

struct Add {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a + b; }
};
struct Subtract {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a - b; }
};
struct Multiply {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a * b; }
};
struct Square {
  VAELIB_HD constexpr auto operator()(auto a) const { return a * a; }
};
struct ScaleBy {
  float factor;
  VAELIB_HD constexpr auto operator()(auto a) const { return a * factor; }
};

/// A functor that gives its slope as a function of its output.
template <class F>
concept SlopeFromOutput = requires(const F& f) { f.slope_from_output(1.0f); };

}  // namespace vaelib::inline VAELIB_ABI
// Random numbers as a pure function of where they are used: Philox4x32-10, a counter-based generator.
//
// Every number is keyed by seed, step, stream (what it is for), ordinal (which call within the step), row (position in
// the global batch) and element. So recomputation repeats it, two calls differ, and how a batch is split changes
// nothing.
//   counter  {element / 4, row, low half of step, stream << 24 | ordinal}; the number is word element % 4 of the result
//   key      {low half of seed, high half of seed ^ high half of step}
// The words are the same on every device. Uniform numbers in float and double are equal, normal ones agree within
// rounding. Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (2011). Box, Muller: A note on the
// generation of random normal deviates (1958).

#include <span>
#include <utility>
// From counters to random words (Philox4x32-10), and from words to numbers of a distribution; see random.hpp.

#include <array>

// GCC 12 does not see that one instruction multiplies halves of 64 bits; on x86 it is told, four lanes at a time.
#if VAELIB_HAS_LANES && defined(__x86_64__) && !defined(__clang__)
#define VAELIB_PHILOX_BY_FOUR 1
#else
#define VAELIB_PHILOX_BY_FOUR 0
#endif

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// Both halves of a 64-bit product.
template <class Word>
struct WideProduct {
  Word high, low;
};
VAELIB_INLINE constexpr WideProduct<std::uint32_t> wide_product(std::uint32_t a, std::uint32_t b) {
  const std::uint64_t p = std::uint64_t{a} * b;
  return {static_cast<std::uint32_t>(p >> 32), static_cast<std::uint32_t>(p)};
}

#if VAELIB_HAS_LANES
template <int W>
struct WideWords {  // the words of Bits<W>, two and two together
  typedef std::uint64_t Uint64 __attribute__((vector_size(W * 4)));
  Uint64 v;
};

/// The 64-bit products of the even lanes.
template <int W>
VAELIB_INLINE void multiply_even(const Bits<W>& a, std::uint32_t b, WideWords<W>& out) {
#if VAELIB_PHILOX_BY_FOUR
  static_assert(W == 4);
  out.v = (typename WideWords<W>::Uint64)__builtin_ia32_pmuludq128((Raw<4>::Int)a.v, (Raw<4>::Int)Bits<4>(b).v);
#else
  out.v = ((typename WideWords<W>::Uint64)a.v & 0xffffffffu) * std::uint64_t{b};
#endif
}

template <int W>
VAELIB_INLINE WideProduct<Bits<W>> wide_product(const Bits<W>& a, std::uint32_t b) {
  using Uint = typename Raw<W>::Uint;
  using Uint64 = typename WideWords<W>::Uint64;
  WideWords<W> even, odd;
  multiply_even(a, b, even);
  multiply_even(Bits<W>::from((Uint)((Uint64)a.v >> 32)), b, odd);
  return {Bits<W>::from((Uint)(even.v >> 32 | (odd.v & 0xffffffff00000000u))),
          Bits<W>::from((Uint)((even.v & 0xffffffffu) | odd.v << 32))};
}
#endif

template <class Word>
VAELIB_INLINE constexpr void philox_round(Word (&c)[4], const Word& key0, const Word& key1) {
  const auto p = wide_product(c[0], 0xD2511F53u), q = wide_product(c[2], 0xCD9E8D57u);
  c[0] = q.high ^ c[1] ^ key0;
  c[1] = q.low;
  c[2] = p.high ^ c[3] ^ key1;
  c[3] = p.low;
}

/// Ten rounds, on one counter (std::uint32_t) or on one a lane (Bits); several of these take turns.
template <class Word, class... Words>
VAELIB_INLINE constexpr void philox_rounds(const std::array<std::uint32_t, 2>& key, Word (&c)[4], Words&... more) {
  Word key0(key[0]), key1(key[1]);
  for (int round = 0; round < 10; ++round) {
    philox_round(c, key0, key1);
    (philox_round(more, key0, key1), ...);
    key0 = key0 + Word(0x9E3779B9u), key1 = key1 + Word(0xBB67AE85u);
  }
}

#if VAELIB_PHILOX_BY_FOUR
template <int W>
requires(W > 4) VAELIB_INLINE void philox_rounds(const std::array<std::uint32_t, 2>& key, Bits<W> (&c)[4]) {
  Bits<W / 2> low[4], high[4];
  for (int k = 0; k < 4; ++k)
    low[k] = bits_of(low_half(from_bits(c[k]))), high[k] = bits_of(high_half(from_bits(c[k])));
  if constexpr (W == 8)
    philox_rounds(key, low, high);
  else
    philox_rounds(key, low), philox_rounds(key, high);
  for (int k = 0; k < 4; ++k) c[k] = bits_of(join(from_bits(low[k]), from_bits(high[k])));
}
#endif

}  // namespace detail

/// Four random words of a counter and a key.
VAELIB_HD constexpr std::array<std::uint32_t, 4> philox(const std::array<std::uint32_t, 4>& counter,
                                                        const std::array<std::uint32_t, 2>& key) {
  std::uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  detail::philox_rounds(key, c);
  return {c[0], c[1], c[2], c[3]};
}

namespace detail {

// What follows is written for float and Lanes, where words are BitsOf<T>, and for double, where they are integers.
template <Real T>
VAELIB_INLINE auto load_words(const std::uint32_t* from) {
#if VAELIB_HAS_LANES
  constexpr int width = LaneTraits<T>::width;
  if constexpr (width > 1) {
    Bits<width> words;
    words.v = *reinterpret_cast<const typename Raw<width>::UintAnyAddress*>(from);
    return words;
  } else
#endif
    return *from;
}
/// The number of a signed integer.
template <Real T, class Word>
VAELIB_INLINE T number_of(const Word& i) {
  if constexpr (SinglePrecision<T>)
    return to_float(i);
  else
    return static_cast<std::int32_t>(i);
}

/// Odd multiples of 2^-24: never 0, never 1, exact in float.
struct UniformOfWords {
  template <Real T, class Word, class Scalar, int width>
  static VAELIB_INLINE void apply(const Word (&words)[4], Scalar (&out)[4][width]) {
    for (int k = 0; k < 4; ++k) {
      store(out[k], number_of<T>((words[k] >> 8) | Word(1u)) * T(0x1p-24f));
    }
  }
};

/// -log u of u = (word + 1/2) 2^-32, as exact near u = 1 as near u = 0: the upper half of the words is mirrored.
template <SinglePrecision T, class Word>
VAELIB_INLINE T minus_log_uniform(const Word& word) {
  const Word upper = shift_signed(word, 31);                                   // all bits set, or none
  const T v = multiply_add(to_float(word ^ upper), T(0x1p-32f), T(0x1p-33f));  // u, or 1 - u where that is smaller
  const Word bits = bits_of(v), exponent = shifted_exponent(bits);
  const auto mirrored = to_float(upper)<T(0), large = v> T(0.29289322f);
  const T n_mirrored = pick(large, T(-1), T(0)), f_mirrored = pick(large, multiply_add(v, T(-2), T(1)), -v);
  const T n = pick(mirrored, n_mirrored, to_float(shift_signed(exponent, 23)));
  const T f = pick(mirrored, f_mirrored, from_bits(bits - exponent) - T(1));
  return -log_of_reduced(n, f);
}
template <class T>
requires std::is_same_v<T, double> VAELIB_INLINE T minus_log_uniform(std::uint32_t word) {
  return word >> 31 ? -std::log1p(-(~word + 0.5) * 0x1p-32) : -std::log((word + 0.5) * 0x1p-32);
}

/// Sine and cosine of (word + 1/2) 2^-32 turns, reduced exactly to an eighth of a turn.
template <Real T, class Word>
VAELIB_INLINE SinCos<T> sincos_of_word(const Word& word) {
  const Word quadrant = (word + Word(0x20000000u)) >> 30;
  const T turns = number_of<T>(word - (quadrant << 30)) + T(0.5f);
  const T angle = turns * T(1.4629180792671596e-9);  // 2 pi 2^-32
  if constexpr (SinglePrecision<T>) {
    return sincos_of_reduced<T>(quadrant, angle);
  } else {
    const T s = std::sin(angle), c = std::cos(angle), sin_of[4] = {s, c, -s, -c};
    return {sin_of[quadrant & 3], sin_of[(quadrant + 1) & 3]};
  }
}

/// Box and Muller: two words give two normal numbers.
struct NormalOfWords {
  template <Real T, class Word, class Scalar, int width>
  static VAELIB_INLINE void apply(const Word (&words)[4], Scalar (&out)[4][width]) {
    for (int k = 0; k < 4; k += 2) {
      const T twice = T(2) * minus_log_uniform<T>(words[k]);
      const auto direction = sincos_of_word<T>(words[k + 1]);
      T radius = twice;
      if constexpr (SinglePrecision<T>)
        radius = square_root(twice);
      else
        radius = std::sqrt(twice);
      store(out[k], radius * direction.cos);
      store(out[k + 1], radius * direction.sin);
    }
  }
};

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t stream = 0;   // below 2^8
  std::uint32_t ordinal = 0;  // below 2^24

  VAELIB_HD constexpr std::array<std::uint32_t, 4> counter(std::uint32_t block, std::uint32_t row) const {
    return {block, row, static_cast<std::uint32_t>(step), stream << 24 | (ordinal & 0xffffffu)};
  }
  VAELIB_HD constexpr std::array<std::uint32_t, 2> words() const {
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32 ^ step >> 32)};
  }
};

namespace detail {
/// Goes through the blocks of four elements of all rows, in order.
struct RandomBlocks {
  long per_row, row = 0, block = 0;
  VAELIB_INLINE void next() {
    if (++block == per_row) block = 0, ++row;
  }
};

/// rows x features numbers of a distribution, T wide.
template <class Distribution, Real T>
VAELIB_INLINE void fill_random(const RandomKey& key, long first_row, long rows, int features,
                               typename LaneTraits<T>::Scalar* out) {
  constexpr int width = LaneTraits<T>::width;
  using Word = decltype(load_words<T>(nullptr));
  const auto base = key.counter(0, 0);
  const auto key_words = key.words();
  RandomBlocks computed{(features + 3L) / 4}, stored = computed;
  for (long left = rows * computed.per_row; left > 0; left -= width) {
    std::uint32_t block[width], row[width];
    for (int k = 0; k < width; ++k, computed.next()) {
      block[k] = static_cast<std::uint32_t>(computed.block);
      row[k] = static_cast<std::uint32_t>(first_row + computed.row);
    }
    Word words[4] = {load_words<T>(block), load_words<T>(row), Word(base[2]), Word(base[3])};
    philox_rounds(key_words, words);
    typename LaneTraits<T>::Scalar numbers[4][width];
    Distribution::template apply<T>(words, numbers);
    for (int k = 0; k < width && k < left; ++k, stored.next()) {
      const long element = 4 * stored.block, count = features - element;
      auto* to = out + stored.row * features + element;
      to[0] = numbers[0][k];
      if (count > 1) to[1] = numbers[1][k];
      if (count > 2) to[2] = numbers[2][k];
      if (count > 3) to[3] = numbers[3][k];
    }
  }
}

template <class Distribution, class Scalar>
void fill_random(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  if constexpr (std::is_same_v<Scalar, float>) {
    vectorize([&](auto lanes) VAELIB_LOOP {
      fill_random<Distribution, typename decltype(lanes)::type>(key, first_row, rows, features, out);
    });
  } else {
    fill_random<Distribution, double>(key, first_row, rows, features, out);
  }
}
}  // namespace detail

/// Uniform numbers in (0, 1), odd multiples of 2^-24, for `rows` rows of a batch: out is rows x features, and its first
/// row is row `first_row` of the global batch. Scalar is float or double.
template <class Scalar>
void uniform(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  detail::fill_random<detail::UniformOfWords>(key, first_row, rows, features, out);
}

/// Standard normal numbers, likewise.
template <class Scalar>
void normal(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  detail::fill_random<detail::NormalOfWords>(key, first_row, rows, features, out);
}

/// The words of one key, one after another: for integers, where how many are needed is not known before.
class RandomSequence {
 public:
  constexpr explicit RandomSequence(const RandomKey& key) : key_(key) {}

  constexpr std::uint32_t next() {
    if (position_ % 4 == 0) {
      const std::uint64_t block = position_ / 4;
      words_ = philox(key_.counter(static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32)),
                      key_.words());
    }
    return words_[position_++ % 4];
  }

  /// Uniform in 0 ... n - 1, n > 0, without bias. Lemire: Fast random integer generation in an interval (2019).
  constexpr std::uint32_t below(std::uint32_t n) {
    std::uint64_t product = std::uint64_t{next()} * n;
    if (static_cast<std::uint32_t>(product) < n) {
      const std::uint32_t unfair = (0u - n) % n;  // this many low halves are one too many
      while (static_cast<std::uint32_t>(product) < unfair) product = std::uint64_t{next()} * n;
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

 private:
  RandomKey key_;
  std::uint64_t position_ = 0;
  std::array<std::uint32_t, 4> words_{};
};

/// 0 ... n - 1 in an order in which every permutation is equally likely (Fisher, Yates).
inline void permutation(const RandomKey& key, std::span<std::uint32_t> out) {
  if (out.size() > UINT32_MAX) fail("permutation: of ", out.size(), " numbers, expected at most ", UINT32_MAX);
  RandomSequence sequence(key);
  for (std::uint32_t i = 0; i < out.size(); ++i) {
    const std::uint32_t j = sequence.below(i + 1);
    out[i] = out[j];
    out[j] = i;
  }
}

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostOperations : public HostLoops<Derived, R> {
 public:
  using Real = R;
  using HostLoops<Derived, R>::elements;
  using HostLoops<Derived, R>::lines;
  using HostLoops<Derived, R>::row_sums;
  using HostLoops<Derived, R>::column_sums;
  using HostLoops<Derived, R>::sum_rows;

  // ---- functors of any number of operands

  /// out = f(operands...), element by element.
  template <class F, class... O>
  void map(F f, long rows, long columns, Real* out, O... operands) {
    if constexpr ((O::per_column || ...)) {
      lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP { at.store(out, f(read(at, column, operands)...)); });
    } else {
      elements(rows * columns, [=](auto at) VAELIB_LOOP { at.store(out, f(read(at, at, operands)...)); });
    }
  }

  /// The same for operands of few numbers.
  template <class F, class... O>
  void map_few(F f, long count, Real* out, O... operands) {
    this->few_elements(count, [=](auto at) { at.store(out, f(read(at, at, operands)...)); });
  }
  template <class F, class... O>
  void map_few_gradient(F f, long count, const Real* upstream, O... operands) {
    this->few_elements(count, [=](auto at) { gradient_terms(f, at, at, at.load(upstream), std::index_sequence_for<O...>{}, operands...); });
  }

  /// out[r] = sum over the columns of f(operands...).
  template <class F, class... O>
  void map_reduce(F f, long rows, long columns, Real* out, O... operands) {
    row_sums(rows, columns, out, [=](auto at, long) VAELIB_LOOP { return f(read(at, at, operands)...); }, [](Real sum, long) { return sum; });
  }

  /// Gradients of map: target (+)= upstream * df / doperand.
  template <class F, class... O>
  void map_gradient(F f, long rows, long columns, const Real* upstream, O... operands) {
    constexpr int per_column = (0 + ... + int(O::per_column));
    if constexpr (per_column > 0) {
      std::array<Target<Real>, per_column> out;
      int next = 0;
      const auto collect = [&](const auto& operand) {
        if constexpr (std::remove_cvref_t<decltype(operand)>::per_column) out[next++] = operand.target;
      };
      (collect(operands), ...);
      this->template column_sums<per_column>(rows * columns, columns, out, [=](auto at, auto column, long) VAELIB_LOOP {
        return gradient_terms(f, at, column, at.load(upstream), std::index_sequence_for<O...>{}, operands...);
      });
    } else {
      elements(rows * columns, [=](auto at) VAELIB_LOOP {
        gradient_terms(f, at, at, at.load(upstream), std::index_sequence_for<O...>{}, operands...);
      });
    }
  }

  /// Gradients of map_reduce: the upstream gradient is one number a row.
  template <class F, class... O>
  void map_reduce_gradient(F f, long rows, long columns, const Real* upstream, O... operands) {
    lines(rows, columns, [=](auto at, auto, long r) VAELIB_LOOP {
      gradient_terms(f, at, at, decltype(at.load(upstream))(upstream[r]), std::index_sequence_for<O...>{}, operands...);
    });
  }

  /// gradient = upstream * f'(x) with the slope taken from the output y; bias (+)= its column sums. With Identity only the sums.
  template <class F>
  void output_gradient(F f, long rows, long columns, const Real* y, const Real* upstream, Real* gradient, Target<Real> bias) {
    if constexpr (std::is_same_v<F, Identity>) {
      if (bias) sum_rows(rows, columns, upstream, Real(1), bias);
    } else {
      const auto body = [=](auto at, auto, long) VAELIB_LOOP {
        const auto g = at.load(upstream) * f.slope_from_output(at.load(y));
        at.store(gradient, g);
        return std::array{at.only(g)};
      };
      // rows so short that lanes would stay empty: 16 are summed as one
      const long wide = columns < 16 ? 16 * columns : columns;
      const Target<Real> out = wide > columns ? Target<Real>{sums.at_least(wide)} : bias;
      this->template column_sums<1>(rows * columns, wide, {out}, body);
      if (wide > columns && bias) sum_rows(16, columns, out.data, Real(1), bias);
    }
  }

  // ---- sums

  /// out[j] = scale * sum over the rows of x, in double: for losses, whose rows may be many and large.
  void sum_rows_exactly(long rows, long columns, const Real* x, double scale, Real* out) {
    for (long j = 0; j < columns; ++j) {
      double sum = 0;
      for (long r = 0; r < rows; ++r) sum += x[r * columns + j];
      out[j] = Real(sum * scale);
    }
  }
  /// out[r] = sum of row r, in double; for few numbers. Its gradient is the same for all numbers of a row.
  void sum_few(long rows, long columns, const Real* x, Real* out) {
    for (long r = 0; r < rows; ++r) {
      double sum = 0;
      for (long j = 0; j < columns; ++j) sum += x[r * columns + j];
      out[r] = Real(sum);
    }
  }
  void sum_few_gradient(long rows, long columns, const Real* upstream, Target<Real> target) {
    for (long i = 0; i < rows * columns; ++i) target.data[i] = (target.add ? target.data[i] : Real(0)) + upstream[i / columns];
  }
  /// target (+)= scale * upstream, the same in each row.
  void spread_rows(long rows, long columns, const Real* upstream, Real scale, Target<Real> target) {
    by_rows(rows, columns, [&](long first, long last) {
      for (long r = first; r < last; ++r)
        for (long j = 0; j < columns; ++j) {
          Real& place = target.data[r * columns + j];
          place = target.add ? place + upstream[j] * scale : upstream[j] * scale;
        }
    });
  }
  /// target[r] (+)= upstream[r * columns] for a slice of columns: rows of `wide` numbers from `first` on, to or from rows of `narrow`.
  void copy_columns(long rows, long narrow, const Real* from, long from_stride, Real* to, long to_stride, bool add) {
    by_rows(rows, narrow, [&](long first, long last) {
      for (long r = first; r < last; ++r)
        for (long j = 0; j < narrow; ++j) {
          Real& place = to[r * to_stride + j];
          place = add ? place + from[r * from_stride + j] : from[r * from_stride + j];
        }
    });
  }
  void copy(long count, const Real* from, Target<Real> target) {
    elements(count, [=](auto at) VAELIB_LOOP { at.store(target.data, target.add, at.load(from)); });
  }

  // ---- the optimizer's pass, and what decides whether it is made

  /// w, m = optimizer(w, scale * g, m) for each of `count` weights.
  template <class Optimizer, class Rates>
  void update(const Optimizer& optimizer, const Rates& rates, Real scale, long count, Real* w, const Real* g,
              const std::array<Real*, Optimizer::moments>& moments) {
    elements(count, [=](auto at) VAELIB_LOOP {
      auto weight = at.load(w);
      std::array<decltype(weight), Optimizer::moments> m;
      for (int k = 0; k < Optimizer::moments; ++k) m[k] = at.load(moments[k]);
      optimizer.update(weight, at.load(g) * scale, m, rates);
      at.store(w, weight);
      for (int k = 0; k < Optimizer::moments; ++k) at.store(moments[k], m[k]);
    });
  }
  /// The sum of squares: not finite if any of the numbers is not.
  double squared_norm(long count, const Real* g) {
    constexpr long block = HostLoops<Derived, R>::block_size;
    const long blocks = this->blocks_of(count);
    Real* parts = sums.at_least(blocks);
    self().parallel(blocks, [&](long b) { parts[b] = sum_of_squares(std::min(block, count - b * block), g + b * block); });
    double total = 0;
    for (long b = 0; b < blocks; ++b) total += parts[b];
    return total;
  }

  // ---- random numbers; row r of the result is row first + r of the global batch

  void normal(const RandomKey& key, long first, long rows, int features, Real* out) {
    by_rows(rows, features, [&](long begin, long end) { vaelib::normal(key, first + begin, end - begin, features, out + begin * features); });
  }
  void uniform(const RandomKey& key, long first, long rows, int features, Real* out) {
    by_rows(rows, features, [&](long begin, long end) { vaelib::uniform(key, first + begin, end - begin, features, out + begin * features); });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  /// f(first, last) for blocks of whole rows.
  template <class F>
  void by_rows(long rows, long columns, const F& f) {
    const long block = std::max(1L, 4096 / std::max(1L, columns));
    self().parallel((rows + block - 1) / block, [&](long b) { f(b * block, std::min(rows, (b + 1) * block)); });
  }

  /// Four vectors at a time, as an addition takes longer than a load.
  static Real sum_of_squares(long count, const Real* g) {
    constexpr int width = BaseAccess<Real>::width;
    typename BaseAccess<Real>::Lanes sum[4];
    for (auto& s : sum) s = Real(0);
    long i = 0;
    for (; i + 4 * width <= count; i += 4 * width)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const auto v = BaseAccess<Real>{i + k * width, width}.load(g);
        sum[k] += v * v;
      }
    Real total = vaelib::sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < count; ++i) total += g[i] * g[i];
    return total;
  }

  template <class At, class Column, class O>
  static VAELIB_INLINE auto read(At at, Column column, const O& operand) {
    using T = decltype(at.load(operand.value));
    if constexpr (std::is_same_v<O, Single<Real>>) {
      return T(*operand.value);
    } else if constexpr (O::per_column) {
      return column.load(operand.value);
    } else {
      return at.load(operand.value);
    }
  }
  /// The operand as a dual number whose slope `Slot` is one; as a plain number where it takes no gradient.
  template <int N, int Slot, class At, class Column, class O>
  static VAELIB_INLINE auto lift(At at, Column column, const O& operand) {
    const auto x = read(at, column, operand);
    if constexpr (O::differentiable) {
      return Dual<std::remove_const_t<decltype(x)>, N>::input(x, Slot);
    } else {
      return x;
    }
  }
  template <class... O>
  static constexpr auto slots() {  // differentiable operands are numbered in order
    std::array<int, sizeof...(O)> result{};
    int next = 0, i = 0;
    ((result[i++] = O::differentiable ? next++ : 0), ...);
    return result;
  }
  template <class... O>
  static constexpr auto columns_of() {  // so are those with one number a column
    std::array<int, sizeof...(O)> result{};
    int next = 0, i = 0;
    ((result[i++] = O::per_column ? next++ : 0), ...);
    return result;
  }

  template <class F, class At, class Column, class... O, std::size_t... I>
  static VAELIB_INLINE auto dual_value(F f, At at, Column column, std::index_sequence<I...>, const O&... operands) {
    constexpr auto slot = slots<O...>();
    constexpr int differentiable = (0 + ... + int(O::differentiable));
    return f(lift<differentiable, slot[I]>(at, column, operands)...);
  }
  /// Stores the gradient of one operand, or adds it to the terms that are summed by column.
  template <int Slot, int Place, class At, class O, class T, class D, class Terms>
  static VAELIB_INLINE void pass(At at, const O& operand, const T& upstream, const D& result, Terms& terms) {
    if constexpr (O::per_column) {
      terms[Place] = upstream * result.slope[Slot];
    } else if constexpr (O::differentiable) {
      if (operand.target.data) at.store(operand.target.data, operand.target.add, upstream * result.slope[Slot]);
    }
  }
  template <class F, class At, class Column, class T, class... O, std::size_t... I>
  static VAELIB_INLINE auto gradient_terms(F f, At at, Column column, const T& upstream, std::index_sequence<I...> all, const O&... operands) {
    constexpr auto slot = slots<O...>();
    constexpr auto place = columns_of<O...>();
    constexpr int per_column = (0 + ... + int(O::per_column));
    const auto result = dual_value(f, at, column, all, operands...);
    std::array<T, per_column == 0 ? 1 : per_column> terms{};
    (pass<slot[I], place[I]>(at, operands, upstream, result, terms), ...);
    return terms;
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostImages : public HostOperations<Derived, R> {
 public:
  using Real = R;

  // ---- windows: layers/pooling.hpp; those of a ConvolutionShape with as many channels behind it

  /// y = the largest pixel of each window, NaN where one is.
  void max_pool(const ConvolutionShape& s, long images, const Real* x, Real* y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox)
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes largest(Real(-INFINITY));
          for_window(s, row / s.out_height, int(row % s.out_height), ox, [&](long pixel) { largest = max(largest, at.load(x + pixel)); });
          at.store(y + (row * s.out_width + ox) * s.channels, largest);
        });
    });
  }
  /// The gradient goes to the first pixel of the window, row by row, that is as large as y.
  void max_pool_gradient(const ConvolutionShape& s, long images, const Real* x, const Real* y, const Real* upstream, Target<Real> to_x) {
    const long size = long(s.height) * s.width * s.channels;
    self().parallel(images, [=](long image) {
      if (!to_x.add) std::fill_n(to_x.data + image * size, size, Real(0));
      for (int oy = 0; oy < s.out_height; ++oy)
        for (int ox = 0; ox < s.out_width; ++ox)
          for_channels(s.channels, [&](auto at) {
            using T = typename decltype(at)::Lanes;
            const long out = ((image * s.out_height + oy) * s.out_width + ox) * s.channels;
            const T largest = at.load(y + out), g = at.load(upstream + out);
            auto found = largest < largest;  // in no lane yet
            for_window(s, image, oy, ox, [&](long pixel) {
              const auto here = at.load(x + pixel) == largest && !found;
              at.store(to_x.data + pixel, at.load(to_x.data + pixel) + select(here, g, T(Real(0))));
              found = found || here;
            });
          });
    });
  }

  /// y (+)= scale * the sum of each window.
  void sum_windows(const ConvolutionShape& s, long images, const Real* x, Real scale, Target<Real> y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox)
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes sum(Real(0));
          for_window(s, row / s.out_height, int(row % s.out_height), ox, [&](long pixel) { sum = sum + at.load(x + pixel); });
          at.store(y.data + (row * s.out_width + ox) * s.channels, y.add, sum * scale);
        });
    });
  }
  /// The adjoint: x (+)= scale * the sum of all y whose windows hold the pixel.
  void spread_windows(const ConvolutionShape& s, long images, const Real* y, Real scale, Target<Real> x) {
    for_rows(images * s.height, long(s.width) * s.channels, [=](long row) {
      const long image = row / s.height;
      const Span rows = windows_of(int(row % s.height), s, s.out_height);
      for (int ix = 0; ix < s.width; ++ix) {
        const Span columns = windows_of(ix, s, s.out_width);
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes sum(Real(0));
          for (int oy = rows.first; oy < rows.last; ++oy)
            for (int ox = columns.first; ox < columns.last; ++ox)
              sum = sum + at.load(y + ((image * s.out_height + oy) * s.out_width + ox) * s.channels);
          at.store(x.data + (row * s.width + ix) * s.channels, x.add, sum * scale);
        });
      }
    });
  }

  // ---- bilinear upsampling; of s only height, width, channels, out_height, out_width and stride, the factor, count

  void upsample_bilinear(const ConvolutionShape& s, long images, const Real* x, Real* y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox) {
        const Corners c(s, row / s.out_height, int(row % s.out_height), ox);
        for_channels(s.channels, [&](auto at) {
          at.store(y + (row * s.out_width + ox) * s.channels, at.load(x + c.pixel[0]) * c.weight[0] + at.load(x + c.pixel[1]) * c.weight[1] +
                                                                  at.load(x + c.pixel[2]) * c.weight[2] + at.load(x + c.pixel[3]) * c.weight[3]);
        });
      }
    });
  }
  void upsample_bilinear_gradient(const ConvolutionShape& s, long images, const Real* upstream, Target<Real> to_x) {
    const long size = long(s.height) * s.width * s.channels;
    self().parallel(images, [=](long image) {
      if (!to_x.add) std::fill_n(to_x.data + image * size, size, Real(0));
      for (int oy = 0; oy < s.out_height; ++oy)
        for (int ox = 0; ox < s.out_width; ++ox) {
          const Corners c(s, image, oy, ox);
          for_channels(s.channels, [&](auto at) {
            const auto g = at.load(upstream + ((image * s.out_height + oy) * s.out_width + ox) * s.channels);
            for (int k = 0; k < 4; ++k) at.store(to_x.data + c.pixel[k], true, g * c.weight[k]);
          });
        }
    });
  }

  // ---- group normalisation: layers/group_norm.hpp; statistics: of each image and channel the mean of its group, and then
  // of each image and channel 1 / sqrt(var + epsilon) of its group

  void group_norm(long images, long pixels, int channels, int groups, const Real* x, Real epsilon, const Real* weight, const Real* bias,
                  Real* statistics, Real* y) {
    const Real share = Real(1) / (Real(pixels) * Real(channels / groups));
    self().parallel(images, [=](long image) {
      Real *mean = statistics + image * channels, *rate = mean + images * channels;
      const long first = image * pixels * channels;
      std::fill_n(mean, channels, Real(0));
      std::fill_n(rate, channels, Real(0));
      for_pixels(pixels, channels, first, [=](auto at, auto channel) { channel.store(mean, true, at.load(x)); });
      group_sums(channels, groups, mean, [=](Real sum) { return sum * share; });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) { channel.store(rate, true, square(at.load(x) - channel.load(mean))); });
      group_sums(channels, groups, rate, [=](Real sum) { return Real(1) / std::sqrt(sum * share + epsilon); });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        at.store(y, (at.load(x) - channel.load(mean)) * (channel.load(rate) * channel.load(weight)) + channel.load(bias));
      });
    });
  }

  void group_norm_gradient(long images, long pixels, int channels, int groups, const Real* x, const Real* statistics, const Real* weight,
                           const Real* upstream, Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    const Real share = Real(1) / (Real(pixels) * Real(channels / groups));
    const long count = images * channels;
    // of each image and channel: sums of upstream * normalised x and of upstream; then their means, weighted, over the group
    Real *sums_with_x = sums.at_least(4 * count), *sums_plain = sums_with_x + count;
    self().parallel(images, [=](long image) {
      const Real *mean = statistics + image * channels, *rate = mean + count;
      Real *with_x = sums_with_x + image * channels, *plain = with_x + count, *mean_with_x = plain + count, *mean_plain = mean_with_x + count;
      const long first = image * pixels * channels;
      std::fill_n(with_x, channels, Real(0));
      std::fill_n(plain, channels, Real(0));
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        const auto g = at.load(upstream);
        channel.store(with_x, true, g * ((at.load(x) - channel.load(mean)) * channel.load(rate)));
        channel.store(plain, true, g);
      });
      if (!to_x) return;
      for (int c = 0; c < channels; ++c) mean_with_x[c] = weight[c] * with_x[c], mean_plain[c] = weight[c] * plain[c];
      group_sums(channels, groups, mean_with_x, [=](Real sum) { return sum * share; });
      group_sums(channels, groups, mean_plain, [=](Real sum) { return sum * share; });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        const auto centred = (at.load(x) - channel.load(mean)) * channel.load(rate);
        const auto g = at.load(upstream) * channel.load(weight);
        at.store(to_x.data, to_x.add, (g - channel.load(mean_plain) - centred * channel.load(mean_with_x)) * channel.load(rate));
      });
    });
    if (to_weight) this->sum_rows(images, channels, sums_with_x, Real(1), to_weight);
    if (to_bias) this->sum_rows(images, channels, sums_plain, Real(1), to_bias);
  }

  // ---- gates: layers/gated.hpp; rows of 2 * half numbers become rows of half

  void gate(long rows, long half, const Real* x, Real* y) {
    this->lines(rows, half, [=](auto at, auto, long r) VAELIB_LOOP {
      auto wide = at;
      wide.index += r * half;
      at.store(y, wide.load(x) * sigmoid(wide.load(x + half)));
    });
  }
  void gate_gradient(long rows, long half, const Real* x, const Real* upstream, Target<Real> to_x) {
    this->lines(rows, half, [=](auto at, auto, long r) VAELIB_LOOP {
      auto wide = at;
      wide.index += r * half;
      const auto g = at.load(upstream);
      const detail::Logistic logistic(wide.load(x + half));
      const auto signal = wide.load(x);
      wide.store(to_x.data, to_x.add, g * logistic.sigmoid(wide.load(x + half)));
      wide.store(to_x.data + half, to_x.add, g * signal * logistic.slope());
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  struct Span {
    int first, last;  // [first, last)
  };
  /// The windows that hold a pixel of index i, along one axis.
  static Span windows_of(int i, const ConvolutionShape& s, int windows) {
    const int end = i + s.padding, begin = end - s.kernel_height + 1;  // windows start at multiples of the stride within
    return {begin <= 0 ? 0 : (begin + s.stride - 1) / s.stride, std::min(windows, end / s.stride + 1)};
  }
  /// f(first number of the pixel) for the pixels of a window, row by row; padding is passed over.
  template <class F>
  static void for_window(const ConvolutionShape& s, long image, int oy, int ox, const F& f) {
    const int top = oy * s.stride - s.padding, left = ox * s.stride - s.padding;
    for (int iy = std::max(top, 0); iy < std::min(top + s.kernel_height, s.height); ++iy)
      for (int ix = std::max(left, 0); ix < std::min(left + s.kernel_width, s.width); ++ix) f(((image * s.height + iy) * s.width + ix) * s.channels);
  }

  /// The four pixels around a place of the larger image, and their shares.
  struct Corners {
    long pixel[4];
    Real weight[4];

    Corners(const ConvolutionShape& s, long image, int oy, int ox) {
      const Place y(oy, s.stride, s.height), x(ox, s.stride, s.width);
      for (int k = 0; k < 4; ++k) {
        pixel[k] = ((image * s.height + (k < 2 ? y.low : y.high)) * s.width + (k % 2 == 0 ? x.low : x.high)) * s.channels;
        weight[k] = (k < 2 ? 1 - y.share : y.share) * (k % 2 == 0 ? 1 - x.share : x.share);
      }
    }
    struct Place {
      int low, high;
      Real share;  // of high
      Place(int out, int factor, int extent) {
        const Real source = std::max(Real(0), (Real(out) + Real(0.5)) / Real(factor) - Real(0.5));
        low = int(source);
        high = std::min(low + 1, extent - 1);
        share = source - Real(low);
      }
    };
  };

  /// body(at) for all channels: whole vectors, then single numbers.
  template <class Body>
  static VAELIB_INLINE void for_channels(int channels, const Body& body) {
    constexpr int width = BaseAccess<Real>::width;
    int c = 0;
    for (; c + width <= channels; c += width) body(BaseAccess<Real>{c, width});
    for (; c < channels; ++c) body(Access<Real, Real>{c, 1});
  }
  /// body(at, channel) for all channels of the pixels from number `first` on.
  template <class Body>
  static void for_pixels(long pixels, int channels, long first, const Body& body) {
    for (long p = 0; p < pixels; ++p)
      for_channels(channels, [&](auto channel) {
        auto at = channel;
        at.index += first + p * channels;
        body(at, channel);
      });
  }
  /// Every channel gets finish(the sum over the channels of its group).
  template <class Finish>
  static void group_sums(int channels, int groups, Real* numbers, const Finish& finish) {
    const int size = channels / groups;
    for (int g = 0; g < groups; ++g) {
      Real sum = 0;
      for (int c = g * size; c < (g + 1) * size; ++c) sum += numbers[c];
      std::fill_n(numbers + g * size, size, finish(sum));
    }
  }
  /// f(row) for rows of `size` numbers, so many in a task that it is worth one.
  template <class F>
  void for_rows(long rows, long size, const F& f) {
    const long block = std::max(1L, 4096 / std::max(1L, size));
    self().parallel((rows + block - 1) / block, [&](long b) {
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) f(r);
    });
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI

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

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostLayers : public HostSequences<Derived, R> {
 public:
  using Real = R;

  // ---- batch normalisation: layers/batch_norm.hpp

  /// Mean and variance (divided by the number of rows) of each column.
  void column_statistics(long rows, long columns, const Real* x, Real* mean, Real* variance) {
    this->sum_rows(rows, columns, x, Real(1) / Real(rows), {mean});
    const auto square = [=](auto at, auto column, long) VAELIB_LOOP {
      const auto d = at.load(x) - column.load(mean);
      return std::array{d * d};
    };
    this->template column_sums<1>(rows * columns, columns, {Target<Real>{variance}}, square, Real(1) / Real(rows));
  }

  void normalise(long rows, long columns, const Real* x, const Real* mean, const Real* variance, Real epsilon, const Real* weight,
                 const Real* bias, Real* y) {
    this->lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP {
      const auto scale = column.load(weight) / sqrt(column.load(variance) + epsilon);
      at.store(y, (at.load(x) - column.load(mean)) * scale + column.load(bias));
    });
  }

  /// `of_batch`: mean and variance are those of x and take part in the gradient; otherwise they are given numbers.
  void normalise_gradient(long rows, long columns, bool of_batch, const Real* x, const Real* mean, const Real* variance, Real epsilon,
                          const Real* weight, const Real* upstream, Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    Real *with_x = sums.at_least(2 * columns), *plain = with_x + columns;  // sums of upstream * normalised x, and of upstream
    const auto terms = [=](auto at, auto column, long) VAELIB_LOOP {
      const auto g = at.load(upstream);
      return std::array{g * ((at.load(x) - column.load(mean)) / sqrt(column.load(variance) + epsilon)), g};
    };
    this->template column_sums<2>(rows * columns, columns, {Target<Real>{with_x}, Target<Real>{plain}}, terms);
    if (to_weight) this->copy(columns, with_x, to_weight);
    if (to_bias) this->copy(columns, plain, to_bias);
    if (!to_x) return;
    const Real share = of_batch ? Real(1) / Real(rows) : Real(0);
    this->lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP {
      const auto rate = decltype(at.load(x))(Real(1)) / sqrt(column.load(variance) + epsilon);
      const auto centred = (at.load(x) - column.load(mean)) * rate;
      at.store(to_x.data, to_x.add,
               column.load(weight) * rate * (at.load(upstream) - column.load(plain) * share - centred * (column.load(with_x) * share)));
    });
  }

  /// moved = old + momentum * (factor * seen - old)
  void move(long count, const Real* old, const Real* seen, Real momentum, Real factor, Real* moved) {
    this->elements(count, [=](auto at) VAELIB_LOOP { at.store(moved, at.load(old) * (Real(1) - momentum) + at.load(seen) * (factor * momentum)); });
  }

  // ---- layer normalisation: layers/layer_norm.hpp; statistics: mean and 1 / sqrt(var + epsilon) of each row

  void layer_norm(long rows, long columns, const Real* x, Real epsilon, const Real* weight, const Real* bias, Real* statistics, Real* y) {
    const Real share = Real(1) / Real(columns);
    each_row(rows, columns, [=](auto tag, long r) VAELIB_LOOP {  // a row stays in the first-level cache
      using T = typename decltype(tag)::type;
      const Real* const in = x + r * columns;
      T sum(Real(0)), squares(Real(0));
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        sum = sum + at.only(at.load(in));
      }
      const T mean(vaelib::sum(sum) * share);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T d = at.load(in) - mean;
        squares = squares + at.only(d * d);
      }
      const Real own_rate = Real(1) / std::sqrt(vaelib::sum(squares) * share + epsilon);
      const T rate(own_rate);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        at.store(y + r * columns, (at.load(in) - mean) * rate * at.load(weight) + at.load(bias));
      }
      statistics[r] = vaelib::sum(sum) * share;
      statistics[rows + r] = own_rate;
    });
  }

  void layer_norm_gradient(long rows, long columns, const Real* x, const Real* statistics, const Real* weight, const Real* upstream,
                           Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    const Real *means = statistics, *rates = statistics + rows;
    const auto terms = [=](auto at, auto, long r) VAELIB_LOOP {
      using T = decltype(at.load(x));
      return std::array{at.load(upstream) * ((at.load(x) - T(means[r])) * T(rates[r])), at.load(upstream)};
    };
    if (to_weight || to_bias) this->template column_sums<2>(rows * columns, columns, {to_weight, to_bias}, terms);
    if (!to_x) return;
    const Real share = Real(1) / Real(columns);
    each_row(rows, columns, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const Real *const in = x + r * columns, *const up = upstream + r * columns;
      const T mean(means[r]), rate(rates[r]);
      T plain(Real(0)), with_x(Real(0));  // sums over the row of g = upstream * weight, and of g * normalised x
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T g = at.load(up) * at.load(weight);
        plain = plain + at.only(g);
        with_x = with_x + at.only(g * ((at.load(in) - mean) * rate));
      }
      const T plain_mean(vaelib::sum(plain) * share), with_x_mean(vaelib::sum(with_x) * share);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T g = at.load(up) * at.load(weight), centred = (at.load(in) - mean) * rate;
        at.store(to_x.data + r * columns, to_x.add, (g - plain_mean - centred * with_x_mean) * rate);
      }
    });
  }

  // ---- rows by index

  void gather_rows(long rows, int columns, const Real* table, const std::int32_t* index, Real* out) {
    self().parallel((rows + 63) / 64, [&](long b) {
      for (long r = b * 64; r < std::min(rows, (b + 1) * 64); ++r) std::copy_n(table + long(index[r]) * columns, columns, out + r * columns);
    });
  }
  /// table[index[r]] (+)= x[r], in the order of the rows.
  void scatter_rows(long rows, int columns, int count, const Real* x, const std::int32_t* index, Target<Real> table) {
    if (!table.add) std::fill_n(table.data, long(count) * columns, Real(0));
    for (long r = 0; r < rows; ++r)
      for (int j = 0; j < columns; ++j) table.data[long(index[r]) * columns + j] += x[r * columns + j];
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
  template <class T>
  static VAELIB_INLINE Access<T, Real> lanes_at(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
  }
  /// body(lanes, row) for each row.
  template <class Body>
  void each_row(long rows, long columns, const Body& body) {
    const long block = std::max(1L, this->block_size / std::max(1L, columns));
    self().parallel_lanes((rows + block - 1) / block, [=](auto tag, long b) VAELIB_LOOP {
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) body(tag, r);
    });
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostCodes : public HostLayers<Derived, R> {
 public:
  using Real = R;

  /// errors[r] = |x_r - q_r|^2
  void squared_errors(long rows, int columns, const Real* x, const Real* q, Real* errors) {
    this->row_sums(rows, columns, errors, [=](auto at, long) VAELIB_LOOP {
      const auto d = at.load(x) - at.load(q);
      return d * d;
    }, [](Real sum, long) { return sum; });
  }

  /// target (+)= upstream + weight (x - q), each of which may be missing: the gradient of a straight-through estimate and of
  /// weight / 2 |x - q|^2.
  void pull_gradient(long count, const Real* x, const Real* q, Real weight, const Real* upstream, Target<Real> target) {
    this->elements(count, [=](auto at) VAELIB_LOOP {
      const auto pull = (at.load(x) - at.load(q)) * weight;
      at.store(target.data, target.add, upstream ? at.load(upstream) + pull : pull);
    });
  }

  /// The rows in the order of their codes: those of code k are members[starts[k]] to members[starts[k + 1] - 1], ascending.
  void group_by_code(long rows, int codes, const std::int32_t* code, std::int32_t* starts, std::int32_t* members) {
    std::fill(starts, starts + codes + 1, 0);
    for (long r = 0; r < rows; ++r) ++starts[code[r] + 1];
    for (int k = 0; k < codes; ++k) starts[k + 1] += starts[k];
    for (long r = 0; r < rows; ++r) members[starts[code[r]]++] = std::int32_t(r);
    for (int k = codes; k > 0; --k) starts[k] = starts[k - 1];
    starts[0] = 0;
  }

  /// f(code, sum of its vectors, their number) for all codes; the sums are in the order of the rows.
  template <class F>
  void for_each_code(int codes, int columns, const Real* x, const std::int32_t* starts, const std::int32_t* members, const F& f) {
    constexpr int block = 32;
    const int blocks = (codes + block - 1) / block;
    Real* rows_of_codes = code_sums.at_least(long(blocks) * columns);
    self().parallel(blocks, [&](long b) {
      Real* sum = rows_of_codes + b * columns;
      for (int k = int(b) * block; k < std::min(codes, int(b + 1) * block); ++k) {
        std::fill_n(sum, columns, Real(0));
        for (std::int32_t m = starts[k]; m < starts[k + 1]; ++m) add_row(columns, x + long(members[m]) * columns, sum);
        f(k, static_cast<const Real*>(sum), starts[k + 1] - starts[k]);
      }
    });
  }

  /// y_r = x_r rotated to the direction of q_r and scaled to its length is q_r; the gradient of this map, with rotation and scale held
  /// constant: target (+)= s (g - 2 r (r g) + 2 x^ (q^ g)), where s = |q| / |x|, ^ is unit length and r = (x^ + q^)^; plus weight (x - q).
  /// Fifty et al. 2024, "Restructuring vector quantization with the rotation trick", section 4.2.
  void rotation_gradient(long rows, int columns, const Real* x, const Real* q, Real weight, const Real* upstream, Target<Real> target) {
    by_vectors(rows, [=](long r) {
      rotate_row(columns, x + r * columns, q + r * columns, weight, upstream + r * columns, {target.data + r * columns, target.add});
    });
  }

  /// y_r = x_r / |x_r|; lengths[r] = |x_r|, at least a tiny number.
  void unit_rows(long rows, int columns, const Real* x, Real* y, Real* lengths) {
    by_vectors(rows, [=](long r) {
      Real sum = 0;
      for (int j = 0; j < columns; ++j) sum += x[r * columns + j] * x[r * columns + j];
      lengths[r] = std::max(std::sqrt(sum), Real(1e-12));
      for (int j = 0; j < columns; ++j) y[r * columns + j] = x[r * columns + j] / lengths[r];
    });
  }
  /// target (+)= (g - y (y g)) / |x|
  void unit_rows_gradient(long rows, int columns, const Real* y, const Real* lengths, const Real* upstream, Target<Real> target) {
    by_vectors(rows, [=](long r) {
      const Real *unit = y + r * columns, *g = upstream + r * columns;
      Real along = 0;
      for (int j = 0; j < columns; ++j) along += unit[j] * g[j];
      for (int j = 0; j < columns; ++j) {
        Real& place = target.data[r * columns + j];
        const Real gradient = (g[j] - unit[j] * along) / lengths[r];
        place = target.add ? place + gradient : gradient;
      }
    });
  }

  /// Rows of scores become softmax(scale (score - half_norm)), which is that of -scale/2 |x - e|^2.
  void assign_softly(long rows, int codes, const Real* half_norms, Real scale, Real* scores) {
    self().parallel_lanes(rows, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      Real* row = scores + r * codes;
      Real largest = -INFINITY;
      for (int j = 0; j < codes; ++j) {
        row[j] = scale * (row[j] - half_norms[j]);
        largest = std::max(largest, row[j]);
      }
      T sum(Real(0));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        const T p = exp(at.load(row) - T(largest));
        at.store(row, p);
        sum = sum + at.only(p);
      }
      const Real rate = 1 / vaelib::sum(sum);
      for (int j = 0; j < codes; ++j) row[j] *= rate;
    });
  }

  /// gradient becomes scale p (gradient - sum p gradient), row by row: that of softmax(scale scores) = p.
  void softmax_gradient(long rows, int codes, const Real* p, Real scale, Real* gradient) {
    by_vectors(rows, [=](long r) {
      const Real* own = p + r * codes;
      Real *g = gradient + r * codes, mean = 0;
      for (int j = 0; j < codes; ++j) mean += own[j] * g[j];
      for (int j = 0; j < codes; ++j) g[j] = scale * own[j] * (g[j] - mean);
    });
  }

  /// The entropy of each row of probabilities: -sum p log p, nats.
  void row_entropies(long rows, int codes, const Real* p, Real* entropies) {
    this->row_sums(rows, codes, entropies, [=](auto at, long) VAELIB_LOOP {
      const auto v = at.load(p);
      return select(v > Real(0), -v * log(v), v);
    }, [](Real sum, long) { return sum; });
  }

  /// p becomes p (g - sum p g) of its row, where g = mean_weight log_mean - own_weight log p: what the loss
  /// mean_weight sum m log m - own_weight sum p log p, m the mean of p, pulls at the scores. log_mean is one number a code.
  void entropy_gradient(long rows, int codes, const Real* log_mean, Real mean_weight, Real own_weight, Real* p) {
    self().parallel_lanes(rows, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      Real* row = p + r * codes;
      const auto pull = [&](auto at) { 
        const T v = at.load(row);
        return at.load(log_mean) * T(mean_weight) - select(v > Real(0), log(v), T(Real(0))) * T(own_weight);
      };
      T sum(Real(0));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        sum = sum + at.only(at.load(row) * pull(at));
      }
      const T mean(vaelib::sum(sum));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        at.store(row, at.load(row) * (pull(at) - mean));
      }
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  template <class F>
  void by_vectors(long rows, const F& f) {
    self().parallel((rows + 63) / 64, [&](long b) {
      for (long r = b * 64; r < std::min(rows, (b + 1) * 64); ++r) f(r);
    });
  }

  static void add_row(int columns, const Real* x, Real* sum) {
    constexpr int width = BaseAccess<Real>::width;
    int j = 0;
    for (; j + width <= columns; j += width) {
      const BaseAccess<Real> at{j, width};
      at.store(sum, at.load(sum) + at.load(x));
    }
    for (; j < columns; ++j) sum[j] += x[j];
  }

  static void rotate_row(int columns, const Real* x, const Real* q, Real weight, const Real* g, Target<Real> target) {
    Real xx = 0, qq = 0, xq = 0, xg = 0, qg = 0;
    for (int j = 0; j < columns; ++j) {
      xx += x[j] * x[j];
      qq += q[j] * q[j];
      xq += x[j] * q[j];
      xg += x[j] * g[j];
      qg += q[j] * g[j];
    }
    const Real tiny = std::is_same_v<Real, float> ? Real(1e-12) : Real(1e-24);
    const Real x_rate = 1 / std::sqrt(std::max(xx, tiny)), q_rate = 1 / std::sqrt(std::max(qq, tiny)), scale = x_rate / q_rate;
    const Real both = 2 + 2 * xq * x_rate * q_rate;  // |x^ + q^|^2; 0 where they are opposite
    const Real along = both > tiny ? 2 * (xg * x_rate + qg * q_rate) / both : Real(0);
    const Real ahead = 2 * qg * q_rate;
    for (int j = 0; j < columns; ++j) {
      const Real unit = x[j] * x_rate;
      const Real gradient = scale * (g[j] - along * (unit + q[j] * q_rate) + ahead * unit) + weight * (x[j] - q[j]);
      target.data[j] = target.add ? target.data[j] + gradient : gradient;
    }
  }

  Buffer<Real> code_sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

/// Cpu{} uses the threads that affinity and cgroup allow, Cpu{4} four. Not to be used by two threads at a time.
/// Cpu{4, bfloat16_precision} computes products and convolutions in bfloat16: see bfloat16.hpp.
class Cpu : public HostCodes<Cpu, float> {
 public:
  static constexpr const char* name = "cpu";

  explicit Cpu(int threads = 0, Precision products = single_precision)
      : machine(std::make_unique<Machine>(threads)), precision(products) {}
  int threads() const { return machine->pool.threads(); }

  void parallel(long tasks, auto&& f) { machine->pool.run(tasks, f); }
  /// body(lanes, task) for each task, where `lanes` tells the vectors of the processor: see core/vectorize.hpp.
  template <class Body>
  void parallel_lanes(long tasks, const Body& body) {
    parallel(tasks, [&body, run = vectorized<const Body, long>()](long task) { run(body, task); });
  }

  /// C = f(A B + bias), or C += A B. C is m x n without gaps, A m x k, B k x n.
  template <class F = Identity>
  void product(long m, int n, long k, MatrixView<float> a, MatrixView<float> b, float* c, bool add,
               const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.product(machine->pool, machine->workspace, m, n, k, a, b, c, n, add, epilogue.finish());
  }
  template <class F = Identity>
  void convolution(const ConvolutionShape& s, long images, const float* x, const float* weight, float* y, bool add,
                   const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.convolution(machine->pool, machine->workspace, s, images, x, weight, y, add, epilogue.finish());
  }
  template <class F = Identity>
  void convolution_adjoint(const ConvolutionShape& s, long images, const float* y, const float* weight, float* x,
                           bool add, const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.convolution_adjoint(machine->pool, machine->workspace, s, images, y, weight, x, add, epilogue.finish());
  }
  void convolution_weight_gradient(const ConvolutionShape& s, long images, const float* x, const float* y,
                                   float* weight, bool add) {
    precision.convolution_weight_gradient(machine->pool, machine->workspace, s, images, x, y, weight, add);
  }
  /// The nearest of `count` codes to each row of x, the lowest where several are as near: backend/cpu/nearest.hpp.
  void nearest_codes(long rows, int count, int width, const float* x, const float* codes, std::int32_t* index) {
    cpu::nearest_codes(machine->pool, machine->workspace, rows, count, width, x, codes, index);
  }

 private:
  struct Machine {
    explicit Machine(int threads) : pool(threads) {}
    cpu::Pool pool;
    cpu::Workspace workspace;
  };

  /// Bias and activation, applied to each block of a product while it is in the cache.
  template <class F>
  struct Epilogue {
    const float* bias;
    F f;

    cpu::Finish finish() const {
      if (!bias && std::is_same_v<F, Identity>) return {};
      return {[](const void* context, float* c, long ldc, int rows, int columns, long, int first) {
                static_cast<const Epilogue*>(context)->apply(c, ldc, rows, columns, first);
              },
              this};
    }
    void apply(float* c, long ldc, int rows, int columns, int first) const {
      constexpr int widest = 16;
      const float* biases = bias ? bias + first : nullptr;
      if (columns >= widest || ldc != columns) return apply(c, ldc, rows, columns, biases);
      float repeated[widest * widest];  // images of few channels: the pixels lie side by side, the bias repeats
      const int period = columns * widest;
      for (int i = 0; i < period; ++i) repeated[i] = biases ? biases[i % columns] : 0.0f;
      const long count = long(rows) * columns, whole = count / period;
      apply(c, period, whole, period, repeated);
      apply(c + whole * period, period, 1, int(count % period), repeated);
    }
    void apply(float* c, long ldc, long rows, int columns, const float* biases) const {
      const auto body = [&](auto lanes) VAELIB_LOOP {
        using T = typename decltype(lanes)::type;
        for (int j = 0; j < columns; j += lanes.width) {
          const T b = biases ? load<T>(biases + j, columns - j) : T(0);
          for (long r = 0; r < rows; ++r) {
            float* place = c + r * ldc + j;
            store<T>(place, f(load<T>(place, columns - j) + b), columns - j);
          }
        }
      };
      if constexpr (std::is_same_v<F, Identity>) {
        body(BaseLanes{});
      } else {
        vectorize(body);
      }
    }
  };

  std::unique_ptr<Machine> machine;
  Precision precision;
};

}  // namespace vaelib::inline VAELIB_ABI
// The batches of an epoch: every row once, in an order keyed by (seed, epoch), or 0, 1, 2 ... without shuffling.
// The order depends on nothing else, so that a run goes on in mid-epoch where it stopped.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

class Batches {
 public:
  [[gnu::cold]] Batches(std::int64_t rows, std::int64_t batch_size, bool shuffled = false, std::uint64_t seed = 0)
      : batch_size_(batch_size), shuffled_(shuffled), seed_(seed) {
    if (rows < 1 || rows > UINT32_MAX) fail("batches: a data set of ", rows, " rows, expected 1 to ", UINT32_MAX);
    if (batch_size < 1) fail("batches: the batch size is ", batch_size, ", expected at least 1");
    order_.resize(static_cast<std::size_t>(rows));
    start(0);
  }

  /// Puts the rows into the order of this epoch; takes no memory.
  void start(std::uint64_t epoch) {
    if (shuffled_)
      permutation(RandomKey{.seed = seed_, .step = epoch, .stream = stream}, order_);
    else
      std::iota(order_.begin(), order_.end(), 0u);
  }

  /// Batches in an epoch; the last one holds what is left.
  std::int64_t count() const { return (rows() + batch_size_ - 1) / batch_size_; }
  std::int64_t rows() const { return static_cast<std::int64_t>(order_.size()); }

  std::span<const std::uint32_t> operator[](std::int64_t batch) const {
    if (batch < 0 || batch >= count()) fail("batches: batch ", batch, " was asked for, there are ", count());
    const auto begin = batch * batch_size_, end = std::min(begin + batch_size_, rows());
    return std::span(order_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }

 private:
  static constexpr std::uint32_t stream = 255;  // of the order's own random numbers

  std::int64_t batch_size_;
  bool shuffled_;
  std::uint64_t seed_;
  std::vector<std::uint32_t> order_;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
// Data sets: rows of features, each an image height x width x channels (channels last) of floats, with optional labels.
//
//   Dataset   bytes in memory, as image files hold them; a byte b is read as b / 255
//   Rows      the caller's own floats, looked at where they are, never copied
//   Shapes    images made on the fly (data/shapes.hpp)
//
// What a trainer asks of them is the concept Source. A row depends on the source, the epoch and its index only, so that
// neither the number of threads nor an interruption changes what is learned from.

// The shape of one sample: height x width x channels, channels last. How many samples there are is known at run time only.
//
// A Shape is a structural value and so may be a template argument: Sequential<Shape{28, 28, 1}, ...>. Any extent may be
// `dynamic`: then it is given, and checked, when the model is built, by the same rules as at compile time.

namespace vaelib::inline VAELIB_ABI {

/// An extent that is known at run time only, as in std::span.
inline constexpr int dynamic = -1;

struct Shape {
  int height = 1, width = 1, channels = 1;

  constexpr Shape(int c) : channels(c) {}
  constexpr Shape(int h, int w, int c) : height(h), width(w), channels(c) {}

  constexpr bool is_dynamic() const { return height == dynamic || width == dynamic || channels == dynamic; }
  /// Number of features of one sample; dynamic where an extent is.
  constexpr int size() const { return is_dynamic() ? dynamic : height * width * channels; }
  /// A plain row of features, without height and width.
  constexpr bool is_flat() const { return height == 1 && width == 1; }
  constexpr bool operator==(const Shape&) const = default;
};

/// Whether two extents can be the same: equal, or one of them not known yet.
constexpr bool agree(int a, int b) { return a == b || a == dynamic || b == dynamic; }
constexpr bool agree(Shape a, Shape b) {
  return agree(a.height, b.height) && agree(a.width, b.width) && agree(a.channels, b.channels);
}

/// "28 x 28 x 1", or "400" for a flat shape.
inline std::string text_of(Shape s) {
  const auto extent = [](int e) { return e == dynamic ? detail::TextPart("dynamic") : detail::TextPart(e); };
  return s.is_flat() ? text(extent(s.channels)) : text(extent(s.height), " x ", extent(s.width), " x ", extent(s.channels));
}

/// One extent of a layer: a constant of its type, or, as Extent<dynamic>, a number given at run time.
template <int Value>
struct Extent {
  constexpr operator int() const { return Value; }
};
template <>
struct Extent<dynamic> {
  int value = dynamic;
  constexpr Extent() = default;
  constexpr Extent(int v) : value(v) {}
  constexpr operator int() const { return value; }
};

namespace detail {
/// A name without the qualifiers in it: "std::vector<vaelib::Shape>" becomes "vector<Shape>".
[[gnu::cold]] inline std::string unqualified(std::string_view name) {
  std::string result;
  for (const char c : name) {
    result += c;
    if (!result.ends_with("::")) continue;
    std::size_t start = result.size() - 2;  // drop the qualifier that was just read
    while (start > 0 && (result[start - 1] == '_' || std::string_view("<>, (){}").find(result[start - 1]) == std::string_view::npos)) --start;
    result.resize(start);
  }
  return result;
}
}  // namespace detail

/// The name of a type without namespaces, for messages: "Linear<400>".
template <class T>
std::string type_name() {
#if defined(__clang__) || defined(__GNUC__)
  constexpr std::string_view name = __PRETTY_FUNCTION__;
  constexpr auto begin = name.find("T = ") + 4;
  return detail::unqualified(name.substr(begin, name.find_first_of(";]", begin) - begin));
#else
  return "layer";
#endif
}

}  // namespace vaelib::inline VAELIB_ABI

#include <array>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// Rows that can be had in any order. `fill` writes rows.size() x features() floats and, unless `labels` is null, as
/// many labels. classes() is 0 where there are no labels; fill then writes none.
template <typename T>
concept Source = requires(const T& source, std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features,
                          std::int32_t* labels) {
  { source.size() } -> std::convertible_to<std::int64_t>;
  { source.shape() } -> std::same_as<Shape>;
  { source.classes() } -> std::convertible_to<int>;
  source.fill(epoch, rows, features, labels);
};

/// Rows of different lengths: a row is a set (or series) of points, each of shape(). `count` writes the points of each row;
/// `fill` writes the points of all rows one after another.
template <typename T>
concept SetSource = Source<T> && requires(const T& source, std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) {
  source.count(epoch, rows, points);
};

namespace detail {

/// The number of rows that `values` values make; both numbers come from a file or a caller.
[[gnu::cold]] inline std::int64_t count_rows(std::uint64_t values, Shape shape) {
  const auto extents = text_of(shape);
  if (shape.height < 1 || shape.width < 1 || shape.channels < 1)
    fail("data set: rows of ", extents, ", expected extents of at least 1");
  const auto area = static_cast<std::uint64_t>(shape.height) * static_cast<std::uint64_t>(shape.width);
  const auto channels = static_cast<std::uint64_t>(shape.channels);
  if (area > (std::uint64_t{1} << 31) / channels) fail("data set: rows of ", extents, " are larger than 2^31 features");
  if (values % (area * channels) != 0) fail("data set: ", values, " values are no whole number of rows of ", extents);
  const auto rows = values / (area * channels);
  if (rows > UINT32_MAX) fail("data set: ", rows, " rows, at most ", UINT32_MAX, " expected");
  return static_cast<std::int64_t>(rows);
}

inline void check_labels(std::span<const std::int32_t> labels, std::int64_t rows, int classes) {
  if (labels.empty() && (classes == 0 || rows == 0)) return;
  if (std::cmp_not_equal(labels.size(), rows)) fail("data set: ", labels.size(), " labels for ", rows, " rows");
  for (std::size_t row = 0; row < labels.size(); ++row)
    if (labels[row] < 0 || labels[row] >= classes)
      fail("data set: row ", row, " has the label ", labels[row], ", expected 0 to ", classes - 1);
}

inline void check_rows(std::span<const std::uint32_t> rows, std::int64_t size) {
  for (std::uint32_t row : rows)
    if (row >= size) fail("data set: row ", row, " was asked for, there are ", size);
}

inline constexpr auto byte_values = [] {
  std::array<float, 256> values{};
  for (int i = 0; i < 256; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i) / 255.0f;
  return values;
}();

/// Four bytes at a time: they are all read before the first float is written, which might otherwise change them.
inline void convert_bytes(const std::uint8_t* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const std::uint8_t a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];
    to[i] = byte_values[a], to[i + 1] = byte_values[b], to[i + 2] = byte_values[c], to[i + 3] = byte_values[d];
  }
  for (; i < count; ++i) to[i] = byte_values[from[i]];
}

/// Rows come in random order, and the memory is slow to notice where the next one begins.
inline void prefetch(const std::uint8_t* row, std::size_t bytes) {
#if defined(__GNUC__) || defined(__clang__)
  for (std::size_t i = 0; i < bytes && i < 1024; i += 64) __builtin_prefetch(row + i);
#endif
}

}  // namespace detail

/// Rows of bytes in memory; as floats they lie in [0, 1].
class Dataset {
 public:
  Dataset() = default;
  [[gnu::cold]] Dataset(Shape shape, std::vector<std::uint8_t> pixels, std::vector<std::int32_t> labels = {}, int classes = 0)
      : shape_(shape),
        size_(detail::count_rows(pixels.size(), shape)),
        classes_(classes),
        pixels_(std::move(pixels)),
        labels_(std::move(labels)) {
    detail::check_labels(labels_, size_, classes_);
  }

  std::int64_t size() const { return size_; }
  Shape shape() const { return shape_; }
  int classes() const { return classes_; }
  std::span<const std::uint8_t> pixels() const { return pixels_; }
  std::span<const std::int32_t> labels() const { return labels_; }

  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    const auto count = static_cast<std::size_t>(shape_.size());
    detail::check_rows(rows, size_);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i + 1 < rows.size()) detail::prefetch(pixels_.data() + rows[i + 1] * count, count);
      detail::convert_bytes(pixels_.data() + rows[i] * count, count, features + i * count);
      if (labels && !labels_.empty()) labels[i] = labels_[rows[i]];
    }
  }

  /// A copy of the rows from `begin` to before `end`: the way to part a validation set from a training set.
  Dataset slice(std::int64_t begin, std::int64_t end) const {
    if (begin < 0 || end < begin || end > size_)
      fail("data set: rows ", begin, " to ", end, " were asked for, there are ", size_);
    const std::int64_t bytes = shape_.size();
    std::vector<std::int32_t> labels;
    if (!labels_.empty()) labels.assign(labels_.begin() + begin, labels_.begin() + end);
    return {shape_, {pixels_.begin() + begin * bytes, pixels_.begin() + end * bytes}, std::move(labels), classes_};
  }

 private:
  Shape shape_{1};
  std::int64_t size_ = 0;
  int classes_ = 0;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::int32_t> labels_;
};

/// Training and test rows of one data set.
struct Split {
  Dataset train, test;
  std::string name;
  std::vector<std::string> class_names;
};

/// A look at floats and labels that somebody else owns; they have to outlive it.
class Rows {
 public:
  Rows(std::span<const float> values, Shape shape, std::span<const std::int32_t> labels = {}, int classes = 0)
      : values_(values),
        labels_(labels),
        shape_(shape),
        size_(detail::count_rows(values.size(), shape)),
        classes_(classes) {
    detail::check_labels(labels_, size_, classes_);
  }

  std::int64_t size() const { return size_; }
  Shape shape() const { return shape_; }
  int classes() const { return classes_; }
  std::span<const float> values() const { return values_; }
  std::span<const std::int32_t> labels() const { return labels_; }

  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    const auto count = static_cast<std::size_t>(shape_.size());
    detail::check_rows(rows, size_);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(features + i * count, values_.data() + rows[i] * count, count * sizeof(float));
      if (labels && !labels_.empty()) labels[i] = labels_[rows[i]];
    }
  }

 private:
  std::span<const float> values_;
  std::span<const std::int32_t> labels_;
  Shape shape_;
  std::int64_t size_;
  int classes_;
};

namespace detail {

/// Refuses a view whose elements do not lie side by side, last index fastest. Extents of 1 may have any stride.
void check_contiguous(const auto& container) {
  if constexpr (requires { container.strides(); }) {
    const auto& shape = container.shape();
    const auto& strides = container.strides();
    std::int64_t expected = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      const auto extent = static_cast<std::int64_t>(shape[i]), stride = static_cast<std::int64_t>(strides[i]);
      if (extent != 1 && stride != expected && container.size() != 0)
        fail("data set: a strided view (dimension ", i, " has the stride ", stride, ", contiguous rows have ", expected,
             "): copy it into a container first");
      expected *= extent;
    }
  }
}

inline int extent(std::uint64_t value) {
  if (value < 1 || value > INT32_MAX) fail("data set: an extent of ", value, ", expected 1 to ", INT32_MAX);
  return static_cast<int>(value);
}

/// Where the elements begin: data() of an xtensor view is that of the whole container, before its offset.
auto first_element(const auto& container) {
  if constexpr (requires { container.data_offset(); })
    return container.data() + container.data_offset();
  else
    return container.data();
}

}  // namespace detail

/// A look at a container of floats that has data(), shape() and size(), such as a contiguous xt::xtensor or view:
/// rows x features, rows x height x width or rows x height x width x channels. Nothing is copied.
template <typename Container>
requires requires(const Container& container) { container.data(), container.shape(), container.size(); }
Rows view(const Container& container, std::span<const std::int32_t> labels = {}, int classes = 0) {
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(*container.data())>, float>,
                "vaelib: data::view looks at floats; convert other element types first");
  const auto& shape = container.shape();
  const auto at = [&](std::size_t i) { return detail::extent(static_cast<std::uint64_t>(shape[i])); };
  Shape image(1);
  if (shape.size() == 2)
    image.channels = at(1);
  else if (shape.size() == 3 || shape.size() == 4)
    image = {at(1), at(2), shape.size() == 4 ? at(3) : 1};
  else
    fail("data set: ", shape.size(),
         " dimensions, expected 2 (rows x features), 3 or 4 (rows x height x width x channels)");
  detail::check_contiguous(container);
  return {{detail::first_element(container), static_cast<std::size_t>(container.size())}, image, labels, classes};
}

/// Refuses values that are NaN or outside [low, high], naming the first.
inline void check_range(const Rows& rows, float low, float high) {
  const auto values = rows.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= low && values[i] <= high) continue;
    const auto features = static_cast<std::uint64_t>(rows.shape().size());
    char sentence[160];
    std::snprintf(sentence, sizeof sentence, "data set: row %llu, column %llu is %g, expected a value from %g to %g",
                  static_cast<unsigned long long>(i / features), static_cast<unsigned long long>(i % features),
                  static_cast<double>(values[i]), static_cast<double>(low), static_cast<double>(high));
    fail(sentence);
  }
}

/// The given rows as floats, for pictures and small evaluations.
template <Source T>
std::vector<float> gather(const T& source, std::span<const std::uint32_t> rows, std::uint64_t epoch = 0) {
  std::vector<float> features(rows.size() * static_cast<std::size_t>(source.shape().size()));
  source.fill(epoch, rows, features.data(), nullptr);
  return features;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
// MNIST (LeCun, Cortes, Burges 1998) and Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747): 60 000 training and
// 10 000 test images of 28 x 28 grey pixels in 10 classes, in four IDX files, plain or gzip-compressed.

// IDX files, the format of MNIST (Y. LeCun): bytes 0, 0, type, number of dimensions; each extent as a big-endian u32;
// the values in C order. Unsigned bytes (type 8) only. Plain, or compressed by gzip, which is recognised by its
// content.
//
// The extents are checked against the file's true size before memory is taken: exactly for a plain file, by
// largest_unpacked for a compressed one, which is inflated up to the declared size and no further. (Link: -lz)

// Files: reads bounded by the file's true size, and writes that replace a file whole or not at all.
//
// A write goes to a temporary file beside the target (x.tmp.<pid>.<n>), is flushed to the disk and only then renamed
// over the target; the folder is flushed last. Whoever opens the target, after a kill or a power cut too, finds the old
// file or the new one, never a part of one.
//
// Every operation asks file_hook first, so that tests can make the n-th one fail or end the process there.
// POSIX only (descriptors, rename, fsync); other systems are not covered yet.

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Called with the name of an operation (open, stat, read, write, fsync, close, rename, unlink, mkdir) before it.
/// Answers 0 to go on, an errno to fail with, or short_count to move only half of the bytes. For tests.
using FileHook = int (*)(const char* operation);
inline std::atomic<FileHook> file_hook{nullptr};
inline constexpr int short_count = -1;

namespace detail {

inline bool allowed(const char* operation, std::size_t* count = nullptr) {
  const FileHook hook = file_hook.load(std::memory_order_relaxed);
  const int answer = hook ? hook(operation) : 0;
  if (answer == short_count && count) *count = (*count + 1) / 2;
  if (answer > 0) errno = answer;
  return answer <= 0;
}

/// The result of a system call, made again as long as a signal interrupts it.
auto uninterrupted(auto call) {
  for (;;) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

[[gnu::cold]] inline int open_file(const std::string& path, int flags) {
  return uninterrupted([&] { return allowed("open") ? ::open(path.c_str(), flags | O_CLOEXEC, 0666) : -1; });
}
[[gnu::cold]] inline int stat_file(int descriptor, struct stat& status) {
  return uninterrupted([&] { return allowed("stat") ? ::fstat(descriptor, &status) : -1; });
}
[[gnu::cold]] inline int stat_file(const std::string& path, struct stat& status) {
  return uninterrupted([&] { return allowed("stat") ? ::stat(path.c_str(), &status) : -1; });
}
inline ssize_t read_some(int descriptor, void* to, std::size_t count, std::uint64_t position) {
  return uninterrupted([&] {
    std::size_t part = count;
    return allowed("read", &part) ? ::pread(descriptor, to, part, static_cast<off_t>(position)) : ssize_t{-1};
  });
}
inline ssize_t write_some(int descriptor, const void* from, std::size_t count) {
  return uninterrupted([&] {
    std::size_t part = count;
    return allowed("write", &part) ? ::write(descriptor, from, part) : ssize_t{-1};
  });
}
[[gnu::cold]] inline int sync_file(int descriptor) {
  return uninterrupted([&] { return allowed("fsync") ? ::fsync(descriptor) : -1; });
}
/// The descriptor is gone afterwards, whatever the answer: a close that was interrupted must not be repeated.
[[gnu::cold]] inline int close_file(int descriptor) {
  const bool permitted = allowed("close");
  const int reason = errno;
  const int result = ::close(descriptor);
  if (!permitted) errno = reason;
  return (permitted && result == 0) || errno == EINTR ? 0 : -1;
}
[[gnu::cold]] inline int rename_file(const std::string& from, const std::string& to) {
  return uninterrupted([&] { return allowed("rename") ? ::rename(from.c_str(), to.c_str()) : -1; });
}
[[gnu::cold]] inline int unlink_file(const std::string& path) {
  return uninterrupted([&] { return allowed("unlink") ? ::unlink(path.c_str()) : -1; });
}
[[gnu::cold]] inline int make_folder(const std::string& path) {
  return uninterrupted([&] { return allowed("mkdir") ? ::mkdir(path.c_str(), 0777) : -1; });
}

[[noreturn]] inline void fail_with_errno(const std::string& path, std::string_view action) {
  const int reason = errno;
  fail(path, ": cannot ", action, ": ", std::strerror(reason));
}

/// Owns an open file.
class Descriptor {
 public:
  explicit Descriptor(int opened = -1) : number(opened) {}
  Descriptor(Descriptor&& other) noexcept : number(std::exchange(other.number, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number, other.number);
    return *this;
  }
  ~Descriptor() {
    if (number != -1) close_file(number);
  }
  int get() const { return number; }
  int release() { return std::exchange(number, -1); }
  int close() { return close_file(release()); }

 private:
  int number;
};

/// The bytes of a string, or of a contiguous container of plain values.
template <class Part>
std::string_view bytes_of(const Part& part) {
  if constexpr (std::convertible_to<const Part&, std::string_view>) {
    return part;
  } else {
    static_assert(std::is_trivially_copyable_v<std::remove_cvref_t<decltype(*part.data())>>);
    return {reinterpret_cast<const char*>(part.data()), part.size() * sizeof(*part.data())};
  }
}

}  // namespace detail

/// The folder that holds a file: "." when the path names none.
inline std::string folder_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Makes the entries of a folder (new names, renames) survive a power cut.
[[gnu::cold]] inline void sync_folder(const std::string& folder) {
  detail::Descriptor opened(detail::open_file(folder, O_RDONLY | O_DIRECTORY));
  if (opened.get() == -1 && errno == EACCES) return;  // may be written but not read: nothing more can be done
  if (opened.get() == -1) detail::fail_with_errno(folder, "open the folder");
  if (detail::sync_file(opened.get()) == -1 && errno != EINVAL)  // EINVAL: this file system syncs no folders
    detail::fail_with_errno(folder, "flush the folder to the disk");
}

/// Makes a folder and those above it; one that exists is left as it is.
inline void create_directories(const std::string& path) {
  struct stat status {};
  if (detail::stat_file(path, status) == 0) {
    if (!S_ISDIR(status.st_mode)) fail(path, ": cannot make this folder: a file of that name exists");
    return;
  }
  if (errno != ENOENT || path.empty()) detail::fail_with_errno(path, "make this folder");
  const std::string parent = folder_of(path);
  create_directories(parent);
  if (detail::make_folder(path) == -1 && errno != EEXIST) detail::fail_with_errno(path, "make this folder");
  sync_folder(parent);
}

/// The names in a folder, in no order, without "." and ".."; none where there is no such folder.
inline std::vector<std::string> list_folder(const std::string& folder) {
  detail::Descriptor descriptor(detail::open_file(folder, O_RDONLY | O_DIRECTORY));
  if (descriptor.get() == -1 && errno == ENOENT) return {};
  struct Listing {
    DIR* opened;
    ~Listing() {
      if (opened) ::closedir(opened);
    }
  } stream{descriptor.get() == -1 ? nullptr : ::fdopendir(descriptor.get())};
  if (!stream.opened) detail::fail_with_errno(folder, "list this folder");
  descriptor.release();  // it is the stream's now
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.opened)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) detail::fail_with_errno(folder, "list this folder");
  return names;
}

/// Removes a file; one that is not there is no error.
inline void remove_file(const std::string& path) {
  if (detail::unlink_file(path) == -1 && errno != ENOENT) detail::fail_with_errno(path, "remove this file");
}

/// A file open for reading at any position, or bytes in memory that pass for one. Several threads may read at once.
class InputFile {
 public:
  [[gnu::cold]] explicit InputFile(std::string path) : name(std::move(path)) {
    // Opening a named pipe would wait for its writer; O_NONBLOCK does not, and changes nothing for regular files.
    opened = detail::Descriptor(detail::open_file(name, O_RDONLY | O_NONBLOCK));
    struct stat status {};
    if (opened.get() == -1 || detail::stat_file(opened.get(), status) == -1) detail::fail_with_errno(name, "open");
    if (S_ISDIR(status.st_mode)) fail(name, ": is a folder; a file was expected");
    if (!S_ISREG(status.st_mode)) fail(name, ": is a pipe or device; a regular file was expected");
    length = static_cast<std::uint64_t>(status.st_size);
  }
  /// `path` is only the name in errors.
  InputFile(std::string path, std::string bytes)
      : name(std::move(path)), memory(std::move(bytes)), length(memory.size()) {}

  const std::string& path() const { return name; }
  std::uint64_t size() const { return length; }

  void read_at(std::uint64_t position, void* to, std::size_t count) const {
    if (position > length || count > length - position)
      fail(name, ": byte ", position, ": expected ", count, " more bytes, found the end of the file at ", length);
    if (opened.get() == -1) {
      if (count > 0) std::memcpy(to, memory.data() + position, count);
      return;
    }
    for (std::size_t done = 0; done < count;) {
      const ssize_t got = detail::read_some(opened.get(), static_cast<char*>(to) + done, count - done, position + done);
      if (got < 0) detail::fail_with_errno(name, "read");
      if (got == 0) fail(name, ": byte ", position + done, ": the file was shortened while it was read");
      done += static_cast<std::size_t>(got);
    }
  }

 private:
  std::string name;
  detail::Descriptor opened;
  std::string memory;
  std::uint64_t length = 0;
};

/// The whole content of a file, refused before memory is taken when it has more than max_bytes.
inline std::string read_file(const InputFile& file, std::uint64_t max_bytes) {
  if (file.size() > max_bytes) fail(file.path(), ": has ", file.size(), " bytes; at most ", max_bytes, " were expected");
  std::string content(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, content.data(), content.size());
  return content;
}
inline std::string read_file(const std::string& path, std::uint64_t max_bytes) { return read_file(InputFile(path), max_bytes); }

/// How many bytes of memory the content of a compressed file may fill: 48 for each of its bytes, and 48 MB in any case. Deflate
/// packs a thousand zeros into a byte, so that a small file could ask for all memory otherwise.
constexpr std::uint64_t largest_unpacked(std::uint64_t file_size) {
  return 48 * std::max(file_size, std::uint64_t{1} << 20);
}

/// A file in the making. Unless publish() is reached, the target stays as it was and the temporary file is removed.
class AtomicFile {
 public:
  [[gnu::cold]] explicit AtomicFile(std::string path) : target(std::move(path)) {
    // A killed process may have left a temporary file, and in a container the next one may have the same number.
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::string candidate = text(target, temporary_mark, ::getpid(), '.', attempt);
      opened = detail::Descriptor(detail::open_file(candidate, O_WRONLY | O_CREAT | O_EXCL));
      if (opened.get() != -1) temporary = std::move(candidate);
      if (opened.get() != -1 || errno != EEXIST) break;
    }
    if (opened.get() == -1) detail::fail_with_errno(target, "make a temporary file beside this file");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!temporary.empty()) detail::unlink_file(temporary);
  }

  void write(const void* from, std::size_t count) {
    const auto* bytes = static_cast<const char*>(from);
    while (count > 0) {
      const ssize_t written = detail::write_some(opened.get(), bytes, count);
      if (written == 0) errno = ENOSPC;
      if (written <= 0) detail::fail_with_errno(target, "write");
      bytes += written;
      count -= static_cast<std::size_t>(written);
    }
  }
  /// All bytes are on the disk afterwards, under temporary_path().
  [[gnu::cold]] void flush_and_close() {
    if (detail::sync_file(opened.get()) == -1) detail::fail_with_errno(target, "flush to the disk");
    if (opened.close() == -1) detail::fail_with_errno(target, "close");
  }
  const std::string& temporary_path() const { return temporary; }
  /// Gives the file its name; to be called after flush_and_close().
  [[gnu::cold]] void publish() {
    if (detail::rename_file(temporary, target) == -1) detail::fail_with_errno(target, "put the new file in place");
    temporary.clear();
    sync_folder(folder_of(target));
  }

  static constexpr std::string_view temporary_mark = ".tmp.";

 private:
  std::string target;
  std::string temporary;
  detail::Descriptor opened;
};

/// Replaces a file by these parts, one after another: strings or contiguous containers of plain values.
void write_file_atomically(const std::string& path, const auto&... parts) {
  AtomicFile file(path);
  (file.write(detail::bytes_of(parts).data(), detail::bytes_of(parts).size()), ...);
  file.flush_and_close();
  file.publish();
}

}  // namespace vaelib::inline VAELIB_ABI

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

struct IdxArray {
  std::vector<std::uint32_t> shape;
  std::vector<std::uint8_t> values;
};

namespace detail {

/// The bytes of a plain file, one after another.
class PlainBytes {
 public:
  explicit PlainBytes(const InputFile& input) : file(input) {}
  void read(std::uint8_t* to, std::size_t count) {
    file.read_at(position, to, count);
    position += count;
  }
  /// Fails unless `count` bytes are left, no more and no less.
  [[gnu::cold]] void expect_left(std::uint64_t count) const {
    if (file.size() - position != count)
      fail(file.path(), ": the extents need ", count, " bytes of values, the file has ", file.size() - position);
  }
  void expect_end() const {}

 private:
  const InputFile& file;
  std::uint64_t position = 0;
};

/// The bytes of a gzip file (one member), inflated one after another.
class GzipBytes {
 public:
  [[gnu::cold]] explicit GzipBytes(const InputFile& input) : file(input) {
    constexpr int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&stream, gzip_only) != Z_OK) fail(file.path(), ": zlib could not be started");
  }
  GzipBytes(const GzipBytes&) = delete;
  GzipBytes& operator=(const GzipBytes&) = delete;
  ~GzipBytes() { inflateEnd(&stream); }

  void read(std::uint8_t* to, std::size_t count) {
    while (count > 0) {
      const std::size_t got = inflate_some(to, count);
      if (got == 0) fail(file.path(), ": expected ", count, " more bytes of values, found the end of the gzip data");
      to += got;
      count -= got;
    }
  }
  /// Fails where `count` bytes are more than a file of this size may fill.
  [[gnu::cold]] void expect_left(std::uint64_t count) const {
    if (count > largest_unpacked(file.size()))
      fail(file.path(), ": the extents need ", count, " bytes of values, at most ", largest_unpacked(file.size()), " are expected of ", file.size(),
           " bytes of gzip data; where they are right, gunzip the file");
  }
  [[gnu::cold]] void expect_end() {
    std::uint8_t excess = 0;
    if (inflate_some(&excess, 1) > 0) fail(file.path(), ": has more values than its extents declare");
    if (next_block < file.size() || stream.avail_in > 0) fail(file.path(), ": has foreign bytes behind the gzip data");
  }

 private:
  /// Inflates up to `count` bytes; 0 at the end of the gzip data, whose checksum zlib has then compared.
  std::size_t inflate_some(std::uint8_t* to, std::size_t count) {
    const auto part = static_cast<uInt>(std::min<std::size_t>(count, std::numeric_limits<uInt>::max()));
    stream.next_out = to;
    stream.avail_out = part;
    while (!ended && stream.avail_out == part) {
      if (stream.avail_in == 0) refill();
      const int status = inflate(&stream, Z_NO_FLUSH);
      ended = status == Z_STREAM_END;
      if (status == Z_MEM_ERROR) fail(file.path(), ": not enough memory to inflate");
      if (status != Z_OK && status != Z_STREAM_END)
        fail(file.path(), ": near byte ", next_block - stream.avail_in, ": the gzip data are damaged (",
             stream.msg ? stream.msg : "unexpected content", ")");
    }
    return part - stream.avail_out;
  }
  [[gnu::cold]] void refill() {
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), file.size() - next_block));
    if (part == 0) fail(file.path(), ": is truncated: the gzip data have no end");
    file.read_at(next_block, block.data(), part);
    next_block += part;
    stream.next_in = block.data();
    stream.avail_in = static_cast<uInt>(part);
  }

  const InputFile& file;
  z_stream stream{};
  std::array<std::uint8_t, 65536> block;
  std::uint64_t next_block = 0;
  bool ended = false;
};

inline constexpr std::size_t idx_most_dimensions = 8;

[[gnu::cold]] inline std::uint64_t idx_count(const std::vector<std::uint32_t>& shape, const std::string& path) {
  std::uint64_t count = 1;
  for (const std::uint32_t extent : shape) {
    if (extent != 0 && count > std::numeric_limits<std::uint64_t>::max() / extent)
      fail(path, ": the product of the extents is above 2^64 - 1");
    count *= extent;
  }
  return count;
}

/// Reads the extents, checks them against what is left of `bytes`, then reads the values.
template <class Bytes>
[[gnu::cold]] IdxArray read_idx_from(Bytes&& bytes, const std::string& path) {
  std::array<std::uint8_t, 4> magic{};
  bytes.read(magic.data(), magic.size());
  if (magic[0] != 0 || magic[1] != 0)
    fail(path, ": byte 0: is no IDX file: expected two zero bytes, found ", int{magic[0]}, " and ", int{magic[1]});
  if (magic[2] != 8) fail(path, ": byte 2: expected values of type 8 (unsigned bytes), found type ", int{magic[2]});
  if (magic[3] < 1 || magic[3] > idx_most_dimensions)
    fail(path, ": byte 3: expected 1 to ", idx_most_dimensions, " dimensions, found ", int{magic[3]});
  IdxArray array;
  array.shape.resize(magic[3]);
  for (std::uint32_t& extent : array.shape) {
    std::array<std::uint8_t, 4> big{};
    bytes.read(big.data(), big.size());
    extent = std::uint32_t{big[0]} << 24 | std::uint32_t{big[1]} << 16 | std::uint32_t{big[2]} << 8 | big[3];
  }
  const std::uint64_t count = idx_count(array.shape, path);
  bytes.expect_left(count);
  array.values.resize(static_cast<std::size_t>(count));
  bytes.read(array.values.data(), array.values.size());
  bytes.expect_end();
  return array;
}

}  // namespace detail

[[gnu::cold]] inline IdxArray read_idx(const InputFile& file) {
  const std::string& path = file.path();
  if (file.size() < 5) fail(path, ": is no IDX file: it has only ", file.size(), " bytes");
  std::array<std::uint8_t, 2> magic{};
  file.read_at(0, magic.data(), magic.size());
  if (magic[0] == 0x1F && magic[1] == 0x8B) return detail::read_idx_from(detail::GzipBytes(file), path);
  return detail::read_idx_from(detail::PlainBytes(file), path);
}
inline IdxArray read_idx(const std::string& path) { return read_idx(InputFile(path)); }

/// Writes a plain IDX file of unsigned bytes.
[[gnu::cold]] inline void write_idx(const std::string& path, const std::vector<std::uint32_t>& shape,
                      std::span<const std::uint8_t> values) {
  if (shape.empty() || shape.size() > detail::idx_most_dimensions)
    fail(path, ": IDX files have 1 to ", detail::idx_most_dimensions, " dimensions, not ", shape.size());
  std::vector<std::uint8_t> header{0, 0, 8, static_cast<std::uint8_t>(shape.size())};
  if (detail::idx_count(shape, path) != values.size())
    fail(path, ": the extents need ", detail::idx_count(shape, path), " values, not ", values.size());
  for (const std::uint32_t extent : shape)
    for (const int shift : {24, 16, 8, 0}) header.push_back(static_cast<std::uint8_t>(extent >> shift));
  write_file_atomically(path, header, values);
}

}  // namespace vaelib::inline VAELIB_ABI

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// Where Debian's package dataset-fashion-mnist puts the files.
inline constexpr const char* fashion_mnist_folder = "/usr/share/datasets/fashion-mnist";

namespace detail {

inline bool is_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file) std::fclose(file);
  return file != nullptr;
}

/// The path of `name` or `name`.gz in the folder; empty where there is neither.
[[gnu::cold]] inline std::string find_idx(const std::string& folder, const std::string& name) {
  for (const char* ending : {"", ".gz"})
    if (auto path = folder + "/" + name + ending; is_file(path)) return path;
  return {};
}

[[gnu::cold]] inline std::string need_idx(const std::string& folder, const std::string& name, const std::string& advice) {
  auto path = find_idx(folder, name);
  if (path.empty())
    fail(folder, ": no file ", name, " or ", name,
         ".gz; expected are train-images-idx3-ubyte, train-labels-idx1-ubyte, ",
         "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or as .gz", advice);
  return path;
}

[[gnu::cold]] inline Dataset read_mnist_part(const std::string& folder, const std::string& part, const std::string& advice) {
  const auto images_path = need_idx(folder, part + "-images-idx3-ubyte", advice);
  const auto labels_path = need_idx(folder, part + "-labels-idx1-ubyte", advice);
  IdxArray images = read_idx(images_path);
  if (images.shape.size() != 3 || images.shape[1] != 28 || images.shape[2] != 28) {
    std::string shape;
    for (auto extent : images.shape) shape += text(shape.empty() ? "" : " x ", extent);
    fail(images_path, ": the shape is ", shape, ", expected images x 28 x 28");
  }
  const IdxArray labels = read_idx(labels_path);
  if (labels.shape.size() != 1) fail(labels_path, ": ", labels.shape.size(), " dimensions, expected 1 (labels)");
  if (labels.shape[0] != images.shape[0])
    fail(labels_path, ": ", labels.shape[0], " labels for ", images.shape[0], " images in ", images_path);
  std::vector<std::int32_t> classes(labels.values.size());
  for (std::size_t row = 0; row < classes.size(); ++row) {
    classes[row] = labels.values[row];
    if (classes[row] > 9) fail(labels_path, ": label ", row, " is ", classes[row], ", expected 0 to 9");
  }
  return {{28, 28, 1}, std::move(images.values), std::move(classes), 10};
}

}  // namespace detail

/// MNIST's four files in a folder. They are not packaged; whoever has them names the folder.
[[gnu::cold]] inline Split mnist(const std::string& folder) {
  return {detail::read_mnist_part(folder, "train", ""),
          detail::read_mnist_part(folder, "t10k", ""),
          "mnist",
          {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
}

[[gnu::cold]] inline Split fashion_mnist(const std::string& folder = fashion_mnist_folder) {
  const std::string advice = "; on Debian: apt install dataset-fashion-mnist";
  return {detail::read_mnist_part(folder, "train", advice),
          detail::read_mnist_part(folder, "t10k", advice),
          "fashion-mnist",
          {"T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"}};
}

/// Whether fashion_mnist() would find its files, so that a program can choose its default.
inline bool has_fashion_mnist(const std::string& folder = fashion_mnist_folder) {
  for (const char* name :
       {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"})
    if (detail::find_idx(folder, name).empty()) return false;
  return true;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
// Images with known factors, made on the fly: one white square, ellipse or heart on black, after dSprites (Matthey,
// Higgins, Hassabis, Lerchner 2017) but with continuous factors and smooth edges. They train a VAE where no file is at
// hand, and tell whether a code found the factors.
//
// Every shape fits a circle of radius 0.2 x scale of the image size around its centroid, so all of it is always in
// sight and no factor says anything about another. A pixel is the share of it that the shape covers, from the signed
// distance d (pixels) of its centre to the edge: clamp(1/2 - d, 0, 1), computed in double and rounded to one of 256
// grey levels, so that compilers and processors agree on it.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// What one image of Shapes shows.
struct ShapeFactors {
  int kind;        // 0 square, 1 ellipse, 2 heart; also the label
  float scale;     // [0.5, 1)
  float rotation;  // radians, [0, 2 pi), clockwise on screen
  float x, y;      // [0, 1): the centroid's place in its range, from left to right and top to bottom
};

/// size() images an epoch, other ones in every epoch unless `fixed`.
struct Shapes {
  int image_size = 64;
  std::uint32_t images = 20'000;
  std::uint64_t seed = 0;
  bool fixed = false;

  static constexpr double radius = 0.2;         // of the circle around a shape of scale 1, as share of the image size
  static constexpr std::uint32_t stream = 254;  // of the factors' own random numbers

  std::int64_t size() const { return images; }
  int classes() const { return 3; }
  Shape shape() const {
    if (image_size < 8 || image_size > 4096) fail("shapes: the image size is ", image_size, ", expected 8 to 4096");
    return {image_size, image_size, 1};
  }

  ShapeFactors factors(std::uint64_t epoch, std::uint32_t row) const;
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const;

  /// The centroid in pixels (the first pixel spans 0 to 1) for a factor x or y.
  double position(double factor) const {
    const double margin = radius * image_size + 1;
    return margin + factor * (image_size - 2 * margin);
  }
};

/// Draws one image of size x size floats.
void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image);

namespace detail {

/// Signed distances to shapes around the origin inside the unit circle, exact to first order near the edge.
inline double square_distance(double x, double y) { return std::max(std::abs(x), std::abs(y)) - 0.7; }

inline double ellipse_distance(double x, double y) {
  constexpr double a = 1, b = 1 / (0.55 * 0.55);  // a x^2 + b y^2 = 1 on the edge
  return (a * x * x + b * y * y - 1) / (2 * std::sqrt(a * a * x * x + b * b * y * y));
}

/// A square on its tip and a disc on each of its upper sides, in units of the square's diagonal.
inline double heart_distance(double x, double y) {
  constexpr double unit = 0.65661;  // tip to centroid: the farthest point, so it lies on the unit circle
  constexpr double half_root = 0.70710678118654752;
  const double u = std::abs(x) * unit, v = unit - y * unit;
  const double square = (u + std::abs(v - 0.5) - 0.5) * half_root;
  const double disc = std::sqrt((u - 0.25) * (u - 0.25) + (v - 0.75) * (v - 0.75)) - half_root / 2;
  return std::min(square, disc) * (1 / unit);
}

template <typename Distance>
void draw_distance(float* image, int size, double center_x, double center_y, double radius, double rotation,
                   Distance distance) {
  std::fill(image, image + std::int64_t{size} * size, 0.0f);
  const auto low = [&](double center) { return std::max(0, static_cast<int>(center - radius - 1)); };
  const auto high = [&](double center) { return std::min(size, static_cast<int>(center + radius + 2)); };
  // Pixel steps in the shape's own frame, where its radius is 1.
  const double cosine = std::cos(rotation) / radius, sine = std::sin(rotation) / radius;
  for (int row = low(center_y); row < high(center_y); ++row)
    for (int column = low(center_x); column < high(center_x); ++column) {
      const double dx = column + 0.5 - center_x, dy = row + 0.5 - center_y;
      const double d = distance(cosine * dx + sine * dy, cosine * dy - sine * dx) * radius;
      const auto level = static_cast<std::size_t>(std::clamp(0.5 - d, 0.0, 1.0) * 255 + 0.5);
      image[std::int64_t{row} * size + column] = byte_values[level];
    }
}

inline float unit_interval(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace detail

inline ShapeFactors Shapes::factors(std::uint64_t epoch, std::uint32_t row) const {
  if (fixed) epoch = 0;
  detail::check_rows({&row, 1}, size());
  const RandomKey key{.seed = seed, .step = epoch, .stream = stream};
  const auto first = philox(key.counter(0, row), key.words()), second = philox(key.counter(1, row), key.words());
  return {static_cast<int>((std::uint64_t{first[0]} * 3) >> 32), 0.5f + 0.5f * detail::unit_interval(first[1]),
          6.2831853f * detail::unit_interval(first[2]), detail::unit_interval(first[3]),
          detail::unit_interval(second[0])};
}

inline void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image) {
  const int size = shapes.shape().width;
  const double x = shapes.position(factors.x), y = shapes.position(factors.y);
  const double radius = Shapes::radius * size * factors.scale;
  const auto draw = [&](auto distance) {
    detail::draw_distance(image, size, x, y, radius, factors.rotation, distance);
  };
  if (factors.kind == 0)
    draw([](double u, double v) { return detail::square_distance(u, v); });
  else if (factors.kind == 1)
    draw([](double u, double v) { return detail::ellipse_distance(u, v); });
  else
    draw([](double u, double v) { return detail::heart_distance(u, v); });
}

inline void Shapes::fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features,
                         std::int32_t* labels) const {
  const auto count = static_cast<std::size_t>(shape().size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto known = factors(epoch, rows[i]);
    draw_shape(*this, known, features + i * count);
    if (labels) labels[i] = known.kind;
  }
}

/// Images for training, new ones in every epoch, and others for testing that stay the same.
struct ShapesSplit {
  Shapes train, test;
  std::string name;
  std::vector<std::string> class_names;
};

inline ShapesSplit shapes(int image_size = 64, std::uint64_t seed = 0) {
  const Shapes train{.image_size = image_size, .seed = seed};
  const Shapes test{.image_size = image_size, .images = 2'000, .seed = ~seed, .fixed = true};
  train.shape();  // refuses a size that cannot be drawn
  return {train, test, "shapes", {"square", "ellipse", "heart"}};
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
// Models as safetensors files, by the names and layouts of PyTorch: torch.nn modules of the same structure load them by
// load_state_dict, and their files load here.
//
//   Linear            [out, in]                   here in x out
//   Conv2d            [out, in, kh, kw]           here kh x kw x in x out
//   ConvTranspose2d   [in, out, kh, kw]           here kh x kw x out x in
//   LayerNorm of images   [channels, h, w]        here h x w x channels
//   features that were flattened (Flatten, Reshape)   channels first there, channels last here
//   num_batches_tracked                           a 64-bit integer without axes

// What a layer learns (Parameter) and what it merely keeps (State: running statistics, codebooks). Both only describe:
// extents, first values, layout in a file, and the place in the flat buffers of Weights, which own the numbers.

#include <array>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {

/// How the first values are drawn.
struct Initialization {
  enum class Kind { constant, uniform, normal } kind = Kind::constant;
  float value = 0;  ///< the constant, the bound of U(-value, value), or the standard deviation of N(0, value^2)
};
constexpr Initialization constant(float value) { return {Initialization::Kind::constant, value}; }
constexpr Initialization uniform(float bound) { return {Initialization::Kind::uniform, bound}; }
constexpr Initialization normal(float deviation) { return {Initialization::Kind::normal, deviation}; }

/// The usual choices for a weight. `torch` is what PyTorch's layers do: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)).
enum class Initializer { torch, xavier_uniform, xavier_normal, kaiming_uniform, kaiming_normal, zeros };

/// Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming, gain of ReLU); fans count inputs and outputs of one unit.
[[gnu::cold]] inline Initialization initialize(Initializer choice, long fan_in, long fan_out) {
  const float in = fan_in > 0 ? float(fan_in) : 1.0f, sum = fan_in + fan_out > 0 ? float(fan_in + fan_out) : 1.0f;
  switch (choice) {
    case Initializer::torch: return uniform(1 / std::sqrt(in));
    case Initializer::xavier_uniform: return uniform(std::sqrt(6 / sum));
    case Initializer::xavier_normal: return normal(std::sqrt(2 / sum));
    case Initializer::kaiming_uniform: return uniform(std::sqrt(6 / in));
    case Initializer::kaiming_normal: return normal(std::sqrt(2 / in));
    case Initializer::zeros: return constant(0);
  }
  return constant(0);
}

/// Where the axes of a parameter stand in a file of PyTorch's layout.
enum class Layout {
  features,               ///< one number a feature, or any axes in the same order: saved as it is
  image,                  ///< height x width x channels here, channels x height x width there
  linear,                 ///< in x out here, out x in there
  convolution,            ///< kernel height x kernel width x in x out here, out x in x kernel height x kernel width there
  transposed_convolution  ///< kernel height x kernel width x out x in here, in x out x kernel height x kernel width there
};

struct Parameter {
  std::array<int, 4> extents{};
  int rank = 0;
  Initialization initial{};
  Layout layout = Layout::features;
  /// PyTorch flattens channels first, rows here are channels last: the spatial shapes that were flattened into (or are
  /// taken out of) the features of this parameter, so that files can be permuted. Flat shapes permute nothing.
  Shape in_order{1}, out_order{1};
  int in_beside = 0;  ///< how many of the inputs stand behind those of in_order (the features of a label)
  long offset = -1;  ///< of the first value in the flat buffers; given by Weights
  int id = -1;       ///< position among the parameters of the model

  constexpr Parameter() = default;
  constexpr Parameter(std::initializer_list<int> e, Initialization i, Layout l = Layout::features) : initial(i), layout(l) {
    for (int extent : e) extents[rank++] = extent;
  }
  constexpr long size() const {
    long n = 1;
    for (int a = 0; a < rank; ++a) n *= extents[a];
    return n;
  }
};

struct State {
  int count = 0;
  Initialization initial{};
  bool integer = false;  ///< a counter: saved as one 64-bit integer without axes
  int columns = 0;       ///< saved as a table of so many columns; 0: as one row of numbers
  Shape order{1};        ///< of features that were flattened, as Parameter has it
  bool of_inputs = false;  ///< one number an input of its layer rather than an output
  long offset = -1;
  int id = -1;

  constexpr State() = default;
  constexpr State(int n, float first, bool is_integer = false) : count(n), initial(constant(first)), integer(is_integer) {}
  constexpr long size() const { return count; }
};

class LeafVisitor;

/// Anything made of named members: `void fields(auto&& f) { f("weight", weight); f("bias", bias); }`.
template <class T>
concept HasFields = requires(T& object, LeafVisitor& f) { object.fields(f); };

/// Goes through every Parameter and State below an object, in the order of its fields: `object.fields(visitor)`.
class LeafVisitor {
 public:
  virtual void visit(Parameter&) {}
  virtual void visit(State&) {}

  template <class Member>
  void operator()(std::string_view name, Member& member) {
    const std::size_t outside = enter(name);
    if constexpr (std::is_same_v<Member, Parameter> || std::is_same_v<Member, State>) {
      visit(member);
    } else if constexpr (HasFields<Member>) {
      member.fields(*this);
    }
    path.resize(outside);
  }
  template <class Member>
  void operator()(int index, Member& member) {
    if constexpr (HasFields<Member>) (*this)(text(index), member);
  }

 protected:
  ~LeafVisitor() = default;
  std::string path;  ///< of the leaf that is visited: "encoder.0.weight"

 private:
  /// Gives the length of the path outside.
  [[gnu::cold]] std::size_t enter(std::string_view name) {
    const std::size_t outside = path.size();
    if (outside > 0) path += '.';
    path += name;
    return outside;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// safetensors files: u64 length of the header (little-endian), the header in JSON, then the tensors one after another.
//
// Reading: the header is checked in full against the file's true size before a tensor is read; a tensor is then read
// alone, by its position. Writing: the bytes that the reference implementation writes for the same content (tensors by
// decreasing Dtype, then by name; its metadata have a random order, these are sorted), the file replaced atomically.

// Element types of tensors on disk, by the names of safetensors, and their conversion to float.
// f16: IEEE 754 binary16; bf16: the upper half of a binary32. Both are held as their bits in std::uint16_t.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

namespace vaelib::inline VAELIB_ABI {

static_assert(std::endian::native == std::endian::little, "vaelib: tensors are copied to and from little-endian files");

/// In the order of the reference implementation of safetensors, which sorts tensors by it, the last first.
enum class Dtype : std::uint8_t { boolean, u8, i8, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };

namespace detail {
struct DtypeRow {
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<DtypeRow, 13> dtype_table{{{"BOOL", 1},
                                                       {"U8", 1},
                                                       {"I8", 1},
                                                       {"I16", 2},
                                                       {"U16", 2},
                                                       {"F16", 2},
                                                       {"BF16", 2},
                                                       {"I32", 4},
                                                       {"U32", 4},
                                                       {"F32", 4},
                                                       {"F64", 8},
                                                       {"I64", 8},
                                                       {"U64", 8}}};
}  // namespace detail

constexpr std::string_view dtype_name(Dtype dtype) { return detail::dtype_table[static_cast<std::size_t>(dtype)].name; }
constexpr std::size_t dtype_size(Dtype dtype) { return detail::dtype_table[static_cast<std::size_t>(dtype)].size; }
constexpr std::optional<Dtype> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_table.size(); ++i)
    if (detail::dtype_table[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

/// The Dtype that holds values of a C++ type. (f16 and bf16 have no type of their own here.)
template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, bool>)
    return Dtype::boolean;
  else if constexpr (std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::byte>)
    return Dtype::u8;
  else if constexpr (std::is_same_v<T, std::int8_t>)
    return Dtype::i8;
  else if constexpr (std::is_same_v<T, std::int16_t>)
    return Dtype::i16;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return Dtype::u16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return Dtype::i32;
  else if constexpr (std::is_same_v<T, std::uint32_t>)
    return Dtype::u32;
  else if constexpr (std::is_same_v<T, float>)
    return Dtype::f32;
  else if constexpr (std::is_same_v<T, double>)
    return Dtype::f64;
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
    return std::is_signed_v<T> ? Dtype::i64 : Dtype::u64;
  else
    static_assert(!sizeof(T), "vaelib: no tensor on disk holds values of this type");
}

constexpr float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Rounds to nearest, ties to even; a NaN stays one.
constexpr std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

constexpr float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

/// Rounds to nearest, ties to even; a NaN stays one; 65520 and more become infinite.
constexpr std::uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  std::uint32_t result = 0;
  if (magnitude > 0x7F800000) {
    result = 0x7E00 | (magnitude >> 13 & 0x3FF);
  } else if (magnitude >= 0x477FF000) {
    result = 0x7C00;
  } else if (magnitude >= 0x38800000) {  // normal in f16: drop 13 bits of the fraction, shift the exponent
    result = (magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  } else {  // a multiple of 2^-24: adding 0.5 moves it to the last bits of the sum, which rounds as float does
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
  }
  return static_cast<std::uint16_t>(sign | result);
}

namespace detail {
template <class T, class Convert>
void convert(const void* from, float* to, std::size_t count, Convert value) {
  for (std::size_t i = 0; i < count; ++i) {
    T element;
    std::memcpy(&element, static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
    to[i] = value(element);
  }
}
}  // namespace detail

/// Converts `count` elements, at any address, to the nearest float; a boolean becomes 0 or 1.
inline void to_float(Dtype dtype, const void* from, float* to, std::size_t count) {
  const auto cast = [](auto element) { return static_cast<float>(element); };
  switch (dtype) {
    case Dtype::boolean:
      return detail::convert<std::uint8_t>(from, to, count, [](auto e) { return e ? 1.0f : 0.0f; });
    case Dtype::u8:
      return detail::convert<std::uint8_t>(from, to, count, cast);
    case Dtype::i8:
      return detail::convert<std::int8_t>(from, to, count, cast);
    case Dtype::i16:
      return detail::convert<std::int16_t>(from, to, count, cast);
    case Dtype::u16:
      return detail::convert<std::uint16_t>(from, to, count, cast);
    case Dtype::f16:
      return detail::convert<std::uint16_t>(from, to, count, f16_to_float);
    case Dtype::bf16:
      return detail::convert<std::uint16_t>(from, to, count, bf16_to_float);
    case Dtype::i32:
      return detail::convert<std::int32_t>(from, to, count, cast);
    case Dtype::u32:
      return detail::convert<std::uint32_t>(from, to, count, cast);
    case Dtype::f32:
      return detail::convert<float>(from, to, count, cast);
    case Dtype::f64:
      return detail::convert<double>(from, to, count, cast);
    case Dtype::i64:
      return detail::convert<std::int64_t>(from, to, count, cast);
    case Dtype::u64:
      return detail::convert<std::uint64_t>(from, to, count, cast);
  }
}

}  // namespace vaelib::inline VAELIB_ABI
// The header of a safetensors file, a text in JSON: parsed and checked in full.
// https://github.com/huggingface/safetensors
//
// What is a template of nothing (template <class = void>) is so to be compiled only where it is used.
//
// Stricter than the reference: duplicate and unknown keys are refused, and so are types that are not in Dtype and shapes of more
// than 64 axes.

// The strict little JSON that file headers need: objects, arrays, strings and unsigned integers, read by a cursor that
// the caller steers. Nothing recurses and no tree is built, so hostile nesting or size costs nothing. RFC 8259.

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace vaelib::inline VAELIB_ABI {

/// Bytes of the UTF-8 sequence that `text` begins with; 0 where none does (overlong forms, surrogates and codes above
/// U+10FFFF are none).
inline std::size_t utf8_length(std::string_view text) {
  const auto is_in = [&](std::size_t at, unsigned low, unsigned high) {
    return at < text.size() && static_cast<unsigned char>(text[at]) >= low &&
           static_cast<unsigned char>(text[at]) <= high;
  };
  const auto follows = [&](std::size_t at) { return is_in(at, 0x80, 0xBF); };
  if (is_in(0, 0x00, 0x7F)) return 1;
  if (is_in(0, 0xC2, 0xDF)) return follows(1) ? 2 : 0;
  if (is_in(0, 0xE0, 0xEF)) {
    const unsigned low = is_in(0, 0xE0, 0xE0) ? 0xA0 : 0x80, high = is_in(0, 0xED, 0xED) ? 0x9F : 0xBF;
    return is_in(1, low, high) && follows(2) ? 3 : 0;
  }
  const unsigned low = is_in(0, 0xF0, 0xF0) ? 0x90 : 0x80, high = is_in(0, 0xF4, 0xF4) ? 0x8F : 0xBF;
  return is_in(0, 0xF0, 0xF4) && is_in(1, low, high) && follows(2) && follows(3) ? 4 : 0;
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

/// `text` (UTF-8) as a JSON string with its quotes; escapes only what must be.
[[gnu::cold]] inline std::string json_quote(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef", controls = "\b\t\n\f\r", letters = "btnfr";
  std::string quoted = "\"";
  for (const char c : text) {
    const std::size_t control = controls.find(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (control != std::string_view::npos) {
      quoted += '\\';
      quoted += letters[control];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      quoted += "\\u00";
      quoted += digits[static_cast<unsigned char>(c) / 16];
      quoted += digits[static_cast<unsigned char>(c) % 16];
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

/// A name out of a file, fit for one line of an error: quoted, escaped and not longer than a few words.
[[gnu::cold]] inline std::string shown(std::string_view name) {
  constexpr std::size_t limit = 80;
  std::size_t end = 0;
  while (end < name.size() && end < limit && utf8_length(name.substr(end)) > 0) end += utf8_length(name.substr(end));
  return json_quote(name.substr(0, end)) + (end < name.size() ? "..." : "");
}

class JsonCursor {
 public:
  /// Errors name the file and `origin` plus the offset in the text, which must stay alive.
  JsonCursor(std::string_view json, std::string_view file, std::uint64_t origin)
      : text(json), file_name(file), first_byte(origin) {}

  /// Calls member(key) for each member of an object; it must consume the value.
  void members(auto&& member) {
    expect('{');
    if (accept('}')) return;
    do {
      const std::string key = string();
      expect(':');
      member(key);
    } while (accept(','));
    expect('}');
  }
  /// Calls element() for each element of an array; it must consume it.
  void elements(auto&& element) {
    expect('[');
    if (accept(']')) return;
    do element();
    while (accept(','));
    expect(']');
  }
  std::string string() {
    expect('"');
    const std::size_t start = position - 1;
    std::string result;
    while (peek() != '"') {
      const std::size_t length = utf8_length(text.substr(position));
      if (length == 0 && position < text.size()) wrong("valid UTF-8");
      if (length == 0 || static_cast<unsigned char>(peek()) < 0x20) wrong("the end of the string");
      if (peek() == '\\') {
        append_escape(result);
      } else {
        result.append(text, position, length);
        position += length;
      }
    }
    ++position;
    token = start;
    return result;
  }
  std::uint64_t unsigned_integer() {
    constexpr std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
    skip_space();
    const std::size_t start = position;
    std::uint64_t value = 0;
    for (; is_digit(peek()); ++position) {
      const auto digit = static_cast<std::uint64_t>(peek() - '0');
      if (value > (limit - digit) / 10) wrong("an integer below 2^64");
      value = value * 10 + digit;
    }
    const bool leading_zero = position > start + 1 && text[start] == '0';
    if (position == start || leading_zero || peek() == '.' || peek() == 'e' || peek() == 'E')
      wrong("an unsigned integer without fraction, exponent or leading zero");
    token = start;
    return value;
  }
  /// To be called behind the value: only spaces may follow.
  void expect_end() {
    while (peek() == ' ') ++position;
    if (position < text.size()) wrong("nothing but spaces behind the end");
  }
  /// The text does not go on as it must.
  [[noreturn]] void wrong(std::string_view expected) const {
    fail(file_name, ": byte ", first_byte + position, ": expected ", expected, ", found ", found());
  }
  /// The string or number read last is well formed, but not right here.
  [[noreturn]] void refuse(std::string_view reason) const {
    fail(file_name, ": byte ", first_byte + token, ": ", reason);
  }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  char peek() const { return position < text.size() ? text[position] : '\0'; }
  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++position;
  }
  bool accept(char c) {
    skip_space();
    if (peek() != c) return false;
    ++position;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) wrong(std::string{'\'', c, '\''});
  }
  std::string found() const {
    if (position >= text.size()) return "the end";
    const auto byte = static_cast<unsigned char>(text[position]);
    if (byte > 0x20 && byte < 0x7F) return {'\'', text[position], '\''};
    return vaelib::text("a byte of value ", static_cast<unsigned>(byte));
  }
  void append_escape(std::string& result) {
    constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    ++position;
    if (const std::size_t plain = names.find(peek()); plain != std::string_view::npos) {
      result += meanings[plain];
      ++position;
      return;
    }
    if (peek() != 'u') wrong("one of the escapes of JSON");
    std::uint32_t code = four_digits();
    if (code >= 0xDC00 && code <= 0xDFFF) wrong("a leading surrogate before a trailing one");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (text.substr(position, 2) != "\\u") wrong("the trailing half of a surrogate pair");
      ++position;
      const std::uint32_t trailing = four_digits();
      if (trailing < 0xDC00 || trailing > 0xDFFF) wrong("the trailing half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (trailing - 0xDC00);
    }
    append_utf8(result, code);
  }
  /// The code of an escape: u and four hexadecimal digits.
  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    ++position;
    for (int i = 0; i < 4; ++i, ++position) {
      const char c = peek();
      const int digit = is_digit(c)            ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) wrong("four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    return code;
  }
  static void append_utf8(std::string& result, std::uint32_t code) {
    const auto push = [&](std::uint32_t byte) { result += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) return push(code);
    if (code < 0x800) {
      push(0xC0 | code >> 6);
    } else {
      if (code < 0x10000) {
        push(0xE0 | code >> 12);
      } else {
        push(0xF0 | code >> 18);
        push(0x80 | (code >> 12 & 0x3F));
      }
      push(0x80 | (code >> 6 & 0x3F));
    }
    push(0x80 | (code & 0x3F));
  }

  std::string_view text;
  std::string_view file_name;
  std::uint64_t first_byte;
  std::size_t position = 0;
  std::size_t token = 0;
};

}  // namespace vaelib::inline VAELIB_ABI

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

using Metadata = std::map<std::string, std::string>;

/// A tensor in a file: C order, in bytes [begin, end) of the data behind the header.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  std::uint64_t count() const { return (end - begin) / dtype_size(dtype); }
};

struct SafetensorsHeader {
  Metadata metadata;
  std::vector<TensorInfo> tensors;   // in the order of their data
  std::vector<std::size_t> by_name;  // their indices
};

/// Bytes of a tensor; none where an extent is negative or the product overflows.
[[gnu::cold]] inline std::optional<std::uint64_t> tensor_bytes(Dtype dtype, const std::vector<std::int64_t>& shape) {
  std::uint64_t bytes = dtype_size(dtype);
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto factor = static_cast<std::uint64_t>(extent);
    if (factor != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
    bytes *= factor;
  }
  return bytes;
}

/// [2,3,4], as the header has it.
[[gnu::cold]] inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string result = "[";
  for (const std::int64_t extent : shape) result += text(result.size() > 1 ? "," : "", extent);
  return result + ']';
}

namespace detail {

/// The indices of `items` in the order of `less`. The sort is compiled once for all T: vae.hpp stays quick to include.
[[gnu::cold]] inline std::vector<std::size_t> sorted_indices(std::size_t count, const void* context,
                                               bool (*less)(const void*, std::size_t, std::size_t)) {
  std::vector<std::size_t> indices(count);
  for (std::size_t i = 0; i < count; ++i) indices[i] = i;
  const auto before = [=](std::size_t a, std::size_t b) { return less(context, a, b); };
  std::size_t *first = indices.data(), *last = first + count;
  std::make_heap(first, last, before);  // a third of what std::sort compiles
  std::sort_heap(first, last, before);
  return indices;
}
template <class T>
[[gnu::cold]] std::vector<std::size_t> sorted_indices(const std::vector<T>& items, bool (*less)(const T&, const T&)) {
  const auto context = std::pair(items.data(), less);
  return sorted_indices(items.size(), &context, [](const void* given, std::size_t a, std::size_t b) {
    const auto& [data, compare] = *static_cast<const std::pair<const T*, bool (*)(const T&, const T&)>*>(given);
    return compare(data[a], data[b]);
  });
}
template <class T>
[[gnu::cold]] void sort_by(std::vector<T>& items, bool (*less)(const T&, const T&)) {
  std::vector<T> sorted;
  sorted.reserve(items.size());
  for (const std::size_t i : sorted_indices(items, less)) sorted.push_back(std::move(items[i]));
  items = std::move(sorted);
}

/// The indices of the tensors (TensorInfo or SafetensorsView) by name; fails where two have the same.
template <class T>
[[gnu::cold]] std::vector<std::size_t> indices_by_name(const std::vector<T>& tensors, std::string_view path) {
  const auto order = sorted_indices<T>(tensors, [](const T& a, const T& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (tensors[order[i - 1]].name == tensors[order[i]].name)
      fail(path, ": two tensors have the name ", shown(tensors[order[i]].name));
  return order;
}

template <class = void>
class SafetensorsHeaderParser {
 public:
  SafetensorsHeaderParser(std::string_view header, std::string_view path) : json(header, path, 8), file_name(path) {}

  SafetensorsHeader parse(std::uint64_t data_size) {
    bool has_metadata = false;
    json.members([&](const std::string& name) {
      if (name != "__metadata__") return parse_tensor(name);
      if (std::exchange(has_metadata, true)) json.refuse("a second __metadata__");
      parse_metadata();
    });
    json.expect_end();
    sort_by<TensorInfo>(result.tensors, [](const TensorInfo& a, const TensorInfo& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name;
    });
    result.by_name = indices_by_name(result.tensors, file_name);
    check_layout(data_size);
    return std::move(result);
  }

 private:
  void parse_metadata() {
    json.members([&](const std::string& key) {
      if (result.metadata.contains(key)) json.refuse(text("a second value of the key ", shown(key)));
      result.metadata.emplace(key, json.string());
    });
  }

  void parse_tensor(const std::string& name) {
    TensorInfo info;
    info.name = name;
    std::array<bool, 3> seen{};
    json.members([&](const std::string& key) {
      constexpr std::array<std::string_view, 3> keys{"dtype", "shape", "data_offsets"};
      const auto which = static_cast<std::size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
      if (which == keys.size()) json.refuse(text("expected dtype, shape or data_offsets, found the key ", shown(key)));
      if (std::exchange(seen[which], true)) json.refuse(text("a second ", key, " of tensor ", shown(name)));
      if (which == 0) info.dtype = parse_dtype();
      if (which == 1) info.shape = parse_shape();
      if (which == 2) parse_offsets(info);
    });
    if (!(seen[0] && seen[1] && seen[2]))
      json.refuse(text("tensor ", shown(name), " lacks one of dtype, shape and data_offsets"));
    result.tensors.push_back(std::move(info));
  }

  Dtype parse_dtype() {
    const std::string name = json.string();
    const std::optional<Dtype> dtype = dtype_named(name);
    if (!dtype)
      json.refuse(
          text("expected one of BOOL, U8 to U64, I8 to I64, F16, BF16, F32 and F64, found the type ", shown(name)));
    return *dtype;
  }

  std::vector<std::int64_t> parse_shape() {
    constexpr std::size_t most_axes = 64;  // as in PyTorch
    std::vector<std::int64_t> shape;
    json.elements([&] {
      const std::uint64_t extent = json.unsigned_integer();
      if (shape.size() == most_axes) json.refuse(text("a shape of more than ", most_axes, " axes"));
      if (extent >> 63) json.refuse(text("an extent of ", extent, " is above 2^63 - 1"));
      shape.push_back(static_cast<std::int64_t>(extent));
    });
    return shape;
  }

  void parse_offsets(TensorInfo& info) {
    std::size_t count = 0;
    json.elements([&] {
      if (count == 2) json.wrong("two data_offsets");
      (count++ == 0 ? info.begin : info.end) = json.unsigned_integer();
    });
    if (count != 2) json.refuse("expected two data_offsets, found fewer");
  }

  /// Every byte behind the header belongs to exactly one tensor, and every tensor has the bytes of its shape.
  void check_layout(std::uint64_t data_size) {
    std::uint64_t expected = 0;
    for (const TensorInfo& info : result.tensors) {
      const std::string where = text(file_name, ": tensor ", shown(info.name), ": ");
      if (info.begin != expected)
        fail(where, "expected data_offsets to begin at ", expected, ", where the one before ends, found ", info.begin);
      if (info.end < info.begin) fail(where, "data_offsets end at ", info.end, " before they begin at ", info.begin);
      const std::optional<std::uint64_t> bytes = tensor_bytes(info.dtype, info.shape);
      if (!bytes) fail(where, "the product of its extents is above 2^64 - 1");
      if (*bytes != info.end - info.begin)
        fail(where, "its type and shape need ", *bytes, " bytes, its data_offsets span ", info.end - info.begin);
      expected = info.end;
    }
    if (expected > data_size)
      fail(file_name, ": is truncated: the tensors need ", expected, " bytes behind the header, the file has ",
           data_size);
    if (expected < data_size)
      fail(file_name, ": expected ", expected, " bytes of tensors behind the header, found ", data_size);
  }

  JsonCursor json;
  std::string_view file_name;
  SafetensorsHeader result;
};

}  // namespace detail

/// Parses and checks a header that has `data_size` bytes behind it; `path` is for errors.
template <class = void>
[[gnu::cold]] SafetensorsHeader parse_safetensors_header(std::string_view header, std::uint64_t data_size, std::string_view path) {
  return detail::SafetensorsHeaderParser<>(header, path).parse(data_size);
}

}  // namespace vaelib::inline VAELIB_ABI

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Longer headers are neither read nor written unless asked for. (The reference stops at 100 MB.)
inline constexpr std::uint64_t safetensors_header_limit = 16'000'000;

/// An open file. Several threads may read from one at the same time.
template <class = void>
class BasicSafetensorsFile {
 public:
  explicit BasicSafetensorsFile(const std::string& path, std::uint64_t header_limit = safetensors_header_limit)
      : BasicSafetensorsFile(InputFile(path), header_limit) {}
  explicit BasicSafetensorsFile(InputFile input, std::uint64_t header_limit = safetensors_header_limit)
      : file(std::move(input)) {
    const std::string json = read_header(header_limit);
    first_byte = 8 + json.size();
    header = parse_safetensors_header(json, file.size() - first_byte, file.path());
  }

  const InputFile& input() const { return file; }
  const Metadata& metadata() const { return header.metadata; }
  /// In the order of the file.
  const std::vector<TensorInfo>& tensors() const { return header.tensors; }

  /// nullptr where no tensor has this name.
  const TensorInfo* find(std::string_view name) const {
    std::size_t low = 0, high = header.by_name.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      const int order = header.tensors[header.by_name[middle]].name.compare(name);
      if (order == 0) return &header.tensors[header.by_name[middle]];
      (order < 0 ? low : high) = order < 0 ? middle + 1 : middle;
    }
    return nullptr;
  }

  /// Reads a tensor of any type, converted to float. Its shape is the caller's to check, its count is checked here.
  void read(std::string_view name, std::span<float> to) const {
    const TensorInfo& info = checked(name, to.size());
    if (info.dtype == Dtype::f32) return file.read_at(first_byte + info.begin, to.data(), to.size_bytes());
    std::array<char, 16384> buffer;
    const std::size_t width = dtype_size(info.dtype);
    for (std::size_t done = 0; done < to.size();) {
      const std::size_t part = std::min(buffer.size() / width, to.size() - done);
      file.read_at(first_byte + info.begin + done * width, buffer.data(), part * width);
      to_float(info.dtype, buffer.data(), to.data() + done, part);
      done += part;
    }
  }
  /// Reads a tensor that must have the type of T.
  template <class T>
  void read_exactly(std::string_view name, std::span<T> to) const {
    read_raw(name, dtype_of<T>(), to.size(), to.data());
  }
  /// The same for `count` values of a type that is known at run time only.
  void read_raw(std::string_view name, Dtype dtype, std::size_t count, void* to) const {
    const TensorInfo& info = checked(name, count);
    if (info.dtype != dtype)
      fail(file.path(), ": tensor ", shown(name), ": expected the type ", dtype_name(dtype), ", found ",
           dtype_name(info.dtype));
    file.read_at(first_byte + info.begin, to, count * dtype_size(dtype));
  }

 private:
  const TensorInfo& checked(std::string_view name, std::size_t count) const {
    const TensorInfo* info = find(name);
    if (!info) fail(file.path(), ": has no tensor ", shown(name));
    if (info->count() != count)
      fail(file.path(), ": tensor ", shown(name), ": expected ", count, " values, found the shape ",
           shape_text(info->shape));
    return *info;
  }

  std::string read_header(std::uint64_t limit) const {
    if (file.size() < 9) fail(file.path(), ": is no safetensors file: it has only ", file.size(), " bytes");
    std::uint64_t length = 0;
    char first = 0;
    file.read_at(0, &length, 8);
    file.read_at(8, &first, 1);
    if (first != '{' || length > limit) refuse_pickle();
    if (first != '{') fail(file.path(), ": byte 8: is no safetensors file: its header must begin with '{'");
    if (length > limit) fail(file.path(), ": byte 0: a header of ", length, " bytes is above the limit of ", limit);
    if (length > file.size() - 8)
      fail(file.path(), ": byte 0: is truncated: the header needs ", length, " bytes, found ", file.size() - 8);
    std::string json(static_cast<std::size_t>(length), '\0');
    file.read_at(8, json.data(), json.size());
    return json;
  }

  void refuse_pickle() const {
    std::array<unsigned char, 4> magic{};
    file.read_at(0, magic.data(), magic.size());
    const bool zip = magic[0] == 'P' && magic[1] == 'K' && magic[2] == 3 && magic[3] == 4;
    const bool pickle = magic[0] == 0x80 && magic[1] >= 1 && magic[1] <= 5;
    if (zip || pickle)
      fail(file.path(), ": is a pickle (torch.save), which can run code and is never read; convert it by ",
           "vaelib's examples/pt_to_safetensors.py");
  }

  InputFile file;
  std::uint64_t first_byte = 0;
  SafetensorsHeader header;
};

using SafetensorsFile = BasicSafetensorsFile<>;

/// A tensor in memory that is to be written; `data` has as many bytes as dtype and shape need, in C order.
struct SafetensorsView {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;

  [[gnu::cold]] std::size_t bytes() const {
    const std::optional<std::uint64_t> count = tensor_bytes(dtype, shape);
    if (!count) fail("tensor ", shown(name), " has the impossible shape ", shape_text(shape));
    return static_cast<std::size_t>(*count);
  }

  /// Of a contiguous container, which must stay alive and unmoved until the file is written.
  static SafetensorsView of(std::string name, std::vector<std::int64_t> shape, const auto& values) {
    constexpr Dtype dtype = dtype_of<std::remove_cvref_t<decltype(*values.data())>>();
    if (tensor_bytes(dtype, shape) != values.size() * dtype_size(dtype))
      fail("tensor ", shown(name), ": the shape ", shape_text(shape), " does not have ", values.size(), " values");
    return {std::move(name), dtype, std::move(shape), values.data()};
  }
};

/// The order in which the reference implementation writes tensors.
template <class = void>
[[gnu::cold]] void sort_for_safetensors(std::vector<SafetensorsView>& tensors) {
  detail::sort_by<SafetensorsView>(tensors, [](const SafetensorsView& a, const SafetensorsView& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
}

namespace detail {
/// Adds separator and quoted text to a header.
[[gnu::cold]] inline void add_text(std::string& header, std::string_view separator, std::string_view text, const std::string& path) {
  if (!is_utf8(text)) fail(path, ": the text ", shown(text), " is not valid UTF-8");
  header += separator;
  header += json_quote(text);
}
}  // namespace detail

/// The bytes of a file before its first tensor, for tensors in this order: byte for byte what the reference
/// implementation writes. `path` is for errors.
template <class = void>
[[gnu::cold]] std::string safetensors_prefix(const std::vector<SafetensorsView>& tensors, const Metadata& metadata, const std::string& path) {
  detail::indices_by_name(tensors, path);
  std::string header(8, '\0');  // the length is known at the end
  header += '{';
  for (const auto& [key, value] : metadata) {
    detail::add_text(header, header.size() == 9 ? "\"__metadata__\":{" : ",", key, path);
    detail::add_text(header, ":", value, path);
  }
  if (!metadata.empty()) header += '}';
  std::uint64_t position = 0;
  for (const SafetensorsView& tensor : tensors) {
    if (tensor.name == "__metadata__") fail(path, ": no tensor can have the name __metadata__");
    detail::add_text(header, header.size() > 9 ? "," : "", tensor.name, path);
    header += text(":{\"dtype\":\"", dtype_name(tensor.dtype), "\",\"shape\":", shape_text(tensor.shape), ",\"data_offsets\":[", position, ',',
                   position + tensor.bytes(), "]}");
    position += tensor.bytes();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size() - 8;
  if (length > safetensors_header_limit)
    fail(path, ": a header of ", length, " bytes is above the limit of ", safetensors_header_limit);
  std::memcpy(header.data(), &length, 8);
  return header;
}

/// Writes tensors and metadata, straight from their memory, and replaces the file atomically.
template <class = void>
[[gnu::cold]] void safetensors_write(const std::string& path, std::vector<SafetensorsView> tensors, const Metadata& metadata = {}) {
  sort_for_safetensors(tensors);
  const std::string prefix = safetensors_prefix(tensors, metadata, path);
  AtomicFile file(path);
  file.write(prefix.data(), prefix.size());
  for (const SafetensorsView& tensor : tensors) file.write(tensor.data, tensor.bytes());
  file.flush_and_close();
  file.publish();
}

}  // namespace vaelib::inline VAELIB_ABI

#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// Where feature k of a file, channels first, stands in rows of this library, channels last.
inline long feature_here(Shape order, long extent, long k) {
  if (order.is_flat() || order.size() != extent || k >= extent) return k;
  const long pixels = long(order.height) * order.width;
  return k % pixels * order.channels + k / pixels;
}

[[gnu::cold]] inline std::vector<std::int64_t> file_shape(const Parameter& p) {
  const auto& e = p.extents;
  switch (p.layout) {
    case Layout::image: return {e[2], e[0], e[1]};
    case Layout::linear: return {e[1], e[0]};
    case Layout::convolution: return {e[3], e[2], e[0], e[1]};
    case Layout::transposed_convolution: return {e[3], e[2], e[0], e[1]};
    case Layout::features: break;
  }
  std::vector<std::int64_t> same(p.rank);
  for (int axis = 0; axis < p.rank; ++axis) same[axis] = e[axis];
  return same;
}

[[gnu::cold]] inline std::vector<std::int64_t> file_shape(const State& s) {
  if (s.integer) return {};
  if (s.columns > 0) return {s.count / s.columns, s.columns};
  return {s.count};
}

/// f(place in the file, place here) for every number of a parameter.
void for_each_place(const Parameter& p, auto&& f) {
  const auto& e = p.extents;
  long there = 0;
  if (p.layout == Layout::linear) {
    for (long o = 0; o < e[1]; ++o)
      for (long i = 0; i < e[0]; ++i) f(there++, feature_here(p.in_order, e[0] - p.in_beside, i) * e[1] + feature_here(p.out_order, e[1], o));
  } else if (p.layout == Layout::image) {
    for (; there < p.size(); ++there) f(there, feature_here({e[0], e[1], e[2]}, p.size(), there));
  } else if (p.layout == Layout::features) {
    const bool flat = p.rank == 1;
    for (; there < p.size(); ++there) f(there, flat ? feature_here(p.out_order, e[0], there) : there);
  } else {  // both convolutions: the last two axes here come first there, in the other order
    const long taps = long(e[0]) * e[1];
    for (long last = 0; last < e[3]; ++last)
      for (long third = 0; third < e[2]; ++third)
        for (long tap = 0; tap < taps; ++tap) f(there++, (tap * e[2] + third) * e[3] + last);
  }
}

}  // namespace detail

/// Writes parameters and state of a model; the file is replaced whole or not at all.
template <class Weights>
[[gnu::cold]] void save(const std::string& path, const Weights& weights, const Metadata& metadata = {}) {
  Buffer<float> values(weights.values.size()), state(weights.state.size());  // as the file has them
  std::vector<std::int64_t> counters(weights.states.size());
  std::vector<SafetensorsView> tensors;
  for (const auto& [name, p] : weights.parameters) {
    const auto* from = weights.values.data() + p.offset;
    float* to = values.data() + p.offset;
    detail::for_each_place(p, [&](long there, long here) { to[there] = float(from[here]); });
    tensors.push_back({name, Dtype::f32, detail::file_shape(p), to});
  }
  for (const auto& [name, s] : weights.states) {
    const auto* from = weights.state.data() + s.offset;
    if (s.integer) {
      counters[s.id] = std::int64_t(*from);
      tensors.push_back({name, Dtype::i64, {}, &counters[s.id]});
    } else {
      float* to = state.data() + s.offset;
      for (long k = 0; k < s.count; ++k) to[k] = float(from[detail::feature_here(s.order, s.count, k)]);
      tensors.push_back({name, Dtype::f32, detail::file_shape(s), to});
    }
  }
  safetensors_write(path, std::move(tensors), metadata);
}

namespace detail {

/// Reads the tensors that are chosen; `whole`: the file may hold no others.
template <class Weights>
[[gnu::cold]] void load_chosen(const std::string& path, Weights& weights, bool whole, auto&& chosen) {
  const SafetensorsFile file(path);
  std::string missing, unexpected, misshapen;
  const auto check = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    if (!chosen(name)) return;
    const TensorInfo* tensor = file.find(name);
    if (!tensor) {
      missing += text(missing.empty() ? "" : ", ", name);
    } else if (tensor->shape != shape) {
      misshapen += text(misshapen.empty() ? "" : ", ", name, " is ", shape_text(tensor->shape), ", expected ", shape_text(shape));
    }
  };
  for (const auto& [name, p] : weights.parameters) check(name, file_shape(p));
  for (const auto& [name, s] : weights.states) check(name, file_shape(s));
  constexpr std::size_t most_named = 50;
  std::size_t foreign = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!whole) break;
    const auto named = [&](const auto& entry) { return entry.name == tensor.name; };
    if (std::none_of(weights.parameters.begin(), weights.parameters.end(), named) && std::none_of(weights.states.begin(), weights.states.end(), named) && ++foreign <= most_named)
      unexpected += text(unexpected.empty() ? "" : ", ", shown(tensor.name));
  }
  if (foreign > most_named) unexpected += text(" and ", foreign - most_named, " more");
  if (!missing.empty() || !unexpected.empty() || !misshapen.empty())
    fail(path, ": not a file of this model", missing.empty() ? "" : "; missing: " + missing, unexpected.empty() ? "" : "; unexpected: " + unexpected,
         misshapen.empty() ? "" : "; other shape: " + misshapen);

  auto loaded = weights;  // so that a file that cannot be read to its end changes nothing
  std::vector<float> values;
  for (const auto& [name, p] : weights.parameters) {
    if (!chosen(name)) continue;
    values.resize(p.size());
    file.read(name, values);
    auto* to = loaded.values.data() + p.offset;
    for_each_place(p, [&](long there, long here) { to[here] = values[there]; });
  }
  for (const auto& [name, s] : weights.states) {
    if (!chosen(name)) continue;
    values.resize(s.count);
    file.read(name, values);
    for (long k = 0; k < s.count; ++k) loaded.state[s.offset + feature_here(s.order, s.count, k)] = values[k];
  }
  weights = std::move(loaded);
}

}  // namespace detail

/// Reads a model. Missing, unexpected and misshapen tensors are listed in one Error, and then nothing is changed.
template <class Weights>
[[gnu::cold]] void load(const std::string& path, Weights& weights) {
  detail::load_chosen(path, weights, true, [](const std::string&) { return true; });
}

/// Reads a part of a model from the file of another: the tensors whose names begin with one of `prefixes` ("encoder."), all of
/// which must be there and of the same shape; the rest keeps its values. The names of what was read.
template <class Weights>
[[gnu::cold]] std::vector<std::string> load_part(const std::string& path, Weights& weights, const std::vector<std::string>& prefixes) {
  const auto begins = [](const std::string& prefix) { return [&](const auto& entry) { return entry.name.starts_with(prefix); }; };
  for (const auto& prefix : prefixes)
    if (std::none_of(weights.parameters.begin(), weights.parameters.end(), begins(prefix)) &&
        std::none_of(weights.states.begin(), weights.states.end(), begins(prefix)))
      fail(path, ": the model has no tensors whose names begin with '", prefix, "'");
  std::vector<std::string> names;
  const auto chosen = [&](const std::string& name) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& prefix) { return name.starts_with(prefix); });
  };
  for (const auto& entry : weights.parameters)
    if (chosen(entry.name)) names.push_back(entry.name);
  for (const auto& entry : weights.states)
    if (chosen(entry.name)) names.push_back(entry.name);
  detail::load_chosen(path, weights, false, chosen);
  return names;
}

}  // namespace vaelib::inline VAELIB_ABI
// The Gaussian latent: q(z|x) = N(mu, diag sigma^2), prior N(0, I); Kingma & Welling 2014, Rezende et al. 2014.
//
//   z  = mu + exp(logvar / 2) * noise                       reparameterisation; noise ~ N(0, I)
//   KL = 1/2 (mu^2 + exp(logvar) - 1 - logvar)               nats, for each dimension of each sample
//
// The head gives mu and a raw log-variance side by side (rows x 2 Size). The latter is softly clamped to (-limit, limit) by
// limit * tanh(raw / limit), so that neither exp nor the gradient can overflow; near zero it is the identity.

// Operations on whole variables: sums, means, columns, arithmetic. Losses are made of them.

// map and map_reduce: elementwise maths written once as a plain functor; its gradient is derived by dual numbers.
//
//   map(step, Swish{}, x)                          one operand
//   map(step, Add{}, x, y)                         several, of one row space and shape
//   map(step, Multiply{}, x, scale)                a Parameter with one number a channel (or a feature)
//   map_reduce(step, BernoulliNll{}, logits, fixed(target))     summed over the features of each row
//
// An operand in fixed() takes no gradient; a Scalar is one number for all.

// One step: the tape, its memory, the buffers it works on and its random numbers.
//
// Operations are coarse (a product, a convolution, an attention); each leaves a record with the code of its backward pass.
// A gradient is unwritten or written: the first consumer to run backward writes, later ones add, and nothing is filled
// with zeros without need. Records never change the gradient of their own output, so one tape may be run backward twice.

// A variable: rows x Shape numbers in the arena of a step, and the place of their gradient.

// A row space says what the rows of a variable are: the samples of a batch, the points of all its sets, its inducing
// points. Variables of different row spaces cannot be combined, even where the counts happen to agree.

namespace vaelib::inline VAELIB_ABI {

struct RowSpace {
  long count = 0;
  long first = 0;                 ///< position of the first row in the global batch: the random numbers of a row depend on it
  long groups = 0;                ///< ragged rows: how many sets the rows belong to
  const long* offsets = nullptr;  ///< ragged rows: set s holds the rows offsets[s] .. offsets[s + 1] - 1; groups + 1 numbers
  int each = 0;                   ///< ragged rows: how many every set has, where a layer made them so; 0: they vary
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

/// What the tape knows of a variable. The gradient is memory once somebody asked for it, and numbers once it is written.
template <class Real>
struct Node {
  Real* value = nullptr;
  Real* gradient = nullptr;
  const RowSpace* space = nullptr;
  long features = 0;
  bool needs_gradient = false;
  bool written = false;
  Node* previous = nullptr;  // the list of all nodes of a step

  long size() const { return space->count * features; }
};

/// A handle: the static shape S is checked by the compiler, `shape` is the same with its dynamic extents filled in.
template <class R, Shape S>
struct Var {
  using Real = R;
  static constexpr Shape static_shape = S;
  Node<R>* node = nullptr;
  Shape shape = S;

  long rows() const { return node->space->count; }
  long features() const { return node->features; }
  long size() const { return node->size(); }
  const RowSpace* space() const { return node->space; }
  R* value() const { return node->value; }
  bool needs_gradient() const { return node->needs_gradient; }
};

template <class T>
inline constexpr bool is_variable = false;
template <class R, Shape S>
inline constexpr bool is_variable<Var<R, S>> = true;

/// A number that changes with the step (beta, a temperature), in memory of the step, so that a recorded step can be replayed.
template <class R>
struct Scalar {
  const R* value = nullptr;
};

/// An operand of map that takes no gradient: a target, noise, a mask.
template <class V>
struct Fixed {
  V variable;
};
template <class V>
Fixed<V> fixed(V variable) {
  return {variable};
}

}  // namespace vaelib::inline VAELIB_ABI
// Memory of one step: handed out by moving a pointer, taken back all at once. After the largest batch was seen, the arena
// is one block of the right size and no step allocates from the heap any more.

#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

class Arena {
 public:
  static constexpr std::size_t alignment = 64;
  struct Mark {
    std::size_t block, used;
  };

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  /// Uninitialised memory for `count` objects, aligned to a cache line.
  template <class T>
  T* allocate(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "vaelib: the arena runs no destructors");
    return static_cast<T*>(take(count, sizeof(T)));
  }
  /// Memory for `count` objects of `size` bytes each. Not inlined: operations call it all over, and are coarse.
  [[gnu::noinline]] void* take(std::size_t count, std::size_t size) {
    if (count > (std::size_t(-1) / 4) / size) fail("arena: ", count, " objects of ", size, " bytes are too many");
    const std::size_t bytes = (count * size + alignment - 1) / alignment * alignment;
    while (current + 1 < blocks.size() && blocks[current].size - blocks[current].used < bytes) ++current;
    if (blocks.empty() || blocks[current].size - blocks[current].used < bytes) {
      open(bytes > smallest ? bytes : smallest);
      current = blocks.size() - 1;
    }
    Block& block = blocks[current];
    void* result = block.data + block.used;
    block.used += bytes;
    live += bytes;
    if (live > most) most = live;
    return result;
  }

  Mark mark() const { return {current, blocks.empty() ? 0 : blocks[current].used}; }

  /// Whether this place was allocated since the mark.
  bool allocated_since(Mark mark, const void* place) const {
    const auto* at = static_cast<const std::byte*>(place);
    for (std::size_t b = mark.block; b < blocks.size(); ++b)
      if (at >= blocks[b].data + (b == mark.block ? mark.used : 0) && at < blocks[b].data + blocks[b].used) return true;
    return false;
  }
  /// Takes back what was allocated since the mark.
  void rewind(Mark to) {
    for (std::size_t b = to.block + 1; b < blocks.size(); ++b) blocks[b].used = 0;
    current = to.block;
    if (!blocks.empty()) blocks[current].used = to.used;
    live = 0;
    for (std::size_t b = 0; b < blocks.size() && b <= current; ++b) live += blocks[b].used;
  }

  /// Takes everything back; where several blocks had to be opened, they become one of what was used at most.
  void reset() {
    if (blocks.size() > 1) {
      release();
      open(most);
    }
    rewind({0, 0});
  }

  /// For tests: what is not handed out yet becomes NaN, so that reading before writing shows.
  void poison() {
    for (const Block& b : blocks) std::memset(b.data + b.used, 0xff, b.size - b.used);
  }

  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& b : blocks) total += b.size;
    return total;
  }

 private:
  struct Block {
    std::byte* data;
    std::size_t size, used;
  };

  [[gnu::cold]] void open(std::size_t bytes) {
    blocks.push_back({static_cast<std::byte*>(::operator new(bytes, std::align_val_t(alignment))), bytes, 0});
  }
  void release() {
    for (const Block& b : blocks) ::operator delete(b.data, std::align_val_t(alignment));
    blocks.clear();
    current = 0;
  }

  static constexpr std::size_t smallest = std::size_t(1) << 20;
  std::vector<Block> blocks;
  std::size_t current = 0;
  std::size_t live = 0, most = 0;  ///< bytes handed out now, and at any time
};

}  // namespace vaelib::inline VAELIB_ABI

#include <algorithm>
#include <cstdint>
#include <utility>

namespace vaelib::inline VAELIB_ABI {

/// The flat buffers of a model, in which parameters and states find their place by offset and id.
template <class Real>
struct Buffers {
  const Real* values = nullptr;
  Real* gradients = nullptr;
  bool* written = nullptr;        ///< by parameter: its gradient was written by the last backward pass
  const bool* trained = nullptr;  ///< by parameter: belongs to the group that this phase trains
  int parameters = 0;
  const Real* state = nullptr;
  Real* proposed = nullptr;     ///< state as this step would have it; applied by Weights::commit
  bool* proposals = nullptr;    ///< by state: whether this step proposed anything
};

enum class Mode { training, evaluation };

/// Where a run is: steps and epochs that were taken before this one, and the step's place in its epoch.
struct Place {
  std::int64_t step = 0, epoch = 0, batch = 0;
};

/// What random numbers are for: equal keys of different streams have nothing in common.
enum class Stream : std::uint32_t { initialization, order, noise, evaluation, data, sampling, refinement };

template <class B>
class Step {
 public:
  using Backend = B;
  using Real = typename B::Real;
  template <Shape S>
  using Variable = Var<Real, S>;

  explicit Step(Backend& b) : backend(b) {}

  /// Forgets the step before and takes its memory back.
  void begin(const Buffers<Real>& memory, Mode m, std::uint64_t seed, std::uint64_t number, Stream stream) {
    end();
    buffers = memory;
    mode = m;
    key = {seed, number, std::uint32_t(stream), 0};
    nodes = nullptr;
    records = nullptr;
    single_row = nullptr;
    recording = m == Mode::training;
    proposing = m == Mode::training;
  }

  /// Takes the memory back; what had to be opened piecemeal becomes one block, so that the next step needs none.
  void end() {
    arena.reset();
    temporary.reset();
  }

  bool training() const { return mode == Mode::training; }
  std::size_t bytes_held() const { return arena.capacity() + temporary.capacity(); }  ///< by this and the next steps

  // ---- what operations are made of

  /// A row space of this step: `count` rows, the first of which is row `first` of the global batch.
  const RowSpace* rows(long count, long first = 0) { return new (arena.allocate<RowSpace>(1)) RowSpace{count, first, 0, nullptr, 0}; }
  /// Ragged rows: the rows of all groups one after another; offsets holds groups + 1 numbers and must outlive the step.
  /// `each`: how many rows every set has, where that is a setting of a layer rather than of the data.
  const RowSpace* ragged(long groups, const long* offsets, long first = 0, int each = 0) {
    return new (arena.allocate<RowSpace>(1)) RowSpace{offsets[groups], first, groups, offsets, each};
  }
  /// The row space of numbers that belong to the whole batch, such as a loss.
  const RowSpace* single() { return single_row ? single_row : single_row = rows(1); }

  /// A variable with uninitialised values.
  template <Shape S>
  Var<Real, S> variable(const RowSpace* space, Shape shape, bool needs_gradient) {
    return {node(space, shape.size(), needs_gradient), shape};
  }
  /// The same without a shape: what operations work on, so that one function serves all shapes.
  [[gnu::noinline]] Node<Real>* node(const RowSpace* space, long features, bool needs_gradient) {
    Node<Real>* n = new_node(space, features, needs_gradient);
    n->value = arena.allocate<Real>(n->size());
    return n;
  }

  /// A variable that needs no gradient and looks at the caller's numbers: rows x shape, row-major, channels last.
  template <Shape S>
  Var<Real, S> constant(const RowSpace* space, Shape shape, const Real* data) {
    if (!agree(S, shape) || shape.is_dynamic()) fail("vaelib: expected rows of shape ", text_of(S), ", found ", text_of(shape));
    Node<Real>* n = new_node(space, shape.size(), false);
    n->value = const_cast<Real*>(data);  // never written: a constant has no producer
    return {n, shape};
  }

  Scalar<Real> scalar(double number) {
    Real* place = arena.allocate<Real>(1);
    *place = Real(number);
    return {place};
  }

  const Real* value(const Parameter& p) const { return buffers.values + p.offset; }
  const Real* value(const Node<Real>* node) const { return node->value; }
  bool trains(const Parameter& p) const { return recording && p.id >= 0 && buffers.trained[p.id]; }

  /// Whether an operation on these variables and parameters has to be recorded.
  bool needs_gradient(const auto&... operands) const { return recording && (needs(operands) || ...); }

  /// Stores the backward pass of an operation: f(step), called once all consumers of the outputs have run.
  template <class F>
  void record(std::initializer_list<Node<Real>*> outputs, const F& f) {
    static_assert(std::is_trivially_destructible_v<F>, "vaelib: a record lives in the arena, which runs no destructors");
    struct Entry : Record {
      F body;
      static void run_body(Step& step, Record& record) { static_cast<Entry&>(record).body(step); }
    };
    add_record(new (arena.take(1, sizeof(Entry))) Entry{{Entry::run_body}, f}, outputs);
  }

  /// Where the gradient of a variable goes now; the caller writes or adds all of it. Empty where nobody needs it.
  template <Shape S>
  Target<Real> target(Var<Real, S> x) {
    return target(x.node);
  }
  [[gnu::noinline]] Target<Real> target(Node<Real>* node) {
    if (!node->needs_gradient) return {};
    reserve_gradient(node);
    const bool add = node->written;
    node->written = true;
    return {node->gradient, add};
  }
  Target<Real> target(const Parameter& p) {
    if (!trains(p)) return {};
    const bool add = buffers.written[p.id];
    buffers.written[p.id] = true;
    return {buffers.gradients + p.offset, add};
  }
  void reserve_gradient(Node<Real>* node) {
    if (!node->gradient) node->gradient = arena.allocate<Real>(node->size());
  }
  /// The gradient of a variable; complete, as its consumers have run.
  template <Shape S>
  const Real* gradient(Var<Real, S> y) const {
    return y.node->gradient;
  }
  const Real* gradient(const Node<Real>* y) const { return y->gradient; }

  /// Memory until the end of the scope.
  struct Scratch {
    Arena& arena;
    Arena::Mark mark;
    Real* data;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    Scratch(Arena& a, long count) : arena(a), mark(a.mark()), data(a.template allocate<Real>(count)) {}
    ~Scratch() { arena.rewind(mark); }
  };
  Scratch scratch(long count) { return {temporary, count}; }

  /// A key for the random numbers of one operation; the next call gives another.
  RandomKey next_key() {
    RandomKey result = key;
    ++key.ordinal;
    return result;
  }

  /// State as of now: what this step proposed already, or else what was committed before.
  const Real* value(const State& s) const {
    return (buffers.proposals && buffers.proposals[s.id] ? buffers.proposed : buffers.state) + s.offset;
  }
  /// Where an operation writes the state it proposes, all of it; null in evaluation and recomputation.
  Real* propose(const State& s) {
    if (!proposing || !buffers.proposed) return nullptr;
    buffers.proposals[s.id] = true;
    return buffers.proposed + s.offset;
  }

  /// A place in the step to which forget() goes back.
  struct Position {
    Arena::Mark mark;
    Node<Real>* nodes;
  };
  Position position() {
    single();  // what lives as long as the step must not be forgotten
    return {arena.mark(), nodes};
  }
  /// Takes back the memory and the variables since then; nothing may have been recorded since.
  void forget(const Position& to) {
    nodes = to.nodes;
    arena.rewind(to.mark);
  }

  // ---- backward

  /// Gradients of a loss (one number), times `weight`, for all parameters that this step trains; with `add` they are added
  /// to those of the last backward pass.
  template <Shape S>
  void backward(Var<Real, S> loss, Real weight = 1, bool add = false) {
    if (loss.size() != 1) fail("vaelib: backward wants one number, found ", loss.rows(), " rows of ", loss.features());
    for (auto* n = nodes; n; n = n->previous) n->written = false;
    if (!add) std::fill_n(buffers.written, buffers.parameters, false);
    if (Target<Real> seed = target(loss)) *seed.data = weight;
    propagate();
  }

  /// The gradient of a loss (one number) for one parameter, while the forward pass is still under way: only the records back to
  /// it run, so that all variables made since have their gradients, too. Other parameters get none, and this one keeps what it
  /// has from an earlier part of the batch. False where the loss does not depend on it.
  template <Shape S>
  bool gradient_of(Var<Real, S> loss, const Parameter& p, Real* gradient) {
    if (loss.size() != 1) fail("vaelib: gradient_of wants one number, found ", loss.rows(), " rows of ", loss.features());
    if (p.id < 0 || !buffers.trained) return false;
    bool* flags = arena.allocate<bool>(2 * std::size_t(buffers.parameters));
    std::fill_n(flags, 2 * buffers.parameters, false);
    bool* const written = std::exchange(buffers.written, flags);
    const bool* const trained = std::exchange(buffers.trained, flags + buffers.parameters);
    flags[buffers.parameters + p.id] = true;
    const auto kept = scratch(p.size());
    Real* const place = buffers.gradients + p.offset;
    std::copy_n(place, p.size(), kept.data);
    for (auto* n = nodes; n; n = n->previous) n->written = false;
    if (Target<Real> seed = target(loss)) *seed.data = 1;
    propagate(&flags[p.id]);
    const bool found = flags[p.id];
    if (found) std::copy_n(place, p.size(), gradient);
    std::copy_n(kept.data, p.size(), place);
    buffers.written = written;
    buffers.trained = trained;
    return found;
  }

  /// Runs a piece of forward code again while the gradients of its output are known, then its records backward.
  template <class F>
  void recompute(RandomKey first_key, Node<Real>* output, F forward) {
    const Position before = position();
    Record* const saved_records = records;
    const RandomKey saved_key = key;
    records = nullptr;
    key = first_key;
    proposing = false;
    Node<Real>* again = forward(*this);
    again->gradient = output->gradient;
    again->written = true;
    propagate();
    proposing = true;
    records = saved_records;
    key = saved_key;
    forget(before);
  }

  Backend& backend;
  Arena arena;
  Buffers<Real> buffers;
  Mode mode = Mode::evaluation;
  RandomKey key{};
  bool recording = false;  ///< operations leave records
  bool proposing = false;  ///< operations propose state
  Scalar<Real> beta{}, capacity{};  ///< of this step's schedules
  Place now{};                      ///< for the schedules of layers
  int phase = 0;                    ///< which of the model's phases this is

 private:
  struct Record {
    void (*run)(Step&, Record&);
    Node<Real>** outputs = nullptr;
    int count = 0;
    Record* previous = nullptr;
  };

  Node<Real>* new_node(const RowSpace* space, long features, bool needs_gradient) {
    auto* n = new (arena.take(1, sizeof(Node<Real>))) Node<Real>;
    n->space = space;
    n->features = features;
    n->needs_gradient = needs_gradient;
    n->previous = nodes;
    return nodes = n;
  }
  [[gnu::noinline]] void add_record(Record* record, std::initializer_list<Node<Real>*> outputs) {
    record->outputs = arena.allocate<Node<Real>*>(outputs.size());
    std::copy(outputs.begin(), outputs.end(), record->outputs);
    record->count = int(outputs.size());
    record->previous = records;
    records = record;
  }
  template <class T>
  bool needs(const T& operand) const {
    if constexpr (is_variable<T>) {
      return operand.needs_gradient();
    } else if constexpr (std::is_convertible_v<T, const Node<Real>*>) {
      return operand->needs_gradient;
    } else if constexpr (std::is_same_v<T, Parameter>) {
      return trains(operand);
    } else {
      return false;
    }
  }
  /// All records backward, or those until a flag is set.
  void propagate(const bool* enough = nullptr) {
    for (Record* r = records; r && !(enough && *enough); r = r->previous) {
      bool any = false;
      for (int o = 0; o < r->count; ++o) any = any || r->outputs[o]->written;
      if (!any) continue;
      for (int o = 0; o < r->count; ++o) {
        if (r->outputs[o]->written) continue;
        reserve_gradient(r->outputs[o]);
        std::fill_n(r->outputs[o]->gradient, r->outputs[o]->size(), Real(0));
        r->outputs[o]->written = true;
      }
      r->run(*this, *r);
    }
  }

  Node<Real>* nodes = nullptr;
  Record* records = nullptr;
  const RowSpace* single_row = nullptr;
  Arena temporary;
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// An operand without its shape: the loops and records behind map know nothing of shapes, so that one serves them all.
template <class R, Shape S>
Node<R>* operand_of(const Var<R, S>& v) {
  return v.node;
}
template <class R, Shape S>
Given<R> operand_of(const Fixed<Var<R, S>>& f) {
  return {f.variable.value()};
}
inline Parameter operand_of(const Parameter& p) { return p; }
template <class R>
Single<R> operand_of(const Scalar<R>& s) {
  return {s.value};
}

/// The same as a backend sees it; in the backward pass with the place of its gradient.
template <bool WithTargets, class S, class O>
auto backend_operand(S& step, const O& operand) {
  using Real = typename S::Real;
  if constexpr (std::is_same_v<O, Node<Real>*>) {
    return Full<Real>{operand->value, WithTargets ? step.target(operand) : Target<Real>{}};
  } else if constexpr (std::is_same_v<O, Parameter>) {
    return PerColumn<Real>{step.value(operand), WithTargets ? step.target(operand) : Target<Real>{}};
  } else {
    return operand;
  }
}
/// Calls f(arguments...). Written with braces, so that the arguments are worked out from left to right: one variable may
/// stand in several places, and the first of its gradients is written, the others are added.
struct InOrder {
  template <class F, class... Arguments>
  InOrder(const F& f, const Arguments&... arguments) {
    f(arguments...);
  }
};

template <class V>
struct Unwrapped {
  static constexpr bool is_variable = false;
};
template <class R, Shape S>
struct Unwrapped<Var<R, S>> {
  static constexpr bool is_variable = true;
  static constexpr Shape shape = S;
  static const Var<R, S>& get(const Var<R, S>& v) { return v; }
};
template <class V>
struct Unwrapped<Fixed<V>> : Unwrapped<V> {
  static const V& get(const Fixed<V>& f) { return f.variable; }
};

/// The first variable among operands: it gives the result its rows and shape.
template <class First, class... Rest>
auto leading_variable(const First& first, const Rest&... rest) {
  if constexpr (Unwrapped<First>::is_variable) {
    return Unwrapped<First>::get(first);
  } else {
    static_assert(sizeof...(Rest) > 0, "vaelib: map wants at least one variable");
    return leading_variable(rest...);
  }
}

inline void check_variable(const RowSpace* space, Shape shape, const RowSpace* other_space, Shape other_shape) {
  if (other_space != space)
    fail("vaelib: variables of different row spaces cannot be combined (", space->count, " and ", other_space->count, " rows)");
  if (other_shape != shape)
    fail("vaelib: variables of shapes ", text_of(shape), " and ", text_of(other_shape), " cannot be combined");
}
/// Parameters of one map have one length, which becomes that of the lines that the backend goes through.
inline void check_parameter(long features, long size, Shape shape, long& columns) {
  if (size == 0 || features % size != 0) fail("vaelib: a parameter of ", size, " numbers does not fit samples of shape ", text_of(shape));
  if (columns != features && columns != size) fail("vaelib: the parameters of one map have different lengths");
  columns = size;
}
template <class Leading, class Operand>
void check_operand(const Leading& leading, const Operand& operand, long& columns) {
  if constexpr (Unwrapped<Operand>::is_variable) {
    static_assert(agree(Leading::static_shape, Unwrapped<Operand>::shape), "vaelib: the variables of one map have different shapes");
    const auto& v = Unwrapped<Operand>::get(operand);
    check_variable(leading.space(), leading.shape, v.space(), v.shape);
  } else if constexpr (std::is_same_v<Operand, Parameter>) {
    check_parameter(leading.features(), operand.size(), leading.shape, columns);
  } else {
    static_assert(std::is_same_v<Operand, Scalar<typename Leading::Real>>, "vaelib: map takes variables, fixed() variables, Parameters and Scalars");
  }
}
/// Columns of the matrix that map runs over: the length of its parameters, or else all features.
template <class Leading, class... Operands>
long checked_columns(const Leading& leading, const Operands&... operands) {
  long columns = leading.features();
  (check_operand(leading, operands, columns), ...);
  return columns;
}

template <class S, class R, class F, class... O>
Node<R>* map_few(S& step, F f, const Node<R>* x, O... operands) {
  const long count = x->size();
  auto* y = step.node(x->space, x->features, step.needs_gradient(operands...));
  step.backend.map_few(f, count, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_few_gradient(f, count, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}
template <class S, class R, class F, class... O>
Node<R>* map(S& step, F f, const Node<R>* x, long columns, O... operands) {
  const long rows = columns == 0 ? 0 : x->size() / columns;
  auto* y = step.node(x->space, x->features, step.needs_gradient(operands...));
  step.backend.map(f, rows, columns, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_gradient(f, rows, columns, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}
template <class S, class R, class F, class... O>
Node<R>* map_reduce(S& step, F f, const Node<R>* x, O... operands) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(x->space, 1, step.needs_gradient(operands...));
  step.backend.map_reduce(f, rows, features, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_reduce_gradient(f, rows, features, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}

}  // namespace detail

/// out = f(operands...) for each element.
template <class S, class F, class... Operands>
auto map(S& step, F f, const Operands&... operands) {
  const auto x = detail::leading_variable(operands...);
  const long columns = detail::checked_columns(x, operands...);
  return std::remove_const_t<decltype(x)>{detail::map(step, f, x.node, columns, detail::operand_of(operands)...), x.shape};
}

/// map for variables of few numbers, such as the terms of a loss: no vectorised loop is compiled for them.
template <class S, class F, class... Operands>
auto map_few(S& step, F f, const Operands&... operands) {
  static_assert((!std::is_same_v<Operands, Parameter> && ...), "vaelib: map_few takes no Parameters");
  const auto x = detail::leading_variable(operands...);
  detail::checked_columns(x, operands...);
  return std::remove_const_t<decltype(x)>{detail::map_few(step, f, x.node, detail::operand_of(operands)...), x.shape};
}

/// The sum of f(operands...) over the features of each row: rows x 1.
template <class S, class F, class... Operands>
auto map_reduce(S& step, F f, const Operands&... operands) {
  static_assert((!std::is_same_v<Operands, Parameter> && ...), "vaelib: map_reduce takes no Parameters; combine them by map first");
  const auto x = detail::leading_variable(operands...);
  detail::checked_columns(x, operands...);
  return Var<typename S::Real, Shape{1}>{detail::map_reduce(step, f, x.node, detail::operand_of(operands)...), Shape{1}};
}

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

template <class S, class X, class Y>
auto add(S& step, const X& x, const Y& y) {
  return map(step, Add{}, x, y);
}
template <class S, class X, class Y>
auto subtract(S& step, const X& x, const Y& y) {
  return map(step, Subtract{}, x, y);
}
template <class S, class X, class Y>
auto multiply(S& step, const X& x, const Y& y) {
  return map(step, Multiply{}, x, y);
}

namespace detail {
template <class S, class R>
Node<R>* mean_rows(S& step, Node<R>* x) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(step.single(), features, step.needs_gradient(x));
  const double scale = rows > 0 ? 1.0 / double(rows) : 0.0;
  if (features == 1) {
    step.backend.sum_rows_exactly(rows, features, x->value, scale, y->value);
  } else {
    step.backend.sum_rows(rows, features, x->value, R(scale), {y->value});
  }
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.spread_rows(rows, features, y->gradient, R(scale), t);
    });
  return y;
}

template <class S, class R>
Node<R>* sum_few(S& step, Node<R>* x) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(x->space, 1, step.needs_gradient(x));
  step.backend.sum_few(rows, features, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.sum_few_gradient(rows, features, y->gradient, t);
    });
  return y;
}

template <class S, class R>
Node<R>* columns(S& step, Node<R>* x, int first, int narrow) {
  const long rows = x->space->count, wide = x->features;
  if (first < 0 || first + narrow > wide)
    fail("vaelib: columns ", first, " to ", first + narrow - 1, " of a variable of ", wide, " features");
  auto* y = step.node(x->space, narrow, step.needs_gradient(x));
  step.backend.copy_columns(rows, narrow, x->value + first, wide, y->value, narrow, false);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      auto t = s.target(x);
      if (!t) return;
      if (!t.add) std::fill_n(t.data, rows * wide, R(0));
      s.backend.copy_columns(rows, narrow, y->gradient, narrow, t.data + first, wide, true);
    });
  return y;
}

template <class S, class R>
Node<R>* concatenate(S& step, Node<R>* a, Node<R>* b) {
  const long rows = a->space->count, first = a->features, second = b->features, wide = first + second;
  if (a->space != b->space)
    fail("vaelib: variables of different row spaces cannot be joined (", rows, " and ", b->space->count, " rows)");
  auto* y = step.node(a->space, wide, step.needs_gradient(a, b));
  step.backend.copy_columns(rows, first, a->value, first, y->value, wide, false);
  step.backend.copy_columns(rows, second, b->value, second, y->value + first, wide, false);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(a)) s.backend.copy_columns(rows, first, y->gradient, wide, t.data, first, t.add);
      if (auto t = s.target(b)) s.backend.copy_columns(rows, second, y->gradient + first, wide, t.data, second, t.add);
    });
  return y;
}
}  // namespace detail

/// Mean over the rows, one row of the same shape. Summed in double where rows are single numbers, as losses are.
template <class S, class R, Shape A>
Var<R, A> mean_rows(S& step, Var<R, A> x) {
  return {detail::mean_rows(step, x.node), x.shape};
}

/// Sum over the features: rows x 1.
template <class S, class V>
auto sum_features(S& step, V x) {
  return map_reduce(step, Identity{}, x);
}

/// The same for variables of few numbers, such as the terms of a loss.
template <class S, class R, Shape A>
Var<R, Shape{1}> sum_few(S& step, Var<R, A> x) {
  return {detail::sum_few(step, x.node), Shape{1}};
}

/// The same rows seen in another shape of as many features; nothing is copied.
template <Shape To, class R, Shape A>
Var<R, To> view(Var<R, A> x, Shape to = To) {
  static_assert(agree(A.size(), To.size()), "vaelib: a view has as many features as what it looks at");
  if (to.size() != x.features()) fail("vaelib: ", x.features(), " features cannot be seen as shape ", text_of(to));
  return {x.node, to};
}

/// Features [first, first + count) of a flat variable.
template <Shape To, class S, class R, Shape A>
Var<R, To> columns(S& step, Var<R, A> x, int first, Shape to = To) {
  static_assert(A.is_flat() && To.is_flat(), "vaelib: columns takes a flat variable; put Flatten before it");
  return {detail::columns(step, x.node, first, to.size()), to};
}

constexpr Shape joined(Shape a, Shape b) {
  return a.channels == dynamic || b.channels == dynamic ? Shape{dynamic} : Shape{a.channels + b.channels};
}
/// The features of two flat variables side by side.
template <class S, class R, Shape A, Shape B>
auto concatenate(S& step, Var<R, A> a, Var<R, B> b) {
  static_assert(A.is_flat() && B.is_flat(), "vaelib: concatenate takes flat variables; put Flatten before it");
  return Var<R, joined(A, B)>{detail::concatenate(step, a.node, b.node), Shape{int(a.features() + b.features())}};
}

/// Standard normal numbers, rows x shape; they take no gradient.
template <Shape A, class S>
auto standard_normal(S& step, const RowSpace* space, Shape shape = A) {
  auto y = step.template variable<A>(space, shape, false);
  step.backend.normal(step.next_key(), space->first, space->count, shape.size(), y.value());
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

struct SoftClamp {
  float limit;
  VAELIB_INLINE constexpr auto operator()(auto x) const { return limit * tanh(x * (1 / limit)); }
};
struct Reparameterise {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw, auto noise) const { return mu + exp(clamp(raw) * 0.5f) * noise; }
};
struct StandardNormalKl {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw) const {
    const auto logvar = clamp(raw);
    return 0.5f * (mu * mu + (expm1(logvar) - logvar));
  }
};

/// log p(z) - log q(z|x) of one dimension, for z = mu + exp(logvar / 2) noise: (logvar + noise^2 - z^2) / 2
struct LogPriorOverPosterior {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw, auto noise) const {
    return 0.5f * (clamp(raw) + square(noise) - square(Reparameterise{clamp}(mu, raw, noise)));
  }
};

/// What the head of an encoder says of each sample: rows x Size each; the log-variance is not clamped yet.
template <class V>
struct GaussianPosterior {
  V mu, raw_logvar;
};

template <int Size>
struct Gaussian {
  static constexpr int heads = Size == dynamic ? dynamic : 2 * Size;  ///< features that the encoder's last layer gives
  static constexpr Shape sample_shape{Size};

  [[no_unique_address]] Extent<Size> size{};
  float logvar_limit = 20;  ///< variances between exp(-20) and exp(20)

  Extent<heads> head_features() const {
    if constexpr (Size == dynamic) {
      return {2 * size};
    } else {
      return {};
    }
  }
  /// Splits the head's output.
  template <class S, class V>
  auto posterior(S& step, V head) const {
    auto mu = columns<sample_shape>(step, head, 0, Shape{int(size)});
    return GaussianPosterior<decltype(mu)>{mu, columns<sample_shape>(step, head, int(size), Shape{int(size)})};
  }
  /// The log-variance of q(z|x).
  template <class S, class V>
  V logvar(S& step, const GaussianPosterior<V>& q) const {
    return map(step, SoftClamp{logvar_limit}, q.raw_logvar);
  }

  template <class S, class V>
  V sample(S& step, const GaussianPosterior<V>& q) const {
    return map(step, Reparameterise{{logvar_limit}}, q.mu, q.raw_logvar, fixed(standard_normal<sample_shape>(step, q.mu.space(), q.mu.shape)));
  }

  template <class V, class W>
  struct WeightedSample {
    V z;
    W log_weight;  ///< log p(z) - log q(z|x): rows x 1, nats
  };
  /// A sample of q, and how much likelier it is by the prior: for importance weighting.
  template <class S, class V>
  auto weighted_sample(S& step, const GaussianPosterior<V>& q) const {
    const auto noise = fixed(standard_normal<sample_shape>(step, q.mu.space(), q.mu.shape));
    const auto log_weight = map_reduce(step, LogPriorOverPosterior{{logvar_limit}}, q.mu, q.raw_logvar, noise);
    return WeightedSample<V, std::remove_const_t<decltype(log_weight)>>{map(step, Reparameterise{{logvar_limit}}, q.mu, q.raw_logvar, noise), log_weight};
  }

  /// KL(q || prior) for each dimension: rows x Size, nats.
  template <class S, class V>
  V kl(S& step, const GaussianPosterior<V>& q) const {
    return map(step, StandardNormalKl{{logvar_limit}}, q.mu, q.raw_logvar);
  }

  /// Samples of the prior.
  template <class S>
  auto prior(S& step, const RowSpace* space) const {
    return standard_normal<sample_shape>(step, space, Shape{int(size)});
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Activations: plain functors of one number. The vectorised loop, the device code and the gradient are derived from them.
//
// A functor that also gives its slope as a function of its output is applied in the last pass of the layer before it, for
// then the input need not be kept.

namespace vaelib::inline VAELIB_ABI {

/// max(x, 0)
struct ReLU {
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, decltype(x)(0.0f)); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), T(0.0f));
  }
};

/// x where x > 0, slope * x elsewhere; slope > 0
struct LeakyReLU {
  float slope = 0.01f;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, x * slope); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), T(slope));
  }
};

/// x where x > 0, alpha (exp(x) - 1) elsewhere; alpha > 0 (Clevert et al. 2015)
struct ELU {
  float alpha = 1;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, alpha * expm1(x)); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), y + alpha);
  }
};

/// x Phi(x) with the normal distribution function Phi (Hendrycks & Gimpel 2016); the exact form, by erf
struct GELU {
  VAELIB_HD constexpr auto operator()(auto x) const { return x * 0.5f * (erf(x * 0.70710678118654752) + 1.0f); }
};

/// x sigmoid(x), also known as Swish (Elfwing et al. 2017)
struct SiLU {
  VAELIB_HD constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};

struct Tanh {
  VAELIB_HD constexpr auto operator()(auto x) const { return tanh(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return decltype(y)(1.0f) - y * y; }
};

/// 1 / (1 + exp(-x))
struct Sigmoid {
  VAELIB_HD constexpr auto operator()(auto x) const { return sigmoid(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return y * (decltype(y)(1.0f) - y); }
};

/// log(1 + exp(x))
struct Softplus {
  VAELIB_HD constexpr auto operator()(auto x) const { return softplus(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return -expm1(-y); }
};

}  // namespace vaelib::inline VAELIB_ABI
// Batch normalisation over the rows (and pixels) of a batch, channel by channel; Ioffe & Szegedy 2015.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias
//
// In training mean and variance (divided by n) are those of the batch, and the running ones move towards them by
// `momentum`, with the variance divided by n - 1, as in PyTorch; in evaluation the running ones are used. The moved
// statistics are proposed, and become state when the step is accepted.

// Layers one after another. The shapes are worked out by the compiler; the first layer that does not fit is named with its
// index and the shape it was given. Where extents are dynamic, the same rules are applied when the model is built.
//
//   Sequential<Shape{28, 28, 1}, Conv2d<32, 4, 2, 1>, ReLU, Flatten, Linear<256>>
//   Sequential<Shape{dynamic}, Linear<dynamic>, ReLU>{Shape{pixels}, Linear<dynamic>{hidden}, ReLU{}}
//
// A layer is a value with a shape rule, `Shape output(Shape in) const` and perhaps `bool accepts(Shape in) const`; with
// `build(Shape in)` and `fields(f)` if it has parameters; and with `forward(step, x)`. A plain functor of one number
// (ReLU) is a layer too: it is applied to each element, and where the layer before it allows, in that layer's last pass.

#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A functor of one number: an activation.
template <class L>
concept Elementwise = !requires(const L& layer, Shape in) { layer.output(in); } && requires(const L& f) { f(1.0f); };

template <class L>
constexpr bool accepts_shape(const L& layer, Shape in) {
  if constexpr (requires { layer.accepts(in); }) return layer.accepts(in);
  return true;
}
template <class L>
constexpr Shape output_shape(const L& layer, Shape in) {
  if constexpr (Elementwise<L>) {
    return in;
  } else {
    return layer.output(in);
  }
}

/// Whether a layer takes samples of this shape; an own layer can be tested by static_assert.
template <class L, Shape In>
concept accepts = accepts_shape(L{}, In);

/// What a layer makes of the shape: the static shape of its output.
template <class L, Shape In>
inline constexpr Shape output_of = output_shape(L{}, In);

template <int Index, class Layer, Shape Receives>
struct layer_does_not_accept_shape;  // never defined, so that the compiler prints its arguments

namespace detail {

template <int Index, Shape In>
constexpr Shape chain_output() {
  return In;
}
template <int Index, Shape In, class L, class... Rest>
constexpr Shape chain_output() {
  if constexpr (accepts<L, In>) {
    return chain_output<Index + 1, output_of<L, In>, Rest...>();
  } else {
    return layer_does_not_accept_shape<Index, L, In>::value;
  }
}

/// The layers of a chain, one within the other.
template <int Index, class... Ls>
struct Chain {
  constexpr Chain() = default;
  constexpr void visit(auto&&) {}
  constexpr void visit(auto&&) const {}
  void fields(auto&&) {}
  constexpr Shape output(Shape in, bool&) const { return in; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return x;
  }
};

template <int Index, class L, class... Rest>
struct Chain<Index, L, Rest...> {
  L layer{};
  Chain<Index + 1, Rest...> rest{};

  constexpr Chain() = default;
  constexpr explicit Chain(L l, Rest... others) : layer(l), rest(others...) {}
  /// A shorter chain with one more layer behind.
  template <class... Fewer, class Last>
  constexpr Chain(const Chain<Index, L, Fewer...>& front, const Last& last) : layer(front.layer), rest(front.rest, last) {}
  constexpr Chain(const Chain<Index>&, const L& last) : layer(last) {}

  constexpr void visit(auto&& f) {
    f(Index, layer);
    rest.visit(f);
  }
  constexpr void visit(auto&& f) const {
    f(Index, layer);
    rest.visit(f);
  }
  void fields(auto&& f) { visit(f); }
  /// The shape behind the chain; accepted becomes false where a layer refuses what it is given.
  constexpr Shape output(Shape in, bool& accepted) const {
    visit([&](int, const auto& l) {
      accepted = accepted && accepts_shape(l, in);
      if (accepted) in = output_shape(l, in);
    });
    return in;
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    if constexpr (Elementwise<L>) {
      return rest.forward(step, map(step, layer, x));
    } else if constexpr (fuses<S, V>()) {
      return rest.rest.forward(step, layer.forward(step, x, rest.layer));
    } else {
      return rest.forward(step, layer.forward(step, x));
    }
  }
  template <class S, class V>
  static consteval bool fuses() {
    if constexpr (sizeof...(Rest) > 0) {
      using Next = decltype(Chain<Index + 1, Rest...>::layer);
      if constexpr (Elementwise<Next> && SlopeFromOutput<Next>) return requires(const L& l, S& s, V v, Next f) { l.forward(s, v, f); };
    }
    return false;
  }
};

/// Builds layers one after another, those within layers too, and then tells their parameters in which spatial order the
/// features stand before and behind each layer, so that files can be permuted.
class ChainBuilder final : private LeafVisitor {
 public:
  explicit ChainBuilder(Shape in) { append(in, true); }

  template <class L>
  [[gnu::cold]] void operator()(int index, L& layer) {
    const Shape in = shape();
    if (!accepts_shape(layer, in) || output_shape(layer, in).is_dynamic()) refuse(index, type_name<L>());
    if constexpr (requires { layer.build_by(*this); }) {  // made of layers
      layer.build_by(*this);
    } else {
      if constexpr (requires { layer.build(in); }) layer.build(in);
      if constexpr (HasFields<L>) layer.fields(static_cast<LeafVisitor&>(*this));
      append(output_shape(layer, in), !Elementwise<L> && !requires { L::keeps_features; });
    }
  }

  /// Behind the last layer so far; after set_orders() of flat features the image that they stand for.
  Shape shape() const { return places.back().shape; }

  int last() const { return int(places.size()) - 1; }
  /// The features behind the last layer so far stand in the order of an earlier place, since they are added to it.
  [[gnu::cold]] void tie_to(int earlier) { places.back().tie = earlier; }

  /// Called behind the last layer.
  [[gnu::cold]] void set_orders() {
    for (int sweep = 0; sweep < 2; ++sweep) {  // the second brings to a body what was found behind it
      for (int i = 1; i <= last(); ++i) carry(i, false);
      for (int i = last(); i > 0; --i) carry(i, true);
    }
    for (const auto& [shape, place] : orders) *shape = places[place].shape;
  }

 private:
  struct Place {  // before the first layer, and behind each
    Shape shape;
    bool cut;      // the outputs of the layer are not its inputs in the same order
    int tie = -1;  // to an earlier place of the same order
  };
  struct Order {  // of features, to be told when the shapes of all places are known
    Shape* shape;
    int place;
  };

  [[noreturn, gnu::cold]] void refuse(int index, const std::string& layer) const {
    fail("vaelib: layer ", index, ", ", layer, ", does not accept shape ", text_of(shape()));
  }
  [[gnu::cold]] void append(Shape to, bool cut) { places.push_back({to, cut}); }
  [[gnu::cold]] void tell(Shape& order, int place) { orders.push_back({&order, place}); }
  [[gnu::cold]] void visit(Parameter& leaf) override {
    tell(leaf.in_order, last());
    tell(leaf.out_order, last() + 1);
  }
  [[gnu::cold]] void visit(State& leaf) override {
    if (leaf.order.is_flat()) tell(leaf.order, last() + (leaf.of_inputs ? 0 : 1));
  }
  /// Places that are flat take the spatial shape before or behind them.
  [[gnu::cold]] void carry(int place, bool back) {
    const Place& here = places[place];
    if (!here.cut) carry(place - 1, place, back);
    if (here.tie >= 0) carry(here.tie, place, back);
  }
  [[gnu::cold]] void carry(int from, int to, bool back) {
    if (back) std::swap(from, to);
    if (places[to].shape.is_flat() && places[from].shape.size() == places[to].shape.size()) places[to].shape = places[from].shape;
  }

  std::vector<Place> places;
  std::vector<Order> orders;
};

}  // namespace detail

template <Shape In, class... Layers>
struct Sequential {
  static constexpr Shape takes = In;
  static constexpr Shape makes = detail::chain_output<0, In, Layers...>();
  static constexpr int size = sizeof...(Layers);
  /// The same chain with more layers behind.
  template <class... More>
  using Append = Sequential<In, Layers..., More...>;

  detail::Chain<0, Layers...> layers{};
  Shape input_shape = In, output_shape = makes;
  Shape output_order = makes;  ///< of flat features that were flattened: the image, whose channels come first in files

  constexpr Sequential() = default;
  constexpr explicit Sequential(Shape in) : input_shape(in) {}
  constexpr explicit Sequential(Layers... l)
    requires(sizeof...(Layers) > 0)
      : layers(l...) {}
  constexpr Sequential(Shape in, Layers... l)
    requires(sizeof...(Layers) > 0)
      : layers(l...), input_shape(in) {}

  template <class... Fewer, class Last>
  constexpr Sequential(const Sequential<In, Fewer...>& front, const Last& last) : layers(front.layers, last), input_shape(front.input_shape) {}

  /// Gives every parameter its extents; throws Error where dynamic extents do not fit.
  [[gnu::cold]] void build() { build(input_shape); }
  [[gnu::cold]] void build(Shape in) {
    if (in.is_dynamic()) fail("vaelib: a Sequential with dynamic input needs its shape, found ", text_of(in));
    if (!agree(In, in)) fail("vaelib: a Sequential of shape ", text_of(In), " was given shape ", text_of(in));
    detail::ChainBuilder builder(in);
    build_by(builder);
    builder.set_orders();
    output_order = builder.shape();
  }
  [[gnu::cold]] void build_by(detail::ChainBuilder& builder) {
    input_shape = builder.shape();
    layers.visit(builder);
    output_shape = builder.shape();
  }
  void fields(auto&& f) { layers.visit(f); }

  template <class S, class V>
  auto operator()(S& step, V x) const {
    static_assert(agree(V::static_shape, In), "vaelib: this Sequential takes another shape");
    if (x.shape != input_shape) fail("vaelib: expected samples of shape ", text_of(input_shape), ", found ", text_of(x.shape));
    return layers.forward(step, x);
  }

  // as a layer of another chain
  constexpr bool accepts(Shape in) const { return agree(in, In); }
  constexpr Shape output(Shape in) const {
    bool accepted = true;
    return layers.output(in, accepted);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    return (*this)(step, x);
  }
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> batch_norm(S& step, Var<R, A> x, const Parameter& weight, const Parameter& bias, const State& mean, const State& variance,
                     const State& count, float momentum, float epsilon) {
  const int channels = int(weight.size());
  const long rows = channels == 0 ? 0 : x.size() / channels;
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  const bool of_batch = step.training();
  const R *old_mean = step.value(mean), *old_variance = step.value(variance), *old_count = step.value(count);
  const R *used_mean = old_mean, *used_variance = old_variance;
  if (of_batch) {
    if (rows < 2) fail("vaelib: BatchNorm wants more than one value a channel in training, found ", rows);
    R* statistics = step.arena.template allocate<R>(2 * channels);  // mean, variance
    step.backend.column_statistics(rows, channels, x.value(), statistics, statistics + channels);
    if (R* moved = step.propose(mean)) step.backend.move(channels, old_mean, statistics, R(momentum), R(1), moved);
    if (R* moved = step.propose(variance)) step.backend.move(channels, old_variance, statistics + channels, R(momentum), R(rows) / R(rows - 1), moved);
    if (R* moved = step.propose(count)) *moved = *old_count + 1;
    used_mean = statistics;
    used_variance = statistics + channels;
  }
  step.backend.normalise(rows, channels, x.value(), used_mean, used_variance, R(epsilon), step.value(weight), step.value(bias), y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.normalise_gradient(rows, channels, of_batch, x.value(), used_mean, used_variance, R(epsilon), s.value(weight), s.gradient(y),
                                   s.target(x), s.target(weight), s.target(bias));
    });
  return y;
}

struct BatchNorm {
  float momentum = 0.1f, epsilon = 1e-5f;
  Parameter weight{}, bias{};
  State running_mean{}, running_var{}, num_batches_tracked{};

  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    weight = {{in.channels}, constant(1)};
    bias = {{in.channels}, constant(0)};
    running_mean = {in.channels, 0};
    running_var = {in.channels, 1};
    num_batches_tracked = {1, 0, true};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
    f("running_mean", running_mean);
    f("running_var", running_var);
    f("num_batches_tracked", num_batches_tracked);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return batch_norm(step, x, weight, bias, running_mean, running_var, num_batches_tracked, momentum, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Conv2d and ConvTranspose2d, channels last, as torch.nn defines them (dilation 1, one group).
//
//   Conv2d            out = (in + 2 padding - kernel) / stride + 1                       W: kernel x kernel x in x out
//   ConvTranspose2d   out = (in - 1) stride - 2 padding + kernel + output_padding        W: kernel x kernel x out x in
//
// The transposed convolution is the gradient of the plain one with regard to its input, and the other way round: three
// operations of the backend serve both layers. Dumoulin & Visin 2016, "A guide to convolution arithmetic".

// y = x W + b      x: rows x in      W: in x out      b: out      y: rows x out
//
// In files W is out x in, as torch.nn.Linear has it. Linear refuses a spatial shape: put Flatten before it.

namespace vaelib::inline VAELIB_ABI {

namespace detail {
/// The weight: a Parameter, or a node of in x out numbers.
template <class S, class R, class W, class F>
Node<R>* linear(S& step, Node<R>* x, int in, int out, const W& weight, const Parameter& bias, F activation) {
  if (x->features != in) fail("vaelib: linear takes ", in, " features, found ", x->features);
  auto* y = step.node(x->space, out, step.needs_gradient(x, weight, bias));
  const long rows = x->space->count;
  step.backend.product(rows, out, in, {x->value, in, 1}, {step.value(weight), out, 1}, y->value, false, step.value(bias), activation);
  if (!y->needs_gradient) return y;
  step.record({y}, [=](S& s) {
    constexpr bool plain = std::is_same_v<F, Identity>;
    const auto scratch = s.scratch(plain ? 0 : y->size());
    R* gradient = plain ? y->gradient : scratch.data;
    s.backend.output_gradient(activation, rows, out, y->value, y->gradient, gradient, s.target(bias));
    if (auto t = s.target(weight)) s.backend.product(in, out, rows, {x->value, 1, in}, {gradient, out, 1}, t.data, t.add);
    if (auto t = s.target(x)) s.backend.product(rows, in, out, {gradient, out, 1}, {s.value(weight), 1, out}, t.data, t.add);
  });
  return y;
}
}  // namespace detail

/// activation(x W + b) for a flat variable; the activation must give its slope from its output.
template <Shape To, class F = Identity, class S, class R, Shape In>
Var<R, To> linear(S& step, Var<R, In> x, const Parameter& weight, const Parameter& bias, F activation = {}) {
  return {detail::linear(step, x.node, weight.extents[0], weight.extents[1], weight, bias, activation), Shape{weight.extents[1]}};
}

template <int Out>
struct Linear {
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};

  static constexpr bool accepts(Shape in) { return in.is_flat(); }
  constexpr Shape output(Shape) const { return {int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    weight = {{in.size(), out}, initialize(initializer, in.size(), out), Layout::linear};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, in.size(), out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    return apply(step, x, weight, activation);
  }
  /// The same with another weight of these extents.
  template <class S, class V, class W, class F>
  auto apply(S& step, V x, const W& other, F activation) const {
    const int to = weight.extents[1];
    return Var<typename V::Real, output_of<Linear, V::static_shape>>{detail::linear(step, x.node, weight.extents[0], to, other, bias, activation), Shape{to}};
  }
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// Shared by both layers: y = activation(op(x) + bias); `plain` tells which of the two directions is forward.
template <class S, class R, class W, class F>
Node<R>* convolve(S& step, Node<R>* x, Shape out, bool plain, const ConvolutionShape& shape, const W& weight, const Parameter& bias, F activation) {
  auto* y = step.node(x->space, out.size(), step.needs_gradient(x, weight, bias));
  const long images = x->space->count;
  if (plain) {
    step.backend.convolution(shape, images, x->value, step.value(weight), y->value, false, step.value(bias), activation);
  } else {
    step.backend.convolution_adjoint(shape, images, x->value, step.value(weight), y->value, false, step.value(bias), activation);
  }
  if (!y->needs_gradient) return y;
  step.record({y}, [=](S& s) {
    constexpr bool unchanged = std::is_same_v<F, Identity>;
    const auto scratch = s.scratch(unchanged ? 0 : y->size());
    R* gradient = unchanged ? y->gradient : scratch.data;
    s.backend.output_gradient(activation, y->size() / out.channels, out.channels, y->value, y->gradient, gradient, s.target(bias));
    if (auto t = s.target(weight)) {
      const R *large = plain ? x->value : gradient, *small = plain ? gradient : x->value;
      s.backend.convolution_weight_gradient(shape, images, large, small, t.data, t.add);
    }
    auto t = s.target(x);
    if (t && plain) s.backend.convolution_adjoint(shape, images, gradient, s.value(weight), t.data, t.add);
    if (t && !plain) s.backend.convolution(shape, images, gradient, s.value(weight), t.data, t.add);
  });
  return y;
}

}  // namespace detail

template <int Out, int Kernel, int Stride = 1, int Padding = 0>
struct Conv2d {
  static_assert(Kernel > 0 && Stride > 0 && Padding >= 0, "vaelib: a convolution has a kernel and a stride of at least 1");
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};
  ConvolutionShape shape{};

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in + 2 * Padding - Kernel) / Stride + 1; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || in.height + 2 * Padding >= Kernel) && (in.width == dynamic || in.width + 2 * Padding >= Kernel);
  }
  constexpr Shape output(Shape in) const { return {extent(in.height), extent(in.width), int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    const Shape to = output(in);
    shape = {in.height, in.width, in.channels, to.height, to.width, to.channels, Kernel, Kernel, Stride, Padding};
    const long fan_in = long(in.channels) * Kernel * Kernel, fan_out = long(out) * Kernel * Kernel;
    weight = {{Kernel, Kernel, in.channels, out}, initialize(initializer, fan_in, fan_out), Layout::convolution};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, fan_in, fan_out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    return apply(step, x, weight, activation);
  }
  /// The same with another weight of these extents.
  template <class S, class V, class W, class F>
  auto apply(S& step, V x, const W& other, F activation) const {
    const Shape to = output(x.shape);
    return Var<typename V::Real, output_of<Conv2d, V::static_shape>>{detail::convolve(step, x.node, to, true, shape, other, bias, activation), to};
  }
};

template <int Out, int Kernel, int Stride = 1, int Padding = 0, int OutputPadding = 0>
struct ConvTranspose2d {
  static_assert(Kernel > 0 && Stride > 0 && Padding >= 0, "vaelib: a convolution has a kernel and a stride of at least 1");
  static_assert(OutputPadding >= 0 && OutputPadding < Stride, "vaelib: output padding must be smaller than the stride");
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};
  ConvolutionShape shape{};

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in - 1) * Stride - 2 * Padding + Kernel + OutputPadding; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || extent(in.height) > 0) && (in.width == dynamic || extent(in.width) > 0);
  }
  constexpr Shape output(Shape in) const { return {extent(in.height), extent(in.width), int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    const Shape to = output(in);
    shape = {to.height, to.width, to.channels, in.height, in.width, in.channels, Kernel, Kernel, Stride, Padding};
    const long fan_in = long(out) * Kernel * Kernel, fan_out = long(in.channels) * Kernel * Kernel;  // as PyTorch counts them
    weight = {{Kernel, Kernel, out, in.channels}, initialize(initializer, fan_in, fan_out), Layout::transposed_convolution};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, fan_in, fan_out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    const Shape to = output(x.shape);
    return Var<typename V::Real, output_of<ConvTranspose2d, V::static_shape>>{detail::convolve(step, x.node, to, false, shape, weight, bias, activation), to};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Dropout: in training each feature is zero with probability p, the others are divided by 1 - p; Srivastava et al. 2014.

namespace vaelib::inline VAELIB_ABI {

struct KeepOrDrop {
  float probability;
  VAELIB_HD constexpr auto operator()(auto x, auto uniform) const {
    return x * select(uniform < probability, decltype(uniform)(0.0f), decltype(uniform)(1 / (1 - probability)));
  }
};

struct Dropout {
  float probability = 0.5f;
  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape) {
    if (!(probability >= 0 && probability < 1)) fail("vaelib: Dropout wants a probability in [0, 1), found ", probability);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    if (!step.training() || probability == 0) return x;
    auto uniform = step.template variable<V::static_shape>(x.space(), x.shape, false);
    step.backend.uniform(step.next_key(), x.space()->first, x.rows(), int(x.features()), uniform.value());
    return map(step, KeepOrDrop{probability}, x, fixed(uniform));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// y = weight[index]: one learned row of Out features for each of Count labels. The indices are integers of the caller.

namespace vaelib::inline VAELIB_ABI {

template <int Count, int Out>
struct Embedding {
  [[no_unique_address]] Extent<Count> count{};
  Extent<Out> out{};
  Parameter weight{};

  [[gnu::cold]] void build() { weight = {{int(count), int(out)}, normal(1)}; }
  void fields(auto&& f) { f("weight", weight); }

  /// indices: one label a row of `space`; kept alive by the caller until the step is over.
  template <class S>
  auto operator()(S& step, const RowSpace* space, const std::int32_t* indices) const {
    return Var<typename S::Real, Shape{Out}>{gather(step, space, 1, indices), Shape{int(out)}};
  }
  /// The same for a grid of labels, height x width of them a row.
  template <class S>
  auto operator()(S& step, const RowSpace* space, Shape grid, const std::int32_t* indices) const {
    return Var<typename S::Real, Shape{dynamic, dynamic, Out}>{gather(step, space, grid.height * grid.width, indices), {grid.height, grid.width, int(out)}};
  }

 private:
  template <class S>
  Node<typename S::Real>* gather(S& step, const RowSpace* space, long positions, const std::int32_t* indices) const {
    using Real = typename S::Real;
    const int labels = count, features = out;
    const long all = space->count * positions;
    for (long i = 0; i < all; ++i)
      if (indices[i] < 0 || indices[i] >= labels) fail("vaelib: row ", i / positions, " has label ", indices[i], ", expected 0 to ", labels - 1);
    auto* y = step.node(space, positions * features, step.needs_gradient(weight));
    step.backend.gather_rows(all, features, step.value(weight), indices, y->value);
    if (y->needs_gradient)
      step.record({y}, [=, p = weight](S& s) {
        if (Target<Real> t = s.target(p)) s.backend.scatter_rows(all, features, labels, y->gradient, indices, t);
      });
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Flatten and Reshape see the same numbers in another shape; nothing is copied. In files, features that were flattened
// are in PyTorch's order (channels first).

namespace vaelib::inline VAELIB_ABI {

struct Flatten {
  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return {in.size()}; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return view<Flatten::output(V::static_shape)>(x, Flatten::output(x.shape));
  }
};

/// Reshape<Shape{7, 7, 64}>, or Reshape<Shape{dynamic, dynamic, 64}>{Shape{7, 7, 64}}.
template <Shape To>
struct Reshape {
  Shape to = To;
  static constexpr bool keeps_features = true;
  constexpr bool accepts(Shape in) const { return in.is_flat() && agree(in.size(), to.size()) && agree(To, to); }
  constexpr Shape output(Shape) const { return to; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return view<To>(x, to);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Gated: the first half of the channels times a gate from the second half, a gated linear unit; Dauphin et al. 2017.
//
//   y = a * sigmoid(b)      x: ... x 2 n channels, of which a is the first n and b the others      y: ... x n
//
// On flat samples the channels are the features. Of an image it is one gate a pixel and channel (torch.nn.GLU(dim=1)).

namespace vaelib::inline VAELIB_ABI {

struct Gated {
  static constexpr bool accepts(Shape in) { return in.channels == dynamic || (in.channels > 0 && in.channels % 2 == 0); }
  static constexpr Shape output(Shape in) { return {in.height, in.width, in.channels == dynamic ? dynamic : in.channels / 2}; }

  template <class S, class V>
  auto forward(S& step, V x) const {
    const Shape to = output(x.shape);
    return Var<typename V::Real, Gated::output(V::static_shape)>{gate(step, x.node, to.channels), to};
  }

 private:
  template <class S, class R>
  static Node<R>* gate(S& step, Node<R>* x, int half) {
    const long rows = x->size() / (2 * half);
    auto* y = step.node(x->space, x->features / 2, step.needs_gradient(x));
    step.backend.gate(rows, half, x->value, y->value);
    if (y->needs_gradient)
      step.record({y}, [=](S& s) {
        if (auto t = s.target(x)) s.backend.gate_gradient(rows, half, x->value, y->gradient, t);
      });
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Group normalisation: over the pixels and the channels of each group of a sample by itself; Wu & He 2018.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias      mean, var (divided by n): of the sample and the group
//
// Groups are of neighbouring channels and of one size; weight and bias have one number a channel. GroupNorm<1> looks at all
// features of a sample, GroupNorm<channels> at each channel. Of features that were flattened, neighbours are others than in
// PyTorch, which flattens channels first: put it before Flatten.

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> group_norm(S& step, Var<R, A> x, int groups, const Parameter& weight, const Parameter& bias, float epsilon) {
  const int channels = int(weight.size());
  if (x.shape.channels != channels || groups < 1 || channels % groups != 0)
    fail("vaelib: group_norm of ", groups, " groups and a weight of ", channels, " numbers does not fit samples of shape ", text_of(x.shape));
  const long images = x.rows(), pixels = long(x.shape.height) * x.shape.width;
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  R* statistics = step.arena.template allocate<R>(2 * images * channels);
  step.backend.group_norm(images, pixels, channels, groups, x.value(), R(epsilon), step.value(weight), step.value(bias), statistics, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.group_norm_gradient(images, pixels, channels, groups, x.value(), statistics, s.value(weight), s.gradient(y), s.target(x),
                                    s.target(weight), s.target(bias));
    });
  return y;
}

/// GroupNorm<8>, or GroupNorm<dynamic>{8}.
template <int Groups>
struct GroupNorm {
  static_assert(Groups > 0 || Groups == dynamic, "vaelib: GroupNorm has at least 1 group");
  [[no_unique_address]] Extent<Groups> groups{};
  float epsilon = 1e-5f;
  Parameter weight{}, bias{};

  static constexpr bool keeps_features = true;
  constexpr bool accepts(Shape in) const {
    return groups == dynamic || in.channels == dynamic || (groups > 0 && in.channels % groups == 0);
  }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if (groups == dynamic) fail("vaelib: GroupNorm<dynamic> wants its number of groups: GroupNorm<dynamic>{8}");
    weight = {{in.channels}, constant(1)};
    bias = {{in.channels}, constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return group_norm(step, x, groups, weight, bias, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Layer normalisation over the features of each row; Ba et al. 2016.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias      mean, var (divided by n): of the row
//
// Over all features of a sample, spatial ones included; weight and bias have one number a feature.

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> layer_norm(S& step, Var<R, A> x, const Parameter& weight, const Parameter& bias, float epsilon) {
  const long rows = x.rows(), features = x.features();
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  R* statistics = step.arena.template allocate<R>(2 * rows);  // of each row: mean, 1 / sqrt(var + epsilon)
  step.backend.layer_norm(rows, features, x.value(), R(epsilon), step.value(weight), step.value(bias), statistics, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.layer_norm_gradient(rows, features, x.value(), statistics, s.value(weight), s.gradient(y), s.target(x), s.target(weight), s.target(bias));
    });
  return y;
}

struct LayerNorm {
  float epsilon = 1e-5f;
  Parameter weight{}, bias{};

  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if (in.is_flat()) {
      weight = {{in.channels}, constant(1)};
      bias = {{in.channels}, constant(0)};
    } else {
      weight = {{in.height, in.width, in.channels}, constant(1), Layout::image};
      bias = {{in.height, in.width, in.channels}, constant(0), Layout::image};
    }
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return layer_norm(step, x, weight, bias, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Pooling and upsampling of images, channel by channel, as torch.nn has them.
//
//   MaxPool2d<Kernel, Stride, Padding>   the largest pixel of each window; the gradient goes to the first such pixel, row by row
//   AvgPool2d<Kernel, Stride, Padding>   the mean of each window; padding counts as zeros, and in the number divided by
//   Upsample<Factor>                     every pixel becomes Factor x Factor pixels
//   Upsample<Factor, Interpolation::bilinear>   linear in between, with the corners of pixels aligned (align_corners=False)
//
//   pools: out = (in + 2 padding - kernel) / stride + 1, rounded down      Upsample: out = in * factor
//
// The stride of a pool is its kernel unless said otherwise. Upsampling to the nearest pixel is the adjoint of summing windows,
// so the two share their operations.

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// The shape rule of both pools.
template <int Kernel, int Stride, int Padding>
struct Pool2d {
  static_assert(Kernel > 0 && Stride > 0, "vaelib: a pool has a kernel and a stride of at least 1");
  static_assert(Padding >= 0 && 2 * Padding <= Kernel, "vaelib: the padding of a pool is at most half its kernel, so that every window holds a pixel");

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in + 2 * Padding - Kernel) / Stride + 1; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || in.height + 2 * Padding >= Kernel) && (in.width == dynamic || in.width + 2 * Padding >= Kernel);
  }
  static constexpr Shape output(Shape in) { return {extent(in.height), extent(in.width), in.channels}; }
  static ConvolutionShape windows(Shape in) {
    return {in.height, in.width, in.channels, extent(in.height), extent(in.width), in.channels, Kernel, Kernel, Stride, Padding};
  }
};

template <class S, class R>
Node<R>* max_pool(S& step, Node<R>* x, const ConvolutionShape& shape) {
  auto* y = step.node(x->space, long(shape.out_height) * shape.out_width * shape.channels, step.needs_gradient(x));
  const long images = x->space->count;
  step.backend.max_pool(shape, images, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.max_pool_gradient(shape, images, x->value, y->value, y->gradient, t);
    });
  return y;
}

/// Sums of windows times `scale`, or (not `down`) their adjoint.
template <class S, class R>
Node<R>* scaled_windows(S& step, Node<R>* x, bool down, const ConvolutionShape& shape, double scale) {
  const long small = long(shape.out_height) * shape.out_width * shape.channels, large = long(shape.height) * shape.width * shape.channels;
  auto* y = step.node(x->space, down ? small : large, step.needs_gradient(x));
  const auto apply = [=, images = x->space->count](S& s, bool sums, const R* from, Target<R> to) {
    if (sums) {
      s.backend.sum_windows(shape, images, from, R(scale), to);
    } else {
      s.backend.spread_windows(shape, images, from, R(scale), to);
    }
  };
  apply(step, down, x->value, {y->value});
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) apply(s, !down, y->gradient, t);
    });
  return y;
}

template <class S, class R>
Node<R>* upsample_bilinear(S& step, Node<R>* x, const ConvolutionShape& shape) {
  auto* y = step.node(x->space, long(shape.out_height) * shape.out_width * shape.channels, step.needs_gradient(x));
  const long images = x->space->count;
  step.backend.upsample_bilinear(shape, images, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.upsample_bilinear_gradient(shape, images, y->gradient, t);
    });
  return y;
}

}  // namespace detail

template <int Kernel, int Stride = Kernel, int Padding = 0>
struct MaxPool2d : detail::Pool2d<Kernel, Stride, Padding> {
  template <class S, class V>
  auto forward(S& step, V x) const {
    return Var<typename V::Real, MaxPool2d::output(V::static_shape)>{detail::max_pool(step, x.node, MaxPool2d::windows(x.shape)), MaxPool2d::output(x.shape)};
  }
};

template <int Kernel, int Stride = Kernel, int Padding = 0>
struct AvgPool2d : detail::Pool2d<Kernel, Stride, Padding> {
  template <class S, class V>
  auto forward(S& step, V x) const {
    constexpr double share = 1.0 / (double(Kernel) * Kernel);
    return Var<typename V::Real, AvgPool2d::output(V::static_shape)>{detail::scaled_windows(step, x.node, true, AvgPool2d::windows(x.shape), share),
                                                                     AvgPool2d::output(x.shape)};
  }
};

/// How pixels between pixels are made.
enum class Interpolation { nearest, bilinear };

template <int Factor, Interpolation Mode = Interpolation::nearest>
struct Upsample {
  static_assert(Factor > 0, "vaelib: the factor of Upsample is at least 1");

  static constexpr int extent(int in) { return in == dynamic ? dynamic : in * Factor; }
  static constexpr Shape output(Shape in) { return {extent(in.height), extent(in.width), in.channels}; }

  template <class S, class V>
  auto forward(S& step, V x) const {
    const Shape in = x.shape, to = output(in);
    using Result = Var<typename V::Real, output(V::static_shape)>;
    if constexpr (Mode == Interpolation::nearest) {
      // the larger image is the one with the windows
      const ConvolutionShape shape{to.height, to.width, to.channels, in.height, in.width, in.channels, Factor, Factor, Factor, 0};
      return Result{detail::scaled_windows(step, x.node, false, shape, 1), to};
    } else {
      const ConvolutionShape shape{in.height, in.width, in.channels, to.height, to.width, to.channels, Factor, Factor, Factor, 0};
      return Result{detail::upsample_bilinear(step, x.node, shape), to};
    }
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// y = x + body(x)      He et al. 2016

namespace vaelib::inline VAELIB_ABI {

/// Residual<ReLU, Conv2d<32, 3, 1, 1>, ReLU, Conv2d<64, 1>>: the body must give back the shape it was given. In files its
/// layers are numbered within `body`.
template <class... Layers>
struct Residual {
  detail::Chain<0, Layers...> body{};

  constexpr Residual() = default;
  constexpr explicit Residual(Layers... layers)
    requires(sizeof...(Layers) > 0)
      : body(layers...) {}

  constexpr bool accepts(Shape in) const {
    bool accepted = true;
    const Shape out = body.output(in, accepted);
    return accepted && agree(out, in);
  }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    detail::ChainBuilder builder(in);
    build_by(builder);
    builder.set_orders();
  }
  [[gnu::cold]] void build_by(detail::ChainBuilder& builder) {
    const int before = builder.last();
    body.visit(builder);
    builder.tie_to(before);
  }
  void fields(auto&& f) { f("body", body); }
  template <class S, class V>
  V forward(S& step, V x) const {
    return add(step, x, body.forward(step, x));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Bernoulli likelihood of logits; targets in [0, 1].
//
//   -log p(x | logit) = softplus(logit) - logit * x      nats, for each feature
//
// For x in {0, 1} this is a likelihood. Grey targets in between are allowed, as is common for images: the same formula is
// then the cross-entropy to x, whose least value is not zero, and no normalised density (Loaiza-Ganem & Cunningham 2019).

namespace vaelib::inline VAELIB_ABI {

struct BernoulliNll {
  VAELIB_HD constexpr auto operator()(auto logit, auto target) const { return softplus(logit) - logit * target; }
};

struct Bernoulli {
  static constexpr const char* name = "bernoulli";
  static constexpr float smallest = 0, largest = 1;  ///< support of the targets
  static constexpr bool sigmoid_mean = true;

  /// -log p(target | output), summed over features: rows x 1, nats.
  template <class S, class V, class T>
  auto nll(S& step, V logits, T target) const {
    return map_reduce(step, BernoulliNll{}, logits, fixed(target));
  }
  /// The mean of the pixels: probabilities.
  template <class S, class V>
  V mean(S& step, V logits) const {
    return map(step, Probability{}, logits);
  }
  struct Probability {
    VAELIB_HD constexpr auto operator()(auto logit) const { return sigmoid(logit); }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
// Continuous Bernoulli likelihood of logits, a normalised density of targets in [0, 1]; Loaiza-Ganem & Cunningham 2019.
//
//   -log p(x | logit) = softplus(logit) - logit x - log C = log((exp(logit) - 1) / logit) - logit x      nats, for each feature
//   C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = logit / tanh(logit / 2)      lambda = sigmoid(logit)
//   mean = lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)) = 1/2 + coth(logit / 2) / 2 - 1 / logit
//
// It is a density, so that nats may be negative. Written in the logit, with the normaliser in one term, nothing overflows or
// cancels; near 0, where numerators and denominators vanish together, series take their place.

namespace vaelib::inline VAELIB_ABI {

struct ContinuousBernoulliNll {
  VAELIB_HD constexpr auto operator()(auto logit, auto target) const {
    const auto size = abs(logit), v = square(logit);
    // log(sinh(logit / 2) / (logit / 2)) to logit^10: within 1e-10 where |logit| < 1
    const auto series = v * (1.0 / 24 + v * (-1.0 / 2880 + v * (1.0 / 181440 + v * (-1.0 / 9676800 + v * (1.0 / 479001600)))));
    return select(size < 1.0f, logit * (0.5f - target) + series, max(logit, 0.0f) - logit * target + log(-expm1(-size) / size));
  }
};

struct ContinuousBernoulli {
  static constexpr const char* name = "continuous-bernoulli";
  static constexpr float smallest = 0, largest = 1;  ///< support of the targets
  static constexpr bool sigmoid_mean = false;

  /// -log p(target | output), summed over features: rows x 1, nats.
  template <class S, class V, class T>
  auto nll(S& step, V logits, T target) const {
    return map_reduce(step, ContinuousBernoulliNll{}, logits, fixed(target));
  }
  /// The mean of the distribution, which lies nearer to 1/2 than lambda.
  template <class S, class V>
  V mean(S& step, V logits) const {
    return map(step, Mean{}, logits);
  }
  struct Mean {
    VAELIB_HD constexpr auto operator()(auto logit) const {
      const auto v = square(logit);  // to logit^9: within 1e-12 where |logit| < 1/2
      const auto series = 0.5f + logit * (1.0 / 12 + v * (-1.0 / 720 + v * (1.0 / 30240 + v * (-1.0 / 1209600 + v * (1.0 / 47900160)))));
      return select(v < 0.25f, series, 0.5f + 0.5f / tanh(logit * 0.5f) - 1.0f / logit);
    }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
// Gaussian likelihood with one standard deviation for all features; the decoder gives the mean.
//
//   -log p(x | mean) = 1/2 ((x - mean) / sigma)^2 + log sigma + 1/2 log(2 pi)      nats, for each feature
//
//   FixedGaussian{sigma}   sigma is given. sigma^2 = 1/2 is the squared error up to a constant.
//   LearnedGaussian        log sigma is a parameter.
//   OptimalGaussian        sigma^2 is the mean squared error of the batch, which is the best value in closed form, and
//                          takes part in the gradient: sigma-VAE, Rybkin et al. 2021, section 3.2.

namespace vaelib::inline VAELIB_ABI {

VAELIB_HD constexpr double half_log_two_pi() { return 0.91893853320467274178; }

struct SquaredDifference {
  VAELIB_HD constexpr auto operator()(auto mean, auto target) const { return square(mean - target); }
};
/// The likelihood of a whole row of `features` numbers, from its squared error.
struct GaussianRowNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto squared_error, auto log_sigma) const {
    return 0.5f * squared_error * exp(-2.0f * log_sigma) + features * (log_sigma + half_log_two_pi());
  }
};
struct OptimalNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto mean_squared_error) const {
    return features * (0.5f * log(mean_squared_error) + (0.5 + half_log_two_pi()));
  }
};

struct GaussianLikelihood {
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;

  template <class S, class V, class T>
  static auto squared_error(S& step, V mean, T target) {
    return map_reduce(step, SquaredDifference{}, mean, fixed(target));
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

struct FixedGaussian : GaussianLikelihood {
  static constexpr const char* name = "gaussian";
  float sigma = 0.70710678f;

  struct Nll {
    float features, sigma;
    VAELIB_HD constexpr auto operator()(auto squared_error) const {
      return squared_error * (0.5f / (sigma * sigma)) + features * (log(sigma) + half_log_two_pi());
    }
  };
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    if (!(sigma > 0)) fail("vaelib: a Gaussian likelihood wants sigma > 0, found ", sigma);
    return map_few(step, Nll{float(output.features()), sigma}, squared_error(step, output, target));
  }
};

struct LearnedGaussian : GaussianLikelihood {
  static constexpr const char* name = "learned-gaussian";
  Parameter log_sigma{};

  [[gnu::cold]] void build() { log_sigma = {{1}, constant(0)}; }
  void fields(auto&& f) { f("log_sigma", log_sigma); }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    return map(step, GaussianRowNll{float(output.features())}, squared_error(step, output, target), log_sigma);
  }
};

struct OptimalGaussian : GaussianLikelihood {
  static constexpr const char* name = "optimal-gaussian";
  float smallest_variance = 1e-6f;  ///< below it the variance stands still, so that a perfect fit stays finite

  /// The same number of nats for the whole batch: one row.
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    const float features = float(output.features());
    const auto error = mean_rows(step, squared_error(step, output, target));
    return map_few(step, Nll{features, smallest_variance}, error);
  }
  struct Nll {
    float features, smallest;
    VAELIB_HD constexpr auto operator()(auto squared_error) const {
      using T = decltype(squared_error);
      return OptimalNll{features}(max(squared_error * (1 / features), T(smallest)));
    }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
// Laplace likelihood with one scale for all features; the decoder gives the mean.
//
//   -log p(x | mean) = |x - mean| / scale + log(2 scale)      nats, for each feature
//
//   Laplace{.scale = 1}   the scale is given: the absolute error up to a constant and a factor
//   LearnedLaplace        log scale is a parameter
//
// It counts large errors less than a Gaussian does; where x is the mean, the gradient is zero.

namespace vaelib::inline VAELIB_ABI {

struct AbsoluteDifference {
  VAELIB_HD constexpr auto operator()(auto mean, auto target) const { return abs(mean - target); }
};
/// The likelihood of a whole row of `features` numbers, from its absolute error.
struct LaplaceRowNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto absolute_error, auto log_scale) const {
    return absolute_error * exp(-log_scale) + features * (log_scale + 0.69314718055994530942);
  }
};

/// Summed over the features of each row: rows x 1.
template <class S, class V, class T>
auto absolute_error(S& step, V mean, T target) {
  return map_reduce(step, AbsoluteDifference{}, mean, fixed(target));
}

struct Laplace {
  static constexpr const char* name = "laplace";
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;
  float scale = 1;

  struct Nll {
    float features, scale;
    VAELIB_HD constexpr auto operator()(auto absolute_error) const { return absolute_error * (1 / scale) + features * log(2 * scale); }
  };
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    if (!(scale > 0)) fail("vaelib: a Laplace likelihood wants a scale > 0, found ", scale);
    return map_few(step, Nll{float(output.features()), scale}, absolute_error(step, output, target));
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

struct LearnedLaplace {
  static constexpr const char* name = "learned-laplace";
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;
  Parameter log_scale{};

  [[gnu::cold]] void build() { log_scale = {{1}, constant(0)}; }
  void fields(auto&& f) { f("log_scale", log_scale); }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    return map(step, LaplaceRowNll{float(output.features())}, absolute_error(step, output, target), log_scale);
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Models to begin with. What they are made of stands here in full: take it over and change it.

// The variational autoencoder (Kingma & Welling 2014), the beta-VAE (Higgins et al. 2017) and their conditional form
// (Sohn et al. 2015).
//
//   objective = E_q[-log p(x|z)] + beta KL(q(z|x) || p(z))       nats, summed over features, averaged over samples
//
// with free bits on the batch mean of each dimension, sum_d max(free_bits, KL_d) (Kingma et al. 2016, appendix C.8), or
// with a capacity: beta |KL - C| (Burgess et al. 2018). beta and C come from the schedules of the step.

// What a model is given in a step: the samples of a batch.

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Real>
struct Batch {
  long count = 0;                        ///< samples
  Shape shape{1};                        ///< of one sample
  const Real* features = nullptr;        ///< count x shape, row-major, channels last
  const std::int32_t* labels = nullptr;  ///< one a sample, or null
  long first = 0;                        ///< position of the first sample in the global batch
  const RowSpace* space = nullptr;       ///< one row a sample; given by the step
  const long* offsets = nullptr;         ///< where samples are sets: sample s has the points offsets[s] .. offsets[s + 1] - 1, each of `shape`
  long first_point = 0;                  ///< position of the first point in the global batch

  /// `n` samples from `begin` on. Of sets the offsets stay those of the whole, which the step takes apart.
  Batch part(long begin, long n) const {
    const long skipped = offsets ? offsets[begin] - offsets[0] : begin;
    return {n, shape, features + skipped * shape.size(), labels ? labels + begin : nullptr, first + begin, nullptr, offsets ? offsets + begin : nullptr, first_point + skipped};
  }
};

/// The samples as a variable; S is the static shape that the model takes.
template <Shape S, class Step, class Real>
auto input(Step& step, const Batch<Real>& batch) {
  if (batch.offsets) fail("vaelib: this model takes rows of one length, the data has sets");
  return step.template constant<S>(batch.space, batch.shape, batch.features);
}

/// The points of all sets of a batch, one after another; S is the static shape of a point.
template <Shape S, class Step, class Real>
auto points_of(Step& step, const Batch<Real>& batch) {
  if (!batch.offsets) fail("vaelib: this model takes sets, the data has rows of one length; wrap them as a data::SetSource");
  const long* offsets = batch.offsets;
  if (offsets[0] != 0) {
    long* const own = step.arena.template allocate<long>(std::size_t(batch.count) + 1);
    for (long s = 0; s <= batch.count; ++s) own[s] = offsets[s] - offsets[0];
    offsets = own;
  }
  return step.template constant<S>(step.ragged(batch.count, offsets, batch.first_point), batch.shape, batch.features);
}

template <class Real>
const std::int32_t* labels_of(const Batch<Real>& batch) {
  if (!batch.labels) fail("vaelib: this model wants labels, and the data has none");
  return batch.labels;
}

}  // namespace vaelib::inline VAELIB_ABI
// What a model's loss tells. A model may return any variable of one number; the parts are for those who have them.

#include <string_view>

namespace vaelib::inline VAELIB_ABI {

/// `objective` is minimised; reconstruction + kl is the negative evidence lower bound, without beta. One number each.
template <class V>
struct Losses {
  V objective, reconstruction, kl;
};

/// Any loss as Losses: where there is only one number, it counts as reconstruction, and the divergence is zero.
template <class V>
Losses<V> losses_of(const Losses<V>& losses) {
  return losses;
}
template <class R, Shape S>
struct PlainLoss {
  struct Zero {
    const R* value() const {
      static constexpr R zero = 0;
      return &zero;
    }
  };
  Var<R, S> objective, reconstruction;
  Zero kl{};
};
template <class R, Shape S>
PlainLoss<R, S> losses_of(Var<R, S> loss) {
  return {loss, loss};
}

/// A named part of a training step and the parameters it trains, by the beginning of their names: those, or all others.
struct Phase {
  std::string_view name, prefix;
  bool others = false;
  constexpr bool trains(std::string_view parameter) const { return parameter.starts_with(prefix) != others; }
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

/// reconstruction + beta KL, or with a capacity reconstruction + beta |KL - C|
struct Objective {
  bool use_capacity;
  VAELIB_HD constexpr auto operator()(auto reconstruction, auto kl, auto beta, auto capacity) const {
    return reconstruction + beta * select(use_capacity, abs(kl - capacity), kl);
  }
};
/// max(x, floor); at or below the floor the gradient is zero
struct AtLeast {
  float floor;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > floor, x, decltype(x)(floor)); }
};

/// How the two terms of the objective are put together.
struct ElboOptions {
  float free_bits = 0;        ///< nats for each dimension; 0: none
  bool use_capacity = false;  ///< beta |KL - C| with the capacity schedule, instead of beta KL
};

template <class S, class Nll, class Kl>
auto negative_elbo(S& step, const ElboOptions& options, Nll nll, Kl kl_of_samples) {
  const auto reconstruction = mean_rows(step, nll);
  const auto by_dimension = mean_rows(step, kl_of_samples);
  const auto kl = sum_few(step, by_dimension);
  const auto charged = options.free_bits > 0 ? sum_few(step, map_few(step, AtLeast{options.free_bits}, by_dimension)) : kl;
  const auto objective = map_few(step, Objective{options.use_capacity}, reconstruction, charged, step.beta, step.capacity);
  return Losses<std::remove_const_t<decltype(kl)>>{objective, reconstruction, kl};
}

/// The terms of a model, put together by its `elbo`: another type than ElboOptions brings an overload of its own, as
/// models/collapse_control.hpp does. q is the posterior, z the sample of it that was decoded.
template <class S, class Latent, class Q, class Z, class Nll>
auto put_together(S& step, const ElboOptions& options, const Latent& latent, const Q& q, Z, Nll nll) {
  return negative_elbo(step, options, nll, latent.kl(step, q));
}

/// The same of a model with a latent z: the noise is drawn, z is decoded, and the terms are put together.
template <class S, class Model, class B>
auto negative_elbo(S& step, const Model& model, const B& batch) {
  const auto x = input<Model::takes>(step, batch);
  const auto q = model.encode(step, x, batch);
  const auto z = model.latent.sample(step, q);
  return put_together(step, model.elbo, model.latent, q, z, model.likelihood.nll(step, model.decode(step, z, batch), x));
}

/// Encoder and Decoder are Sequentials; the last layer of the encoder, a Linear that gives mean and log-variance, is added
/// here (and numbered as one more layer of the encoder).
template <class E, class Latent, class D, class Likelihood, class Terms = ElboOptions>
struct Vae {
  using Encoder = typename E::template Append<Linear<Latent::heads>>;
  using Decoder = D;
  static_assert(agree(D::takes, Latent::sample_shape), "vaelib: the decoder must take what the latent gives");
  static_assert(agree(D::makes, E::takes), "vaelib: the decoder must make the shape that the encoder takes");
  static_assert(E::makes.is_flat(), "vaelib: the encoder must end in a flat shape; add Flatten");

  Encoder encoder{};
  Latent latent{};
  Decoder decoder{};
  Likelihood likelihood{};
  Terms elbo{};

  Vae() = default;
  /// For dynamic extents, and for likelihoods and latents with settings.
  explicit Vae(E e, Latent l = {}, D d = {}, Likelihood p = {}, Terms options = {})
      : encoder(e, Linear<Latent::heads>{l.head_features()}), latent(l), decoder(d), likelihood(p), elbo(options) {}

  [[gnu::cold]] void build() {
    encoder.build();
    decoder.build();
    if constexpr (requires { likelihood.build(); }) likelihood.build();
    if constexpr (requires { elbo.build(); }) elbo.build();
    if (decoder.output_shape != encoder.input_shape)
      fail("vaelib: the decoder makes shape ", text_of(decoder.output_shape), ", the encoder takes ", text_of(encoder.input_shape));
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
    f("likelihood", likelihood);
    if constexpr (HasFields<Terms>) f("elbo", elbo);
  }
  Shape input_shape() const { return encoder.input_shape; }
  static constexpr bool conditional = false;
  static constexpr Shape takes = E::takes;

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    return negative_elbo(step, *this, batch);
  }
  /// q(z|x) of the samples of a batch.
  template <class S, class V, class B>
  auto encode(S& step, V x, const B&) const {
    return latent.posterior(step, encoder(step, x));
  }
  /// The parameters of p(x|z): for Bernoulli logits.
  template <class S, class Z, class B>
  auto decode(S& step, Z z, const B&) const {
    return decoder(step, z);
  }
};

/// A VAE that is told a label: a learned embedding of it goes beside the features of the encoder and beside z.
/// Decoder takes latent + Width features.
template <class E, class Latent, class D, class Likelihood, int Classes, int Width = 16, class Terms = ElboOptions>
struct ConditionalVae {
  using Decoder = D;
  static_assert(agree(D::makes, E::takes), "vaelib: the decoder must make the shape that the encoder takes");
  static_assert(agree(D::takes, joined(Latent::sample_shape, Shape{Width})), "vaelib: the decoder of a ConditionalVae takes the latent and the label's features");

  struct ConditionalEncoder {
    E body{};
    Embedding<Classes, Width> labels{};
    Linear<Latent::heads> head{};
    void fields(auto&& f) {
      body.fields(f);
      f("labels", labels);
      f("head", head);
    }
  };
  struct ConditionalDecoder {
    D body{};
    Embedding<Classes, Width> labels{};
    void fields(auto&& f) {
      body.fields(f);
      f("labels", labels);
    }
  };
  ConditionalEncoder encoder{};
  Latent latent{};
  ConditionalDecoder decoder{};
  Likelihood likelihood{};
  Terms elbo{};

  ConditionalVae() = default;
  /// For dynamic extents, and for likelihoods and latents with settings.
  explicit ConditionalVae(E e, Latent l = {}, D d = {}, Likelihood p = {}, Terms options = {})
      : encoder{e, {}, {l.head_features()}}, latent(l), decoder{d, {}}, likelihood(p), elbo(options) {}

  [[gnu::cold]] void build() {
    encoder.body.build();
    encoder.labels.build();
    encoder.head.build(Shape{encoder.body.output_shape.size() + int(encoder.labels.out)});
    encoder.head.weight.in_order = encoder.body.output_order;
    encoder.head.weight.in_beside = encoder.labels.out;
    decoder.body.build();
    decoder.labels.build();
    if constexpr (requires { likelihood.build(); }) likelihood.build();
    if constexpr (requires { elbo.build(); }) elbo.build();
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
    f("likelihood", likelihood);
    if constexpr (HasFields<Terms>) f("elbo", elbo);
  }
  Shape input_shape() const { return encoder.body.input_shape; }
  static constexpr bool conditional = true;
  static constexpr Shape takes = E::takes;

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    return negative_elbo(step, *this, batch);
  }
  template <class S, class V, class B>
  auto encode(S& step, V x, const B& batch) const {
    const auto features = encoder.body(step, x);
    return latent.posterior(step, encoder.head.forward(step, concatenate(step, features, encoder.labels(step, x.space(), labels_of(batch)))));
  }
  template <class S, class Z, class B>
  auto decode(S& step, Z z, const B& batch) const {
    return decoder.body(step, concatenate(step, z, decoder.labels(step, z.space(), labels_of(batch))));
  }
};

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {
namespace models {

/// Fully connected, one hidden layer on each side, for samples of any shape with values in [0, 1]; Kingma & Welling 2014,
/// section 5 (with ReLU).
inline auto fc_vae(Shape sample, int hidden, int codes) {
  constexpr Shape any{dynamic, dynamic, dynamic};
  using Encoder = Sequential<any, Flatten, Linear<dynamic>, ReLU>;
  using Decoder = Sequential<Shape{dynamic}, Linear<dynamic>, ReLU, Linear<dynamic>, Reshape<any>>;
  return Vae<Encoder, Gaussian<dynamic>, Decoder, Bernoulli>(
      Encoder{sample, Flatten{}, Linear<dynamic>{hidden}, ReLU{}}, Gaussian<dynamic>{codes},
      Decoder{Shape{codes}, Linear<dynamic>{hidden}, ReLU{}, Linear<dynamic>{sample.size()}, Reshape<any>{sample}});
}

/// Convolutional, for images with values in [0, 1] whose sides are multiples of 4: 32 and 64 channels, 256 units.
template <Shape Image, int Codes>
auto conv_vae() {
  static_assert(Image.height % 4 == 0 && Image.width % 4 == 0, "vaelib: conv_vae takes images whose sides are multiples of 4");
  constexpr Shape small{Image.height / 4, Image.width / 4, 64};
  using Encoder = Sequential<Image, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Flatten, Linear<256>, ReLU>;
  using Decoder = Sequential<Shape{Codes}, Linear<256>, ReLU, Linear<small.size()>, ReLU, Reshape<small>, ConvTranspose2d<32, 4, 2, 1>,
                             ReLU, ConvTranspose2d<Image.channels, 4, 2, 1>>;
  return Vae<Encoder, Gaussian<Codes>, Decoder, Bernoulli>{};
}

}  // namespace models
}  // namespace vaelib::inline VAELIB_ABI
// Optimizers: one functor each, applied in one pass over the flat buffers.
//
//   Sgd     m = momentum m + g;  w -= rate m                                  (as torch.optim.SGD, dampening 0)
//   Adam    m, v = moving averages of g, g^2;  w -= rate m' / (sqrt(v') + epsilon),  m', v' corrected for their start;
//           Kingma & Ba 2015. weight_decay is added to the gradient.
//   AdamW   the same with the weight decay applied to the weights themselves; Loshchilov & Hutter 2019
//
// An own optimizer has learning_rate, weight_decay, `moments` (how many numbers it keeps for each weight), `rates(step)`
// and `update(w, g, m, rates)` for one weight or a vector of them.

#include <array>
#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// The numbers of one step, worked out once in double. `step` counts from 1.
struct Rates {
  float learning_rate = 0, weight_decay = 0, first = 0, second = 0;
};

struct Sgd {
  static constexpr int moments = 1;
  float learning_rate = 1e-2f, momentum = 0, weight_decay = 0;

  Rates rates(std::int64_t) const { return {learning_rate, weight_decay}; }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 1>& m, const Rates& r) const {
    g = g + w * r.weight_decay;
    m[0] = m[0] * momentum + g;
    w = w - m[0] * r.learning_rate;
  }
};

struct Adam {
  static constexpr int moments = 2;
  float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0;

  Rates rates(std::int64_t step) const {
    return {learning_rate, weight_decay, float(1 / (1 - std::pow(double(beta1), double(step)))),
            float(1 / std::sqrt(1 - std::pow(double(beta2), double(step))))};
  }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 2>& m, const Rates& r) const {
    g = g + w * r.weight_decay;
    m[0] = m[0] * beta1 + g * (1 - beta1);
    m[1] = m[1] * beta2 + g * g * (1 - beta2);
    w = w - m[0] * (r.learning_rate * r.first) / (sqrt(m[1]) * r.second + epsilon);
  }
};

struct AdamW {
  static constexpr int moments = 2;
  float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 1e-2f;

  Rates rates(std::int64_t step) const { return Adam{learning_rate, beta1, beta2, epsilon, weight_decay}.rates(step); }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 2>& m, const Rates& r) const {
    w = w - w * (r.learning_rate * r.weight_decay);
    Rates rest = r;
    rest.weight_decay = 0;
    Adam{learning_rate, beta1, beta2, epsilon, 0}.update(w, g, m, rest);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Schedules: pure functions of the step (or, in per_epoch, of the epoch) for beta, capacity and the learning rate.
//
//   Constant{0.5f}                                     always
//   anneal::Linear{.begin = 0, .end = 1, .steps = 5000}        from begin to end, then end
//   Cosine{...}, anneal::Sigmoid{...}                  the same on other curves
//   Cyclical{.period = 5000, .ramp = 0.5f}             a ramp that starts again each period; Fu et al. 2019
//   Steps{.every = 1000, .factor = 0.5f}               1, 0.5, 0.25 ...
//   warm_up(1000, Cosine{...})                         a ramp from 0, then any other schedule from its own beginning
//   per_epoch(anneal::Linear{.steps = 10})             any of these, counted in epochs
//
// anneal::Linear and anneal::Sigmoid keep their namespace, since layers have these names too. Any type with `float operator()(std::int64_t) const` is a schedule.

#include <cmath>
#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept ScheduleFunction = requires(const T& schedule, std::int64_t step) {
  { schedule(step) } -> std::convertible_to<float>;
};

namespace detail {
/// step / steps within [0, 1]; 1 where there is nothing to wait for.
constexpr double progress(std::int64_t step, std::int64_t steps) {
  return step <= 0 && steps > 0 ? 0.0 : step >= steps ? 1.0 : double(step) / double(steps);
}
/// In double, so that no compiler's choice of fused instructions shows in the float.
constexpr float between(double low, double high, double share) {
  return share <= 0 ? float(low) : share >= 1 ? float(high) : float(low + (high - low) * share);
}
}  // namespace detail

namespace anneal {

struct Constant {
  float value = 1;
  constexpr float operator()(std::int64_t) const { return value; }
};

struct Linear {
  float begin = 0, end = 1;
  std::int64_t steps = 1;
  constexpr float operator()(std::int64_t step) const { return detail::between(begin, end, detail::progress(step, steps)); }
};

/// Half a cosine: slow, fast, slow. From 1 to 0 it is the learning rate of Loshchilov & Hutter 2017, without restarts.
struct Cosine {
  float begin = 1, end = 0;
  std::int64_t steps = 1;
  float operator()(std::int64_t step) const {
    return detail::between(begin, end, 0.5 - 0.5 * std::cos(3.14159265358979323846 * detail::progress(step, steps)));
  }
};

/// A logistic curve whose middle is at steps / 2; it reaches begin and end exactly. Bowman et al. 2016.
struct Sigmoid {
  float begin = 0, end = 1;
  std::int64_t steps = 1;
  float steepness = 12;  ///< the curve is sigmoid(steepness * (progress - 1/2)), stretched to reach 0 and 1
  float operator()(std::int64_t step) const {
    const auto logistic = [&](double p) { return 1 / (1 + std::exp(-double(steepness) * (p - 0.5))); };
    const double low = logistic(0), high = logistic(1);
    return detail::between(begin, end, (logistic(detail::progress(step, steps)) - low) / (high - low));
  }
};

/// In each period: from low to high within the share `ramp`, then high; Fu et al. 2019, "Cyclical annealing schedule".
struct Cyclical {
  std::int64_t period = 1;
  float ramp = 0.5f, low = 0, high = 1;
  constexpr float operator()(std::int64_t step) const {
    if (period <= 0) return high;
    const double place = double((step % period + period) % period) / double(period);
    return detail::between(low, high, ramp > 0 ? place / double(ramp) : 1.0);
  }
};

/// factor^(step / every): the learning rate drops by steps.
struct Steps {
  std::int64_t every = 1;
  float factor = 0.1f;
  constexpr float operator()(std::int64_t step) const {
    double value = 1, power = double(factor);  // factor^1, ^2, ^4, ...
    for (std::int64_t k = every > 0 ? step / every : 0; k > 0; k /= 2, power *= power)
      if (k % 2 == 1) value *= power;
    return float(value);
  }
};

/// From 0 to the first value of another schedule within `steps`, then that schedule from its own step 0.
template <ScheduleFunction Then>
struct WarmUp {
  std::int64_t steps;
  Then then;
  constexpr WarmUp(std::int64_t n, Then t) : steps(n), then(t) {}
  constexpr float operator()(std::int64_t step) const {
    return step < steps ? detail::between(0, then(0), detail::progress(step, steps)) : then(step - steps);
  }
};
template <ScheduleFunction Then = Constant>
constexpr WarmUp<Then> warm_up(std::int64_t steps, Then then = {}) {
  return {steps, then};
}

template <ScheduleFunction Of>
struct PerEpoch {
  Of of;
};
template <ScheduleFunction Of>
constexpr PerEpoch<Of> per_epoch(Of of) {
  return {of};
}

}  // namespace anneal

using anneal::Constant, anneal::Cosine, anneal::Cyclical, anneal::Steps, anneal::warm_up, anneal::per_epoch;

/// Any schedule, its type forgotten. A plain number is Constant.
class Schedule {
 public:
  Schedule(float value = 1) : Schedule(Constant{value}) {}
  template <ScheduleFunction S>
  Schedule(S schedule) : held(new S(schedule)), call([](const void* s, std::int64_t at) { return float((*static_cast<const S*>(s))(at)); }) {}
  template <ScheduleFunction S>
  Schedule(anneal::PerEpoch<S> schedule) : Schedule(schedule.of) {
    epochs = true;
  }

  float at(std::int64_t step, std::int64_t epoch) const { return call(held.get(), epochs ? epoch : step); }

 private:
  std::shared_ptr<const void> held;  // by new: std::make_shared would compile three times as much for each S
  float (*call)(const void*, std::int64_t);
  bool epochs = false;
};

}  // namespace vaelib::inline VAELIB_ABI
// One training step: for each phase of the model a loss, its gradients and an optimizer's pass.
//
// A model has one loss for all its parameters, or names phases, each with the parameters it trains by the beginning of
// their names (a GAN: first the discriminator, then the generator):
//   static constexpr std::array phases{Phase{"discriminator", "discriminator."}, Phase{"generator", "generator."}};
//   auto loss(auto& step, const auto& batch) const { return step.phase == 0 ? ... : ...; }

// Going back: the last weights, state, moments and counts that gave finite numbers, kept in memory.
//
//   FitOptions{.non_finite = NonFinite::roll_back, .roll_back = {.every = 100, .most = 5}}
//
// A snapshot is taken in a step whose loss and gradients are finite, before it changes anything. When a later step's are not,
// everything goes back to it but the position: the run goes on with the next batch. A run takes one with each checkpoint, too,
// so that a resumed one goes back to the same weights.

// What a run keeps besides the numbers of its learner: where it is, and what it measured.

// What a run measured, epoch by epoch, and its files: metrics.csv and metrics.jsonl. Both are written whole after every
// epoch, so that an interrupted and resumed run leaves no row twice.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Nats a sample. `loss` is the objective with its beta (or capacity); recon + kl is the negative ELBO, never annealed.
struct EpochMetrics {
  std::int64_t epoch = 0, step = 0;  ///< epochs and steps done
  double train_loss = 0, train_recon = 0, train_kl = 0;
  double val_loss = 0, val_recon = 0, val_kl = 0;  ///< NaN without validation data
  double current_beta = 0, learning_rate = 0, seconds = 0;
  std::int64_t skipped = 0;  ///< steps whose numbers were not finite

  /// f(name, number) for every column.
  void columns(auto&& f) const {
    f("epoch", double(epoch)), f("step", double(step));
    f("train_loss", train_loss), f("train_recon", train_recon), f("train_kl", train_kl);
    f("val_loss", val_loss), f("val_recon", val_recon), f("val_kl", val_kl);
    f("current_beta", current_beta), f("learning_rate", learning_rate), f("skipped_steps", double(skipped)), f("seconds", seconds);
  }
};
using History = std::vector<EpochMetrics>;

namespace detail {
/// The fewest digits that read back as the same number; as the same float where it is one (0.001, not 0.00100000005).
[[gnu::cold]] inline std::string shortest(double number) {
  char buffer[40];
  const bool is_float = double(float(number)) == number;
  for (int digits = 6; digits <= 17; ++digits) {
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, number);
    if (is_float ? std::strtof(buffer, nullptr) == float(number) : std::strtod(buffer, nullptr) == number) break;
  }
  return buffer;
}
}  // namespace detail

/// One header line, one line an epoch; an absent number is an empty field.
inline std::string csv_of(const History& history) {
  std::string out;
  EpochMetrics{}.columns([&](const char* name, double) { out += text(out.empty() ? "" : ",", name); });
  out += '\n';
  for (const auto& row : history) {
    bool first = true;
    row.columns([&](const char*, double number) {
      out += text(first ? "" : ",", number == number ? detail::shortest(number) : "");
      first = false;
    });
    out += '\n';
  }
  return out;
}
/// One JSON object a line; an absent number is null.
inline std::string json_lines_of(const History& history) {
  std::string out;
  for (const auto& row : history) {
    bool first = true;
    row.columns([&](const char* name, double number) {
      const bool finite = number - number == 0;
      out += text(first ? "{\"" : ", \"", name, "\": ", finite ? detail::shortest(number) : "null");
      first = false;
    });
    out += "}\n";
  }
  return out;
}

/// folder/metrics.csv and folder/metrics.jsonl; the folder is made where it is missing.
inline void write_metrics(const std::string& folder, const History& history) {
  create_directories(folder);
  write_file_atomically(folder + "/metrics.csv", csv_of(history));
  write_file_atomically(folder + "/metrics.jsonl", json_lines_of(history));
}

/// Where the metrics of a run are written after each epoch: `{.metrics = MetricFiles{"runs/a"}}`.
struct MetricFiles {
  std::string folder;

  // Not to be set: what writes them is compiled only into programs that make a MetricFiles.
  void (*write)(const std::string&, const History&) = write_metrics;
};

}  // namespace vaelib::inline VAELIB_ABI
// The numbers of a model. The model itself is only a layout; Weights owns one flat buffer of all its parameters and one of
// its state, and gives every parameter its place in them.

#include <cstdint>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A Parameter or a State with its name: "encoder.0.weight".
template <class T>
struct Named {
  std::string name;
  T leaf;
};

/// Gives every leaf of a model its place in the flat buffers.
struct Layouter final : LeafVisitor {
  void visit(Parameter& leaf) override { place(leaf, parameters, values_size); }
  void visit(State& leaf) override { place(leaf, states, state_size); }

  std::vector<Named<Parameter>> parameters;
  std::vector<Named<State>> states;
  long values_size = 0, state_size = 0;

 private:
  template <class T>
  [[gnu::cold]] void place(T& leaf, std::vector<Named<T>>& list, long& size) {
    constexpr long line = 64 / sizeof(float);  // every tensor starts on a cache line
    leaf.offset = size;
    leaf.id = int(list.size());
    size += (leaf.size() + line - 1) / line * line;
    list.push_back({path, leaf});
  }
};

/// What Weights is but for the model.
template <class R>
class WeightBuffers {
 public:
  using Real = R;

  [[gnu::cold]] void initialize(std::uint64_t seed) {
    for (const auto& [name, p] : parameters) draw(p.initial, {seed, 0, std::uint32_t(Stream::initialization), std::uint32_t(p.id)}, p.size(), values.data() + p.offset);
    const auto behind = std::uint32_t(parameters.size());  // so that no state draws the numbers of a parameter
    for (const auto& [name, s] : states) draw(s.initial, {seed, 0, std::uint32_t(Stream::initialization), behind + std::uint32_t(s.id)}, s.size(), state.data() + s.offset);
    discard();
  }

  /// How many numbers are learned.
  long count() const {
    long n = 0;
    for (const auto& [name, p] : parameters) n += p.size();
    return n;
  }

  /// The state that the last step proposed becomes the state.
  void commit() {
    for (const auto& [name, s] : states)
      if (proposals.data()[s.id]) std::copy_n(proposed.data() + s.offset, s.size(), state.data() + s.offset);
    discard();
  }
  void discard() { std::fill_n(proposals.data(), proposals.size(), false); }

  /// For inference: nothing is written.
  Buffers<Real> buffers() const {
    Buffers<Real> b;
    b.values = values.data();
    b.state = state.data();
    b.parameters = int(parameters.size());
    return b;
  }

  std::vector<Named<Parameter>> parameters;
  std::vector<Named<State>> states;
  Buffer<Real> values, state, proposed;
  Buffer<bool> proposals;

 protected:
  [[gnu::cold]] WeightBuffers(Layouter layout, std::uint64_t seed)
      : parameters(std::move(layout.parameters)), states(std::move(layout.states)), values(layout.values_size), state(layout.state_size),
        proposed(layout.state_size), proposals(long(states.size())) {
    initialize(seed);
  }

 private:
  [[gnu::cold]] static void draw(const Initialization& from, const RandomKey& key, long size, Real* to) {
    const auto scale = Real(from.value);
    switch (from.kind) {
      case Initialization::Kind::constant: std::fill_n(to, size, scale); break;
      case Initialization::Kind::uniform:
        detail::fill_random<detail::UniformOfWords, Real>(key, 0, 1, int(size), to);
        for (long i = 0; i < size; ++i) to[i] = (2 * to[i] - 1) * scale;
        break;
      case Initialization::Kind::normal:
        normal(key, 0, 1, int(size), to);
        for (long i = 0; i < size; ++i) to[i] *= scale;
        break;
    }
  }
};

template <class Model, class B>
class Weights : public WeightBuffers<typename B::Real> {
 public:
  /// Builds the model (dynamic extents are checked here) and draws its first values from the seed.
  [[gnu::cold]] explicit Weights(Model m = {}, std::uint64_t seed = 0) : WeightBuffers<typename B::Real>(layout_of(m), seed), model(std::move(m)) {}

  Model model;

 private:
  [[gnu::cold]] static Layouter layout_of(Model& model) {
    if constexpr (requires { model.build(); }) model.build();
    Layouter layout;
    if constexpr (HasFields<Model>) model.fields(layout);
    return layout;
  }
};

}  // namespace vaelib::inline VAELIB_ABI

#include <array>
#include <cstdint>
#include <limits>
#include <string>

namespace vaelib::inline VAELIB_ABI {

/// One training step, nats a sample.
struct StepResult {
  double objective = 0, reconstruction = 0, kl = 0, gradient_norm = 0;
  bool accepted = true;
};

struct RunState {
  std::int64_t batch_size = 0, rows = 0;  ///< rows of the data
  Shape shape{1};                         ///< of each
  std::int64_t epoch = 0, batch = 0;  ///< what comes next
  std::uint64_t steps = 0;            ///< taken
  double samples = 0;                 ///< seen in this epoch
  std::array<double, 3> sums{};       ///< over them: objective, reconstruction, kl
  std::int64_t skipped = 0;           ///< steps of this epoch that were not accepted
  bool refining = true;               ///< an AggressiveEncoder goes on
  double information = -std::numeric_limits<double>::infinity();  ///< that it measured last, nats
  History history{};
  StepResult last{};
  float plateau = 1;  ///< factor on the learning rate that follows from the history
  std::uint64_t saved = std::uint64_t(-1);  ///< the step of the last checkpoint

  std::int64_t step() const { return std::int64_t(steps); }
};

/// The numbers of a learner as plain memory, so that saving and loading them is compiled once for all models.
struct LearnerMemory {
  struct Part {
    void* data = nullptr;
    std::int64_t count = 0;
  };
  static constexpr int most_moments = 32;

  Dtype dtype{};  ///< of all parts but updates
  Part values, state, average;
  std::array<Part, most_moments> moments{};  ///< by phase and then by moment
  int phases = 0, moments_of_phase = 0;
  std::int64_t* updates = nullptr;  ///< by phase
  std::uint64_t seed = 0;
  const std::vector<Named<Parameter>>* parameters = nullptr;
};

}  // namespace vaelib::inline VAELIB_ABI

#include <cstring>

namespace vaelib::inline VAELIB_ABI {

struct RollBack {
  std::int64_t every = 100;  ///< steps between snapshots
  std::int64_t most = 5;     ///< so often one snapshot is gone back to; after that the run stops
};

class Snapshot {
 public:
  bool is_due(std::uint64_t step, const RollBack& options) const { return bytes.size() == 0 || std::int64_t(step - taken_at) >= options.every; }

  /// Takes memory once: the numbers of a learner do not become more.
  [[gnu::cold]] void keep(const LearnerMemory& memory, std::uint64_t step) {
    long size = 0;
    for_each_part(memory, [&](const void*, std::size_t count) { size += long(count); });
    if (bytes.size() != size) bytes.resize(size);
    unsigned char* place = bytes.data();
    for_each_part(memory, [&](const void* part, std::size_t count) {
      if (count > 0) std::memcpy(place, part, count);
      place += count;
    });
    taken_at = step;
    uses = 0;
  }
  /// Nothing where there is no snapshot yet: then no step has changed anything.
  [[gnu::cold]] void give_back(const LearnerMemory& memory) {
    ++uses;
    if (bytes.size() == 0) return;
    const unsigned char* place = bytes.data();
    for_each_part(memory, [&](void* part, std::size_t count) {
      if (count > 0) std::memcpy(part, place, count);
      place += count;
    });
  }
  std::int64_t times_used() const { return uses; }

 private:
  /// f(first byte, count of bytes)
  static void for_each_part(const LearnerMemory& memory, auto&& f) {
    const auto part = [&](const LearnerMemory::Part& p) { f(p.data, std::size_t(p.count) * dtype_size(memory.dtype)); };
    part(memory.values);
    part(memory.state);
    part(memory.average);
    for (int k = 0; k < memory.phases * memory.moments_of_phase; ++k) part(memory.moments[k]);
    f(memory.updates, memory.phases * sizeof(std::int64_t));
  }

  Buffer<unsigned char> bytes;
  std::uint64_t taken_at = 0;
  std::int64_t uses = 0;
};

}  // namespace vaelib::inline VAELIB_ABI

#include <cmath>
#include <limits>
#include <optional>

namespace vaelib::inline VAELIB_ABI {

/// Parameters whose names begin with `prefix` learn at their own rate (times the optimizer's) and weight decay.
struct ParameterGroup {
  std::string prefix;
  float rate = 1;  ///< 0 freezes them
  std::optional<float> weight_decay{};
};

/// What may be done about a loss or a gradient that is not finite: stop with an error, leave the step out, or go back to
/// the last snapshot (train/roll_back.hpp) and on from there.
enum class NonFinite { stop, skip, roll_back };

struct StepOptions {
  float beta = 1, capacity = 0;
  float learning_rate = 1;  ///< factor on the optimizer's learning rate, from a schedule
  float clip_norm = 0;      ///< gradients of a larger norm are scaled down to it; 0: never
  NonFinite non_finite = NonFinite::stop;
  RollBack roll_back{};
  std::int64_t micro_batch = 0;  ///< rows that are computed at a time, their gradients added up; 0: all
  float average = 0;             ///< decay of the average of the weights (Learner::average); 0: none is kept
  std::int64_t epoch = 0, batch = 0;  ///< the place of the step in the run, for the schedules of layers
};

template <class Model>
constexpr int phase_count() {
  if constexpr (requires { Model::phases; }) return int(Model::phases.size());
  return 1;
}

template <class Model, class Optimizer, class B>
class Learner {
 public:
  using Real = typename B::Real;

  [[gnu::cold]] Learner(Model model, Optimizer o, B b, std::uint64_t s)
      : weights(std::move(model), s), optimizer(o), seed(s), backend(std::move(b)), step(backend), gradients(weights.values.size()),
        written(weights.parameters.size()), trained(weights.parameters.size()) {
    for (auto& phase : moments)
      for (auto& m : phase) m.resize(weights.values.size());
  }

  /// Learns from one batch. A step that is not accepted changes nothing but the count of steps; of a model with several
  /// phases, those before the one whose numbers are not finite have changed their parameters, but no state is kept.
  StepResult learn(const Batch<Real>& samples, const StepOptions& options = {}) {
    StepResult result;
    ++steps;
    weights.discard();  // what a step proposed that was left by an exception
    if (options.average > 0 && average.size() == 0) begin_average();
    for (int phase = 0; phase < phase_count<Model>() && result.accepted; ++phase) {
      select_phase(phase);
      const StepResult of_phase = gradients_of(samples, options, phase, Stream::noise, steps);
      if (phase == 0) result = of_phase;
      const double norm = gradient_norm();
      if (phase == 0) result.gradient_norm = norm;
      if (!std::isfinite(of_phase.objective) || !std::isfinite(norm)) {
        if (options.non_finite == NonFinite::stop) fail(what_is_not_finite(of_phase));
        if (options.non_finite == NonFinite::roll_back) roll_back(of_phase, options.roll_back);
        result.accepted = false;
        break;
      }
      if (options.non_finite == NonFinite::roll_back && phase == 0 && snapshot.is_due(steps, options.roll_back)) keep_snapshot();
      if (std::none_of(written.begin(), written.end(), [](bool w) { return w; })) continue;  // a phase that waits: Adam's count, too
      apply(phase, ++updates[phase], options, norm);
    }
    if (result.accepted) {
      weights.commit();
      if (options.average > 0) update_average(options.average);
    } else {
      weights.discard();
    }
    step.end();
    return result;
  }

  /// One more update before the next step, of the first phase and the parameters whose names begin with `prefix`. `number` keys
  /// its random numbers. Neither the step nor Adam's count moves; what is not finite changes nothing.
  [[gnu::cold]] StepResult refine(const Batch<Real>& samples, const StepOptions& options, std::string_view prefix, std::int64_t number) {
    weights.discard();
    select_phase(0);
    for (const auto& [name, p] : weights.parameters) trained[p.id] = trained[p.id] && name.starts_with(prefix);
    StepResult result = gradients_of(samples, options, 0, Stream::refinement, (steps << 20) + std::uint64_t(number));
    result.gradient_norm = gradient_norm();
    result.accepted = std::isfinite(result.objective) && std::isfinite(result.gradient_norm);
    if (!result.accepted && options.non_finite == NonFinite::stop) fail(what_is_not_finite(result));
    if (result.accepted) {
      apply(0, updates[0] + 1, options, result.gradient_norm);
      weights.commit();
    }
    weights.discard();
    step.end();
    return result;
  }

  /// Begins the average of the weights with what they are now; learn() goes on with it.
  [[gnu::cold]] void begin_average() {
    average = weights.values;
  }

  /// The losses of a batch in evaluation mode; `number` keys its random numbers.
  StepResult evaluate(const Batch<Real>& samples, float beta, float capacity, std::uint64_t number) {
    const StepResult result = read(forward(samples, beta, capacity, Mode::evaluation, Stream::evaluation, number, 0));
    step.end();
    return result;
  }

  /// What NonFinite::roll_back goes back to; taken by learn() every so often.
  [[gnu::cold]] void keep_snapshot() { snapshot.keep(memory(), steps); }

  /// What a checkpoint keeps.
  [[gnu::cold]] LearnerMemory memory() {
    LearnerMemory m;
    static_assert(phase_count<Model>() * Optimizer::moments <= LearnerMemory::most_moments, "vaelib: more phases than a checkpoint has room for");
    m.dtype = dtype_of<Real>();
    m.values = {weights.values.data(), weights.values.size()};
    m.state = {weights.state.data(), weights.state.size()};
    m.average = {average.data(), average.size()};
    m.phases = phase_count<Model>();
    m.moments_of_phase = Optimizer::moments;
    for (int i = 0; i < m.phases * m.moments_of_phase; ++i) {
      auto& moment = moments[i / m.moments_of_phase][i % m.moments_of_phase];
      m.moments[i] = {moment.data(), moment.size()};
    }
    m.updates = updates.data();
    m.seed = seed;
    m.parameters = &weights.parameters;
    return m;
  }

  Weights<Model, B> weights;
  Optimizer optimizer;
  std::vector<ParameterGroup> groups;
  std::uint64_t seed;
  std::uint64_t steps = 0;                                            ///< taken so far
  std::array<std::int64_t, phase_count<Model>()> updates{};           ///< accepted, by phase: Adam's count
  std::array<std::array<Buffer<Real>, Optimizer::moments>, phase_count<Model>()> moments;
  Buffer<Real> average;  ///< of weights.values over the steps; empty where none was begun

  B backend;
  Step<B> step;
  Buffer<Real> gradients;

 private:
  auto forward(const Batch<Real>& samples, float beta, float capacity, Mode mode, Stream stream, std::uint64_t number, int phase, Place place = {}) {
    Buffers<Real> b = weights.buffers();
    if (mode == Mode::training) {
      b.gradients = gradients.data();
      b.written = written.data();
      b.trained = trained.data();
      b.proposed = weights.proposed.data();
      b.proposals = weights.proposals.data();
    }
    step.begin(b, mode, seed, number, stream);
    step.phase = phase;
    step.now = place;
    step.key.ordinal = std::uint32_t(phase) << 16;  // phases draw different numbers
    step.beta = step.scalar(beta);
    step.capacity = step.scalar(capacity);
    Batch<Real> batch = samples;
    batch.space = step.rows(samples.count, samples.first);
    return losses_of(weights.model.loss(step, batch));
  }

  /// Forward and backward, a part of the batch at a time. Rows keep their random numbers, whatever the parts.
  [[gnu::noinline]] StepResult gradients_of(const Batch<Real>& samples, const StepOptions& options, int phase, Stream stream, std::uint64_t number) {
    const Place place{std::int64_t(stream == Stream::noise ? steps - 1 : steps), options.epoch, options.batch};
    const std::int64_t most = options.micro_batch > 0 ? options.micro_batch : samples.count;
    StepResult total;
    for (std::int64_t done = 0; done < samples.count; done += most) {
      const std::int64_t count = std::min<std::int64_t>(most, samples.count - done);
      const auto part = samples.part(done, count);
      const auto loss = forward(part, options.beta, options.capacity, Mode::training, stream, number, phase, place);
      const double share = double(count) / double(samples.count);
      step.backward(loss.objective, Real(share), done > 0);
      const StepResult of_part = read(loss);
      total.objective += share * of_part.objective;
      total.reconstruction += share * of_part.reconstruction;
      total.kl += share * of_part.kl;
    }
    return total;
  }

  template <class L>
  static StepResult read(const L& loss) {
    return {double(*loss.objective.value()), double(*loss.reconstruction.value()), double(*loss.kl.value())};
  }

  [[gnu::noinline]] void select_phase(int phase) {
    for (const auto& [name, p] : weights.parameters) {
      bool belongs = rate_of(name) != 0;
      if constexpr (requires { Model::phases; }) belongs = belongs && Model::phases[phase].trains(name);
      trained[p.id] = belongs;
    }
    (void)phase;
  }
  const ParameterGroup* group_of(std::string_view name) const {
    for (const auto& group : groups)
      if (name.starts_with(group.prefix)) return &group;
    return nullptr;
  }
  float rate_of(std::string_view name) const {
    const auto* group = group_of(name);
    return group ? group->rate : 1.0f;
  }

  /// f(offset, count, group) for each run of neighbouring parameters whose gradients were written and that share a group.
  void for_each_run(auto&& f) const {
    const auto& all = weights.parameters;
    for (std::size_t i = 0; i < all.size();) {
      if (!written[i]) {
        ++i;
        continue;
      }
      std::size_t end = i + 1;
      const auto* group = group_of(all[i].name);
      while (end < all.size() && written[end] && group_of(all[end].name) == group) ++end;
      const long first = all[i].leaf.offset, last = end < all.size() ? all[end].leaf.offset : weights.values.size();
      f(first, last - first, group);
      i = end;
    }
  }
  [[gnu::noinline]] double gradient_norm() {
    double squares = 0;
    for_each_run([&](long first, long count, const ParameterGroup*) { squares += backend.squared_norm(count, gradients.data() + first); });
    return std::sqrt(squares);
  }
  [[gnu::noinline]] void apply(int phase, std::int64_t update, const StepOptions& options, double norm) {
    const auto scale = Real(options.clip_norm > 0 && norm > options.clip_norm ? options.clip_norm / norm : 1.0);
    const float factor = options.learning_rate;
    const auto common = optimizer.rates(update);
    for_each_run([&](long first, long count, const ParameterGroup* group) {
      auto rates = common;
      rates.learning_rate *= factor * (group ? group->rate : 1.0f);
      if (group && group->weight_decay) rates.weight_decay = *group->weight_decay;
      std::array<Real*, Optimizer::moments> m;
      for (int k = 0; k < Optimizer::moments; ++k) m[k] = moments[phase][k].data() + first;
      backend.update(optimizer, rates, scale, count, weights.values.data() + first, gradients.data() + first, m);
    });
  }

  /// average += (1 - d) (values - average), where d = min(decay, (1 + n) / (10 + n)) at update n, so that an early average
  /// forgets the first weights (as in TensorFlow's ExponentialMovingAverage).
  void update_average(float decay) {
    const double n = double(updates[0]);
    const auto share = Real(1 - std::min(double(decay), (1 + n) / (10 + n)));
    const Real* value = weights.values.data();
    Real* mean = average.data();
    for (long i = 0; i < average.size(); ++i) mean[i] += share * (value[i] - mean[i]);
  }

  [[gnu::cold]] void roll_back(const StepResult& result, const RollBack& options) {
    if (snapshot.times_used() >= options.most)
      fail(what_is_not_finite(result), ", after ", snapshot.times_used(), " roll-backs to the same weights");
    snapshot.give_back(memory());
  }
  [[gnu::cold]] std::string what_is_not_finite(const StepResult& result) const {
    const auto where = text("vaelib: step ", steps, ": ");
    if (!std::isfinite(result.reconstruction)) return text(where, "the reconstruction loss is ", result.reconstruction);
    if (!std::isfinite(result.kl)) return text(where, "the KL divergence is ", result.kl);
    if (!std::isfinite(result.objective)) return text(where, "the objective is ", result.objective);
    for (const auto& [name, p] : weights.parameters) {
      if (!written[p.id]) continue;
      long bad = 0;
      for (long i = 0; i < p.size(); ++i) bad += !std::isfinite(double(gradients[p.offset + i]));
      if (bad > 0) return text(where, "the gradient of ", name, " is not finite in ", bad, " of ", p.size(), " numbers");
    }
    return text(where, "the norm of the gradients is not finite");
  }

  Buffer<bool> written, trained;
  Snapshot snapshot;
};

}  // namespace vaelib::inline VAELIB_ABI
// Inference: shared, constant weights and an own arena. One Session a thread; no locks.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Of each row, in nats: the evidence lower bound, and log p(x) estimated by importance weighting.
struct Evidence {
  std::vector<double> elbo, log_likelihood;
};

template <class Model, class B>
class Session {
 public:
  using Real = typename B::Real;

  /// The weights must outlive the session. Threads of its own pool: one unless said otherwise.
  explicit Session(const Weights<Model, B>& w, B b = B(1)) : weights(&w), backend(std::move(b)), step(backend) {}

  /// Runs f(step, model, batch) in evaluation mode and copies the variable that it returns. Rows are `shape` each, taken
  /// from the caller's memory; the seed keys what is drawn at random.
  template <class F>
  std::vector<Real> run(long rows, Shape shape, const Real* features, const std::int32_t* labels, std::uint64_t seed, F f) {
    const auto result = evaluate(rows, shape, features, labels, seed, f);
    return {result.value(), result.value() + result.size()};
  }

  /// The mean of q(z|x): rows x latent.
  std::vector<Real> encode(std::span<const Real> x, const std::int32_t* labels = nullptr) {
    return run_on(x, labels, [](auto& s, const auto& m, const auto& batch) {
      return m.encode(s, input<Takes>(s, batch), batch).mu;
    });
  }
  /// The mean of p(x|z) at the mean of q(z|x): rows x features of the model's shape.
  std::vector<Real> reconstruct(std::span<const Real> x, const std::int32_t* labels = nullptr) {
    return run_on(x, labels, [](auto& s, const auto& m, const auto& batch) {
      return m.likelihood.mean(s, m.decode(s, m.encode(s, input<Takes>(s, batch), batch).mu, batch));
    });
  }
  /// The mean of p(x|z) for samples z of the prior.
  std::vector<Real> sample(long rows, std::uint64_t seed, const std::int32_t* labels = nullptr) {
    return run(rows, weights->model.input_shape(), nullptr, labels, seed, [](auto& s, const auto& m, const auto& batch) {
      return m.likelihood.mean(s, m.decode(s, m.latent.prior(s, batch.space), batch));
    });
  }
  /// The mean of p(x|z) for given z: rows x latent.
  std::vector<Real> decode(std::span<const Real> z, const std::int32_t* labels = nullptr) {
    const int size = weights->model.latent.size;
    return run(rows_of(z, size), Shape{size}, z.data(), labels, 0, mean_of_codes);
  }
  /// The same into the caller's memory, for loops in real time: from the third call with as many rows on nothing is allocated,
  /// and with one thread there is no lock and no system call.
  void decode(std::span<const Real> z, std::span<Real> to, const std::int32_t* labels = nullptr) {
    const int size = weights->model.latent.size;
    const long rows = rows_of(z, size), wanted = rows * weights->model.input_shape().size();
    if (long(to.size()) != wanted) fail("vaelib: decode wants room for ", wanted, " numbers, found ", to.size());
    const auto result = evaluate(rows, Shape{size}, z.data(), labels, 0, mean_of_codes);
    std::copy_n(result.value(), result.size(), to.data());
  }

  /// log p(x) as log of the mean of p(x|z) p(z) / q(z|x) over `samples` draws of z ~ q(z|x); Burda et al. 2016, equation 8. It
  /// lies below log p(x) in expectation, and nears it with more samples; with one it is an ELBO whose KL is drawn too.
  Evidence evidence(std::span<const Real> x, int samples, std::uint64_t seed = 0, const std::int32_t* labels = nullptr) {
    const Shape shape = weights->model.input_shape();
    const long rows = rows_of(x, shape.size());
    if (samples < 1) fail("vaelib: evidence wants at least 1 sample, found ", samples);
    Evidence result{std::vector<double>(rows), std::vector<double>(rows, -INFINITY)};
    run(rows, shape, x.data(), labels, seed, [&](auto& s, const auto& m, const auto& batch) {
      const auto target = input<Takes>(s, batch);
      const auto q = m.encode(s, target, batch);
      const auto kl = sum_features(s, m.latent.kl(s, q));
      for (int k = 0; k < samples; ++k) {
        const auto before = s.position();
        const auto sample = m.latent.weighted_sample(s, q);
        const auto nll = m.likelihood.nll(s, m.decode(s, sample.z, batch), target);
        if (nll.rows() != rows) fail("vaelib: this likelihood has one number for a whole batch, not one for each row");
        for (long r = 0; r < rows; ++r) {
          const double log_weight = double(sample.log_weight.value()[r]) - double(nll.value()[r]);
          double& sum = result.log_likelihood[r];
          sum = std::max(sum, log_weight) + std::log1p(std::exp(-std::abs(sum - log_weight)));
          result.elbo[r] -= double(nll.value()[r]) / samples;
        }
        s.forget(before);
      }
      for (long r = 0; r < rows; ++r) {
        result.elbo[r] -= double(kl.value()[r]);
        result.log_likelihood[r] -= std::log(double(samples));
      }
      return kl;
    });
    return result;
  }

 private:
  static constexpr Shape Takes = Model::takes;
  static constexpr auto mean_of_codes = [](auto& s, const auto& m, const auto& batch) {
    return m.likelihood.mean(s, m.decode(s, input<std::remove_cvref_t<decltype(m.latent)>::sample_shape>(s, batch), batch));
  };

  template <class F>
  auto evaluate(long rows, Shape shape, const Real* features, const std::int32_t* labels, std::uint64_t seed, F f) {
    step.begin(weights->buffers(), Mode::evaluation, seed, 0, Stream::sampling);
    const Batch<Real> batch{rows, shape, features, labels, 0, step.rows(rows)};
    return f(step, weights->model, batch);
  }

  static long rows_of(std::span<const Real> x, int features) {
    if (features == 0 || x.size() % features != 0) fail("vaelib: ", x.size(), " numbers are no whole rows of ", features, " features");
    return long(x.size() / features);
  }
  template <class F>
  std::vector<Real> run_on(std::span<const Real> x, const std::int32_t* labels, F f) {
    const Shape shape = weights->model.input_shape();
    return run(rows_of(x, shape.size()), shape, x.data(), labels, 0, f);
  }

  const Weights<Model, B>* weights;
  B backend;
  Step<B> step;
};

}  // namespace vaelib::inline VAELIB_ABI
// The loop around the steps: epochs, schedules, validation, metrics, checkpoints.
//
// A run is keyed by its seed and by positions only: neither the number of threads nor an interruption changes its bits.

// Plateau: a factor on the learning rate that falls when a loss has stopped falling, as torch.optim's ReduceLROnPlateau.
//
//   FitOptions{.validation = images.test, .plateau = Plateau{.factor = 0.5f, .patience = 3}}
//
// It depends on what was measured, not on the step, and so is no schedule: it is fed one loss an epoch. A run that is resumed
// feeds it the losses of its history again, which gives the same factor. While beta rises the objective rises with it: a
// Plateau wants a beta that stands still, or a patience that outlasts the rise.

#include <cstdint>
#include <limits>

namespace vaelib::inline VAELIB_ABI {

struct Plateau {
  float factor = 0.1f;         ///< what the rate is multiplied by
  std::int64_t patience = 10;  ///< epochs without progress that are waited for; after one more the rate falls
  float threshold = 1e-4f;     ///< progress is a loss below best - threshold |best|
  std::int64_t cooldown = 0;   ///< epochs after a fall that do not count
  float smallest = 0;          ///< the rate falls no further

  // how it stands
  float rate = 1;
  double best = std::numeric_limits<double>::infinity();
  std::int64_t waited = 0, cooling = 0;

  void check() const {
    if (!(factor > 0 && factor < 1)) fail("vaelib: a Plateau wants a factor between 0 and 1, found ", factor);
    if (!(smallest >= 0 && smallest <= 1)) fail("vaelib: a Plateau wants a smallest rate from 0 to 1, found ", smallest);
  }
  /// The loss of one more epoch; NaN is no progress.
  constexpr void see(double loss) {
    const bool first = best == std::numeric_limits<double>::infinity();
    if (loss < best && (first || loss < best - double(threshold) * (best < 0 ? -best : best))) {
      best = loss;
      waited = 0;
    } else {
      ++waited;
    }
    if (cooling > 0) {
      --cooling;
      waited = 0;
    }
    if (waited <= patience) return;
    rate = rate * factor > smallest ? rate * factor : smallest;
    cooling = cooldown;
    waited = 0;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Aggressive training of the encoder; He et al. 2019, "Lagging inference networks and posterior collapse in variational
// autoencoders", algorithm 1.
//
// Before each step of the whole model the encoder alone learns from other batches, until the objective, in means over `window`
// updates, falls no more. This goes on from epoch to epoch while the mutual information of data and code grows.

#include <memory>
#include <string>

namespace vaelib::inline VAELIB_ABI {

/// A function object that gives a number, which must outlive the view.
class Measure {
 public:
  Measure() = default;
  template <class F>
    requires requires(const F& f) { double(f()); }
  Measure(const F& f) : object(std::addressof(f)), call([](const void* o) { return double((*static_cast<const F*>(o))()); }) {}
  explicit operator bool() const { return call != nullptr; }
  double operator()() const { return call(object); }

 private:
  const void* object = nullptr;
  double (*call)(const void*) = nullptr;
};

struct AggressiveEncoder {
  Measure information{};             ///< nats; asked after each epoch: where it has not grown, the encoder gets no more updates of its own
  std::string encoder = "encoder.";  ///< with which the names of its parameters begin
  int window = 10;
  int most = 100;                    ///< updates a step

  [[gnu::cold]] void check() const {
    if (!information) fail("vaelib: AggressiveEncoder::information is missing; it says how long the encoder gets updates of its own");
    if (window < 1 || most < 1) fail("vaelib: AggressiveEncoder wants a window and updates of at least 1, found ", window, " and ", most);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Reads batches of a data set; where it is asked to, the next one in a thread of its own while a step computes. Which rows
// come when does not depend on it.

// Any data set, its type forgotten: what a trainer asks of data::Source. Looks at the caller's object.

namespace vaelib::inline VAELIB_ABI {

class SourceView {
 public:
  SourceView() = default;
  /// The data must outlive the view: for a temporary this holds until the end of the full expression.
  template <data::Source T>
  SourceView(const T& source)
      : object(&source), sizes{source.size(), source.classes()}, sample(source.shape()),
        filler([](const void* o, std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) {
          static_cast<const T*>(o)->fill(epoch, rows, features, labels);
        }) {
    if constexpr (data::SetSource<T>)
      counter = [](const void* o, std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) { static_cast<const T*>(o)->count(epoch, rows, points); };
  }

  explicit operator bool() const { return object != nullptr; }
  std::int64_t size() const { return sizes[0]; }
  int classes() const { return int(sizes[1]); }
  Shape shape() const { return sample; }  ///< of a row; of a point where rows are sets
  bool sets() const { return counter != nullptr; }
  /// The points of each row, where rows are sets.
  void count(std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) const { counter(object, epoch, rows, points); }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    filler(object, epoch, rows, features, labels);
  }

 private:
  const void* object = nullptr;
  std::int64_t sizes[2] = {0, 0};
  Shape sample{1};
  void (*counter)(const void*, std::uint64_t, std::span<const std::uint32_t>, long*) = nullptr;
  void (*filler)(const void*, std::uint64_t, std::span<const std::uint32_t>, float*, std::int32_t*) = nullptr;
};

}  // namespace vaelib::inline VAELIB_ABI

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace vaelib::inline VAELIB_ABI {

class BatchReader {
 public:
  using Rows = std::span<const std::uint32_t>;

  explicit BatchReader(SourceView source) : data(source) {}
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;
  ~BatchReader() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
    }
    changed.notify_all();
    if (worker.joinable()) worker.join();
  }

  /// Reads these rows, or waits for them where they are read already; what the data set throws is thrown here.
  void read(std::uint64_t epoch, Rows rows) {
    std::unique_lock lock(mutex);
    const bool ahead = next.rows.data() == rows.data() && next.rows.size() == rows.size() && next.epoch == epoch;
    changed.wait(lock, [&] { return !busy; });
    if (ahead) {
      std::swap(now, next);
      next.rows = {};
      if (now.error) std::rethrow_exception(std::exchange(now.error, nullptr));
    } else {
      now.fill(data, epoch, rows);
    }
  }
  /// Begins to read these rows, which are asked for next. The span must stay as it is until then.
  [[gnu::cold]] void read_ahead(std::uint64_t epoch, Rows rows) {
    const std::lock_guard lock(mutex);
    next.epoch = epoch;
    next.rows = rows;
    busy = true;
    if (!worker.joinable()) worker = std::thread([this] { work(); });
    changed.notify_all();
  }

  const float* features() const { return now.features.data(); }
  const std::int32_t* labels() const { return now.labels.data(); }
  /// Where the points of each row begin, and where the last one's end; null where rows are no sets.
  const long* offsets() const { return data.sets() ? now.offsets.data() : nullptr; }

 private:
  struct Slot {
    std::uint64_t epoch = 0;
    Rows rows{};
    Buffer<float> features;
    Buffer<std::int32_t> labels;
    Buffer<long> offsets;
    std::exception_ptr error{};

    void fill(const SourceView& source, std::uint64_t e, Rows r) {
      const long count = long(r.size());
      long points = count;
      if (source.sets()) {
        long* const begin = offsets.at_least(count + 1);
        begin[0] = 0;
        source.count(e, r, begin + 1);
        for (long i = 0; i < count; ++i) {
          if (begin[i + 1] < 0 || begin[i + 1] > (1L << 40)) fail("vaelib: row ", r[std::size_t(i)], " of the data has ", begin[i + 1], " points");
          begin[i + 1] += begin[i];
        }
        points = begin[count];
      }
      source.fill(e, r, features.at_least(points * source.shape().size()), labels.at_least(count));
    }
  };

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return busy || closing; });
      if (closing) return;
      lock.unlock();
      try {
        next.fill(data, next.epoch, next.rows);
      } catch (...) {
        next.error = std::current_exception();
      }
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }

  SourceView data;
  Slot now, next;
  bool busy = false, closing = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::thread worker;
};

}  // namespace vaelib::inline VAELIB_ABI
// What is told of a run while it goes on, and may end it.
//
// A callback is any object with one or more of these members; fit keeps its address, so it has to outlive the call:
//   void step_end(const RunState&)          after each step; state.last holds its losses
//   void epoch_end(const RunState&)         after each epoch; state.history.back() holds its metrics
//   bool should_stop(const RunState&)       asked before each epoch, at the beginning of a resumed run too
//   bool should_interrupt(const RunState&)  asked after each step; the run is saved and left in mid-epoch
// What it throws ends the run. What decides by state.history alone decides the same after an interruption.

#include <limits>
#include <memory>

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept FitCallback = requires(T& object, const RunState& state) { object.step_end(state); } || requires(T& object, const RunState& state) {
  object.epoch_end(state);
} || requires(T& object, const RunState& state) {
  { object.should_stop(state) } -> std::same_as<bool>;
} || requires(T& object, const RunState& state) {
  { object.should_interrupt(state) } -> std::same_as<bool>;
};

/// Any callback, its type forgotten.
class Callback {
 public:
  template <FitCallback T>
  Callback(T& object) : object_(const_cast<void*>(static_cast<const void*>(std::addressof(object)))) {
    if constexpr (requires(const RunState& state) { object.step_end(state); })
      step_end_ = [](void* o, const RunState& state) { static_cast<T*>(o)->step_end(state); };
    if constexpr (requires(const RunState& state) { object.epoch_end(state); })
      epoch_end_ = [](void* o, const RunState& state) { static_cast<T*>(o)->epoch_end(state); };
    if constexpr (requires(const RunState& state) { object.should_stop(state); })
      should_stop_ = [](void* o, const RunState& state) { return static_cast<T*>(o)->should_stop(state); };
    if constexpr (requires(const RunState& state) { object.should_interrupt(state); })
      should_interrupt_ = [](void* o, const RunState& state) { return static_cast<T*>(o)->should_interrupt(state); };
  }

  void step_end(const RunState& state) const {
    if (step_end_) step_end_(object_, state);
  }
  void epoch_end(const RunState& state) const {
    if (epoch_end_) epoch_end_(object_, state);
  }
  bool should_stop(const RunState& state) const { return should_stop_ && should_stop_(object_, state); }
  bool should_interrupt(const RunState& state) const { return should_interrupt_ && should_interrupt_(object_, state); }

 private:
  void* object_;
  void (*step_end_)(void*, const RunState&) = nullptr;
  void (*epoch_end_)(void*, const RunState&) = nullptr;
  bool (*should_stop_)(void*, const RunState&) = nullptr;
  bool (*should_interrupt_)(void*, const RunState&) = nullptr;
};

/// Ends a run whose validation -ELBO (never annealed) has not become better for `patience` epochs, or has diverged.
struct EarlyStopping {
  std::int64_t patience = 10;
  double min_delta = 0;  ///< nats by which it must fall to count as better
  double diverged = std::numeric_limits<double>::infinity();  ///< nats above which the run ends at once

  bool should_stop(const RunState& state) const {
    double best = std::numeric_limits<double>::infinity();
    std::int64_t waited = 0;
    for (const EpochMetrics& epoch : state.history) {
      const double loss = epoch.val_recon + epoch.val_kl;
      if (loss != loss) fail("vaelib: EarlyStopping watches the validation loss; give FitOptions::validation");
      if (loss > diverged) return true;
      const bool better = loss < best - min_delta;
      waited = better ? 0 : waited + 1;
      if (better) best = loss;
    }
    return waited >= patience && !state.history.empty();
  }
};

}  // namespace vaelib::inline VAELIB_ABI
// Checkpoints of a run: enough to go on with the same bits from any step, in mid-epoch too.
//
//   checkpoint-<step>.safetensors   the newest and the one before
//   best-<step>.safetensors         those after the best epochs, where Checkpoints::best asks for them

// Checkpoints that survive a kill at any moment, a full disk and rotten bits.
//
// A checkpoint is a safetensors file <prefix>-<step, 12 digits>.safetensors. Its last tensor, `checkpoint.crc32`, is
// U8 [4] and holds the CRC-32 (little-endian) of every byte before it, header included: the file stays readable
// everywhere, and any flipped bit, truncation or appended byte is found.
//
// A save writes a temporary file, flushes it, reads it back and compares the checksum, renames it, flushes the folder,
// and only then removes what is older than the generation before. A folder and prefix belong to one run at a time.
// (Link: -lz)

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A checkpoint in memory, its checksum verified. Its tensors are read from `file` by name.
struct Checkpoint {
  std::uint64_t step = 0;
  Metadata metadata;  // as it was given to save()
  SafetensorsFile file;
};

namespace detail {

inline constexpr const char* checksum_name = "checkpoint.crc32";
inline constexpr const char* step_name = "checkpoint.step";

inline std::uint32_t crc32_of(std::uint32_t crc, const void* data, std::size_t count) {
  return count == 0 ? crc : static_cast<std::uint32_t>(crc32_z(crc, static_cast<const unsigned char*>(data), count));
}

/// Fails unless the last four bytes are the checksum of those before and the step is the expected one; its step.
template <class = void>
std::uint64_t verify_checkpoint(const SafetensorsFile& file, std::optional<std::uint64_t> step = {}) {
  const InputFile& input = file.input();
  const TensorInfo* checksum = file.find(checksum_name);
  if (!checksum || checksum != &file.tensors().back() || checksum->dtype != Dtype::u8 || checksum->count() != 4)
    fail(input.path(), ": is no checkpoint: its last tensor is not ", checksum_name, " of 4 bytes");
  std::uint32_t stored = 0, computed = 0;
  file.read_exactly(checksum_name, std::span(reinterpret_cast<std::uint8_t*>(&stored), 4));
  std::vector<char> block(std::size_t{1} << 18);
  for (std::uint64_t done = 0, size = input.size() - 4; done < size;) {
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), size - done));
    input.read_at(done, block.data(), part);
    computed = crc32_of(computed, block.data(), part);
    done += part;
  }
  if (computed != stored)
    fail(input.path(), ": is damaged: its checksum is ", stored, ", that of its content ", computed);
  const auto saved = file.metadata().find(step_name);
  std::uint64_t found = 0;
  const bool known = saved != file.metadata().end();
  if (known) std::from_chars(saved->second.data(), saved->second.data() + saved->second.size(), found);
  if (!known || saved->second != std::to_string(step.value_or(found)))
    fail(input.path(), ": expected the checkpoint of step ", step ? std::to_string(*step) : "N", ", found ", known ? shown(saved->second) : "none");
  return found;
}

/// Reads and verifies one file; where `step` is given, it must be of that step.
template <class = void>
Checkpoint read_checkpoint(const InputFile& on_disk, std::optional<std::uint64_t> step = {}) {
  SafetensorsFile file(InputFile(on_disk.path(), read_file(on_disk, std::numeric_limits<std::uint64_t>::max())));
  const std::uint64_t found = verify_checkpoint(file, step);
  Metadata metadata = file.metadata();
  metadata.erase(step_name);
  return {found, std::move(metadata), std::move(file)};
}

}  // namespace detail

/// The checkpoints of one run: the newest and the one before.
template <class = void>
class BasicCheckpointStore {
 public:
  explicit BasicCheckpointStore(std::string folder, std::string prefix = "checkpoint")
      : folder_path(std::move(folder)), file_prefix(std::move(prefix) + "-") {}

  /// Saves the state after `step`, which becomes the newest. Where it fails, what was saved before is still there.
  void save(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata = {}) const {
    write(step, std::move(tensors), std::move(metadata));
    remove_all_but_last_two(step);
  }

  /// The same, and no other checkpoint is removed.
  void write(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata = {}) const {
    create_directories(folder_path);
    remove_temporary_files();
    write_file(step, std::move(tensors), std::move(metadata));
  }
  void remove_all_but(std::span<const std::uint64_t> kept) const {
    for (const std::uint64_t step : saved_steps())
      if (std::find(kept.begin(), kept.end(), step) == kept.end()) remove_file(path_of(step));
  }

  /// The newest checkpoint that is whole; none where there is none. What was skipped, and why, is appended to
  /// `skipped`.
  std::optional<Checkpoint> newest_valid(std::vector<std::string>* skipped = nullptr) const {
    std::vector<std::uint64_t> steps = saved_steps();
    for (; !steps.empty(); steps.pop_back()) {
      try {
        return detail::read_checkpoint(InputFile(path_of(steps.back())), steps.back());
      } catch (const Error& error) {
        if (skipped) skipped->push_back(error.what());
      }
    }
    return std::nullopt;
  }

  /// Removes every checkpoint, for a run that starts afresh.
  void clear() const {
    remove_temporary_files();
    for (const std::uint64_t step : saved_steps()) remove_file(path_of(step));
  }

  std::string path_of(std::uint64_t step) const { return folder_path + '/' + name_of(step); }

 private:
  void write_file(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata) const {
    const std::string path = path_of(step);
    if (!metadata.emplace(detail::step_name, std::to_string(step)).second)
      fail(path, ": the metadata key ", detail::step_name, " is the checkpoint's own");
    std::uint32_t crc = 0;
    sort_for_safetensors(tensors);
    tensors.push_back({detail::checksum_name, Dtype::u8, {4}, &crc});
    const std::string prefix = safetensors_prefix(tensors, metadata, path);
    AtomicFile file(path);
    const auto write_and_sum = [&](const void* data, std::size_t count) {
      file.write(data, count);
      crc = detail::crc32_of(crc, data, count);
    };
    write_and_sum(prefix.data(), prefix.size());
    tensors.pop_back();
    for (const SafetensorsView& tensor : tensors) write_and_sum(tensor.data, tensor.bytes());
    file.write(&crc, sizeof crc);
    file.flush_and_close();
    detail::verify_checkpoint(SafetensorsFile(file.temporary_path()), step);
    file.publish();
  }

  /// A save makes its step the newest: what claims to be later was damaged, or belongs to a run that was given up.
  void remove_all_but_last_two(std::uint64_t newest) const {
    const std::vector<std::uint64_t> steps = saved_steps();
    std::uint64_t previous = newest;
    for (const std::uint64_t step : steps)
      if (step < newest) previous = step;
    for (const std::uint64_t step : steps)
      if (step != newest && step != previous) remove_file(path_of(step));
  }

  /// Left by a process that was killed during a save.
  void remove_temporary_files() const {
    for (const std::string& name : list_folder(folder_path)) {
      const std::size_t mark = name.find(AtomicFile::temporary_mark, file_prefix.size());
      if (mark != std::string::npos && step_of(name.substr(0, mark))) remove_file(folder_path + '/' + name);
    }
  }

  /// Increasing.
  std::vector<std::uint64_t> saved_steps() const {
    std::vector<std::uint64_t> steps;
    for (const std::string& name : list_folder(folder_path))
      if (const auto step = step_of(name)) steps.push_back(*step);
    std::sort(steps.begin(), steps.end());
    return steps;
  }

  /// The step in a file's name; none where it is not the name of a checkpoint of this store.
  std::optional<std::uint64_t> step_of(std::string_view name) const {
    if (!name.starts_with(file_prefix)) return std::nullopt;
    std::uint64_t step = 0;
    for (const char c : name.substr(file_prefix.size(), name.find('.', file_prefix.size()) - file_prefix.size())) {
      if (c < '0' || c > '9') return std::nullopt;
      step = step * 10 + static_cast<std::uint64_t>(c - '0');
    }
    if (name != name_of(step)) return std::nullopt;  // too long a number included, which has wrapped around
    return step;
  }

  std::string name_of(std::uint64_t step) const {
    const std::string digits = std::to_string(step);
    const std::string zeros(digits.size() < 12 ? 12 - digits.size() : 0, '0');
    return file_prefix + zeros + digits + ".safetensors";
  }

  std::string folder_path;
  std::string file_prefix;
};

using CheckpointStore = BasicCheckpointStore<>;

/// One checkpoint, whatever its name. Throws where it is damaged or none.
inline Checkpoint load_checkpoint(const InputFile& file) { return detail::read_checkpoint(file); }
inline Checkpoint load_checkpoint(const std::string& path) { return load_checkpoint(InputFile(path)); }

}  // namespace vaelib::inline VAELIB_ABI

namespace vaelib::inline VAELIB_ABI {

struct Checkpoints;
namespace detail {
inline void save_run(const Checkpoints& to, const LearnerMemory& memory, const RunState& state);
inline bool load_run(const Checkpoints& from, const LearnerMemory& memory, RunState& state);
}  // namespace detail

/// Where and when a run is saved: `{.checkpoints = Checkpoints{.folder = "runs/a", .every = 1000, .resume = true}}`.
/// After each epoch it is saved in any case, and where a callback interrupts it.
struct Checkpoints {
  std::string folder;
  std::int64_t every = 0;    ///< steps between them; 0: after each epoch only
  double every_seconds = 0;  ///< the same by the clock; 0: never
  int best = 0;              ///< keep so many more: those after the epochs of the lowest validation -ELBO (else training loss)
  bool resume = false;       ///< go on from the newest valid one, if there is one
  std::string from{};        ///< with `resume`: from this file instead

  // Not to be set: what saves and loads is compiled only into programs that make a Checkpoints.
  void (*save)(const Checkpoints&, const LearnerMemory&, const RunState&) = detail::save_run;
  bool (*load)(const Checkpoints&, const LearnerMemory&, RunState&) = detail::load_run;
};

namespace detail {

inline constexpr int history_columns = 12;

/// f(name, part) for every part of a learner but the counts of its updates.
void for_each_part(const LearnerMemory& memory, auto&& f) {
  f(std::string("values"), memory.values);
  f(std::string("state"), memory.state);
  if (memory.average.count > 0) f(std::string("average"), memory.average);
  for (int phase = 0; phase < memory.phases; ++phase)
    for (int k = 0; k < memory.moments_of_phase; ++k)
      f(text("moments.", phase, '.', k), memory.moments[phase * memory.moments_of_phase + k]);
}

inline void check_folder(const std::string& folder) {
  if (folder.empty()) fail("vaelib: Checkpoints::folder is empty; it says where checkpoints are kept");
}

/// What a resumed run must have in common with the one it goes on from.
inline std::string fingerprint(const LearnerMemory& memory, const RunState& state) {
  std::string tensors;
  long numbers = 0;
  for (const auto& [name, p] : *memory.parameters) {
    tensors += text(name, ' ', p.size(), ' ');
    numbers += p.size();
  }
  char checksum[16];
  std::snprintf(checksum, sizeof checksum, "%08lx", static_cast<unsigned long>(crc32_of(0, tensors.data(), tensors.size())));
  return text("seed ", memory.seed, ", batch size ", state.batch_size, ", data of ", state.rows, " rows of ", text_of(state.shape), ", ",
              memory.parameters->size(), " tensors of ", numbers, " numbers (", checksum, ")");
}

/// The steps after the `count` best epochs; of equals the earlier.
inline std::vector<std::uint64_t> best_steps(const History& history, int count) {
  std::vector<std::pair<double, std::uint64_t>> epochs;
  for (const auto& row : history) {
    const double validation = row.val_recon + row.val_kl;
    epochs.push_back({validation == validation ? validation : row.train_loss, std::uint64_t(row.step)});
  }
  std::sort(epochs.begin(), epochs.end());
  epochs.resize(std::min(epochs.size(), std::size_t(count)));
  std::vector<std::uint64_t> steps;
  for (const auto& [loss, step] : epochs) steps.push_back(step);
  return steps;
}

inline void save_run(const Checkpoints& to, const LearnerMemory& memory, const RunState& state) {
  check_folder(to.folder);
  std::vector<SafetensorsView> tensors;
  for_each_part(memory, [&](const std::string& name, const LearnerMemory::Part& part) {
    tensors.push_back({name, memory.dtype, {part.count}, part.data});
  });
  const std::array<std::int64_t, 3> place{state.epoch, state.batch, state.skipped};
  const std::array<double, 4> sums{state.samples, state.sums[0], state.sums[1], state.sums[2]};
  std::vector<double> history;
  for (const auto& row : state.history) row.columns([&](const char*, double number) { history.push_back(number); });
  tensors.push_back(SafetensorsView::of("run.place", {3}, place));
  tensors.push_back(SafetensorsView::of("run.sums", {4}, sums));
  const std::array<double, 2> refining{double(state.refining), state.information};
  if (!state.refining || std::isfinite(state.information)) tensors.push_back(SafetensorsView::of("run.refining", {2}, refining));
  tensors.push_back({"run.updates", Dtype::i64, {memory.phases}, memory.updates});
  tensors.push_back(SafetensorsView::of("run.history", {std::int64_t(state.history.size()), history_columns}, history));
  const Metadata metadata{{"vaelib.run", fingerprint(memory, state)}};
  if (to.best > 0 && state.batch == 0) {
    const auto best = best_steps(state.history, to.best);
    const CheckpointStore store(to.folder, "best");
    if (std::find(best.begin(), best.end(), state.steps) != best.end()) store.write(state.steps, tensors, metadata);
    store.remove_all_but(best);
  }
  CheckpointStore(to.folder).save(state.steps, std::move(tensors), metadata);
}

/// Takes the file that was asked for, or the newest valid checkpoint, if there is one. Throws where it belongs to another run.
inline bool load_run(const Checkpoints& from, const LearnerMemory& memory, RunState& state) {
  std::vector<std::string> skipped;
  std::optional<Checkpoint> checkpoint;
  if (!from.from.empty()) {
    checkpoint = load_checkpoint(from.from);
  } else {
    check_folder(from.folder);
    checkpoint = CheckpointStore(from.folder).newest_valid(&skipped);
  }
  for (const auto& reason : skipped) std::fprintf(stderr, "skipped a checkpoint: %s\n", reason.c_str());
  if (!checkpoint) return false;
  const SafetensorsFile& file = checkpoint->file;
  const auto found = checkpoint->metadata.find("vaelib.run");
  const std::string before = found == checkpoint->metadata.end() ? "no training run" : found->second;
  const std::string now = fingerprint(memory, state);
  if (before != now) fail(file.input().path(), ": this checkpoint is of another run: ", before, "; this run has ", now);
  std::array<std::int64_t, 3> place;
  std::array<double, 4> sums;
  file.read_exactly("run.place", std::span<std::int64_t>(place));
  file.read_exactly("run.sums", std::span<double>(sums));
  if (file.find("run.refining")) {
    std::array<double, 2> refining;
    file.read_exactly("run.refining", std::span<double>(refining));
    state.refining = refining[0] != 0;
    state.information = refining[1];
  }
  const TensorInfo* info = file.find("run.history");
  if (!info || info->shape.size() != 2 || info->shape[1] != history_columns)
    fail(file.input().path(), ": the history of the run is missing");
  std::vector<double> rows(info->shape[0] * history_columns);
  file.read_exactly("run.history", std::span(rows));
  file.read_exactly("run.updates", std::span(memory.updates, std::size_t(memory.phases)));
  for_each_part(memory, [&](const std::string& name, const LearnerMemory::Part& part) {
    file.read_raw(name, memory.dtype, std::size_t(part.count), part.data);
  });

  state.epoch = place[0];
  state.batch = place[1];
  state.skipped = place[2];
  state.samples = sums[0];
  state.sums = {sums[1], sums[2], sums[3]};
  state.history.clear();
  for (const double* r = rows.data(); r != rows.data() + rows.size(); r += history_columns)
    state.history.push_back({std::int64_t(r[0]), std::int64_t(r[1]), r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[11], std::int64_t(r[10])});
  state.steps = state.saved = checkpoint->step;
  return true;
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
// A progress line on standard error: on a terminal one line that is drawn again, elsewhere one line an epoch.

#include <chrono>
#include <cstdio>
#include <unistd.h>

namespace vaelib::inline VAELIB_ABI {

enum class ProgressStyle { automatic, lines, silent };

class Progress {
 public:
  explicit Progress(ProgressStyle style) : bar(style == ProgressStyle::automatic && isatty(STDERR_FILENO)), silent(style == ProgressStyle::silent) {}

  /// Called after every step; draws at most ten times a second.
  void step(std::int64_t epoch, std::int64_t epochs, std::int64_t batch, std::int64_t batches, double loss, double kl, double beta) {
    ++steps;
    if (!bar) return;
    const auto now = clock::now();
    if (now - drawn < std::chrono::milliseconds(100) && batch < batches) return;
    drawn = now;
    const double rate = steps / seconds_since(begun), left = ((epochs - epoch) * double(batches) - batch) / rate;
    constexpr int width = 24;
    const int full = batches > 0 ? int(batch * width / batches) : width;
    std::fprintf(stderr, "\r\033[Kepoch %lld/%lld [%.*s%.*s] %.0f steps/s, %s left, loss %.2f, KL %.2f, beta %.3g", (long long)epoch + 1,
                 (long long)epochs, full, "########################", width - full, "........................", rate, clock_text(left).c_str(), loss,
                 kl, beta);
    std::fflush(stderr);
  }
  [[gnu::cold]] void epoch(std::int64_t epochs, const EpochMetrics& m) {
    if (silent) return;
    const bool validated = m.val_recon == m.val_recon;
    std::fprintf(stderr, "%sepoch %lld/%lld: train loss %.3f (recon %.3f, KL %.3f)", bar ? "\r\033[K" : "", (long long)m.epoch, (long long)epochs,
                 m.train_loss, m.train_recon, m.train_kl);
    if (validated) std::fprintf(stderr, ", test -ELBO %.3f (recon %.3f, KL %.3f)", m.val_recon + m.val_kl, m.val_recon, m.val_kl);
    std::fprintf(stderr, ", beta %.3g, %.1f s\n", m.current_beta, m.seconds);
    std::fflush(stderr);
  }

 private:
  using clock = std::chrono::steady_clock;
  static double seconds_since(clock::time_point t) { return std::chrono::duration<double>(clock::now() - t).count(); }
  [[gnu::cold]] static std::string clock_text(double seconds) {
    char buffer[32];
    const auto s = seconds > 0 && seconds < 1e7 ? long(seconds) : 0L;
    if (s < 3600) {
      std::snprintf(buffer, sizeof buffer, "%ld:%02ld", s / 60, s % 60);
    } else {
      std::snprintf(buffer, sizeof buffer, "%ld:%02ld h", s / 3600, s / 60 % 60);
    }
    return buffer;
  }
  bool bar, silent;
  double steps = 0;
  clock::time_point begun = clock::now(), drawn{};
};

}  // namespace vaelib::inline VAELIB_ABI

#include <chrono>

namespace vaelib::inline VAELIB_ABI {

struct FitOptions {
  std::int64_t epochs = 10, batch_size = 128;
  std::int64_t micro_batch = 0;  ///< a batch is computed in parts of so many samples, their gradients added up; 0: as a whole
  SourceView validation{};     ///< evaluated after each epoch; none by default
  Schedule beta = 1.0f;        ///< weight of the KL divergence
  Schedule capacity = 0.0f;    ///< nats; for models with ElboOptions::use_capacity
  Schedule learning_rate = 1;  ///< factor on the optimizer's learning rate
  std::optional<Plateau> plateau{};  ///< one more factor, by the validation loss of the epochs; none by default
  float clip_norm = 0;         ///< largest norm of the gradients; 0: unlimited
  NonFinite non_finite = NonFinite::stop;
  RollBack roll_back{};        ///< of NonFinite::roll_back
  float average = 0;  ///< decay of an average of the weights, which validation and Trainer::averaged_weights use; 0: none
  std::optional<AggressiveEncoder> aggressive{};  ///< updates of the encoder alone; none by default
  bool read_ahead = false;  ///< the next batch is read while a step computes; the data set is then used by two threads
  std::optional<MetricFiles> metrics{};      ///< metrics.csv and metrics.jsonl in a folder; none by default
  std::optional<Checkpoints> checkpoints{};  ///< none by default
  std::vector<Callback> callbacks{};         ///< told of every step and epoch; may end the run
  ProgressStyle progress = ProgressStyle::silent;
};

class Cpu;

template <class Model, class Optimizer = Adam, class B = Cpu>
class Trainer {
 public:
  using Real = typename B::Real;

  [[gnu::cold]] explicit Trainer(Model model, Optimizer optimizer = {}, B backend = B{}, std::uint64_t seed = 0)
      : learner(std::move(model), optimizer, std::move(backend), seed) {}

  auto& weights() { return learner.weights; }
  const auto& weights() const { return learner.weights; }
  /// The average of the weights (FitOptions::average) with the state of the model; the weights where none is kept.
  Weights<Model, B> averaged_weights() const {
    Weights<Model, B> result = learner.weights;
    if (learner.average.size() > 0) result.values = learner.average;
    return result;
  }

  /// Trains until options.epochs epochs are done, those of a resumed run included. Throws Error where data, numbers or
  /// files are not as they have to be; what was saved before stays valid.
  History fit(SourceView data, const FitOptions& options = {}) {
    check(data);
    if (options.validation) check(options.validation);
    if (options.batch_size < 1) fail("vaelib: a batch has at least 1 sample, found ", options.batch_size);
    if (options.plateau && !options.validation) fail("vaelib: FitOptions::plateau watches the validation loss; give FitOptions::validation");
    if (options.plateau) options.plateau->check();
    if (options.micro_batch < 0) fail("vaelib: FitOptions::micro_batch is ", options.micro_batch, ", expected 0 or more");
    if (!(options.average >= 0 && options.average < 1)) fail("vaelib: FitOptions::average is ", options.average, ", expected 0 or more and less than 1");
    if (options.aggressive) check(*options.aggressive);
    RunState state{.batch_size = options.batch_size, .rows = data.size(), .shape = data.shape()};
    if (options.average > 0 && learner.average.size() == 0) learner.begin_average();
    if (options.checkpoints && options.checkpoints->resume) resume(state, *options.checkpoints);
    keep_snapshot(options);

    data::Batches batches(data.size(), options.batch_size, true, learner.seed);
    BatchReader reader(data);
    std::optional<Refinement> refinement;
    if (options.aggressive) refinement.emplace(data, options.batch_size, learner.seed);
    last_saved = Clock::now();
    Progress progress(options.progress);
    while (state.epoch < options.epochs && !should_stop(options, state)) {
      const auto begun = Clock::now();
      batches.start(state.epoch);
      state.plateau = plateau_of(options, state.history);
      for (; state.batch < batches.count(); ++state.batch) {
        if (is_due(options, state)) save(state, options);
        if (state.batch > 0 && interrupted(options, state)) {
          if (options.checkpoints && state.saved != learner.steps) save(state, options);
          return std::move(state.history);
        }
        if (refinement && state.refining) refine(*refinement, data, state, options);
        reader.read(state.epoch, batches[state.batch]);
        if (options.read_ahead && state.batch + 1 < batches.count()) reader.read_ahead(state.epoch, batches[state.batch + 1]);
        one_step(batch_of(reader, data, batches[state.batch]), state, options);
        for (const Callback& callback : options.callbacks) callback.step_end(state);
        progress.step(state.epoch, options.epochs, state.batch + 1, batches.count(), state.last.objective, state.last.kl, options.beta.at(state.step(), state.epoch));
      }
      finish_epoch(state, options, seconds_since(begun));
      progress.epoch(options.epochs, state.history.back());
      if (options.metrics) options.metrics->write(options.metrics->folder, state.history);
      if (options.checkpoints) save(state, options);
      for (const Callback& callback : options.callbacks) callback.epoch_end(state);
    }
    return std::move(state.history);
  }

  /// Means over a data set in evaluation mode, nats a sample: reconstruction + kl is the negative ELBO.
  StepResult evaluate(SourceView data, std::int64_t batch_size = 128, float beta = 1, float capacity = 0) {
    check(data);
    data::Batches batches(data.size(), batch_size);
    BatchReader reader(data);
    StepResult total;
    for (std::int64_t b = 0; b < batches.count(); ++b) {
      const auto rows = batches[b];
      reader.read(0, rows);
      const auto result = learner.evaluate(batch_of(reader, data, rows), beta, capacity, std::uint64_t(b));
      const double share = double(rows.size()) / double(data.size());
      total.objective += share * result.objective;
      total.reconstruction += share * result.reconstruction;
      total.kl += share * result.kl;
    }
    return total;
  }

  Learner<Model, Optimizer, B> learner;

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

  static bool interrupted(const FitOptions& options, const RunState& state) {
    bool interrupt = false;
    for (const Callback& callback : options.callbacks) interrupt = callback.should_interrupt(state) || interrupt;
    return interrupt;
  }
  static bool should_stop(const FitOptions& options, const RunState& state) {
    bool stop = false;
    for (const Callback& callback : options.callbacks) stop = callback.should_stop(state) || stop;
    return (stop && state.batch == 0) || interrupted(options, state);  // an epoch that was begun is ended, unless interrupted
  }
  void check(const SourceView& data) const {
    if (data.size() < 1) fail("vaelib: the data set is empty");
    if constexpr (requires { learner.weights.model.input_shape(); }) {
      const Shape wanted = learner.weights.model.input_shape();
      if (data.shape() != wanted) fail("vaelib: the model takes samples of shape ", text_of(wanted), ", the data has ", text_of(data.shape()));
    }
  }

  Batch<Real> batch_of(const BatchReader& reader, const SourceView& data, std::span<const std::uint32_t> rows) {
    const long count = long(rows.size()), points = reader.offsets() ? reader.offsets()[count] : count, numbers = points * data.shape().size();
    check_values(rows, reader.offsets(), data.shape().size(), reader.features());
    const Real* values = nullptr;
    if constexpr (std::is_same_v<Real, float>) {
      values = reader.features();
    } else {
      values = std::copy_n(reader.features(), numbers, converted.at_least(numbers)) - numbers;
    }
    return {count, data.shape(), values, data.classes() > 0 ? reader.labels() : nullptr, 0, nullptr, reader.offsets()};
  }

  /// Values that the likelihood does not allow (NaN is none it allows) are named, not learned from.
  void check_values(std::span<const std::uint32_t> rows, const long* offsets, long features, const float* floats) {
    float low = -3.0e38f, high = 3.0e38f;
    if constexpr (requires { learner.weights.model.likelihood.smallest; }) {
      low = learner.weights.model.likelihood.smallest;
      high = learner.weights.model.likelihood.largest;
    }
    if (all_within((offsets ? offsets[rows.size()] : long(rows.size())) * features, floats, low, high)) return;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const long begin = offsets ? offsets[r] : long(r), end = offsets ? offsets[r + 1] : begin + 1;
      for (long k = begin * features; k < end * features; ++k)
        if (const float v = floats[k]; !(v >= low && v <= high))
          fail("vaelib: row ", rows[r], " of the data has the value ", v, " at ", offsets ? text("point ", k / features - begin, ", feature ") : std::string("feature "), k % features,
               ", the likelihood wants numbers from ", detail::shortest(low), " to ", detail::shortest(high));
    }
  }

  [[gnu::noinline]] static StepOptions step_options(const RunState& state, const FitOptions& options) {
    return {options.beta.at(state.step(), state.epoch), options.capacity.at(state.step(), state.epoch),
            state.plateau * options.learning_rate.at(state.step(), state.epoch), options.clip_norm, options.non_finite,
            options.roll_back, options.micro_batch, options.average, state.epoch, state.batch};
  }

  /// The batches of which the encoder learns alone, in an order of their own for each step.
  struct Refinement {
    BatchReader reader;
    data::Batches batches;
    [[gnu::cold]] Refinement(const SourceView& data, std::int64_t size, std::uint64_t seed) : reader(data), batches(data.size(), size, true, ~seed) {}
  };
  [[gnu::cold]] void check(const AggressiveEncoder& aggressive) const {
    aggressive.check();
    bool any = false;
    for (const auto& [name, p] : learner.weights.parameters) any = any || name.starts_with(aggressive.encoder);
    if (!any) fail("vaelib: AggressiveEncoder::encoder is '", aggressive.encoder, "', with which no parameter's name begins");
  }
  [[gnu::cold]] void refine(Refinement& other, const SourceView& data, const RunState& state, const FitOptions& options) {
    const AggressiveEncoder& aggressive = *options.aggressive;
    const StepOptions step = step_options(state, options);
    other.batches.start(state.steps);
    double before = std::numeric_limits<double>::infinity(), sum = 0;
    for (int k = 0; k < aggressive.most; ++k) {
      const auto rows = other.batches[k % other.batches.count()];
      other.reader.read(state.epoch, rows);
      sum += learner.refine(batch_of(other.reader, data, rows), step, aggressive.encoder, k).objective;
      if ((k + 1) % aggressive.window != 0) continue;
      if (!(sum < before)) return;
      before = sum;
      sum = 0;
    }
  }

  void one_step(const Batch<Real>& batch, RunState& state, const FitOptions& options) {
    state.last = learner.learn(batch, step_options(state, options));
    state.steps = learner.steps;
    if (state.last.accepted) {
      const double n = double(batch.count);
      state.samples += n;
      state.sums[0] += n * state.last.objective;
      state.sums[1] += n * state.last.reconstruction;
      state.sums[2] += n * state.last.kl;
    } else {
      ++state.skipped;
    }
  }

  [[gnu::cold]] void finish_epoch(RunState& state, const FitOptions& options, double seconds) {
    EpochMetrics m;
    const std::int64_t last = std::max<std::int64_t>(0, state.step() - 1);
    m.epoch = state.epoch + 1;
    m.step = state.step();
    m.train_loss = state.sums[0] / state.samples;
    m.train_recon = state.sums[1] / state.samples;
    m.train_kl = state.sums[2] / state.samples;
    m.current_beta = options.beta.at(last, state.epoch);
    m.learning_rate = learner.optimizer.learning_rate * state.plateau * options.learning_rate.at(last, state.epoch);
    m.skipped = state.skipped;
    m.seconds = seconds;
    m.val_loss = m.val_recon = m.val_kl = std::numeric_limits<double>::quiet_NaN();
    if (options.validation) {
      const Averaged averaged(learner, options.average > 0);
      const auto v = evaluate(options.validation, options.batch_size, float(m.current_beta), options.capacity.at(last, state.epoch));
      m.val_loss = v.objective;
      m.val_recon = v.reconstruction;
      m.val_kl = v.kl;
    }
    if (options.aggressive && state.refining) {
      const double information = options.aggressive->information();
      state.refining = information > state.information;
      state.information = information;
    }
    state.history.push_back(m);
    ++state.epoch;
    state.batch = 0;
    state.samples = 0;
    state.skipped = 0;
    state.sums = {};
  }

  bool is_due(const FitOptions& options, const RunState& state) const {
    if (!options.checkpoints || learner.steps == 0 || state.saved == learner.steps) return false;
    const Checkpoints& when = *options.checkpoints;
    return (when.every > 0 && learner.steps % when.every == 0) || (when.every_seconds > 0 && seconds_since(last_saved) >= when.every_seconds);
  }
  [[gnu::cold]] void save(RunState& state, const FitOptions& options) {
    options.checkpoints->save(*options.checkpoints, learner.memory(), state);
    state.saved = learner.steps;
    last_saved = Clock::now();
    keep_snapshot(options);
  }
  [[gnu::cold]] void resume(RunState& state, const Checkpoints& checkpoints) {
    if (checkpoints.load(checkpoints, learner.memory(), state)) learner.steps = state.steps;
  }
  /// Where a run begins, and where it is saved: so the one resumed from there goes back to the same weights.
  void keep_snapshot(const FitOptions& options) {
    if (options.non_finite == NonFinite::roll_back) learner.keep_snapshot();
  }
  [[gnu::cold]] static float plateau_of(const FitOptions& options, const History& history) {
    if (!options.plateau) return 1;
    Plateau plateau = *options.plateau;
    for (const auto& epoch : history) plateau.see(epoch.val_loss);
    return plateau.rate;
  }

  /// The average in the place of the weights, until the end of the scope.
  struct Averaged {
    Learner<Model, Optimizer, B>& learner;
    bool on;
    Averaged(Learner<Model, Optimizer, B>& l, bool o) : learner(l), on(o) { swap(); }
    Averaged(const Averaged&) = delete;
    Averaged& operator=(const Averaged&) = delete;
    ~Averaged() { swap(); }
    void swap() {
      if (on) std::swap(learner.average, learner.weights.values);
    }
  };

  Buffer<Real> converted;
  Clock::time_point last_saved{};
};

}  // namespace vaelib::inline VAELIB_ABI
