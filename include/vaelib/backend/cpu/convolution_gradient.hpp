// The gradient of a convolution's weight:
//
//   dweight[d] (+)= sum over images and outputs o of x[o * stride + d - padding]^T dy[o]
//
// A product whose depth is all output pixels. The depth is cut into chunks of rows of outputs, by the shape and the
// number of images only; their sums are added one after another.
#pragma once

#include <algorithm>
#include <vaelib/backend/cpu/product.hpp>
#include <vaelib/backend/cpu/window.hpp>
#include <vaelib/backend/cpu/winograd_gradient.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// Some rows of the kernel and a chunk of the output rows.
struct WeightGradientTask {
  const ConvolutionShape& shape;
  Windows windows;
  const float* x;
  const float* y_gradient;
  float* out;  // of the first of these kernel rows
  bool add;
  Multiply kernel;

  long group() const { return std::max(1, block_depth / shape.out_width); }
  std::size_t window_size() const { return static_cast<std::size_t>(round_up(long(windows.size(group())), 16)); }
  std::size_t scratch_size() const {
    return window_size() + packed_size(group() * shape.out_width, shape.out_channels) + packed_tiles_size(most_pixels);
  }

  void run(long first, long last, float* scratch) {
    float* packed = scratch + window_size();
    const long n = shape.out_channels, apart = long{shape.stride} * shape.channels;
    long row_begin[block_depth];
    int steps[block_depth];
    for (long r = first; r < last; r += group()) {
      const long rows = std::min(group(), last - r), pixels = rows * shape.out_width;
      windows.gather(x, r, r + rows, scratch, row_begin);
      const Matrix gradients{y_gradient + r * shape.out_width * n, n, 1};
      pack_rows(gradients, pixels, 0, shape.out_channels, shape.out_channels, packed, pixels, 0);
      for (long p = 0; p < pixels; p += block_depth) {
        const long depth = std::min<long>(block_depth, pixels - p);
        long row = p / shape.out_width, column = p % shape.out_width;
        for (long i = 0; i < depth; ++i) {
          steps[i] = static_cast<int>(row_begin[row] + column * apart);
          if (++column == shape.out_width) ++row, column = 0;
        }
        multiply(scratch, steps, static_cast<int>(depth), packed, pixels, p,
                 packed + packed_size(group() * shape.out_width, shape.out_channels));
        add = true;
      }
    }
  }

  void multiply(const float* window, const int* steps, int depth, const float* packed, long pixels, long k_begin,
                float* tiles) const {
    const long run = long{shape.kernel_width} * shape.channels, m = windows.kernel_rows * run;
    long x_rows[most_pixels], a_rows[most_pixels], c_rows[most_pixels];
    Block block{};
    block.depth = depth;
    block.b = packed;
    block.k = pixels;
    block.k_begin = k_begin;
    block.c = out;
    block.c_rows = c_rows;
    block.columns = shape.out_channels;
    block.add = add;
    for (long i = 0; i < m; i += most_pixels) {
      block.rows = static_cast<int>(std::min<long>(most_pixels, m - i));
      for (int r = 0; r < block.rows; ++r) {
        x_rows[r] = (i + r) / run * windows.pitch() + (i + r) % run;
        c_rows[r] = (i + r) * shape.out_channels;
      }
      if (shape.out_channels >= 48) {  // read often enough to be worth a copy
        pack_tiles(
            window, x_rows, [&](int p) { return steps[p]; }, block.rows, depth, tiles, a_rows);
        block.a = tiles;
        block.a_rows = a_rows;
        block.a_steps = packed_steps.steps;
      } else {
        block.a = window;
        block.a_rows = x_rows;
        block.a_steps = steps;
      }
      kernel(block);
    }
  }
};

}  // namespace detail

/// See the head of this file.
inline void convolution_weight_gradient(Multiply kernel, Pool& pool, Workspace& workspace,
                                        const ConvolutionShape& shape, long images, const float* x,
                                        const float* y_gradient, float* weight_gradient, bool add) {
  const long rows = images * shape.out_height,
             row_size = long{shape.kernel_width} * shape.channels * shape.out_channels;
  const long size = shape.kernel_height * row_size;
  if (size <= 0) return;
  if (rows <= 0 || shape.out_width <= 0) {
    if (!add) std::fill(weight_gradient, weight_gradient + size, 0.0f);
    return;
  }
  const long pixels = rows * shape.out_width;
  const long most = std::clamp<long>((1L << 20) / size, 1, 32);  // 4 MB of partial sums
  const long chunk = detail::ceil_div(rows, std::clamp<long>(pixels / 512, 1, most)),
             chunks = detail::ceil_div(rows, chunk);
  const int kernel_rows = chunks >= 8 ? shape.kernel_height : 1, groups = shape.kernel_height / kernel_rows;
  float* partial = workspace.shared(static_cast<std::size_t>((chunks - 1) * size));
  const detail::WeightGradientTask any{shape, {shape, 0, kernel_rows}, x, y_gradient, nullptr, false, kernel};
  workspace.reserve_workers(pool.threads(), any.scratch_size());
  pool.run(chunks * groups, [&](long task, int worker) {
    const long part = task / groups, first = part * chunk;
    const int kernel_row = static_cast<int>(task % groups) * kernel_rows;
    float* out = (part == 0 ? weight_gradient : partial + (part - 1) * size) + kernel_row * row_size;
    detail::WeightGradientTask work{shape, {shape, kernel_row, kernel_rows}, x, y_gradient, out, part == 0 && add,
                                    kernel};
    work.run(first, std::min(rows, first + chunk), workspace.worker(worker));
  });
  if (chunks == 1) return;
  constexpr long piece = 4096;
  pool.run(detail::ceil_div(size, piece), [&](long task) {
    const long begin = task * piece, count = std::min(piece, size - begin);
    for (long part = 0; part < chunks - 1; ++part)
      detail::add_run(partial + part * size + begin, weight_gradient + begin, count);
  });
}
inline void convolution_weight_gradient(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                                        const float* x, const float* y_gradient, float* weight_gradient, bool add) {
  if (images > 0 && detail::Winograd::pays(shape))
    return winograd_gradient(pool, workspace, shape, images, x, y_gradient, weight_gradient, add);
  convolution_weight_gradient(kernels()->multiply, pool, workspace, shape, images, x, y_gradient, weight_gradient, add);
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
