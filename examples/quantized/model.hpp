// Any model of the program, its type forgotten; model.cpp is the file that takes long to compile.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/metrics/codebook_monitor.hpp>
#include <vaelib/train/trainer.hpp>
#include <vector>

#include "options.hpp"

namespace vqvae {

class Model {
 public:
  using Pixels = std::span<const float>;
  using Codes = std::vector<std::int32_t>;

  virtual ~Model() = default;
  virtual long parameters() const = 0;
  virtual int threads() const = 0;
  virtual std::uint64_t steps() const = 0;
  virtual vaelib::Shape image() const = 0;
  virtual vaelib::Shape code_shape() const = 0;  ///< of the vectors of one image
  virtual int code_count() const = 0;
  virtual int per_vector() const = 0;
  int codes_per_image() const { return code_shape().height * code_shape().width * per_vector(); }

  virtual vaelib::History fit(const vaelib::SourceView& data, vaelib::FitOptions options) = 0;
  virtual void save(const std::string& path, const vaelib::Metadata& metadata) const = 0;
  virtual void load(const std::string& path) = 0;

  virtual Codes encode(Pixels images) const = 0;
  virtual std::vector<float> latents(Pixels images) const = 0;  ///< quantized: what the decoder gets
  virtual std::vector<float> decode(const Codes& codes, long images) const = 0;
  virtual std::vector<float> reconstruct(Pixels images) const = 0;
  virtual std::vector<float> vectors(Pixels images) const = 0;  ///< before they are quantized

  virtual const std::vector<vaelib::CodebookMonitor<float>::Epoch>& epochs() const = 0;  ///< of the codebooks, in fit
  virtual std::vector<float> codebook() const = 0;  ///< K x width; empty where codes are not stored
};

/// `image`: of the data.
std::unique_ptr<Model> make_model(const Options& options, vaelib::Shape image);

}  // namespace vqvae
