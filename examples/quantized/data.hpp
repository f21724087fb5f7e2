// The images that a model learns from and is tested on.
#pragma once

#include <memory>
#include <string>
#include <vaelib/train/source.hpp>
#include <vector>

#include "options.hpp"

namespace vqvae {

struct ImageData {
  std::string name;
  vaelib::SourceView train, test;
  std::shared_ptr<const void> owner{};  ///< of what the views look at
  std::vector<std::string> notes{};     ///< files that were left out
};

/// Throws UsageError where the options do not tell which, vaelib::Error where files are missing or damaged.
ImageData load_data(const Options& options);

/// All images of a folder, whole, cut to squares and scaled.
ImageData load_folder(const std::string& folder, int image_size, int channels);

/// Images [first, first + count) as floats.
std::vector<float> take(const vaelib::SourceView& source, std::int64_t first, std::int64_t count);

}  // namespace vqvae
