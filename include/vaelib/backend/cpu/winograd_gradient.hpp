// The gradient of a convolution's weight by Winograd's algorithm: its adjoint.
//
//   dg (+)= G^T [ sum over tiles (B^T d B) .* (A dY A^T) ] G                    see winograd_transforms.hpp
//
// For each position a product [channels x tiles] [tiles x out_channels]. A row of positions is one task, which computes
// that row of both transforms only: so its operands and sums fit into the second-level cache.
#pragma once

#include <algorithm>
#include <vaelib/backend/cpu/winograd.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// A row of positions and a chunk of the tiles.
struct WinogradGradientTask {
  const WinogradShape& shape;  // of the convolution, not of its adjoint
  const float* x;
  const float* y_gradient;
  Transforms use;

  int n() const { return shape.s.out_channels; }
  long tiles() const {  // at a time
    return std::clamp<long>((448L << 10) / (4 * shape.positions() * (shape.k() + n())), 24, block_depth);
  }
  long pitch() const { return pitch_of(shape.k()); }
  long apart() const { return tiles() * pitch() + 16; }
  std::size_t packed_position() const { return packed_size(tiles(), n()) + 16; }
  std::size_t data_size() const { return static_cast<std::size_t>(shape.positions() * apart()); }
  std::size_t ends_size() const { return static_cast<std::size_t>(std::max(shape.s.channels, n())); }
  std::size_t scratch_size() const { return data_size() + shape.positions() * packed_position() + ends_size(); }

  /// sums: of this row of positions, each k x out_channels.
  void run(int position_row, long first, long last, float* sums, float* scratch) const {
    float *packed = scratch + data_size(), *zeros = packed + shape.positions() * packed_position();
    std::fill(zeros, zeros + ends_size(), 0.0f);
    for (long tile = first; tile < last; tile += tiles()) {
      const int count = static_cast<int>(std::min(tiles(), last - tile));
      read_data(position_row, tile, count, scratch, zeros);
      read_gradient(shape.target(0), position_row, tile, count, packed, zeros);
      multiply(count, scratch, packed, sums, tile > first);
    }
  }

  void read_data(int row, long tile, int count, float* data, const float* zeros) const {
    SpreadTile work{{}, nullptr, apart(), shape.s.channels, row, row + 1};
    shape.for_each_tile(tile, count, [&](int index, long image, int y, int x_tile) {
      for (int source = 0; source < shape.sources(); ++source) {
        shape.source(source).pixels(x, image, y, x_tile, 0, shape.positions(), zeros, work);
        work.positions = data + index * pitch() + source * shape.s.channels;
        use.spread(work, shape.positions(), false);
      }
    });
  }
  /// Straight into panels.
  void read_gradient(const Phases& from, int row, long tile, int count, float* packed, const float* zeros) const {
    const int panel = kernels()->panel_columns;
    for (int column = 0; column < n(); column += panel) {
      const int columns = std::min(panel, n() - column);
      SpreadTile work{{}, nullptr, static_cast<long>(packed_position()), columns, row, row + 1};
      shape.for_each_tile(tile, count, [&](int index, long image, int y, int x_tile) {
        from.pixels(y_gradient, image, y, x_tile, column, 2, zeros, work);
        work.positions = packed + column * count + index * columns;
        use.spread(work, shape.positions(), true);
      });
    }
  }
  void multiply(int count, const float* data, const float* packed, float* sums, bool add) const {
    long a_rows[most_pixels], c_rows[most_pixels];
    int steps[block_depth];
    for (int i = 0; i < most_pixels; ++i) a_rows[i] = i, c_rows[i] = i * n();
    for (int p = 0; p < count; ++p) steps[p] = static_cast<int>(p * pitch());
    Block block{};
    block.a_rows = a_rows;
    block.a_steps = steps;
    block.c_rows = c_rows;
    block.depth = count;
    block.k = count;
    block.columns = n();
    block.add = add;
    for (int position = 0; position < shape.positions(); ++position)
      for (long i = 0; i < shape.k(); i += most_pixels) {
        block.a = data + position * apart() + i;
        block.b = packed + position * packed_position();
        block.c = sums + (position * shape.k() + i) * n();
        block.rows = static_cast<int>(std::min<long>(most_pixels, shape.k() - i));
        kernels()->multiply(block);
      }
  }
};

}  // namespace detail

/// See the head of this file.
inline void winograd_gradient(Pool& pool, Workspace& workspace, const detail::WinogradShape& shape, long images,
                              const float* x, const float* y_gradient, float* weight_gradient, bool add) {
  const long phase_size = long{shape.s.channels} * shape.s.out_channels;
  const long position_size = shape.phases() * phase_size, size = shape.all_positions() * position_size;
  const long tiles = images * shape.tile_rows() * shape.tile_columns();
  const long most = std::clamp<long>((1L << 20) / size, 4, 16);
  const long parts = std::clamp<long>(tiles / 128, 1, most);
  const long chunk = detail::ceil_div(tiles, parts), chunks = detail::ceil_div(tiles, chunk);
  float* sums = workspace.shared(static_cast<std::size_t>(parts * size));
  const detail::WinogradGradientTask work{shape, x, y_gradient, detail::transforms()};
  constexpr long piece = 512;
  workspace.reserve_workers(pool.threads(), std::max<std::size_t>(work.scratch_size(), shape.all_positions() * piece));
  pool.run(chunks * shape.positions(), [&](long task, int worker) {
    const long part = task / shape.positions(), row = task % shape.positions();
    work.run(static_cast<int>(row), part * chunk, std::min(tiles, (part + 1) * chunk),
             sums + part * size + row * shape.positions() * position_size, workspace.worker(worker));
  });
  const long pieces = detail::ceil_div(phase_size, piece);
  pool.run(shape.phases() * pieces, [&](long task, int worker) {
    const int phase = static_cast<int>(task / pieces);
    const long begin = task % pieces * piece, count = std::min(piece, phase_size - begin);
    float* total = workspace.worker(worker);
    for (int position = 0; position < shape.all_positions(); ++position) {
      detail::Terms of;
      for (long part = 0; part < chunks; ++part)
        of.append(sums + part * size + position * position_size + phase * phase_size + begin, 1);
      work.use.sum(of, total + position * piece, count, false);
    }
    for (int tap = 0; tap < shape.taps() * shape.taps(); ++tap) {
      float* out = weight_gradient + shape.place(phase, tap) * phase_size + begin;
      detail::Terms of;
      for (int position = 0; position < shape.all_positions(); ++position)
        of.append(total + position * piece, shape.factor(position, tap));
      work.use.sum(of, out, count, add);
    }
  });
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
