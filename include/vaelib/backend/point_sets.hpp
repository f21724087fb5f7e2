// Distances of ragged sets of points, on plain pointers. Every set is one task; no matrix of distances is kept.
//
// Distances are sums of squared differences, not |x|^2 + |y|^2 - 2 x y, which loses all digits where points are near.
#pragma once

#include <vaelib/backend/attention.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// Pair g: the points x_offsets[g] .. x_offsets[g + 1] - 1 of x and y_offsets[g] .. of y, of `dimension` numbers each.
struct PointSets {
  long groups;
  const long *x_offsets, *y_offsets;
  int dimension;

  long parts() const { return std::min(groups, 64L); }
  long x_size(long g) const { return x_offsets[g + 1] - x_offsets[g]; }
  long y_size(long g) const { return y_offsets[g + 1] - y_offsets[g]; }
};

namespace detail {

inline constexpr long nearest_block = 1024;  // points of y that are looked through at a time

/// Calls f with a constant dimension where it is the usual one, so that coordinates stay in registers.
template <class F>
VAELIB_INLINE void with_dimension(int dimension, const F& f) {
  if (dimension == 3) {
    f(std::integral_constant<int, 3>{});
  } else {
    f(dimension);
  }
}

/// The nearest of `count` points y, whose coordinates lie apart by `line`, to each of Rows points of x, and of the
/// latter (whose numbers begin at `first`) to each of the former. So far: distances and numbers, as floats, which count
/// to 2^24.
template <class T, int Rows, class Real, class Dimension>
VAELIB_INLINE void nearest_both_ways(long count, const Real* y, const Real* x, long first, Dimension dimension,
                                     Real* y_best, Real* y_index, Real (&x_best)[Rows], Real (&x_index)[Rows]) {
  using Vector = typename Registers<T>::type;
  constexpr int lanes = LaneTraits<T>::width;
  constexpr long line = nearest_block;
  Vector best[Rows], index[Rows], at;
  Real numbers[lanes];
  for (int k = 0; k < lanes; ++k) numbers[k] = Real(k);
  at = *reinterpret_cast<const typename Registers<T>::AnyAddress*>(numbers);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    best[r] = std::numeric_limits<Real>::infinity() - Vector{};
    index[r] = Vector{};
  }
  for (long j = 0; j < count; j += lanes, at += Real(lanes)) {
    using InMemory = typename Registers<T>::AnyAddress;
    InMemory &kept = *reinterpret_cast<InMemory*>(y_best + j), &kept_index = *reinterpret_cast<InMemory*>(y_index + j);
    Vector nearest = kept, who = kept_index;
    Vector distance[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) distance[r] = Vector{};
    for (int d = 0; d < dimension; ++d) {
      const Vector coordinate = *reinterpret_cast<const InMemory*>(y + d * line + j);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const Vector difference = coordinate - x[r * dimension + d];
        distance[r] += difference * difference;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const auto nearer = distance[r] < best[r];
      best[r] = nearer ? distance[r] : best[r];
      index[r] = nearer ? at : index[r];
      const auto nearer_to_y = distance[r] < nearest;
      nearest = nearer_to_y ? distance[r] : nearest;
      who = nearer_to_y ? Real(first + r) - Vector{} : who;
    }
    kept = nearest;
    kept_index = who;
  }
  for (int r = 0; r < Rows; ++r) {
    Real distances[lanes], places[lanes];
    store<T>(distances, Registers<T>::lanes(best[r]));
    store<T>(places, Registers<T>::lanes(index[r]));
    x_best[r] = distances[0], x_index[r] = places[0];
    for (int k = 1; k < lanes; ++k)
      if (distances[k] < x_best[r] || (distances[k] == x_best[r] && places[k] < x_index[r]))
        x_best[r] = distances[k], x_index[r] = places[k];
  }
}

}  // namespace detail

/// Scratch of one part of nearest_points, for sets of at most `most` points x.
inline long nearest_room(const PointSets& sets, long most) {
  return detail::nearest_block * (sets.dimension + 2) + 2 * most + 16;
}

