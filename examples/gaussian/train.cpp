#include "train.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/report/collapse_monitor.hpp>
#include <vaelib/schedules/schedule.hpp>
#include <vaelib/train/signals.hpp>
#include <vaelib/train/tensorboard_log.hpp>

#include "config.hpp"
#include "model.hpp"
#include "pictures.hpp"
#include "report.hpp"
#include "run_folder.hpp"

namespace vae {

using namespace vaelib;

namespace {

void check_device(const std::string& device) {
  if (device == "cuda") fail("--device cuda: this program was built without CUDA; --device cpu works everywhere");
  if (device == "mps") fail("--device mps: there is no backend for Apple's GPUs; --device cpu works everywhere");
}

Schedule beta_schedule(const TrainOptions& o) {
  const auto low = float(o.min_beta), high = float(o.max_beta);
  if (o.beta_strategy == "linear") return anneal::Linear{low, high, o.beta_warmup_steps};
  if (o.beta_strategy == "sigmoid") return anneal::Sigmoid{low, high, o.beta_warmup_steps};
  if (o.beta_strategy == "cyclical") {
    const float ramp = float(double(o.beta_warmup_steps) / double(o.cycle_length));
    return Cyclical{.period = o.cycle_length, .ramp = ramp, .low = low, .high = high};
  }
  return warm_up(o.beta_warmup_steps, Constant{float(o.beta)});
}

FitOptions fit_options(const TrainOptions& o, const ImageData& data, const RunFolder& folder) {
  FitOptions fit;
  fit.epochs = o.epochs;
  fit.batch_size = o.batch_size;
  fit.validation = data.test;
  fit.beta = beta_schedule(o);
  fit.clip_norm = float(o.clip_norm);
  fit.non_finite = o.non_finite == "skip" ? NonFinite::skip : o.non_finite == "roll-back" ? NonFinite::roll_back : NonFinite::stop;
  fit.micro_batch = o.micro_batch;
  fit.average = float(o.ema);
  fit.read_ahead = data.streams;
  fit.metrics = MetricFiles{folder.path()};
  fit.checkpoints = Checkpoints{.folder = folder.checkpoints(), .every = o.checkpoint_every, .every_seconds = o.checkpoint_seconds,
                                .best = int(o.keep_best), .resume = !o.resume.empty(), .from = o.resume == "auto" ? "" : o.resume};
  fit.progress = o.quiet ? ProgressStyle::silent : ProgressStyle::automatic;
  return fit;
}

}  // namespace

namespace {

CollapseControl control_of(const TrainOptions& o, std::int64_t samples) {
  CollapseControl c;
  c.free_bits = float(o.free_bits);
  c.per = o.free_bits_per == "group" ? FreeBits::group : o.free_bits_per == "total" ? FreeBits::total : FreeBits::dimension;
  c.group = int(o.free_bits_group);
  c.target = float(o.target_kl);
  c.variance = float(o.variance_weight);
  c.mean = float(o.mean_weight);
  c.decompose = o.tc_decomposition;
  c.mutual_information = float(o.mi_weight);
  c.total_correlation = float(o.tc_weight);
  c.dimension_wise = float(o.dimension_weight);
  c.dataset_size = samples;
  return c;
}

}  // namespace

std::unique_ptr<AnyModel> model_of(const TrainOptions& o, Shape image, int classes, std::int64_t samples) {
  ModelSettings settings;
  settings.convolutional = o.model_type == "conv";
  settings.image = image;
  settings.code_size = int(o.code_size);
  settings.hidden_size = int(o.hidden_size);
  settings.labels = o.conditional ? classes : 0;
  settings.likelihood = o.likelihood;
  settings.elbo = control_of(o, samples);
  settings.learning_rate = float(o.lr);
  settings.seed = o.seed;
  settings.threads = int(o.threads);
  settings.bfloat16 = o.precision == "bfloat16";
  return make_model(settings);
}

namespace {

void check_folder(const RunFolder& folder, const TrainOptions& o) {
  if (o.resume == "auto" && !folder.holds_checkpoints() && folder.holds_model())
    fail(folder.path(), " holds a model but no checkpoint to go on from; --overwrite starts anew");
  if (o.resume.empty() && !o.overwrite && folder.holds_run())
    fail(folder.path(), " holds a run already; --resume goes on with it, --overwrite removes it, or choose another ",
         "--output-dir");
}

std::string beta_text(const TrainOptions& o) {
  const auto number = [](double value) { return text_of_value(value); };
  if (o.beta_strategy == "constant")
    return number(o.beta) + (o.beta_warmup_steps > 0 ? text(" after ", o.beta_warmup_steps, " steps") : "");
  return text(number(o.min_beta), " to ", number(o.max_beta), ", ", o.beta_strategy, " within ", o.beta_warmup_steps,
              o.beta_strategy == "cyclical" ? text(" of every ", o.cycle_length, " steps") : std::string(" steps"));
}

void print_headline(const TrainOptions& o, const ImageData& data, const AnyModel& model, const RunFolder& folder) {
  const auto batches = (data.train.size() + o.batch_size - 1) / o.batch_size;
  const auto line = [](const char* name, const std::string& value) { std::printf("%-9s %s\n", name, value.c_str()); };
  line("model", text(o.conditional ? "conditional, " : "", o.model_type == "conv" ? "convolutional" : "fully connected",
                     ", a code of ", o.code_size, " numbers, ", model.parameters(), " parameters, ", o.likelihood));
  line("data", text(data.name, ": ", data.train.size(), " training and ", data.test.size(), " test images of ",
                    text_of(data.train.shape()), ", ", data.origin, data.streams ? ", decoded while the model trains" : ""));
  if (data.normalisation != Normalisation{})
    line("", text("their numbers x are read as (x - ", text_of_value(data.normalisation.offset), ") * ", text_of_value(data.normalisation.scale)));
  line("training", text(o.epochs, " epochs of ", batches, " steps, batches of ", o.batch_size, ", learning rate ",
                        text_of_value(o.lr), ", beta ", beta_text(o), ", seed ", o.seed));
  line("device", text("cpu, ", model.threads(), model.threads() == 1 ? " thread" : " threads",
                      o.precision == "single" ? "" : ", products in " + o.precision));
  line("output", folder.path() + '/');
  if (model.steps() > 0) line("resumed", text("after step ", model.steps()));
  std::fflush(stdout);
}

void write_outputs(const TrainOptions& o, const AnyModel& model, const ImageData& data, const History& history,
                   const RunFolder& folder) {
  draw_losses(folder.file("training_losses.png"), history);
  draw_reconstructions(folder.file("reconstructions.png"), model, data);
  draw_samples(folder.file("generated_samples.png"), model, data, o.conditional, o.seed);
  if (o.code_size == 2) draw_latent_space(folder.file("latent_space.png"), model, data);
  write_metrics(folder.path(), history);  // again, where they were lost
  write_report(folder.file("report.html"), folder, model, data);
  // Last, as a model of the right step tells that all is there.
  model.save(folder.file("model.safetensors"), folder.description_of(data, model.steps()));
}

/// The pictures and the codes of the end of a run, for TensorBoard.
void log_outputs(EventFile& log, const AnyModel& model, const ImageData& data, const RunFolder& folder) {
  const auto step = std::int64_t(model.steps());
  for (const char* name : {"reconstructions", "generated_samples"}) {
    const std::string png = read_file(folder.file(text(name, ".png")), std::uint64_t{1} << 28);
    const std::span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(png.data()), png.size());
    const Image image = decode_png(bytes);
    log.image(step, name, image.width, image.height, image.channels, bytes);
  }
  const Images images = take(data.test, 0, 500);
  log.histogram(step, "latent_mean", model.encode(images.pixels, images.labels.data()));
  log.histogram(step, "latent_logvar", model.log_variances(images.pixels, images.labels.data()));
}

void print_result(const History& history, const RunFolder& folder) {
  const EpochMetrics& last = history.back();
  std::printf("\ntest -ELBO %.3f nats an image (reconstruction %.3f, KL %.3f) after %lld epochs\n\n%s/\n",
              last.val_recon + last.val_kl, last.val_recon, last.val_kl, static_cast<long long>(last.epoch),
              folder.path().c_str());
  folder.list();
}

/// --dry-run: one step on the first batch, and nothing is written.
void try_run(const TrainOptions& o, AnyModel& model, const ImageData& data, const RunFolder& folder) {
  const Images images = take(data.train, 0, o.batch_size);
  StepOptions step;
  step.beta = beta_schedule(o).at(0, 0);
  step.micro_batch = o.micro_batch;
  step.average = float(o.ema);
  const Trial trial = model.try_step(images.pixels, images.labels.data(), step);
  std::printf("\n");
  for (const auto& tensor : trial.tensors)
    std::printf("  %-28s %-20s %10lld\n", tensor.name.c_str(), tensor.shape.c_str(), static_cast<long long>(tensor.numbers));
  const auto megabytes = [](std::int64_t bytes) { return double(bytes) / 1e6; };
  std::printf("\nmemory    %.1f MB of weights, %.1f MB of gradients and moments, %.1f MB of a step's activations\n", megabytes(trial.weights),
              megabytes(trial.training), megabytes(trial.step));
  std::printf("step 1    loss %.3f nats an image, norm of its gradients %.3g\n", trial.result.objective, trial.result.gradient_norm);
  std::printf("would write into %s/: %s\n", folder.path().c_str(), folder.planned(o.code_size == 2, o.keep_best > 0).c_str());
}

std::vector<std::string> parts_of(const std::string& list) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void begin_with_part(const TrainOptions& o, AnyModel& model) {
  const auto names = model.load_part(o.init_from, parts_of(o.init_parts));
  if (o.quiet) return;
  std::printf("taken     from %s:\n", o.init_from.c_str());
  for (const auto& name : names) std::printf("            %s\n", name.c_str());
}

/// model_best.safetensors, of the best of the epochs.
void write_best(const TrainOptions& o, AnyModel& model, const ImageData& data, FitOptions fit, const History& history, const RunFolder& folder) {
  const auto best = std::min_element(history.begin(), history.end(), [](const auto& a, const auto& b) { return a.val_recon + a.val_kl < b.val_recon + b.val_kl; });
  fit.epochs = 0;
  fit.checkpoints->resume = true;
  fit.checkpoints->from = CheckpointStore(folder.checkpoints(), "best").path_of(std::uint64_t(best->step));
  model.fit(data.train, fit);
  if (o.ema > 0) model.use_average();
  model.save(folder.file("model_best.safetensors"), folder.description_of(data, model.steps()));
}

/// How this run is gone on with.
std::string resume_command(const RunFolder& folder) { return text("vae train --output-dir '", folder.path(), "' --resume"); }

/// The folder of the run that a checkpoint lies in.
std::string run_of_checkpoint(const std::string& path) {
  const std::size_t file = path.rfind('/');
  const std::size_t folder = file == std::string::npos || file == 0 ? std::string::npos : path.rfind('/', file - 1);
  return folder == std::string::npos ? "." : path.substr(0, folder);
}

}  // namespace

