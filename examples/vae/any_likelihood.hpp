// A likelihood that is chosen at run time: one type for the compiler, which would else build every model once for each.
#pragma once

#include <string_view>
#include <vaelib/likelihoods/bernoulli.hpp>
#include <vaelib/likelihoods/gaussian.hpp>

namespace vae {

struct AnyLikelihood {
  enum class Kind { bernoulli, gaussian, learned_gaussian, optimal_gaussian } kind = Kind::bernoulli;
  float smallest = vaelib::Bernoulli::smallest, largest = vaelib::Bernoulli::largest;  ///< support of the targets
  vaelib::LearnedGaussian learned{};

  AnyLikelihood() = default;
  explicit AnyLikelihood(std::string_view name) {
    if (name == vaelib::Bernoulli::name) return;
    smallest = vaelib::GaussianLikelihood::smallest;
    largest = vaelib::GaussianLikelihood::largest;
    kind = name == vaelib::LearnedGaussian::name   ? Kind::learned_gaussian
           : name == vaelib::OptimalGaussian::name ? Kind::optimal_gaussian
                                                   : Kind::gaussian;
  }

  void build() { learned.build(); }
  void fields(auto&& f) {
    if (kind == Kind::learned_gaussian) learned.fields(f);
  }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    switch (kind) {
      case Kind::gaussian:
        return vaelib::FixedGaussian{}.nll(step, output, target);
      case Kind::learned_gaussian:
        return learned.nll(step, output, target);
      case Kind::optimal_gaussian:
        return vaelib::OptimalGaussian{}.nll(step, output, target);
      case Kind::bernoulli:
        break;
    }
    return vaelib::Bernoulli{}.nll(step, output, target);
  }
  template <class S, class V>
  V mean(S& step, V output) const {
    return kind == Kind::bernoulli ? vaelib::Bernoulli{}.mean(step, output) : output;
  }
};

}  // namespace vae
