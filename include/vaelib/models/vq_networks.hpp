// Convolutional networks for vector-quantized models, sized at run time; van den Oord et al. 2017, section 4.1, and Razavi et al. 2019.
//
//   VqEncoder    halvings x (4x4 convolution of stride 2, ReLU), 3x3 convolution, residual blocks, ReLU, 1x1 convolution to the codes
//   VqDecoder    3x3 convolution, residual blocks, ReLU, halvings x (ReLU between) 4x4 transposed convolutions of stride 2
//
//   VqDiscriminator    of patches: layers/patch_discriminator.hpp
//
// Images of height x width become codes of height / 2^halvings x width / 2^halvings. The first convolutions have half the width.
#pragma once

#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/patch_discriminator.hpp>
#include <vaelib/layers/residual.hpp>

#include <vector>

namespace vaelib::inline VAELIB_ABI {

struct VqNetwork {
  int halvings = 2;            ///< 1 to 6
  int width = 128;             ///< channels within
  int hidden = 32, blocks = 2; ///< of the residual blocks: their inner channels, their number
  int code_width = 64;         ///< channels of the codes
};

namespace detail {

using VqBlock = Residual<ReLU, Conv2d<dynamic, 3, 1, 1>, ReLU, Conv2d<dynamic, 1>>;
inline constexpr Shape any_image{dynamic, dynamic, dynamic};

[[gnu::cold]] inline std::vector<VqBlock> vq_blocks(const VqNetwork& n, Shape shape) {
  std::vector<VqBlock> blocks;
  for (int b = 0; b < n.blocks; ++b) {
    blocks.push_back(VqBlock({}, Conv2d<dynamic, 3, 1, 1>{{n.hidden}}, {}, Conv2d<dynamic, 1>{{n.width}}));
    blocks.back().build(shape);
  }
  return blocks;
}

[[gnu::cold]] inline void check_vq_network(const VqNetwork& n, Shape image) {
  if (n.halvings < 1 || n.halvings > 6) fail("vaelib: images are halved 1 to 6 times, found ", n.halvings);
  if (n.width < 2 || n.hidden < 1 || n.blocks < 0 || n.code_width < 1) fail("vaelib: a network of width ", n.width, ", ", n.blocks, " blocks of ", n.hidden, " and codes of ", n.code_width);
  const int part = 1 << n.halvings;
  if (image.is_dynamic() || image.size() < 1) fail("vaelib: a VqEncoder needs the shape of the images, found ", text_of(image));
  if (image.height % part != 0 || image.width % part != 0)
    fail("vaelib: images of ", text_of(image), " cannot be halved ", n.halvings, " times; expected height and width that are multiples of ", part);
}

}  // namespace detail

struct VqEncoder {
  static constexpr Shape takes = detail::any_image, makes = detail::any_image;
  VqNetwork network{};
  Shape input_shape = takes, output_shape = makes;
  std::vector<Conv2d<dynamic, 4, 2, 1>> down{};
  Conv2d<dynamic, 3, 1, 1> middle{};
  std::vector<detail::VqBlock> blocks{};
  Conv2d<dynamic, 1> last{};

  VqEncoder() = default;
  explicit VqEncoder(Shape image, VqNetwork n = {}) : network(n), input_shape(image) {}

  [[gnu::cold]] void build() {
    detail::check_vq_network(network, input_shape);
    Shape at = input_shape;
    down.clear();
    for (int h = 0; h < network.halvings; ++h) {
      down.push_back({{h + 1 < network.halvings || network.halvings == 1 ? network.width / 2 : network.width}});
      down.back().build(at);
      at = down.back().output(at);
    }
    middle.out = network.width;
    middle.build(at);
    at = middle.output(at);
    blocks = detail::vq_blocks(network, at);
    last.out = network.code_width;
    last.build(at);
    output_shape = last.output(at);
  }
  void fields(auto&& f) {
    each(f, "down", down);
    f("middle", middle);
    each(f, "blocks", blocks);
    f("last", last);
  }
  template <class S, class V>
  auto operator()(S& step, V x) const {
    if (x.shape != input_shape) fail("vaelib: expected images of ", text_of(input_shape), ", found ", text_of(x.shape));
    Var<typename V::Real, makes> y = x;
    for (const auto& layer : down) y = layer.forward(step, y, ReLU{});
    y = middle.forward(step, y);
    for (const auto& block : blocks) y = block.forward(step, y);
    return last.forward(step, map(step, ReLU{}, y));
  }

