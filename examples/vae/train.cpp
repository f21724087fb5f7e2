#include "train.hpp"

#include <cstdio>
#include <vaelib/io/png.hpp>
#include <vaelib/schedules/schedule.hpp>
#include <vaelib/train/tensorboard_log.hpp>

#include "model.hpp"
#include "pictures.hpp"
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
  fit.non_finite = o.non_finite == "skip" ? NonFinite::skip : NonFinite::stop;
  fit.metrics = MetricFiles{folder.path()};
  fit.checkpoints = Checkpoints{.folder = folder.checkpoints(), .every = o.checkpoint_every, .resume = o.resume};
  fit.progress = o.quiet ? ProgressStyle::silent : ProgressStyle::automatic;
  return fit;
}

}  // namespace

std::unique_ptr<AnyModel> model_of(const TrainOptions& o, Shape image, int classes) {
  ModelSettings settings;
  settings.convolutional = o.model_type == "conv";
  settings.image = image;
  settings.code_size = int(o.code_size);
  settings.hidden_size = int(o.hidden_size);
  settings.labels = o.conditional ? classes : 0;
  settings.likelihood = o.likelihood;
  settings.free_bits = float(o.free_bits);
  settings.learning_rate = float(o.lr);
  settings.seed = o.seed;
  settings.threads = int(o.threads);
  return make_model(settings);
}

namespace {

void check_folder(const RunFolder& folder, const TrainOptions& o) {
  if (o.resume && !folder.holds_checkpoints() && folder.holds_model())
    fail(folder.path(), " holds a model but no checkpoint to go on from; --overwrite starts anew");
  if (!o.resume && !o.overwrite && folder.holds_run())
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
                    text_of(data.train.shape()), ", ", data.origin));
  line("training", text(o.epochs, " epochs of ", batches, " steps, batches of ", o.batch_size, ", learning rate ",
                        text_of_value(o.lr), ", beta ", beta_text(o), ", seed ", o.seed));
  line("device", text("cpu, ", model.threads(), model.threads() == 1 ? " thread" : " threads"));
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
  // Last, as a model of the right step tells that all is there.
  model.save(folder.file("model.safetensors"), {{RunFolder::step_key, std::to_string(model.steps())}});
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

}  // namespace

void train(TrainOptions options, Given given) {
  check_device(options.device);
  const Given typed = given;
  choose_folder(options, given);
  const RunFolder folder(options.output_dir);
  check_folder(folder, options);
  if (options.resume && folder.holds_checkpoints()) take_over(options, given, folder.read_config(), folder.path());
  resolve(options, given);
  if (!options.quiet)
    for (const auto& note : flags_without_effect(options, typed)) std::fprintf(stderr, "vae: note: %s\n", note.c_str());

  const ImageData data = load_data(options);
  const auto model = model_of(options, data.train.shape(), data.train.classes());
  FitOptions fit = fit_options(options, data, folder);
  if (options.resume) {
    FitOptions nothing = fit;
    nothing.epochs = 0;
    const History before = model->fit(data.train, nothing);  // only reads the checkpoint
    if (std::cmp_greater_equal(before.size(), options.epochs) &&
        folder.is_complete(model->steps(), options.code_size == 2)) {
      if (!options.quiet)
        std::printf("%s/ has reached its %zu epochs and is left as it is; a larger --epochs goes on\n",
                    folder.path().c_str(), before.size());
      return;
    }
  }
  folder.create();
  if (options.overwrite) folder.clear();
  options.device = "cpu";
  options.threads = model->threads();
  folder.write_config(options, data, model->parameters());
  if (!options.quiet) print_headline(options, data, *model, folder);

  TensorBoardLog log(folder.logs());
  const EarlyStopping patience{.patience = options.patience};
  fit.callbacks.push_back(log);
  if (options.patience > 0) fit.callbacks.push_back(patience);
  const History history = model->fit(data.train, fit);
  write_outputs(options, *model, data, history, folder);
  log_outputs(log.file, *model, data, folder);
  if (!options.quiet && std::cmp_less(history.size(), options.epochs))
    std::printf("\nended after %zu epochs: the test -ELBO has not become better for %lld\n", history.size(),
                static_cast<long long>(options.patience));
  if (!options.quiet) print_result(history, folder);
}

}  // namespace vae