int train(TrainOptions options, Given given, const TrainCalls& calls) {
  check_device(options.device);
  const Given typed = given;
  const bool from_file = !options.resume.empty() && options.resume != "auto";
  if (from_file && !given.contains("output-dir")) options.output_dir = run_of_checkpoint(options.resume);
  choose_folder(options, given);
  const RunFolder folder(options.output_dir);
  if (from_file || (!options.resume.empty() && folder.holds_checkpoints())) take_over(options, given, folder.read_config(), folder.path());
  resolve(options, given);
  if (calls.print_config) {
    std::printf("%s\n", config_of(options).dump(2).c_str());
    return 0;
  }
  if (!calls.dry_run) check_folder(folder, options);
  const auto note = [&](const std::string& sentence) {
    if (!options.quiet) std::fprintf(stderr, "vae: note: %s\n", sentence.c_str());
  };
  for (const auto& sentence : flags_without_effect(options, typed)) note(sentence);

  const ImageData data = load_data(options);
  for (const auto& sentence : data.notes) note(sentence);
  const auto model = model_of(options, data.train.shape(), data.train.classes(), std::max(data.train.size(), options.batch_size));
  if (calls.dry_run) {
    print_headline(options, data, *model, folder);
    try_run(options, *model, data, folder);
    return 0;
  }
  FitOptions fit = fit_options(options, data, folder);
  if (!options.resume.empty()) {
    FitOptions nothing = fit;
    nothing.epochs = 0;
    const History before = model->fit(data.train, nothing);  // only reads the checkpoint
    if (std::cmp_greater_equal(before.size(), options.epochs) &&
        folder.is_complete(model->steps(), options.code_size == 2, options.keep_best > 0)) {
      if (!options.quiet)
        std::printf("%s/ has reached its %zu epochs and is left as it is; a larger --epochs goes on\n",
                    folder.path().c_str(), before.size());
      return 0;
    }
  }
  if (!options.init_from.empty() && model->steps() == 0) begin_with_part(options, *model);
  folder.create();
  if (options.overwrite) folder.clear();
  options.device = "cpu";
  options.threads = model->threads();
  folder.write_config(options, data, model->parameters());
  if (!options.quiet) print_headline(options, data, *model, folder);

  TensorBoardLog log(folder.logs());
  const EarlyStopping patience{.patience = options.patience};
  const StopOnSignal stop;
  // the cost grows with the square of the images times the numbers of a code
  const auto looked_at = std::int64_t(std::clamp(std::sqrt(5e7 / double(options.code_size)), 64.0, 500.0));
  const auto look = [&] { return model->examine(data.test, looked_at, 0); };
  CollapseMonitor posterior{look, folder.path(), &log.file};
  const bool by_elbo = options.monitor == "neg_elbo";
  const auto save_best = [&] {
    if (options.keep_best > 0) model->save(folder.file("model_best.safetensors"), folder.description_of(data, model->steps()));
  };
  CollapseWatch watch{posterior, by_elbo ? "collapse_ratio" : options.monitor, options.patience, save_best};
  fit.callbacks = {log, stop};
  if (data.test.size() > 1) fit.callbacks.push_back(posterior);
  if (!by_elbo && data.test.size() < 2) fail("--monitor ", options.monitor, ": a posterior is judged by at least 2 test images, there is ", data.test.size());
  if (!by_elbo) fit.callbacks.push_back(watch);
  if (by_elbo && options.patience > 0) fit.callbacks.push_back(patience);
  const auto information = [&] {
    const auto seen = model->examine(data.test, 500, options.seed);
    const auto& code = seen.levels.front();
    const auto parts = metrics::kl_decomposition(code.means, code.log_variances, code.size, options.seed);
    return std::min(parts.mutual_information.value, parts.bound - 0.5);  // so many samples cannot show more
  };
  if (options.aggressive_encoder) fit.aggressive = AggressiveEncoder{.information = information};
  const History history = model->fit(data.train, fit);
  if (stop.signal() != 0 && std::cmp_less(history.size(), options.epochs)) {
    std::fprintf(stderr, "%svae: interrupted after step %llu, which is saved; go on with\n  %s\n", options.quiet ? "" : "\n",
                 static_cast<unsigned long long>(model->steps()), resume_command(folder).c_str());
    return 128 + stop.signal();
  }
  if (options.ema > 0) model->use_average();
  write_outputs(options, *model, data, history, folder);
  log_outputs(log.file, *model, data, folder);
  if (options.keep_best > 0 && by_elbo) write_best(options, *model, data, fit, history, folder);
  if (!options.quiet && std::cmp_less(history.size(), options.epochs))
    std::printf("\nended after %zu epochs: %s has not become better for %lld\n", history.size(), by_elbo ? "the test -ELBO" : options.monitor.c_str(),
                static_cast<long long>(options.patience));
  if (!options.quiet) print_result(history, folder);
  return 0;
}

}  // namespace vae
