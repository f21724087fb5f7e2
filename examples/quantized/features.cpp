#include "features.hpp"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/feature_file.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/models/feature_classifier.hpp>
#include <vaelib/train/trainer.hpp>

namespace vqvae {

using namespace vaelib;

namespace {

template <class Task>
void train_classifier(Task task, const char* of, const Options& o, const ImageData& data, const std::string& path) {
  using Classifier = FeatureClassifier<Shape{dynamic, dynamic, dynamic}, Task, 16, 32, 64>;
  Classifier classifier;
  classifier.task = task;
  classifier.features.input_shape = data.train.shape();
  Trainer trainer{std::move(classifier), Adam{.learning_rate = 1e-3f}, Cpu(int(o.threads)), o.seed};
  const std::int64_t batch = std::clamp<std::int64_t>((1 << 17) / data.train.shape().size(), 4, 64);  // rotations are four times as many
  const std::int64_t epochs = std::clamp<std::int64_t>(20'000 / data.train.size(), 2, 20);
  const auto history = trainer.fit(data.train, {.epochs = epochs, .batch_size = batch, .validation = data.test});
  if (!o.quiet) std::printf("features  of a classifier of %s, trained on these images: %.3f nats on test images (guessing: %.3f)\n", of, history.back().val_loss,
                            std::log(double(trainer.weights().model.head.output_shape.size())));
  save(path, trainer.weights());
}

}  // namespace

PerceptualNetwork perceptual_network(const Options& o, const ImageData& data, const std::string& folder) {
  if (o.perceptual <= 0) return {};
  if (!o.perceptual_network.empty()) return std::make_shared<const FeatureNetwork>(read_feature_network(o.perceptual_network));
  const std::string path = folder + "/features.safetensors";
  create_directories(folder);
  if (!(o.resume && std::filesystem::exists(path))) {
    if (data.train.classes() > 1)
      train_classifier(Labels<dynamic>{data.train.classes()}, "labels", o, data, path);
    else
      train_classifier(Rotations{}, "rotations", o, data, path);
  }
  return std::make_shared<const FeatureNetwork>(read_feature_network(path));
}

}  // namespace vqvae
