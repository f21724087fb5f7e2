#include <doctest/doctest.h>

#include <core/sweep.hpp>
#include <vaelib/core/dual.hpp>
#include <vaelib/core/vectorize.hpp>

namespace {
namespace elsewhere {  // a user's functor, in a namespace of its own
using namespace vaelib;
struct Swish {
  constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};
struct BernoulliNll {
  constexpr auto operator()(auto logit, auto target) const { return softplus(logit) - logit * target; }
};
}  // namespace elsewhere

using namespace vaelib;

/// Sum of the loss; its gradient along the logits.
float loss(const std::vector<float>& logits, const std::vector<float>& targets, std::vector<float>& gradient) {
  float total = 0;
  vectorize([&](auto lanes) VAELIB_LOOP {
    using T = typename decltype(lanes)::type;
    const long n = static_cast<long>(logits.size());
    T sums(0);
    for (long i = 0; i < n; i += lanes.width) {
      const auto logit = Dual<T>::input(load<T>(logits.data() + i, n - i), 0);
      const auto r = elsewhere::BernoulliNll{}(logit, load<T>(targets.data() + i, n - i));
      store(gradient.data() + i, r.slope[0], n - i);
      float row[16];
      store(row, r.value);
      for (long k = 0; k < lanes.width && i + k < n; ++k) total += row[k];
    }
  });
  return total;
}
}  // namespace

TEST_CASE("the body runs once, at the width that is set") {
  const test::EachWidth widths;
  REQUIRE_FALSE(widths.widths.empty());
  widths.run([](int width) {
    int calls = 0, seen = 0;
    vectorize([&](auto lanes) {
      ++calls;
      seen = lanes.width;
      CHECK(sizeof(typename decltype(lanes)::type) == sizeof(float) * lanes.width);
    });
    CHECK(calls == 1);
    CHECK(seen == width);
  });
}

TEST_CASE("a width that does not exist is refused") {
  for (const int width : {0, -1, 2, 5, 32, 2 * widest_simd()}) {
    CAPTURE(width);
    CHECK_THROWS_AS(set_simd_width(width), Error);
    CHECK(simd_width() == widest_simd());
  }
}

TEST_CASE("a functor of a user gives the same at every width, whatever the length") {
  const test::EachWidth widths;
  for (const std::size_t n : {0u, 1u, 3u, 4u, 7u, 8u, 9u, 15u, 16u, 17u, 31u, 33u, 100u}) {
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i) * 0.37f - 6;
    widths.run([&](int width) {
      CAPTURE(width);
      const std::vector<float> y = test::map(elsewhere::Swish{}, x);
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(test::ulps(y[i], elsewhere::Swish{}(static_cast<double>(x[i]))) <= 4);
      }
    });
  }
}

TEST_CASE("value and gradient in one pass agree with double precision") {
  std::vector<float> logits, targets;
  for (int i = 0; i < 203; ++i)
    logits.push_back(static_cast<float>(i) * 0.2f - 20), targets.push_back(static_cast<float>(i % 5) / 4);
  double exact = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    exact += elsewhere::BernoulliNll{}(static_cast<double>(logits[i]), static_cast<double>(targets[i]));
  }
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    std::vector<float> gradient(logits.size());
    CHECK(static_cast<double>(loss(logits, targets, gradient)) == doctest::Approx(exact).epsilon(1e-6));
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double slope = 1 / (1 + std::exp(-static_cast<double>(logits[i]))) - static_cast<double>(targets[i]);
      CHECK(std::fabs(static_cast<double>(gradient[i]) - slope) < 2e-7);
    }
  });
}
