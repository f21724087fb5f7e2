// How good generated sets are, beside real ones that the model has not seen: G, sets that it made, R, real ones.
//
//   MMD     mean over r in R of min over g in G of D(g, r)                     is there something like each real set? lower is better
//   COV     share of R that are the nearest real set of some g                 is every kind of set made? higher is better
//   1-NNA   share of G and R together whose nearest other set is of their own kind: 1/2 where nobody can tell them apart;
//           1 where made sets lie apart, 0 where each is a copy of a real one
//   JSD     Jensen-Shannon divergence of where the points of all sets lie, by the cells of a grid, nats: from 0 to log 2
//
// MMD, COV and JSD: Achlioptas et al. 2018, "Learning representations and generative models for 3D point clouds"; 1-NNA: Lopez-Paz
// and Oquab 2017, by Yang et al. 2019, "PointFlow". D is
//
//   chamfer       mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2      (PointFlow's)
//   earth_mover   mean of |x_i - y_P(i)|^2, P the best assignment, where all sets have as many points, at most `exact`; else
//                 T(x, y) - T(x, x) / 2 - T(y, y) / 2 and at least 0, T being the entropic transport of likelihoods/set_distances.hpp
//                 (the Sinkhorn divergence; Feydy et al. 2019)
//
// in squared units of the points; the papers' earth mover's distance is that of distances, not of squares. Where several sets
// are as near, all of them are covered, and 1-NNA counts the share of the own kind among them: nothing depends on an order
// of sets or points but for rounding, nor on the number of threads.
#pragma once

#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/backend/point_sets.hpp>
#include <vaelib/likelihoods/assignment.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace metrics {

enum class SetDistance { chamfer, earth_mover };

struct SetDistanceOptions {
  SetDistance distance = SetDistance::chamfer;
  long exact = 64;        ///< points up to which assignments are exact
  double epsilon = 0.01;  ///< of the entropic transport, squared units
  int rounds = 100;
};

/// Sets of points of `width` numbers each.
struct SetsOfPoints {
  std::vector<std::span<const float>> sets;
  int width = 3;

  long size() const { return long(sets.size()); }
  long points(long s) const { return long(sets[std::size_t(s)].size()) / width; }
};

