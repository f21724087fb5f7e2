// Plateau against PyTorch's ReduceLROnPlateau, and where there is no such thing.
#include <doctest/doctest.h>

#include <cmath>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/schedules/plateau.hpp>

using namespace vaelib;

namespace {

constexpr float rate_after(Plateau plateau, std::initializer_list<double> losses) {
  for (const double loss : losses) plateau.see(loss);
  return plateau.rate;
}

constexpr Plateau quick{.factor = 0.5f, .patience = 1};
static_assert(rate_after(quick, {}) == 1);
static_assert(rate_after(quick, {3, 3}) == 1 && rate_after(quick, {3, 3, 3}) == 0.5f);
static_assert(rate_after(quick, {3, 3, 2, 2}) == 1);  // progress: waiting begins again
static_assert(rate_after(quick, {3, 3, 3, 3, 3}) == 0.25f);
static_assert(rate_after({.factor = 0.5f, .patience = 1, .cooldown = 2}, {3, 3, 3, 3, 3, 3}) == 0.5f);
static_assert(rate_after({.factor = 0.5f, .patience = 0, .smallest = 0.4f}, {3, 3, 3, 3}) == 0.4f);
// the threshold is a share of |best|, also where losses are negative
static_assert(rate_after({.factor = 0.5f, .patience = 0, .threshold = 0.1f}, {-10, -10.5}) == 0.5f);
static_assert(rate_after({.factor = 0.5f, .patience = 0, .threshold = 0.1f}, {-10, -11.5}) == 1);

}  // namespace

TEST_CASE("Plateau falls where PyTorch's does") {
  const SafetensorsFile file(text(VAELIB_TEST_FOLDER, "/golden/optimizers.safetensors"));
  const auto numbers = [&](const char* name) {
    std::vector<float> values(file.find(name)->count());
    file.read(name, values);
    return values;
  };
  const auto losses = numbers("plateau_losses");
  const auto check = [&](const char* name, Plateau plateau) {
    const auto wanted = numbers(name);
    for (std::size_t i = 0; i < losses.size(); ++i) {
      plateau.see(double(losses[i]));
      INFO(name, ", epoch ", i);
      CHECK(plateau.rate == wanted[i]);
    }
    CHECK(plateau.rate < 0.5f);
  };
  check("plateau", {.factor = 0.5f, .patience = 2});
  check("plateau_slow", {.factor = 0.5f, .patience = 1, .threshold = 0.3f, .cooldown = 3});
  check("plateau_floor", {.factor = 0.25f, .patience = 0, .smallest = 0.1f});
}

TEST_CASE("a loss that is not a number is no progress") {
  CHECK(rate_after(quick, {3, NAN, NAN}) == 0.5f);
  CHECK(rate_after(quick, {NAN, NAN, NAN}) == 0.5f);
  CHECK(rate_after(quick, {NAN, 5, 4, 3}) == 1);
  CHECK(rate_after(quick, {INFINITY, 5, 5}) == 1);
}

TEST_CASE("settings that make no sense are named") {
  const auto check = [](const Plateau& plateau) { plateau.check(); };
  CHECK_NOTHROW(check({}));
  CHECK_THROWS_WITH_AS(check({.factor = 1}), "vaelib: a Plateau wants a factor between 0 and 1, found 1", Error);
  CHECK_THROWS_WITH_AS(check({.factor = NAN}), "vaelib: a Plateau wants a factor between 0 and 1, found nan", Error);
  CHECK_THROWS_WITH_AS(check({.smallest = 2}), "vaelib: a Plateau wants a smallest rate from 0 to 1, found 2", Error);
}
