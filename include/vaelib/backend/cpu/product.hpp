// C (m x n) = or += A (m x k) B (k x n), in float.
//
// Every element of C is summed in one order that depends on k alone: blocks of 256 are chains of fused multiply-adds
// and are added one after another; from k = 1024 on, sums of longer parts of k are added in turn, so that a product
// with few outputs and a great depth (the gradient of a weight over many rows) can be shared out as well. Hence the
// same bits for any number of threads, any split of the rows, and any place in the matrix.
//
// With the macro VAELIB_CBLAS defined, product() is cblas_sgemm of OpenBLAS on fixed blocks of C instead, OpenBLAS set
// to one thread; splitting the rows may then change bits.
#pragma once

#include <algorithm>
#include <cstring>
#include <vaelib/backend/cpu/microkernel.hpp>
#include <vaelib/backend/cpu/pack.hpp>
#include <vaelib/backend/cpu/pool.hpp>
#include <vaelib/backend/cpu/workspace.hpp>
#include <vaelib/version.hpp>

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

inline constexpr int most_rows = 192;  // rows of C in a task

/// How a product is cut into tasks; by its shape only.
struct Cut {
  long rows, columns, chunk;  // of one task; a chunk is a part of k that has its own sum
  long row_tasks, column_tasks, chunks;
  bool parallel_chunks;

  Cut(long m, int n, long k) {
    columns = std::min<long>(n, 128);
    column_tasks = (n + columns - 1) / columns;
    columns = round_up((n + column_tasks - 1) / column_tasks, kernels()->panel_columns);
    column_tasks = (n + columns - 1) / columns;
    const long work = (1L << 20) / std::max(1L, columns * k);
    rows = std::clamp<long>(round_up(work, tile_rows), 8 * tile_rows, most_rows);
    row_tasks = (m + rows - 1) / rows;
    rows = round_up((m + row_tasks - 1) / row_tasks, tile_rows);
    row_tasks = (m + rows - 1) / rows;
    chunk = std::max(1024L, round_up((k + 15) / 16, block_depth));
    chunks = (k + chunk - 1) / chunk;
    parallel_chunks = chunks > 1 && row_tasks * column_tasks < 8;
  }
};

/// The rows [0, rows) of A for one block of depth, in place or copied to where the tiles read them quickly.
class Rows {
 public:
  /// Floats of scratch that a block may need.
  static constexpr std::size_t scratch_size = most_rows / tile_rows * 8 * block_depth + most_rows * 16;

  Rows(const Matrix& a, int rows, long depth, bool often, float* scratch, Block& block) {
    block.a_rows = offsets;
    block.segments = &zero;
    block.segment_count = 1;
    block.segment_depth = static_cast<int>(depth);
    block.a = a.data;
    block.a_step = a.step;
    if (a.step != 1) {
      copy_columns(a, rows, depth, scratch);
      block.a = scratch;
      block.a_step = 8;
    } else if (often && a.row % 512 == 0) {
      copy_rows(a, rows, depth, scratch);
      block.a = scratch;
    } else {
      for (int i = 0; i < rows; ++i) offsets[i] = i * a.row;
    }
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

 private:
  // Transposed: the 6 elements that a tile reads together, far apart from the next 6, become neighbours.
  void copy_columns(const Matrix& a, int rows, long depth, float* out) {
    for (int i = 0; i < rows; i += tile_rows, out += depth * 8) {
      const int height = std::min(tile_rows, rows - i);
      for (int r = 0; r < height; ++r) offsets[i + r] = i / tile_rows * depth * 8 + r;
      const float* in = a.data + i * a.row;
      if (height == tile_rows && a.row == 1) {
        for (long p = 0; p < depth; ++p) std::memcpy(out + p * 8, in + p * a.step, tile_rows * sizeof(float));
      } else {
        for (long p = 0; p < depth; ++p)
          for (int r = 0; r < height; ++r) out[p * 8 + r] = in[p * a.step + r * a.row];
      }
    }
  }
  // Rows a multiple of 2 KB apart would drive each other out of the cache.
  void copy_rows(const Matrix& a, int rows, long depth, float* out) {
    constexpr long pitch = block_depth + 16;
    for (int i = 0; i < rows; ++i) {
      offsets[i] = i * pitch;
      std::memcpy(out + i * pitch, a.data + i * a.row, static_cast<std::size_t>(depth) * sizeof(float));
    }
  }

  long zero = 0;
  long offsets[most_rows];
};

/// out[i] (+)= in[i]
inline void add_rows(const float* in, long in_row, float* out, long out_row, long rows, long columns) {
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < columns; ++j) out[i * out_row + j] += in[i * in_row + j];
}

}  // namespace detail

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

