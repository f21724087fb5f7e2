// Any of the program's models, its type forgotten. What is behind it is in models.cpp, the one file that takes long to
// compile.
#pragma once

#include <memory>
#include <span>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/models/collapse_control.hpp>
#include <vaelib/report/collapse.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

namespace vae {

struct ModelSettings {
  bool convolutional = true;
  vaelib::Shape image{28, 28, 1};
  int code_size = 20, hidden_size = 400;
  int labels = 0;  ///< how many a conditional model tells apart; 0: it is told none
  std::string likelihood = "bernoulli";
  float learning_rate = 1e-3f;
  vaelib::CollapseControl elbo{};
  std::uint64_t seed = 0;
  int threads = 0;
  bool bfloat16 = false;  ///< products and convolutions of the training
};

/// What one step takes, and what came of it.
struct Trial {
  struct Tensor {
    std::string name, shape;
    std::int64_t numbers;
  };
  std::vector<Tensor> tensors;
  std::int64_t weights = 0, training = 0, step = 0;  ///< bytes: weights and state; gradients, moments and average; one batch
  vaelib::StepResult result;
};

class AnyModel {
 public:
  using Pixels = std::span<const float>;
  using Labels = const std::int32_t*;

  virtual ~AnyModel() = default;

  virtual long parameters() const = 0;
  virtual int threads() const = 0;
  virtual std::uint64_t steps() const = 0;  ///< taken so far
  virtual vaelib::History fit(const vaelib::SourceView& data, const vaelib::FitOptions& options) = 0;
  virtual void save(const std::string& path, const vaelib::Metadata& metadata) const = 0;
  virtual void load(const std::string& path) = 0;
  virtual void export_onnx(const std::string& folder) const = 0;  ///< encoder.onnx and decoder.onnx
  /// Reads the tensors whose names begin with one of the prefixes; their names.
  virtual std::vector<std::string> load_part(const std::string& path, const std::vector<std::string>& prefixes) = 0;
  virtual void use_average() = 0;  ///< the average of the weights, where fit has kept one, becomes the weights
  virtual Trial try_step(Pixels images, Labels labels, const vaelib::StepOptions& options) = 0;

  virtual std::vector<float> encode(Pixels images, Labels labels) const = 0;  ///< means of q(z|x)
  virtual std::vector<float> log_variances(Pixels images, Labels labels) const = 0;  ///< of q(z|x)
  virtual std::vector<float> reconstruct(Pixels images, Labels labels) const = 0;
  virtual std::vector<float> decode(std::span<const float> codes, Labels labels) const = 0;
  virtual vaelib::Evidence evidence(Pixels images, Labels labels, int samples, std::uint64_t seed) const = 0;
  /// Of `count` images: its codes, and what they are worth to the decoder.
  virtual vaelib::CollapseEvidence examine(const vaelib::SourceView& images, std::int64_t count, std::uint64_t seed) const = 0;
  virtual std::vector<float> sample(long count, std::uint64_t seed, Labels labels) const = 0;
};

std::unique_ptr<AnyModel> make_model(const ModelSettings& settings);

}  // namespace vae
