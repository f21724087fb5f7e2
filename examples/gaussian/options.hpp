// What `vae train` is told. One table (each_flag) holds every flag with its place, its check and its help; the command
// line, config.json and a resumed run all go through it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "../usage_error.hpp"

namespace vae {

using program::UsageError;

struct TrainOptions {
  std::string model_type = "conv", likelihood = "bernoulli";
  std::int64_t code_size = 20, hidden_size = 400;
  bool conditional = false;

  std::string data, data_dir;  ///< empty until choose_folder() and resolve()
  std::int64_t images = 0, image_size = 64, channels = 3;
  double test_share = 0.1;

  std::int64_t epochs = 50, batch_size = 128, micro_batch = 0, patience = 0;
  std::string monitor = "neg_elbo";
  double lr = 1e-3, clip_norm = 0, ema = 0;
  std::string init_from, init_parts = "encoder.";
  std::string non_finite = "stop", precision = "single";
  std::uint64_t seed = 0;

  double beta = 1, min_beta = 0, max_beta = 1, free_bits = 0;
  std::string beta_strategy = "constant", free_bits_per = "dimension";
  std::int64_t free_bits_group = 2;
  bool tc_decomposition = false, aggressive_encoder = false;
  double target_kl = 0, mi_weight = 1, tc_weight = 6, dimension_weight = 1, variance_weight = 0, mean_weight = 0;
  std::int64_t cycle_length = 5000, beta_warmup_steps = 0;

  std::string output_dir;  ///< empty until choose_folder()
  std::int64_t checkpoint_every = 0, keep_best = 0;
  double checkpoint_seconds = 0;
  std::string resume;  ///< empty: no; "auto": from the newest checkpoint; else from this file
  bool overwrite = false, quiet = false;

