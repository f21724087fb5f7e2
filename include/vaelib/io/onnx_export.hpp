// Encoders and decoders as ONNX files: the graph of evaluation, with the weights by PyTorch's names and layouts.
//
//   encoder   input: N x channels x height x width, or N x features     (labels: N, int64)
//             mean, log_variance of q(z|x): N x latent, the log-variance as the library uses it (softly clamped)
//   decoder   code: N x latent     (labels: N, int64)
//             output: the mean of p(x|z), of the encoder's input shape (for Bernoulli: probabilities, not logits)
//
// Images are channels first, as in PyTorch; flat samples are the rows of this library. Layers without an ONNX form
// (attention of ragged rows, and own layers) are a compile error that names the layer. An own layer, activation or
// likelihood gets its form by an overload beside it:
//
//   OnnxValue export_onnx(OnnxExport& out, const Swish&, OnnxValue x) {
//     return x.named(out.node("Mul", {x.name, out.node("Sigmoid", {x.name})}));
//   }
#pragma once

#include <vaelib/io/onnx.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/dropout.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/gated.hpp>
#include <vaelib/layers/group_norm.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/pooling.hpp>
#include <vaelib/layers/residual.hpp>
#include <vaelib/likelihoods/continuous_bernoulli.hpp>
#include <vaelib/likelihoods/laplace.hpp>
#include <vaelib/models/vae.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class Layer>
struct has_no_onnx_form;  // never defined, so that the compiler prints its argument

/// What goes from one operator to the next: N x channels x height x width where `image`, else N x features.
struct OnnxValue {
  std::string name;
  Shape shape;         ///< of a sample, as the library has it
  bool image = false;  ///< has four axes; a shape of one pixel may have two or four
  Shape order{1};  ///< of N x features: the image that was flattened, channels first; flat: as in this library

  OnnxValue named(std::string other) const { return {std::move(other), shape, image, order}; }
};

/// A graph in the making, and the weights that it takes its numbers from.
class OnnxExport : public OnnxGraph {
 public:
  template <class Weights>
  OnnxExport(std::string_view name, const Weights& weights)
      : OnnxGraph(name), values(weights.values.data()), states(weights.state.data()) {
    for (const auto& [path, leaf] : weights.parameters) parameter_names.push_back({path});
    for (const auto& [path, leaf] : weights.states) state_names.push_back({path});
  }

  /// An input of the graph: images, or rows where the shape is flat.
  OnnxValue input_of(std::string_view name, Shape shape) {
    input(name, OnnxType::f32, extents_of(shape));
    return {std::string(name), shape, !shape.is_flat()};
  }
  /// An output of the graph.
  void output_of(std::string_view name, OnnxValue x) {
    output(name, OnnxType::f32, extents_of(x.shape));
    alias((x.shape.is_flat() ? rows(x, Shape{1}) : x).name, name);
  }

  /// Any layer, activation or likelihood (the mean of the distribution), by its export_onnx.
  template <class Layer>
  OnnxValue apply(const Layer& layer, const OnnxValue& x) {
    if constexpr (requires { export_onnx(*this, layer, x); }) {
      OnnxValue y = export_onnx(*this, layer, x);
      if constexpr (requires { layer.output(x.shape); }) y.shape = layer.output(x.shape);
      return y;
    } else {
      return has_no_onnx_form<Layer>::value;
    }
  }

  /// The name of a parameter's tensor, of the extents that it has in files unless others are given.
  std::string parameter(const Parameter& p, const Extents& extents) {
    return leaf(parameter_names.at(std::size_t(p.id)), p.size(), extents, [&](float* to) {
      detail::for_each_place(p, [&](long there, long here) { to[there] = values[p.offset + here]; });
    });
  }
  std::string parameter(const Parameter& p) { return parameter(p, detail::file_shape(p)); }
  std::string state(const State& s) {
    return leaf(state_names.at(std::size_t(s.id)), s.size(), {s.size()}, [&](float* to) {
      for (long k = 0; k < s.size(); ++k) to[k] = states[s.offset + detail::feature_here(s.order, s.size(), k)];
    });
  }
  /// A parameter of one number a channel, of extents and in the order that go beside x.
  std::string channelwise(Parameter p, const OnnxValue& x) {
    p.out_order = x.order;
    return parameter(p, x.image ? Extents{p.size(), 1, 1} : Extents{p.size()});
  }

