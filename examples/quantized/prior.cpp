// The priors over codes: trained on the codes of a model's training images, and sampled from.
#include <algorithm>
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
    const auto some = model.encode(take(images, first, std::min<std::int64_t>(256, count - first)));
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

template <class Prior>
void train_prior(Prior prior, const UseOptions& u, const OpenModel& open) {
  const auto images = load_data(open.options);
  const auto& model = *open.model;
  const Shape grid = grid_of(model);
  const std::int64_t count = std::min(u.count > 0 ? u.count : 20'000, images.train.size());
  const data::Codes train(grid, codes_of(model, images.train, count), model.code_count());
  const data::Codes test(grid, codes_of(model, images.test, std::min<std::int64_t>(1000, images.test.size())), model.code_count());
  Trainer trainer{std::move(prior), Adam{.learning_rate = 1e-3f}, Cpu(int(u.threads)), u.seed};
  const auto history = trainer.fit(train, {.epochs = u.epochs, .batch_size = 64, .validation = test, .progress = ProgressStyle::automatic});
  save(prior_of(u), trainer.weights(), {{"vqvae.prior", u.transformer ? "transformer" : "pixelcnn"}});
  std::printf("%.3f bits a code on test images (uniform codes: %.3f)\n%s\n", bits_per_code(history.back().val_loss, grid), std::log2(double(model.code_count())), prior_of(u).c_str());
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

void prior(const UseOptions& u) {
  const auto open = open_model(u.model_path, u.threads);
  const Shape grid = grid_of(*open.model);
  const int codes = open.model->code_count();
  if (u.command == "prior") {
    if (u.transformer) return train_prior(CausalTransformer{.grid = grid, .codes = codes}, u, open);
    return train_prior(PixelCnn{.grid = grid, .codes = codes}, u, open);
  }
  const SafetensorsFile file(prior_of(u));
  const auto kind = file.metadata().find("vqvae.prior");
  if (kind == file.metadata().end()) fail(prior_of(u), ": is no prior of vqvae: its metadata has no 'vqvae.prior'");
  if (kind->second == "transformer") return draw(CausalTransformer{.grid = grid, .codes = codes}, u, open);
  draw(PixelCnn{.grid = grid, .codes = codes}, u, open);
}

}  // namespace vqvae
