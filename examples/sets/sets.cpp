#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/data/set_sizes.hpp>
#include <vaelib/io/checkpoint.hpp>
#include <vaelib/io/npz.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/io/point_files.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/models/set_vae.hpp>
#include <vaelib/report/collapse_monitor.hpp>
#include <vaelib/report/pictures.hpp>
#include <vaelib/report/point_pictures.hpp>
#include <vaelib/report/set_collapse.hpp>
#include <vaelib/report/training.hpp>
#include <vaelib/train/signals.hpp>
#include <vaelib/train/tensorboard_log.hpp>
#include <vaelib/train/trainer.hpp>

#include "../history.hpp"
#include "data.hpp"
#include "quality.hpp"

namespace setvae {

using namespace vaelib;
using program::one_of;
using program::refuse_unless;
using Json = nlohmann::ordered_json;

namespace {

void check(const Options& o) {
  const auto between = [](const char* flag, std::int64_t value, std::int64_t least, std::int64_t most) { refuse_unless(value >= least && value <= most, flag, value, text(least, " to ", most)); };
  one_of("normalise", o.normalise, {"no", "each", "all"});
  one_of("preset", o.preset, {"measured", "reference"});
  one_of("initial", o.initial, {"gaussian", "mixture", "fixed"});
  one_of("norm", o.norm, {"post", "pre", "none"});
  one_of("monitor", o.monitor, {"neg_elbo", "collapse_ratio", "avg_kl", "avg_active_units", "avg_mutual_info", "val_z_var", "effective_latent_dims", "latent_utilization_ratio"});
  one_of("beta-strategy", o.beta_strategy, {"constant", "linear", "sigmoid", "cyclical"});
  one_of("free-bits-per", o.free_bits_per, {"number", "level", "total"});
  between("sets", o.sets, 0, 4'000'000'000);
  between("least", o.least, 1, 1 << 20);
  between("most", o.most, o.least, 1 << 20);
  between("width", o.width, 1, 4096);
  between("heads", o.heads, 1, 256);
  if (o.width % o.heads != 0) throw UsageError(text("--heads ", o.heads, ": has to divide --width ", o.width));
  between("latent", o.latent, 1, 4096);
  between("levels", o.levels, 1, 16);
  between("inducing", o.inducing, 1, 1024);
  between("components", o.components, 1, 1024);
  between("epochs", o.epochs, 1, 1'000'000);
  between("batch-size", o.batch_size, 1, 100'000);
  between("cycle-length", o.cycle_length, 1, 1'000'000'000'000);
  between("beta-warmup-steps", o.beta_warmup_steps, 0, 1'000'000'000'000);
  between("threads", o.threads, 0, 1024);
  refuse_unless(o.test_share > 0 && o.test_share <= 0.9, "test-share", o.test_share, "more than 0, to 0.9");
  refuse_unless(o.sigma > 0, "sigma", o.sigma, "more than 0");
  refuse_unless(o.lr > 0, "lr", o.lr, "more than 0");
  refuse_unless(o.free_bits >= 0, "free-bits", o.free_bits, "0 or more");
  refuse_unless(o.deeper > 0, "deeper", o.deeper, "more than 0");
  refuse_unless(o.pc_threshold >= 0, "pc-threshold", o.pc_threshold, "0 or more");
  refuse_unless(o.mi_weight >= 0, "mi-weight", o.mi_weight, "0 or more");
  refuse_unless(o.tc_weight >= 0, "tc-weight", o.tc_weight, "0 or more");
  refuse_unless(o.dimension_weight >= 0, "dimension-weight", o.dimension_weight, "0 or more");
  refuse_unless(o.min_beta >= 0 && (o.beta_strategy == "constant" || o.min_beta <= o.max_beta), "min-beta", o.min_beta, "0 to --max-beta");
}

// ------------------------------------------------------------------------------------------------------------- model
/// `sets`: of training; 0: the model will not be trained.
SetVae model_of(const Options& o, int points, std::int64_t sets = 0) {
  SetVaeOptions s;
  s.points = points;
  s.width = int(o.width);
  s.heads = int(o.heads);
  s.latent = int(o.latent);
  s.spectral_norm = o.spectral_norm;
  if (o.balance_levels) s.balance_below = float(o.max_beta);
  s.decompose = o.tc_decomposition && sets > 0;
  s.dataset_size = sets;
  s.mutual_information = float(o.mi_weight);
  s.total_correlation = float(o.tc_weight);
  s.dimension_wise = float(o.dimension_weight);
  s.inducing.assign(std::size_t(o.levels), int(o.inducing));
  s.norm = o.norm == "pre" ? Norm::pre : o.norm == "none" ? Norm::none : Norm::post;
  s.initial = o.initial == "mixture" ? InitialSet::mixture : o.initial == "fixed" ? InitialSet::fixed : InitialSet::gaussian;
  s.components = int(o.components);
  s.weight = float(1 / (2 * o.sigma * o.sigma));
  s.free_bits = float(o.free_bits);
  s.per = o.free_bits_per == "level" ? LevelFreeBits::level : o.free_bits_per == "total" ? LevelFreeBits::total : LevelFreeBits::number;
  for (std::int64_t l = 0; l < o.levels; ++l) s.level_weights.push_back(float(std::pow(o.deeper, double(l))));
  return SetVae(s);
}

Schedule beta_of(const Options& o) {
  const float low = float(o.min_beta), high = float(o.max_beta);
  const std::int64_t rise = o.beta_warmup_steps > 0 ? o.beta_warmup_steps : 5000;
  if (o.beta_strategy == "linear") return anneal::Linear{.begin = low, .end = high, .steps = rise};
  if (o.beta_strategy == "sigmoid") return anneal::Sigmoid{.begin = low, .end = high, .steps = rise};
  if (o.beta_strategy == "cyclical")
    return Cyclical{.period = o.cycle_length, .ramp = o.beta_warmup_steps > 0 ? float(std::min(1.0, double(o.beta_warmup_steps) / double(o.cycle_length))) : 0.5f, .low = low, .high = high};
  return float(o.beta);
}

Json json_of(const Options& options) {
  Json json = Json::object();
  each_option(options, [&](const char* name, const char*, const auto& member, const char*) { json[name] = member; });
  return json;
}

std::string model_path(const std::string& run) { return run + "/model.safetensors"; }

/// A run, opened.
struct Opened {
  Options options;
  data::SetSizes sizes;  ///< of the training sets
  std::unique_ptr<Weights<SetVae, Cpu>> weights;

  explicit Opened(const std::string& run) {
    int points = 0;
    std::int64_t numbers = 0;
    {
      if (!std::filesystem::exists(model_path(run))) fail(run, ": holds no model.safetensors; setvae train --output-dir ", run, " makes one");
      const SafetensorsFile file(model_path(run));
      const auto kept = file.metadata().find("setvae.options"), width = file.metadata().find("setvae.points"), counts = file.metadata().find("setvae.sizes");
      if (kept == file.metadata().end() || width == file.metadata().end() || counts == file.metadata().end()) fail(model_path(run), ": is no model of setvae: its metadata has no 'setvae.options'");
      try {
        const auto json = Json::parse(kept->second);
        each_option(options, [&](const char* name, const char*, auto& member, const char*) {
          if (json.contains(name)) json.at(name).get_to(member);
        });
        check(options);
        sizes = data::SetSizes::parse(counts->second);
      } catch (const std::exception& error) {
        fail(model_path(run), ": its metadata cannot be: ", error.what());
      }
      points = std::atoi(width->second.c_str());
      if (points < 1 || points > 64) fail(model_path(run), ": its metadata 'setvae.points' is '", width->second, "', expected 1 to 64");
      for (const auto& tensor : file.tensors()) numbers += std::int64_t(tensor.count());
    }
    SetVae model = model_of(options, points);
    model.build();
    Layouter layout;
    model.fields(layout);
    std::int64_t wanted = 0;
    for (const auto& [name, p] : layout.parameters) wanted += p.size();
    if (wanted > numbers) fail(model_path(run), ": its options make a model of ", wanted, " numbers, more than the ", numbers, " that the file has");
    weights = std::make_unique<Weights<SetVae, Cpu>>(std::move(model));
    load(model_path(run), *weights);
  }
};

/// Points of the sets of `x`, remade; or, with codes of other sets mixed in by `mix`(level, own codes), what these make.
template <class F>
std::vector<float> remade(const Weights<SetVae, Cpu>& weights, const Taken& x, std::uint64_t seed, int threads, F mix) {
  Session<SetVae, Cpu> session(weights, Cpu(threads));
  return session.run(x.count(), Shape{x.width}, x.points.data(), nullptr, seed, [&](auto& step, const SetVae& m, auto batch) {
    batch.offsets = x.offsets.data();
    const auto points = points_of<SetVae::any>(step, batch);
    const auto* kept = m.encode(step, points);
    return m.generate(step, points.space(), batch.space, [&](std::size_t l, auto c, const RowSpace* rows) {
      auto u = m.posterior(step, l, c, kept[l], rows).mu;
      mix(u);
      return u;
    });
  });
}
Taken with_points(const Taken& x, std::vector<float> points) { return {std::move(points), x.offsets, x.width}; }

Taken sampled(const Weights<SetVae, Cpu>& weights, std::vector<long> counts, std::uint64_t seed, int threads) {
  std::vector<long> offsets{0};
  for (const long n : counts) offsets.push_back(offsets.back() + n);
  const int width = weights.model.options.points;
  Session<SetVae, Cpu> session(weights, Cpu(threads));
  auto points = session.run(long(counts.size()), Shape{width}, nullptr, nullptr, seed, [&](auto& step, const SetVae& m, const auto& batch) {
    return m.sample(step, step.ragged(long(counts.size()), offsets.data()), batch.space);
  });
  return {std::move(points), std::move(offsets), width};
}
std::vector<long> counts_of(const Taken& x) {
  std::vector<long> counts;
  for (std::size_t s = 0; s + 1 < x.offsets.size(); ++s) counts.push_back(x.offsets[s + 1] - x.offsets[s]);
  return counts;
}

/// Rows of 8 sets; of several collections row by row in turn.
Image grid_of(std::initializer_list<const Taken*> collections, int columns = 8) {
  std::vector<std::span<const float>> sets;
  const long count = (*collections.begin())->count();
  for (long first = 0; first < count; first += columns)
    for (const Taken* x : collections)
      for (long s = first; s < first + columns; ++s) sets.push_back(s < count ? x->set(s) : std::span<const float>());
  return report::point_grid(sets, (*collections.begin())->width, {.columns = columns});
}

/// Calls `save` after each epoch of the best test -ELBO so far.
template <class F>
struct BestElbo {
  F save;
  void epoch_end(const RunState& state) const {
    const auto elbo = [](const EpochMetrics& m) { return m.val_recon + m.val_kl; };
    if (std::all_of(state.history.begin(), state.history.end() - 1, [&](const auto& m) { return elbo(state.history.back()) < elbo(m); })) save();
  }
};

/// The picture or the files of new sets.
void write_sets(const UseOptions& u, const Taken& made) {
  if (u.format.empty() && !u.output.empty() && !u.output.ends_with(".png") && !u.output.ends_with(".npz")) throw UsageError(text("--output ", u.output, ": expected a name that ends in .png or .npz, or --format"));
  const std::string format = !u.format.empty() ? u.format : u.output.ends_with(".npz") ? "npz" : "png";
  const bool folder = format == "ply" || format == "xyz";
  const std::string path = !u.output.empty() ? u.output : u.run + "/samples" + (folder ? "" : '.' + format);
  if (folder && made.width != 3) fail(u.run, ": points of ", made.width, " numbers do not go into .", format, " files, which hold x, y and z; --format npz takes them");
  if (format == "png" && made.width < 2) fail(u.run, ": points of one number cannot be drawn; --format npz writes them");
  if (format == "npz") {
    const std::vector<std::int64_t> offsets(made.offsets.begin(), made.offsets.end());
    write_npz(path, {{"points", {offsets.back(), made.width}, made.points}, {"offsets", {std::int64_t(offsets.size())}, {}, offsets}});
  } else if (folder) {
    create_directories(path);
    for (long s = 0; s < made.count(); ++s) {
      char name[32];
      std::snprintf(name, sizeof name, "/set-%06ld.", s);
      (format == "ply" ? write_ply : write_xyz)(path + name + format, made.set(s));
    }
  } else {
    write_png(path, grid_of({&made}));
  }
  std::printf("%s: %ld sets\n", path.c_str(), made.count());
}

struct EpochLines {
  bool quiet;
  const std::vector<CollapseRow>& rows;
  void epoch_end(const RunState& state) const {
    if (quiet) return;
    const auto& m = state.history.back();
    std::printf("epoch %lld  train %.2f + %.2f  test %.2f + %.2f  beta %.3f  %.1f s", static_cast<long long>(m.epoch), m.train_recon, m.train_kl, m.val_recon, m.val_kl, m.current_beta, m.seconds);
    if (!rows.empty()) std::printf("  collapse_ratio %.3f, utilisation %.3f", rows.back().collapse_ratio, rows.back().latent_utilization_ratio);
    std::printf("\n");
    std::fflush(stdout);
  }
};

/// What is known of a run: its codes of test sets, its metrics.
CollapseEvidence evidence_of(const Opened& run, const std::string& path, const SetData& data, std::int64_t count, std::uint64_t seed) {
  auto evidence = examine(*run.weights, data.test, count, seed);
  evidence.class_names = data.class_names;
  evidence.free_bits = run.options.free_bits;
  evidence.clip_norm = run.options.clip_norm;
  evidence.history = program::read_history(path);
  return evidence;
}

}  // namespace

int train(const Options& o) {
  check(o);
  if (!o.resume && !o.overwrite && (std::filesystem::exists(model_path(o.output_dir)) || std::filesystem::exists(o.output_dir + "/metrics.csv")))
    fail(o.output_dir, " holds a run already; --resume goes on with it, --overwrite starts anew, or choose another --output-dir");
  const SetData data = load_data(o);
  const int width = data.train.shape().size();
  Trainer trainer{model_of(o, width, data.train.size()), Adam{.learning_rate = float(o.lr)}, Cpu(int(o.threads)), o.seed};
  create_directories(o.output_dir);
  const std::string checkpoints = o.output_dir + "/checkpoints";
  if (o.overwrite && std::filesystem::exists(checkpoints)) CheckpointStore(checkpoints).clear();
  write_file_atomically(o.output_dir + "/config.json", json_of(o).dump(2) + "\n");
  if (!o.quiet) {
    std::printf("model     %lld levels of %lld x %lld numbers, width %lld, %ld parameters\n", static_cast<long long>(o.levels), static_cast<long long>(o.inducing), static_cast<long long>(o.latent),
                static_cast<long long>(o.width), long(trainer.weights().count()));
    std::printf("data      %s: %lld training and %lld test sets of points of %d numbers\noutput    %s/\n", o.data.c_str(), static_cast<long long>(data.train.size()), static_cast<long long>(data.test.size()),
                width, o.output_dir.c_str());
    std::fflush(stdout);
  }
  TensorBoardLog log(o.output_dir + "/logs");
  metrics::CollapseThresholds thresholds;
  thresholds.kl = o.pc_threshold;
  // the cost grows with the square of the sets times the numbers of a code
  const auto sets_for = [&](double work, double most) { return std::int64_t(std::clamp(std::sqrt(work / double(o.levels * o.inducing * o.latent)), 64.0, most)); };
  const auto look = [&] { return examine(trainer.weights(), data.test, sets_for(5e7, 256)); };
  CollapseMonitor monitor{look, o.output_dir, &log.file, thresholds};
  const EpochLines lines{o.quiet, monitor.rows};
  const EarlyStopping patience{.patience = o.patience};
  const Metadata told{{"setvae.options", json_of(o).dump()}, {"setvae.points", std::to_string(width)}, {"setvae.sizes", data::SetSizes::of(data.train).words()}};
  const auto save_model = [&](const std::string& path) {
    Metadata metadata = told;
    metadata["setvae.step"] = std::to_string(trainer.learner.steps);
    save(path, trainer.weights(), metadata);
  };
  const auto save_best = [&] {
    if (o.keep_best) save_model(o.output_dir + "/model_best.safetensors");
  };
  const bool by_elbo = o.monitor == "neg_elbo";
  const BestElbo<decltype(save_best)> best_elbo{save_best};
  CollapseWatch watch{monitor, by_elbo ? "collapse_ratio" : o.monitor, o.patience, save_best};
  const StopOnSignal stop;
  FitOptions fit;
  fit.epochs = o.epochs;
  fit.batch_size = o.batch_size;
  fit.validation = data.test;
  fit.beta = beta_of(o);
  fit.clip_norm = float(o.clip_norm);
  fit.metrics = MetricFiles{o.output_dir};
  fit.checkpoints = Checkpoints{.folder = checkpoints, .resume = o.resume};
  fit.callbacks = {monitor, lines, log, stop};
  if (!by_elbo) fit.callbacks.push_back(watch);
  if (by_elbo) fit.callbacks.push_back(best_elbo);
  if (by_elbo && o.patience > 0) fit.callbacks.push_back(patience);
  const History history = trainer.fit(data.train, fit);
  if (stop.signal() != 0 && std::cmp_less(history.size(), o.epochs)) {
    std::fprintf(stderr, "setvae: interrupted after step %llu, which is saved; the same command with --resume goes on\n", static_cast<unsigned long long>(trainer.learner.steps));
    return 128 + stop.signal();
  }
  save_model(model_path(o.output_dir));

  auto evidence = examine(trainer.weights(), data.test, sets_for(2e9, 1000));
  evidence.class_names = data.class_names;
  evidence.history = history;
  evidence.free_bits = o.free_bits;
  evidence.clip_norm = o.clip_norm;
  const auto found = judge(evidence, thresholds);
  report::Report page("setvae: " + o.output_dir, text(o.data, ", ", o.levels, " levels, ", history.size(), " epochs"));
  report::add_collapse(page, evidence, found, thresholds);
  if (width > 1) {
    page.section("Sets");
    const Taken some = take(data.test, 0, 16);
    const Taken again = with_points(some, remade(trainer.weights(), some, 0, int(o.threads), [](auto&) {}));
    const Taken made = sampled(trainer.weights(), counts_of(some), o.seed, int(o.threads));
    const Image reconstructions = grid_of({&some, &again}), samples = grid_of({&made});
    page.figure("reconstructions", report::Pictures{"Reconstructions", {{"sets", reconstructions}}, reconstructions.width}, "Rows of test sets, and below each row what the model makes of the means of their codes.", report::Width::full);
    page.figure("samples", report::Pictures{"New sets", {{"sets", samples}}, samples.width}, "Drawn from the prior, as many points each as the test sets above.", report::Width::full);
    write_png(o.output_dir + "/reconstructions.png", reconstructions);
    write_png(o.output_dir + "/samples.png", samples);
  }
  page.section("Training");
  report::add_training(page, history);
  report::add_posterior(page, read_collapse_rows(o.output_dir));
  std::vector<report::Fact> facts;
  const auto options = json_of(o);
  for (const auto& [name, value] : options.items()) facts.push_back({name, value.is_string() ? value.get<std::string>() : value.dump()});
  page.table("options", "Options", facts, report::Width::two_thirds);
  report::add_machine(page, history, data.train.size(), trainer.learner.backend.threads());
  page.write(o.output_dir + "/report.html");
  if (!o.quiet) {
    const auto& u = found.all.use;
    std::printf("\ncollapse_ratio %.3f, latent_utilization_ratio %.3f, KL %.3f nats a number, use of the code %.1f nats\n", u.collapse_ratio, u.latent_utilization_ratio, u.avg_kl, found.all.decoder_use);
    for (const auto& advice : found.advice) std::printf("  %s: %s\n", advice.rule.c_str(), advice.sentence.c_str());
    std::printf("  %s/report.html\n", o.output_dir.c_str());
  }
  return 0;
}

void use(const UseOptions& u) {
  const Opened run(u.run);
  const auto& weights = *run.weights;
  const SetData data = u.command == "sample" ? SetData{} : load_data(run.options);
  const int threads = int(u.threads);
  const auto output = [&](const char* name) { return u.output.empty() ? u.run + '/' + name : u.output; };
  if (weights.model.options.points < 2 && (u.command == "reconstruct" || u.command == "interpolate")) fail(u.run, ": points of one number cannot be drawn");
  if (u.command == "sample") {
    const long count = u.count > 0 ? long(u.count) : 32;
    const Taken made = sampled(weights, u.points > 0 ? std::vector<long>(std::size_t(count), long(u.points)) : run.sizes.draw(count, u.seed), u.seed, threads);
    write_sets(u, made);
  }
  if (u.command == "reconstruct") {
    const Taken some = take(data.test, 0, u.count > 0 ? u.count : 32), again = with_points(some, remade(weights, some, u.seed, threads, [](auto&) {}));
    write_png(output("reconstructions.png"), grid_of({&some, &again}));
    std::printf("%s\n", output("reconstructions.png").c_str());
  }
  if (u.command == "interpolate") {
    const long rows = u.count > 0 ? long(u.count) : 6, steps = long(u.steps);
    const Taken ends = take(data.test, 0, 2 * rows);
    if (ends.count() < 2) fail(u.run, ": two test sets are needed, there are ", ends.count());
    Taken all{{}, {0}, ends.width};  // each first set, as often as there are steps; its codes go over into those of the second
    const long pairs = ends.count() / 2;
    for (long p = 0; p < pairs; ++p)
      for (long s = 0; s < steps; ++s) {
        const auto set = ends.set(2 * p + (s == steps - 1 ? 1 : 0));
        all.points.insert(all.points.end(), set.begin(), set.end());
        all.offsets.push_back(long(all.points.size()) / all.width);
      }
    const Taken between = with_points(all, remade(weights, all, u.seed, threads, [&](auto& codes) {
      const long size = codes.features();
      for (long p = 0; p < pairs; ++p)
        for (long s = 1; s + 1 < steps; ++s)
          for (long k = 0; k < size; ++k) {
            const float share = float(s) / float(steps - 1), *from = codes.value() + p * steps * size, *to = codes.value() + (p * steps + steps - 1) * size;
            codes.value()[(p * steps + s) * size + k] = (1 - share) * from[k] + share * to[k];
          }
    }));
    write_png(output("interpolation.png"), grid_of({&between}, int(steps)));
    std::printf("%s\n", output("interpolation.png").c_str());
  }
  if (u.command == "analyze") {
    const auto evidence = evidence_of(run, u.run, data, u.count > 0 ? u.count : 1000, u.seed);
    CollapseDiagnostics diagnostics{output("collapse")};
    diagnostics.thresholds.kl = run.options.pc_threshold;
    const auto found = diagnostics.report(evidence, "Posterior: " + u.run);
    for (std::size_t l = 0; l < found.levels.size(); ++l)
      std::printf("level %zu  collapse_ratio %.3f  latent_utilization_ratio %.3f  avg_kl %.4f nats\n", l + 1, found.levels[l].collapse_ratio, found.levels[l].latent_utilization_ratio, found.levels[l].avg_kl);
    std::printf("all      collapse_ratio %.3f  latent_utilization_ratio %.3f  use of the code %.1f nats\n", found.all.use.collapse_ratio, found.all.use.latent_utilization_ratio, found.all.decoder_use);
    for (const auto& advice : found.advice) std::printf("  %s: %s\n", advice.rule.c_str(), advice.sentence.c_str());
    const Taken real = take(data.test, 0, 100);
    const Json quality = quality_of(sampled(weights, counts_of(real), u.seed, threads), take(data.train, 0, 100), real, threads);
    write_file_atomically(diagnostics.directory + "/generation.json", quality.dump(2) + "\n");
    std::printf("  %s/report.html, generation.json\n", diagnostics.directory.c_str());
  }
}

CollapseEvidence examine_run(const std::string& path, std::int64_t count, std::uint64_t seed) {
  const Opened run(path);
  return evidence_of(run, path, load_data(run.options), count, seed);
}

}  // namespace setvae
