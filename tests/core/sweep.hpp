// What the tests of elementwise maths share: arguments of all exponents, errors in units in the last place, every
// width.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vaelib/core/math.hpp>
#include <vaelib/core/vectorize.hpp>
#include <vector>

namespace test {

inline std::uint32_t bits(float x) {
  std::uint32_t result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}

/// Both signs, all 256 exponents (zero, denormal, infinite and NaN included), `mantissas` mantissas each.
inline std::vector<float> sweep(std::uint32_t mantissas) {
  std::vector<float> result;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (std::uint32_t k = 0; k < mantissas; ++k) {
      const std::uint32_t spread = (k * (0x800000u / mantissas) + k * k * 37u) & 0x7fffffu;
      const std::uint32_t mantissa = k == 0 ? 0 : k == 1 ? 0x7fffffu : k == 2 ? 1 : spread;
      for (const std::uint32_t sign : {0u, 1u}) {
        const std::uint32_t all = sign << 31 | exponent << 23 | mantissa;
        float x;
        std::memcpy(&x, &all, sizeof x);
        result.push_back(x);
      }
    }
  }
  return result;
}

/// |x - exact| in units of the last place of a float near `exact`; 0 for two NaN, infinite where one alone is.
inline double ulps(float x, double exact) {
  const auto rounded = static_cast<float>(exact);
  if (std::isnan(x) || std::isnan(rounded)) return std::isnan(x) && std::isnan(rounded) ? 0 : HUGE_VAL;
  if (x == rounded)
    return std::isfinite(x) && x != 0 ? std::fabs(x - exact) / std::exp2(std::max(std::ilogb(exact) - 23, -149)) : 0;
  if (std::isinf(exact)) return HUGE_VAL;
  const double overflow = std::exp2(128);  // the number after the largest
  const double value = std::isinf(x) ? std::copysign(overflow, x) : x;
  return std::fabs(value - exact) / std::exp2(std::clamp(exact == 0 ? -149 : std::ilogb(exact) - 23, -149, 104));
}

/// Sets every width of this processor in turn, and the widest again at the end.
struct EachWidth {
  std::vector<int> widths;
  EachWidth() {
    for (const int w : {1, 4, 8, 16}) {
      if (w <= vaelib::widest_simd() && (w > 1) == (vaelib::widest_simd() > 1)) widths.push_back(w);
    }
  }
  ~EachWidth() { vaelib::set_simd_width(vaelib::widest_simd()); }
  template <class Body>
  void run(Body body) const {
    for (const int width : widths) {
      vaelib::set_simd_width(width);
      body(width);
    }
  }
};

/// y = f(x), as the library's loops do it.
template <class F>
std::vector<float> map(const F& f, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  vaelib::vectorize([&](auto lanes) VAELIB_LOOP {
    using T = typename decltype(lanes)::type;
    const float* from = x.data();
    float* to = y.data();
    const long n = static_cast<long>(x.size());
    for (long i = 0; i < n; i += lanes.width) {
      vaelib::store<T>(to + i, f(vaelib::load<T>(from + i, n - i)), n - i);
    }
  });
  return y;
}

}  // namespace test
