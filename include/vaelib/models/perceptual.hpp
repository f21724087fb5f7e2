// The perceptual distance of two images: how different they are to a network; Zhang et al. 2018, "The unreasonable
// effectiveness of deep features as a perceptual metric" (LPIPS).
//
//   d(y, x) = sum over stages l, mean over pixels, sum over channels c of w_lc (g_lc(y) - g_lc(x))^2
//   g_l = f_l / |f_l|
//
// where f_l are the channels behind the last ReLU of stage l. The network is a VGG: stages of 3x3 convolutions, each
// with a ReLU, and between two stages the largest of each 2x2 pixels. It takes (2 x - 1 - shift) / scale for images x
// from 0 to 1, channel by channel.
//
// Its numbers belong to nobody's parameters: they are neither trained nor saved with a model, and gradients go to y
// only. They come from a file (io/feature_file.hpp) or from a classifier that was trained on the same images
// (models/feature_classifier.hpp).
#pragma once

#include <vaelib/core/buffer.hpp>
#include <vaelib/layers/pooling.hpp>
#include <vaelib/quantizers/quantizer.hpp>

#include <memory>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A 3x3 convolution with padding 1 and the ReLU behind it.
struct FeatureLayer {
  int in = 0, out = 0;
  bool after_pool = false;     ///< the first of a later stage
  Buffer<float> weight, bias;  ///< 3 x 3 x in x out; out
  Buffer<float> importance;    ///< w of the stage that ends here, `out` numbers; none elsewhere
};

struct FeatureNetwork {
  std::vector<FeatureLayer> layers;
  Buffer<float> shift, scale;  ///< of the images, by channel

  int channels() const { return layers.empty() ? 0 : layers.front().in; }

  /// Error unless images of this shape can be looked at. An image of one channel is shown to all channels of the
  /// network.
  [[gnu::cold]] void check(Shape image) const {
    if (layers.empty()) fail("vaelib: a perceptual loss wants a network of at least one convolution");
    if (image.channels != channels() && image.channels != 1)
      fail("vaelib: images of ", image.channels, " channels, the perceptual network takes ", channels());
    int pools = 0;
    for (const auto& layer : layers) pools += layer.after_pool;
    if (image.height >> pools < 1 || image.width >> pools < 1)
      fail("vaelib: the perceptual network halves its images ", pools, " times, which is too often for shape ",
           text_of(image));
  }
};

namespace detail {

/// Frozen numbers in the type of a step.
template <class S>
auto frozen(S& step, const Buffer<float>& numbers) -> const typename S::Real* {
  using R = typename S::Real;
  if constexpr (std::is_same_v<R, float>) {
    return numbers.data();
  } else {
    R* converted = step.arena.template allocate<R>(numbers.size());
    std::copy(numbers.begin(), numbers.end(), converted);
    return converted;
  }
}

/// f(x * weight + bias) where nothing but x takes a gradient.
template <class S, class R, class F>
Node<R>* frozen_convolution(S& step, Node<R>* x, const ConvolutionShape& shape, const R* weight, const R* bias,
                            F activation) {
  const long pixels = long(shape.out_height) * shape.out_width, images = x->space->count;
  auto* y = step.node(x->space, pixels * shape.out_channels, step.needs_gradient(x));
  step.backend.convolution(shape, images, x->value, weight, y->value, false, bias, activation);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto t = s.target(x);
      if (!t) return;
      constexpr bool unchanged = std::is_same_v<F, Identity>;
      const auto scratch = s.scratch(unchanged ? 0 : y->size());
      R* gradient = unchanged ? y->gradient : scratch.data;
      s.backend.output_gradient(activation, images * pixels, shape.out_channels, y->value, y->gradient, gradient,
                                Target<R>{});
      s.backend.convolution_adjoint(shape, images, gradient, weight, t.data, t.add);
    });
  return y;
}

struct WeightedSquare {
  VAELIB_HD constexpr auto operator()(auto a, auto b, auto weight) const {
    const auto difference = a - b;
    return weight * (difference * difference);
  }
};

}  // namespace detail