 private:
  static void each(auto& f, const char* name, auto& layers) {
    for (std::size_t i = 0; i < layers.size(); ++i) f(text(name, '.', i), layers[i]);
  }
  friend struct VqDecoder;
};

struct VqDecoder {
  static constexpr Shape takes = detail::any_image, makes = detail::any_image;
  VqNetwork network{};
  int channels = 3;  ///< of the images
  Shape input_shape = takes, output_shape = makes;
  Conv2d<dynamic, 3, 1, 1> middle{};
  std::vector<detail::VqBlock> blocks{};
  std::vector<ConvTranspose2d<dynamic, 4, 2, 1>> up{};

  VqDecoder() = default;
  explicit VqDecoder(int image_channels, VqNetwork n = {}) : network(n), channels(image_channels) {}

  [[gnu::cold]] void build(Shape codes) {
    input_shape = codes;
    middle.out = network.width;
    middle.build(codes);
    Shape at = middle.output(codes);
    blocks = detail::vq_blocks(network, at);
    up.clear();
    for (int h = 0; h < network.halvings; ++h) {
      up.push_back({{h + 1 < network.halvings ? network.width / 2 : channels}});
      up.back().build(at);
      at = up.back().output(at);
    }
    output_shape = at;
  }
  void fields(auto&& f) {
    f("middle", middle);
    VqEncoder::each(f, "blocks", blocks);
    VqEncoder::each(f, "up", up);
  }
  template <class S, class V>
  auto operator()(S& step, V q) const {
    Var<typename V::Real, makes> y = middle.forward(step, Var<typename V::Real, takes>{q.node, q.shape});
    for (const auto& block : blocks) y = block.forward(step, y);
    y = map(step, ReLU{}, y);
    for (std::size_t i = 0; i + 1 < up.size(); ++i) y = up[i].forward(step, y, ReLU{});
    return up.back().forward(step, y);
  }
};

/// layers/patch_discriminator.hpp with width and layers chosen at run time; its numbers have the same names.
struct VqDiscriminator {
  static constexpr Shape takes = detail::any_image, makes = detail::any_image;
  int width = 64, layers = 3;  ///< 1 to 6 layers of stride 2
  Shape input_shape = takes, output_shape = makes;
  std::vector<Conv2d<dynamic, 4, 2, 1>> down{};
  Conv2d<dynamic, 4, 1, 1> wide{}, last{};
  std::vector<BatchNorm> norms{};

  [[gnu::cold]] void build(Shape image) {
    input_shape = image;
    if (layers < 1 || layers > 6 || width < 1) fail("vaelib: a discriminator of ", layers, " layers and width ", width);
    if ((image.height >> layers) < 3 || (image.width >> layers) < 3)
      fail("vaelib: a discriminator of ", layers, " layers halves images ", layers, " times, and needs 3 pixels then; found shape ", text_of(image));
    Shape at = image;
    const auto add = [&](auto& convolution, int channels) {
      convolution.out = channels;
      convolution.build(at);
      at = convolution.output(at);
    };
    const auto width_of = [&](int layer) { return width * (layer < 3 ? 1 << layer : 8); };
    down.assign(std::size_t(layers), {});
    norms.assign(std::size_t(layers), {});
    for (int i = 0; i < layers; ++i) {
      add(down[std::size_t(i)], width_of(i));
      if (i > 0) norms[std::size_t(i) - 1].build(at);
    }
    add(wide, width_of(layers));
    norms.back().build(at);
    add(last, 1);
    output_shape = at;
  }
  void build() { build(input_shape); }
  void fields(auto&& f) {
    int number = 0;  // the place in the chain, leaky ReLUs included
    for (int i = 0; i < layers; ++i) {
      f(std::to_string(number), down[std::size_t(i)]);
      number += 2;
      if (i > 0) f(std::to_string(number++ - 1), norms[std::size_t(i) - 1]);
    }
    f(std::to_string(number), wide);
    f(std::to_string(number + 1), norms.back());
    f(std::to_string(number + 3), last);
  }
  template <class S, class V>
  auto operator()(S& step, V x) const {
    Var<typename V::Real, makes> y = x;
    y = down[0].forward(step, y, SteepLeakyReLU{});
    for (std::size_t i = 0; i < norms.size(); ++i) {
      y = i + 1 < down.size() ? down[i + 1].forward(step, y) : wide.forward(step, y);
      y = map(step, SteepLeakyReLU{}, norms[i].forward(step, y));
    }
    return last.forward(step, y);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
