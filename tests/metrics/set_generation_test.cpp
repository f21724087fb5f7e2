// Generated sets beside real ones: cases whose answers are known.
#include <doctest/doctest.h>

#include <vaelib/core/random.hpp>
#include <vaelib/metrics/set_generation.hpp>

#include <numeric>

using namespace vaelib;
using namespace metrics;

namespace {

using Floats = std::vector<float>;

/// Sets of normal points around a centre each, and views of them.
struct Collection {
  std::vector<Floats> sets;
  int width;

  Collection(long count, long least, long most, int w, float shift, std::uint64_t seed) : width(w) {
    RandomSequence numbers(RandomKey{.seed = seed});
    const auto unit = [&] { return float(numbers.next() >> 8) / float(1 << 24) - 0.5f; };
    for (long s = 0; s < count; ++s) {
      const long n = least + long(numbers.below(std::uint32_t(most - least + 1)));
      Floats set, centre;
      for (int d = 0; d < w; ++d) centre.push_back(shift + unit());
      for (long k = 0; k < n * w; ++k) set.push_back(centre[std::size_t(k % w)] + 0.3f * unit());
      sets.push_back(set);
    }
  }
  SetsOfPoints view() const { return {{sets.begin(), sets.end()}, width}; }
};

SetDistanceOptions by(SetDistance distance) { return {.distance = distance}; }
constexpr SetDistance both[] = {SetDistance::chamfer, SetDistance::earth_mover};

}  // namespace

TEST_CASE("copies of the real sets: all covered, nothing missed, told apart by nobody") {
  for (const long most : {20, 90})  // 90: some are transported with entropy
    for (const auto distance : both) {
      const Collection real(8, 20, most, 3, 0, 1);
      const auto q = generation_quality(real.view(), real.view(), by(distance), 2);
      CHECK(q.minimum_matching_distance == doctest::Approx(0).epsilon(1e-6));
      CHECK(q.coverage == 1);
      CHECK(q.nearest_neighbour_accuracy == 0);
      CHECK(grid_divergence(real.view(), real.view()) == 0);
    }
}

TEST_CASE("sets that lie apart: told apart always, one of them covered") {
  const Collection real(6, 10, 40, 3, -4, 1), made(5, 10, 40, 3, 4, 2);
  for (const auto distance : both) {
    const auto q = generation_quality(made.view(), real.view(), by(distance));
    CHECK(q.nearest_neighbour_accuracy == 1);
    CHECK(q.minimum_matching_distance > 100);
    CHECK(q.coverage <= 0.5);
  }
  CHECK(grid_divergence(made.view(), real.view(), 5) == doctest::Approx(std::log(2.0)));
}

TEST_CASE("by hand: three points on a line, alone in their sets") {
  const Floats zero{0}, one{1}, four{4};
  const SetsOfPoints made{{zero, four}, 1}, real{{one}, 1};
  const auto d = set_distances(made, real, by(SetDistance::chamfer));
  CHECK(d == std::vector<double>{0, 32, 2, 32, 0, 18, 2, 18, 0});
  CHECK(set_distances(made, real, by(SetDistance::earth_mover)) == std::vector<double>{0, 16, 1, 16, 0, 9, 1, 9, 0});
  const auto q = generation_quality(d, 2, 1);
  CHECK(q.minimum_matching_distance == 2);
  CHECK(q.coverage == 1);
  CHECK(q.nearest_neighbour_accuracy == 0);  // 0 and 4 are nearest to 1, and 1 to 0
  const Floats minus{-1}, ones{1, 1, 1};  // half of the made mass lies in the cell of the real one: p = (1/2, 1/2), q = (0, 1)
  CHECK(grid_divergence({{minus, one}, 1}, {{ones}, 1}, 2, 2) == doctest::Approx(0.25 * std::log(0.5 / 0.25) + 0.25 * std::log(0.5 / 0.75) + 0.5 * std::log(1 / 0.75)));
  const auto several = generation_quality(std::vector<double>{0, 1, 1, 1, 0, 5, 1, 5, 0}, 2, 1);  // a made and a real set as near to the first
  CHECK(several.nearest_neighbour_accuracy == doctest::Approx((0.5 + 1 + 0) / 3));
}

