// From counters to random words (Philox4x32-10), and from words to numbers of a distribution; see random.hpp.
#pragma once

#include <array>
#include <vaelib/core/math_kernels.hpp>

// GCC 12 does not see that one instruction multiplies halves of 64 bits; on x86 it is told, four lanes at a time.
#if VAELIB_HAS_LANES && defined(__x86_64__) && !defined(__clang__)
#define VAELIB_PHILOX_BY_FOUR 1
#else
#define VAELIB_PHILOX_BY_FOUR 0
#endif

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// Both halves of a 64-bit product.
template <class Word>
struct WideProduct {
  Word high, low;
};
VAELIB_INLINE constexpr WideProduct<std::uint32_t> wide_product(std::uint32_t a, std::uint32_t b) {
  const std::uint64_t p = std::uint64_t{a} * b;
  return {static_cast<std::uint32_t>(p >> 32), static_cast<std::uint32_t>(p)};
}

#if VAELIB_HAS_LANES
template <int W>
struct WideWords {  // the words of Bits<W>, two and two together
  typedef std::uint64_t Uint64 __attribute__((vector_size(W * 4)));
  Uint64 v;
};

/// The 64-bit products of the even lanes.
template <int W>
VAELIB_INLINE void multiply_even(const Bits<W>& a, std::uint32_t b, WideWords<W>& out) {
#if VAELIB_PHILOX_BY_FOUR
  static_assert(W == 4);
  out.v = (typename WideWords<W>::Uint64)__builtin_ia32_pmuludq128((Raw<4>::Int)a.v, (Raw<4>::Int)Bits<4>(b).v);
#else
  out.v = ((typename WideWords<W>::Uint64)a.v & 0xffffffffu) * std::uint64_t{b};
#endif
}

template <int W>
VAELIB_INLINE WideProduct<Bits<W>> wide_product(const Bits<W>& a, std::uint32_t b) {
  using Uint = typename Raw<W>::Uint;
  using Uint64 = typename WideWords<W>::Uint64;
  WideWords<W> even, odd;
  multiply_even(a, b, even);
  multiply_even(Bits<W>::from((Uint)((Uint64)a.v >> 32)), b, odd);
  return {Bits<W>::from((Uint)(even.v >> 32 | (odd.v & 0xffffffff00000000u))),
          Bits<W>::from((Uint)((even.v & 0xffffffffu) | odd.v << 32))};
}
#endif

template <class Word>
VAELIB_INLINE constexpr void philox_round(Word (&c)[4], const Word& key0, const Word& key1) {
  const auto p = wide_product(c[0], 0xD2511F53u), q = wide_product(c[2], 0xCD9E8D57u);
  c[0] = q.high ^ c[1] ^ key0;
  c[1] = q.low;
  c[2] = p.high ^ c[3] ^ key1;
  c[3] = p.low;
}

/// Ten rounds, on one counter (std::uint32_t) or on one a lane (Bits); several of these take turns.
template <class Word, class... Words>
VAELIB_INLINE constexpr void philox_rounds(const std::array<std::uint32_t, 2>& key, Word (&c)[4], Words&... more) {
  Word key0(key[0]), key1(key[1]);
  for (int round = 0; round < 10; ++round) {
    philox_round(c, key0, key1);
    (philox_round(more, key0, key1), ...);
    key0 = key0 + Word(0x9E3779B9u), key1 = key1 + Word(0xBB67AE85u);
  }
}

#if VAELIB_PHILOX_BY_FOUR
template <int W>
requires(W > 4) VAELIB_INLINE void philox_rounds(const std::array<std::uint32_t, 2>& key, Bits<W> (&c)[4]) {
  Bits<W / 2> low[4], high[4];
  for (int k = 0; k < 4; ++k)
    low[k] = bits_of(low_half(from_bits(c[k]))), high[k] = bits_of(high_half(from_bits(c[k])));
  if constexpr (W == 8)
    philox_rounds(key, low, high);
  else
    philox_rounds(key, low), philox_rounds(key, high);
  for (int k = 0; k < 4; ++k) c[k] = bits_of(join(from_bits(low[k]), from_bits(high[k])));
}
#endif

}  // namespace detail

