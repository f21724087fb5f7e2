// The most multiply-adds that a processor does: sum = sum * x + y in registers only, on all threads at once.
#pragma once

#include <algorithm>
#include <chrono>
#include <vaelib/backend/cpu/cpu.hpp>

namespace bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Twelve sums: twice as many as two units need that answer after three to four cycles, and as many as 16 registers
/// hold.
inline constexpr int sums = 12;
inline constexpr long repetitions = 500'000;

/// GFLOP/s, two for each multiply-add: the best of some trials, each of a millisecond or two.
inline double fma_peak(vaelib::Cpu& cpu, int trials = 20) {
  double best = 0;
  for (int trial = 0; trial < trials; ++trial) {
    const double start = seconds();
    cpu.parallel(cpu.threads(), [](long) {
      vaelib::vectorize([](auto lanes) VAELIB_LOOP {
        using Float = decltype(decltype(lanes)::type::v);
        volatile float from_memory = 0.5f;  // so that the compiler knows none of these numbers, nor that two are equal
        const Float x = from_memory - Float{}, y = from_memory - Float{};
        Float sum[sums];
#pragma GCC unroll 12
        for (int k = 0; k < sums; ++k) sum[k] = from_memory - Float{};
        for (long r = 0; r < repetitions; ++r) {
#pragma GCC unroll 12
          for (int k = 0; k < sums; ++k) sum[k] = sum[k] * x + y;
        }
        float total = 0;
#pragma GCC unroll 12
        for (int k = 0; k < sums; ++k) total += sum[k][0];
        from_memory = total;
      });
    });
    best = std::max(best, 2.0 * sums * vaelib::simd_width() * repetitions * cpu.threads() / (seconds() - start) * 1e-9);
  }
  return best;
}

}  // namespace bench
