// The images that a run learns from and is tested on.
#pragma once

#include <memory>
#include <span>
#include <vaelib/train/source.hpp>

#include "options.hpp"

namespace vae {

struct ImageData {
  std::string name, origin;
  vaelib::SourceView train, test;
  std::vector<std::string> class_names;
  std::shared_ptr<const void> owner;  ///< of what the views look at
};

/// Throws vaelib::Error where files are missing or damaged.
ImageData load_data(const TrainOptions& options);

/// Some images as floats, with their labels.
struct Images {
  std::vector<float> pixels;
  std::vector<std::int32_t> labels;
};
Images take(const vaelib::SourceView& source, std::int64_t first, std::int64_t count);

}  // namespace vae
