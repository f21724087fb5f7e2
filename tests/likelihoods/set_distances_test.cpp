// Distances of sets: against all distances in double and exact assignments; a pair's result is its own.
#include <doctest/doctest.h>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/likelihoods/assignment.hpp>
#include <vaelib/likelihoods/set_distances.hpp>
#include <vaelib/train/gradient_check.hpp>

#include <numeric>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;
constexpr Shape flat{dynamic};

Floats normals(long count, std::uint64_t seed) {
  Floats numbers(count);
  normal(RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}

struct Pairs {
  int dimension;
  std::vector<long> from{0}, to{0};
  Floats x, y;
  Pairs(int d, std::initializer_list<std::pair<long, long>> sizes, std::uint64_t seed) : dimension(d) {
    for (const auto& [n, m] : sizes) from.push_back(from.back() + n), to.push_back(to.back() + m);
    x = normals(from.back() * d, seed), y = normals(to.back() * d, seed + 1);
  }
  long groups() const { return long(from.size()) - 1; }
  Pairs only(long g) const {
    Pairs one(dimension, {{from[g + 1] - from[g], to[g + 1] - to[g]}}, 0);
    one.x.assign(x.begin() + from[g] * dimension, x.begin() + from[g + 1] * dimension);
    one.y.assign(y.begin() + to[g] * dimension, y.begin() + to[g + 1] * dimension);
    return one;
  }
};

struct Found {
  Floats values, dx, dy;
  std::size_t bytes = 0;
};
/// The distances and the gradients of their sum.
template <class Distance>
Found measure(const Pairs& pairs, const Distance& distance, int threads = 1) {
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::training, 0, 0, Stream::noise);
  const auto variable = [&](const std::vector<long>& offsets, const Floats& numbers) {
    auto v = step.variable<flat>(step.ragged(pairs.groups(), offsets.data()), Shape{pairs.dimension}, true);
    std::copy(numbers.begin(), numbers.end(), v.value());
    return v;
  };
  const auto x = variable(pairs.from, pairs.x), y = variable(pairs.to, pairs.y);
  const auto d = distance(step, x, y);
  step.backward(mean_rows(step, d), float(pairs.groups()));
  const auto numbers = [](const float* p, long n) { return p ? Floats(p, p + n) : Floats(); };
  return {numbers(d.value(), d.size()), numbers(step.gradient(x), x.size()), numbers(step.gradient(y), y.size()),
          step.bytes_held()};
}
const auto sums = [](auto& step, auto x, auto y) { return chamfer(step, x, y); };
const auto means = [](auto& step, auto x, auto y) { return chamfer(step, x, y, PerSet::mean); };
const auto transported = [](auto& step, auto x, auto y) { return earth_mover(step, x, y, 0.1, 20); };

