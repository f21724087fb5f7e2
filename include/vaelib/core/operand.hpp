// The operands of an elementwise operation, as backends see them.
#pragma once

#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {

/// Where a gradient goes: written first, added to afterwards. No data: nobody needs it.
template <class Real>
struct Target {
  Real* data = nullptr;
  bool add = false;
  explicit operator bool() const { return data != nullptr; }
};

/// rows x columns numbers, with a gradient.
template <class Real>
struct Full {
  static constexpr bool differentiable = true, per_column = false;
  const Real* value;
  Target<Real> target{};
};
/// One number for each column, the same in all rows, with a gradient.
template <class Real>
struct PerColumn {
  static constexpr bool differentiable = true, per_column = true;
  const Real* value;
  Target<Real> target{};
};
/// rows x columns numbers without a gradient.
template <class Real>
struct Given {
  static constexpr bool differentiable = false, per_column = false;
  const Real* value;
};
/// One number for all, without a gradient.
template <class Real>
struct Single {
  static constexpr bool differentiable = false, per_column = false;
  const Real* value;
};

}  // namespace vaelib::inline VAELIB_ABI
