#include <doctest/doctest.h>

#include <core/sweep.hpp>
#include <limits>
#include <vaelib/core/math.hpp>

using namespace vaelib;

namespace {
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// Every argument of the sweep up to `limit`, at every width, within `bound` units in the last place of `exact`.
template <class F, class Exact>
void check_accuracy(const char* name, F f, Exact exact, double bound, float limit = infinity) {
  CAPTURE(name);
  std::vector<float> x;
  for (const float v : test::sweep(200)) {
    if (limit == infinity || std::fabs(v) <= limit) x.push_back(v);
  }
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    const std::vector<float> y = test::map(f, x);
    double worst = 0;
    float where = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double error = test::ulps(y[i], exact(static_cast<double>(x[i])));
      if (error > worst) worst = error, where = x[i];
    }
    CAPTURE(where);
    CHECK(worst <= bound);
  });
}

/// One value at every width and as a plain float; NaN equals NaN, the sign of zero counts.
template <class F>
void check_value(F f, float x, float expected) {
  CAPTURE(x);
  const auto same = [&](float y) {
    return std::isnan(expected) ? std::isnan(y) : y == expected && std::signbit(y) == std::signbit(expected);
  };
  CHECK(same(f(x)));
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    const float y = test::map(f, {x})[0];
    CAPTURE(y);
    CHECK(same(y));
  });
}

const auto exp_of = [](auto x) { return exp(x); };
const auto expm1_of = [](auto x) { return expm1(x); };
const auto log_of = [](auto x) { return log(x); };
const auto log1p_of = [](auto x) { return log1p(x); };
const auto tanh_of = [](auto x) { return tanh(x); };
const auto erf_of = [](auto x) { return erf(x); };
const auto sigmoid_of = [](auto x) { return sigmoid(x); };
const auto softplus_of = [](auto x) { return softplus(x); };
const auto sqrt_of = [](auto x) { return sqrt(x); };
const auto sin_of = [](auto x) { return sin(x); };
const auto cos_of = [](auto x) { return cos(x); };
}  // namespace

TEST_CASE("scalar functions are within a few units in the last place over all exponents") {
  check_accuracy(
      "exp", exp_of, [](double x) { return std::exp(x); }, 2);
  check_accuracy(
      "expm1", expm1_of, [](double x) { return std::expm1(x); }, 3);
  check_accuracy(
      "log", log_of, [](double x) { return std::log(x); }, 2);
  check_accuracy(
      "log1p", log1p_of, [](double x) { return std::log1p(x); }, 2);
  check_accuracy(
      "tanh", tanh_of, [](double x) { return std::tanh(x); }, 3);
  check_accuracy(
      "erf", erf_of, [](double x) { return std::erf(x); }, 3);
  check_accuracy(
      "sigmoid", sigmoid_of, [](double x) { return 1 / (1 + std::exp(-x)); }, 4);
  check_accuracy(
      "softplus", softplus_of,
      [](double x) { return std::isnan(x) ? x : std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }, 4);
  check_accuracy(
      "sqrt", sqrt_of, [](double x) { return std::sqrt(x); }, 0.51);
  check_accuracy(
      "rsqrt", [](auto x) { return rsqrt(x); }, [](double x) { return 1 / std::sqrt(x); }, 2);
  check_accuracy(
      "sin", sin_of, [](double x) { return std::sin(x); }, 3, 6.2831855f);
  check_accuracy(
      "cos", cos_of, [](double x) { return std::cos(x); }, 3, 6.2831855f);
}

TEST_CASE("scalar functions are accurate where they are steep or cancel") {
  std::vector<float> x;
  for (int i = -20000; i <= 20000; ++i) x.push_back(static_cast<float>(i) * 0.005f);
  const auto worst = [&](auto f, auto exact) {
    double result = 0;
    const std::vector<float> y = test::map(f, x);
    for (std::size_t i = 0; i < x.size(); ++i)
      result = std::max(result, test::ulps(y[i], exact(static_cast<double>(x[i]))));
    return result;
  };
  CHECK(worst(exp_of, [](double v) { return std::exp(v); }) <= 2);
  CHECK(worst(expm1_of, [](double v) { return std::expm1(v); }) <= 3);
  CHECK(worst(log_of, [](double v) { return std::log(v); }) <= 2);
  CHECK(worst(log1p_of, [](double v) { return std::log1p(v); }) <= 2);
  CHECK(worst(tanh_of, [](double v) { return std::tanh(v); }) <= 3);
  CHECK(worst(erf_of, [](double v) { return std::erf(v); }) <= 3);
  CHECK(worst(sigmoid_of, [](double v) { return 1 / (1 + std::exp(-v)); }) <= 4);
}