  /// With four axes.
  OnnxValue image(const OnnxValue& x) {
    return x.image ? x : reshaped(rows(x, Shape{1}), {0, x.shape.channels, x.shape.height, x.shape.width}, true);
  }
  /// With two axes, the features in the wanted order.
  OnnxValue rows(OnnxValue x, Shape order) {
    if (x.image) {
      x = x.named(node("Flatten", {x.name}, {{"axis", 1}}));
      x.image = false;
      x.order = x.shape;
    }
    x.order = meaningful(x.order, x.shape.size());
    order = meaningful(order, x.shape.size());
    const std::int64_t size = x.shape.size();
    if (x.order == order) return x;
    if (!x.order.is_flat()) {  // to the order of this library
      const OnnxValue planes = reshaped(x, {0, x.order.channels, x.order.height, x.order.width}, true);
      x = reshaped(planes.named(node("Transpose", {planes.name}, {{"perm", {0, 2, 3, 1}}})), {0, size}, false);
    }
    if (!order.is_flat()) {  // and from it
      const OnnxValue pixels = reshaped(x, {0, order.height, order.width, order.channels}, true);
      x = reshaped(pixels.named(node("Transpose", {pixels.name}, {{"perm", {0, 3, 1, 2}}})), {0, size}, false);
    }
    x.order = order;
    return x;
  }
  /// The same numbers; an extent of 0 is left as it is.
  OnnxValue reshaped(const OnnxValue& x, const Extents& extents, bool image) {
    return {node("Reshape", {x.name, constant(extents)}), x.shape, image};
  }
  /// The first and the second half of the channels.
  std::pair<std::string, std::string> halves(const OnnxValue& x) {
    const std::string first = node("Split", {x.name}, {{"axis", 1}}, 2);
    return {first, first + ".1"};
  }

 private:
  struct LeafName {
    std::string name;
    bool written = false;
  };

  static Extents extents_of(Shape s) {
    return s.is_flat() ? Extents{s.channels} : Extents{s.channels, s.height, s.width};
  }
  /// The order of features, flat where it changes nothing.
  static Shape meaningful(Shape order, long features) {
    return order.is_flat() || order.channels == 1 || order.size() != features ? Shape{1} : order;
  }
  std::string leaf(LeafName& leaf, long size, const Extents& extents, auto&& fill) {
    if (!leaf.written) {
      std::vector<float> numbers(static_cast<std::size_t>(size));
      fill(numbers.data());
      initializer(leaf.name, OnnxType::f32, extents, detail::bytes_of(numbers));
    }
    leaf.written = true;
    return leaf.name;
  }

  const float *values, *states;
  std::vector<LeafName> parameter_names, state_names;
};

// ---- activations