  std::string device = "auto";
  std::int64_t threads = 0;
};

/// What a resumed run does with a flag.
enum class Role {
  identity,  ///< part of what the run is: it must be the same, and is taken from config.json where it is not given
  course,    ///< may change from here on, and is taken from config.json where it is not given
  machine,   ///< kept in config.json for the reader; never taken from there
  call       ///< of this one call; not kept
};

/// Empty where a value is right, else "expected ..., found ...".
using Check = std::function<std::string(const std::string& value)>;

Check one_of(std::vector<std::string> choices);
Check whole_number(std::uint64_t least, std::uint64_t most);
Check number(double least, double most);
Check not_empty();

struct Flag {
  std::string name;   ///< without "--"
  std::string value;  ///< how help calls its value; empty for a switch; in [brackets] where the flag alone means "auto"
  Role role;
  std::string group, help;
  Check check{};
  bool shows_default = true;  ///< in help; false where the text says what it depends on
};

/// f(flag, member) for every flag of `vae train`, in the order of its help.
template <class Options, class F>
void each_flag(Options& o, F&& f) {
  using enum Role;
  const std::string model = "Model", data = "Data", training = "Training", beta = "Weight of the KL divergence",
                    output = "Output", machine_group = "Machine";
  const Check choice_of_strategy = one_of({"constant", "linear", "cyclical", "sigmoid"});
  const Check steps = whole_number(0, 1'000'000'000'000), weight = number(0, 1e6);

  f(Flag{"model-type", "conv|fc", identity, model, "convolutional or fully connected", one_of({"conv", "fc"})},
    o.model_type);
  f(Flag{"code-size", "N", identity, model, "numbers in a code z; with 2, latent_space.png is drawn",
         whole_number(1, 4096)},
    o.code_size);
  f(Flag{"hidden-size", "N", identity, model, "units of the hidden layers of fc (conv has its own sizes)",
         whole_number(1, 65536)},
    o.hidden_size);
  f(Flag{"likelihood", "NAME", identity, model,
         "of the pixels: bernoulli, continuous-bernoulli, gaussian (sigma^2 = 1/2: the\n"
         "squared error), learned-gaussian (sigma is a parameter), optimal-gaussian\n"
         "(sigma^2 is the mean squared error of the batch), laplace, learned-laplace",
         one_of({"bernoulli", "continuous-bernoulli", "gaussian", "learned-gaussian", "optimal-gaussian", "laplace", "learned-laplace"})},
    o.likelihood);
  f(Flag{"conditional", "", identity, model, "encoder and decoder are told the label of each image"}, o.conditional);

  f(Flag{"data", "PATH|NAME", identity, data,
         "a folder of photographs (PNG, JPEG; its subfolders are classes), of MNIST's\n"
         "files or of CIFAR-10's binary ones, an array of images (.npy, .npz);\n"
         "or fashion-mnist, or shapes (64 x 64, made on the fly)\n"
         "[fashion-mnist where its files are found, else shapes]",
         not_empty(), false},
    o.data);
  f(Flag{"data-dir", "PATH", course, data,
         "where the files of --data mnist, fashion-mnist, cifar10, images or array lie\n"
         "[fashion-mnist: where Debian's dataset-fashion-mnist puts them]",
         not_empty(), false},
    o.data_dir);
  f(Flag{"images", "N", identity, data,
         "train on the first N images only; 0: on all (of shapes 20000 new ones an epoch)",
         whole_number(0, 4'000'000'000)},
    o.images);
  f(Flag{"image-size", "PIXELS", identity, data, "photographs are cut to squares and scaled to this size", whole_number(4, 1024)},
    o.image_size);
  f(Flag{"channels", "1|3", identity, data, "photographs in grey or in colour", one_of({"1", "3"})}, o.channels);
  f(Flag{"test-share", "X", identity, data, "of photographs and arrays, drawn by --seed, is kept for testing", number(1e-6, 0.9)},
    o.test_share);

  f(Flag{"epochs", "N", course, training, "times that all images are gone through, those of a resumed run included",
         whole_number(1, 1'000'000)},
    o.epochs);
  f(Flag{"patience", "N", course, training,
         "end the run when the test -ELBO (--monitor) has not become better for N epochs;\n0: never", whole_number(0, 1'000'000)},
    o.patience);
  f(Flag{"monitor", "NAME", course, training,
         "what --patience and model_best.safetensors go by: neg_elbo, or a figure of the\n"
         "posterior of test images, as collapse.csv has them: collapse_ratio, avg_kl,\n"
         "avg_active_units, avg_mutual_info, val_z_var (nearest to 1),\n"
         "effective_latent_dims, latent_utilization_ratio",
         one_of({"neg_elbo", "collapse_ratio", "avg_kl", "avg_active_units", "avg_mutual_info", "val_z_var", "effective_latent_dims", "latent_utilization_ratio"})},
    o.monitor);
  f(Flag{"batch-size", "N", identity, training, "images a step", whole_number(1, 1'000'000)}, o.batch_size);
  f(Flag{"micro-batch", "N", identity, training,
         "a batch is computed in parts of N images, their gradients added up: the same\nsteps in less memory; 0: as a whole",
         whole_number(0, 1'000'000)},
    o.micro_batch);
  f(Flag{"lr", "RATE", course, training, "learning rate of Adam", number(1e-12, 1e3)}, o.lr);
  f(Flag{"clip-norm", "X", course, training, "gradients of a larger norm are scaled down to it; 0: never",
         number(0, 1e12)},
    o.clip_norm);
  f(Flag{"non-finite", "NAME", course, training,
         "what to do about a step whose loss or gradients are not finite: stop, skip it,\nor roll-back to the last weights that were",
         one_of({"stop", "skip", "roll-back"})},
    o.non_finite);
  f(Flag{"precision", "NAME", course, training,
         "of the operands of products and convolutions while training: single, or\n"
         "bfloat16, which is faster on processors with AVX512_BF16; sums, weights and\n"
         "everything else are single, and so is every later use of the model",
         one_of({"single", "bfloat16"})},
    o.precision);
  f(Flag{"ema", "DECAY", identity, training,
         "keep an exponential moving average of the weights, which is what is tested and\nsaved in the end (0.999 is usual); 0: none",
         number(0, 0.9999999)},
    o.ema);
  f(Flag{"init-from", "FILE", identity, training, "begin with a part of the weights of another model.safetensors", not_empty(), false},
    o.init_from);
  f(Flag{"init-parts", "NAMES", identity, training, "which part: beginnings of names of its tensors, separated by commas", not_empty()},
    o.init_parts);
  f(Flag{"seed", "N", identity, training, "of first weights, order, noise and shapes", whole_number(0, ~0ull)}, o.seed);

  f(Flag{"beta", "X", course, beta, "the weight, at every step", weight}, o.beta);
  f(Flag{"beta-strategy", "NAME", course, beta,
         "constant: --beta, after a rise from 0 within --beta-warmup-steps\n"
         "linear, sigmoid: from --min-beta to --max-beta within --beta-warmup-steps\n"
         "cyclical: the same every --cycle-length steps: a linear rise, then --max-beta",
         choice_of_strategy},
    o.beta_strategy);
  f(Flag{"min-beta", "X", course, beta, "where linear, sigmoid and every cycle begin", weight}, o.min_beta);
  f(Flag{"max-beta", "X", course, beta, "where linear, sigmoid and every rise end [--beta]", weight, false},
    o.max_beta);
  f(Flag{"cycle-length", "STEPS", course, beta, "of cyclical", whole_number(1, 1'000'000'000'000)}, o.cycle_length);
  f(Flag{"beta-warmup-steps", "STEPS", course, beta,
         "how long a rise takes [constant: 0; linear, sigmoid: 5000;\ncyclical: half of --cycle-length]", steps, false},
    o.beta_warmup_steps);
  f(Flag{"free-bits", "NATS", course, beta,
         "each dimension of the code may have so much KL divergence (mean of a batch)\nwithout paying for it", weight},
    o.free_bits);
  f(Flag{"free-bits-per", "NAME", course, beta, "they are those of a dimension, of a group of dimensions, or total", one_of({"dimension", "group", "total"})},
    o.free_bits_per);
  f(Flag{"free-bits-group", "N", course, beta, "dimensions of a group", whole_number(1, 4096)}, o.free_bits_group);
  f(Flag{"target-kl", "NATS", identity, beta,
         "free bits adapt, so that a dimension has so much KL divergence on average;\n0: they do not", number(0, 1e3)},
    o.target_kl);
  f(Flag{"tc-decomposition", "", course, beta,
         "weigh the three parts of the KL divergence each by itself (beta-TCVAE);\nfree bits do not apply then"},
    o.tc_decomposition);
  f(Flag{"mi-weight", "X", course, beta, "of the mutual information of image and code", weight}, o.mi_weight);
  f(Flag{"tc-weight", "X", course, beta, "of the total correlation", weight}, o.tc_weight);
  f(Flag{"dimension-weight", "X", course, beta, "of the KL divergences of the single dimensions", weight}, o.dimension_weight);
  f(Flag{"aggressive-encoder", "", course, beta,
         "before each step the encoder alone learns until the objective falls no more,\nwhile the mutual information of image and code grows from epoch to epoch"},
    o.aggressive_encoder);
  f(Flag{"variance-weight", "X", course, beta, "of (variance - 1)^2 of the codes of a batch, summed over dimensions", weight}, o.variance_weight);
  f(Flag{"mean-weight", "X", course, beta, "of the squared mean of the codes of a batch, summed over dimensions", weight}, o.mean_weight);

  f(Flag{"output-dir", "FOLDER", call, output, "[runs/<model type>-<data>]", not_empty(), false}, o.output_dir);
  f(Flag{"resume", "[auto|FILE]", call, output,
         "go on from a checkpoint: the newest in the output folder (start where there is\n"
         "none), or this one; flags that are not given are those of that run",
         not_empty(), false},
    o.resume);
  f(Flag{"overwrite", "", call, output, "remove the run that the output folder holds, and start anew"}, o.overwrite);
  f(Flag{"checkpoint-every", "STEPS", course, output, "between checkpoints; 0: after each epoch only", steps},
    o.checkpoint_every);
  f(Flag{"checkpoint-seconds", "X", course, output, "the same by the clock; 0: never", number(0, 1e9)}, o.checkpoint_seconds);
  f(Flag{"keep-best", "N", course, output,
         "keep the checkpoints of the N epochs of the best test -ELBO as well\n(checkpoints/best-*), and model_best.safetensors",
         whole_number(0, 1000)},
    o.keep_best);
  f(Flag{"quiet", "", call, output, "print nothing but errors"}, o.quiet);

  f(Flag{"device", "NAME", machine, machine_group, "auto, cpu, cuda or mps", one_of({"auto", "cpu", "cuda", "mps"})},
    o.device);
  f(Flag{"threads", "N", machine, machine_group, "0: as many as this process may use; the results do not depend on it",
         whole_number(0, 1024)},
    o.threads);
}

/// What was given on the command line, by the names of the flags.
using Given = std::set<std::string>;

/// Values by the names of flags, as text.
using Values = std::map<std::string, std::string>;

/// Sets what is not given yet. Throws UsageError, naming `origin`, where a name or a value is not one of a flag.
void set_flags(TrainOptions& options, Given& given, const Values& values, const std::string& origin);

/// Takes over from an earlier run what was not given. Throws vaelib::Error where what was given belongs to another run.
void take_over(TrainOptions& options, Given& given, const Values& earlier,
               const std::string& folder);

/// Fills in data and output_dir, which tell where an earlier run may lie.
void choose_folder(TrainOptions& options, Given& given);

/// Fills in the other defaults that depend on other flags, and refuses what does not go together.
void resolve(TrainOptions& options, const Given& given);

/// The one of `known` that is most like a word; empty where none is.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

/// One sentence for each given flag that changes nothing.
std::vector<std::string> flags_without_effect(const TrainOptions& options, const Given& given);

/// Of a value, as it would be typed; doubles by their shortest text that reads back to the same number.
std::string text_of_value(const std::string& value);
std::string text_of_value(std::int64_t value);
std::string text_of_value(std::uint64_t value);
std::string text_of_value(double value);
std::string text_of_value(bool value);

}  // namespace vae
