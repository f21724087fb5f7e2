// The command `vae train`.
#pragma once

#include "model.hpp"
#include "options.hpp"

namespace vae {

/// Throws UsageError, or vaelib::Error where files, data or numbers are not as they have to be.
void train(TrainOptions options, Given given);

/// The model that the options describe, with its first weights.
std::unique_ptr<AnyModel> model_of(const TrainOptions& options, vaelib::Shape image, int classes);

}  // namespace vae
