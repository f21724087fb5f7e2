// The report on a posterior: a page, its numbers as JSON, and two pictures.
//
//   CollapseDiagnostics{"diagnostics"}.report(trainer, test);       diagnostics/report.html, report.json, kl.png, map.png
//
// Any model that has `encode`, `decode`, a Gaussian `latent` and a `likelihood`, as Vae and ConditionalVae, is looked at by
// examine(); what other models say of their latents, level by level, can be filled into a CollapseEvidence by hand.
#pragma once

#include <vaelib/io/png.hpp>
#include <vaelib/metrics/collapse_advice.hpp>
#include <vaelib/report/report.hpp>
#include <vaelib/train/history.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/source.hpp>

namespace vaelib::inline VAELIB_ABI {

/// The latent of a model, or one level of its latents, for some samples: rows of `size` numbers.
struct LatentLevel {
  std::string name;
  std::size_t size = 0;
  std::vector<float> means{}, log_variances{};  ///< of q(z|x)
  std::vector<float> kl{};                      ///< where the prior is not N(0, 1)
};

/// What a model did with some samples.
struct CollapseEvidence {
  std::vector<LatentLevel> levels{};                     ///< the nearest to the data first
  std::vector<std::int32_t> labels{};                    ///< one a sample, or none
  std::vector<std::string> class_names{};
  double reconstruction = metrics::CollapseState::unknown;  ///< -log p(x|z), nats a sample
  double other_code = metrics::CollapseState::unknown;      ///< the same with the code of another sample
  History history{};                                     ///< of the training, where it is known
  double free_bits = metrics::CollapseState::unknown, clip_norm = metrics::CollapseState::unknown;  ///< 0: none
};

/// What was found, by level and of all levels side by side.
struct CollapseSummary {
  std::vector<metrics::PosteriorUse> levels;
  metrics::CollapseState all;
  std::vector<metrics::CollapseAdvice> advice;
  metrics::PosteriorHealth health = metrics::PosteriorHealth::partly;
};

/// Looks at up to `count` samples of a data set. A code is judged by a sample of q(z|x), as training does.
template <class Model, class B>
CollapseEvidence examine(const Weights<Model, B>& weights, const SourceView& data, std::int64_t count = 2000, std::uint64_t seed = 0) {
  const Shape shape = data.shape();
  count = std::min(count, data.size());
  if (count < 2) fail("vaelib: a posterior is judged by at least 2 samples, found ", count);
  if (shape != weights.model.input_shape()) fail("vaelib: the model takes shape ", text_of(weights.model.input_shape()), ", the data have ", text_of(shape));
  CollapseEvidence evidence;
  LatentLevel level;
  level.name = "z";
  level.size = std::size_t(int(weights.model.latent.size));
  Session<Model, B> session(weights);
  double own = 0, other = 0;
  const auto append = [](std::vector<float>& to, const auto* from, long n) { to.insert(to.end(), from, from + n); };
  for (std::int64_t first = 0; first < count;) {
    std::int64_t rows = std::min<std::int64_t>(256, count - first);
    if (count - first - rows == 1) --rows;  // so that each sample has another beside it
    std::vector<std::uint32_t> numbers(static_cast<std::size_t>(rows));
    std::iota(numbers.begin(), numbers.end(), std::uint32_t(first));
    std::vector<float> x(static_cast<std::size_t>(rows * shape.size()));
    std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
    data.fill(0, numbers, x.data(), labels.data());
    session.run(long(rows), shape, x.data(), labels.data(), seed + std::uint64_t(first), [&](auto& step, const auto& m, const auto& batch) {
      const auto target = input<Model::takes>(step, batch);
      const auto q = m.encode(step, target, batch);
      const auto logvar = m.latent.logvar(step, q);
      append(level.means, q.mu.value(), q.mu.size());
      append(level.log_variances, logvar.value(), logvar.size());
      const auto z = m.latent.sample(step, q);
      const auto shifted = step.template variable<std::decay_t<decltype(z)>::static_shape>(z.space(), z.shape, false);
      for (long r = 0; r < rows; ++r) std::copy_n(z.value() + (r + 1) % rows * z.features(), z.features(), shifted.value() + r * z.features());
      const auto sum = [&](auto code) {
        const auto nll = m.likelihood.nll(step, m.decode(step, code, batch), target);
        double total = 0;
        for (long k = 0; k < nll.size(); ++k) total += double(nll.value()[k]);
        return total / double(nll.size()) * double(rows);
      };
      own += sum(z);
      other += sum(shifted);
      return q.mu;
    });
    if (data.classes() > 1) evidence.labels.insert(evidence.labels.end(), labels.begin(), labels.end());
    first += rows;
  }
  evidence.levels.push_back(std::move(level));
  evidence.reconstruction = own / double(count);
  evidence.other_code = other / double(count);
  return evidence;
}

/// The figures of the evidence, and what may help.
[[gnu::cold]] inline CollapseSummary judge(const CollapseEvidence& e, const metrics::CollapseThresholds& thresholds = {}, std::uint64_t seed = 0) {
  if (e.levels.empty()) fail("vaelib: a model without latents cannot collapse; there is nothing to report");
  CollapseSummary s;
  LatentLevel all;  // of all levels, side by side
  const std::size_t rows = metrics::detail::rows_of(e.levels[0].means, e.levels[0].size);
  bool standard = true;
  for (const auto& level : e.levels) {
    s.levels.push_back(metrics::posterior_use(level.means, level.log_variances, level.size, thresholds, level.kl));
    metrics::detail::check_equal(level.means.size(), rows * level.size);
    all.size += level.size;
    standard = standard && level.kl.empty();
  }
  for (std::size_t r = 0; r < rows; ++r)
    for (const auto& level : e.levels) {
      const auto append = [&](std::vector<float>& to, const std::vector<float>& from) { to.insert(to.end(), from.begin() + long(r * level.size), from.begin() + long((r + 1) * level.size)); };
      append(all.means, level.means);
      append(all.log_variances, level.log_variances);
      for (std::size_t d = 0; d < level.size && !standard; ++d) {
        const double mean = level.means[r * level.size + d], v = level.log_variances[r * level.size + d];
        all.kl.push_back(level.kl.empty() ? float(0.5 * (mean * mean + std::expm1(v) - v)) : level.kl[r * level.size + d]);
      }
    }
  auto& a = s.all;
  a.use = metrics::posterior_use(all.means, all.log_variances, all.size, thresholds, all.kl);
  if (standard) a.parts = metrics::kl_decomposition(all.means, all.log_variances, all.size, seed);
  a.reconstruction = e.reconstruction;
  a.decoder_use = e.other_code - e.reconstruction;
  a.free_bits = e.free_bits;
  a.clip_norm = e.clip_norm;
  if (!e.history.empty()) {
    const auto& last = e.history.back();
    const auto elbo = [](const EpochMetrics& m) { return m.train_recon + m.train_kl; };
    a.beta = last.current_beta;
    a.learning_rate = last.learning_rate;
    a.train_loss = elbo(last);
    a.val_loss = last.val_recon + last.val_kl;
    a.skipped = 0;
    double rises = 0;
    std::size_t best = 0;
    for (std::size_t i = 0; i < e.history.size(); ++i) {
      a.skipped += double(e.history[i].skipped);
      if (i > 0) rises += elbo(e.history[i]) > elbo(e.history[i - 1]) + 0.01 * std::abs(elbo(e.history[i - 1]));
      if (e.history[i].val_recon + e.history[i].val_kl < e.history[best].val_recon + e.history[best].val_kl) best = i;
    }
    a.unsteady = rises / double(std::max<std::size_t>(1, e.history.size() - 1));
    a.still_learning = e.history.size() > 1 && best + 1 == e.history.size();
  }
  s.advice = metrics::collapse_advice(a, thresholds);
  s.health = metrics::health_of(a.use, thresholds);
  return s;
}

namespace report {

/// Dimensions against their KL divergence: how many lie in each of twenty parts.
[[gnu::cold]] inline Bars kl_histogram(const metrics::PosteriorUse& u) {
  const double most = std::max(1e-9, *std::max_element(u.kl.begin(), u.kl.end()));
  Bars bars{"KL divergence of dimensions", "dimensions", "nats", std::vector<double>(20)};
  for (const double kl : u.kl) bars.values[std::min<std::size_t>(19, std::size_t(kl / most * 20))] += 1;
  for (int b = 0; b < 20; ++b) bars.names.push_back(shown_number(std::round(1000 * most * (b + 0.5) / 20) / 1000));
  return bars;
}

/// Where samples lie: the two directions in which the means vary most.
[[gnu::cold]] inline plot::Scatter latent_map(const LatentLevel& level, const CollapseEvidence& e) {
  auto plane = metrics::principal_plane(level.means, level.size);
  const auto label = [](const char* which, double share) { return text(which, " principal component (", std::round(1000 * share) / 10, " %)"); };
  plot::Scatter map{"Where samples lie", label("first", plane.x_share), label("second", plane.y_share), std::move(plane.x), std::move(plane.y)};
  if (e.class_names.size() > 1 && e.labels.size() == map.x.size()) map.classes = e.labels, map.class_names = e.class_names;
  return map;
}

[[gnu::cold]] inline void add_effective_dimensions(Report& page, const metrics::PosteriorUse& u, const std::string& prefix = "") {
  auto eigenvalues = u.eigenvalues;
  if (eigenvalues.size() > 128) eigenvalues.resize(128);
  page.figure(prefix + "effective_dimensions", Bars{"Effective dimensions", "variance", "principal component of the means", eigenvalues},
              text("As many directions of equal variance would do: ", shown_number(u.effective_latent_dims), " of ", u.dimensions, '.'));
}

[[gnu::cold]] inline void add_level(Report& page, const LatentLevel& level, const metrics::PosteriorUse& u, const CollapseEvidence& e, const metrics::CollapseThresholds& t,
                                    const std::string& prefix) {
  constexpr std::size_t most_bars = 128, most_cells = 24;
  const auto order = metrics::descending(u.kl);
  std::vector<std::string> names;
  std::vector<double> kl, low, high, variances;
  std::vector<std::int32_t> idle, collapsed;
  for (const std::size_t d : order) {
    if (names.size() == most_bars) break;
    names.push_back(std::to_string(d));
    kl.push_back(u.kl[d]);
    low.push_back(u.kl_quantiles[d][0]);
    high.push_back(u.kl_quantiles[d][2]);
    variances.push_back(u.mean_variances[d]);
    collapsed.push_back(u.kl[d] < t.kl ? 9 : 0);
    idle.push_back(u.mean_variances[d] > t.variance ? 0 : 9);
  }
  page.figure(prefix + "kl_by_dimension", Bars{"KL divergence by dimension", "nats", "dimension", kl, names, collapsed, {}, t.kl, "pc_threshold"},
              text("The most telling first. Grey ones lie below ", t.kl, " nats and count as collapsed."), Width::third, {{"by_dimension", u.kl}});
  page.figure(prefix + "kl_histogram", kl_histogram(u), "A tall bar at the left is a code of which little is used.");
  page.figure(prefix + "kl_quantiles", plot::Lines{"KL divergence by sample", "nats", "dimension, the most telling first", {{"10 %", low}, {"mean", kl}, {"90 %", high}}},
              "Where the lines lie apart, a dimension tells much of some samples and nothing of others.");
  page.figure(prefix + "active_units", Bars{"Variance of the means", "", "dimension", variances, names, idle, {}, t.variance},
              text("A dimension is active where the mean of q(z|x) moves: above ", t.variance, ". ", u.avg_active_units, " of ", u.dimensions, " are."), Width::third,
              {{"by_dimension", u.mean_variances}});
  add_effective_dimensions(page, u, prefix);
  const std::size_t cells = std::min(most_cells, level.size);
  names.resize(std::min(names.size(), cells));
  page.figure(prefix + "correlation", HeatMap{"Correlation of the means", "", "dimension", "", metrics::correlations(level.means, level.size, {order.data(), cells}), names, names},
              "Pale off the diagonal: each dimension tells something of its own.");
  if (level.size > 1) page.figure(prefix + "latent_map", latent_map(level, e), "Samples at the means of their codes. Groups were told apart by the code.", Width::half);
}

/// All of it: numbers, verdicts, figures by level.
[[gnu::cold]] inline void add_collapse(Report& page, const CollapseEvidence& e, const CollapseSummary& s, const metrics::CollapseThresholds& t = {}) {
  const auto& u = s.all.use;
  page.number("collapse_ratio", "collapse ratio", u.collapse_ratio, text("of ", u.dimensions, " dimensions"));
  page.number("latent_utilization_ratio", "utilisation", u.latent_utilization_ratio, "active units / dimensions");
  page.number("avg_active_units", "active units", u.avg_active_units, text("of ", u.dimensions));
  page.number("avg_kl", "KL divergence", u.avg_kl, "nats a dimension");
  page.number("effective_latent_dims", "effective dimensions", u.effective_latent_dims, text("of ", u.dimensions));
  if (s.all.parts.samples > 0) page.number("avg_mutual_info", "mutual information", s.all.parts.mutual_information.value, text("nats, at most ", shown_number(s.all.parts.bound)));
  if (s.all.decoder_use == s.all.decoder_use) page.number("decoder_use", "use of the code", s.all.decoder_use, "nats lost with another's code");
  const auto percent = [](double x) { return text(std::round(1000 * x) / 10, " %"); };
  const std::string found = text(percent(u.collapse_ratio), " of the dimensions have less than ", t.kl, " nats, ", percent(u.latent_utilization_ratio), " are active.");
  using Health = metrics::PosteriorHealth;
  if (s.health == Health::collapsed)
    page.verdict(Mood::bad, "The posterior has collapsed.", found);
  else if (s.health == Health::partly)
    page.verdict(Mood::fair, "A part of the code is idle.", found);
  else
    page.verdict(Mood::good, "The code is used.", found);
  for (const auto& advice : s.advice) page.verdict(Mood::fair, text(advice.rule, '.'), advice.sentence);

  for (std::size_t l = 0; l < e.levels.size(); ++l) {
    const bool one = e.levels.size() == 1;
    page.section(one ? std::string("The code") : text("Level ", e.levels[l].name), text("What its ", e.levels[l].size, " numbers tell, measured on ", u.samples, " samples."));
    add_level(page, e.levels[l], s.levels[l], e, t, one ? std::string() : text("level_", l, '_'));
  }
  if (e.levels.size() > 1) {
    page.section("Levels");
    Bars ratio{"Collapse ratio by level", "share of the dimensions", "level", {}};
    Bars kl{"KL divergence by level", "nats a sample", "level", {}};
    for (std::size_t l = 0; l < e.levels.size(); ++l) {
      ratio.values.push_back(s.levels[l].collapse_ratio), ratio.names.push_back(e.levels[l].name);
      kl.values.push_back(s.levels[l].avg_kl * double(s.levels[l].dimensions)), kl.names.push_back(e.levels[l].name);
    }
    page.figure("collapse_by_level", ratio, "A level whose bar is tall says nothing.");
    page.figure("kl_by_level", kl, "How much each level tells of a sample.");
  }
  page.section("Figures");
  std::vector<Fact> facts{{"samples", double(u.samples)},
                          {"dimensions", double(u.dimensions)},
                          {"collapse_ratio", u.collapse_ratio},
                          {"latent_utilization_ratio", u.latent_utilization_ratio},
                          {"avg_active_units", u.avg_active_units},
                          {"units with KL above pc_threshold", double(u.active_by_kl)},
                          {"avg_kl", u.avg_kl, "nats a dimension"},
                          {"val_z_var", u.val_z_var, "(the prior has 1)"},
                          {"effective_latent_dims", u.effective_latent_dims}};
  if (const auto& p = s.all.parts; p.samples > 0) {
    const auto add = [&](const char* name, const metrics::Estimate& estimate) { facts.push_back({name, estimate.value, text("+- ", shown_number(estimate.error), " nats")}); };
    facts.push_back({"KL divergence", p.closed_form, "nats"});
    add("KL divergence by Monte Carlo", p.kl);
    add("avg_mutual_info", p.mutual_information);
    add("total correlation", p.total_correlation);
    add("dimension-wise KL divergence", p.dimension_wise);
    facts.push_back({"bound of the mutual information", p.bound, text("nats: log of ", p.samples, " samples")});
  }
  if (s.all.reconstruction == s.all.reconstruction) {
    facts.push_back({"reconstruction", s.all.reconstruction, "nats a sample"});
    facts.push_back({"the same with another sample's code", s.all.reconstruction + s.all.decoder_use, "nats"});
  }
  page.table("figures", "Figures", facts, Width::half);
}

}  // namespace report

struct CollapseDiagnostics {
  std::string directory = "diagnostics";
  metrics::CollapseThresholds thresholds{};
  std::int64_t samples = 2000;
  std::uint64_t seed = 0;

