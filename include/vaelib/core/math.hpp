// Elementwise mathematics for functors: float, double and Lanes here, Dual in dual.hpp.
//
// Single precision is within 3 units in the last place of the exact result (sigmoid, softplus: 4) and gives IEEE's
// special values: log 0 is -infinity, the log of a negative number NaN, NaN stays NaN (through max, min and clamp too),
// odd functions keep the sign of zero, denormal arguments and results count. sin and cos are accurate for |x| <= 2 pi.
// Double precision is the standard library's.
//
// Functors call these names unqualified, `x * sigmoid(x)`; a namespace other than vaelib then needs
// `using namespace vaelib`, for the sake of float and double. Constants keep their own type until they meet x: 0.5f is
// exact everywhere, 0.1 is better than 0.1f where x is double.
#pragma once

#include <vaelib/core/math_kernels.hpp>

namespace vaelib::inline VAELIB_ABI {

template <Real T>
VAELIB_INLINE T exp(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::exp(x);
  else
    return std::exp(x);
}
/// e^x - 1, accurate near 0.
template <Real T>
VAELIB_INLINE T expm1(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::expm1(x);
  else
    return std::expm1(x);
}
template <Real T>
VAELIB_INLINE T log(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::log(x);
  else
    return std::log(x);
}
/// log(1 + x), accurate near 0.
template <Real T>
VAELIB_INLINE T log1p(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::log1p(x);
  else
    return std::log1p(x);
}
template <Real T>
VAELIB_INLINE T sqrt(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::square_root(x);
  else
    return std::sqrt(x);
}
/// 1 / sqrt(x)
template <Real T>
VAELIB_INLINE T rsqrt(const T& x) {
  return T(1) / sqrt(x);
}
template <Real T>
VAELIB_INLINE T abs(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::magnitude(x);
  else
    return std::fabs(x);
}
template <Real T>
VAELIB_INLINE T tanh(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::tanh(x);
  else
    return std::tanh(x);
}
template <Real T>
VAELIB_INLINE T erf(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::erf(x);
  else
    return std::erf(x);
}
template <Real T>
VAELIB_INLINE T sin(const T& x) {
  if constexpr (SinglePrecision<T>)
    return pick(x == T(0), x, detail::sincos(x).sin);
  else
    return std::sin(x);
}
template <Real T>
VAELIB_INLINE T cos(const T& x) {
  if constexpr (SinglePrecision<T>)
    return detail::sincos(x).cos;
  else
    return std::cos(x);
}

/// 1 / (1 + e^-x), without overflow.
template <Real T>
VAELIB_INLINE T sigmoid(const T& x) {
  return detail::Logistic<T>(x).sigmoid(x);
}
/// log(1 + e^x), without overflow.
template <Real T>
VAELIB_INLINE T softplus(const T& x) {
  return detail::Logistic<T>(x).softplus(x);
}
template <Real T>
VAELIB_INLINE constexpr T square(const T& x) {
  return x * x;
}

/// The larger of two; NaN where one is NaN.
template <class A, class B>
VAELIB_INLINE constexpr Common<A, B> max(const A& a, const B& b) {
  const auto x = static_cast<Common<A, B>>(a), y = static_cast<Common<A, B>>(b);
  return pick(x > y, x, pick(x == x, y, x));
}
/// The smaller of two; NaN where one is NaN.
template <class A, class B>
VAELIB_INLINE constexpr Common<A, B> min(const A& a, const B& b) {
  const auto x = static_cast<Common<A, B>>(a), y = static_cast<Common<A, B>>(b);
  return pick(x < y, x, pick(x == x, y, x));
}
/// x within [low, high]; NaN where x is NaN.
template <class T, class Low, class High>
VAELIB_INLINE constexpr auto clamp(const T& x, const Low& low, const High& high) {
  using Result = Common<Common<T, Low>, High>;
  const auto value = static_cast<Result>(x), least = static_cast<Result>(low), most = static_cast<Result>(high);
  return pick(value < least, least, pick(value > most, most, value));
}

/// Neither infinite nor NaN: a Mask for Lanes, else bool.
template <Real T>
VAELIB_INLINE constexpr auto is_finite(const T& x) {
  return x - x == T(0);
}

/// x to an integer power, by multiplication.
template <class T>
VAELIB_INLINE constexpr T pow(const T& x, int n) {
  T result(1), base = x;
  for (unsigned left = n < 0 ? 0u - static_cast<unsigned>(n) : static_cast<unsigned>(n); left != 0; left >>= 1) {
    if (left & 1u) result = result * base;
    base = base * base;
  }
  return n < 0 ? T(1) / result : result;
}

}  // namespace vaelib::inline VAELIB_ABI
