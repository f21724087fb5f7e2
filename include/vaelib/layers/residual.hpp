// y = x + body(x)      He et al. 2016
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

/// Residual<ReLU, Conv2d<32, 3, 1, 1>, ReLU, Conv2d<64, 1>>: the body must give back the shape it was given. In files its
/// layers are numbered within `body`.
template <class... Layers>
struct Residual {
  detail::Chain<0, Layers...> body{};

  constexpr Residual() = default;
  constexpr explicit Residual(Layers... layers)
    requires(sizeof...(Layers) > 0)
      : body(layers...) {}

  constexpr bool accepts(Shape in) const {
    bool accepted = true;
    const Shape out = body.output(in, accepted);
    return accepted && agree(out, in);
  }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    detail::ChainBuilder builder(in);
    build_by(builder);
    builder.set_orders();
  }
  [[gnu::cold]] void build_by(detail::ChainBuilder& builder) {
    const int before = builder.last();
    body.visit(builder);
    builder.tie_to(before);
  }
  void fields(auto&& f) { f("body", body); }
  template <class S, class V>
  V forward(S& step, V x) const {
    return add(step, x, body.forward(step, x));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
