// Convolutions with fewer multiplications: see winograd_transforms.hpp.
//
// A convolution of stride s is the sum of s x s convolutions of stride 1, one for each phase of the image; these share
// one sum of products, for the transform of the outputs is linear. In the adjoint each phase of x is a convolution of y
// of its own, with the kernel turned.
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
struct Phases {
  int height, width, channels, stride, top, left;

  /// Points `tile` to count x count pixels, from one of their channels on; outside of the image lie zeros.
  void pixels(const float* data, long image, int y, int x, int channel, int count, const float* zeros,
              SpreadTile& tile) const {
    const int row = 2 * y * stride + top, column = 2 * x * stride + left;
    long line = ((image * height + row) * width + column) * channels + channel;
    for (int i = 0; i < count; ++i, line += long{stride} * width * channels) {
      const bool inside = row + i * stride >= 0 && row + i * stride < height;
      for (int j = 0; j < count; ++j) {
        const int at = column + j * stride;
        tile.pixels[i][j] = inside && at >= 0 && at < width ? data + line + long{j} * stride * channels : zeros;
      }
    }
  }
  /// Its number in all images, or -1 if it lies outside.
  long pixel(long image, int y, int x, int i, int j) const {
    const int row = (2 * y + i) * stride + top, column = (2 * x + j) * stride + left;
    if (row < 0 || row >= height || column < 0 || column >= width) return -1;
    return (image * height + row) * width + column;
  }
};

/// A convolution or its adjoint in tiles of 2 x 2 outputs.
struct WinogradShape {
  const ConvolutionShape& s;
  bool adjoint;

  int taps() const { return s.kernel_height / s.stride; }
  int positions() const { return taps() + 1; }
  int all_positions() const { return positions() * positions(); }
  int phases() const { return s.stride * s.stride; }
  int sources() const { return adjoint ? 1 : phases(); }  // read by one product
  int targets() const { return adjoint ? phases() : 1; }  // written one after another
  int source_channels() const { return adjoint ? s.out_channels : s.channels; }
  long k() const { return long{sources()} * source_channels(); }
  int columns() const { return adjoint ? s.channels : s.out_channels; }
  int tile_rows() const { return static_cast<int>(ceil_div(adjoint ? ceil_div(s.height, s.stride) : s.out_height, 2)); }
  int tile_columns() const {
    return static_cast<int>(ceil_div(adjoint ? ceil_div(s.width, s.stride) : s.out_width, 2));
  }

  /// Whether this is defined for these sizes, and quicker. Measured on Zen 4, in multiplications: to transform a number
  /// takes 12, and so do the weights of one image out of a batch: 1 for each of theirs (docs/design.md).
  bool pays() const {
    const bool known = s.kernel_height == s.kernel_width &&
                       ((s.kernel_height == 3 && s.stride == 1) || (s.kernel_height == 4 && s.stride == 2));
    if (!known || s.channels % 16 != 0 || s.out_channels % 16 != 0) return false;
    const double products = double(s.channels) * s.out_channels;
    const double plain = products * s.kernel_height * s.kernel_width * s.out_height * s.out_width;
    const double tiles = double(ceil_div(s.out_height, 2)) * double(ceil_div(s.out_width, 2));
    const double transforms = 12 * (double(phases()) * s.channels + s.out_channels);
    const double cost = all_positions() * ((tiles + 1) * phases() * products + tiles * transforms);
    return products <= 256 * 256 && plain > 1.15 * cost;
  }

  Phases source(int phase) const {
    const int row = phase / s.stride, column = phase % s.stride;
    if (!adjoint) return {s.height, s.width, s.channels, s.stride, row - s.padding, column - s.padding};
    return {s.out_height, s.out_width, s.out_channels, 1, first(row).second, first(column).second};
  }
  Phases target(int phase) const {
    if (!adjoint) return {s.out_height, s.out_width, s.out_channels, 1, 0, 0};
    return {s.height, s.width, s.channels, s.stride, first(phase / s.stride).first, first(phase % s.stride).first};
  }
  /// Of a phase of the adjoint: its first pixel in x, and the first of y that this one needs.
  std::pair<int, int> first(int phase) const {
    const int pixel = ((phase - s.padding) % s.stride + s.stride) % s.stride;
    return {pixel, (pixel + s.padding - phase) / s.stride - (taps() - 1)};
  }

