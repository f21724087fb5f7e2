// Each rule about collapse: a state that it holds for, and that it names what to change.
#include <doctest/doctest.h>

#include <vaelib/metrics/collapse_advice.hpp>

using namespace vaelib;
using metrics::CollapseState;

namespace {

CollapseState healthy() {
  CollapseState s;
  s.use.samples = 1000;
  s.use.dimensions = 10;
  s.use.avg_kl = 1;
  s.use.avg_active_units = 9;
  s.use.latent_utilization_ratio = 0.9;
  s.use.collapse_ratio = 0.1;
  s.use.val_z_var = 1;
  s.use.spreads.assign(10, 0.5);
  s.reconstruction = 100;
  s.decoder_use = 50;
  s.beta = 1;
  s.free_bits = 0;
  return s;
}
CollapseState collapsed() {
  CollapseState s = healthy();
  s.use.avg_kl = 0.001;
  s.use.avg_active_units = 0;
  s.use.latent_utilization_ratio = 0;
  s.use.collapse_ratio = 1;
  s.use.spreads.assign(10, 1.0);
  s.decoder_use = 0.01;
  return s;
}
/// The sentence of a rule; empty where it does not hold.
std::string said(const CollapseState& s, const std::string& rule) {
  for (const auto& advice : metrics::collapse_advice(s))
    if (advice.rule == rule) return advice.sentence;
  return {};
}
bool has(const std::string& text, const char* words) { return text.find(words) != std::string::npos; }

}  // namespace

TEST_CASE("advice: none for a model that uses its code") {
  CHECK(metrics::collapse_advice(healthy()).empty());
  CHECK(metrics::health_of(healthy().use) == metrics::PosteriorHealth::healthy);
  CHECK(metrics::health_of(collapsed().use) == metrics::PosteriorHealth::collapsed);
  auto half = healthy();
  half.use.collapse_ratio = half.use.latent_utilization_ratio = 0.5;
  CHECK(metrics::health_of(half.use) == metrics::PosteriorHealth::partly);
}

TEST_CASE("advice: collapse names beta, its warm-up, free bits and the decoder") {
  const auto s = collapsed();
  CHECK(has(said(s, "low_kl"), "begin with a beta below 1 and warm it up longer or in cycles (--beta-strategy cyclical)"));
  CHECK(has(said(s, "low_kl"), "grant free bits (--free-bits"));
  CHECK(has(said(s, "decoder_ignores_z"), "Weaken it (dropout on its inputs"));
  CHECK(has(said(s, "reconstruction"), "check the likelihood and its scale"));
  CHECK(said(s, "idle_dimensions").empty());  // said already
  auto granted = s;
  granted.free_bits = 0.2;
  granted.beta = 0.05;
  CHECK(has(said(granted, "low_kl"), "raise --free-bits above 0.2"));
  CHECK_FALSE(has(said(granted, "low_kl"), "smaller beta"));
  granted.decoder_use = 30;
  CHECK(said(granted, "decoder_ignores_z").empty());
}

TEST_CASE("advice: the other rules, one by one") {
  const auto holds = [](const char* rule, const char* words, auto change) {
    auto s = healthy();
    change(s);
    INFO(rule);
    CHECK(has(said(s, rule), words));
    CHECK(said(healthy(), rule).empty());
  };
  holds("idle_dimensions", "2 of 10 dimensions are active", [](CollapseState& s) { s.use.avg_active_units = 2, s.use.latent_utilization_ratio = 0.2; });
  holds("entangled", "--tc-decomposition", [](CollapseState& s) { s.parts.samples = 1000, s.parts.closed_form = 9, s.parts.total_correlation = {4, 0.1}, s.parts.bound = 7; });
  holds("high_kl", "a larger beta", [](CollapseState& s) { s.use.avg_kl = 8; });
  holds("narrow", "A larger beta", [](CollapseState& s) { s.use.spreads.assign(10, 0.02); });
  holds("far_from_prior", "Train longer", [](CollapseState& s) { s.use.val_z_var = 3; });
  holds("unsteady", "spectral normalisation, a smaller learning rate (now 0.01), a limit of the gradient (--clip-norm 1)", [](CollapseState& s) { s.unsteady = 0.5, s.learning_rate = 0.01; });
  holds("unsteady", "3 steps were left out", [](CollapseState& s) { s.skipped = 3; });
  holds("overfitting", "dropout, weight decay", [](CollapseState& s) { s.train_loss = 100, s.val_loss = 120; });
  holds("train_longer", "more epochs", [](CollapseState& s) { s.still_learning = true; });
  holds("few_samples", "it may be more", [](CollapseState& s) { s.parts.samples = 1000, s.parts.bound = 6.9, s.parts.mutual_information = {6.8, 0.1}; });
}

TEST_CASE("advice: thresholds can be set") {
  auto s = healthy();
  s.use.avg_kl = 0.3;
  CHECK(said(s, "low_kl").empty());
  metrics::CollapseThresholds strict;
  strict.low_kl = 0.5;
  CHECK(metrics::collapse_advice(s, strict).front().rule == "low_kl");
}
