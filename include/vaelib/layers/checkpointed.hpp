// A layer whose inner values are forgotten and computed again in the backward pass: autodiff/checkpoint.hpp.
//
//   Sequential<Shape{64}, Checkpointed<SAB<64, 4>>, Checkpointed<SAB<64, 4>>>
//
// It has the names, the numbers and the gradients of the layer, whose input and output are all that is kept; a step takes
// about a third longer.
#pragma once

#include <vaelib/autodiff/checkpoint.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class Layer>
struct Checkpointed {
  Layer layer{};
  bool on = true;

  static constexpr bool accepts(Shape in) { return accepts_shape(Layer{}, in); }
  constexpr Shape output(Shape in) const { return output_shape(layer, in); }
  [[gnu::cold]] void build(Shape in) {
    if constexpr (requires { layer.build(in); }) layer.build(in);
  }
  void fields(auto&& f) {
    if constexpr (requires { layer.fields(f); }) layer.fields(f);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    return on ? checkpoint(step, layer, x) : layer.forward(step, x);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
