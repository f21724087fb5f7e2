#include <doctest/doctest.h>

#include <core/sweep.hpp>
#include <limits>
#include <vaelib/core/dual.hpp>

using namespace vaelib;

namespace {
/// The slope of f at x by central differences of the double-precision function.
template <class F>
double difference(F f, double x) {
  const double h = 1e-5 * std::max(1.0, std::fabs(x));
  return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h);
}

/// Value and slope of f in double, float and Lanes at points of (low, high).
template <class F>
void check_slope(const char* name, F f, double low, double high) {
  CAPTURE(name);
  for (int i = 0; i <= 40; ++i) {
    const double x = low + (high - low) * (i + 0.37) / 41.5;
    CAPTURE(x);
    const auto exact = f(Dual<double>::input(x, 0));
    CHECK(exact.value == doctest::Approx(f(x)).epsilon(1e-14));
    CHECK(exact.slope[0] == doctest::Approx(difference(f, x)).epsilon(1e-7).scale(1e-3));

    const auto rounded = static_cast<float>(x);
    const auto reference = f(Dual<double>::input(static_cast<double>(rounded), 0));
    const double bound = 1e-6 * (1 + std::fabs(reference.slope[0]));
    const auto single = f(Dual<float>::input(rounded, 0));
    CHECK(std::fabs(static_cast<double>(single.slope[0]) - reference.slope[0]) <= bound);
    CHECK(std::fabs(static_cast<double>(single.value) - reference.value) <= 1e-6 * (1 + std::fabs(reference.value)));
#if VAELIB_HAS_LANES
    const auto lanes = f(Dual<Lanes<8>>::input(rounded, 0));
    CHECK(std::fabs(static_cast<double>(lanes.slope[0].v[5]) - reference.slope[0]) <= bound);
    CHECK(std::fabs(static_cast<double>(lanes.value.v[5]) - reference.value) <=
          1e-6 * (1 + std::fabs(reference.value)));
#endif
  }
}

constexpr auto input(double x) { return Dual<double>::input(x, 0); }
}  // namespace

TEST_CASE("every function has the slope of its differences") {
  check_slope(
      "exp", [](auto x) { return exp(x); }, -3, 3);
  check_slope(
      "expm1", [](auto x) { return expm1(x); }, -3, 3);
  check_slope(
      "log", [](auto x) { return log(x); }, 0.1, 10);
  check_slope(
      "log1p", [](auto x) { return log1p(x); }, -0.9, 10);
  check_slope(
      "sqrt", [](auto x) { return sqrt(x); }, 0.1, 10);
  check_slope(
      "rsqrt", [](auto x) { return rsqrt(x); }, 0.5, 10);
  check_slope(
      "abs", [](auto x) { return abs(x); }, -3, 3);
  check_slope(
      "tanh", [](auto x) { return tanh(x); }, -3, 3);
  check_slope(
      "sigmoid", [](auto x) { return sigmoid(x); }, -10, 10);
  check_slope(
      "softplus", [](auto x) { return softplus(x); }, -10, 10);
  check_slope(
      "erf", [](auto x) { return erf(x); }, -3, 3);
  check_slope(
      "sin", [](auto x) { return sin(x); }, -6, 6);
  check_slope(
      "cos", [](auto x) { return cos(x); }, -6, 6);
  check_slope(
      "square", [](auto x) { return square(x); }, -3, 3);
  check_slope(
      "pow", [](auto x) { return pow(x, 5); }, -2, 2);
  check_slope(
      "negative pow", [](auto x) { return pow(x, -2); }, 0.7, 3);
  check_slope(
      "max", [](auto x) { return max(x, 0.25f) * 2; }, -3, 3);
  check_slope(
      "min", [](auto x) { return min(1, x) * 2; }, -3, 3);
  check_slope(
      "clamp", [](auto x) { return clamp(x, -1, 1.5f) + x; }, -3, 3);
  check_slope(
      "select", [](auto x) { return select(x > 0, x, 0.25f * x); }, -3, 3);
}