void check_chamfer(const Pairs& pairs, bool mean) {
  const Found found = mean ? measure(pairs, means) : measure(pairs, sums);
  const int dim = pairs.dimension;
  std::vector<double> dx(pairs.x.size()), dy(pairs.y.size());
  const auto close = [](double a, double b, double scale, long points) {
    return std::abs(a - b) <= 4 * 0x1p-23 * std::log2(double(points) + 2) * scale;
  };
  for (long g = 0; g < pairs.groups(); ++g) {
    const long n = pairs.from[g + 1] - pairs.from[g], m = pairs.to[g + 1] - pairs.to[g];
    double value = 0;
    const auto nearest = [&](const Floats& a, const Floats& b, long i, long first, long last) {
      double best = INFINITY;
      long who = first;
      for (long j = first; j < last; ++j) {
        double d = 0;
        for (int k = 0; k < dim; ++k) d += std::pow(double(a[i * dim + k]) - b[j * dim + k], 2);
        if (d < best) best = d, who = j;
      }
      return std::pair(best, who);
    };
    const auto go = [&](const Floats& a, const std::vector<long>& of_a, std::vector<double>& da, const Floats& b,
                        const std::vector<long>& of_b, std::vector<double>& db, double share) {
      for (long i = of_a[g]; i < of_a[g + 1]; ++i) {
        const auto [d, j] = nearest(a, b, i, of_b[g], of_b[g + 1]);
        value += share * d;
        for (int k = 0; k < dim; ++k) {
          const double force = 2 * share * (double(a[i * dim + k]) - b[j * dim + k]);
          da[i * dim + k] += force;
          db[j * dim + k] -= force;
        }
      }
    };
    go(pairs.x, pairs.from, dx, pairs.y, pairs.to, dy, mean && n > 0 ? 1.0 / double(n) : 1);
    go(pairs.y, pairs.to, dy, pairs.x, pairs.from, dx, mean && m > 0 ? 1.0 / double(m) : 1);
    INFO("dimension ", dim, ", pair ", g, ": ", found.values[g], " instead of ", value);
    CHECK(close(found.values[g], value, value, n + m));
  }
  const auto largest = [](const std::vector<double>& d) {
    double result = 0;
    for (const double v : d) result = std::max(result, std::abs(v));
    return result;
  };
  for (std::size_t i = 0; i < dx.size(); ++i) REQUIRE(close(found.dx[i], dx[i], largest(dx), 4000));
  for (std::size_t i = 0; i < dy.size(); ++i) REQUIRE(close(found.dy[i], dy[i], largest(dy), 4000));
}

template <class Distance>
void check_company(const Pairs& pairs, const Distance& distance) {
  const Found all = measure(pairs, distance);
  for (const int threads : {2, 4}) {
    const Found again = measure(pairs, distance, threads);
    CHECK((again.values == all.values && again.dx == all.dx && again.dy == all.dy));
  }
  Found parts;
  for (long g = 0; g < pairs.groups(); ++g) {
    const Found one = measure(pairs.only(g), distance);
    parts.values.insert(parts.values.end(), one.values.begin(), one.values.end());
    parts.dx.insert(parts.dx.end(), one.dx.begin(), one.dx.end());
    parts.dy.insert(parts.dy.end(), one.dy.begin(), one.dy.end());
  }
  CHECK((parts.values == all.values && parts.dx == all.dx && parts.dy == all.dy));  // bit for bit

  Pairs turned = pairs;  // all points of x the other way round, within their sets
  for (long g = 0; g < pairs.groups(); ++g)
    for (long i = pairs.from[g]; i < pairs.from[g + 1]; ++i)
      std::copy_n(&pairs.x[i * pairs.dimension], pairs.dimension,
                  &turned.x[(pairs.from[g] + pairs.from[g + 1] - 1 - i) * pairs.dimension]);
  const Found after = measure(turned, distance);
  for (long g = 0; g < pairs.groups(); ++g)
    CHECK(std::abs(after.values[g] - all.values[g]) <= 1e-6f * (1 + std::abs(all.values[g])));
}

/// Two ragged inputs as parameters.
struct TwoSets {
  Parameter x{{6, 2}, normal(1)}, y{{7, 2}, normal(1)};
  void build() {}
  void fields(auto&& f) {
    f("x", x);
    f("y", y);
  }
  static constexpr long from[] = {0, 2, 2, 6}, to[] = {0, 3, 3, 7};
  template <class S>
  auto input(S& step, const Parameter& p, const long* offsets) const {
    auto v = step.template variable<Shape{2}>(step.ragged(3, offsets), Shape{2}, step.needs_gradient(p));
    std::copy_n(step.value(p), v.size(), v.value());
    if (v.needs_gradient()) step.record({v.node}, [=](S& s) { s.backend.copy(v.size(), s.gradient(v), s.target(p)); });
    return v;
  }
};
template <class Distance>
void check_gradient(const Distance& distance, GradientCheckOptions options = {}) {
  const auto report = gradient_check<Shape{1}>(
      TwoSets{},
      [&](auto& step, const auto& m, auto) {
        return distance(step, m.input(step, m.x, m.from), m.input(step, m.y, m.to));
      },
      options);
  INFO(report.summary());
  CHECK(report.passed());
}

}  // namespace

