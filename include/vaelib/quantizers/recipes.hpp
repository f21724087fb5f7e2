// Settings of vector-quantized models that belong together.
//
//   collapsing   a start that is known to fail: nearly all vectors end at one or two codes, while moving averages call all codes used
//   cured        its remedy by fewer codes, warmer sampling, quicker codes and a weight on even use
//   measured     what measured best here: the defaults of VectorQuantizerOptions; docs/quantizers.md has the table
#pragma once

#include <vaelib/quantizers/vector_quantizer.hpp>

namespace vaelib::inline VAELIB_ABI {

struct VqRecipe {
  int codes = 512, width = 64;
  VectorQuantizerOptions quantizer{};
  float l1 = 0;                                ///< weight of mean |y - x|; 0: the squared error is taken instead
  float perceptual = 0, adversarial = 0;       ///< of a VqGan
  std::int64_t batch_size = 64;
};

namespace recipes {

inline VqRecipe measured() { return {}; }

/// 512 codes of 256 numbers, grown from 256, decay 0.85, commitment 10 after 5 epochs, uniform first codes, none replaced. Its temperature
/// (1.2) divides distances of which the smallest is taken, and its entropy weight (1) is one of counted codes: neither changes anything,
/// so neither is set here.
[[gnu::cold]] inline VqRecipe collapsing() {
  VqRecipe r{.codes = 512, .width = 256, .l1 = 0.7f, .perceptual = 0.005f, .adversarial = 0.4f};
  r.quantizer = {.start = CodebookStart::uniform, .decay = 0.85f, .commitment = per_epoch(anneal::Linear{.begin = 0, .end = 10, .steps = 5}),
                 .dead = never_replaced, .codes_in_use = per_epoch(anneal::Linear{.begin = 256, .end = 512, .steps = 5})};
  return r;
}

/// 64 codes of 256 numbers, decay 0.7, drawn at temperature 2.5; the least used 30 % and those below one vector a batch are replaced each
/// epoch. Its entropy weight (2) is not set either: as a weight of `spread` it made reconstructions two and a half times worse.
[[gnu::cold]] inline VqRecipe cured() {
  VqRecipe r = collapsing();
  r.codes = 64;
  r.quantizer.decay = 0.7f;
  r.quantizer.temperature = 2.5f;
  r.quantizer.dead = {.below_mean = 0, .below = 1, .lowest = 0.3f, .every_steps = 0, .every_epochs = 1};
  r.quantizer.codes_in_use.reset();
  return r;
}

}  // namespace recipes
}  // namespace vaelib::inline VAELIB_ABI
