// What `setvae` is told: one table for the command line and for what a model file keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vaelib/report/collapse.hpp>

#include "../usage_error.hpp"

namespace setvae {

using program::UsageError;

struct Options {
  // data
  std::string data = "solids", normalise = "no";
  std::int64_t sets = 0, least = 50, most = 500;
  double test_share = 0.1;
  // model
  std::string preset = "measured", initial = "gaussian", norm = "post";
  std::int64_t width = 64, heads = 4, latent = 4, levels = 2, inducing = 8, components = 4;
  double sigma = 0.1;
  // weight of the KL divergence
  std::string beta_strategy = "cyclical", free_bits_per = "number";
  bool spectral_norm = false, balance_levels = false, tc_decomposition = false;
  double mi_weight = 1, tc_weight = 1, dimension_weight = 1;
  double beta = 1, min_beta = 0, max_beta = 1, free_bits = 0.2, deeper = 1, pc_threshold = 0.1;
  std::int64_t cycle_length = 5000, beta_warmup_steps = 0;
  // training
  std::int64_t epochs = 20, batch_size = 32, patience = 0, threads = 0;
  std::string monitor = "neg_elbo";
  bool keep_best = false;
  std::uint64_t seed = 0;
  double lr = 1e-3, clip_norm = 10;
  // output
  std::string output_dir = "runs/setvae";
  bool resume = false, overwrite = false, quiet = false;
};

/// f(name, help, member, group)
template <class O, class F>
void each_option(O& o, F&& f) {
  const char *data = "Data", *model = "Model", *beta = "Weight of the KL divergence", *training = "Training", *output = "Output";
  f("data", "solids (points on spheres, tori, boxes, cones, made on the fly), fashion-mnist (bright pixels), or PATH: a folder of .ply, .xyz and .npy files, a set each, or one .npy or .npz of all (docs/sets.md)", o.data, data);
  f("sets", "sets of an epoch; 0: all, of solids 20000", o.sets, data);
  f("test-share", "of the sets of files, drawn by --seed, is kept for testing", o.test_share, data);
  f("normalise", "sets of files are moved and scaled into the ball of radius 1: no, each by itself, or all alike", o.normalise, data);
  f("least", "points of a solid, at least", o.least, data);
  f("most", "and at most", o.most, data);

  f("preset", "measured (the defaults), or reference (the published settings: 256 numbers a row, 2 heads, 16 rows, rate 1e-4, beta to 0.5, spectral norm); sets what is not given", o.preset, model);
  f("width", "features of a point within", o.width, model);
  f("heads", "of attention", o.heads, model);
  f("latent", "numbers of an inducing row", o.latent, model);
  f("levels", "of the hierarchy", o.levels, model);
  f("inducing", "rows of a level", o.inducing, model);
  f("norm", "of the attention blocks: post, pre or none", o.norm, model);
  f("spectral-norm", "weights of the linear layers are divided by their largest singular values", o.spectral_norm, model);
  f("initial", "random points that become a set: gaussian, mixture or fixed", o.initial, model);
  f("components", "of a mixture", o.components, model);
  f("sigma", "a Chamfer distance counts as that of points that lie so far from the true ones", o.sigma, model);

  f("beta", "the weight, with --beta-strategy constant", o.beta, beta);
  f("beta-strategy", "constant, linear, sigmoid or cyclical", o.beta_strategy, beta);
  f("min-beta", "where a rise begins", o.min_beta, beta);
  f("max-beta", "where it ends", o.max_beta, beta);
  f("cycle-length", "steps of a cycle", o.cycle_length, beta);
  f("beta-warmup-steps", "of a rise [half of a cycle; linear and sigmoid: 5000]", o.beta_warmup_steps, beta);
  f("free-bits", "nats that cost nothing", o.free_bits, beta);
  f("free-bits-per", "of each number, of a level, or in total", o.free_bits_per, beta);
  f("deeper", "weight of a level, as a multiple of the one nearer to the data", o.deeper, beta);
  f("balance-levels", "while beta is below --max-beta a level with a smaller KL divergence pays less for it", o.balance_levels, beta);
  f("tc-decomposition", "the KL divergence of a level in parts, instead of free bits: mutual information, total correlation, single numbers", o.tc_decomposition, beta);
  f("mi-weight", "of the mutual information of set and code", o.mi_weight, beta);
  f("tc-weight", "of the total correlation", o.tc_weight, beta);
  f("dimension-weight", "of the KL divergences of the single numbers", o.dimension_weight, beta);
  f("pc-threshold", "nats: a number with less has collapsed", o.pc_threshold, beta);

  f("epochs", "times that the sets are gone through", o.epochs, training);
  f("batch-size", "sets a step", o.batch_size, training);
  f("lr", "learning rate of Adam", o.lr, training);
  f("clip-norm", "gradients of a larger norm are scaled down to it; 0: never", o.clip_norm, training);
  f("patience", "end when what --monitor names has not become better for so many epochs; 0: never", o.patience, training);
  f("monitor", "neg_elbo, of test sets, or a figure of collapse.csv: collapse_ratio, latent_utilization_ratio, avg_kl, ...", o.monitor, training);
  f("keep-best", "write model_best.safetensors after the best epochs as well, by --monitor", o.keep_best, training);
  f("seed", "of first weights, order, noise and solids", o.seed, training);
  f("threads", "0: as many as this process may use", o.threads, training);

  f("output-dir", "folder of the run", o.output_dir, output);
  f("resume", "go on from the newest checkpoint of the run", o.resume, output);
  f("overwrite", "start anew where the folder holds a run", o.overwrite, output);
  f("quiet", "print nothing but errors", o.quiet, output);
}

/// Of the commands that use a run.
struct UseOptions {
  std::string command, run, output, format;
  std::int64_t count = 0, points = 0, steps = 8, threads = 0;
  std::uint64_t seed = 0;
};

/// Exit code: 0, or 128 + signal where the run was interrupted and saved.
int train(const Options& options);
void use(const UseOptions& options);  ///< sample, reconstruct, interpolate, analyze

/// What a run is judged by, from the folder of a run.
vaelib::CollapseEvidence examine_run(const std::string& path, std::int64_t count, std::uint64_t seed);

}  // namespace setvae