TEST_CASE("chamfer against all distances") {
  for (const bool mean : {false, true}) {
    check_chamfer(Pairs(3, {{1, 1}, {5, 3}, {0, 0}, {64, 65}, {17, 200}}, 1), mean);
    check_chamfer(Pairs(1, {{33, 20}, {1, 40}, {40, 1}}, 2), mean);
    check_chamfer(Pairs(5, {{30, 31}}, 3), mean);
  }
  check_chamfer(Pairs(3, {{1100, 2100}, {3, 1030}}, 4), false);  // more than are looked through at a time
  check_company(Pairs(3, {{70, 30}, {0, 0}, {1, 1}, {1030, 1029}}, 5), sums);
  check_gradient(sums);
  check_gradient(means);
}

TEST_CASE("chamfer: the first of several nearest points, and memory") {
  Pairs same(2, {{2, 3}}, 1);
  same.x = {0, 0, 4, 0}, same.y = {1, 0, 1, 0, 1, 0};
  const Found found = measure(same, sums);
  CHECK(found.values[0] == 1 + 9 + 3);
  CHECK(found.dy == Floats{2 - 6 + 2, 0, 2, 0, 2, 0});
  for (const float d :
       measure(Pairs(3, {{9, 9}}, 1), [](auto&step, auto x, auto) { return chamfer(step, x, x); }).values)
    CHECK(d == 0);

  std::vector<long> offsets(65);
  for (int g = 0; g <= 64; ++g) offsets[g] = g * 2048;
  Pairs many(3, {{1, 1}}, 1);
  many.from = many.to = offsets;
  many.x = normals(64 * 2048 * 3, 1), many.y = normals(64 * 2048 * 3, 2);
  const std::size_t inputs_and_gradients = 4 * many.x.size() * sizeof(float);
  CHECK(measure(many, sums).bytes - inputs_and_gradients < (8u << 20));
}

TEST_CASE("chamfer: PyTorch's numbers") {
  const SafetensorsFile file(text(VAELIB_TEST_FOLDER, "/golden/sets.safetensors"));
  const auto read = [&](const char* name) {
    Floats values(file.find(name)->count());
    file.read(name, values);
    return values;
  };
  Pairs pairs(3, {{5, 9}, {1, 2}, {9, 4}}, 1);
  pairs.x = read("chamfer.x"), pairs.y = read("chamfer.y");
  const Found found = measure(pairs, sums);
  const Floats values = read("chamfer.values"), dy = read("chamfer.dy");
  for (std::size_t g = 0; g < 3; ++g) CHECK(found.values[g] == doctest::Approx(values[g]).epsilon(1e-6));
  for (std::size_t i = 0; i < dy.size(); ++i) CHECK(std::abs(found.dy[i] - dy[i]) < 1e-5);
}

TEST_CASE("assign finds the cheapest of all assignments") {
  std::uint64_t seed = 0;
  for (const auto& extents : {std::pair{0, 0}, {1, 1}, {4, 4}, {5, 6}, {6, 6}, {2, 7}}) {
    const int rows = extents.first, columns = extents.second;
    const Floats numbers = normals(rows * columns, ++seed);
    const std::vector<double> costs(numbers.begin(), numbers.end());
    const auto cost_of = [&](const std::vector<int>& columns_of) {
      double sum = 0;
      for (int i = 0; i < rows; ++i) sum += costs[i * columns + columns_of[i]];
      return sum;
    };
    std::vector<int> order(columns);
    std::iota(order.begin(), order.end(), 0);
    double best = INFINITY;
    do best = std::min(best, cost_of(order));
    while (std::next_permutation(order.begin(), order.end()));
    const auto found = assign(rows, columns, costs);
    CHECK(cost_of(found) == doctest::Approx(best));
    std::vector<int> used = found;
    std::sort(used.begin(), used.end());
    CHECK(std::adjacent_find(used.begin(), used.end()) == used.end());
  }
  const double costs[] = {1, NAN};
  CHECK_THROWS_AS(assign(1, 2, costs), Error);
  CHECK_THROWS_AS(assign(2, 1, std::span(costs, 2)), Error);
  CHECK_THROWS_AS(assign(1, 1, costs), Error);
}

