// A likelihood that is chosen at run time: one type for the compiler, which would else build every model once for each.
#pragma once

#include <string_view>
#include <utility>
#include <vaelib/likelihoods/bernoulli.hpp>
#include <vaelib/likelihoods/continuous_bernoulli.hpp>
#include <vaelib/likelihoods/gaussian.hpp>
#include <vaelib/likelihoods/laplace.hpp>

namespace vae {

struct AnyLikelihood {
  enum class Kind { bernoulli, continuous_bernoulli, gaussian, learned_gaussian, optimal_gaussian, laplace, learned_laplace } kind = Kind::bernoulli;
  float smallest = vaelib::Bernoulli::smallest, largest = vaelib::Bernoulli::largest;  ///< support of the targets
  vaelib::LearnedGaussian gaussian{};
  vaelib::LearnedLaplace laplace{};

  AnyLikelihood() = default;
  explicit AnyLikelihood(std::string_view name) {
    const std::pair<std::string_view, Kind> kinds[] = {
        {vaelib::ContinuousBernoulli::name, Kind::continuous_bernoulli}, {"gaussian", Kind::gaussian},
        {vaelib::LearnedGaussian::name, Kind::learned_gaussian},         {vaelib::OptimalGaussian::name, Kind::optimal_gaussian},
        {vaelib::Laplace::name, Kind::laplace},                          {vaelib::LearnedLaplace::name, Kind::learned_laplace}};
    for (const auto& [known, its_kind] : kinds)
      if (name == known) kind = its_kind;
    if (kind == Kind::bernoulli || kind == Kind::continuous_bernoulli) return;
    smallest = vaelib::GaussianLikelihood::smallest;
    largest = vaelib::GaussianLikelihood::largest;
  }

  void build() {
    gaussian.build();
    laplace.build();
  }
  void fields(auto&& f) {
    if (kind == Kind::learned_gaussian) gaussian.fields(f);
    if (kind == Kind::learned_laplace) laplace.fields(f);
  }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    switch (kind) {
      case Kind::gaussian:
        return vaelib::FixedGaussian{}.nll(step, output, target);
      case Kind::learned_gaussian:
        return gaussian.nll(step, output, target);
      case Kind::optimal_gaussian:
        return vaelib::OptimalGaussian{}.nll(step, output, target);
      case Kind::laplace:
        return vaelib::Laplace{}.nll(step, output, target);
      case Kind::learned_laplace:
        return laplace.nll(step, output, target);
      case Kind::continuous_bernoulli:
        return vaelib::ContinuousBernoulli{}.nll(step, output, target);
      case Kind::bernoulli:
        break;
    }
    return vaelib::Bernoulli{}.nll(step, output, target);
  }
  template <class S, class V>
  V mean(S& step, V output) const {
    if (kind == Kind::continuous_bernoulli) return vaelib::ContinuousBernoulli{}.mean(step, output);
    return kind == Kind::bernoulli ? vaelib::Bernoulli{}.mean(step, output) : output;
  }
};

}  // namespace vae
