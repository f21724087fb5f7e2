// Schedules: pure functions of the step (or, in per_epoch, of the epoch) for beta, capacity and the learning rate.
//
//   Constant{0.5f}                                     always
//   anneal::Linear{.begin = 0, .end = 1, .steps = 5000}        from begin to end, then end
//   Cosine{...}, anneal::Sigmoid{...}                  the same on other curves
//   Cyclical{.period = 5000, .ramp = 0.5f}             a ramp that starts again each period; Fu et al. 2019
//   Steps{.every = 1000, .factor = 0.5f}               1, 0.5, 0.25 ...
//   warm_up(1000, Cosine{...})                         a ramp from 0, then any other schedule from its own beginning
//   per_epoch(anneal::Linear{.steps = 10})             any of these, counted in epochs
//
// anneal::Linear and anneal::Sigmoid keep their namespace, since layers have these names too. Any type with `float operator()(std::int64_t) const` is a schedule.
#pragma once

#include <vaelib/core/error.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept ScheduleFunction = requires(const T& schedule, std::int64_t step) {
  { schedule(step) } -> std::convertible_to<float>;
};

namespace detail {
/// step / steps within [0, 1]; 1 where there is nothing to wait for.
constexpr double progress(std::int64_t step, std::int64_t steps) {
  return step <= 0 && steps > 0 ? 0.0 : step >= steps ? 1.0 : double(step) / double(steps);
}
/// In double, so that no compiler's choice of fused instructions shows in the float.
constexpr float between(double low, double high, double share) {
  return share <= 0 ? float(low) : share >= 1 ? float(high) : float(low + (high - low) * share);
}
}  // namespace detail

namespace anneal {

struct Constant {
  float value = 1;
  constexpr float operator()(std::int64_t) const { return value; }
};

struct Linear {
  float begin = 0, end = 1;
  std::int64_t steps = 1;
  constexpr float operator()(std::int64_t step) const { return detail::between(begin, end, detail::progress(step, steps)); }
};

/// Half a cosine: slow, fast, slow. From 1 to 0 it is the learning rate of Loshchilov & Hutter 2017, without restarts.
struct Cosine {
  float begin = 1, end = 0;
  std::int64_t steps = 1;
  float operator()(std::int64_t step) const {
    return detail::between(begin, end, 0.5 - 0.5 * std::cos(3.14159265358979323846 * detail::progress(step, steps)));
  }
};

/// A logistic curve whose middle is at steps / 2; it reaches begin and end exactly. Bowman et al. 2016.
struct Sigmoid {
  float begin = 0, end = 1;
  std::int64_t steps = 1;
  float steepness = 12;  ///< the curve is sigmoid(steepness * (progress - 1/2)), stretched to reach 0 and 1
  float operator()(std::int64_t step) const {
    const auto logistic = [&](double p) { return 1 / (1 + std::exp(-double(steepness) * (p - 0.5))); };
    const double low = logistic(0), high = logistic(1);
    return detail::between(begin, end, (logistic(detail::progress(step, steps)) - low) / (high - low));
  }
};

/// In each period: from low to high within the share `ramp`, then high; Fu et al. 2019, "Cyclical annealing schedule".
struct Cyclical {
  std::int64_t period = 1;
  float ramp = 0.5f, low = 0, high = 1;
  constexpr float operator()(std::int64_t step) const {
    if (period <= 0) return high;
    const double place = double((step % period + period) % period) / double(period);
    return detail::between(low, high, ramp > 0 ? place / double(ramp) : 1.0);
  }
};

/// factor^(step / every): the learning rate drops by steps.
struct Steps {
  std::int64_t every = 1;
  float factor = 0.1f;
  constexpr float operator()(std::int64_t step) const {
    double value = 1, power = double(factor);  // factor^1, ^2, ^4, ...
    for (std::int64_t k = every > 0 ? step / every : 0; k > 0; k /= 2, power *= power)
      if (k % 2 == 1) value *= power;
    return float(value);
  }
};

/// From 0 to the first value of another schedule within `steps`, then that schedule from its own step 0.
template <ScheduleFunction Then>
struct WarmUp {
  std::int64_t steps;
  Then then;
  constexpr WarmUp(std::int64_t n, Then t) : steps(n), then(t) {}
  constexpr float operator()(std::int64_t step) const {
    return step < steps ? detail::between(0, then(0), detail::progress(step, steps)) : then(step - steps);
  }
};
template <ScheduleFunction Then = Constant>
constexpr WarmUp<Then> warm_up(std::int64_t steps, Then then = {}) {
  return {steps, then};
}

template <ScheduleFunction Of>
struct PerEpoch {
  Of of;
};
template <ScheduleFunction Of>
constexpr PerEpoch<Of> per_epoch(Of of) {
  return {of};
}

}  // namespace anneal

using anneal::Constant, anneal::Cosine, anneal::Cyclical, anneal::Steps, anneal::warm_up, anneal::per_epoch;

/// Any schedule, its type forgotten. A plain number is Constant.
class Schedule {
 public:
  Schedule(float value = 1) : Schedule(Constant{value}) {}
  template <ScheduleFunction S>
  Schedule(S schedule) : held(new S(schedule)), call([](const void* s, std::int64_t at) { return float((*static_cast<const S*>(s))(at)); }) {}
  template <ScheduleFunction S>
  Schedule(anneal::PerEpoch<S> schedule) : Schedule(schedule.of) {
    epochs = true;
  }

  float at(std::int64_t step, std::int64_t epoch) const { return call(held.get(), epochs ? epoch : step); }

 private:
  std::shared_ptr<const void> held;  // by new: std::make_shared would compile three times as much for each S
  float (*call)(const void*, std::int64_t);
  bool epochs = false;
};

}  // namespace vaelib::inline VAELIB_ABI
