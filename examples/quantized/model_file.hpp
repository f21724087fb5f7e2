// A model file with the options that it was made by, so that commands need nothing else.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "model.hpp"

namespace vqvae {

nlohmann::ordered_json json_of(const Options& options);

/// Metadata that open_model understands.
vaelib::Metadata metadata_of(const Options& options, vaelib::Shape image, std::uint64_t step);

struct OpenModel {
  Options options;
  std::unique_ptr<Model> model;
};
/// Throws vaelib::Error where the file is no model of `vqvae`.
OpenModel open_model(const std::string& path, std::int64_t threads);

}  // namespace vqvae
