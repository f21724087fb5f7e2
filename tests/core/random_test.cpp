#include <doctest/doctest.h>

#include <core/sweep.hpp>
#include <map>
#include <numeric>
#include <vaelib/core/random.hpp>

using namespace vaelib;

namespace {
using Words = std::array<std::uint32_t, 4>;
const RandomKey key{.seed = 0x0123456789abcdef, .step = 0x1122334455, .stream = 3, .ordinal = 17};

template <class T, class Fill>
std::vector<T> filled(Fill fill, const RandomKey& k, long first, long rows, int features) {
  std::vector<T> out(static_cast<std::size_t>(rows * features) + 1, T(-77));
  fill(k, first, rows, features, out.data());
  CHECK(out.back() == T(-77));  // nothing behind the last
  out.pop_back();
  return out;
}
const auto uniform_fill = [](auto... all) { uniform(all...); };
const auto normal_fill = [](auto... all) { normal(all...); };

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

/// Largest distance of the sample's distribution function from `cdf`, times sqrt(n): below 1.95 in 999 of 1000 cases.
template <class Cdf>
double kolmogorov_smirnov(std::vector<float> x, Cdf cdf) {
  std::sort(x.begin(), x.end());
  const auto n = static_cast<double>(x.size());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double p = cdf(static_cast<double>(x[i])), below = static_cast<double>(i) / n;
    worst = std::max({worst, p - below, below + 1 / n - p});
  }
  return worst * std::sqrt(n);
}
}  // namespace

TEST_CASE("Philox4x32-10 gives the known answers") {
  static_assert(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  static_assert(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  static_assert(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
                Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  CHECK(philox({1, 2, 3, 4}, {5, 6}) != philox({1, 2, 3, 5}, {5, 6}));
}

TEST_CASE("a number is the documented word of its counter, at every width") {
  const test::EachWidth widths;
  widths.run([](int width) {
    CAPTURE(width);
    const int features = 11;
    const auto x = filled<float>(uniform_fill, key, 5, 7, features);
    std::size_t wrong = 0;
    for (std::uint32_t row = 0; row < 7; ++row) {
      for (std::uint32_t e = 0; e < 11; ++e) {
        const Words words = philox({e / 4, 5 + row, 0x22334455, 3u << 24 | 17}, {0x89abcdef, 0x01234567 ^ 0x11});
        wrong += x[row * 11 + e] != static_cast<float>((words[e % 4] >> 9) * 2 + 1) * 0x1p-24f;
      }
    }
    CHECK(wrong == 0);
  });
}

#if VAELIB_HAS_LANES
TEST_CASE("every width gives the same words, also those that this processor lacks") {
  const auto numbers = [](auto lanes) {
    std::vector<float> out(9 * 21);
    vaelib::detail::fill_random<vaelib::detail::UniformOfWords, decltype(lanes)>(key, 3, 9, 21, out.data());
    return out;
  };
  const std::vector<float> one = numbers(0.f);
  CHECK(numbers(Lanes<4>()) == one);
  CHECK(numbers(Lanes<8>()) == one);
  CHECK(numbers(Lanes<16>()) == one);
}
#endif

TEST_CASE("how a batch is split changes nothing") {
  const test::EachWidth widths;
  widths.run([](int width) {
    CAPTURE(width);
    for (const int features : {1, 3, 4, 16, 37}) {
      CAPTURE(features);
      const auto whole = filled<float>(normal_fill, key, 100, 23, features);
      std::vector<float> parts;
      for (long first = 0, rows = 1; first < 23; first += rows, rows = std::min(rows + 2, 23 - first)) {
        const auto part = filled<float>(normal_fill, key, 100 + first, rows, features);
        parts.insert(parts.end(), part.begin(), part.end());
      }
      CHECK(whole == parts);
    }
  });
  CHECK(filled<float>(normal_fill, key, 0, 0, 5).empty());
}

TEST_CASE("every part of the key matters") {
  const auto numbers = [](RandomKey k) { return filled<float>(uniform_fill, k, 0, 2, 8); };
  const auto base = numbers(key);
  CHECK(numbers(key) == base);
  for (const auto change : {+[](RandomKey& k) { k.seed ^= 1; }, +[](RandomKey& k) { k.seed ^= std::uint64_t{1} << 63; },
                            +[](RandomKey& k) { k.step ^= 1; }, +[](RandomKey& k) { k.step ^= std::uint64_t{1} << 63; },
                            +[](RandomKey& k) { k.stream ^= 1; }, +[](RandomKey& k) { k.ordinal ^= 1; }}) {
    RandomKey other = key;
    change(other);
    CHECK(numbers(other) != base);
  }
}

TEST_CASE("uniform numbers lie inside (0, 1), spread evenly, the same in double") {
  const auto x = filled<float>(uniform_fill, key, 0, 100, 1000);
  const auto exact = filled<double>(uniform_fill, key, 0, 100, 1000);
  std::size_t different = 0, outside = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    different += static_cast<double>(x[i]) != exact[i];
    outside += !(x[i] > 0 && x[i] < 1);
  }
  CHECK(different == 0);
  CHECK(outside == 0);
  CHECK(kolmogorov_smirnov(x, [](double v) { return v; }) < 1.95);
}

TEST_CASE("normal numbers have the normal distribution") {
  const test::EachWidth widths;
  widths.run([](int width) {
    CAPTURE(width);
    const auto x = filled<float>(normal_fill, key, 0, 1000, 100);
    const auto n = static_cast<double>(x.size());
    double moment[5] = {};
    for (const float v : x) {
      for (int k = 1; k <= 4; ++k) moment[k] += std::pow(static_cast<double>(v), k) / n;
    }
    CHECK(std::fabs(moment[1]) < 4 * std::sqrt(1 / n));
    CHECK(std::fabs(moment[2] - 1) < 4 * std::sqrt(2 / n));
    CHECK(std::fabs(moment[3]) < 4 * std::sqrt(15 / n));
    CHECK(std::fabs(moment[4] - 3) < 4 * std::sqrt(96 / n));
    CHECK(kolmogorov_smirnov(x, normal_cdf) < 1.95);
    double correlation = 0;  // of neighbours, which share a pair of words
    for (std::size_t i = 0; i + 1 < x.size(); i += 2)
      correlation += static_cast<double>(x[i]) * static_cast<double>(x[i + 1]);
    CHECK(std::fabs(correlation / (n / 2)) < 4 / std::sqrt(n / 2));
  });
}

TEST_CASE("normal numbers agree with double precision within rounding, in the tails and in the middle") {
  const auto exact = filled<double>(normal_fill, key, 0, 100, 1001);
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    const auto x = filled<float>(normal_fill, key, 0, 100, 1001);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, test::ulps(x[i], exact[i]));
    CHECK(worst <= 5);
  });
}