inline OnnxValue export_onnx(OnnxExport& out, const ReLU&, OnnxValue x) { return x.named(out.node("Relu", {x.name})); }
inline OnnxValue export_onnx(OnnxExport& out, const LeakyReLU& f, OnnxValue x) {
  return x.named(out.node("LeakyRelu", {x.name}, {{"alpha", f.slope}}));
}
inline OnnxValue export_onnx(OnnxExport& out, const ELU& f, OnnxValue x) {
  return x.named(out.node("Elu", {x.name}, {{"alpha", f.alpha}}));
}
inline OnnxValue export_onnx(OnnxExport& out, const GELU&, OnnxValue x) {
  const std::string erf = out.node("Erf", {out.node("Mul", {x.name, out.constant(0.70710678f)})});
  const std::string half = out.node("Mul", {x.name, out.constant(0.5f)});
  return x.named(out.node("Mul", {half, out.node("Add", {erf, out.constant(1.0f)})}));
}
inline OnnxValue export_onnx(OnnxExport& out, const SiLU&, OnnxValue x) {
  return x.named(out.node("Mul", {x.name, out.node("Sigmoid", {x.name})}));
}
inline OnnxValue export_onnx(OnnxExport& out, const Tanh&, OnnxValue x) { return x.named(out.node("Tanh", {x.name})); }
inline OnnxValue export_onnx(OnnxExport& out, const Sigmoid&, OnnxValue x) {
  return x.named(out.node("Sigmoid", {x.name}));
}
inline OnnxValue export_onnx(OnnxExport& out, const Softplus&, OnnxValue x) {
  return x.named(out.node("Softplus", {x.name}));
}

// ---- layers