/// The number within its set of the nearest point of the other set, the first of several, for each point of x and of y;
/// and for each pair of sets the sums of squared distances over its x and over its y. Both sets of a pair have points.
template <class Backend, class Real = typename Backend::Real>
void nearest_points(Backend& backend, const PointSets& sets, long most, const Real* x, const Real* y,
                    std::int32_t* of_x, std::int32_t* of_y, Real* sums, Real* scratch) {
  backend.parallel_lanes(sets.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long line = nearest_block;
    constexpr int together = 4;
    const int dimension = sets.dimension;
    Real *const coordinates = scratch + part * nearest_room(sets, most), *const y_best = coordinates + dimension * line,
                *const y_index = y_best + line, *const x_best = y_index + line, *const x_index = x_best + most;
    for (long g = part; g < sets.groups; g += sets.parts()) {
      const long rows = sets.x_size(g), columns = sets.y_size(g);
      const Real* const own = x + sets.x_offsets[g] * dimension;
      double total = 0;
      std::fill_n(x_best, rows, std::numeric_limits<Real>::infinity());
      std::fill_n(x_index, rows, Real(0));
      for (long j = 0; j < columns; j += line) {
        const long count = std::min(line, columns - j);
        turn(count, dimension, y + (sets.y_offsets[g] + j) * dimension, dimension, Real(1), coordinates, line);
        for (int d = 0; d < dimension; ++d)  // behind the last point: far from everything
          std::fill(coordinates + d * line + count, coordinates + (d + 1) * line,
                    std::numeric_limits<Real>::infinity());
        std::fill_n(y_best, line, std::numeric_limits<Real>::infinity());
        std::fill_n(y_index, line, Real(0));
        const auto keep = [=](long i, Real distance, Real index) VAELIB_LOOP {
          if (distance < x_best[i]) x_best[i] = distance, x_index[i] = Real(j) + index;
        };
        with_dimension(dimension, [=](auto constant) VAELIB_LOOP {
          Real distances[together], index[together], distance[1], number[1];
          long i = 0;
          for (; i + together <= rows; i += together) {
            nearest_both_ways<T, together>(count, coordinates, own + i * dimension, i, constant, y_best, y_index,
                                           distances, index);
            for (int r = 0; r < together; ++r) keep(i + r, distances[r], index[r]);
          }
          for (; i < rows; ++i) {
            nearest_both_ways<T, 1>(count, coordinates, own + i * dimension, i, constant, y_best, y_index, distance,
                                    number);
            keep(i, distance[0], number[0]);
          }
        });
        for (long c = 0; c < count; ++c) {
          total += double(y_best[c]);
          of_y[sets.y_offsets[g] + j + c] = std::int32_t(y_index[c]);
        }
      }
      sums[2 * g + 1] = Real(total);
      total = 0;
      for (long i = 0; i < rows; ++i) {
        total += double(x_best[i]);
        of_x[sets.x_offsets[g] + i] = std::int32_t(x_index[i]);
      }
      sums[2 * g] = Real(total);
    }
  });
}

// ---- entropic transport

inline long transport_room(const PointSets& sets) {
  return detail::attention_block * (2 * sets.dimension + detail::attention_block + 3);
}

namespace detail {

/// For 64 points in lanes (their coordinates lie apart by a block): scores (potential - distance) / epsilon of `count`
/// points, in units of log 2. Potentials are in these units.
template <class T, class Real, class Dimension>
VAELIB_INLINE void transport_scores(long columns, const Real* lanes_of, long count, const Real* points,
                                    const Real* potentials, Dimension dimension, Real rate, Real* scores) {
  using Vector = typename Registers<T>::type;
  using InMemory = typename Registers<T>::AnyAddress;
  for (long c = 0; c < columns; c += LaneTraits<T>::width)
    for (long j = 0; j < count; ++j) {
      Vector distance{};
      for (int d = 0; d < dimension; ++d) {
        const Vector difference =
            *reinterpret_cast<const InMemory*>(lanes_of + d * attention_block + c) - points[j * dimension + d];
        distance += difference * difference;
      }
      *reinterpret_cast<InMemory*>(scores + j * attention_block + c) = potentials[j] - distance * rate;
    }
}

/// potentials of n points against m others: -log2 mean_j 2^score, and where `gradient` is wanted, instead
/// gradient_i (+)= weight sum_j 2^(score + potential_i) / (n m) 2 (x_i - y_j).
template <class T, class Real, class Dimension>
VAELIB_INLINE void transport_pass(long n, const Real* x, Real* own, long m, const Real* y, const Real* others,
                                  Dimension dimension, Real rate, Real weight, Real* gradient, bool add,
                                  Real* scratch) {
  constexpr long lanes = LaneTraits<T>::width, line = attention_block;
  Real *const coordinates = scratch, *const means = coordinates + dimension * line,
              *const scores = means + dimension * line, *const state = scores + line * line;
  for (long i = 0; i < n; i += line) {
    const long count = std::min(line, n - i), columns = (count + lanes - 1) / lanes * lanes;
    turn(count, dimension, x + i * dimension, dimension, Real(1), coordinates, line);
    std::fill_n(state, line, -std::numeric_limits<Real>::infinity());
    std::fill_n(state + line, line, Real(0));
    std::fill_n(means, dimension * line, Real(0));
    for (long j = 0; j < m; j += line) {
      const long some = std::min(line, m - j);
      transport_scores<T>(columns, coordinates, some, y + j * dimension, others + j, dimension, rate, scores);
      for (long c = 0; c < columns; c += lanes) online_softmax<T>(some, scores + c, state + c);
      if (!gradient) continue;
      tiles<T>(dimension, columns, some, Left<Real>{y + j * dimension, 1, dimension}, Right<Real>{scores, line},
               [=](long r, long c, const T& sum) VAELIB_LOOP {
                 Real* const place = means + r * line + c;
                 store<T>(place, load<T>(place) * load<T>(state + 2 * line + c) + sum);
               });
    }
    for (long c = 0; c < count; ++c) {
      const Real largest = state[c], sum = state[line + c];
      if (!gradient) {
        own[i + c] = -(largest + std::log2(sum / Real(m)));
        continue;
      }
      const Real share = weight * 2 * std::exp2(largest + own[i + c]) / (Real(n) * Real(m));
      for (int d = 0; d < dimension; ++d) {
        Real& place = gradient[(i + c) * dimension + d];
        place = (add ? place : Real(0)) + share * (sum * x[(i + c) * dimension + d] - means[d * line + c]);
      }
    }
  }
}

}  // namespace detail

