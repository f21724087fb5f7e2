// Random numbers as a pure function of where they are used: Philox4x32-10, a counter-based generator.
//
// Every number is keyed by seed, step, stream (what it is for), ordinal (which call within the step), row (position in
// the global batch) and element. So recomputation repeats it, two calls differ, and how a batch is split changes
// nothing.
//   counter  {element / 4, row, low half of step, stream << 24 | ordinal}; the number is word element % 4 of the result
//   key      {low half of seed, high half of seed ^ high half of step}
// The words are the same on every device. Uniform numbers in float and double are equal, normal ones agree within
// rounding. Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (2011). Box, Muller: A note on the
// generation of random normal deviates (1958).
#pragma once

#include <span>
#include <utility>
#include <vaelib/core/random_words.hpp>
#include <vaelib/core/vectorize.hpp>

namespace vaelib::inline VAELIB_ABI {

struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t stream = 0;   // below 2^8
  std::uint32_t ordinal = 0;  // below 2^24

  VAELIB_HD constexpr std::array<std::uint32_t, 4> counter(std::uint32_t block, std::uint32_t row) const {
    return {block, row, static_cast<std::uint32_t>(step), stream << 24 | (ordinal & 0xffffffu)};
  }
  VAELIB_HD constexpr std::array<std::uint32_t, 2> words() const {
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32 ^ step >> 32)};
  }
};

namespace detail {
/// Goes through the blocks of four elements of all rows, in order.
struct RandomBlocks {
  long per_row, row = 0, block = 0;
  VAELIB_INLINE void next() {
    if (++block == per_row) block = 0, ++row;
  }
};

/// rows x features numbers of a distribution, T wide.
template <class Distribution, Real T>
VAELIB_INLINE void fill_random(const RandomKey& key, long first_row, long rows, int features,
                               typename LaneTraits<T>::Scalar* out) {
  constexpr int width = LaneTraits<T>::width;
  using Word = decltype(load_words<T>(nullptr));
  const auto base = key.counter(0, 0);
  const auto key_words = key.words();
  RandomBlocks computed{(features + 3L) / 4}, stored = computed;
  for (long left = rows * computed.per_row; left > 0; left -= width) {
    std::uint32_t block[width], row[width];
    for (int k = 0; k < width; ++k, computed.next()) {
      block[k] = static_cast<std::uint32_t>(computed.block);
      row[k] = static_cast<std::uint32_t>(first_row + computed.row);
    }
    Word words[4] = {load_words<T>(block), load_words<T>(row), Word(base[2]), Word(base[3])};
    philox_rounds(key_words, words);
    typename LaneTraits<T>::Scalar numbers[4][width];
    Distribution::template apply<T>(words, numbers);
    for (int k = 0; k < width && k < left; ++k, stored.next()) {
      const long element = 4 * stored.block, count = features - element;
      auto* to = out + stored.row * features + element;
      to[0] = numbers[0][k];
      if (count > 1) to[1] = numbers[1][k];
      if (count > 2) to[2] = numbers[2][k];
      if (count > 3) to[3] = numbers[3][k];
    }
  }
}

template <class Distribution, class Scalar>
void fill_random(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  if constexpr (std::is_same_v<Scalar, float>) {
    vectorize([&](auto lanes) VAELIB_LOOP {
      fill_random<Distribution, typename decltype(lanes)::type>(key, first_row, rows, features, out);
    });
  } else {
    fill_random<Distribution, double>(key, first_row, rows, features, out);
  }
}
}  // namespace detail

/// Uniform numbers in (0, 1), odd multiples of 2^-24, for `rows` rows of a batch: out is rows x features, and its first
/// row is row `first_row` of the global batch. Scalar is float or double.
template <class Scalar>
void uniform(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  detail::fill_random<detail::UniformOfWords>(key, first_row, rows, features, out);
}

/// Standard normal numbers, likewise.
template <class Scalar>
void normal(const RandomKey& key, long first_row, long rows, int features, Scalar* out) {
  detail::fill_random<detail::NormalOfWords>(key, first_row, rows, features, out);
}

/// The words of one key, one after another: for integers, where how many are needed is not known before.
class RandomSequence {
 public:
  constexpr explicit RandomSequence(const RandomKey& key) : key_(key) {}

  constexpr std::uint32_t next() {
    if (position_ % 4 == 0) {
      const std::uint64_t block = position_ / 4;
      words_ = philox(key_.counter(static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32)),
                      key_.words());
    }
    return words_[position_++ % 4];
  }

  /// Uniform in 0 ... n - 1, n > 0, without bias. Lemire: Fast random integer generation in an interval (2019).
  constexpr std::uint32_t below(std::uint32_t n) {
    std::uint64_t product = std::uint64_t{next()} * n;
    if (static_cast<std::uint32_t>(product) < n) {
      const std::uint32_t unfair = (0u - n) % n;  // this many low halves are one too many
      while (static_cast<std::uint32_t>(product) < unfair) product = std::uint64_t{next()} * n;
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

 private:
  RandomKey key_;
  std::uint64_t position_ = 0;
  std::array<std::uint32_t, 4> words_{};
};

/// 0 ... n - 1 in an order in which every permutation is equally likely (Fisher, Yates).
inline void permutation(const RandomKey& key, std::span<std::uint32_t> out) {
  if (out.size() > UINT32_MAX) fail("permutation: of ", out.size(), " numbers, expected at most ", UINT32_MAX);
  RandomSequence sequence(key);
  for (std::uint32_t i = 0; i < out.size(); ++i) {
    const std::uint32_t j = sequence.below(i + 1);
    out[i] = out[j];
    out[j] = i;
  }
}

}  // namespace vaelib::inline VAELIB_ABI
