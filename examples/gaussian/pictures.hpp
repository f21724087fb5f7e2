// The pictures of a run, drawn at its end.
#pragma once

#include "data.hpp"
#include "model.hpp"

namespace vae {

/// training_losses.png: objective, reconstruction and KL divergence by epoch; beta too where it changes.
void draw_losses(const std::string& path, const vaelib::History& history);

/// reconstructions.png: rows of test images, below each what the model makes of it.
void draw_reconstructions(const std::string& path, const AnyModel& model, const ImageData& data);

/// generated_samples.png: images of codes from the prior; a conditional model draws a row a label.
void draw_samples(const std::string& path, const AnyModel& model, const ImageData& data, bool conditional,
                  std::uint64_t seed);

/// latent_space.png: the means of the codes of the test images, coloured by class. For codes of two numbers.
void draw_latent_space(const std::string& path, const AnyModel& model, const ImageData& data);

}  // namespace vae