TEST_CASE("arithmetic with duals, and with operands that have no slope") {
  check_slope(
      "+", [](auto x) { return x + x + 1 + (2.5f + x); }, -3, 3);
  check_slope(
      "-", [](auto x) { return 1 - x - (x * x - 2) - (-x); }, -3, 3);
  check_slope(
      "*", [](auto x) { return 0.5 * x * (x * 3) * +x; }, -2, 2);
  check_slope(
      "/", [](auto x) { return (1 / x + x / 4) / (x * x + 1); }, 0.5, 3);
  check_slope(
      "compound", [](auto x) { return x += x * x, x -= 1, x *= x, x /= 2, x; }, -2, 2);
  check_slope(
      "swish", [](auto x) { return x * sigmoid(x); }, -5, 5);
  check_slope(
      "gelu", [](auto x) { return 0.5f * x * (1 + erf(x * 0.70710678118654752)); }, -4, 4);
}

TEST_CASE("several inputs have a slope each") {
  using D = Dual<double, 3>;
  const auto f = [](auto x, auto m, auto l) { return 0.5 * (l + square(x - m) * exp(-l)); };  // a Gaussian's
  const double x = 0.7, m = -0.3, l = 0.4;
  const D r = f(D::input(x, 0), D::input(m, 1), D::input(l, 2));
  CHECK(r.value == doctest::Approx(f(x, m, l)));
  CHECK(r.slope[0] == doctest::Approx((x - m) * std::exp(-l)));
  CHECK(r.slope[1] == doctest::Approx(-(x - m) * std::exp(-l)));
  CHECK(r.slope[2] == doctest::Approx(0.5 - 0.5 * (x - m) * (x - m) * std::exp(-l)));
  const auto quotient = Dual<double, 2>::input(x, 0) / Dual<double, 2>::input(m, 1);
  CHECK(quotient.slope[0] == doctest::Approx(1 / m));
  CHECK(quotient.slope[1] == doctest::Approx(-x / (m * m)));
  CHECK(max(Dual<double, 2>::input(x, 0), Dual<double, 2>::input(m, 1)).slope[0] == 1);
  CHECK(max(Dual<double, 2>::input(x, 0), Dual<double, 2>::input(m, 1)).slope[1] == 0);
}

TEST_CASE("slopes at kinks and edges") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(abs(input(0)).slope[0] == 0);
  CHECK(abs(input(-2)).slope[0] == -1);
  CHECK(std::isnan(abs(input(NAN)).slope[0]));
  CHECK(max(input(0), 0).slope[0] == 0);
  CHECK(max(0, input(0)).slope[0] == 1);
  CHECK(clamp(input(1), -1, 1).slope[0] == 1);
  CHECK(clamp(input(1.1), -1, 1).slope[0] == 0);
  CHECK(sqrt(input(0)).slope[0] == infinity);
  CHECK(log(input(0)).slope[0] == infinity);
  CHECK(log(input(0)).value == -infinity);
  CHECK(std::isnan(max(input(NAN), 0).value));
  CHECK(std::isnan(clamp(input(NAN), 0, 1).value));
  CHECK(is_finite(input(1)));
  CHECK_FALSE(is_finite(input(infinity)));
}

TEST_CASE("slopes do not cancel where a function saturates") {
  CHECK(sigmoid(input(40)).slope[0] == doctest::Approx(std::exp(-40.0)).epsilon(1e-12));
  CHECK(static_cast<double>(sigmoid(Dual<float>::input(20.f, 0)).slope[0]) ==
        doctest::Approx(std::exp(-20.0)).epsilon(1e-6));
  CHECK(static_cast<double>(softplus(Dual<float>::input(-20.f, 0)).slope[0]) ==
        doctest::Approx(std::exp(-20.0)).epsilon(1e-6));
  CHECK(softplus(Dual<float>::input(1000.f, 0)).slope[0] == 1);
  CHECK(softplus(Dual<float>::input(-1000.f, 0)).slope[0] == 0);
  CHECK(static_cast<double>(expm1(Dual<float>::input(-20.f, 0)).slope[0]) ==
        doctest::Approx(std::exp(-20.0)).epsilon(1e-6));
}

TEST_CASE("a functor of constants is one of the compiler's") {
  constexpr auto relu = [](auto x) { return max(x, 0); };
  static_assert(relu(-2.0) == 0 && relu(3.f) == 3);
  constexpr auto r = [](auto x) { return (x * x + 2) / (1 - x); }(Dual<double>::input(3, 0));
  static_assert(r.value == -5.5 && r.slope[0] == -0.25);
}
