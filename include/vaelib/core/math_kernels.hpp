// Single-precision elementary functions without tables and branches, for float and Lanes alike: an element's bits do
// not depend on how many are computed together. Polynomials are minimax fits in single-precision coefficients; errors
// and special values are tested over all exponents in tests/core/math_test.cpp. Called through math.hpp.
#pragma once

#include <cmath>
#include <limits>
#include <vaelib/core/lanes.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

// --- bits ------------------------------------------------------------------------------------------------------------
VAELIB_INLINE std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
VAELIB_INLINE float from_bits(std::uint32_t i) { return __builtin_bit_cast(float, i); }
/// The number of a signed integer, rounded to nearest.
VAELIB_INLINE float to_float(std::uint32_t i) { return static_cast<float>(static_cast<std::int32_t>(i)); }
/// Shift that keeps the sign.
VAELIB_INLINE std::uint32_t shift_signed(std::uint32_t i, int n) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(i) >> n);
}
/// a * b + c, fused where the target has FMA.
VAELIB_INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
VAELIB_INLINE float square_root(float x) { return std::sqrt(x); }

#if VAELIB_HAS_LANES
template <int W>
VAELIB_INLINE Bits<W> bits_of(const Lanes<W>& x) {
  return Bits<W>::from((typename Raw<W>::Uint)x.v);
}
template <int W>
VAELIB_INLINE Lanes<W> from_bits(const Bits<W>& i) {
  return Lanes<W>::from((typename Raw<W>::Float)i.v);
}
template <int W>
VAELIB_INLINE Lanes<W> to_float(const Bits<W>& i) {
  return Lanes<W>::from(__builtin_convertvector((typename Raw<W>::Int)i.v, typename Raw<W>::Float));
}
template <int W>
VAELIB_INLINE Bits<W> shift_signed(const Bits<W>& i, int n) {
  return Bits<W>::from((typename Raw<W>::Uint)((typename Raw<W>::Int)i.v >> n));
}
template <int W>
VAELIB_INLINE Lanes<W> multiply_add(const Lanes<W>& a, const Lanes<W>& b, const Lanes<W>& c) {
  return Lanes<W>::from(a.v * b.v + c.v);
}
VAELIB_INLINE Lanes<4> low_half(const Lanes<8>& x) {
  return Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3));
}
VAELIB_INLINE Lanes<4> high_half(const Lanes<8>& x) {
  return Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<8> low_half(const Lanes<16>& x) {
  return Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<8> high_half(const Lanes<16>& x) {
  return Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 8, 9, 10, 11, 12, 13, 14, 15));
}
VAELIB_INLINE Lanes<8> join(const Lanes<4>& low, const Lanes<4>& high) {
  return Lanes<8>::from(__builtin_shufflevector(low.v, high.v, 0, 1, 2, 3, 4, 5, 6, 7));
}
VAELIB_INLINE Lanes<16> join(const Lanes<8>& low, const Lanes<8>& high) {
  return Lanes<16>::from(__builtin_shufflevector(low.v, high.v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

#if defined(__x86_64__)  // the extensions know no square root; the four-wide instruction belongs to every x86-64
VAELIB_INLINE Lanes<4> square_root(const Lanes<4>& x) { return Lanes<4>::from(__builtin_ia32_sqrtps(x.v)); }
template <int W>
VAELIB_INLINE Lanes<W> square_root(const Lanes<W>& x) {
  return join(square_root(low_half(x)), square_root(high_half(x)));
}
#else
template <int W>
VAELIB_INLINE Lanes<W> square_root(const Lanes<W>& x) {
  Lanes<W> r;
  for (int k = 0; k < W; ++k) r.v[k] = __builtin_sqrtf(x.v[k]);
  return r;
}
#endif
#endif

template <class T>
using BitsOf = decltype(bits_of(T()));

inline constexpr std::uint32_t sign_bit = 0x80000000u;

template <SinglePrecision T>
VAELIB_INLINE T magnitude(const T& x) {
  return from_bits(bits_of(x) & BitsOf<T>(~sign_bit));
}
/// A number that is not negative, with the sign of another: odd functions keep the sign of zero.
template <SinglePrecision T>
VAELIB_INLINE T with_sign(const T& not_negative, const T& sign) {
  return from_bits(bits_of(not_negative) | (bits_of(sign) & BitsOf<T>(sign_bit)));
}

/// c0 + c1 x + c2 x^2 + ..., pairs in parallel: half the latency of Horner's rule.
template <SinglePrecision T>
VAELIB_INLINE T polynomial(const T&, const T&, float c) {
  return T(c);
}
template <SinglePrecision T>
VAELIB_INLINE T polynomial(const T& x, const T&, float c0, float c1) {
  return multiply_add(T(c1), x, T(c0));
}
template <SinglePrecision T, class... More>
VAELIB_INLINE T polynomial(const T& x, const T& x2, float c0, float c1, More... more) {
  return multiply_add(polynomial(x, x2, more...), x2, multiply_add(T(c1), x, T(c0)));
}

// --- exponentials ----------------------------------------------------------------------------------------------------
inline constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // the first has few bits: n * it is exact

/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r - 1.
template <SinglePrecision T>
struct ReducedExponent {
  BitsOf<T> n_biased;  // n + 254, in the low 9 bits
  T expm1_r;
};
template <SinglePrecision T>
VAELIB_INLINE ReducedExponent<T> reduce_exponent(const T& x) {
  constexpr float round = 0x1.8p23f + 254.f;  // added and subtracted, it rounds to an integer
  const T shifted = multiply_add(x, T(1.44269504f), T(round)), n = shifted - T(round);
  const T r = multiply_add(n, T(-ln2_low), multiply_add(n, T(-ln2_high), x));
  const T r2 = r * r;
  const T q =
      polynomial(r, r2, 4.999999702e-01f, 1.666654497e-01f, 4.166744649e-02f, 8.366432972e-03f, 1.386978780e-03f);
  return {bits_of(shifted), multiply_add(r2, q, r)};
}

/// e^x for -104 <= x <= 89 or NaN. Two steps of scaling let it overflow, and underflow gradually.
template <SinglePrecision T>
VAELIB_INLINE T exp_in_range(const T& x) {
  const auto e = reduce_exponent(x);
  const auto half = e.n_biased >> 1;
  return (e.expm1_r + T(1)) * from_bits(half << 23) * from_bits((e.n_biased - half) << 23);
}
template <SinglePrecision T>
VAELIB_INLINE T exp_of_negative(const T& x) {  // x <= 0 or NaN
  return exp_in_range(pick(x < T(-104), T(-104), x));
}
template <SinglePrecision T>
VAELIB_INLINE T exp(const T& x) {
  return exp_of_negative(pick(x > T(89), T(89), x));
}

/// 2^x for x <= 0 or NaN; below -100 as at -100, so that no product with it is a slow denormal number. Within 3 units in the last place: the weights of a softmax, whose exponents
/// come with as large an error from the sums that they are.
template <SinglePrecision T>
VAELIB_INLINE T exp2_of_negative(const T& x) {
  constexpr float round = 0x1.8p23f + 127.f;
  const T in = pick(x < T(-100), T(-100), x), shifted = in + T(round), r = in - (shifted - T(round));
  const T p = polynomial(r, r * r, 1.0f, 6.931470037e-01f, 2.402224243e-01f, 5.550733581e-02f, 9.671512991e-03f,
                         1.326472731e-03f);
  return p * from_bits(bits_of(shifted) << 23);
}

/// 1 - e^-x for x >= 0 or NaN.
template <SinglePrecision T>
VAELIB_INLINE T one_minus_exp(const T& x) {
  const auto e = reduce_exponent(-pick(x > T(20), T(20), x));
  const T scale = from_bits((e.n_biased - BitsOf<T>(127)) << 23);
  return multiply_add(scale, -e.expm1_r, T(1) - scale);
}

template <SinglePrecision T>
VAELIB_INLINE T expm1(const T& x) {
  const auto e = reduce_exponent(pick(x > T(89), T(89), pick(x < T(-20), T(-20), x)));
  const T half_scale = from_bits((e.n_biased - BitsOf<T>(128)) << 23);
  const T half = multiply_add(half_scale, e.expm1_r, half_scale - T(0.5f));
  return pick(magnitude(x) < T(0x1p-25f), x, half + half);  // keeps the sign of zero and denormal numbers
}

template <SinglePrecision T>
VAELIB_INLINE T tanh(const T& x) {
  const T a = magnitude(x), u = one_minus_exp(a + a);
  return with_sign(u / (T(2) - u), x);
}

/// erf |x| = 1 - exp(-|x| (c + |x| P(|x|))), c = 2 / sqrt(pi): P's error weighs less the nearer the result is to 1.
template <SinglePrecision T>
VAELIB_INLINE T erf(const T& x) {
  constexpr float c_high = 1.128379226f, c_low = -5.863538342e-08f;
  const T whole = magnitude(x), a = pick(whole > T(4), T(4), whole), a2 = a * a;
  const T p = polynomial(a, a2, 6.366195083e-01f, 1.027768627e-01f, -1.914986596e-02f, -1.658113033e-04f,
                         1.672069542e-03f, -6.354337092e-04f, 1.183316490e-04f, -9.329884051e-06f);
  return with_sign(one_minus_exp(multiply_add(a, T(c_high), a * multiply_add(a, p, T(c_low)))), x);
}

// --- logarithms ------------------------------------------------------------------------------------------------------
/// n ln 2 + log(1 + f) for sqrt(1/2) <= 1 + f <= sqrt(2).
template <SinglePrecision T>
VAELIB_INLINE T log_of_reduced(const T& n, const T& f) {
  const T f2 = f * f;
  const T p = polynomial(f, f2, 3.333333135e-01f, -2.500082552e-01f, 2.000125051e-01f, -1.662319005e-01f,
                         1.420117617e-01f, -1.316146404e-01f, 1.276620775e-01f, -7.636449486e-02f);
  const T small = multiply_add(f2, multiply_add(f, p, T(-0.5f)), n * T(ln2_low));
  return multiply_add(n, T(ln2_high), f + small);
}

/// IEEE's values where a logarithm of `argument` has no finite one.
template <SinglePrecision T>
VAELIB_INLINE T log_specials(const T& argument, const T& result) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const T negative_or_zero = pick(argument < T(0), T(std::numeric_limits<float>::quiet_NaN()), T(-infinity));
  const T finite_or_not = pick(argument < T(infinity), result, argument);  // infinity and NaN give themselves
  return pick(argument <= T(0), negative_or_zero, finite_or_not);
}

/// n of x = 2^n (1 + f), shifted left by 23.
template <class B>
VAELIB_INLINE B shifted_exponent(const B& bits) {
  return (bits - B(0x3f3504f3u)) & B(0xff800000u);
}

template <SinglePrecision T>
VAELIB_INLINE T log(const T& x) {
  const auto denormal = x < T(std::numeric_limits<float>::min());
  const T y = pick(denormal, x * T(0x1p25f), x);
  const auto bits = bits_of(y), exponent = shifted_exponent(bits);
  const T n = to_float(shift_signed(exponent, 23)) - pick(denormal, T(25), T(0));
  return log_specials(x, log_of_reduced(n, from_bits(bits - exponent) - T(1)));
}

template <SinglePrecision T>
VAELIB_INLINE T log1p(const T& x) {
  const T u = T(1) + x, lost = x - (u - T(1));  // u + lost = 1 + x
  const auto bits = bits_of(u), exponent = shifted_exponent(bits);
  const T twice_inverse = from_bits(BitsOf<T>(0x40000000u) - exponent);  // 2^(1 - n)
  const T f = (from_bits(bits - exponent) - T(1)) + lost * twice_inverse * T(0.5f);
  const T result = log_of_reduced(to_float(shift_signed(exponent, 23)), f);
  return log_specials(u, pick(x == T(0), x, result));  // keeps the sign of zero
}

/// log(1 + x) for 0 <= x <= 1 or NaN.
template <SinglePrecision T>
VAELIB_INLINE T log1p_of_unit(const T& x) {
  const auto large = x > T(0.41421356f);
  return log_of_reduced(pick(large, T(1), T(0)), pick(large, multiply_add(x, T(0.5f), T(-0.5f)), x));
}

// --- sigmoid and softplus --------------------------------------------------------------------------------------------
VAELIB_INLINE double magnitude(double x) { return std::fabs(x); }
VAELIB_INLINE double exp_of_negative(double x) { return std::exp(x); }
VAELIB_INLINE double exp2_of_negative(double x) { return std::exp2(x); }
VAELIB_INLINE double log1p_of_unit(double x) { return std::log1p(x); }

/// sigmoid, its derivative without cancellation, and softplus share one exponential.
template <Real T>
struct Logistic {
  T e, inverse;  // exp(-|x|), 1 / (1 + e)
  VAELIB_INLINE explicit Logistic(const T& x) : e(exp_of_negative(-magnitude(x))), inverse(T(1) / (T(1) + e)) {}
  VAELIB_INLINE T sigmoid(const T& x) const { return pick(x < T(0), e * inverse, inverse); }
  VAELIB_INLINE T slope() const { return e * inverse * inverse; }
  VAELIB_INLINE T softplus(const T& x) const { return pick(x < T(0), T(0), x) + log1p_of_unit(e); }
};

// --- sine and cosine -------------------------------------------------------------------------------------------------
/// sin and cos of (quadrant * 90 degrees + r) for |r| <= pi / 4; the quadrant counts modulo 4.
template <Real T>
struct SinCos {
  T sin, cos;
};
template <SinglePrecision T>
VAELIB_INLINE SinCos<T> sincos_of_reduced(const BitsOf<T>& quadrant, const T& r) {
  const T r2 = r * r, r4 = r2 * r2;
  const T s = multiply_add(r * r2, polynomial(r2, r4, -1.666665524e-01f, 8.332187310e-03f, -1.951790764e-04f), r);
  const T c = multiply_add(r4, polynomial(r2, r4, 4.166664556e-02f, -1.388730947e-03f, 2.443233643e-05f),
                           multiply_add(r2, T(-0.5f), T(1)));
  const auto one = BitsOf<T>(1u);
  const BitsOf<T> swap = BitsOf<T>(0u) - (quadrant & one);  // all bits set in odd quadrants
  const BitsOf<T> different = (bits_of(s) ^ bits_of(c)) & swap;
  const BitsOf<T> sin_sign = (quadrant << 30) & BitsOf<T>(sign_bit);
  const BitsOf<T> cos_sign = ((quadrant + one) << 30) & BitsOf<T>(sign_bit);
  return {from_bits(bits_of(s) ^ different ^ sin_sign), from_bits(bits_of(c) ^ different ^ cos_sign)};
}

/// Accurate for |x| <= 2 pi; beyond, the error grows with |x|.
template <SinglePrecision T>
VAELIB_INLINE SinCos<T> sincos(const T& x) {
  constexpr float round = 0x1.8p23f;
  const T shifted = multiply_add(x, T(0.636619772f), T(round)), n = shifted - T(round);
  // pi / 2 in three parts, the first two of few bits
  T r = multiply_add(n, T(-1.5703125f), x);
  r = multiply_add(n, T(-4.83751296997e-04f), r);
  r = multiply_add(n, T(-7.54978995489e-08f), r);
  return sincos_of_reduced<T>(bits_of(shifted), r);
}

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
