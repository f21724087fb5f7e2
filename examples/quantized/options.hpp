// What `vqvae` is told: one table for the command line and for what a model file keeps.
#pragma once

#include <cstdint>
#include <string>

#include "../usage_error.hpp"

namespace vqvae {

using program::UsageError;

struct Options {
  // data
  std::string data, train_dir, val_dir;
  std::int64_t image_size = 0, in_channels = 3, out_channels = 0, images = 0;
  bool crops = false;
  // network
  std::int64_t halvings = 2, width = 128, hidden = 32, blocks = 2, code_width = 64;
  // quantizer
  std::string quantizer = "vq", recipe = "measured", levels = "8,8,8", distance = "euclidean", gradient = "straight-through", start = "k-means";
  std::int64_t codes = 512, depth = 4, low_width = 0, replace_steps = 1, replace_epochs = 0, grow_from = 0, grow_epochs = 10;
  double decay = 0.8, commitment = 1, commitment_warmup_epochs = 0, temperature = 0, spread = 0, focus = 0, dead_below_mean = 0.5, dead_below = 0, lowest = 0;
  bool learned_codes = false;
  // adversary
  double adversarial = 0, perceptual = 0;
  std::string adversary = "hinge", perceptual_network;
  std::int64_t discriminator_start = 5, discriminator_width = 64, discriminator_layers = 0;
  // training
  std::int64_t epochs = 100, batch_size = 64, early_stopping_patience = 10, threads = 0;
  std::uint64_t seed = 0;
  double lr = 1e-3, l1 = 0;
  std::string device = "auto";
  std::int64_t prior_epochs = 0;
  bool use_amp = false, resume = false, overwrite = false, quiet = false;
  // output
  std::string model_dir = "runs/vqvae", model_name = "vqvae", sample_dir;
};

/// f(name, help, member, group); `kept` options are part of what a model is.
template <class O, class F>
void each_option(O& o, F&& f) {
  const char *data = "Data", *network = "Network", *quantizer = "Quantizer", *adversary = "Adversary", *training = "Training", *output = "Output";
  f("data", "scenes (colour, made on the fly), fashion-mnist, cifar10:FOLDER [photographs where --train-dir is given, else scenes]", o.data, data);
  f("train-dir", "a folder of PNG and JPEG photographs to learn from", o.train_dir, data);
  f("val-dir", "one to test on [a tenth of --train-dir, or other crops of it]", o.val_dir, data);
  f("image-size", "pixels; photographs are cut to squares and scaled to it [256; scenes 32]", o.image_size, data);
  f("crops", "random crops of --image-size out of the photographs, mirrored, colours jittered, instead of whole ones", o.crops, data);
  f("in-channels", "of photographs: 3, or 1 for grey", o.in_channels, data);
  f("out-channels", "has to be the same [--in-channels]", o.out_channels, data);
  f("images", "images (crops) of an epoch; 0: all", o.images, data);

  f("halvings", "how often an image is halved: codes of 1/2^N its size", o.halvings, network);
  f("width", "channels within", o.width, network);
  f("hidden", "channels within residual blocks", o.hidden, network);
  f("blocks", "residual blocks each way", o.blocks, network);
  f("code-width", "numbers of a code", o.code_width, network);

  f("quantizer", "vq, fsq, lfq, simvq, gumbel, residual, product or grouped", o.quantizer, quantizer);
  f("recipe", "measured (what measured best), collapsing (a start known to fail) or cured (its remedy); sets what is not given", o.recipe, quantizer);
  f("codes", "in the codebook", o.codes, quantizer);
  f("levels", "of fsq, for each channel", o.levels, quantizer);
  f("depth", "of residual; parts of product and grouped: 2, 4 or 8", o.depth, quantizer);
  f("low-width", "codes of so few numbers, by projections; 0: --code-width (lfq: the bits of --codes)", o.low_width, quantizer);
  f("decay", "of the codes' moving averages", o.decay, quantizer);
  f("learned-codes", "codes learn by gradient instead", o.learned_codes, quantizer);
  f("distance", "euclidean or cosine", o.distance, quantizer);
  f("gradient", "straight-through or rotation", o.gradient, quantizer);
  f("start", "uniform, normal, data or k-means", o.start, quantizer);
  f("commitment", "weight of the commitment loss", o.commitment, quantizer);
  f("commitment-warmup-epochs", "it rises from 0 within these", o.commitment_warmup_epochs, quantizer);
  f("temperature", "codes are drawn at it in training; 0: the nearest is taken. gumbel: of its noise", o.temperature, quantizer);
  f("spread", "weight of log K - H(mean assignment), nats: even use of the codes", o.spread, quantizer);
  f("focus", "weight of the entropy of a vector's assignment, nats", o.focus, quantizer);
  f("dead-below-mean", "codes counted less than this share of the mean are replaced", o.dead_below_mean, quantizer);
  f("dead-below", "and those counted less than this, in vectors a batch", o.dead_below, quantizer);
  f("lowest", "and this share of the least used", o.lowest, quantizer);
  f("replace-steps", "every so many steps; 0: not by steps", o.replace_steps, quantizer);
  f("replace-epochs", "every so many epochs; 0: not by epochs", o.replace_epochs, quantizer);
  f("grow-from", "codebook expansion: begin with so many codes; 0: all", o.grow_from, quantizer);
  f("grow-epochs", "and have all of --codes after so many epochs", o.grow_epochs, quantizer);

  f("adversarial", "weight of a discriminator's judgement (VQGAN), beside the one that is found in each step; 0: no discriminator", o.adversarial, adversary);
  f("adversary", "hinge or vanilla", o.adversary, adversary);
  f("discriminator-start", "epochs before the discriminator takes part", o.discriminator_start, adversary);
  f("discriminator-width", "channels of its first layer", o.discriminator_width, adversary);
  f("discriminator-layers", "how often it halves an image; 0: up to 3 times", o.discriminator_layers, adversary);
  f("perceptual", "weight of the perceptual distance; 0: none", o.perceptual, adversary);
  f("perceptual-network", "FILE.safetensors of a VGG as lpips or torchvision names it [a classifier, trained on the same images first]", o.perceptual_network, adversary);

  f("epochs", "times that the images are gone through", o.epochs, training);
  f("batch-size", "images a step", o.batch_size, training);
  f("lr", "learning rate of Adam", o.lr, training);
  f("l1", "weight of mean |y - x|, instead of the squared error; 0: the squared error", o.l1, training);
  f("early-stopping-patience", "end when the test error has not become better for so many epochs; 0: never", o.early_stopping_patience, training);
  f("seed", "of first weights, order and noise", o.seed, training);
  f("device", "auto, cpu or cuda", o.device, training);
  f("threads", "0: as many as this process may use", o.threads, training);
  f("prior-epochs", "then learn for so many epochs how codes go together, and draw new images into the report; 0: not", o.prior_epochs, training);
  f("use-amp", "products in bfloat16", o.use_amp, training);

  f("model-dir", "folder of models", o.model_dir, output);
  f("model-name", "MODEL_DIR/MODEL_NAME.safetensors, and a folder of that name beside it", o.model_name, output);
  f("sample-dir", "folder of pictures [MODEL_DIR/MODEL_NAME]", o.sample_dir, output);
  f("resume", "go on from the newest checkpoint of this model", o.resume, output);
  f("overwrite", "start anew where a model of this name exists", o.overwrite, output);
  f("quiet", "print nothing but errors", o.quiet, output);
}

/// Throws UsageError where a number is out of its range or a name is unknown.
void check(const Options& options);

/// Of `vqvae` commands that use a model, and of `codebook`.
struct UseOptions {
  std::string command, model_path, other_path, data, data_dir, output, output_dir = "codebook_analysis";
  std::int64_t image_size = 0, batch_size = 32, count = 0, epochs = 20, threads = 0;
  std::uint64_t seed = 0;
  double temperature = 1, top_p = 1;
  bool latents = false, plot = false, save_details = false, transformer = false, quiet = false;
};

}  // namespace vqvae
