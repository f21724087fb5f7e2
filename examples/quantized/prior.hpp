// The prior of a model's codes: how they go together.
#pragma once

#include <vaelib/train/history.hpp>

#include "data.hpp"
#include "model.hpp"

namespace vqvae {

struct LearntPrior {
  std::string kind;                       ///< pixelcnn or transformer
  std::vector<double> train{}, test{};    ///< bits a code, by epoch
  double uniform = 0;                     ///< bits of a code if all were as likely
  Model::Codes drawn{};                   ///< of 64 new images
};

/// Trains it on the codes of the training images, writes it beside the model, and prints a line an epoch.
LearntPrior learn_prior(const UseOptions& options, const Model& model, const ImageData& images);

}  // namespace vqvae