  /// Writes report.html, report.json, kl.png and map.png into the directory; returns what they show.
  CollapseSummary report(const CollapseEvidence& evidence, const std::string& title = "Posterior") const {
    const auto summary = judge(evidence, thresholds, seed);
    report::Report page(title, text(summary.all.use.samples, " samples, ", summary.all.use.dimensions, " dimensions"));
    report::add_collapse(page, evidence, summary, thresholds);
    create_directories(directory);
    page.write(directory + "/report.html");
    const auto& u = summary.all.use;
    std::vector<double> sorted = u.kl;
    std::sort(sorted.rbegin(), sorted.rend());
    write_png(directory + "/kl.png", plot::draw(plot::Lines{"KL divergence by dimension", "nats", "dimension, the most telling first", {{"mean", sorted}}}));
    if (evidence.levels[0].size > 1) write_png(directory + "/map.png", plot::draw(report::latent_map(evidence.levels[0], evidence)));
    return summary;
  }
  template <class Model, class B>
  CollapseSummary report(const Weights<Model, B>& weights, const SourceView& data, History history = {}) const {
    auto evidence = examine(weights, data, samples, seed);
    evidence.history = std::move(history);
    return report(evidence);
  }
  /// Of a Trainer.
  template <class T>
  requires requires(const T& t) { t.weights(); }
  CollapseSummary report(const T& trainer, const SourceView& data, History history = {}) const { return report(trainer.weights(), data, std::move(history)); }
};

}  // namespace vaelib::inline VAELIB_ABI