TEST_CASE("special values are IEEE's") {
  check_value(log_of, 0.f, -infinity);
  check_value(log_of, -0.f, -infinity);
  check_value(log_of, -1.f, not_a_number);
  check_value(log_of, -1e-40f, not_a_number);
  check_value(log_of, -infinity, not_a_number);
  check_value(log_of, infinity, infinity);
  check_value(log_of, 1.f, 0.f);
  check_value(log1p_of, -1.f, -infinity);
  check_value(log1p_of, -1.0000001f, not_a_number);
  check_value(log1p_of, infinity, infinity);
  check_value(log1p_of, -infinity, not_a_number);
  check_value(exp_of, infinity, infinity);
  check_value(exp_of, -infinity, 0.f);
  check_value(exp_of, 89.f, infinity);
  check_value(exp_of, -104.f, 0.f);
  check_value(exp_of, 0.f, 1.f);
  check_value(expm1_of, infinity, infinity);
  check_value(expm1_of, -infinity, -1.f);
  check_value(sqrt_of, -1.f, not_a_number);
  check_value(sqrt_of, infinity, infinity);
  check_value(sigmoid_of, infinity, 1.f);
  check_value(sigmoid_of, -infinity, 0.f);
  check_value(softplus_of, infinity, infinity);
  check_value(softplus_of, -infinity, 0.f);
  check_value(sin_of, infinity, not_a_number);
  check_value(cos_of, infinity, not_a_number);
  check_value(tanh_of, infinity, 1.f);
  check_value(tanh_of, -infinity, -1.f);
  check_value(erf_of, infinity, 1.f);
  check_value(erf_of, -infinity, -1.f);
}

TEST_CASE("odd functions keep the sign of zero, and denormal numbers") {
  for (const float x : {0.f, -0.f, 1e-45f, -1e-45f, 1e-40f, -1e-40f}) {
    check_value(expm1_of, x, x);
    check_value(log1p_of, x, x);
    check_value(tanh_of, x, x);
    check_value(sin_of, x, x);
  }
  check_value(erf_of, 0.f, 0.f);
  check_value(erf_of, -0.f, -0.f);
}

TEST_CASE("powers of 2 for the weights of a softmax") {
  const auto weight = [](auto x) { return detail::exp2_of_negative(x); };
  std::vector<float> x;
  for (int i = 0; i < 100000; ++i) x.push_back(static_cast<float>(i) * -0.001f);
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    const std::vector<float> y = test::map(weight, x);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      worst = std::max(worst, test::ulps(y[i], std::exp2(static_cast<double>(x[i]))));
    CHECK(worst <= 3);
    CHECK(y[0] == 1);
    CHECK(test::map(weight, {-infinity})[0] == 0x1p-100f);
    for (const std::uint32_t bits : {0x7fc00000u, 0xffffffffu, 0x7fc000ffu})
      CHECK(std::isnan(test::map(weight, {__builtin_bit_cast(float, bits)})[0]));
  });
}

TEST_CASE("exp underflows gradually and log takes denormal numbers") {
  for (const float x : {-87.5f, -90.f, -95.f, -100.f, -103.f}) {
    CHECK(test::map(exp_of, {x})[0] > 0);
    CHECK(test::ulps(test::map(exp_of, {x})[0], std::exp(static_cast<double>(x))) <= 1);
  }
  for (const float x : {1e-45f, 3e-42f, 1.1e-38f}) {
    CHECK(test::ulps(test::map(log_of, {x})[0], std::log(static_cast<double>(x))) <= 2);
  }
}

