// The simplest functors; see vectorize.hpp for what they become.
#pragma once

#include <vaelib/core/lanes.hpp>

namespace vaelib::inline VAELIB_ABI {

struct Identity {
  VAELIB_HD constexpr auto operator()(auto x) const { return x; }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return decltype(y)(1.0f); }
};

struct Add {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a + b; }
};
struct Subtract {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a - b; }
};
struct Multiply {
  VAELIB_HD constexpr auto operator()(auto a, auto b) const { return a * b; }
};
struct Square {
  VAELIB_HD constexpr auto operator()(auto a) const { return a * a; }
};
struct ScaleBy {
  float factor;
  VAELIB_HD constexpr auto operator()(auto a) const { return a * factor; }
};

/// A functor that gives its slope as a function of its output.
template <class F>
concept SlopeFromOutput = requires(const F& f) { f.slope_from_output(1.0f); };

}  // namespace vaelib::inline VAELIB_ABI
