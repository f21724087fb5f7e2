// Any model of the program, its type forgotten; model.cpp and gan_model.cpp take long to compile.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/metrics/codebook_monitor.hpp>
#include <vaelib/train/trainer.hpp>
#include <vector>

#include "options.hpp"

namespace vaelib::inline VAELIB_ABI {
struct FeatureNetwork;
}

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

  /// What becomes of images; `codes` is the way without the decoder.
  struct Seen {
    Codes codes;
    std::vector<float> vectors, latents, images;  ///< before they are quantized, after, and decoded
  };
  enum class Look { at_codes, at_images };
  virtual Seen look(Pixels images, Look how) const = 0;
  virtual std::vector<float> decode(const Codes& codes, long images) const = 0;

  virtual const std::vector<vaelib::CodebookMonitor<float>::Epoch>& epochs() const = 0;  ///< of the codebooks, in fit
  virtual std::vector<float> codebook() const = 0;  ///< K x width; empty where codes are not stored

  /// Means over the steps of an epoch: the weight of the generator's loss, the perceptual distance, the losses of generator
  /// and discriminator, and the logits of real and made images. None without an adversary.
  struct Adversary {
    double lambda = 0, perceptual = 0, generator = 0, discriminator = 0, real = 0, made = 0;
  };
  virtual std::vector<Adversary> adversaries() const { return {}; }
};

using PerceptualNetwork = std::shared_ptr<const vaelib::FeatureNetwork>;
inline bool adversarial(const Options& o) { return o.adversarial > 0 || o.perceptual > 0; }

/// A sentence where the discriminator would never take part; else empty.
std::string warning_of_adversary(const Options& options);

/// `image`: of the data. A perceptual network is needed to train with a perceptual loss, not to use what was trained.
/// Throws vaelib::Error, before memory is taken, where the model has more numbers than `most`: those that its file has.
std::unique_ptr<Model> make_model(const Options& options, vaelib::Shape image, PerceptualNetwork network = {}, std::int64_t most = INT64_MAX);

}  // namespace vqvae
