// Group normalisation: over the pixels and the channels of each group of a sample by itself; Wu & He 2018.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias      mean, var (divided by n): of the sample and the group
//
// Groups are of neighbouring channels and of one size; weight and bias have one number a channel. GroupNorm<1> looks at all
// features of a sample, GroupNorm<channels> at each channel. Of features that were flattened, neighbours are others than in
// PyTorch, which flattens channels first: put it before Flatten.
#pragma once

#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> group_norm(S& step, Var<R, A> x, int groups, const Parameter& weight, const Parameter& bias, float epsilon) {
  const int channels = int(weight.size());
  if (x.shape.channels != channels || groups < 1 || channels % groups != 0)
    fail("vaelib: group_norm of ", groups, " groups and a weight of ", channels, " numbers does not fit samples of shape ", text_of(x.shape));
  const long images = x.rows(), pixels = long(x.shape.height) * x.shape.width;
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  R* statistics = step.arena.template allocate<R>(2 * images * channels);
  step.backend.group_norm(images, pixels, channels, groups, x.value(), R(epsilon), step.value(weight), step.value(bias), statistics, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.group_norm_gradient(images, pixels, channels, groups, x.value(), statistics, s.value(weight), s.gradient(y), s.target(x),
                                    s.target(weight), s.target(bias));
    });
  return y;
}

/// GroupNorm<8>, or GroupNorm<dynamic>{8}.
template <int Groups>
struct GroupNorm {
  static_assert(Groups > 0 || Groups == dynamic, "vaelib: GroupNorm has at least 1 group");
  [[no_unique_address]] Extent<Groups> groups{};
  float epsilon = 1e-5f;
  Parameter weight{}, bias{};

  static constexpr bool keeps_features = true;
  constexpr bool accepts(Shape in) const {
    return groups == dynamic || in.channels == dynamic || (groups > 0 && in.channels % groups == 0);
  }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if (groups == dynamic) fail("vaelib: GroupNorm<dynamic> wants its number of groups: GroupNorm<dynamic>{8}");
    weight = {{in.channels}, constant(1)};
    bias = {{in.channels}, constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return group_norm(step, x, groups, weight, bias, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
