// y = weight[index]: one learned row of Out features for each of Count labels. The indices are integers of the caller.
#pragma once

#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

template <int Count, int Out>
struct Embedding {
  [[no_unique_address]] Extent<Count> count{};
  Extent<Out> out{};
  Parameter weight{};

  [[gnu::cold]] void build() { weight = {{int(count), int(out)}, normal(1)}; }
  void fields(auto&& f) { f("weight", weight); }

  /// indices: one label a row of `space`; kept alive by the caller until the step is over.
  template <class S>
  auto operator()(S& step, const RowSpace* space, const std::int32_t* indices) const {
    using Real = typename S::Real;
    const int labels = count, features = out;
    for (long r = 0; r < space->count; ++r)
      if (indices[r] < 0 || indices[r] >= labels) fail("vaelib: row ", r, " has label ", indices[r], ", expected 0 to ", labels - 1);
    auto y = step.template variable<Shape{Out}>(space, Shape{features}, step.needs_gradient(weight));
    step.backend.gather_rows(space->count, features, step.value(weight), indices, y.value());
    if (y.needs_gradient())
      step.record({y.node}, [=, p = weight](S& s) {
        if (Target<Real> t = s.target(p)) s.backend.scatter_rows(space->count, features, labels, s.gradient(y), indices, t);
      });
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