TEST_CASE("NaN stays NaN through every function") {
  for (const float x : {not_a_number, -not_a_number}) {
    check_value(exp_of, x, not_a_number);
    check_value(expm1_of, x, not_a_number);
    check_value(log_of, x, not_a_number);
    check_value(log1p_of, x, not_a_number);
    check_value(tanh_of, x, not_a_number);
    check_value(erf_of, x, not_a_number);
    check_value(sigmoid_of, x, not_a_number);
    check_value(softplus_of, x, not_a_number);
    check_value(sqrt_of, x, not_a_number);
    check_value(sin_of, x, not_a_number);
    check_value(cos_of, x, not_a_number);
    check_value([](auto v) { return abs(v); }, x, not_a_number);
    check_value([](auto v) { return max(v, 0); }, x, not_a_number);
    check_value([](auto v) { return max(0, v); }, x, not_a_number);
    check_value([](auto v) { return min(v, 0); }, x, not_a_number);
    check_value([](auto v) { return min(0, v); }, x, not_a_number);
    check_value([](auto v) { return clamp(v, -1, 1); }, x, not_a_number);
    check_value([](auto v) { return pow(v, 3); }, x, not_a_number);
  }
}

TEST_CASE("an element's bits depend neither on its place nor on its neighbours") {
  const std::vector<float> x = test::sweep(9);
  const auto all = [](auto v) { return sigmoid(v) * tanh(v) + erf(v) * exp(-abs(v)) + log1p(abs(v)) + softplus(v); };
  const test::EachWidth widths;
  widths.run([&](int width) {
    CAPTURE(width);
    const std::vector<float> together = test::map(all, x);
    std::size_t different = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float alone = test::map(all, {x[i]})[0];
      different += test::bits(alone) != test::bits(together[i]) && !std::isnan(alone);
    }
    CHECK(different == 0);
  });
}

#if defined(__x86_64__) && !defined(__FMA__)
namespace {
/// How many of x give other bits in Lanes<Width> than as floats, here where nothing is fused.
template <int Width, class F>
std::size_t differing(F f, const std::vector<float>& x) {
  std::size_t count = 0;
  const long n = static_cast<long>(x.size());
  for (long i = 0; i < n; i += Width) {
    float y[Width];
    store(y, f(load<Lanes<Width>>(x.data() + i, n - i)));
    for (long k = 0; k < Width && i + k < n; ++k) {
      const float one = f(x[static_cast<std::size_t>(i + k)]);
      count += test::bits(one) != test::bits(y[k]) && !(std::isnan(one) && std::isnan(y[k]));
    }
  }
  return count;
}
}  // namespace

TEST_CASE("float and Lanes of every width give the same bits, also those that this processor lacks") {
  const std::vector<float> x = test::sweep(20);
  const auto check = [&](auto f) {
    CHECK(differing<4>(f, x) == 0);
    CHECK(differing<8>(f, x) == 0);
    CHECK(differing<16>(f, x) == 0);
  };
  check(exp_of), check(expm1_of), check(log_of), check(log1p_of), check(tanh_of), check(erf_of);
  check(sigmoid_of), check(softplus_of), check(sqrt_of), check(sin_of), check(cos_of);
}
#endif

TEST_CASE("max, min, clamp, pow, square and is_finite") {
  CHECK(max(1.f, 2) == 2.f);
  CHECK(max(2.0, 1.f) == 2.0);
  CHECK(min(-1, 0.5f) == -1.f);
  CHECK(clamp(3.f, -1, 1) == 1.f);
  CHECK(clamp(-3.0, -1, 1) == -1.0);
  CHECK(clamp(0.25, -1, 1) == 0.25);
  CHECK(pow(3.f, 4) == 81.f);
  CHECK(pow(2.0, -3) == 0.125);
  CHECK(pow(5.0, 0) == 1.0);
  CHECK(square(-3.f) == 9.f);
  CHECK(is_finite(1e38f));
  CHECK_FALSE(is_finite(infinity));
  CHECK_FALSE(is_finite(not_a_number));
  CHECK_FALSE(is_finite(-std::numeric_limits<double>::infinity()));
}

TEST_CASE("double precision is the standard library's") {
  for (const double x : {-20.0, -1.5, -1e-9, 0.0, 0.3, 2.0, 40.0}) {
    CAPTURE(x);
    CHECK(exp(x) == std::exp(x));
    CHECK(tanh(x) == std::tanh(x));
    CHECK(erf(x) == std::erf(x));
    CHECK(expm1(x) == std::expm1(x));
    CHECK(sigmoid(x) == doctest::Approx(1 / (1 + std::exp(-x))).epsilon(1e-15));
    CHECK(softplus(x) == doctest::Approx(std::log1p(std::exp(x))).epsilon(1e-15));
  }
  CHECK(softplus(1000.0) == 1000.0);
  CHECK(sigmoid(-1000.0) == 0.0);
}
