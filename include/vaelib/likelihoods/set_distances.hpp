// Distances of sets of points, as losses: x, y ragged rows of as many sets, each point a row of coordinates; one number
// a set.
//
//   chamfer       sum_i min_j |x_i - y_j|^2 + sum_j min_i |x_i - y_j|^2      PerSet::sum (Kim et al. 2021, "SetVAE")
//                 the mean over i and the mean over j instead               PerSet::mean (Fan et al. 2017)
//   earth_mover   min over P of sum_ij P_ij |x_i - y_j|^2 + epsilon KL(P | 1 / (n m)),   P's rows sum to 1 / n, columns
//   to 1 / m
//
// The latter is entropic (Cuturi 2013): near the mean squared distance of the best assignment where epsilon is small
// against it, and then slow to converge. `rounds` of Sinkhorn's updates in the log domain; its gradient is that of the
// minimum, by P as it is after them, and so is exact once they have converged.
//
// Both have gradients for x and y. Memory is a few numbers a point; distances are computed again where they are needed.
// Two empty sets are 0 apart; an empty and another set have no distance: an error. The order of points does not matter
// but for rounding, and for which of several nearest points gets the gradient: the first.
#pragma once

#include <vaelib/autodiff/step.hpp>
#include <vaelib/backend/point_sets.hpp>

namespace vaelib::inline VAELIB_ABI {

enum class PerSet { sum, mean };

namespace detail {

template <class R>
PointSets point_sets(const char* name, const Node<R>* x, const Node<R>* y) {
  const RowSpace *a = x->space, *b = y->space;
  if (!a->offsets || !b->offsets || a->groups != b->groups)
    fail("vaelib: ", name, " wants ragged rows of as many sets, found ", a->groups, " and ", b->groups);
  if (x->features != y->features)
    fail("vaelib: ", name, " wants points of one dimension, found ", x->features, " and ", y->features);
  const PointSets sets{a->groups, a->offsets, b->offsets, int(x->features)};
  for (long g = 0; g < sets.groups; ++g) {
    if ((sets.x_size(g) == 0) != (sets.y_size(g) == 0))
      fail("vaelib: ", name, " of set ", g, ": an empty set and one of ", std::max(sets.x_size(g), sets.y_size(g)),
           " points have no distance");
    if (std::max(sets.x_size(g), sets.y_size(g)) >= 1 << 24)
      fail("vaelib: ", name, " of set ", g, ": ", std::max(sets.x_size(g), sets.y_size(g)), " points, at most ",
           (1 << 24) - 1);
  }
  return sets;
}

template <class S>
const RowSpace* space_of_sets(S& step, const PointSets& sets, const RowSpace* space) {
  if (!space) return step.rows(sets.groups);
  if (space->count != sets.groups) fail("vaelib: distances of ", sets.groups, " sets as ", space->count, " rows");
  return space;
}

template <class S, class R>
Node<R>* chamfer(S& step, Node<R>* x, Node<R>* y, PerSet how, const RowSpace* space) {
  const PointSets sets = point_sets("chamfer", x, y);
  auto* out = step.node(space_of_sets(step, sets, space), 1, step.needs_gradient(x, y));
  auto* of_x = step.arena.template allocate<std::int32_t>(x->space->count);
  auto* of_y = step.arena.template allocate<std::int32_t>(y->space->count);
  long most = 0;
  for (long g = 0; g < sets.groups; ++g) most = std::max(most, sets.x_size(g));
  const auto sums = step.scratch(2 * sets.groups);
  nearest_points(step.backend, sets, most, x->value, y->value, of_x, of_y, sums.data,
                 step.scratch(sets.parts() * nearest_room(sets, most)).data);
  const auto share = [how](long points) { return how == PerSet::mean && points > 0 ? R(1) / R(points) : R(1); };
  for (long g = 0; g < sets.groups; ++g)
    out->value[g] = sums.data[2 * g] * share(sets.x_size(g)) + sums.data[2 * g + 1] * share(sets.y_size(g));
  if (out->needs_gradient)
    step.record({out}, [=](S& s) {
      const auto to_x = s.target(x), to_y = s.target(y);
      const int dimension = sets.dimension;
      s.backend.parallel(sets.groups, [=](long g) {
        const long first = sets.x_offsets[g], start = sets.y_offsets[g];
        if (to_x && !to_x.add) std::fill_n(to_x.data + first * dimension, sets.x_size(g) * dimension, R(0));
        if (to_y && !to_y.add) std::fill_n(to_y.data + start * dimension, sets.y_size(g) * dimension, R(0));
        const auto pull = [=](long i, long j, R rate) {
          for (int d = 0; d < dimension; ++d) {
            const R force = rate * (x->value[i * dimension + d] - y->value[j * dimension + d]);
            if (to_x) to_x.data[i * dimension + d] += force;
            if (to_y) to_y.data[j * dimension + d] -= force;
          }
        };
        const R up = 2 * out->gradient[g], x_rate = up * share(sets.x_size(g)), y_rate = up * share(sets.y_size(g));
        for (long i = first; i < sets.x_offsets[g + 1]; ++i) pull(i, start + of_x[i], x_rate);
        for (long j = start; j < sets.y_offsets[g + 1]; ++j) pull(first + of_y[j], j, y_rate);
      });
    });
  return out;
}

template <class S, class R>
Node<R>* earth_mover(S& step, Node<R>* x, Node<R>* y, R epsilon, int rounds, const RowSpace* space) {
  if (!(epsilon > 0) || rounds < 1)
    fail("vaelib: earth_mover with epsilon ", double(epsilon), " and ", rounds,
         " rounds, expected more than 0 of both");
  const PointSets sets = point_sets("earth_mover", x, y);
  auto* out = step.node(space_of_sets(step, sets, space), 1, step.needs_gradient(x, y));
  R* u = step.arena.template allocate<R>(x->space->count);
  R* v = step.arena.template allocate<R>(y->space->count);
  transport(step.backend, sets, epsilon, rounds, x->value, y->value, u, v, out->value,
            step.scratch(sets.parts() * transport_room(sets)).data);
  if (out->needs_gradient)
    step.record({out}, [=](S& s) {
      const auto to_x = s.target(x), to_y = s.target(y);
      transport_gradient(s.backend, sets, epsilon, x->value, y->value, u, v, out->gradient, to_x, to_y,
                         s.scratch(sets.parts() * transport_room(sets)).data);
    });
  return out;
}

}  // namespace detail

/// See the head of this file. `sets`, where given, is the row space of the result.
template <class S, class R, Shape A, Shape B>
Var<R, Shape{1}> chamfer(S& step, Var<R, A> x, Var<R, B> y, PerSet how = PerSet::sum, const RowSpace* sets = nullptr) {
  static_assert(agree(A, B) && A.is_flat(), "vaelib: chamfer takes points of one dimension");
  return {detail::chamfer(step, x.node, y.node, how, sets), Shape{1}};
}

/// See the head of this file.
template <class S, class R, Shape A, Shape B>
Var<R, Shape{1}> earth_mover(S& step, Var<R, A> x, Var<R, B> y, double epsilon = 0.01, int rounds = 100,
                             const RowSpace* sets = nullptr) {
  static_assert(agree(A, B) && A.is_flat(), "vaelib: earth_mover takes points of one dimension");
  return {detail::earth_mover(step, x.node, y.node, R(epsilon), rounds, sets), Shape{1}};
}

}  // namespace vaelib::inline VAELIB_ABI
