// Lanes<Width>: Width floats that are computed on together, by the vector extensions of GCC and Clang.
//
// A functor written for `auto x` takes Lanes as it takes float: + - * /, comparisons (which give a Mask) and select.
// Numbers mix in freely (2 * x + 1), converted to float. Every operation works lane by lane and is rounded as IEEE
// says. What the extensions compile to follows the function into which this code is inlined, see vectorize.hpp.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vaelib/core/attributes.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept Arithmetic = std::is_arithmetic_v<T>;

#if VAELIB_HAS_LANES
namespace detail {
template <int Width>
struct Raw {
  typedef float Float __attribute__((vector_size(Width * 4)));
  typedef float AnyAddress __attribute__((vector_size(Width * 4), aligned(4)));
  typedef std::uint32_t UintAnyAddress __attribute__((vector_size(Width * 4), aligned(4)));
  typedef std::int32_t Int __attribute__((vector_size(Width * 4)));
  typedef std::uint32_t Uint __attribute__((vector_size(Width * 4)));
};
}  // namespace detail

/// One truth value a lane: all bits set, or none.
template <int Width>
struct Mask {
  typename detail::Raw<Width>::Int v;

  VAELIB_INLINE Mask() : v{} {}
  VAELIB_INLINE Mask(const Mask& o) : v(o.v) {}
  VAELIB_INLINE Mask& operator=(const Mask& o) { return v = o.v, *this; }
  static VAELIB_INLINE Mask from(const typename detail::Raw<Width>::Int& x) {
    Mask r;
    r.v = x;
    return r;
  }
  friend VAELIB_INLINE Mask operator&&(const Mask& a, const Mask& b) { return from(a.v & b.v); }
  friend VAELIB_INLINE Mask operator||(const Mask& a, const Mask& b) { return from(a.v | b.v); }
  friend VAELIB_INLINE Mask operator!(const Mask& a) { return from(~a.v); }
};

/// The bits of Lanes as integers, computed modulo 2^32.
template <int Width>
struct Bits {
  using Uint = typename detail::Raw<Width>::Uint;
  Uint v;

  VAELIB_INLINE Bits() : v{} {}
  VAELIB_INLINE Bits(std::uint32_t s) : v(Uint{} + s) {}
  VAELIB_INLINE Bits(const Bits& o) : v(o.v) {}
  VAELIB_INLINE Bits& operator=(const Bits& o) { return v = o.v, *this; }
  static VAELIB_INLINE Bits from(const Uint& x) {
    Bits r;
    r.v = x;
    return r;
  }
  friend VAELIB_INLINE Bits operator+(const Bits& a, const Bits& b) { return from(a.v + b.v); }
  friend VAELIB_INLINE Bits operator-(const Bits& a, const Bits& b) { return from(a.v - b.v); }
  friend VAELIB_INLINE Bits operator&(const Bits& a, const Bits& b) { return from(a.v & b.v); }
  friend VAELIB_INLINE Bits operator|(const Bits& a, const Bits& b) { return from(a.v | b.v); }
  friend VAELIB_INLINE Bits operator^(const Bits& a, const Bits& b) { return from(a.v ^ b.v); }
  friend VAELIB_INLINE Bits operator<<(const Bits& a, int n) { return from(a.v << n); }
  friend VAELIB_INLINE Bits operator>>(const Bits& a, int n) { return from(a.v >> n); }
};

/// Width floats. The copy constructor is user-provided on purpose: Lanes are then passed by reference in every ABI, so
/// that functors need no attribute and may be called across functions of different instruction sets.
template <int Width>
struct Lanes {
  static_assert(Width == 4 || Width == 8 || Width == 16, "vaelib: Lanes are 4, 8 or 16 floats wide");
  using Float = typename detail::Raw<Width>::Float;
  Float v;