  /// f(index, image, row, column) for some tiles, counted through all images.
  template <class F>
  void for_each_tile(long tile, int count, F&& f) const {
    const int height = tile_rows(), width = tile_columns();
    for (int i = 0; i < count; ++i, ++tile)
      f(i, tile / width / height, static_cast<int>(tile / width % height), static_cast<int>(tile % width));
  }

  /// Where in the kernel a tap of a phase lies.
  long place(int phase, int tap) const {
    const int i = tap / taps(), j = tap % taps();
    return (phase / s.stride + long{s.stride} * i) * s.kernel_width + phase % s.stride + s.stride * j;
  }
  /// Its factor in G g G^T.
  float factor(int position, int tap) const {
    return weight_factor(positions(), position / positions(), tap / taps()) *
           weight_factor(positions(), position % positions(), tap % taps());
  }
  /// G g G^T of `channels` channels from `channel` on, at one position of one phase: channels x out_channels.
  void weights(const float* weight, int position, int phase, int channel, int channels, float* out) const {
    Terms of;
    for (int tap = 0; tap < taps() * taps(); ++tap)  // turned in the adjoint
      of.append(weight + (place(phase, tap) * s.channels + channel) * s.out_channels,
                factor(position, adjoint ? taps() * taps() - 1 - tap : tap));
    transforms().sum(of, out, long{channels} * s.out_channels, false);
  }
};

/// Rows of tiles, counted through all images, times columns.
struct WinogradTask {
  const WinogradShape& shape;
  int tiles;  // at a time
  const float* in;
  const float* packed;  // for each target and position k x columns
  float* out;
  bool add;
  Transforms use;

  long pitch() const { return pitch_of(shape.k()); }
  long apart() const { return tiles * pitch() + 16; }  // odd numbers of cache lines, see pitch_of
  long sums_pitch() const { return pitch_of(shape.columns()); }
  long sums_apart() const { return tiles * sums_pitch() + 16; }
  std::size_t data_size() const { return static_cast<std::size_t>(shape.all_positions() * apart()); }
  std::size_t ends_size() const { return static_cast<std::size_t>(std::max(shape.source_channels(), shape.columns())); }
  std::size_t scratch_size() const {
    return data_size() + shape.all_positions() * sums_apart() + 2 * round_up(ends_size(), 16);
  }

  void run(long first, long last, int column, int columns, float* scratch) const {
    float* sums = scratch + data_size();
    float* outside = sums + shape.all_positions() * sums_apart();  // zeros, and a place for what no one wants
    std::fill(outside, outside + 2 * ends_size(), 0.0f);
    const long end = last * shape.tile_columns();
    for (int target = 0; target < shape.targets(); ++target)
      for (long tile = first * shape.tile_columns(); tile < end; tile += tiles) {
        const int count = static_cast<int>(std::min<long>(tiles, end - tile));
        read(target, tile, count, scratch, outside);
        multiply(target, column, columns, count, scratch, sums);
        write(shape.target(target), tile, count, column, columns, sums, outside + round_up(ends_size(), 16));
      }
  }

  void read(int target, long tile, int count, float* data, const float* zeros) const {
    SpreadTile work{{}, nullptr, apart(), shape.source_channels(), 0, shape.positions()};
    shape.for_each_tile(tile, count, [&](int index, long image, int y, int x) {
      for (int source = 0; source < shape.sources(); ++source) {
        shape.source(target + source).pixels(in, image, y, x, 0, shape.positions(), zeros, work);
        work.positions = data + index * pitch() + source * shape.source_channels();
        use.spread(work, shape.positions(), false);
      }
    });
  }
  void multiply(int target, int column, int columns, int count, const float* data, float* sums) const {
    long a_rows[most_pixels], c_rows[most_pixels];
    for (int i = 0; i < count; ++i) a_rows[i] = i * pitch(), c_rows[i] = i * sums_pitch();
    Block block{};
    block.a_rows = a_rows;
    block.c_rows = c_rows;
    block.a_steps = consecutive.steps;
    block.k = shape.k();
    block.rows = count;
    block.columns = columns;
    for (int position = 0; position < shape.all_positions(); ++position) {
      block.b = packed + (target * shape.all_positions() + position) * packed_size(block.k, shape.columns()) +
                column * block.k;
      block.c = sums + position * sums_apart();
      for (long k = 0; k < block.k; k += block_depth) {
        block.a = data + position * apart() + k;
        block.depth = static_cast<int>(std::min<long>(block_depth, block.k - k));
        block.k_begin = k;
        block.add = k > 0;
        kernels()->multiply(block);
      }
    }
  }
  void write(const Phases& to, long tile, int count, int column, int columns, const float* sums, float* outside) const {
    CollectTile work{nullptr, sums_apart(), {}, columns, add};
    shape.for_each_tile(tile, count, [&](int index, long image, int y, int x) {
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
          const long pixel = to.pixel(image, y, x, i, j);
          work.pixels[i][j] = pixel < 0 ? outside : out + pixel * to.channels + column;
        }
      work.positions = sums + index * sums_pitch();
      use.collect(work, shape.positions());
    });
  }
};

}  // namespace detail

