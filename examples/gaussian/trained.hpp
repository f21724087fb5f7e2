// A trained run, opened.
#pragma once

#include "model.hpp"
#include "run_folder.hpp"
#include "train.hpp"

namespace vae {

/// A trained model, and what its folder says of it.
struct Trained {
  RunFolder folder;
  TrainOptions options;
  RunFolder::Description data;
  std::unique_ptr<AnyModel> model;

  explicit Trained(const std::string& path, std::int64_t threads = 0) : folder(path) {
    if (!folder.holds_model()) vaelib::fail(path, ": holds no model.safetensors; vae train --output-dir ", path, " makes one");
    Given given;
    take_over(options, given, folder.read_config(), path);
    data = folder.read_description();
    options.threads = threads;
    model = model_of(options, data.image, data.classes);
    model->load(folder.file("model.safetensors"));
  }

  bool conditional() const { return options.conditional; }
  ImageData load_images() const { return load_data(options, &data.normalisation); }
  int code_size() const { return int(options.code_size); }
};

}  // namespace vae