  VAELIB_INLINE Lanes() : v{} {}
  VAELIB_INLINE Lanes(const Lanes& o) : v(o.v) {}
  VAELIB_INLINE Lanes& operator=(const Lanes& o) { return v = o.v, *this; }
  /// -(-s - 0) is s, -0 included; GCC 12 makes 16 masked instructions of s - 0, and one of this.
  template <Arithmetic Number>
  VAELIB_INLINE Lanes(Number s) : v(-(-static_cast<float>(s) - Float{})) {}
  static VAELIB_INLINE Lanes from(const Float& x) {
    Lanes r;
    r.v = x;
    return r;
  }

  friend VAELIB_INLINE Lanes operator+(const Lanes& a, const Lanes& b) { return from(a.v + b.v); }
  friend VAELIB_INLINE Lanes operator-(const Lanes& a, const Lanes& b) { return from(a.v - b.v); }
  friend VAELIB_INLINE Lanes operator*(const Lanes& a, const Lanes& b) { return from(a.v * b.v); }
  friend VAELIB_INLINE Lanes operator/(const Lanes& a, const Lanes& b) { return from(a.v / b.v); }
  friend VAELIB_INLINE Lanes operator-(const Lanes& a) { return from(-a.v); }
  friend VAELIB_INLINE Lanes operator+(const Lanes& a) { return a; }
  VAELIB_INLINE Lanes& operator+=(const Lanes& b) { return v += b.v, *this; }
  VAELIB_INLINE Lanes& operator-=(const Lanes& b) { return v -= b.v, *this; }
  VAELIB_INLINE Lanes& operator*=(const Lanes& b) { return v *= b.v, *this; }
  VAELIB_INLINE Lanes& operator/=(const Lanes& b) { return v /= b.v, *this; }

  friend VAELIB_INLINE Mask<Width> operator<(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v < b.v); }
  friend VAELIB_INLINE Mask<Width> operator<=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v <= b.v); }
  friend VAELIB_INLINE Mask<Width> operator>(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v > b.v); }
  friend VAELIB_INLINE Mask<Width> operator>=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v >= b.v); }
  friend VAELIB_INLINE Mask<Width> operator==(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v == b.v); }
  friend VAELIB_INLINE Mask<Width> operator!=(const Lanes& a, const Lanes& b) { return Mask<Width>::from(a.v != b.v); }
};
#endif

namespace detail {
template <class T>
struct LaneTraits {
  static constexpr bool single_precision = std::is_same_v<T, float>;
  static constexpr int width = 1;
  using Scalar = T;
  using AnyAddress = T;
};
#if VAELIB_HAS_LANES
template <int Width>
struct LaneTraits<Lanes<Width>> {
  static constexpr bool single_precision = true;
  static constexpr int width = Width;
  using Scalar = float;
  using AnyAddress = typename Raw<Width>::AnyAddress;
};
#endif

/// The type in which two operands meet: that of the Lanes (or, in dual.hpp, of the Dual) where one of them is a number.
template <class A, class B>
struct Common {};
template <Arithmetic A, Arithmetic B>
struct Common<A, B> {
  using type = std::common_type_t<A, B>;
};
#if VAELIB_HAS_LANES
template <int Width>
struct Common<Lanes<Width>, Lanes<Width>> {
  using type = Lanes<Width>;
};
template <int Width, Arithmetic B>
struct Common<Lanes<Width>, B> {
  using type = Lanes<Width>;
};
template <Arithmetic A, int Width>
struct Common<A, Lanes<Width>> {
  using type = Lanes<Width>;
};
#endif
}  // namespace detail

/// float or Lanes: what is computed by this library's own algorithms; double is left to the standard library.
template <class T>
concept SinglePrecision = detail::LaneTraits<T>::single_precision;
/// float, double or Lanes.
template <class T>
concept Real = SinglePrecision<T> || std::is_same_v<T, double>;

template <class A, class B>
using Common = typename detail::Common<A, B>::type;

/// select for two of the same type.
template <Arithmetic T>
VAELIB_INLINE constexpr T pick(bool mask, T a, T b) {
  return mask ? a : b;
}
#if VAELIB_HAS_LANES
template <int Width>
VAELIB_INLINE Lanes<Width> pick(const Mask<Width>& mask, const Lanes<Width>& a, const Lanes<Width>& b) {
  return Lanes<Width>::from(mask.v ? a.v : b.v);
}
#endif