/// y (+)= convolution of x, or x (+)= adjoint convolution of y. The Finish sees rows = pixels, columns = channels.
inline void winograd(Pool& pool, Workspace& workspace, const detail::WinogradShape& shape, long images, const float* in,
                     const float* weight, float* out, bool add, Finish finish) {
  const ConvolutionShape& s = shape.s;
  if (images <= 0) return;
  const int n = shape.columns(), all = shape.all_positions(), panel = kernels()->panel_columns;
  const long k = shape.k(), tile_bytes = 4 * all * (k + n);
  const int tiles =
      static_cast<int>(std::clamp<long>((600L << 10) / tile_bytes, 24, detail::most_pixels)) / tile_rows * tile_rows;
  const std::size_t size = packed_size(k, n);
  float* packed = workspace.shared(size * all * shape.targets());
  const detail::WinogradTask work{shape, tiles, in, packed, out, add, detail::transforms()};
  workspace.reserve_workers(pool.threads(),
                            std::max(work.scratch_size(), static_cast<std::size_t>(panel * s.out_channels)));
  const long parts = detail::ceil_div(s.channels, panel);
  pool.run(all * shape.phases() * parts, [&](long task, int worker) {
    const int position = static_cast<int>(task % all), phase = static_cast<int>(task / all % shape.phases());
    const int channel = static_cast<int>(task / all / shape.phases()) * panel,
              channels = std::min(panel, s.channels - channel);
    float* plain = workspace.worker(worker);
    shape.weights(weight, position, phase, channel, channels, plain);
    if (shape.adjoint) {
      float* out_panel = packed + (phase * all + position) * size + channel * k;
      pack_rows({plain, 1, s.out_channels}, k, 0, channels, channels, out_panel, k, 0);
    } else {
      pack_rows({plain, n, 1}, channels, 0, n, n, packed + position * size, k, long{phase} * s.channels + channel);
    }
  });

  const long rows = images * shape.tile_rows(), most = std::max(1, tiles / shape.tile_columns());
  const long task_rows = most < 3 ? most : most - most % 3;  // often a multiple of the rows of a register tile
  const long tasks = detail::ceil_div(rows, task_rows);
  const long groups = tasks >= 8 ? 1 : std::min(4L, detail::ceil_div(8, tasks));  // few images: columns are shared out
  const int columns = static_cast<int>(round_up(detail::ceil_div(n, groups), panel));
  pool.run(tasks * detail::ceil_div(n, columns), [&](long task, int worker) {
    const long first = task % tasks * task_rows, last = std::min(rows, first + task_rows);
    const int column = static_cast<int>(task / tasks) * columns, count = std::min(columns, n - column);
    work.run(first, last, column, count, workspace.worker(worker));
    if (!finish.run) return;
    const int height = shape.adjoint ? s.height : s.out_height, width = shape.adjoint ? s.width : s.out_width;
    const int apart = shape.adjoint ? 2 * s.stride : 2;  // rows of pixels in a row of tiles
    detail::for_each_image(first, last, shape.tile_rows(), [&](long image, long row, long count_rows, long) {
      const long begin = row * apart, end = std::min<long>(height, (row + count_rows) * apart);
      const long pixel = (image * height + begin) * width;
      if (end > begin)
        finish.run(finish.context, out + pixel * n + column, n, static_cast<int>((end - begin) * width), count, pixel,
                   column);
    });
  });
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
