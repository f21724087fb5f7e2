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
    return Var<typename S::Real, Shape{Out}>{gather(step, space, 1, indices), Shape{int(out)}};
  }
  /// The same for a grid of labels, height x width of them a row.
  template <class S>
  auto operator()(S& step, const RowSpace* space, Shape grid, const std::int32_t* indices) const {
    return Var<typename S::Real, Shape{dynamic, dynamic, Out}>{gather(step, space, grid.height * grid.width, indices), {grid.height, grid.width, int(out)}};
  }

 private:
  template <class S>
  Node<typename S::Real>* gather(S& step, const RowSpace* space, long positions, const std::int32_t* indices) const {
    using Real = typename S::Real;
    const int labels = count, features = out;
    const long all = space->count * positions;
    for (long i = 0; i < all; ++i)
      if (indices[i] < 0 || indices[i] >= labels) fail("vaelib: row ", i / positions, " has label ", indices[i], ", expected 0 to ", labels - 1);
    auto* y = step.node(space, positions * features, step.needs_gradient(weight));
    step.backend.gather_rows(all, features, step.value(weight), indices, y->value);
    if (y->needs_gradient)
      step.record({y}, [=, p = weight](S& s) {
        if (Target<Real> t = s.target(p)) s.backend.scatter_rows(all, features, labels, y->gradient, indices, t);
      });
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