template <int Out>
OnnxValue export_onnx(OnnxExport& out, const Linear<Out>& layer, OnnxValue x) {
  x = out.rows(x, layer.weight.in_order);
  return {out.node("Gemm", {x.name, out.parameter(layer.weight), out.parameter(layer.bias)}, {{"transB", 1}}), x.shape,
          false, layer.weight.out_order};
}
template <int Out, int Kernel, int Stride, int Padding>
OnnxValue export_onnx(OnnxExport& out, const Conv2d<Out, Kernel, Stride, Padding>& layer, OnnxValue x) {
  x = out.image(x);
  return x.named(out.node("Conv", {x.name, out.parameter(layer.weight), out.parameter(layer.bias)},
                          {{"kernel_shape", {Kernel, Kernel}},
                           {"strides", {Stride, Stride}},
                           {"pads", {Padding, Padding, Padding, Padding}}}));
}
template <int Out, int Kernel, int Stride, int Padding, int OutputPadding>
OnnxValue export_onnx(OnnxExport& out, const ConvTranspose2d<Out, Kernel, Stride, Padding, OutputPadding>& layer,
                      OnnxValue x) {
  x = out.image(x);
  return x.named(out.node("ConvTranspose", {x.name, out.parameter(layer.weight), out.parameter(layer.bias)},
                          {{"kernel_shape", {Kernel, Kernel}},
                           {"strides", {Stride, Stride}},
                           {"pads", {Padding, Padding, Padding, Padding}},
                           {"output_padding", {OutputPadding, OutputPadding}}}));
}
inline OnnxValue export_onnx(OnnxExport& out, const BatchNorm& layer, OnnxValue x) {
  if (!x.image) x = out.rows(x, layer.weight.out_order);
  return x.named(out.node("BatchNormalization",
                          {x.name, out.parameter(layer.weight), out.parameter(layer.bias),
                           out.state(layer.running_mean), out.state(layer.running_var)},
                          {{"epsilon", layer.epsilon}}));
}
inline OnnxValue export_onnx(OnnxExport& out, const LayerNorm& layer, OnnxValue x) {
  x = x.shape.is_flat() ? out.rows(x, layer.weight.out_order) : x;
  return x.named(out.node("LayerNormalization", {x.name, out.parameter(layer.weight), out.parameter(layer.bias)},
                          {{"axis", 1}, {"epsilon", layer.epsilon}}));
}
/// By InstanceNormalization: opset 17 has no operator for it.
template <int Groups>
OnnxValue export_onnx(OnnxExport& out, const GroupNorm<Groups>& layer, OnnxValue x) {
  if (!x.image) x = out.rows(x, Shape{1});  // groups are of features that are neighbours in this library
  const int groups = layer.groups;
  const std::string grouped = out.node("Reshape", {x.name, out.constant(OnnxGraph::Extents{0, groups, -1})});
  const auto all = [&](float value) { return out.constant(std::vector<float>(std::size_t(groups), value), {groups}); };
  const std::string normal = out.node("InstanceNormalization", {grouped, all(1), all(0)}, {{"epsilon", layer.epsilon}});
  const Shape s = x.shape;
  const auto extents =
      x.image ? OnnxGraph::Extents{0, s.channels, s.height, s.width} : OnnxGraph::Extents{0, s.channels};
  const std::string back = out.node("Reshape", {normal, out.constant(extents)});
  return x.named(out.node("Add", {out.node("Mul", {back, out.channelwise(layer.weight, x)}), out.channelwise(layer.bias, x)}));
}
template <int Kernel, int Stride, int Padding>
OnnxValue export_onnx(OnnxExport& out, const MaxPool2d<Kernel, Stride, Padding>&, OnnxValue x) {
  x = out.image(x);
  return x.named(out.node("MaxPool", {x.name},
                          {{"kernel_shape", {Kernel, Kernel}},
                           {"strides", {Stride, Stride}},
                           {"pads", {Padding, Padding, Padding, Padding}}}));
}
template <int Kernel, int Stride, int Padding>
OnnxValue export_onnx(OnnxExport& out, const AvgPool2d<Kernel, Stride, Padding>&, OnnxValue x) {
  x = out.image(x);
  return x.named(out.node("AveragePool", {x.name},
                          {{"kernel_shape", {Kernel, Kernel}},
                           {"strides", {Stride, Stride}},
                           {"pads", {Padding, Padding, Padding, Padding}},
                           {"count_include_pad", 1}}));
}
template <int Factor, Interpolation Mode>
OnnxValue export_onnx(OnnxExport& out, const Upsample<Factor, Mode>&, OnnxValue x) {
  x = out.image(x);
  const std::string scales = out.constant({1, 1, Factor, Factor}, {4});
  if constexpr (Mode == Interpolation::nearest)
    return x.named(
        out.node("Resize", {x.name, "", scales},
                 {{"mode", "nearest"}, {"coordinate_transformation_mode", "asymmetric"}, {"nearest_mode", "floor"}}));
  return x.named(
      out.node("Resize", {x.name, "", scales}, {{"mode", "linear"}, {"coordinate_transformation_mode", "half_pixel"}}));
}
inline OnnxValue export_onnx(OnnxExport& out, const Gated&, OnnxValue x) {
  if (!x.image) x = out.rows(x, Shape{1});
  const auto [values, gates] = out.halves(x);
  return x.named(out.node("Mul", {values, out.node("Sigmoid", {gates})}));
}
inline OnnxValue export_onnx(OnnxExport&, const Dropout&, OnnxValue x) { return x; }
inline OnnxValue export_onnx(OnnxExport& out, const Flatten&, OnnxValue x) {
  return x.image ? out.rows(x, x.shape) : x;
}
template <Shape To>
OnnxValue export_onnx(OnnxExport& out, const Reshape<To>& layer, OnnxValue x) {
  if (layer.to.is_flat()) return x;
  x = out.rows(x, layer.to);
  return out.reshaped(x, {0, layer.to.channels, layer.to.height, layer.to.width}, true);
}
template <Shape In, class... Layers>
OnnxValue export_onnx(OnnxExport& out, const Sequential<In, Layers...>& layers, OnnxValue x) {
  layers.layers.visit([&](int, const auto& layer) { x = out.apply(layer, x); });
  return x;
}
template <class... Layers>
OnnxValue export_onnx(OnnxExport& out, const Residual<Layers...>& layer, OnnxValue x) {
  OnnxValue y = x;
  layer.body.visit([&](int, const auto& l) { y = out.apply(l, y); });
  y = x.image ? out.image(y) : out.rows(y, x.order);
  return x.named(out.node("Add", {x.name, y.name}));
}

// ---- likelihoods: the mean of the distribution

