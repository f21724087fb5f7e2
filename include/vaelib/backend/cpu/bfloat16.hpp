// Products and convolutions of bfloat16 with sums in float, which is what "mixed precision" means on a processor:
//
//   #include <vaelib/backend/cpu/bfloat16.hpp>
//   Learner learner(model, Adam{}, Cpu(4, bfloat16_precision));
//
// Both operands are rounded to bfloat16 (the upper half of a float: 8 bits of exponent and 8 of precision), to nearest,
// ties to even; NaN stays NaN. Their products are added up in float. Everything else stays float: weights, what layers
// give to one another, biases, activations, normalisation, losses, the optimizer.
//
// Two neighbours in depth, a and b, share a word of the size of a float, a in its upper half. Then a product of depth k
// is one of words of depth k / 2: the loops, the packing and the windows of the float operations serve as they are,
// with another kernel, and half the memory is read. An odd end is filled up with zero. The channels of a convolution
// are neighbours in depth, but in the gradient of its weight the depth is pixels of all images: there, two images are.
//
// The instruction VDPBF16PS (AVX512_BF16: Zen 4, Cooper Lake and later) adds a a' first, then b b', each by a fused
// multiply-add. Without it the words are taken apart for the float kernels, which do the same in the same order. So the
// sums have the same bits on every processor that has fused multiply-add, as long as no number is below 2^-126: the
// instruction takes such numbers for zero.
//
// With VAELIB_CBLAS defined, products of bfloat16 are the library's own all the same.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vaelib/backend/cpu/precision.hpp>
#include <vaelib/core/vectorize.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {
namespace detail {

/// Rounds the bits of floats to bfloat16, in their upper halves; the lower ones are left with anything.
template <class Bits>
VAELIB_INLINE void round_upper_half(Bits& bits) {
  const Bits nan = 0u - ((0x7f800000u - (bits & 0x7fffffffu)) >> 31);  // all ones where it is one: its bits stay
  bits = (nan & (bits | 0x00400000u)) | (~nan & (bits + 0x7fffu + (bits >> 16 & 1u)));
}

typedef std::uint32_t AnyWord __attribute__((may_alias));

/// The word of two floats.
inline std::uint32_t word_of(float first, float second) {
  auto a = std::bit_cast<std::uint32_t>(first), b = std::bit_cast<std::uint32_t>(second);
  round_upper_half(a);
  round_upper_half(b);
  return (a & 0xffff0000u) | b >> 16;
}

/// Vectors of as many bits as Width floats have. Anywhere: at any address; Halves: half as many.
template <int Width>
struct WordsOf {
  typedef std::uint32_t Words __attribute__((vector_size(Width * 4)));
  typedef std::uint32_t Anywhere __attribute__((vector_size(Width * 4), aligned(4), may_alias));
  typedef std::uint64_t Doubles __attribute__((vector_size(Width * 4)));
  typedef std::uint32_t Halves __attribute__((vector_size(Width * 2)));
  typedef std::uint32_t HalvesAnywhere __attribute__((vector_size(Width * 2), aligned(4), may_alias));
};

/// out[i] = the word of first[i] and second[i], for i < count.
inline void pair_lines(const float* first, const float* second, long count, float* out) {
  vectorize([=](auto lanes) VAELIB_LOOP {
    constexpr int width = decltype(lanes)::width;
    using Words = typename WordsOf<width>::Words;
    using Anywhere = typename WordsOf<width>::Anywhere;
    long i = 0;
    for (; i + width <= count; i += width) {
      Words a = *reinterpret_cast<const Anywhere*>(first + i), b = *reinterpret_cast<const Anywhere*>(second + i);
      round_upper_half(a);
      round_upper_half(b);
      *reinterpret_cast<Anywhere*>(out + i) = (a & 0xffff0000u) | b >> 16;
    }
    for (; i < count; ++i) reinterpret_cast<AnyWord*>(out)[i] = word_of(first[i], second[i]);
  });
}

/// out[i] = the word of in[2 i] and in[2 i + 1], for 2 i < count; 0 stands for in[count].
inline void pair_few_neighbours(const float* in, long count, float* out) {
  for (long i = 0; i < count; i += 2)
    reinterpret_cast<AnyWord*>(out)[i / 2] = word_of(in[i], i + 1 < count ? in[i + 1] : 0.0f);
}
inline void pair_neighbours(const float* in, long count, float* out) {
  if (count < 16) return pair_few_neighbours(in, count, out);  // images of 1 or 3 channels
  vectorize([=](auto lanes) VAELIB_LOOP {
    constexpr int width = decltype(lanes)::width;
    using Of = WordsOf<width>;
    long i = 0;
    for (; i + width <= count; i += width) {
      typename Of::Words bits = *reinterpret_cast<const typename Of::Anywhere*>(in + i);
      round_upper_half(bits);
      const typename Of::Doubles two = (typename Of::Doubles)bits;  // the first of two in the lower half
      const typename Of::Doubles word = (two & 0xffff0000u) | two >> 48;
      *reinterpret_cast<typename Of::HalvesAnywhere*>(out + i / 2) = __builtin_convertvector(word, typename Of::Halves);
    }
    pair_few_neighbours(in + i, count - i, out + i / 2);
  });
}

/// Floats, or words, that one task converts.
inline constexpr long words_at_a_time = 1 << 14;

/// Lines of `length` floats, `apart` floats apart, whose depth runs along them: ceil(length / 2) words each.
inline void pack_neighbours(Pool& pool, const float* in, long lines, long length, long apart, float* out) {
  if (length % 2 == 0 && apart == length) length *= std::exchange(lines, 1);
  const long words = ceil_div(length, 2), group = std::max(1L, words_at_a_time / std::max(1L, length));
  const long part = std::min(length, words_at_a_time), parts = part == 0 ? 0 : ceil_div(length, part);
  pool.run(ceil_div(lines, group) * parts, [&](long task) {
    const long first = task / parts * group, begin = task % parts * part, count = std::min(part, length - begin);
    for (long line = first; line < std::min(lines, first + group); ++line)
      pair_neighbours(in + line * apart + begin, count, out + line * words + begin / 2);
  });
}

/// Groups of `lines` lines of `length` floats, `apart` floats apart, whose depth runs across them: ceil(lines / 2)
/// lines of words each.
inline void pack_lines(Pool& pool, const float* in, long groups, long lines, long length, long apart, float* out) {
  const long pairs = ceil_div(lines, 2), part = std::min(length, words_at_a_time);
  const long parts = part == 0 ? 0 : ceil_div(length, part);
  pool.run(groups * pairs * parts, [&](long task) {
    static constexpr float zeros[words_at_a_time] = {};
    const long pair = task / parts, line = pair / pairs * lines + pair % pairs * 2, begin = task % parts * part;
    const float* first = in + line * apart + begin;
    const bool odd = pair % pairs * 2 + 1 == lines;
    pair_lines(first, odd ? zeros : first + apart, std::min(part, length - begin), out + pair * length + begin);
  });
}

#if defined(__x86_64__)
/// As detail::tile, of words, by the instruction.
template <int Vectors>
[[gnu::always_inline]] __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"))) inline void
tile_of_pairs(const Block& block, const float* const (&a)[tile_rows], const float* b, float* const (&c)[tile_rows],
              int width) {
  constexpr int lanes = 16;
  using Vector = VectorOf<lanes>::Aligned;
  using Unaligned = VectorOf<lanes>::Unaligned;
  using Words = WordsOf<lanes>::Words;
  Vector sum[tile_rows][Vectors] = {};
  const int* steps = block.a_steps;
  for (const int* end = steps + block.depth; steps != end; ++steps, b += Vectors * lanes) {
    const long at = *steps;
    Vector values[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) values[j] = *reinterpret_cast<const Vector*>(b + j * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      const Words factor = *reinterpret_cast<const AnyWord*>(a[i] + at) + Words{};
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        Vector grown = sum[i][j];  // an element of an array would go through memory with GCC
        asm("vdpbf16ps {%2, %1, %0|%0, %1, %2}" : "+v"(grown) : "v"(factor), "v"(values[j]));
        sum[i][j] = grown;
      }
    }
  }
  float edge[tile_rows][Vectors * lanes];
  const bool whole = width == Vectors * lanes, add = block.add && whole;
#pragma GCC unroll 6
  for (int i = 0; i < tile_rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      Unaligned& out = *reinterpret_cast<Unaligned*>((whole ? c[i] : edge[i]) + j * lanes);
      out = add ? out + sum[i][j] : sum[i][j];
    }
  for (int i = 0; i < tile_rows && !whole; ++i)
    for (int j = 0; j < width; ++j) c[i][j] = block.add ? c[i][j] + edge[i][j] : edge[i][j];
}

