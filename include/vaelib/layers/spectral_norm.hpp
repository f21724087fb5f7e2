// Spectral normalisation: Linear or Conv2d with the weight W / sigma(W), whose largest singular value is 1.
//
//   u = W' v / |W' v|,   v = W u / |W u|,   sigma = v' W u      W: the inputs of an output x outputs
//
// Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1. u and v are state: one
// iteration a training step, none in evaluation, and 15 where there was none before. The gradient takes them for
// constants: dW = (G - <G, W / sigma> v u') / sigma. In files it is what PyTorch's parametrizations.spectral_norm has. A weight of
// zeros stays as it is.
//
//   Sequential<Shape{784}, SpectralNorm<Linear<64>>, ReLU, SpectralNorm<Linear<1>>>
#pragma once

#include <vaelib/layers/convolution.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// Divides by the Euclidean norm, which it gives.
template <class R>
double normalise(long count, R* x) {
  double squares = 0;
  for (long i = 0; i < count; ++i) squares += double(x[i]) * double(x[i]);
  const double norm = std::sqrt(squares);
  for (long i = 0; i < count; ++i) x[i] = R(double(x[i]) / std::max(norm, 1e-12));
  return norm;
}
template <class R>
double dot(long count, const R* x, const R* y) {
  double sum = 0;
  for (long i = 0; i < count; ++i) sum += double(x[i]) * double(y[i]);
  return sum;
}

/// W / sigma.
template <class S>
auto* spectral_weight(S& step, const Parameter& weight, const State& outputs, const State& inputs) {
  using R = typename S::Real;
  const int in = inputs.count, out = outputs.count;
  const long size = weight.size();
  const R* w = step.value(weight);
  R* u = step.arena.template allocate<R>(out);
  R* v = step.arena.template allocate<R>(in);
  std::copy_n(step.value(outputs), out, u);
  std::copy_n(step.value(inputs), in, v);
  const bool begun = std::any_of(u, u + out, [](R number) { return number != 0; });
  R *const moved_u = step.training() ? step.propose(outputs) : nullptr, *const moved_v = step.training() ? step.propose(inputs) : nullptr;
  double sigma = 0;
  for (int left = !begun ? 15 : moved_u ? 1 : 0; left > 0; --left) {
    step.backend.product(1, out, in, {v, in, 1}, {w, out, 1}, u, false);
    normalise(out, u);
    step.backend.product(in, 1, out, {w, out, 1}, {u, 1, 1}, v, false);
    sigma = normalise(in, v);
  }
  if (moved_u) {
    std::copy_n(u, out, moved_u);
    std::copy_n(v, in, moved_v);
  } else if (begun) {
    const auto product = step.scratch(in);
    step.backend.product(in, 1, out, {w, out, 1}, {u, 1, 1}, product.data, false);
    sigma = dot(in, v, product.data);
  }
  const R factor = sigma == 0 ? R(1) : R(1 / sigma);
  auto* y = step.node(step.single(), size, step.needs_gradient(weight));
  step.backend.spread_rows(1, size, w, factor, {y->value});
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto t = s.target(weight);
      const auto scaled = s.scratch(out);
      const R share = R(-dot(size, y->gradient, y->value)) * factor;
      for (int j = 0; j < out; ++j) scaled.data[j] = share * u[j];
      s.backend.spread_rows(1, size, y->gradient, factor, t);
      s.backend.product(in, out, 1, {v, 1, 1}, {scaled.data, out, 1}, t.data, true);
    });
  return y;
}

}  // namespace detail

/// See the head of this file.
template <class Layer>
struct SpectralNorm {
  Layer layer{};
  bool on = true;  ///< whether the weight is normalised; if not, this is Layer
  State u{}, v{};

  static constexpr bool accepts(Shape in) { return Layer::accepts(in); }
  constexpr Shape output(Shape in) const { return layer.output(in); }
  [[gnu::cold]] void build(Shape in) {
    layer.build(in);
    const auto& e = layer.weight.extents;
    const int outputs = e[layer.weight.rank - 1];
    u = {outputs, 0};
    v = {outputs > 0 ? int(layer.weight.size() / outputs) : 0, 0};
    v.initial = normal(1);
    v.of_inputs = true;
    if (layer.weight.layout == Layout::convolution) v.order = {e[0], e[1], e[2]};  // channels first in files
  }
  void fields(auto&& f) {
    if (!on) return layer.fields(f);
    f("bias", layer.bias);
    f("parametrizations.weight.original", layer.weight);
    f("parametrizations.weight.0._u", u);
    f("parametrizations.weight.0._v", v);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    return on ? layer.apply(step, x, detail::spectral_weight(step, layer.weight, u, v), activation) : layer.forward(step, x, activation);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