namespace detail {

/// One task: rows x columns elements of C at (i, j), chunks [first, last) of k. Sums of the first chunk go to c, of the
/// others to `partial`, a matrix of m x n floats a chunk, or through `scratch` if there is none.
struct ProductTask {
  const Cut& cut;
  int n;
  long k;
  Matrix a;
  const float* packed;
  float* c;
  long ldc;
  bool add;

  void run(long i, int rows, int j, int columns, long chunk, float* out, long out_row, bool add_to,
           float* scratch) const {
    const long end = std::min(k, (chunk + 1) * cut.chunk);
    long c_rows[most_rows];
    for (int r = 0; r < rows; ++r) c_rows[r] = r * out_row;
    for (long p = chunk * cut.chunk; p < end; p += block_depth) {
      const long depth = std::min<long>(block_depth, end - p);
      Block block{};
      const Rows gathered({a.data + i * a.row + p * a.step, a.row, a.step}, rows, depth, columns >= 64, scratch, block);
      block.b = packed + j * k;
      block.k = k;
      block.k_begin = p;
      block.c = out;
      block.c_rows = c_rows;
      block.rows = rows;
      block.columns = columns;
      block.add = add_to;
      kernels()->multiply(block);
      add_to = true;
    }
  }
};

}  // namespace detail

/// See the head of this file.
inline void product(Pool& pool, Workspace& workspace, long m, int n, long k, Matrix a, Matrix b, float* c, long ldc,
                    bool add, Finish finish = {}) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    for (long i = 0; i < m && !add; ++i) std::fill(c + i * ldc, c + i * ldc + n, 0.0f);
    for (long i = 0; i < m && finish.run; i += 1 << 20)
      finish.run(finish.context, c + i * ldc, ldc, static_cast<int>(std::min(1L << 20, m - i)), n, i, 0);
    return;
  }
  const detail::Cut cut(m, n, k);
  const std::size_t b_size = packed_size(k, n), c_size = static_cast<std::size_t>(m) * static_cast<std::size_t>(n);
  const std::size_t parts = cut.parallel_chunks ? static_cast<std::size_t>(cut.chunks - 1) : 0;
  float* packed = workspace.shared(b_size + parts * c_size);
  float* partial = packed + b_size;
  const std::size_t tile_size = static_cast<std::size_t>(cut.rows * cut.columns);
  workspace.reserve_workers(pool.threads(), detail::Rows::scratch_size + tile_size);
  pack(pool, b, k, n, packed);

  const detail::ProductTask work{cut, n, k, a, packed, c, ldc, add};
  const long tiles = cut.row_tasks * cut.column_tasks;
  const auto place = [&](long tile, auto&& f) {
    const long i = tile % cut.row_tasks * cut.rows, j = tile / cut.row_tasks * cut.columns;
    f(i, static_cast<int>(std::min(cut.rows, m - i)), static_cast<int>(j),
      static_cast<int>(std::min<long>(cut.columns, n - j)));
  };
  const auto finished = [&](long i, int rows, int j, int columns) {
    if (finish.run) finish.run(finish.context, c + i * ldc + j, ldc, rows, columns, i, j);
  };
  if (!cut.parallel_chunks) {
    pool.run(tiles, [&](long tile, int worker) {
      place(tile, [&](long i, int rows, int j, int columns) {
        float* scratch = workspace.worker(worker);
        float* sums = scratch + detail::Rows::scratch_size;
        work.run(i, rows, j, columns, 0, c + i * ldc + j, ldc, add, scratch);
        for (long chunk = 1; chunk < cut.chunks; ++chunk) {
          work.run(i, rows, j, columns, chunk, sums, columns, false, scratch);
          detail::add_rows(sums, columns, c + i * ldc + j, ldc, rows, columns);
        }
        finished(i, rows, j, columns);
      });
    });
    return;
  }
  pool.run(tiles * cut.chunks, [&](long task, int worker) {
    place(task % tiles, [&](long i, int rows, int j, int columns) {
      const long chunk = task / tiles;
      float* out = chunk == 0 ? c + i * ldc + j : partial + ((chunk - 1) * m + i) * n + j;
      work.run(i, rows, j, columns, chunk, out, chunk == 0 ? ldc : n, chunk == 0 && add, workspace.worker(worker));
    });
  });
  pool.run(tiles, [&](long tile) {
    place(tile, [&](long i, int rows, int j, int columns) {
      for (long chunk = 1; chunk < cut.chunks; ++chunk)
        detail::add_rows(partial + ((chunk - 1) * m + i) * n + j, n, c + i * ldc + j, ldc, rows, columns);
      finished(i, rows, j, columns);
    });
  });
}
#endif

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
