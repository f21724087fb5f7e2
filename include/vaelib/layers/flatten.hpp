// Flatten and Reshape see the same numbers in another shape; nothing is copied. In files, features that were flattened
// are in PyTorch's order (channels first).
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

struct Flatten {
  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return {in.size()}; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return view<Flatten::output(V::static_shape)>(x, Flatten::output(x.shape));
  }
};

/// Reshape<Shape{7, 7, 64}>, or Reshape<Shape{dynamic, dynamic, 64}>{Shape{7, 7, 64}}.
template <Shape To>
struct Reshape {
  Shape to = To;
  static constexpr bool keeps_features = true;
  constexpr bool accepts(Shape in) const { return in.is_flat() && agree(in.size(), to.size()) && agree(To, to); }
  constexpr Shape output(Shape) const { return to; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return view<To>(x, to);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
