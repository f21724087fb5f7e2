// collapse: says whether the posterior of a trained run of `vae` or `setvae` collapsed, and what may help. `collapse --help` lists the
// commands.
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vaelib/report/collapse_monitor.hpp>

#include "../gaussian/trained.hpp"
#include "../program.hpp"
#include "../sets/options.hpp"

namespace {

using namespace vaelib;

constexpr const char* examples = R"(
Examples:
  collapse analyze runs/conv-fashion-mnist
  collapse analyze runs/conv-fashion-mnist --pc-threshold 0.05 --output-dir analysis
  collapse compare runs/beta-1 runs/beta-4 runs/cyclical)";

struct Options {
  std::vector<std::string> runs;
  std::string output_dir;
  std::int64_t count = 2000, threads = 0;
  std::uint64_t seed = 0;
  metrics::CollapseThresholds thresholds{};
};

struct Run {
  std::string name;
  CollapseEvidence evidence;
  CollapseSummary summary;
};

/// What is known of a run: its model, its test data, its metrics.
CollapseEvidence evidence_of(const std::string& path, const Options& o) {
  const std::string model = path.ends_with(".safetensors") ? path : path + "/model.safetensors";
  if (!std::filesystem::exists(model)) fail(path, ": holds no model.safetensors; vae train and setvae train make runs that do");
  const auto told = [&, metadata = SafetensorsFile(model).metadata()](const char* key) { return metadata.contains(key); };
  if (told("vqvae.options") || told("vqvae.prior")) fail(path, ": is a run of vqvae, whose models have no posterior; `codebook check` looks at their codes");
  if (model == path) fail(path, ": is a file; the folder of the run is expected, which holds what it was trained on");
  if (told("setvae.options")) return setvae::examine_run(path, o.count, o.seed);
  if (!told("vae.step")) fail(path, ": is a run of another kind: its model is of neither vae nor setvae; in code, CollapseDiagnostics looks at any model");
  const vae::Trained run(path, o.threads);
  const auto data = run.load_images();
  auto evidence = run.model->examine(data.test, o.count, o.seed);
  evidence.class_names = data.class_names;
  evidence.free_bits = run.options.free_bits;
  evidence.clip_norm = run.options.clip_norm;
  evidence.history = run.folder.read_history();
  return evidence;
}

const char* words_of(metrics::PosteriorHealth health) {
  using enum metrics::PosteriorHealth;
  return health == collapsed ? "collapsed" : health == partly ? "partly idle" : "healthy";
}

void print(const Run& run) {
  const auto& a = run.summary.all;
  const auto& u = a.use;
  std::printf("%s: %s\n", run.name.c_str(), words_of(run.summary.health));
  const auto row = [](const char* name, double value, const std::string& words) { std::printf("  %-26s %10.4f  %s\n", name, value, words.c_str()); };
  row("collapse_ratio", u.collapse_ratio, text("of ", u.dimensions, " dimensions"));
  for (std::size_t l = 0; l < run.evidence.levels.size() && run.evidence.levels.size() > 1; ++l)
    row(text("  level ", run.evidence.levels[l].name).c_str(), run.summary.levels[l].collapse_ratio, text("of ", run.summary.levels[l].dimensions, " dimensions"));
  row("latent_utilization_ratio", u.latent_utilization_ratio, text(u.avg_active_units, " active units"));
  row("avg_kl", u.avg_kl, "nats a dimension");
  row("effective_latent_dims", u.effective_latent_dims, "");
  row("val_z_var", u.val_z_var, "(the prior has 1)");
  row("avg_mutual_info", a.parts.mutual_information.value, text("+- ", std::round(1000 * a.parts.mutual_information.error) / 1000, " nats, at most ", std::round(100 * a.parts.bound) / 100));
  row("total correlation", a.parts.total_correlation.value, "nats");
  row("use of the code", a.decoder_use, text("nats lost with another one's code, of ", std::round(100 * a.reconstruction) / 100));
  for (const auto& advice : run.summary.advice) std::printf("  %s: %s\n", advice.rule.c_str(), advice.sentence.c_str());
}

