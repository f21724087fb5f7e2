// Dual<T, N>: a number with its slopes along N inputs; arithmetic and the functions of math.hpp by the chain rule.
//
// T is float, double or Lanes. A functor called with Dual arguments gives its value and its gradient in one pass:
//   f(Dual<T, 2>::input(x, 0), Dual<T, 2>::input(y, 1)).slope    = {df/dx, df/dy}
// Operands without a slope (T, numbers) mix in and cost nothing. Comparisons look at the value only. Where a function
// has a kink: abs has slope 0 at 0, max and min that of their second operand at a tie, clamp 1 on its bounds.
#pragma once

#include <utility>
#include <vaelib/core/math.hpp>

namespace vaelib::inline VAELIB_ABI {

template <Real T, int N = 1>
struct Dual {
  static_assert(N >= 1, "vaelib: a Dual has at least one slope");
  T value;
  T slope[N];

  /// slope[k] = slope_of(k), written out for every k, so that nothing of the array remains in memory.
  template <class SlopeOf>
  VAELIB_INLINE constexpr Dual(const T& v, const SlopeOf& slope_of)
      : Dual(v, slope_of, std::make_integer_sequence<int, N>{}) {}
  VAELIB_INLINE constexpr Dual() : Dual(T(0)) {}
  VAELIB_INLINE constexpr Dual(const T& constant) : Dual(constant, [](int) VAELIB_LOOP { return T(0); }) {}
  template <Arithmetic Number>
  requires(!std::is_same_v<Number, T>) VAELIB_INLINE constexpr Dual(Number constant) : Dual(static_cast<T>(constant)) {}

  /// The input of that index: slope 1 along itself, 0 along the others.
  static VAELIB_INLINE constexpr Dual input(const T& value, int index) {
    return Dual(value, [&](int k) VAELIB_LOOP { return T(k == index ? 1 : 0); });
  }

  VAELIB_INLINE constexpr Dual& operator+=(const auto& b) { return *this = *this + b; }
  VAELIB_INLINE constexpr Dual& operator-=(const auto& b) { return *this = *this - b; }
  VAELIB_INLINE constexpr Dual& operator*=(const auto& b) { return *this = *this * b; }
  VAELIB_INLINE constexpr Dual& operator/=(const auto& b) { return *this = *this / b; }

