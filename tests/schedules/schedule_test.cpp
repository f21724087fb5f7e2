// Schedules are pure functions of the step: their closed forms, by the compiler where it can.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <vaelib/schedules/schedule.hpp>

using namespace vaelib;

namespace {

constexpr std::int64_t ever = std::numeric_limits<std::int64_t>::max();

constexpr anneal::Constant half{0.5f};
static_assert(half(0) == 0.5f && half(ever) == 0.5f && anneal::Constant{}(7) == 1);

constexpr anneal::Linear up{.begin = 1, .end = 3, .steps = 4};
static_assert(up(-5) == 1 && up(0) == 1 && up(1) == 1.5f && up(2) == 2 && up(4) == 3 && up(ever) == 3);
static_assert(anneal::Linear{.steps = 0}(0) == 1 && anneal::Linear{.steps = -3}(0) == 1);  // nothing to wait for
static_assert(anneal::Linear{.begin = 4, .end = 0, .steps = 4}(1) == 3);

constexpr Cyclical waves{.period = 8, .ramp = 0.5f, .low = 1, .high = 2};
static_assert(waves(0) == 1 && waves(1) == 1.25f && waves(4) == 2 && waves(7) == 2 && waves(8) == 1 &&
              waves(8000001) == 1.25f);
static_assert(waves(-7) == 1.25f && waves(ever) == 2);
static_assert(Cyclical{.period = 0}(5) == 1 && Cyclical{.period = 5, .ramp = 0}(0) == 1);
static_assert(Cyclical{.period = 4, .ramp = 1}(3) == 0.75f);

constexpr Steps halves{.every = 10, .factor = 0.5f};
static_assert(halves(0) == 1 && halves(9) == 1 && halves(10) == 0.5f && halves(35) == 0.125f && halves(ever) == 0);
static_assert(Steps{.every = 0}(99) == 1);

constexpr auto warm = warm_up(4, up);  // to the first value of `up`, then `up` from its own beginning
static_assert(warm(0) == 0 && warm(1) == 0.25f && warm(3) == 0.75f && warm(4) == 1 && warm(5) == 1.5f && warm(8) == 3);
static_assert(warm_up(0, up)(0) == 1 && warm_up(2)(1) == 0.5f && warm_up(2)(2) == 1);
static_assert(warm_up(2, warm_up(2, half))(1) == 0 && warm_up(2, warm_up(2, half))(3) == 0.25f &&
              warm_up(2, warm_up(2, half))(4) == 0.5f);

/// An own schedule is any function of the step.
struct EverySecond {
  constexpr float operator()(std::int64_t step) const { return float(step % 2); }
};
static_assert(ScheduleFunction<EverySecond> && warm_up(10, EverySecond{})(11) == 1);
static_assert(!ScheduleFunction<anneal::PerEpoch<anneal::Constant>>);  // of the epoch, not of the step

}  // namespace

TEST_CASE("Cosine and Sigmoid") {
  const Cosine down{.begin = 2, .end = 1, .steps = 100};
  CHECK(down(0) == 2);
  CHECK(down(25) == doctest::Approx(1.5 + 0.5 * std::cos(0.25 * 3.14159265358979)));
  CHECK(down(50) == doctest::Approx(1.5));
  CHECK(down(100) == 1);
  CHECK(down(ever) == 1);
  CHECK(Cosine{.steps = 0}(0) == 0);

  const anneal::Sigmoid rise{.begin = 0, .end = 4, .steps = 100};
  CHECK(rise(0) == 0);
  CHECK(rise(50) == doctest::Approx(2));
  CHECK(rise(100) == 4);
  CHECK(rise(ever) == 4);
  CHECK(rise(30) + rise(70) == doctest::Approx(4));
  const double low = 1 / (1 + std::exp(6.0)), at = 1 / (1 + std::exp(12 * 0.2));
  CHECK(rise(30) == doctest::Approx(4 * (at - low) / (1 - 2 * low)));
  for (int step = 1; step <= 100; ++step) {
    CHECK(rise(step) >= rise(step - 1));
    CHECK(down(step) <= down(step - 1));
  }
}

TEST_CASE("any schedule, its type forgotten") {
  CHECK(Schedule{}.at(5, 0) == 1);
  CHECK(Schedule{0.25f}.at(5, 0) == 0.25f);
  CHECK(Schedule{up}.at(1, 99) == 1.5f);
  CHECK(Schedule{EverySecond{}}.at(3, 0) == 1);
  CHECK(Schedule{warm_up(4, Cosine{.steps = 8})}.at(12, 0) == 0);
  const Schedule by_epoch = per_epoch(up);
  for (const std::int64_t step : {0, 1, 1000}) CHECK(by_epoch.at(step, 1) == 1.5f);
  CHECK(Schedule{per_epoch(warm_up(2, up))}.at(1000, 1) == 0.5f);
}

TEST_CASE("the value depends on the step alone: in any order, from any copy") {
  const Schedule schedules[] = {Schedule{waves}, Schedule{warm_up(7, Cosine{.steps = 20})},
                                Schedule{anneal::Sigmoid{.steps = 20}}, Schedule{per_epoch(halves)}};
  for (const Schedule& schedule : schedules) {
    float forwards[30];
    for (int step = 0; step < 30; ++step) forwards[step] = schedule.at(step, step);
    const Schedule copy = schedule;
    for (int step = 29; step >= 0; --step) CHECK(copy.at(step, step) == forwards[step]);
  }
}
