// The adjoint of a convolution: the gradient of its input, and the forward pass of a transposed convolution.
//
//   x[i, :] (+)= sum over outputs o and kernel positions d with o * stride + d - padding = i of weight[d] y[o]
//
// The pixels of x fall into stride x stride phases. Those of one phase are touched by the same kernel positions only,
// so each phase is a small convolution of stride 1 over y: no multiplication by zero, and every pixel is finished at
// once. With few channels (an image's colours) that would leave the vectors nearly empty; then all kernel positions are
// columns of one product instead, and its rows are added into x in a fixed order.
#pragma once

#include <algorithm>
#include <utility>
#include <vaelib/backend/cpu/product.hpp>
#include <vaelib/backend/cpu/window.hpp>
#include <vaelib/backend/cpu/winograd.hpp>
#include <vaelib/version.hpp>

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