 private:
  template <class SlopeOf, int... K>
  VAELIB_INLINE constexpr Dual(const T& v, const SlopeOf& slope_of, std::integer_sequence<int, K...>)
      : value(v), slope{slope_of(K)...} {}
};

namespace detail {
/// An operand without a slope.
template <class C, class T>
concept ConstantOf = std::is_same_v<C, T> || Arithmetic<C>;

/// f(a) from its value and its derivative at a.
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> chain(const T& value, const T& derivative, const Dual<T, N>& a) {
  return Dual<T, N>(value, [&](int k) VAELIB_LOOP { return derivative * a.slope[k]; });
}

template <class T, int N>
struct Common<Dual<T, N>, Dual<T, N>> {
  using type = Dual<T, N>;
};
template <class T, int N, ConstantOf<T> C>
struct Common<Dual<T, N>, C> {
  using type = Dual<T, N>;
};
template <class T, int N, ConstantOf<T> C>
struct Common<C, Dual<T, N>> {
  using type = Dual<T, N>;
};
}  // namespace detail

template <class M, class T, int N>
VAELIB_INLINE constexpr Dual<T, N> pick(const M& mask, const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(pick(mask, a.value, b.value),
                    [&](int k) VAELIB_LOOP { return pick(mask, a.slope[k], b.slope[k]); });
}

// --- arithmetic ------------------------------------------------------------------------------------------------------
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value + b.value, [&](int k) VAELIB_LOOP { return a.slope[k] + b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a, const C& b) {
  return Dual<T, N>(a.value + static_cast<T>(b), [&](int k) VAELIB_LOOP { return a.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator+(const C& a, const Dual<T, N>& b) {
  return b + a;
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator+(const Dual<T, N>& a) {
  return a;
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a) {
  return Dual<T, N>(-a.value, [&](int k) VAELIB_LOOP { return -a.slope[k]; });
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value - b.value, [&](int k) VAELIB_LOOP { return a.slope[k] - b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator-(const Dual<T, N>& a, const C& b) {
  return Dual<T, N>(a.value - static_cast<T>(b), [&](int k) VAELIB_LOOP { return a.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator-(const C& a, const Dual<T, N>& b) {
  return Dual<T, N>(static_cast<T>(a) - b.value, [&](int k) VAELIB_LOOP { return -b.slope[k]; });
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator*(const Dual<T, N>& a, const Dual<T, N>& b) {
  return Dual<T, N>(a.value * b.value, [&](int k) VAELIB_LOOP { return a.slope[k] * b.value + a.value * b.slope[k]; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator*(const Dual<T, N>& a, const C& b) {
  const T factor = static_cast<T>(b);
  return detail::chain(a.value * factor, factor, a);
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator*(const C& a, const Dual<T, N>& b) {
  return b * a;
}

template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> operator/(const Dual<T, N>& a, const Dual<T, N>& b) {
  const T quotient = a.value / b.value, inverse = T(1) / b.value;
  return Dual<T, N>(quotient, [&](int k) VAELIB_LOOP { return (a.slope[k] - quotient * b.slope[k]) * inverse; });
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator/(const Dual<T, N>& a, const C& b) {
  const T divisor = static_cast<T>(b);
  return detail::chain(a.value / divisor, T(1) / divisor, a);
}
template <class T, int N, detail::ConstantOf<T> C>
VAELIB_INLINE constexpr Dual<T, N> operator/(const C& a, const Dual<T, N>& b) {
  const T quotient = static_cast<T>(a) / b.value;
  return detail::chain(quotient, -quotient / b.value, b);
}

// --- comparisons: of the values --------------------------------------------------------------------------------------
namespace detail {
template <class A>
inline constexpr bool is_dual = false;
template <class T, int N>
inline constexpr bool is_dual<Dual<T, N>> = true;
/// A or B is a Dual, and they meet in one.
template <class B, class A>
concept DualWith = is_dual<typename Common<A, B>::type>;
/// The value of b, as a number of the Dual in which it meets an A.
template <class A, class B>
VAELIB_INLINE constexpr auto value_as(const B& b) {
  return static_cast<typename Common<A, B>::type>(b).value;
}
}  // namespace detail

template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator<(const A& a, const B& b) {
  return detail::value_as<B>(a) < detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator<=(const A& a, const B& b) {
  return detail::value_as<B>(a) <= detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator>(const A& a, const B& b) {
  return detail::value_as<B>(a) > detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator>=(const A& a, const B& b) {
  return detail::value_as<B>(a) >= detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator==(const A& a, const B& b) {
  return detail::value_as<B>(a) == detail::value_as<A>(b);
}
template <class A, detail::DualWith<A> B>
VAELIB_INLINE constexpr auto operator!=(const A& a, const B& b) {
  return detail::value_as<B>(a) != detail::value_as<A>(b);
}

// --- functions -------------------------------------------------------------------------------------------------------
template <class T, int N>
VAELIB_INLINE Dual<T, N> exp(const Dual<T, N>& a) {
  const T e = exp(a.value);
  return detail::chain(e, e, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> expm1(const Dual<T, N>& a) {
  return detail::chain(expm1(a.value), exp(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> log(const Dual<T, N>& a) {
  return detail::chain(log(a.value), T(1) / a.value, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> log1p(const Dual<T, N>& a) {
  return detail::chain(log1p(a.value), T(1) / (T(1) + a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sqrt(const Dual<T, N>& a) {
  const T root = sqrt(a.value);
  return detail::chain(root, T(0.5f) / root, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> rsqrt(const Dual<T, N>& a) {
  const T r = rsqrt(a.value);
  return detail::chain(r, T(-0.5f) * r / a.value, a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> abs(const Dual<T, N>& a) {  // a itself in the middle: 0 at 0, NaN at NaN
  return detail::chain(abs(a.value), select(a.value > 0, T(1), select(a.value < 0, T(-1), a.value)), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> tanh(const Dual<T, N>& a) {
  const T t = tanh(a.value);
  return detail::chain(t, (T(1) - t) * (T(1) + t), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sigmoid(const Dual<T, N>& a) {
  const detail::Logistic<T> logistic(a.value);
  return detail::chain(logistic.sigmoid(a.value), logistic.slope(), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> softplus(const Dual<T, N>& a) {
  const detail::Logistic<T> logistic(a.value);
  return detail::chain(logistic.softplus(a.value), logistic.sigmoid(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> erf(const Dual<T, N>& a) {  // 2 / sqrt(pi) exp(-a^2)
  return detail::chain(erf(a.value), T(1.1283791670955126) * exp(-(a.value * a.value)), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> sin(const Dual<T, N>& a) {
  return detail::chain(sin(a.value), cos(a.value), a);
}
template <class T, int N>
VAELIB_INLINE Dual<T, N> cos(const Dual<T, N>& a) {
  return detail::chain(cos(a.value), -sin(a.value), a);
}
template <class T, int N>
VAELIB_INLINE constexpr Dual<T, N> square(const Dual<T, N>& a) {
  return detail::chain(a.value * a.value, a.value + a.value, a);
}

template <class T, int N>
VAELIB_INLINE constexpr auto is_finite(const Dual<T, N>& a) {
  return is_finite(a.value);
}

}  // namespace vaelib::inline VAELIB_ABI
