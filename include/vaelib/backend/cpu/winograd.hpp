// Convolutions with fewer multiplications: see winograd_transforms.hpp.
//
// A convolution of stride s is the sum of s x s convolutions of stride 1, one for each phase of the image; these share
// one sum of products, for the transform of the outputs is linear. In the adjoint each phase of x is a convolution of y
// of its own, with the kernel turned. Every output is summed in one order that depends on the shape alone.
#pragma once

#include <algorithm>
#include <vaelib/backend/cpu/product.hpp>
#include <vaelib/backend/cpu/window.hpp>
#include <vaelib/backend/cpu/winograd_transforms.hpp>
#include <vaelib/version.hpp>

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
