// Pooling of sets: a row for each set, of sums, means or largest numbers of its rows, feature by feature.
//
//   pool_sets(step, Pooling::mean, x)      x: ragged rows; result: as many plain rows as there are sets
//
// Zaheer et al. 2017, "Deep sets". An empty set gives zeros. The largest number's gradient goes to the first row that
// has it. The order of summation is that of the rows: a set's result does not depend on other sets.
#pragma once

#include <vaelib/autodiff/step.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

enum class Pooling { sum, mean, max };

namespace detail {

template <class S, class R>
Node<R>* pool_sets(S& step, Pooling how, Node<R>* x, const RowSpace* sets) {
  const RowSpace* from = x->space;
  if (!from->offsets) fail("vaelib: pooling of sets wants ragged rows, found ", from->count, " plain rows");
  if (!sets) sets = step.rows(from->groups);
  if (sets->count != from->groups) fail("vaelib: pooling of ", from->groups, " sets into ", sets->count, " rows");
  const long columns = x->features, *offsets = from->offsets;
  auto* y = step.node(sets, columns, step.needs_gradient(x));
  std::int32_t* winners =
      how == Pooling::max ? step.arena.template allocate<std::int32_t>(sets->count * columns) : nullptr;
  const auto share = [how](long rows) { return how == Pooling::mean && rows > 0 ? R(1) / R(rows) : R(1); };
  step.backend.parallel(sets->count, [=](long g) {
    const R *first = x->value + offsets[g] * columns, *end = x->value + offsets[g + 1] * columns;
    R* const out = y->value + g * columns;
    std::fill_n(out, columns, R(0));
    if (how == Pooling::max) {
      std::fill_n(winners + g * columns, columns, 0);
      if (first != end) std::copy_n(first, columns, out);
      std::int32_t row = 0;
      for (const R* p = first; p != end; p += columns, ++row)
        for (long j = 0; j < columns; ++j)
          if (p[j] > out[j] || (p[j] != p[j] && out[j] == out[j])) out[j] = p[j], winners[g * columns + j] = row;
      return;
    }
    for (const R* p = first; p != end; p += columns)
      for (long j = 0; j < columns; ++j) out[j] += p[j];
    const R rate = share(offsets[g + 1] - offsets[g]);
    for (long j = 0; j < columns; ++j) out[j] *= rate;
  });
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto t = s.target(x);
      if (!t) return;
      s.backend.parallel(y->space->count, [=](long g) {
        const R *up = y->gradient + g * columns, rate = share(offsets[g + 1] - offsets[g]);
        for (long r = offsets[g]; r < offsets[g + 1]; ++r)
          for (long j = 0; j < columns; ++j) {
            R& place = t.data[r * columns + j];
            const bool counts = how != Pooling::max || winners[g * columns + j] == r - offsets[g];
            place = (t.add ? place : R(0)) + (counts ? up[j] * rate : R(0));
          }
      });
    });
  return y;
}

}  // namespace detail

/// See the head of this file. `sets`, where given, is the row space of the result, with a row for each set.
template <class S, class R, Shape A>
Var<R, A> pool_sets(S& step, Pooling how, Var<R, A> x, const RowSpace* sets = nullptr) {
  return {detail::pool_sets(step, how, x.node, sets), x.shape};
}

}  // namespace vaelib::inline VAELIB_ABI
