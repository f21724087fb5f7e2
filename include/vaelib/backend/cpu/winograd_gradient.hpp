// The gradient of a convolution's weight by the adjoint of Winograd's algorithm (see winograd_transforms.hpp):
//
//   dg (+)= G^T [ sum over tiles (B^T d B) .* (A dY A^T) ] G
//
// For each position a product [channels x tiles] [tiles x out_channels]. A row of positions is one task, which computes
// that row of both transforms only: so its operands and sums fit into the second-level cache. The tiles are cut into
// chunks, by the shape and the number of images only; their sums are added one after another.
#pragma once

#include <algorithm>
#include <vaelib/backend/cpu/winograd.hpp>
#include <vaelib/version.hpp>

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
