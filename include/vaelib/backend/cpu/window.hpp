// What the three products of a convolution share: its shape, copies of parts of an image with their border of zeros,
// and the blocks of depth.
//
// A window of an image with channels last is kernel_height runs of kernel_width * channels neighbouring floats. So the
// product needs no matrix of windows (im2col): it reads the runs in place, as segments of depth, from a copy that has
// the border.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vaelib/backend/cpu/microkernel.hpp>
#include <vaelib/backend/cpu/pack.hpp>
#include <vaelib/backend/shapes.hpp>
#include <vaelib/version.hpp>

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