namespace detail {

[[gnu::cold]] inline void check_sets(const SetsOfPoints& a) {
  if (a.width < 1) fail("vaelib: sets of points of ", a.width, " numbers, expected at least 1");
  for (long s = 0; s < a.size(); ++s) {
    const auto& set = a.sets[std::size_t(s)];
    if (set.empty() || set.size() % std::size_t(a.width) != 0) fail("vaelib: set ", s, " has ", set.size(), " numbers, expected at least one point of ", a.width);
    if (a.points(s) >= 1 << 24) fail("vaelib: set ", s, " has ", a.points(s), " points, at most ", (1 << 24) - 1);
    for (const float v : set)
      if (!std::isfinite(v)) fail("vaelib: set ", s, " has the coordinate ", v, ", expected finite ones");
  }
}

/// Distances of x to `count` sets of b from `first` on.
[[gnu::cold]] inline void distances_to(Cpu& backend, std::span<const float> x, const SetsOfPoints& b, long first, long count, const SetDistanceOptions& o, bool exact, double* result) {
  const auto width = std::size_t(b.width);
  const long n = long(x.size() / width);
  if (exact) {
    backend.parallel(count, [=, &b](long j) { result[j] = exact_earth_mover(int(n), int(width), x.data(), b.sets[std::size_t(first + j)].data()); });
    return;
  }
  std::vector<float> from, to;
  std::vector<long> x_offsets{0}, y_offsets{0};
  for (long j = first; j < first + count; ++j) {
    const auto& set = b.sets[std::size_t(j)];
    from.insert(from.end(), x.begin(), x.end());
    to.insert(to.end(), set.begin(), set.end());
    x_offsets.push_back(x_offsets.back() + n);
    y_offsets.push_back(y_offsets.back() + b.points(j));
  }
  const PointSets sets{count, x_offsets.data(), y_offsets.data(), b.width};
  std::vector<float> sums(std::size_t(2 * count));
  const auto points = std::size_t(x_offsets.back()), others = std::size_t(y_offsets.back());
  if (o.distance == SetDistance::chamfer) {
    std::vector<std::int32_t> of_x(points), of_y(others);
    std::vector<float> scratch(std::size_t(sets.parts() * nearest_room(sets, n)));
    nearest_points(backend, sets, n, from.data(), to.data(), of_x.data(), of_y.data(), sums.data(), scratch.data());
    for (long j = 0; j < count; ++j) result[j] = double(sums[std::size_t(2 * j)]) / double(n) + double(sums[std::size_t(2 * j + 1)]) / double(b.points(first + j));
  } else {
    std::vector<float> u(points), v(others), scratch(std::size_t(sets.parts() * transport_room(sets)));
    transport(backend, sets, float(o.epsilon), o.rounds, from.data(), to.data(), u.data(), v.data(), sums.data(), scratch.data());
    for (long j = 0; j < count; ++j) result[j] = double(sums[std::size_t(j)]);
  }
}

/// T(x, x) / 2 of every set.
[[gnu::cold]] inline std::vector<double> own_transport(Cpu& backend, const SetsOfPoints& a, const SetDistanceOptions& o) {
  std::vector<double> own(std::size_t(a.size()));
  for (long s = 0; s < a.size(); ++s) {
    distances_to(backend, a.sets[std::size_t(s)], a, s, 1, o, false, &own[std::size_t(s)]);
    own[std::size_t(s)] /= 2;
  }
  return own;
}

}  // namespace detail

/// All distances between the sets of both: the made sets first, then the real ones; a symmetric matrix.
[[gnu::cold]] inline std::vector<double> set_distances(const SetsOfPoints& made, const SetsOfPoints& real, const SetDistanceOptions& o = {}, int threads = 0) {
  detail::check_sets(made);
  detail::check_sets(real);
  if (made.width != real.width) fail("vaelib: sets of points of ", made.width, " and of ", real.width, " numbers have no distance");
  if (!(o.epsilon > 0) || o.rounds < 1) fail("vaelib: transport with epsilon ", o.epsilon, " and ", o.rounds, " rounds, expected more than 0 of both");
  SetsOfPoints all = made;
  all.sets.insert(all.sets.end(), real.sets.begin(), real.sets.end());
  const long n = all.size();
  bool same = true;
  for (long s = 1; s < n; ++s) same = same && all.points(s) == all.points(0);
  const bool transported = o.distance == SetDistance::earth_mover, exact = transported && same && n > 0 && all.points(0) <= o.exact;
  Cpu backend(threads);
  std::vector<double> result(std::size_t(n * n));
  const auto own = transported && !exact ? detail::own_transport(backend, all, o) : std::vector<double>(std::size_t(n));
  for (long i = 0; i < n; ++i) {
    double* const row = result.data() + i * n;
    detail::distances_to(backend, all.sets[std::size_t(i)], all, i + 1, n - i - 1, o, exact, row + i + 1);
    for (long j = i + 1; j < n; ++j) {
      row[j] = std::max(0.0, row[j] - own[std::size_t(i)] - own[std::size_t(j)]);
      result[std::size_t(j * n + i)] = row[j];
    }
  }
  return result;
}

struct GenerationQuality {
  double minimum_matching_distance, coverage, nearest_neighbour_accuracy;
};

