// The vector-quantized autoencoder that is trained against a discriminator; Esser et al. 2021, "Taming transformers for
// high-resolution image synthesis". y = decoder(quantizer(encoder(x))):
//
//   generator       pixel |y - x| + perceptual d(y, x) + quantizer's loss + lambda adversarial G(D(y))
//   discriminator   adversarial.hpp, on x and y
//
//   lambda = |gradient of the first two terms| / (|gradient of G| + 1e-6) at the last weight of the decoder, 0 to 1e4
//
// The generator learns first, as in the authors' program, so that the discriminator sees what the generator has become,
// and because a step reports its first phase. Each phase has its own moments. Before step `start` and epoch `start_epoch`
// neither the discriminator nor lambda is computed.
//
// Only the generator's phase moves the codebook and other states of the autoencoder, only the discriminator's those of
// the discriminator: first by x, then by y. In evaluation the objective is the reconstruction alone: mean |y - x|,
// unweighted.
//
// lambda takes one pass backward through discriminator and perceptual network for each of the two losses, down to the
// last layer of the decoder. What they give there is kept, and the step's own backward pass begins with it: nothing
// runs twice but that layer.
#pragma once

#include <vaelib/models/adversarial.hpp>
#include <vaelib/models/perceptual.hpp>
#include <vaelib/models/vq_vae.hpp>

#include <array>
#include <string>

namespace vaelib::inline VAELIB_ABI {

/// Weights of the terms. Those of the generator's loss and the start are those of the authors' custom_vqgan.yaml.
struct VqGanOptions {
  Schedule pixel = 1;           ///< of the mean absolute error
  Schedule perceptual = 1;      ///< of the perceptual distance
  Schedule adversarial = 0.8f;  ///< of the generator's loss, times lambda
  std::int64_t start = 10'000;  ///< the first step that the discriminator takes part in
  std::int64_t start_epoch = 0; ///< and the first epoch
  bool adaptive = true;         ///< false: lambda is 1
};

/// What the last step measured, in training.
struct AdversarialNumbers {
  double lambda = 0;                        ///< 0 while the discriminator waits
  double perceptual = 0;                    ///< distance
  double generator = 0, discriminator = 0;  ///< losses, unweighted
  double real = 0, made = 0;                ///< mean logits
  static constexpr int count = 6;
};

/// What is wrong with the start of a discriminator, for a user; empty where nothing is.
[[gnu::cold]] inline std::string warning_of_start(const VqGanOptions& options, std::int64_t steps_per_epoch,
                                                  std::int64_t epochs) {
  constexpr const char* never = ": it will never be trained, and the model is a VQ-VAE with another reconstruction loss";
  const std::int64_t steps = steps_per_epoch * epochs;
  if (options.start >= steps)
    return text("the discriminator starts at step ", options.start, ", but ", epochs, " epochs are only ", steps,
                " steps", never);
  if (options.start_epoch >= epochs)
    return text("the discriminator starts after ", options.start_epoch, " epochs, but there are only ", epochs, never);
  return {};
}

template <class Encoder, class Quantizer, class Decoder, class Discriminator, class PerceptualLoss = Perceptual,
          class Adversary = Hinge, class Reconstruction = AbsoluteError>
struct VqGan : VqVae<Encoder, Quantizer, Decoder, Reconstruction> {
  using Base = VqVae<Encoder, Quantizer, Decoder, Reconstruction>;
  static_assert(agree(Discriminator::takes, Encoder::takes),
                "vaelib: the discriminator has to take what the encoder takes");
  static constexpr std::array phases{Phase{"generator", "discriminator.", true},
                                     Phase{"discriminator", "discriminator."}};

  Discriminator discriminator{};
  PerceptualLoss perceptual{};
  [[no_unique_address]] Adversary adversary{};
  VqGanOptions options{};
  State numbers{};          ///< AdversarialNumbers
  Parameter last_weight{};  ///< of the decoder

  [[gnu::cold]] void build() {
    Base::build();
    discriminator.build(this->encoder.input_shape);
    if constexpr (requires { perceptual.check(this->encoder.input_shape); })
      perceptual.check(this->encoder.input_shape);
    numbers = {AdversarialNumbers::count, 0};
  }
  void fields(auto&& f) {
    Base::fields(f);
    f("discriminator", discriminator);
    f("adversarial_numbers", numbers);
    detail::LastWeight last;  // which has its place by now
    this->decoder.fields(static_cast<LeafVisitor&>(last));
    last_weight = last.found;
  }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const auto x = input<Base::takes>(step, batch);
    if (step.phase == 1) return discriminator_phase(step, x);
    const auto q = this->quantize(step, x);
    const auto y = this->decoder(step, q.values);
    const auto error = this->reconstruction(step, y, x);
    if (!step.training()) return Losses<decltype(q.loss)>{error, error, detail::known(step, 0)};
    return Losses<decltype(q.loss)>{map_few(step, Add{}, images_loss(step, x, y, error), q.loss), error, q.loss};
  }

