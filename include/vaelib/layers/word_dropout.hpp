// Word dropout: in training each token of a sequence is replaced by an unknown one with probability p, so that a decoder that
// is given the tokens before cannot do without its code; Bowman et al. 2016, "Generating sentences from a continuous space".
#pragma once

#include <vaelib/core/rows.hpp>
#include <vaelib/core/shape.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

struct WordDropout {
  float probability = 0;
  std::int32_t unknown = 0;  ///< the token that stands for any
  std::int32_t kept = -1;    ///< a token that is never replaced (a start), or -1

  [[gnu::cold]] void build() const {
    if (!(probability >= 0 && probability <= 1)) fail("vaelib: WordDropout wants a probability in [0, 1], found ", probability);
    if (unknown < 0) fail("vaelib: WordDropout wants an unknown token of 0 or more, found ", unknown);
  }
  /// tokens: `positions` a row; the result is in memory of the step, or the tokens themselves where nothing is dropped.
  template <class S>
  const std::int32_t* operator()(S& step, const RowSpace* space, const std::int32_t* tokens, int positions = 1) const {
    if (!step.training() || probability == 0) return tokens;
    const long all = space->count * positions;
    auto* result = step.arena.template allocate<std::int32_t>(std::size_t(all));
    const auto chance = step.scratch(all);
    step.backend.uniform(step.next_key(), space->first, space->count, positions, chance.data);
    for (long i = 0; i < all; ++i) result[i] = chance.data[i] < probability && tokens[i] != kept ? unknown : tokens[i];
    return result;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
