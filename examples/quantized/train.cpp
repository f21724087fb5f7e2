#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vaelib/io/checkpoint.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/quantizers/recipes.hpp>
#include <vaelib/report/training.hpp>
#include <vaelib/train/signals.hpp>
#include <vaelib/train/tensorboard_log.hpp>

#include "commands.hpp"
#include "features.hpp"
#include "model_file.hpp"
#include "prior.hpp"
#include "report.hpp"

namespace vqvae {

using namespace vaelib;
using program::one_of;
using program::refuse_unless;

namespace {

using std::filesystem::exists;

/// What a recipe says, in terms of the flags.
void apply(const VqRecipe& recipe, Options& o, const std::set<std::string>& given) {
  const auto set = [&](const char* flag, auto& member, auto value) {
    if (!given.contains(flag)) member = value;
  };
  const auto& q = recipe.quantizer;
  const auto exact = [](float v) { return std::round(double(v) * 1e6) / 1e6; };  // 0.7, not 0.699999988
  set("codes", o.codes, recipe.codes);
  set("code-width", o.code_width, recipe.width);
  set("batch-size", o.batch_size, recipe.batch_size);
  set("l1", o.l1, exact(recipe.l1));
  set("perceptual", o.perceptual, exact(recipe.perceptual));
  set("adversarial", o.adversarial, exact(recipe.adversarial));
  set("decay", o.decay, exact(q.decay.at(0, 0)));
  set("commitment", o.commitment, double(q.commitment.at(0, 1000)));
  set("commitment-warmup-epochs", o.commitment_warmup_epochs, q.commitment.at(0, 0) == q.commitment.at(0, 1000) ? 0.0 : 5.0);
  set("spread", o.spread, double(q.spread.at(0, 0)));
  set("temperature", o.temperature, q.temperature ? exact(q.temperature->at(0, 0)) : 0.0);
  set("start", o.start, std::string(q.start == CodebookStart::uniform ? "uniform" : q.start == CodebookStart::normal ? "normal" : q.start == CodebookStart::data ? "data" : "k-means"));
  set("gradient", o.gradient, std::string(q.gradient == GradientEstimator::rotation ? "rotation" : "straight-through"));
  set("dead-below-mean", o.dead_below_mean, exact(q.dead.below_mean));
  set("dead-below", o.dead_below, double(q.dead.below));
  set("lowest", o.lowest, exact(q.dead.lowest));
  set("replace-steps", o.replace_steps, q.dead.every_steps);
  set("replace-epochs", o.replace_epochs, q.dead.every_epochs);
  set("grow-from", o.grow_from, q.codes_in_use ? std::int64_t(q.codes_in_use->at(0, 0)) : 0);
  if (q.codes_in_use) set("grow-epochs", o.grow_epochs, std::int64_t{5});
}

struct Folder {
  std::string path, pictures, model;
  explicit Folder(const Options& o)
      : path(o.model_dir + '/' + o.model_name), pictures(o.sample_dir.empty() ? path : o.sample_dir), model(path + ".safetensors") {}
  std::string checkpoints() const { return path + "/checkpoints"; }
};

void print_headline(const Options& o, const ImageData& data, const Model& model, const Folder& folder) {
  const Shape codes = model.code_shape();
  std::printf("model     %s, %d codes, %d x %d vectors of %d an image, %ld parameters\n", o.quantizer.c_str(), model.code_count(), codes.height, codes.width, codes.channels, model.parameters());
  std::printf("data      %s: %lld training and %lld test images of %s\n", data.name.c_str(), static_cast<long long>(data.train.size()), static_cast<long long>(data.test.size()),
              text_of(data.train.shape()).c_str());
  std::printf("training  %lld epochs, batches of %lld, learning rate %g, seed %llu, cpu, %d threads\n", static_cast<long long>(o.epochs), static_cast<long long>(o.batch_size), o.lr,
              static_cast<unsigned long long>(o.seed), model.threads());
  std::printf("output    %s and %s/\n", folder.model.c_str(), folder.path.c_str());
  std::fflush(stdout);
}

/// One line an epoch: the errors, and the codebook by its batches, as a whole and by its moving averages.
struct EpochLines {
  const Model& model;
  bool quiet;
  void epoch_end(const RunState& state) const {
    if (quiet) return;
    const auto& m = state.history.back();
    std::printf("epoch %lld  train %.5f  test %.5f  %.1f s", static_cast<long long>(m.epoch), m.train_recon, m.val_recon, m.seconds);
    if (!model.epochs().empty()) {
      const auto& e = model.epochs().back();
      std::printf("  codes: epoch %lld of %lld, batch %.0f, entropy %.3f", static_cast<long long>(e.whole.used), static_cast<long long>(e.whole.codes), e.used_a_batch, e.whole.normalised_entropy);
      if (e.moving.codes > 0) std::printf(", moving average %.0f %%", 100 * e.moving.utilisation);
    }
    if (const auto adversaries = model.adversaries(); !adversaries.empty()) {
      const auto& a = adversaries.back();
      std::printf("  perceptual %.4f, lambda %.3g, discriminator %.3f", a.perceptual, a.lambda, a.discriminator);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
};

}  // namespace

void check(const Options& o) {
  one_of("quantizer", o.quantizer, {"vq", "fsq", "lfq", "simvq", "gumbel", "residual", "product", "grouped"});
  one_of("recipe", o.recipe, {"measured", "collapsing", "cured"});
  one_of("distance", o.distance, {"euclidean", "cosine"});
  one_of("gradient", o.gradient, {"straight-through", "rotation"});
  one_of("start", o.start, {"uniform", "normal", "data", "k-means"});
  one_of("adversary", o.adversary, {"hinge", "vanilla"});
  one_of("device", o.device, {"auto", "cpu", "cuda"});
  refuse_unless(o.in_channels == 1 || o.in_channels == 3, "in-channels", o.in_channels, "1 or 3");
  refuse_unless(o.out_channels == o.in_channels, "out-channels", o.out_channels, "as many as --in-channels: a model gives back what it takes");
  refuse_unless(o.image_size >= 8 && o.image_size <= 1024, "image-size", o.image_size, "8 to 1024");
  refuse_unless(o.halvings >= 1 && o.halvings <= 6, "halvings", o.halvings, "1 to 6");
  if (o.image_size % (std::int64_t{1} << o.halvings) != 0)
    throw UsageError(text("--image-size ", o.image_size, ": cannot be halved ", o.halvings, " times; expected a multiple of ", 1 << o.halvings));
  refuse_unless(o.codes >= 1 && o.codes <= 1 << 20, "codes", o.codes, "1 to 1048576");
  refuse_unless(o.code_width >= 1 && o.code_width <= 4096, "code-width", o.code_width, "1 to 4096");
  refuse_unless(o.width >= 2 && o.width <= 4096, "width", o.width, "2 to 4096");
  refuse_unless(o.hidden >= 1 && o.hidden <= 4096, "hidden", o.hidden, "1 to 4096");
  refuse_unless(o.blocks >= 0 && o.blocks <= 64, "blocks", o.blocks, "0 to 64");
  refuse_unless(o.low_width >= 0 && o.low_width <= 4096, "low-width", o.low_width, "0 to 4096");
  refuse_unless(o.depth == 2 || o.depth == 4 || o.depth == 8, "depth", o.depth, "2, 4 or 8");
  refuse_unless(o.epochs >= 1, "epochs", o.epochs, "at least 1");
  refuse_unless(o.batch_size >= 1 && o.batch_size <= 100000, "batch-size", o.batch_size, "1 to 100000");
  refuse_unless(o.images >= 0 && o.images < 4'000'000'000, "images", o.images, "0 to 4000000000");
  refuse_unless(o.threads >= 0 && o.threads <= 1024, "threads", o.threads, "0 to 1024");
  refuse_unless(o.lr > 0, "lr", o.lr, "more than 0");
  refuse_unless(o.decay >= 0 && o.decay <= 1, "decay", o.decay, "0 to 1");
  refuse_unless(o.commitment >= 0, "commitment", o.commitment, "0 or more");
  refuse_unless(o.adversarial >= 0, "adversarial", o.adversarial, "0 or more");
  refuse_unless(o.perceptual >= 0, "perceptual", o.perceptual, "0 or more");
  refuse_unless(o.discriminator_start >= 0, "discriminator-start", o.discriminator_start, "0 or more");
  refuse_unless(o.discriminator_width >= 1 && o.discriminator_width <= 1024, "discriminator-width", o.discriminator_width, "1 to 1024");
  refuse_unless(o.discriminator_layers >= 1 && o.discriminator_layers <= 6 && (o.image_size >> o.discriminator_layers) >= 3, "discriminator-layers", o.discriminator_layers,
                "1 to 6, and to leave 3 pixels of the image");
  refuse_unless(o.prior_epochs >= 0, "prior-epochs", o.prior_epochs, "0 or more");
  refuse_unless(o.lowest >= 0 && o.lowest <= 1, "lowest", o.lowest, "0 to 1");
  refuse_unless(o.grow_from >= 0 && o.grow_from <= o.codes, "grow-from", o.grow_from, "0 to --codes");
  refuse_unless(o.grow_epochs >= 1, "grow-epochs", o.grow_epochs, "at least 1");
  refuse_unless(o.temperature >= 0, "temperature", o.temperature, "0 or more");
}

void resolve(Options& o, const std::set<std::string>& given) {
  if (o.device == "cuda") fail("--device cuda: this program was built without CUDA; --device cpu works everywhere");
  apply(o.recipe == "collapsing" ? recipes::collapsing() : o.recipe == "cured" ? recipes::cured() : recipes::measured(), o, given);
  if (o.data.empty()) o.data = o.train_dir.empty() ? "scenes" : "photographs";
  if (o.train_dir.empty() && o.data != "scenes" && o.data != "fashion-mnist" && !o.data.starts_with("cifar10:"))
    throw UsageError(text("--data ", o.data, ": expected scenes, fashion-mnist or cifar10:FOLDER; photographs are given by --train-dir"));
  if (o.train_dir.empty() && !o.val_dir.empty()) throw UsageError("--val-dir wants --train-dir beside it");
  if (o.crops && o.train_dir.empty()) throw UsageError("--crops wants --train-dir, a folder of photographs");
  const std::int64_t own_size = o.data == "scenes" ? 32 : o.data == "fashion-mnist" ? 28 : o.data.starts_with("cifar10:") ? 32 : 256;
  if (o.image_size == 0) o.image_size = own_size;
  if (o.out_channels == 0) o.out_channels = o.in_channels;
  if (o.train_dir.empty() && o.data != "scenes" && o.image_size != own_size) throw UsageError(text("--image-size ", o.image_size, ": the images of ", o.data, " have ", own_size));
  refuse_unless(o.temperature > 0 || !given.contains("temperature"), "temperature", o.temperature, "more than 0; without the flag the nearest code is taken");
  if (!o.perceptual_network.empty() && o.perceptual == 0) throw UsageError("--perceptual-network wants --perceptual, its weight, beside it");
  if (o.discriminator_layers == 0)
    while (o.discriminator_layers < 3 && (o.image_size >> (o.discriminator_layers + 1)) >= (o.discriminator_layers == 0 ? 4 : 6)) ++o.discriminator_layers;
  refuse_unless(!o.model_name.empty() && o.model_name.find('/') == std::string::npos, "model-name", o.model_name, "a name without '/'");
  check(o);
}

int train(const Options& o) {
  const Folder folder(o);
  if (!o.resume && !o.overwrite && (exists(folder.model) || exists(folder.path + "/metrics.csv")))
    fail(folder.path, " exists already; --resume goes on with it, --overwrite starts anew, or choose another --model-name");
  const ImageData data = load_data(o);
  for (const auto& note : data.notes) std::fprintf(stderr, "vqvae: note: %s\n", note.c_str());
  if (const auto warning = warning_of_adversary(o); !warning.empty()) std::fprintf(stderr, "vqvae: warning: %s\n", warning.c_str());
  const auto model = make_model(o, data.train.shape(), perceptual_network(o, data, folder.path));
  const std::int64_t vectors = o.batch_size * model->code_shape().height * model->code_shape().width;
  if (o.quantizer != "fsq" && o.quantizer != "lfq" && vectors < o.codes && !o.quiet)
    std::fprintf(stderr, "vqvae: note: a batch has %lld vectors for %lld codes; where codes start from data, they get their places over several batches\n", static_cast<long long>(vectors),
                 static_cast<long long>(o.codes));
  create_directories(folder.path);
  create_directories(folder.pictures);
  if (o.overwrite && exists(folder.checkpoints())) CheckpointStore(folder.checkpoints()).clear();
  write_file_atomically(folder.path + "/config.json", json_of(o).dump(2) + "\n");
  if (!o.quiet) print_headline(o, data, *model, folder);

  FitOptions fit;
  fit.epochs = o.epochs;
  fit.batch_size = o.batch_size;
  fit.validation = data.test;
  fit.metrics = MetricFiles{folder.path};
  fit.checkpoints = Checkpoints{.folder = folder.checkpoints(), .resume = o.resume};
  TensorBoardLog log(folder.path + "/logs");
  const EarlyStopping patience{.patience = o.early_stopping_patience};
  const StopOnSignal stop;
  const EpochLines lines{*model, o.quiet};
  fit.callbacks = {lines, log, stop};
  if (o.early_stopping_patience > 0) fit.callbacks.push_back(patience);
  const History history = model->fit(data.train, fit);
  if (stop.signal() != 0 && std::cmp_less(history.size(), o.epochs)) {
    std::fprintf(stderr, "vqvae: interrupted after step %llu, which is saved; the same command with --resume goes on\n", static_cast<unsigned long long>(model->steps()));
    return 128 + stop.signal();
  }

  const Usage usage = measure(*model, data.test, 1000, o.batch_size);
  write_png(folder.pictures + "/reconstructions.png", reconstruction_grid(*model, data.test, 32));
  report::Report page("vqvae: " + o.model_name, text(data.name, ", ", o.quantizer, ", ", model->code_count(), " codes, ", history.size(), " epochs"));
  add_usage(page, usage, *model, o);
  add_reconstructions(page, *model, data.test);
  add_gallery(page, *model, usage);
  page.section("Training");
  const auto series = [&](std::string name, double EpochMetrics::*number) {
    plot::Series s{std::move(name), {}, {}};
    for (const auto& row : history) s.x.push_back(double(row.epoch)), s.y.push_back(row.*number);
    return s;
  };
  page.figure("reconstruction_by_epoch", plot::Lines{"Reconstruction error", o.l1 > 0 ? "weighted mean |y - x|" : "mean square", "epoch",
              {series("training", &EpochMetrics::train_recon), series("test", &EpochMetrics::val_recon)}}, "Lower is better.");
  page.figure("quantizer_loss", plot::Lines{"Loss of the quantizer", "", "epoch", {series("training", &EpochMetrics::train_kl)}}, "Commitment and regularisers, weighted.");
  add_adversary(page, *model);
  model->save(folder.model, metadata_of(o, data.train.shape(), model->steps()));
  if (o.prior_epochs > 0) {
    UseOptions u;
    u.model_path = folder.model;
    u.epochs = o.prior_epochs;
    u.threads = o.threads;
    u.seed = o.seed;
    u.quiet = o.quiet;
    add_prior(page, *model, learn_prior(u, *model, data));
  }
  std::vector<report::Fact> facts;
  const auto options = json_of(o);
  for (const auto& [name, value] : options.items()) facts.push_back({name, value.is_string() ? value.get<std::string>() : value.dump()});
  page.table("options", "Options", facts, report::Width::two_thirds);
  report::add_machine(page, history, data.train.size(), model->threads());
  page.write(folder.path + "/report.html");
  if (!o.quiet) {
    std::printf("\ntest error %.6f (mean square); %lld of %lld codes used, normalised entropy %.3f\n", usage.reconstruction_error, static_cast<long long>(usage.whole.used),
                static_cast<long long>(usage.whole.codes), usage.whole.normalised_entropy);
    for (const auto& advice : advice_of(usage, *model, o)) std::printf("  %s: %s\n", advice.rule.c_str(), advice.sentence.c_str());
    std::printf("\n  %s\n  %s/reconstructions.png\n  %s/report.html\n", folder.model.c_str(), folder.pictures.c_str(), folder.path.c_str());
  }
  return 0;
}

}  // namespace vqvae
