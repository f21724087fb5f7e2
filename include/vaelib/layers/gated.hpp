// Gated: the first half of the channels times a gate from the second half, a gated linear unit; Dauphin et al. 2017.
//
//   y = a * sigmoid(b)      x: ... x 2 n channels, of which a is the first n and b the others      y: ... x n
//
// On flat samples the channels are the features. Of an image it is one gate a pixel and channel (torch.nn.GLU(dim=1)).
#pragma once

#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

struct Gated {
  static constexpr bool accepts(Shape in) { return in.channels == dynamic || (in.channels > 0 && in.channels % 2 == 0); }
  static constexpr Shape output(Shape in) { return {in.height, in.width, in.channels == dynamic ? dynamic : in.channels / 2}; }

  template <class S, class V>
  auto forward(S& step, V x) const {
    const Shape to = output(x.shape);
    return Var<typename V::Real, Gated::output(V::static_shape)>{gate(step, x.node, to.channels), to};
  }

 private:
  template <class S, class R>
  static Node<R>* gate(S& step, Node<R>* x, int half) {
    const long rows = x->size() / (2 * half);
    auto* y = step.node(x->space, x->features / 2, step.needs_gradient(x));
    step.backend.gate(rows, half, x->value, y->value);
    if (y->needs_gradient)
      step.record({y}, [=](S& s) {
        if (auto t = s.target(x)) s.backend.gate_gradient(rows, half, x->value, y->gradient, t);
      });
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
