#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vaelib/core/lanes.hpp>

using namespace vaelib;

#if VAELIB_HAS_LANES
namespace {
template <int Width>
Lanes<Width> counting(float first, float step) {
  float numbers[Width];
  for (int k = 0; k < Width; ++k) numbers[k] = first + step * static_cast<float>(k);
  return load<Lanes<Width>>(numbers);
}
/// f(lanes)[k] == f(number k) for every lane.
template <int Width, class F>
void check_lanes(F f) {
  const auto a = counting<Width>(-2.25f, 0.75f), b = counting<Width>(3.f, -0.5f);
  const Lanes<Width> result = f(a, b);
  for (int k = 0; k < Width; ++k) CHECK(result.v[k] == f(static_cast<float>(a.v[k]), static_cast<float>(b.v[k])));
}
}  // namespace

TEST_CASE_TEMPLATE("lanes compute as floats do", W, std::integral_constant<int, 4>, std::integral_constant<int, 8>,
                   std::integral_constant<int, 16>) {
  constexpr int width = W::value;
  check_lanes<width>([](auto a, auto b) { return a + b; });
  check_lanes<width>([](auto a, auto b) { return a - b; });
  check_lanes<width>([](auto a, auto b) { return a * b; });
  check_lanes<width>([](auto a, auto b) { return a / b; });
  check_lanes<width>([](auto a, auto b) { return -a + +b; });
  check_lanes<width>([](auto a, auto) { return 2 * a + 1.f; });
  check_lanes<width>([](auto a, auto) { return 1 - a * 0.5; });
  check_lanes<width>([](auto a, auto) { return (a + 1) / 4u; });
  check_lanes<width>([](auto a, auto b) { return a += b, a *= 2, a -= 1, a /= b, a; });
  check_lanes<width>([](auto a, auto b) { return select(a < b, a, b); });
  check_lanes<width>([](auto a, auto) { return select(a > 0, a, 0.01f * a); });
  check_lanes<width>([](auto a, auto) { return select(a >= 0 && !(a > 1), 1, a); });
  check_lanes<width>([](auto a, auto b) { return select(a <= -1 || b == 2, a, 0); });
  check_lanes<width>([](auto a, auto b) { return select(0 != a, b, a); });
}

TEST_CASE_TEMPLATE("loads and stores touch what they are given, and no more", W, std::integral_constant<int, 4>,
                   std::integral_constant<int, 8>, std::integral_constant<int, 16>) {
  constexpr int width = W::value;
  float from[width + 1];
  for (int k = 0; k <= width; ++k) from[k] = static_cast<float>(k + 1);
  for (long count = -1; count <= width + 2; ++count) {
    CAPTURE(count);
    const auto lanes = load<Lanes<width>>(from + 1, count);  // from any address
    float to[width + 2];
    for (float& x : to) x = -7;
    store(to + 1, lanes, count);
    for (int k = 0; k < width; ++k) {
      CHECK(lanes.v[k] == (k < count ? from[k + 1] : 0.f));
      CHECK(to[k + 1] == (k < count ? from[k + 1] : -7.f));
    }
    CHECK(to[0] == -7);
    CHECK(to[width + 1] == -7);
  }
}

TEST_CASE("the sum of lanes has one order: upper half onto lower half") {
  const float numbers[] = {1e8f, 1, -1e8f, 1, 3, -1, 5, 1e-3f};
  float expected[8];
  std::copy(numbers, numbers + 8, expected);
  for (int half = 4; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) expected[k] += expected[k + half];
  }
  CHECK(sum(load<Lanes<8>>(numbers)) == expected[0]);
  CHECK(sum(Lanes<16>(0.5f)) == 8.f);
  CHECK(sum(3.5) == 3.5);
}

TEST_CASE("constants keep the sign of zero, comparisons with NaN are false") {
  CHECK(std::signbit(static_cast<float>(Lanes<4>(-0.f).v[2])));
  const Lanes<8> nan(std::numeric_limits<float>::quiet_NaN());
  CHECK_FALSE(any(nan < 1 || nan > 1 || nan == nan || nan <= 0 || nan >= 0));
  CHECK(any(nan != nan));
  CHECK(any(counting<8>(0, 1) == 7));
  CHECK_FALSE(any(counting<8>(0, 1) == 8));
}
#endif

TEST_CASE("floats and doubles are lanes of one") {
  const double d[] = {1.5, 2.5};
  double to[] = {0, 0};
  CHECK(load<double>(d + 1) == 2.5);
  CHECK(load<double>(d, 0) == 0);
  store(to, 4.0, 1);
  store(to + 1, 4.0, 0);
  CHECK(to[0] == 4);
  CHECK(to[1] == 0);
  static_assert(select(2 > 1, 3.f, 4) == 3.f);
  static_assert(select(2 < 1, 3, 4.5) == 4.5);
  static_assert(std::is_same_v<decltype(select(true, 1.0, 1)), double>);
}
