// PixelCnn: a prior over grids of codes, p(codes) = product of p(code | codes before it in reading order), by gated
// masked convolutions in two stacks; van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders".
//
//   vertical     v = v + gate(a)             a = conv(v) of the rows above      in block 0 the convolution is of the
//   codes horizontal   h = h + W gate(b + U a)     b = conv(h) of the row so far logits       W relu(W relu(h))
//
// Here the vertical stack has residual connections too, and gates are linear units (layers/gated.hpp) rather than tanh.
// The loss is the negative log-likelihood in nats a sample.
#pragma once

#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/gated.hpp>
#include <vaelib/layers/masked_convolution.hpp>
#include <vaelib/priors/codes.hpp>
#include <vaelib/priors/sampling.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// A convolution of kernel 1 for images of any size.
struct Pixelwise : Conv2d<dynamic, 1> {
  template <class S, class V, class F = Identity>
  V forward(S& step, V x, F activation = {}) const {
    const Shape in = x.shape, to = output(in);
    const ConvolutionShape of_image{in.height, in.width, in.channels, in.height, in.width, to.channels, 1, 1, 1, 0};
    return {convolve(step, x.node, to, true, of_image, weight, bias, activation), to};
  }
};

struct PixelCnnBlock {
  MaskedConv2d<dynamic, 3, Mask2d::above_or_level> vertical{};
  MaskedConv2d<dynamic, 3, Mask2d::left_or_self> horizontal{};
  Pixelwise link{}, output{};

  [[gnu::cold]] void build(Shape in) {
    const int channels = in.channels;
    vertical.out = horizontal.out = link.out = 2 * channels;
    output.out = channels;
    vertical.build(in);
    horizontal.build(in);
    link.build({in.height, in.width, 2 * channels});
    output.build(in);
  }
  void fields(auto&& f) {
    f("vertical", vertical);
    f("horizontal", horizontal);
    f("link", link);
    f("output", output);
  }
};

}  // namespace detail

struct PixelCnn {
  Shape grid{8, 8, 1};  ///< height x width x 1 codes
  int codes = 512;      ///< how many there are to choose from
  int channels = 64, layers = 6;

  Embedding<dynamic, dynamic> embedding{};
  MaskedConv2d<dynamic, 5, Mask2d::above> vertical{};
  MaskedConv2d<dynamic, 5, Mask2d::left> horizontal{};
  detail::Pixelwise link{}, hidden{}, head{};
  detail::Stack<detail::PixelCnnBlock> stack{};
  Categorical likelihood{};

  [[gnu::cold]] void build() {
    detail::check_prior(grid, codes);
    if (channels < 1 || layers < 1)
      fail("vaelib: a PixelCnn of ", channels, " channels and ", layers, " layers, expected at least 1 of each");
    const Shape in{grid.height, grid.width, channels};
    likelihood.largest = float(codes - 1);
    embedding.count = codes;
    embedding.out = vertical.out = horizontal.out = link.out = hidden.out = channels;
    head.out = codes;
    embedding.build();
    vertical.build(in);
    horizontal.build(in);
    link.build(in);
    hidden.build(in);
    head.build(in);
    stack.blocks.resize(layers);
    for (auto& block : stack.blocks) block.build(in);
  }
  void fields(auto&& f) {
    f("embedding", embedding);
    f("vertical", vertical);
    f("horizontal", horizontal);
    f("link", link);
    f("blocks", stack);
    f("hidden", hidden);
    f("head", head);
  }
  Shape input_shape() const { return grid; }

  /// Mean over the samples of -log p, in nats.
  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const std::int32_t* targets = codes_of(step, batch, grid, codes);
    return mean_rows(step, likelihood.nll(step, logits(step, batch.space, targets), targets));
  }
  /// Of each code given those before it: height x width x codes. `given` is kept alive by the caller until the step is
  /// over.
  template <class S>
  auto logits(S& step, const RowSpace* space, const std::int32_t* given) const {
    const auto x = embedding(step, space, grid, given);
    return across(step, x, down(step, x));
  }

  /// Draws grids of codes, rows x height x width: choose(position, logits, stride) is given the logits at a position,
  /// those of row r at logits + r * stride, and sets the codes there. The vertical stack is computed once a row of
  /// codes, the horizontal one in the row alone.
  template <class S>
  void sample(S& step, const RowSpace* space, std::int32_t* drawn, auto&& choose) const {
    const int width = grid.width, size = grid.size();
    std::fill_n(drawn, space->count * size, 0);
    auto* given = step.arena.template allocate<std::int32_t>(space->count * size);
    const auto see = [&](int first, int count) {  // `count` rows of codes from row `first` on
      for (long r = 0; r < space->count; ++r)
        std::copy_n(drawn + r * size + first * width, count * width, given + r * count * width);
      return embedding(step, space, Shape{count, width, 1}, given);
    };
    for (int y = 0; y < grid.height; ++y) {
      const auto before_row = step.position();
      auto* links = down(step, see(0, y + 1));
      for (int l = 0; l <= layers; ++l) links[l] = last_row(step, links[l]);
      for (int x = 0; x < width; ++x) {
        const auto before = step.position();
        choose(y * width + x, across(step, see(y, 1), links).value() + x * codes, long(width) * codes);
        step.forget(before);
      }
      step.forget(before_row);
    }
  }

 private:
  /// The vertical stack: what it tells the horizontal one at its beginning and in each block.
  template <class S, class V>
  V* down(S& step, V x) const {
    V* links = step.arena.template allocate<V>(layers + 1);
    V v = vertical.forward(step, x);
    links[0] = link.forward(step, v);
    for (int l = 0; l < layers; ++l) {
      const V a = stack.blocks[l].vertical.forward(step, v);
      links[l + 1] = stack.blocks[l].link.forward(step, a);
      if (l + 1 < layers) v = add(step, v, Gated{}.forward(step, a));
    }
    return links;
  }
  /// The horizontal stack, and logits.
  template <class S, class V>
  V across(S& step, V x, const V* links) const {
    V h = add(step, horizontal.forward(step, x), links[0]);
    for (int l = 0; l < layers; ++l) {
      const auto& block = stack.blocks[l];
      const V b = add(step, block.horizontal.forward(step, h), links[l + 1]);
      h = add(step, h, block.output.forward(step, Gated{}.forward(step, b)));
    }
    return head.forward(step, hidden.forward(step, map(step, ReLU{}, h), ReLU{}));
  }
  template <class S, class V>
  static V last_row(S& step, V x) {
    const long row = long(x.shape.width) * x.shape.channels;
    V y = step.template variable<V::static_shape>(x.space(), {1, x.shape.width, x.shape.channels}, false);
    step.backend.copy_columns(x.rows(), row, x.value() + (x.shape.height - 1) * row, x.features(), y.value(), row,
                              false);
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