/// The distance of images y to images x, both from 0 to 1, mean over the batch: one number. y takes the gradient.
template <class S, class R, Shape A, Shape B>
Var<R, Shape{1}> perceptual_distance(S& step, const FeatureNetwork& network, Var<R, A> y, Var<R, B> x) {
  constexpr Shape any{dynamic, dynamic, dynamic};
  using Tensor = Var<R, any>;
  network.check(y.shape);
  const int in = y.shape.channels, channels = network.channels();
  // the images as the network takes them: a convolution of 1x1, which brings one channel to all
  R* weight = step.arena.template allocate<R>(long(in) * channels);
  R* bias = step.arena.template allocate<R>(channels);
  for (int c = 0; c < channels; ++c) {
    const R scale = R(network.scale[c]);
    for (int i = 0; i < in; ++i) weight[i * channels + c] = i == c || in == 1 ? 2 / scale : R(0);
    bias[c] = (-1 - R(network.shift[c])) / scale;
  }
  const auto convolve = [&](Tensor image, int to, int kernel, const R* w, const R* b, auto activation) {
    const auto [h, wide, from] = image.shape;
    const ConvolutionShape shape{h, wide, from, h, wide, to, kernel, kernel, 1, kernel / 2};
    return Tensor{detail::frozen_convolution(step, image.node, shape, w, b, activation), {h, wide, to}};
  };
  const auto pool = [&](Tensor image) {
    return Tensor{detail::max_pool(step, image.node, MaxPool2d<2>::windows(image.shape)),
                 MaxPool2d<2>::output(image.shape)};
  };
  Tensor a = convolve(Tensor{y.node, y.shape}, channels, 1, weight, bias, Identity{});
  Tensor b = convolve(Tensor{x.node, x.shape}, channels, 1, weight, bias, Identity{});
  auto sum = detail::known(step, 0);
  for (const auto& layer : network.layers) {
    const R *w = detail::frozen(step, layer.weight), *offset = detail::frozen(step, layer.bias);
    if (layer.after_pool) {
      a = pool(a);
      b = pool(b);
    }
    a = convolve(a, layer.out, 3, w, offset, ReLU{});
    b = convolve(b, layer.out, 3, w, offset, ReLU{});
    if (layer.importance.size() == 0) continue;
    const Tensor p = unit_vectors(step, a), q = unit_vectors(step, b);
    auto* squares = detail::map(step, detail::WeightedSquare{}, p.node, layer.out, p.node, Given<R>{q.value()},
                                PerColumn<R>{detail::frozen(step, layer.importance)});
    const auto mean = mean_rows(step, sum_features(step, Tensor{squares, p.shape}));
    sum = map_few(step, Add{}, sum, map_few(step, ScaleBy{float(1 / (double(p.shape.height) * p.shape.width))}, mean));
  }
  return sum;
}

/// The perceptual loss of a model: by a network, or none().
struct Perceptual {
  std::shared_ptr<const FeatureNetwork> network{};
  bool wanted = true;

  Perceptual() = default;
  [[gnu::cold]] explicit Perceptual(FeatureNetwork n) : network(new FeatureNetwork(std::move(n))) {}
  [[gnu::cold]] static Perceptual none() {
    Perceptual p;
    p.wanted = false;
    return p;
  }

  [[gnu::cold]] void check(Shape image) const {
    if (wanted && !network) fail("vaelib: a perceptual loss was given no network; Perceptual::none() goes without one");
    if (network) network->check(image);
  }
  template <class S, class V, class X>
  auto operator()(S& step, V y, X x) const {
    return network ? perceptual_distance(step, *network, y, x) : detail::known(step, 0);
  }
};

namespace detail {

/// A convolution by its place in a chain of layers that are numbered as torchvision's VGGs are.
struct NumberedConvolution {
  long number = 0;
  FeatureLayer layer;
};

/// The network of convolutions with growing numbers: 2 behind the one before (its ReLU lies between) in the same stage,
/// 3 (its ReLU and a pool) in the next. importance[l] belongs to stage l; where there is none, all channels count 1.
/// `where` is for errors.
[[gnu::cold]] inline FeatureNetwork network_of(std::vector<NumberedConvolution> convolutions,
                                               std::vector<Buffer<float>> importance, const std::string& where) {
  FeatureNetwork network;
  const std::size_t count = convolutions.size();
  if (count == 0) fail(where, ": has no convolutions of a perceptual network");
  std::size_t stage = 0;
  for (std::size_t i = 0; i < count; ++i) {
    auto& [number, layer] = convolutions[i];
    if (i > 0) {
      const long gap = number - convolutions[i - 1].number;
      if (gap != 2 && gap != 3)
        fail(where, ": convolution ", number, " comes behind convolution ", convolutions[i - 1].number,
             ", expected 2 more (a ReLU in between) or 3 (a ReLU and a pool)");
      if (layer.in != network.layers.back().out)
        fail(where, ": convolution ", number, " takes ", layer.in, " channels, the one before gives ",
             network.layers.back().out);
      layer.after_pool = gap == 3;
    }
    if (i + 1 == count || convolutions[i + 1].number - number == 3) {
      if (importance.empty()) {
        layer.importance.resize(layer.out);
        std::fill_n(layer.importance.data(), layer.out, 1.0f);
      } else if (stage >= importance.size() || importance[stage].size() != layer.out) {
        fail(where, ": stage ", stage, " has ", layer.out, " channels, expected as many weights, found ",
             stage < importance.size() ? importance[stage].size() : 0);
      } else {
        layer.importance = std::move(importance[stage]);
      }
      ++stage;
    }
    network.layers.push_back(std::move(layer));
  }
  if (!importance.empty() && stage != importance.size())
    fail(where, ": has weights for ", importance.size(), " stages, expected ", stage);
  network.shift.resize(network.channels());
  network.scale.resize(network.channels());
  std::fill_n(network.scale.data(), network.channels(), 1.0f);
  return network;
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