/// a where the mask is true, else b: what functors say instead of `?:`, for it works lane by lane. Both are computed.
template <class M, class A, class B>
VAELIB_INLINE constexpr Common<A, B> select(const M& mask, const A& a, const B& b) {
  return pick(mask, static_cast<Common<A, B>>(a), static_cast<Common<A, B>>(b));
}

/// Whether any lane is true.
VAELIB_INLINE constexpr bool any(bool mask) { return mask; }
#if VAELIB_HAS_LANES
template <int Width>
VAELIB_INLINE bool any(const Mask<Width>& mask) {
  std::int32_t result = 0;
  for (int k = 0; k < Width; ++k) result |= mask.v[k];
  return result != 0;
}
#endif

/// As many consecutive numbers as T is wide, from any address.
template <Real T>
VAELIB_INLINE T load(const typename detail::LaneTraits<T>::Scalar* from) {
  if constexpr (detail::LaneTraits<T>::width == 1) {
    return *from;
  } else {
    T result;
    result.v = *reinterpret_cast<const typename detail::LaneTraits<T>::AnyAddress*>(from);
    return result;
  }
}
template <Real T>
VAELIB_INLINE void store(typename detail::LaneTraits<T>::Scalar* to, const T& x) {
  if constexpr (detail::LaneTraits<T>::width == 1) {
    *to = x;
  } else {
    *reinterpret_cast<typename detail::LaneTraits<T>::AnyAddress*>(to) = x.v;
  }
}

namespace detail {
/// The few numbers at an end. Out of line, for every loop has several of these.
template <class Number>
[[gnu::noinline, gnu::cold]] void copy_few(const Number* from, long count, Number* to) {
  for (long k = 0; k < count; ++k) to[k] = from[k];
}
}  // namespace detail

/// The first `count` numbers, at most as many as T is wide; the other lanes are 0. One loop body then serves full
/// blocks and the tail, so that an element's bits do not depend on its place: load<T>(p + i, n - i).
template <Real T>
VAELIB_INLINE T load(const typename detail::LaneTraits<T>::Scalar* from, long count) {
  constexpr long width = detail::LaneTraits<T>::width;
  if (count >= width) [[likely]]
    return load<T>(from);
  typename detail::LaneTraits<T>::Scalar padded[width] = {};
  detail::copy_few(from, count, padded);
  return load<T>(padded);
}
/// Stores the first `count` lanes, at most as many as there are.
template <Real T>
VAELIB_INLINE void store(typename detail::LaneTraits<T>::Scalar* to, const T& x, long count) {
  constexpr long width = detail::LaneTraits<T>::width;
  if (count >= width) [[likely]]
    return store(to, x);
  typename detail::LaneTraits<T>::Scalar all[width];
  store(all, x);
  detail::copy_few(all, count, to);
}

/// The sum of all lanes, in a fixed order: upper half onto lower half, until one is left.
template <Arithmetic T>
VAELIB_INLINE constexpr T sum(T x) {
  return x;
}
#if VAELIB_HAS_LANES
VAELIB_INLINE float sum(const Lanes<4>& x) {
  const auto pairs = x.v + __builtin_shufflevector(x.v, x.v, 2, 3, 2, 3);
  return pairs[0] + pairs[1];
}
VAELIB_INLINE float sum(const Lanes<8>& x) {
  return sum(Lanes<4>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3) + __builtin_shufflevector(x.v, x.v, 4, 5, 6, 7)));
}
VAELIB_INLINE float sum(const Lanes<16>& x) {
  return sum(Lanes<8>::from(__builtin_shufflevector(x.v, x.v, 0, 1, 2, 3, 4, 5, 6, 7) +
                            __builtin_shufflevector(x.v, x.v, 8, 9, 10, 11, 12, 13, 14, 15)));
}
#endif

}  // namespace vaelib::inline VAELIB_ABI
