// Packing: the operand that all threads read is laid out once per call in the order in which the inner loops read it.
//
//   B (k x n): panels of `panel_columns` columns, one after another, each k x panel_columns and row-major.
//              The last panel is only as wide as the vectors that hold its columns, and filled up with zeros.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vaelib/backend/cpu/microkernel.hpp>
#include <vaelib/backend/cpu/pool.hpp>
#include <vaelib/backend/shapes.hpp>
#include <vaelib/version.hpp>

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
