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
