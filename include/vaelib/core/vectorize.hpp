// The widest vectors of the processor, chosen at run time: no compiler flag is needed, and one binary serves all.
//
// vectorize(body) calls body(LaneCount<Width>{}) once, from a function compiled for the instruction set of that width:
//
//   vectorize([&](auto lanes) VAELIB_LOOP {
//     using T = typename decltype(lanes)::type;   // Lanes<16>, Lanes<8>, Lanes<4> or float
//     for (long i = 0; i < n; i += lanes.width) store(y + i, f(load<T>(x + i, n - i)), n - i);
//   });
//
// The loop is inside, the choice outside. 16 lanes: AVX-512 (F, DQ, BW, VL); 8: AVX2 with FMA; 4: every x86-64 and
// ARM64.
#pragma once

#include <atomic>
#include <vaelib/core/error.hpp>
#include <vaelib/core/lanes.hpp>

namespace vaelib::inline VAELIB_ABI {

#if VAELIB_HAS_LANES && defined(__x86_64__)
#define VAELIB_X86_DISPATCH 1
#else
#define VAELIB_X86_DISPATCH 0
#endif

/// What vectorize() gives to its body: how many floats are computed on together, and their type.
template <int Width>
struct LaneCount {
  static constexpr int width = Width;
#if VAELIB_HAS_LANES
  using type = Lanes<Width>;
#else
  using type = float;
#endif
};

/// What every processor has: for loops that wait for memory, where more lanes are not worth the code.
using BaseLanes = LaneCount<VAELIB_HAS_LANES ? 4 : 1>;

/// The widest vectors that this processor and this compiler have: 16, 8, 4 or 1 floats.
inline int widest_simd() {
#if VAELIB_X86_DISPATCH
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx512 && avx2 ? 16 : avx2 ? 8 : 4;
#else
  return BaseLanes::width;
#endif
}

namespace detail {
inline std::atomic<int>& simd_width_setting() {
  static std::atomic<int> width{widest_simd()};
  return width;
}

#if VAELIB_X86_DISPATCH
template <class Body, class... Arguments>
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"), noinline, flatten)) void run_16(
    Body& body, Arguments... arguments) {
  body(LaneCount<16>{}, arguments...);
}
template <class Body, class... Arguments>
__attribute__((target("avx2,fma"), noinline, flatten)) void run_8(Body& body, Arguments... arguments) {
  body(LaneCount<8>{}, arguments...);
}
#endif
template <class Body, class... Arguments>
#if VAELIB_HAS_LANES
__attribute__((noinline, flatten))
#endif
void run_narrow(Body& body, Arguments... arguments) {
  body(BaseLanes{}, arguments...);
}
}  // namespace detail

/// How many floats vectorize() computes on together.
inline int simd_width() { return detail::simd_width_setting().load(std::memory_order_relaxed); }

/// For tests: sets simd_width() to widest_simd() or less.
inline void set_simd_width(int width) {
  const bool exists = width == 16 || width == 8 || width == 4 || (width == 1 && !VAELIB_HAS_LANES);
  if (!exists || width > widest_simd()) {
    fail("set_simd_width(", width, "): found a processor of ", widest_simd(),
         " lanes; expected 4, 8 or 16, at most these");
  }
  detail::simd_width_setting().store(width, std::memory_order_relaxed);
}

/// The function that calls body(LaneCount<Width>{}, arguments...) at the width of simd_width().
template <class Body, class... Arguments>
auto vectorized() -> void (*)(Body&, Arguments...) {
  switch (simd_width()) {
#if VAELIB_X86_DISPATCH
    case 16: return detail::run_16<Body, Arguments...>;
    case 8: return detail::run_8<Body, Arguments...>;
#endif
    default: return detail::run_narrow<Body, Arguments...>;
  }
}

/// Runs the body once, at the width of simd_width().
template <class Body>
void vectorize(Body&& body) {
  vectorized<std::remove_reference_t<Body>>()(body);
}

/// Whether all numbers lie in [low, high]; NaN does not.
inline bool all_within(long count, const float* x, float low, float high) {
  using T = BaseLanes::type;
  long i = 0;
  auto within = T(low) <= T(low);
  for (; i + BaseLanes::width <= count; i += BaseLanes::width) {
    const T v = load<T>(x + i);
    within = within && v >= T(low) && v <= T(high);
  }
  bool all = !any(!within);
  for (; i < count; ++i) all = all && x[i] >= low && x[i] <= high;
  return all;
}

}  // namespace vaelib::inline VAELIB_ABI