TEST_CASE("chamfer and transport against all pairs in double; the exact one where sets allow it") {
  const Collection made(3, 30, 30, 2, 0, 3), real(4, 30, 30, 2, 0.1f, 4);
  const auto chamfer = set_distances(made.view(), real.view()), exact = set_distances(made.view(), real.view(), by(SetDistance::earth_mover));
  const auto entropic = set_distances(made.view(), real.view(), {.distance = SetDistance::earth_mover, .exact = 0, .epsilon = 0.002, .rounds = 1000});
  for (std::size_t g = 0; g < 3; ++g)
    for (std::size_t r = 0; r < 4; ++r) {
      const auto &x = made.sets[g], &y = real.sets[r];
      double sums[2] = {0, 0};
      for (int side = 0; side < 2; ++side)
        for (std::size_t i = 0; i < 30; ++i) {
          double nearest = 1e9;
          for (std::size_t j = 0; j < 30; ++j) {
            const std::size_t a = side == 0 ? i : j, b = side == 0 ? j : i;
            nearest = std::min(nearest, std::pow(double(x[2 * a]) - double(y[2 * b]), 2) + std::pow(double(x[2 * a + 1]) - double(y[2 * b + 1]), 2));
          }
          sums[side] += nearest / 30;
        }
      CHECK(chamfer[g * 7 + 3 + r] == doctest::Approx(sums[0] + sums[1]).epsilon(1e-5));
      CHECK(exact[g * 7 + 3 + r] == exact_earth_mover(30, 2, x.data(), y.data()));
      CHECK(entropic[g * 7 + 3 + r] == doctest::Approx(exact[g * 7 + 3 + r]).epsilon(0.02));
    }
}

TEST_CASE("nothing depends on an order of sets or points, or on threads") {
  Collection made(5, 5, 40, 3, 0, 5), real(7, 5, 40, 3, 0.2f, 6);
  for (const auto distance : both) {
    const auto before = generation_quality(made.view(), real.view(), by(distance), 1), threaded = generation_quality(made.view(), real.view(), by(distance), 3);
    CHECK(before.minimum_matching_distance == threaded.minimum_matching_distance);
    Collection a = made, b = real;
    std::reverse(a.sets.begin(), a.sets.end());
    std::rotate(b.sets.begin(), b.sets.begin() + 3, b.sets.end());
    for (auto* collection : {&a, &b})
      for (auto& set : collection->sets) std::rotate(set.begin(), set.begin() + 3 * long(set.size() / 7), set.end());
    const auto after = generation_quality(a.view(), b.view(), by(distance));
    CHECK(after.minimum_matching_distance == doctest::Approx(before.minimum_matching_distance).epsilon(1e-4));
    CHECK(after.coverage == doctest::Approx(before.coverage));
    CHECK(after.nearest_neighbour_accuracy == doctest::Approx(before.nearest_neighbour_accuracy));
    CHECK(grid_divergence(a.view(), b.view()) == doctest::Approx(grid_divergence(made.view(), real.view())));
  }
}

TEST_CASE("what has no distance is refused") {
  const Collection sets(2, 3, 3, 3, 0, 1), flat(2, 3, 3, 2, 0, 1);
  CHECK_THROWS_WITH_AS(generation_quality(sets.view(), {{}, 3}), doctest::Contains("expected at least one of both"), Error);
  CHECK_THROWS_WITH_AS(generation_quality(sets.view(), flat.view()), doctest::Contains("sets of points of 3 and of 2 numbers"), Error);
  CHECK_THROWS_WITH_AS(generation_quality(sets.view(), {{std::span<const float>()}, 3}), doctest::Contains("set 0 has 0 numbers"), Error);
  const Floats bad{0, 1, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_WITH_AS(generation_quality(sets.view(), {{bad}, 3}), doctest::Contains("the coordinate nan"), Error);
  CHECK_THROWS_WITH_AS(grid_divergence(sets.view(), sets.view(), 0), doctest::Contains("a reach above 0"), Error);
}