/// Four random words of a counter and a key.
VAELIB_HD constexpr std::array<std::uint32_t, 4> philox(const std::array<std::uint32_t, 4>& counter,
                                                        const std::array<std::uint32_t, 2>& key) {
  std::uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  detail::philox_rounds(key, c);
  return {c[0], c[1], c[2], c[3]};
}

namespace detail {

// What follows is written for float and Lanes, where words are BitsOf<T>, and for double, where they are integers.
template <Real T>
VAELIB_INLINE auto load_words(const std::uint32_t* from) {
#if VAELIB_HAS_LANES
  constexpr int width = LaneTraits<T>::width;
  if constexpr (width > 1) {
    Bits<width> words;
    words.v = *reinterpret_cast<const typename Raw<width>::UintAnyAddress*>(from);
    return words;
  } else
#endif
    return *from;
}
/// The number of a signed integer.
template <Real T, class Word>
VAELIB_INLINE T number_of(const Word& i) {
  if constexpr (SinglePrecision<T>)
    return to_float(i);
  else
    return static_cast<std::int32_t>(i);
}

/// Odd multiples of 2^-24: never 0, never 1, exact in float.
struct UniformOfWords {
  template <Real T, class Word, class Scalar, int width>
  static VAELIB_INLINE void apply(const Word (&words)[4], Scalar (&out)[4][width]) {
    for (int k = 0; k < 4; ++k) {
      store(out[k], number_of<T>((words[k] >> 8) | Word(1u)) * T(0x1p-24f));
    }
  }
};

/// -log u of u = (word + 1/2) 2^-32, as exact near u = 1 as near u = 0: the upper half of the words is mirrored.
template <SinglePrecision T, class Word>
VAELIB_INLINE T minus_log_uniform(const Word& word) {
  const Word upper = shift_signed(word, 31);                                   // all bits set, or none
  const T v = multiply_add(to_float(word ^ upper), T(0x1p-32f), T(0x1p-33f));  // u, or 1 - u where that is smaller
  const Word bits = bits_of(v), exponent = shifted_exponent(bits);
  const auto mirrored = to_float(upper)<T(0), large = v> T(0.29289322f);
  const T n_mirrored = pick(large, T(-1), T(0)), f_mirrored = pick(large, multiply_add(v, T(-2), T(1)), -v);
  const T n = pick(mirrored, n_mirrored, to_float(shift_signed(exponent, 23)));
  const T f = pick(mirrored, f_mirrored, from_bits(bits - exponent) - T(1));
  return -log_of_reduced(n, f);
}
template <class T>
requires std::is_same_v<T, double> VAELIB_INLINE T minus_log_uniform(std::uint32_t word) {
  return word >> 31 ? -std::log1p(-(~word + 0.5) * 0x1p-32) : -std::log((word + 0.5) * 0x1p-32);
}

/// Sine and cosine of (word + 1/2) 2^-32 turns, reduced exactly to an eighth of a turn.
template <Real T, class Word>
VAELIB_INLINE SinCos<T> sincos_of_word(const Word& word) {
  const Word quadrant = (word + Word(0x20000000u)) >> 30;
  const T turns = number_of<T>(word - (quadrant << 30)) + T(0.5f);
  const T angle = turns * T(1.4629180792671596e-9);  // 2 pi 2^-32
  if constexpr (SinglePrecision<T>) {
    return sincos_of_reduced<T>(quadrant, angle);
  } else {
    const T s = std::sin(angle), c = std::cos(angle), sin_of[4] = {s, c, -s, -c};
    return {sin_of[quadrant & 3], sin_of[(quadrant + 1) & 3]};
  }
}

/// Box and Muller: two words give two normal numbers.
struct NormalOfWords {
  template <Real T, class Word, class Scalar, int width>
  static VAELIB_INLINE void apply(const Word (&words)[4], Scalar (&out)[4][width]) {
    for (int k = 0; k < 4; k += 2) {
      const T twice = T(2) * minus_log_uniform<T>(words[k]);
      const auto direction = sincos_of_word<T>(words[k + 1]);
      T radius = twice;
      if constexpr (SinglePrecision<T>)
        radius = square_root(twice);
      else
        radius = std::sqrt(twice);
      store(out[k], radius * direction.cos);
      store(out[k + 1], radius * direction.sin);
    }
  }
};

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
