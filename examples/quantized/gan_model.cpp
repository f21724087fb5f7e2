// The model that learns against a discriminator, with a perceptual loss, or both.
#include <vaelib/models/vqgan.hpp>

#include "net_model.hpp"

namespace vqvae {

namespace {

/// Hinge or Vanilla, chosen at run time.
struct AnyAdversary {
  struct Real {
    bool vanilla = false;
    VAELIB_HD constexpr auto operator()(auto logit) const { return vanilla ? Vanilla{}.real(logit) : Hinge{}.real(logit); }
  };
  struct Made {
    bool vanilla = false;
    VAELIB_HD constexpr auto operator()(auto logit) const { return vanilla ? Vanilla{}.made(logit) : Hinge{}.made(logit); }
  };
  struct Generator {
    bool vanilla = false;
    VAELIB_HD constexpr auto operator()(auto logit) const { return vanilla ? Vanilla{}.generator(logit) : Hinge{}.generator(logit); }
  };
  Real real{};
  Made made{};
  Generator generator{};
};

using Net = VqGan<VqEncoder, AnyQuantizer, VqDecoder, VqDiscriminator, Perceptual, AnyAdversary, Reconstruction>;

Net net_of(const Options& o, Shape image, PerceptualNetwork network) {
  Net net;
  const auto size = network_of(o);
  net.encoder = VqEncoder(image, size);
  net.quantizer = quantizer_of(o);
  net.decoder = VqDecoder(image.channels, size);
  net.reconstruction = {float(o.l1)};
  net.discriminator.width = int(o.discriminator_width);
  net.discriminator.layers = int(o.discriminator_layers);
  net.perceptual = Perceptual::none();
  net.perceptual.network = std::move(network);
  const bool vanilla = o.adversary == "vanilla";
  net.adversary = {{vanilla}, {vanilla}, {vanilla}};
  net.options = {.pixel = 1, .perceptual = float(o.perceptual), .adversarial = float(o.adversarial), .start = o.adversarial > 0 ? 0 : INT64_MAX, .start_epoch = o.discriminator_start};
  return net;
}

class GanModel final : public NetModel<Net> {
 public:
  using NetModel::NetModel;

  History fit(const SourceView& data, FitOptions options) override {
    options.callbacks.insert(options.callbacks.begin(), Callback(numbers));
    return NetModel::fit(data, options);
  }
  std::vector<Adversary> adversaries() const override { return numbers.epochs; }

 private:
  /// The means of what the steps of an epoch measured.
  struct Numbers {
    const Weights<Net, Cpu>& weights;
    Adversary sum{};
    double steps = 0;
    std::vector<Adversary> epochs{};

    void step_end(const RunState& state) {
      if (!state.last.accepted) return;
      const auto n = Net::numbers_of(weights);
      sum = {sum.lambda + n.lambda, sum.perceptual + n.perceptual, sum.generator + n.generator, sum.discriminator + n.discriminator, sum.real + n.real, sum.made + n.made};
      ++steps;
    }
    void epoch_end(const RunState&) {
      const double n = std::max(1.0, steps);
      epochs.push_back({sum.lambda / n, sum.perceptual / n, sum.generator / n, sum.discriminator / n, sum.real / n, sum.made / n});
      sum = {};
      steps = 0;
    }
  };
  Numbers numbers{trainer.weights()};
};

}  // namespace

std::string warning_of_adversary(const Options& o) {
  if (o.adversarial <= 0) return {};
  return warning_of_start({.start = 0, .start_epoch = o.discriminator_start}, INT32_MAX, o.epochs);
}

std::unique_ptr<Model> make_gan_model(const Options& o, Shape image, PerceptualNetwork network, std::int64_t most) {
  // the moments of the authors' program
  return std::make_unique<GanModel>(within(net_of(o, image, std::move(network)), most), Adam{.learning_rate = float(o.lr), .beta1 = 0.5f, .beta2 = 0.9f}, o);
}

}  // namespace vqvae
