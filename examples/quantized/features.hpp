// The network of a perceptual loss.
#pragma once

#include "data.hpp"
#include "model.hpp"

namespace vqvae {

/// The network of --perceptual-network; without it the features of a classifier that is trained on these images (of their
/// labels where they have some, else of quarters of a turn) and kept in `folder`, where a resumed run finds it. None where
/// there is no perceptual loss.
PerceptualNetwork perceptual_network(const Options& options, const ImageData& data, const std::string& folder);

}  // namespace vqvae
