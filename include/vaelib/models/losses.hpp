// What a model's loss tells. A model may return any variable of one number; the parts are for those who have them.
#pragma once

#include <vaelib/autodiff/variable.hpp>

#include <string_view>

namespace vaelib::inline VAELIB_ABI {

/// `objective` is minimised; reconstruction + kl is the negative evidence lower bound, without beta. One number each.
template <class V>
struct Losses {
  V objective, reconstruction, kl;
};

/// Any loss as Losses: where there is only one number, it counts as reconstruction, and the divergence is zero.
template <class V>
Losses<V> losses_of(const Losses<V>& losses) {
  return losses;
}
template <class R, Shape S>
struct PlainLoss {
  struct Zero {
    const R* value() const {
      static constexpr R zero = 0;
      return &zero;
    }
  };
  Var<R, S> objective, reconstruction;
  Zero kl{};
};
template <class R, Shape S>
PlainLoss<R, S> losses_of(Var<R, S> loss) {
  return {loss, loss};
}

/// A named part of a training step and the parameters it trains, by the beginning of their names: those, or all others.
struct Phase {
  std::string_view name, prefix;
  bool others = false;
  constexpr bool trains(std::string_view parameter) const { return parameter.starts_with(prefix) != others; }
};

}  // namespace vaelib::inline VAELIB_ABI