/// Sinkhorn's potentials u of x and v of y, in units of epsilon log 2, after so many rounds from v = 0; u last.
/// costs[g] = the mean of u and that of v, together, times epsilon log 2.
template <class Backend, class Real = typename Backend::Real>
void transport(Backend& backend, const PointSets& sets, Real epsilon, int rounds, const Real* x, const Real* y, Real* u,
               Real* v, Real* costs, Real* scratch) {
  backend.parallel_lanes(sets.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    const Real rate = log2_e<Real> / epsilon;
    Real* const own_scratch = scratch + part * transport_room(sets);
    for (long g = part; g < sets.groups; g += sets.parts()) {
      const long n = sets.x_size(g), m = sets.y_size(g);
      const Real *const from = x + sets.x_offsets[g] * sets.dimension, *const to =
                                                                           y + sets.y_offsets[g] * sets.dimension;
      Real *const us = u + sets.x_offsets[g], *const vs = v + sets.y_offsets[g];
      std::fill_n(vs, m, Real(0));
      const auto half = [=](long rows, const Real* points, Real* own, long columns, const Real* other,
                            const Real* others) VAELIB_LOOP {
        with_dimension(sets.dimension, [=](auto dimension) VAELIB_LOOP {
          transport_pass<T>(rows, points, own, columns, other, others, dimension, rate, Real(0),
                            static_cast<Real*>(nullptr), false, own_scratch);
        });
      };
      for (int pass = 0; pass < 2 * rounds + 1; ++pass) {  // one place, for every inlined copy is long
        const bool of_x = pass % 2 == 0;
        half(of_x ? n : m, of_x ? from : to, of_x ? us : vs, of_x ? m : n, of_x ? to : from, of_x ? vs : us);
      }
      double sum_u = 0, sum_v = 0;
      for (long i = 0; i < n; ++i) sum_u += double(us[i]);
      for (long j = 0; j < m; ++j) sum_v += double(vs[j]);
      costs[g] = n > 0 ? Real((sum_u / double(n) + sum_v / double(m)) / double(rate)) : Real(0);
    }
  });
}

/// upstream: one number a pair of sets.
template <class Backend, class Real = typename Backend::Real>
void transport_gradient(Backend& backend, const PointSets& sets, Real epsilon, const Real* x, const Real* y,
                        const Real* u, const Real* v, const Real* upstream, Target<Real> to_x, Target<Real> to_y,
                        Real* scratch) {
  backend.parallel_lanes(sets.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    const Real rate = log2_e<Real> / epsilon;
    Real* const own_scratch = scratch + part * transport_room(sets);
    for (long g = part; g < sets.groups; g += sets.parts()) {
      const long n = sets.x_size(g), m = sets.y_size(g), first = sets.x_offsets[g], start = sets.y_offsets[g];
      for (int side = 0; side < 2; ++side) {
        const Target<Real> to = side == 0 ? to_x : to_y;
        if (!to) continue;
        const Real *const a = x + first * sets.dimension, *const b = y + start * sets.dimension;
        Real* const gradient = to.data + (side == 0 ? first : start) * sets.dimension;
        Real *const us = const_cast<Real*>(u) + first, *const vs =
                                                           const_cast<Real*>(v) + start;  // read only, with a gradient
        with_dimension(sets.dimension, [=](auto dimension) VAELIB_LOOP {
          transport_pass<T>(side == 0 ? n : m, side == 0 ? a : b, side == 0 ? us : vs, side == 0 ? m : n,
                            side == 0 ? b : a, side == 0 ? vs : us, dimension, rate, upstream[g], gradient, to.add,
                            own_scratch);
        });
      }
    }
  });
}

}  // namespace vaelib::inline VAELIB_ABI