template <int Vectors>
[[gnu::always_inline]] __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"))) inline void
panel_of_pairs(const Block& block, const float* b, float* c, int width) {
  for (int first = 0; first < block.rows; first += tile_rows) {
    const float* a_row[tile_rows];
    float* c_row[tile_rows];
    float unused[Vectors * 16];
#pragma GCC unroll 6
    for (int i = 0; i < tile_rows; ++i) {
      const bool present = first + i < block.rows;
      a_row[i] = block.a + block.a_rows[present ? first + i : first];
      c_row[i] = present ? c + block.c_rows[first + i] : unused;
    }
    if (first + tile_rows > block.rows && block.add) std::fill(unused, unused + Vectors * 16, 0.0f);
    tile_of_pairs<Vectors>(block, a_row, b, c_row, width);
  }
}

__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"), flatten)) inline void multiply_pairs(
    const Block& block) {
  constexpr int columns = panel_columns<16>;
  for (int j = 0; j < block.columns; j += columns) {
    const int width = std::min(columns, block.columns - j), vectors = (width + 15) / 16;
    const float* b = block.b + j * block.k + block.k_begin * (vectors * 16);
    float* c = block.c + j;
    if (vectors == 1) panel_of_pairs<1>(block, b, c, width);
    if (vectors == 2) panel_of_pairs<2>(block, b, c, width);
    if (vectors == 3) panel_of_pairs<3>(block, b, c, width);
    if (vectors == 4) panel_of_pairs<4>(block, b, c, width);
  }
}
inline bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

