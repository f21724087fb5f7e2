// Convolution of images with channels last, its adjoint and the gradient of its weight, as products without a matrix of
// windows.
//
//   y[o, :] (+)= sum over kernel position d of x[o * stride + d - padding, :] weight[d]        (here in one dimension)
//
// Every output is summed in one order that depends on the shape alone: the same bits for any number of threads and any
// split of the batch.
#pragma once

#include <algorithm>
#include <vaelib/backend/cpu/convolution_adjoint.hpp>
#include <vaelib/backend/cpu/convolution_gradient.hpp>
#include <vaelib/backend/cpu/product.hpp>
#include <vaelib/backend/cpu/window.hpp>
#include <vaelib/backend/cpu/winograd.hpp>
#include <vaelib/version.hpp>

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