TEST_CASE("the words at the edges give finite normal numbers, equal to those of double precision") {
  for (const std::uint32_t radius : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu, 0x4afb0ccdu}) {
    for (const std::uint32_t angle :
         {0u, 0x1fffffffu, 0x20000000u, 0x40000000u, 0x80000000u, 0xbfffffffu, 0xffffffffu}) {
      CAPTURE(radius);
      CAPTURE(angle);
      const std::uint32_t words[4] = {radius, angle, 1, 1};
      float x[4][1];
      double exact[4][1];
      vaelib::detail::NormalOfWords::apply<float>(words, x);
      vaelib::detail::NormalOfWords::apply<double>(words, exact);
      CHECK(std::isfinite(x[0][0]));
      CHECK(test::ulps(x[0][0], exact[0][0]) <= 5);
      CHECK(test::ulps(x[1][0], exact[1][0]) <= 5);
      const double length = std::hypot(exact[0][0], exact[1][0]);
      CHECK(length * length == doctest::Approx(-2 * std::log((radius + 0.5) * 0x1p-32)).epsilon(1e-6));
      CHECK(std::fabs(exact[0][0] - length * std::cos(6.283185307179586 * (angle + 0.5) * 0x1p-32)) < 1e-12);
    }
  }
}

TEST_CASE("integers below n are without bias") {
  RandomSequence sequence(key);
  for (const std::uint32_t n : {1u, 2u, 7u, 100u}) {
    std::vector<double> count(n);
    const double total = 20000;
    for (int i = 0; i < 20000; ++i) {
      const std::uint32_t k = sequence.below(n);
      REQUIRE(k < n);
      ++count[k];
    }
    double chi2 = 0;
    for (const double c : count) chi2 += (c - total / n) * (c - total / n) / (total / n);
    CHECK(chi2 < n - 1 + 4 * std::sqrt(2.0 * n) + 1e-9);
  }
  std::size_t high = 0;  // with 3 * 2^30 values a plain remainder or product would favour some
  for (int i = 0; i < 30000; ++i) high += sequence.below(0xc0000000u) >= 0x80000000u;
  CHECK(std::fabs(static_cast<double>(high) - 10000) < 4 * std::sqrt(30000 * 2.0 / 9));
  RandomSequence a(key), b(key);
  for (int i = 0; i < 9; ++i) CHECK(a.next() == b.next());
}

TEST_CASE("permutations hold every number once, and each is as likely") {
  std::vector<std::uint32_t> order(1000), again(1000), sorted(1000);
  permutation(key, order);
  permutation(key, again);
  CHECK(order == again);
  std::iota(sorted.begin(), sorted.end(), 0u);
  CHECK(order != sorted);
  std::sort(order.begin(), order.end());
  CHECK(order == sorted);
  permutation(key, std::span<std::uint32_t>{});

  std::map<std::vector<std::uint32_t>, int> seen;
  RandomKey epoch = key;
  for (epoch.step = 0; epoch.step < 12000; ++epoch.step) {
    std::vector<std::uint32_t> four(4);
    permutation(epoch, four);
    ++seen[four];
  }
  CHECK(seen.size() == 24);
  double chi2 = 0;
  for (const auto& [_, count] : seen) chi2 += (count - 500.0) * (count - 500.0) / 500;
  CHECK(chi2 < 50);  // 23 degrees of freedom: 49.7 in 1 of 1000 cases
}
