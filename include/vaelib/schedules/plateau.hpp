// Plateau: a factor on the learning rate that falls when a loss has stopped falling, as torch.optim's ReduceLROnPlateau.
//
//   FitOptions{.validation = images.test, .plateau = Plateau{.factor = 0.5f, .patience = 3}}
//
// It depends on what was measured, not on the step, and so is no schedule: it is fed one loss an epoch. A run that is resumed
// feeds it the losses of its history again, which gives the same factor. While beta rises the objective rises with it: a
// Plateau wants a beta that stands still, or a patience that outlasts the rise.
#pragma once

#include <vaelib/core/error.hpp>

#include <cstdint>
#include <limits>

namespace vaelib::inline VAELIB_ABI {

struct Plateau {
  float factor = 0.1f;         ///< what the rate is multiplied by
  std::int64_t patience = 10;  ///< epochs without progress that are waited for; after one more the rate falls
  float threshold = 1e-4f;     ///< progress is a loss below best - threshold |best|
  std::int64_t cooldown = 0;   ///< epochs after a fall that do not count
  float smallest = 0;          ///< the rate falls no further

  // how it stands
  float rate = 1;
  double best = std::numeric_limits<double>::infinity();
  std::int64_t waited = 0, cooling = 0;

  void check() const {
    if (!(factor > 0 && factor < 1)) fail("vaelib: a Plateau wants a factor between 0 and 1, found ", factor);
    if (!(smallest >= 0 && smallest <= 1)) fail("vaelib: a Plateau wants a smallest rate from 0 to 1, found ", smallest);
  }
  /// The loss of one more epoch; NaN is no progress.
  constexpr void see(double loss) {
    const bool first = best == std::numeric_limits<double>::infinity();
    if (loss < best && (first || loss < best - double(threshold) * (best < 0 ? -best : best))) {
      best = loss;
      waited = 0;
    } else {
      ++waited;
    }
    if (cooling > 0) {
      --cooling;
      waited = 0;
    }
    if (waited <= patience) return;
    rate = rate * factor > smallest ? rate * factor : smallest;
    cooling = cooldown;
    waited = 0;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