/// `count` lines of `width` words become twice as many of floats. The width is a multiple of the kernels' lanes, so
/// of 4.
inline void take_lines_apart(const float* words, long count, long width, float* out) {
  using Words = WordsOf<4>::Words;
  using Anywhere = WordsOf<4>::Anywhere;
  for (long p = 0; p < count; ++p)
    for (long e = 0; e < width; e += 4) {
      const Words word = *reinterpret_cast<const Anywhere*>(words + p * width + e);
      *reinterpret_cast<Anywhere*>(out + 2 * p * width + e) = word & 0xffff0000u;
      *reinterpret_cast<Anywhere*>(out + (2 * p + 1) * width + e) = word << 16;
    }
}

/// The same without the instruction: the float kernels on the numbers of the words, a few rows and a panel at a time.
inline void multiply_pairs_apart(const Block& block) {
  constexpr int rows = 4 * tile_rows, depth = 2 * block_depth, widest = 64;
  alignas(64) float a[rows * depth], b[depth * widest];
  int steps[depth];
  long a_rows[rows];
  for (int p = 0; p < depth; ++p) steps[p] = p;
  for (int i = 0; i < rows; ++i) a_rows[i] = i * depth;
  Block floats = block;
  floats.a = a;
  floats.a_rows = a_rows;
  floats.a_steps = steps;
  floats.depth = 2 * block.depth;
  floats.b = b;
  floats.k = floats.depth;
  floats.k_begin = 0;
  for (int r = 0; r < block.rows; r += rows) {
    floats.rows = std::min(rows, block.rows - r);
    floats.c_rows = block.c_rows + r;
    for (int i = 0; i < floats.rows; ++i) {
      const auto* words = reinterpret_cast<const AnyWord*>(block.a + block.a_rows[r + i]);
      auto* row = reinterpret_cast<AnyWord*>(a + i * depth);
      for (int p = 0; p < block.depth; ++p) {
        const std::uint32_t word = words[block.a_steps[p]];
        row[2 * p] = word & 0xffff0000u;
        row[2 * p + 1] = word << 16;
      }
    }
    for (int j = 0; j < block.columns; j += kernels()->panel_columns) {
      floats.columns = std::min(kernels()->panel_columns, block.columns - j);
      const long width = round_up(floats.columns, kernels()->lanes);
      take_lines_apart(block.b + j * block.k + block.k_begin * width, block.depth, width, b);
      floats.c = block.c + j;
      kernels()->multiply(floats);
    }
  }
}

inline Multiply pair_kernel() {
#if defined(__x86_64__)
  static const bool by_instruction = has_avx512_bf16();
  if (by_instruction && kernels() == &kernels_avx512) return multiply_pairs;
#endif
  return multiply_pairs_apart;
}