void analyze(const Options& o) {
  const std::string& path = o.runs.front();
  Run run{path, evidence_of(path, o), {}};
  const CollapseDiagnostics diagnostics{o.output_dir.empty() ? path + "/collapse" : o.output_dir, o.thresholds, o.count, o.seed};
  run.summary = diagnostics.report(run.evidence, "Posterior: " + path);
  print(run);
  std::printf("  %s/report.html\n", diagnostics.directory.c_str());
}

void compare(const Options& o) {
  if (o.runs.size() < 2) throw program::UsageError("collapse compare wants the folders of at least two runs");
  std::vector<Run> runs;
  for (const auto& path : o.runs) {
    auto evidence = evidence_of(path, o);
    auto summary = judge(evidence, o.thresholds, o.seed);
    runs.push_back({path, std::move(evidence), std::move(summary)});
  }
  const std::string folder = o.output_dir.empty() ? "collapse_comparison" : o.output_dir;
  report::Report page("Posteriors", text(runs.size(), " runs"));
  nlohmann::ordered_json json;
  std::printf("%-32s %12s %9s %9s %9s %9s %9s %12s\n", "run", "", "collapse", "utilis.", "avg_kl", "eff.dims", "MI", "test -ELBO");
  for (const auto& run : runs) {
    const auto& a = run.summary.all;
    const double elbo = a.val_loss;
    std::printf("%-32s %12s %9.3f %9.3f %9.4f %9.2f %9.3f %12.3f\n", run.name.c_str(), words_of(run.summary.health), a.use.collapse_ratio, a.use.latent_utilization_ratio, a.use.avg_kl,
                a.use.effective_latent_dims, a.parts.mutual_information.value, elbo);
    json[run.name] = {{"health", words_of(run.summary.health)}, {"collapse_ratio", a.use.collapse_ratio}, {"latent_utilization_ratio", a.use.latent_utilization_ratio}, {"avg_kl", a.use.avg_kl},
                      {"avg_active_units", a.use.avg_active_units}, {"effective_latent_dims", a.use.effective_latent_dims}, {"val_z_var", a.use.val_z_var},
                      {"avg_mutual_info", a.parts.mutual_information.value}, {"decoder_use", a.decoder_use}};
    json[run.name]["val_neg_elbo"] = std::isfinite(elbo) ? nlohmann::ordered_json(elbo) : nlohmann::ordered_json();
    page.verdict(run.summary.health == metrics::PosteriorHealth::healthy ? report::Mood::good : run.summary.health == metrics::PosteriorHealth::partly ? report::Mood::fair : report::Mood::bad,
                 text(run.name, ": ", words_of(run.summary.health), '.'),
                 text("collapse ratio ", std::round(1000 * a.use.collapse_ratio) / 1000, ", ", a.use.avg_active_units, " of ", a.use.dimensions, " units active."));
  }
  const auto bars = [&](const char* id, const char* title, const char* unit, const char* caption, auto number) {
    report::Bars chart{title, unit, "run", {}};
    for (const auto& run : runs) chart.names.push_back(std::filesystem::path(run.name).filename().string()), chart.values.push_back(number(run.summary.all));
    page.figure(id, chart, caption);
  };
  page.section("Posteriors");
  bars("collapse_ratio", "Collapse ratio", "", "Lower is better.", [](const auto& a) { return a.use.collapse_ratio; });
  bars("latent_utilization_ratio", "Utilisation", "", "Higher is better.", [](const auto& a) { return a.use.latent_utilization_ratio; });
  bars("mutual_information", "Mutual information", "nats", "What the codes tell of the samples.", [](const auto& a) { return a.parts.mutual_information.value; });
  std::vector<plot::Series> kl;
  for (const auto& run : runs) {
    auto sorted = run.summary.all.use.kl;
    std::sort(sorted.rbegin(), sorted.rend());
    kl.push_back({run.name, sorted});
  }
  page.figure("kl_by_dimension", plot::Lines{"KL divergence by dimension", "nats", "dimension, the most telling first", kl}, "Where a line lies at 0, dimensions are idle.");
  page.section("Training");
  const auto curves = [&](const char* id, const char* title, const char* unit, const char* caption, auto number) {
    std::vector<plot::Series> lines;
    for (const auto& run : runs) {
      plot::Series line{run.name, {}, {}};
      for (const auto& epoch : run.evidence.history) line.x.push_back(double(epoch.step)), line.y.push_back(number(epoch));
      if (!line.x.empty()) lines.push_back(std::move(line));
    }
    if (!lines.empty()) page.figure(id, plot::Lines{title, unit, "step", std::move(lines)}, caption);
  };
  curves("neg_elbo", "Test -ELBO", "nats", "Lower is better.", [](const EpochMetrics& m) { return m.val_recon + m.val_kl; });
  curves("kl_divergence", "Test KL divergence", "nats", "Near zero, the decoder ignores the code.", [](const EpochMetrics& m) { return m.val_kl; });
  curves("reconstruction", "Test reconstruction", "nats", "", [](const EpochMetrics& m) { return m.val_recon; });
  curves("beta", "Beta", "", "The weight of the KL divergence.", [](const EpochMetrics& m) { return m.current_beta; });
  const auto posterior = [&](const char* column, const char* title, const char* caption) {
    std::vector<plot::Series> lines;
    for (const auto& run : runs)
      if (auto line = report::posterior_curve(read_collapse_rows(run.name), column, run.name); !line.x.empty()) lines.push_back(std::move(line));
    if (!lines.empty()) page.figure(text(column, "_by_epoch"), plot::Lines{title, "share of the dimensions", "step", std::move(lines)}, caption);
  };
  posterior("collapse_ratio", "Collapse ratio", "Of some test samples after each epoch. Lower is better.");
  posterior("latent_utilization_ratio", "Utilisation", "Higher is better.");
  create_directories(folder);
  page.write(folder + "/compare.html");
  write_file_atomically(folder + "/runs.json", json.dump(2) + "\n");
  std::printf("%s/compare.html\n", folder.c_str());
}

