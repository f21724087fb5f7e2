// The command `vae train`.
#pragma once

#include "model.hpp"
#include "options.hpp"

namespace vae {

/// What is asked for instead of training.
struct TrainCalls {
  bool print_config = false, dry_run = false;
};

/// The exit code: 0, or 128 + the signal that interrupted the run. Throws UsageError, or vaelib::Error where files, data or
/// numbers are not as they have to be.
int train(TrainOptions options, Given given, const TrainCalls& calls);

/// The model that the options describe, with its first weights; it learns from so many samples.
std::unique_ptr<AnyModel> model_of(const TrainOptions& options, vaelib::Shape image, int classes, std::int64_t samples = 1);

}  // namespace vae
