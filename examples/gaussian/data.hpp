// The images that a run learns from and is tested on.
#pragma once

#include <memory>
#include <span>
#include <vaelib/train/source.hpp>

#include "options.hpp"

namespace vae {

/// What was done to the numbers of a file: x is read as (x - offset) * scale.
struct Normalisation {
  double offset = 0, scale = 1;
  bool operator==(const Normalisation&) const = default;
};

struct ImageData {
  std::string name, origin;
  vaelib::SourceView train, test;
  std::vector<std::string> class_names;
  std::shared_ptr<const void> owner{};  ///< of what the views look at
  std::string split{};                  ///< how training and test images were told apart
  Normalisation normalisation{};
  std::vector<std::string> notes{};     ///< what its reader should know: files that were left out
  bool streams = false;                 ///< images are decoded while the model trains
};

/// A known name of --data, or the kind of files that lie at a path. Throws UsageError where it is neither.
std::string kind_of_data(const std::string& name_or_path);

/// Throws vaelib::Error where files are missing or damaged. `known` is the normalisation that a trained model has learned with.
ImageData load_data(const TrainOptions& options, const Normalisation* known = nullptr);

/// Some images as floats, with their labels.
struct Images {
  std::vector<float> pixels;
  std::vector<std::int32_t> labels;
};
Images take(const vaelib::SourceView& source, std::int64_t first, std::int64_t count);

}  // namespace vae
