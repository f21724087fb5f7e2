// Losses of a generator and a discriminator of real images x and made ones y, and how much the generator's counts.
//
//              discriminator                                          generator
//   Hinge      mean max(0, 1 - D(x)) / 2 + mean max(0, 1 + D(y)) / 2    -mean D(y)              Lim & Ye 2017
//   Vanilla    mean softplus(-D(x)) / 2 + mean softplus(D(y)) / 2       mean softplus(-D(y))    Goodfellow et al. 2014
//
// D gives logits; means are over all logits (patches) of a batch. Vanilla is the form that does not saturate.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/core/math.hpp>

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

struct Hinge {
  struct Real {
    VAELIB_HD constexpr auto operator()(auto logit) const { return max(1.0f - logit, 0.0f); }
  };
  struct Made {
    VAELIB_HD constexpr auto operator()(auto logit) const { return max(1.0f + logit, 0.0f); }
  };
  struct Generator {
    VAELIB_HD constexpr auto operator()(auto logit) const { return -logit; }
  };
  Real real{};
  Made made{};
  Generator generator{};
};

struct Vanilla {
  struct Real {
    VAELIB_HD constexpr auto operator()(auto logit) const { return softplus(-logit); }
  };
  struct Made {
    VAELIB_HD constexpr auto operator()(auto logit) const { return softplus(logit); }
  };
  Real real{}, generator{};
  Made made{};
};

/// mean f(x) over all numbers of a batch.
template <class S, class V, class F>
auto mean_of(S& step, F f, V x) {
  return map_few(step, ScaleBy{1.0f / float(x.features())}, mean_rows(step, map_reduce(step, f, x)));
}

/// An own adversary is a struct of three such functors.
template <class Adversary, class S, class V>
auto discriminator_loss(S& step, const Adversary& adversary, V real, V made) {
  const auto of_real = mean_of(step, adversary.real, real), of_made = mean_of(step, adversary.made, made);
  return map_few(step, ScaleBy{0.5f}, map_few(step, Add{}, of_real, of_made));
}
template <class Adversary, class S, class V>
auto generator_loss(S& step, const Adversary& adversary, V made) {
  return mean_of(step, adversary.generator, made);
}

/// lambda = |gradient of the reconstruction loss| / (|gradient of the generator's loss| + 1e-6), both at the weight of
/// the last layer, within 0 to 1e4; Esser et al. 2021, equation 7. 0 where it is no number: then the step does without
/// the generator's loss.
inline double adaptive_weight(double reconstruction_norm, double generator_norm) {
  const double ratio = reconstruction_norm / (generator_norm + 1e-6);
  return std::isfinite(ratio) ? std::min(ratio, 1e4) : 0.0;
}

namespace detail {

/// The last weight below an object: the last parameter of more than one axis.
struct LastWeight final : LeafVisitor {
  void visit(Parameter& leaf) override {
    if (leaf.rank > 1) found = leaf;
  }
  void visit(State&) override {}
  Parameter found{};
};

template <class Real>
double norm(long count, const Real* x) {
  double squares = 0;
  for (long i = 0; i < count; ++i) squares += double(x[i]) * double(x[i]);
  return std::sqrt(squares);
}

/// A number whose gradient with regard to a variable is known already.
template <class S, class R, Shape A>
Var<R, Shape{1}> with_gradient(S& step, Var<R, A> x, double number, const R* gradient) {
  auto y = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(x));
  *y.value() = R(number);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.spread_rows(1, x.size(), gradient, *s.gradient(y), t);
    });
  return y;
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