int run(int argc, char** argv) {
  CLI::App app("collapse says whether the posterior of a trained run of vae or setvae collapsed, and what may help.", "collapse");
  app.footer(examples);
  app.set_version_flag("--version", "collapse " VAELIB_VERSION, "print the version");
  Options o;
  const auto add = [&](const char* name, const char* help, const char* folder) {
    auto* sub = app.add_subcommand(name, help);
    sub->add_option("RUN", o.runs, "the folder of a run of vae train or setvae train")->required();
    sub->add_option("--output-dir", o.output_dir, folder);
    sub->add_option("--count", o.count, "test images or sets that are looked at")->capture_default_str()->check(CLI::Range(2, 1 << 24));
    sub->add_option("--pc-threshold", o.thresholds.kl, "nats: a dimension with less has collapsed")->capture_default_str();
    sub->add_option("--active-threshold", o.thresholds.variance, "a dimension whose means vary more is active")->capture_default_str();
    sub->add_option("--low-kl", o.thresholds.low_kl, "nats a dimension: less is too little")->capture_default_str();
    sub->add_option("--high-kl", o.thresholds.high_kl, "nats a dimension: more is too much")->capture_default_str();
    sub->add_option("--seed", o.seed, "of the codes that are drawn")->capture_default_str();
    sub->add_option("--threads", o.threads, "0: as many as this process may use")->check(CLI::Range(0, 1024));
  };
  add("analyze", "collapse ratio, active units, mutual information and what may help; a report", "folder to write into [RUN/collapse]");
  add("compare", "the same of several runs: a table and their curves", "folder to write into [collapse_comparison]");
  if (!program::parse(app, argc, argv)) return 0;
  const bool several = app.get_subcommands().front()->get_name() == "compare";
  if (!several && o.runs.size() > 1) throw program::UsageError("collapse analyze takes one run; collapse compare takes several");
  several ? compare(o) : analyze(o);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run_program("collapse", [&] { return run(argc, argv); });
}