/// MMD, COV and 1-NNA from the matrix of set_distances(), of which the first `made` rows are generated sets.
[[gnu::cold]] inline GenerationQuality generation_quality(std::span<const double> distances, long made, long real) {
  const long n = made + real;
  if (made < 1 || real < 1 || distances.size() != std::size_t(n) * std::size_t(n)) fail("vaelib: ", distances.size(), " distances between ", made, " made and ", real, " real sets, expected at least one of both, and all pairs");
  const auto at = [&](long i, long j) { return distances[std::size_t(i * n + j)]; };
  GenerationQuality q{0, 0, 0};
  std::vector<bool> covered(static_cast<std::size_t>(real));
  for (long g = 0; g < made; ++g) {
    const double nearest = *std::min_element(&distances[std::size_t(g * n + made)], &distances[std::size_t(g * n + made)] + real);
    for (long r = 0; r < real; ++r)
      if (at(g, made + r) == nearest) covered[std::size_t(r)] = true;
  }
  for (long r = 0; r < real; ++r) {
    const double* row = &distances[std::size_t((made + r) * n)];
    q.minimum_matching_distance += *std::min_element(row, row + made) / double(real);
    q.coverage += covered[std::size_t(r)] ? 1 : 0;
  }
  q.coverage /= double(real);
  for (long i = 0; i < n; ++i) {
    double nearest = std::numeric_limits<double>::infinity();
    for (long j = 0; j < n; ++j)
      if (j != i) nearest = std::min(nearest, at(i, j));
    double own = 0, all = 0;
    for (long j = 0; j < n; ++j)
      if (j != i && at(i, j) == nearest) all += 1, own += (i < made) == (j < made) ? 1 : 0;
    q.nearest_neighbour_accuracy += own / all;
  }
  q.nearest_neighbour_accuracy /= double(n);
  return q;
}
[[gnu::cold]] inline GenerationQuality generation_quality(const SetsOfPoints& made, const SetsOfPoints& real, const SetDistanceOptions& options = {}, int threads = 0) {
  return generation_quality(set_distances(made, real, options, threads), made.size(), real.size());
}

/// JSD of where points lie: a grid of `cells` along each axis over the cube from -reach to reach; what lies beyond counts for the
/// cells at the border. Every set counts alike, however many points it has. Points of 1 to 3 numbers.
[[gnu::cold]] inline double grid_divergence(const SetsOfPoints& made, const SetsOfPoints& real, double reach = 1, int cells = 28) {
  if (made.width != real.width || made.width > 3) fail("vaelib: a grid for points of ", made.width, " and ", real.width, " numbers, expected 1 to 3, of both as many");
  if (!(reach > 0) || cells < 1 || cells > 512) fail("vaelib: a grid of ", cells, " cells from -", reach, " to ", reach, ", expected 1 to 512 and a reach above 0");
  if (made.size() < 1 || real.size() < 1) fail("vaelib: a divergence of ", made.size(), " made and ", real.size(), " real sets, expected at least one of both");
  std::size_t all = 1;
  for (int d = 0; d < made.width; ++d) all *= std::size_t(cells);
  const auto shares = [&](const SetsOfPoints& x) {
    detail::check_sets(x);
    std::vector<double> share(all);
    for (long s = 0; s < x.size(); ++s)
      for (long p = 0; p < x.points(s); ++p) {
        std::size_t cell = 0;
        for (int d = 0; d < x.width; ++d) {
          const double place = std::floor((double(x.sets[std::size_t(s)][std::size_t(p * x.width + d)]) / reach + 1) / 2 * cells);
          cell = cell * std::size_t(cells) + std::size_t(std::clamp(place, 0.0, double(cells - 1)));
        }
        share[cell] += 1 / double(x.points(s)) / double(x.size());
      }
    return share;
  };
  const auto p = shares(made), q = shares(real);
  double sum = 0;
  for (std::size_t c = 0; c < all; ++c) {
    const double middle = (p[c] + q[c]) / 2;
    for (const double x : {p[c], q[c]})
      if (x > 0) sum += x / 2 * std::log(x / middle);
  }
  return std::max(0.0, sum);
}

}  // namespace metrics
}  // namespace vaelib::inline VAELIB_ABI