TEST_CASE("earth_mover: near the exact assignment, and its gradient") {
  const Pairs pairs(3, {{40, 40}, {1, 1}, {100, 100}}, 6);
  const Found found = measure(pairs, [](auto& step, auto x, auto y) { return earth_mover(step, x, y, 0.002, 3000); });
  for (long g = 0; g < pairs.groups(); ++g) {
    const Pairs one = pairs.only(g);
    const double exact = exact_earth_mover(int(one.from[1]), 3, one.x.data(), one.y.data());
    INFO("pair ", g);
    // the entropy of an assignment of n points is at most epsilon log n above the cost
    CHECK(found.values[g] >= exact - 1e-4);
    CHECK(found.values[g] <= exact + 0.002 * std::log(100.0) + 1e-4);
  }
  // one point against many: every point of y moves to it
  const Pairs star(2, {{1, 4}}, 7);
  double mean = 0;
  for (int j = 0; j < 8; ++j) mean += std::pow(double(star.x[j % 2]) - star.y[j], 2) / 4;
  CHECK(measure(star, transported).values[0] == doctest::Approx(mean).epsilon(1e-5));
  check_gradient([](auto& step, auto x, auto y) { return earth_mover(step, x, y, 1.0, 300); }, {.single = 1e-5});
  check_company(Pairs(3, {{70, 30}, {0, 0}, {1, 1}, {130, 129}}, 5), transported);
  check_company(Pairs(2, {{5, 30}, {65, 64}}, 5), transported);
}

TEST_CASE("distances of sets: what they refuse") {
  CHECK_THROWS_WITH_AS(measure(Pairs(3, {{2, 2}, {0, 4}}, 1), sums),
                       "vaelib: chamfer of set 1: an empty set and one of 4 points have no distance", Error);
  CHECK_THROWS_WITH_AS(measure(Pairs(3, {{2, 0}}, 1), transported),
                       "vaelib: earth_mover of set 0: an empty set and one of 2 points have no distance", Error);
  CHECK(measure(Pairs(3, {{0, 0}}, 1), sums).values == Floats{0});
  CHECK(measure(Pairs(3, {{0, 0}}, 1), transported).values == Floats{0});
  CHECK_THROWS_WITH_AS(
      measure(Pairs(3, {{2, 2}}, 1), [](auto& step, auto x, auto y) { return earth_mover(step, x, y, 0.0, 3); }),
      "vaelib: earth_mover with epsilon 0 and 3 rounds, expected more than 0 of both", Error);
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 0, 0, Stream::noise);
  const long two[] = {0, 2, 4}, one[] = {0, 4};
  const auto points = [&](const RowSpace* space, int d) { return step.variable<flat>(space, Shape{d}, false); };
  const RowSpace *pairs = step.ragged(2, two), *single = step.ragged(1, one);
  CHECK_THROWS_WITH_AS(chamfer(step, points(pairs, 3), points(single, 3)),
                       "vaelib: chamfer wants ragged rows of as many sets, found 2 and 1", Error);
  CHECK_THROWS_WITH_AS(chamfer(step, points(pairs, 3), points(step.rows(4), 3)),
                       "vaelib: chamfer wants ragged rows of as many sets, found 2 and 0", Error);
  CHECK_THROWS_WITH_AS(chamfer(step, points(pairs, 3), points(pairs, 2)),
                       "vaelib: chamfer wants points of one dimension, found 3 and 2", Error);
  Pairs broken(3, {{3, 3}}, 1);
  broken.x[4] = NAN;
  CHECK(!std::isfinite(measure(broken, sums).values[0]));
  CHECK(!std::isfinite(measure(broken, transported).values[0]));
}