  /// What the last step measured.
  template <class W>
  static AdversarialNumbers numbers_of(const W& weights) {
    const auto* n = weights.state.data() + weights.model.numbers.offset;
    return {double(n[0]), double(n[1]), double(n[2]), double(n[3]), double(n[4]), double(n[5])};
  }

 private:
  template <class S>
  bool started(const S& step) const {
    return step.now.step >= options.start && step.now.epoch >= options.start_epoch;
  }
  template <class S>
  static float weight_at(const S& step, const Schedule& schedule) {
    return schedule.at(step.now.step, step.now.epoch);
  }
  /// Writes what this phase measured beside what the other did.
  template <class S>
  void report(S& step, int first, std::initializer_list<double> measured) const {
    const auto* before = step.value(numbers);
    auto* now = step.propose(numbers);
    if (!now) return;
    if (now != before) std::copy_n(before, numbers.size(), now);
    for (const double m : measured) now[first++] = typename S::Real(m);
  }
  template <class S, class V>
  auto judge(S& step, V images, bool propose) const {
    const bool proposing = std::exchange(step.proposing, step.proposing && propose);
    const auto logits = discriminator(step, images);
    step.proposing = proposing;
    return logits;
  }

  /// What the generator is charged for its images: the terms without the quantizer's.
  template <class S, class V, class L>
  L images_loss(S& step, V x, V y, L error) const {
    using R = typename S::Real;
    const L perceived = perceptual(step, y, x);
    const double distance = double(*perceived.value());
    const L likeness = map_few(step, Add{}, map_few(step, ScaleBy{weight_at(step, options.pixel)}, error),
                               map_few(step, ScaleBy{weight_at(step, options.perceptual)}, perceived));
    const float weight = started(step) ? weight_at(step, options.adversarial) : 0;
    if (weight == 0) {
      report(step, 0, {0, distance, 0, 0, 0, 0});
      return likeness;
    }
    const L fooled = generator_loss(step, adversary, judge(step, y, false));
    double lambda = 1;
    L total = likeness;
    if (options.adaptive) {
      const auto gradient = step.scratch(last_weight.size());
      R* sum = step.arena.template allocate<R>(y.size());
      std::fill_n(sum, y.size(), R(0));
      const bool either = step.gradient_of(likeness, last_weight, gradient.data);
      const double wanted = either ? detail::norm(last_weight.size(), gradient.data) : 0;
      if (y.node->written) std::copy_n(step.gradient(y), y.size(), sum);
      const bool other = step.gradient_of(fooled, last_weight, gradient.data);
      lambda = adaptive_weight(wanted, other ? detail::norm(last_weight.size(), gradient.data) : 0);
      const R factor = R(lambda * double(weight));
      if (y.node->written && factor != 0) step.backend.spread_rows(1, y.size(), step.gradient(y), factor, {sum, true});
      total = detail::with_gradient(
          step, y, double(*likeness.value()) + (factor != 0 ? double(factor) * double(*fooled.value()) : 0.0), sum);
    } else {
      total = map_few(step, Add{}, likeness, map_few(step, ScaleBy{weight}, fooled));
    }
    report(step, 0, {lambda, distance, double(*fooled.value())});
    return total;
  }

  template <class S, class V>
  auto discriminator_phase(S& step, V x) const {
    auto loss = detail::known(step, 0);
    const auto zero = detail::known(step, 0);
    if (started(step)) {
      const bool proposing = std::exchange(step.proposing, false);  // the codes have moved in the generator's phase
      const auto y = this->decoder(step, this->quantize(step, x).values);
      step.proposing = proposing;
      const auto real = judge(step, x, true), made = judge(step, y, true);
      loss = discriminator_loss(step, adversary, real, made);
      report(step, 3,
             {double(*loss.value()), double(*mean_of(step, Identity{}, real).value()),
              double(*mean_of(step, Identity{}, made).value())});
    }
    return Losses<decltype(loss)>{loss, loss, zero};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