/// Floats of `count` lines, each of which is ceil(length / 2) words.
constexpr std::size_t words_of(long count, long length) {
  return static_cast<std::size_t>(count * ceil_div(length, 2));
}

inline void product_of_pairs(Pool& pool, Workspace& workspace, long m, int n, long k, Matrix a, Matrix b, float* c,
                             long ldc, bool add, Finish finish) {
  const long half = ceil_div(std::max(0L, k), 2);
  const std::size_t a_size = words_of(m, k);
  float *a_words = workspace.operands(a_size + words_of(n, k)), *b_words = a_words + a_size;
  const bool a_along = a.step == 1, b_across = b.step == 1;
  if (a_along)
    pack_neighbours(pool, a.data, m, k, a.row, a_words);
  else
    pack_lines(pool, a.data, 1, k, m, a.step, a_words);
  if (b_across)
    pack_lines(pool, b.data, 1, k, n, b.row, b_words);
  else
    pack_neighbours(pool, b.data, n, k, b.step, b_words);
  const Matrix left = a_along ? Matrix{a_words, half, 1} : Matrix{a_words, 1, m};
  const Matrix right = b_across ? Matrix{b_words, n, 1} : Matrix{b_words, 1, half};
  product(pair_kernel(), pool, workspace, m, n, half, left, right, c, ldc, add, finish);
}

inline void convolution_of_pairs(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                                 const float* x, const float* weight, float* y, bool add, Finish finish) {
  const long pixels = images * shape.height * shape.width, taps = long{shape.kernel_height} * shape.kernel_width;
  const std::size_t x_size = words_of(pixels, shape.channels);
  float* words = workspace.operands(x_size + words_of(taps * shape.out_channels, shape.channels));
  pack_neighbours(pool, x, pixels, shape.channels, shape.channels, words);
  pack_lines(pool, weight, taps, shape.channels, shape.out_channels, shape.out_channels, words + x_size);
  ConvolutionShape pairs = shape;
  pairs.channels = static_cast<int>(ceil_div(shape.channels, 2));
  convolution(pair_kernel(), pool, workspace, pairs, images, words, words + x_size, y, add, finish);
}

inline void convolution_adjoint_of_pairs(Pool& pool, Workspace& workspace, const ConvolutionShape& shape, long images,
                                         const float* y, const float* weight, float* x, bool add, Finish finish) {
  const long pixels = images * shape.out_height * shape.out_width;
  const long weights = long{shape.kernel_height} * shape.kernel_width * shape.channels;
  const std::size_t y_size = words_of(pixels, shape.out_channels);
  float* words = workspace.operands(y_size + words_of(weights, shape.out_channels));
  pack_neighbours(pool, y, pixels, shape.out_channels, shape.out_channels, words);
  pack_neighbours(pool, weight, weights, shape.out_channels, shape.out_channels, words + y_size);
  ConvolutionShape pairs = shape;
  pairs.out_channels = static_cast<int>(ceil_div(shape.out_channels, 2));
  convolution_adjoint(pair_kernel(), pool, workspace, pairs, images, words, words + y_size, x, add, finish);
}

inline void convolution_weight_gradient_of_pairs(Pool& pool, Workspace& workspace, const ConvolutionShape& shape,
                                                 long images, const float* x, const float* y_gradient,
                                                 float* weight_gradient, bool add) {
  const long x_image = long{shape.height} * shape.width * shape.channels;
  const long y_image = long{shape.out_height} * shape.out_width * shape.out_channels;
  const std::size_t x_size = words_of(x_image, images);
  float* words = workspace.operands(x_size + words_of(y_image, images));
  pack_lines(pool, x, 1, images, x_image, x_image, words);
  pack_lines(pool, y_gradient, 1, images, y_image, y_image, words + x_size);
  convolution_weight_gradient(pair_kernel(), pool, workspace, shape, ceil_div(images, 2), words, words + x_size,
                              weight_gradient, add);
}

}  // namespace detail
}  // namespace cpu

/// See the head of this file.
inline constexpr Precision bfloat16_precision{cpu::detail::product_of_pairs, cpu::detail::convolution_of_pairs,
                                              cpu::detail::convolution_adjoint_of_pairs,
                                              cpu::detail::convolution_weight_gradient_of_pairs};

}  // namespace vaelib::inline VAELIB_ABI