inline OnnxValue export_onnx(OnnxExport& out, const Bernoulli&, OnnxValue x) { return export_onnx(out, Sigmoid{}, x); }
inline OnnxValue export_onnx(OnnxExport& out, const ContinuousBernoulli&,
                             OnnxValue x) {  // as ContinuousBernoulli::Mean
  const auto c = [&](double value) { return out.constant(float(value)); };
  const std::string square = out.node("Mul", {x.name, x.name});
  std::string series = c(1.0 / 47900160);
  for (const double coefficient : {-1.0 / 1209600, 1.0 / 30240, -1.0 / 720, 1.0 / 12})
    series = out.node("Add", {out.node("Mul", {series, square}), c(coefficient)});
  series = out.node("Add", {out.node("Mul", {series, x.name}), c(0.5)});
  const std::string far =
      out.node("Sub", {out.node("Div", {c(0.5), out.node("Tanh", {out.node("Mul", {x.name, c(0.5)})})}),
                       out.node("Reciprocal", {x.name})});
  return x.named(out.node("Where", {out.node("Less", {square, c(0.25)}), series, out.node("Add", {far, c(0.5)})}));
}
inline OnnxValue export_onnx(OnnxExport&, const GaussianLikelihood&, OnnxValue x) { return x; }
inline OnnxValue export_onnx(OnnxExport&, const Laplace&, OnnxValue x) { return x; }
inline OnnxValue export_onnx(OnnxExport&, const LearnedLaplace&, OnnxValue x) { return x; }

// ---- models

namespace detail {

/// The features of x as they stand, and beside them those of each row's label.
template <int Classes, int Width>
OnnxValue onnx_with_labels(OnnxExport& out, const Embedding<Classes, Width>& labels, OnnxValue x) {
  out.input("labels", OnnxType::i64, {});
  const std::string features = out.node("Gather", {out.parameter(labels.weight), "labels"});
  x.shape = Shape{x.shape.size() + labels.out};
  return x.named(out.node("Concat", {x.name, features}, {{"axis", 1}}));
}

}  // namespace detail

/// Writes q(z|x) of a Vae or ConditionalVae: `input` (and `labels`) to `mean` and `log_variance`.
template <class Weights>
[[gnu::cold]] void export_encoder_onnx(const std::string& path, const Weights& weights) {
  OnnxExport out("encoder", weights);
  const auto& model = weights.model;
  OnnxValue head = out.input_of("input", model.input_shape());
  if constexpr (std::remove_cvref_t<decltype(model)>::conditional) {
    head = out.rows(out.apply(model.encoder.body, head), model.encoder.body.output_order);
    head = out.apply(model.encoder.head, detail::onnx_with_labels(out, model.encoder.labels, head));
  } else {
    head = out.apply(model.encoder, head);
  }
  const auto [mean, raw] = out.halves(head);
  const float limit = model.latent.logvar_limit;
  const std::string log_variance =
      out.node("Mul", {out.node("Tanh", {out.node("Div", {raw, out.constant(limit)})}), out.constant(limit)});
  head.shape = Shape{int(model.latent.size)};
  out.output_of("mean", head.named(mean));
  out.output_of("log_variance", head.named(log_variance));
  out.write(path);
}

/// Writes the mean of p(x|z) of a Vae or ConditionalVae: `code` (and `labels`) to `output`.
template <class Weights>
[[gnu::cold]] void export_decoder_onnx(const std::string& path, const Weights& weights) {
  OnnxExport out("decoder", weights);
  const auto& model = weights.model;
  OnnxValue x = out.input_of("code", Shape{int(model.latent.size)});
  if constexpr (std::remove_cvref_t<decltype(model)>::conditional) {
    x = out.apply(model.decoder.body, detail::onnx_with_labels(out, model.decoder.labels, x));
  } else {
    x = out.apply(model.decoder, x);
  }
  out.output_of("output", out.apply(model.likelihood, x));
  out.write(path);
}

}  // namespace vaelib::inline VAELIB_ABI
