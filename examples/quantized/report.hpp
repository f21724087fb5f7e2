// The page of a trained model, and of what `codebook` finds.
#pragma once

#include <vaelib/report/report.hpp>
#include <vaelib/train/history.hpp>

#include "data.hpp"
#include "model.hpp"
#include "prior.hpp"

namespace vqvae {

/// How a model with fixed weights uses its codes on some images.
struct Usage {
  std::vector<double> counts;                                   ///< by code
  vaelib::metrics::CodebookUse whole;
  double used_a_batch = 0, entropy_a_batch = 0;                 ///< means over batches; the entropy is normalised
  double vectors_a_batch = 0;
  std::vector<double> used_by_batch{}, entropy_by_batch{};
  double quantization_error = 0, reconstruction_error = 0;      ///< mean squares
};

/// `temperature` other than 1 or 0 has no part in which code is the nearest; it is told for the sake of the report.
Usage measure(const Model& model, const vaelib::SourceView& images, std::int64_t most, std::int64_t batch);

/// Rules that hold, by the settings of a run.
std::vector<vaelib::metrics::CodebookAdvice> advice_of(const Usage& usage, const Model& model, const Options& options);

void add_usage(vaelib::report::Report& page, const Usage& usage, const Model& model, const Options& options);
void add_gallery(vaelib::report::Report& page, const Model& model, const Usage& usage);
void add_reconstructions(vaelib::report::Report& page, const Model& model, const vaelib::SourceView& images);

/// Curves of a model with an adversary; nothing of others.
void add_adversary(vaelib::report::Report& page, const Model& model);
void add_prior(vaelib::report::Report& page, const Model& model, const LearntPrior& prior);

/// Images of the most used codes: each decoded from an image that has it everywhere.
std::vector<float> decoded_codes(const Model& model, const std::vector<std::int32_t>& codes);
/// Codes, the most used first.
std::vector<std::int32_t> by_use(const std::vector<double>& counts, std::size_t most);

/// Two rows for each 8 images: them, and what the model makes of them.
vaelib::Image reconstruction_grid(const Model& model, const vaelib::SourceView& images, std::int64_t count);

}  // namespace vqvae
