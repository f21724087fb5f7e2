// The command `vae train`.
#pragma once

#include "options.hpp"

namespace vae {

/// Throws UsageError, or vaelib::Error where files, data or numbers are not as they have to be.
void train(TrainOptions options, Given given);

}  // namespace vae
