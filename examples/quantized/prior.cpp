// The priors over codes: trained on the codes of a model's training images, and sampled from.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/data/codes.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/priors/causal_transformer.hpp>
#include <vaelib/priors/pixel_cnn.hpp>
#include <vaelib/report/pictures.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

#include "commands.hpp"
#include "data.hpp"
#include "model_file.hpp"
#include "prior.hpp"
#include "report.hpp"

namespace vqvae {

using namespace vaelib;

namespace {

std::string without_ending(const std::string& path) { return path.ends_with(".safetensors") ? path.substr(0, path.size() - 12) : path; }
std::string prior_of(const UseOptions& u) { return without_ending(u.model_path) + ".prior.safetensors"; }

/// The codes of an image as a grid: those of one vector lie side by side.
Shape grid_of(const Model& model) { return {model.code_shape().height, model.code_shape().width * model.per_vector(), 1}; }

Model::Codes codes_of(const Model& model, const SourceView& images, std::int64_t count) {
  Model::Codes all;
  for (std::int64_t first = 0; first < count; first += 256) {
    const auto some = model.look(take(images, first, std::min<std::int64_t>(256, count - first)), Model::Look::at_codes).codes;
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

struct PriorEpochs {
  LearntPrior& prior;
  Shape grid;
  bool quiet;
  void epoch_end(const RunState& state) const {
    const auto& m = state.history.back();
    prior.train.push_back(bits_per_code(m.train_loss, grid));
    prior.test.push_back(bits_per_code(m.val_loss, grid));
    if (quiet) return;
    std::printf("prior, epoch %lld  train %.3f  test %.3f bits a code (uniform codes: %.3f)  %.1f s\n", static_cast<long long>(m.epoch), prior.train.back(), prior.test.back(),
                prior.uniform, m.seconds);
    std::fflush(stdout);
  }
};

template <class Prior>
LearntPrior learn(Prior prior, const UseOptions& u, const Model& model, const ImageData& images) {
  const Shape grid = grid_of(model);
  const std::int64_t count = std::min(u.count > 0 ? u.count : 20'000, images.train.size());
  const data::Codes train(grid, codes_of(model, images.train, count), model.code_count());
  const data::Codes test(grid, codes_of(model, images.test, std::min<std::int64_t>(1000, images.test.size())), model.code_count());
  Trainer trainer{std::move(prior), Adam{.learning_rate = 1e-3f}, Cpu(int(u.threads)), u.seed};
  LearntPrior result{.kind = u.transformer ? "transformer" : "pixelcnn", .uniform = std::log2(double(model.code_count()))};
  const PriorEpochs epochs{result, grid, u.quiet};
  trainer.fit(train, {.epochs = u.epochs, .batch_size = 64, .validation = test, .callbacks = {epochs}});
  save(prior_of(u), trainer.weights(), {{"vqvae.prior", result.kind}});
  Session session(trainer.weights(), Cpu(trainer.learner.backend.threads()));
  result.drawn = sample_codes(session, 64, u.seed);
  return result;
}

template <class Prior>
void draw(Prior prior, const UseOptions& u, const OpenModel& open) {
  Weights<Prior, Cpu> weights(std::move(prior));
  load(prior_of(u), weights);
  Session session(weights, Cpu(int(u.threads)));
  const long count = u.count > 0 ? long(u.count) : 64;
  const auto codes = sample_codes(session, count, u.seed, {.temperature = u.temperature, .top_p = u.top_p});
  auto pixels = open.model->decode(codes, count);
  for (float& v : pixels) v = std::clamp(v, 0.0f, 1.0f);
  const std::string path = u.output.empty() ? without_ending(u.model_path) + ".samples.png" : u.output;
  write_png(path, report::tiles(pixels, open.model->image(), 8));
  std::printf("%s: %ld images\n", path.c_str(), count);
}

}  // namespace

LearntPrior learn_prior(const UseOptions& u, const Model& model, const ImageData& images) {
  const Shape grid = grid_of(model);
  const int codes = model.code_count();
  return u.transformer ? learn(CausalTransformer{.grid = grid, .codes = codes}, u, model, images) : learn(PixelCnn{.grid = grid, .codes = codes}, u, model, images);
}

void prior(const UseOptions& u) {
  const auto open = open_model(u.model_path, u.threads);
  const Shape grid = grid_of(*open.model);
  const int codes = open.model->code_count();
  if (u.command == "prior") {
    const auto learnt = learn_prior(u, *open.model, load_data(open.options));
    report::Report page("vqvae: prior", text(u.model_path, ", ", u.epochs, " epochs"));
    page.number("bits_per_code", "bits a code", learnt.test.back(), "test images");
    add_prior(page, *open.model, learnt);
    const std::string path = without_ending(u.model_path) + ".prior.html";
    page.write(path);
    std::printf("%s\n%s\n", prior_of(u).c_str(), path.c_str());
    return;
  }
  const SafetensorsFile file(prior_of(u));
  const auto kind = file.metadata().find("vqvae.prior");
  if (kind == file.metadata().end()) fail(prior_of(u), ": is no prior of vqvae: its metadata has no 'vqvae.prior'");
  if (kind->second == "transformer") return draw(CausalTransformer{.grid = grid, .codes = codes}, u, open);
  draw(PixelCnn{.grid = grid, .codes = codes}, u, open);
}

}  // namespace vqvae
