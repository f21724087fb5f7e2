// What `vae train` is told. One table (each_flag) holds every flag with its place, its check and its help; the command
// line, config.json and a resumed run all go through it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace vae {

/// The command line is wrong: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TrainOptions {
  std::string model_type = "conv", likelihood = "bernoulli";
  std::int64_t code_size = 20, hidden_size = 400;
  bool conditional = false;

  std::string data, data_dir;  ///< empty until choose_folder() and resolve()
  std::int64_t images = 0;

  std::int64_t epochs = 50, batch_size = 128, patience = 0;
  double lr = 1e-3, clip_norm = 0;
  std::string non_finite = "stop";
  std::uint64_t seed = 0;

  double beta = 1, min_beta = 0, max_beta = 1, free_bits = 0;
  std::string beta_strategy = "constant";
  std::int64_t cycle_length = 5000, beta_warmup_steps = 0;

  std::string output_dir;  ///< empty until choose_folder()
  std::int64_t checkpoint_every = 0;
  bool resume = false, overwrite = false, quiet = false;

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
  std::string value;  ///< how help calls its value; empty for a switch
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
         "of the pixels: bernoulli, gaussian (sigma^2 = 1/2: the squared error),\n"
         "learned-gaussian (sigma is a parameter), optimal-gaussian (sigma^2 is the\nmean squared error of the batch)",
         one_of({"bernoulli", "gaussian", "learned-gaussian", "optimal-gaussian"})},
    o.likelihood);
  f(Flag{"conditional", "", identity, model, "encoder and decoder are told the label of each image"}, o.conditional);

  f(Flag{"data", "NAME", identity, data,
         "fashion-mnist, mnist, or shapes (64 x 64, made on the fly)\n"
         "[fashion-mnist where its files are found, else shapes]",
         one_of({"shapes", "mnist", "fashion-mnist"}), false},
    o.data);
  f(Flag{"data-dir", "FOLDER", course, data,
         "of the four IDX files, plain or .gz\n[where Debian's dataset-fashion-mnist puts them; mnist has no default]",
         not_empty(), false},
    o.data_dir);
  f(Flag{"images", "N", identity, data,
         "train on the first N images only; 0: on all (of shapes 20000 new ones an epoch)",
         whole_number(0, 4'000'000'000)},
    o.images);

  f(Flag{"epochs", "N", course, training, "times that all images are gone through, those of a resumed run included",
         whole_number(1, 1'000'000)},
    o.epochs);
  f(Flag{"patience", "N", course, training,
         "end the run when the test -ELBO has not become better for N epochs; 0: never", whole_number(0, 1'000'000)},
    o.patience);
  f(Flag{"batch-size", "N", identity, training, "images a step", whole_number(1, 1'000'000)}, o.batch_size);
  f(Flag{"lr", "RATE", course, training, "learning rate of Adam", number(1e-12, 1e3)}, o.lr);
  f(Flag{"clip-norm", "X", course, training, "gradients of a larger norm are scaled down to it; 0: never",
         number(0, 1e12)},
    o.clip_norm);
  f(Flag{"non-finite", "stop|skip", course, training, "what to do about a step whose loss or gradients are not finite",
         one_of({"stop", "skip"})},
    o.non_finite);
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

  f(Flag{"output-dir", "FOLDER", call, output, "[runs/<model type>-<data>]", not_empty(), false}, o.output_dir);
  f(Flag{"resume", "", call, output,
         "go on from the newest checkpoint in the output folder, or start where there\n"
         "is none; flags that are not given are those of that run"},
    o.resume);
  f(Flag{"overwrite", "", call, output, "remove the run that the output folder holds, and start anew"}, o.overwrite);
  f(Flag{"checkpoint-every", "STEPS", course, output, "between checkpoints; 0: after each epoch only", steps},
    o.checkpoint_every);
  f(Flag{"quiet", "", call, output, "print nothing but errors"}, o.quiet);

  f(Flag{"device", "NAME", machine, machine_group, "auto, cpu, cuda or mps", one_of({"auto", "cpu", "cuda", "mps"})},
    o.device);
  f(Flag{"threads", "N", machine, machine_group, "0: as many as this process may use; the results do not depend on it",
         whole_number(0, 1024)},
    o.threads);
}

/// What was given on the command line, by the names of the flags.
using Given = std::set<std::string>;

/// Takes over from an earlier run what was not given. Throws vaelib::Error where what was given belongs to another run.
void take_over(TrainOptions& options, Given& given, const std::map<std::string, std::string>& earlier,
               const std::string& folder);

/// Fills in data and output_dir, which tell where an earlier run may lie.
void choose_folder(TrainOptions& options, const Given& given);

/// Fills in the other defaults that depend on other flags, and refuses what does not go together.
void resolve(TrainOptions& options, const Given& given);

/// One sentence for each given flag that changes nothing.
std::vector<std::string> flags_without_effect(const TrainOptions& options, const Given& given);

/// Of a value, as it would be typed; doubles by their shortest text that reads back to the same number.
std::string text_of_value(const std::string& value);
std::string text_of_value(std::int64_t value);
std::string text_of_value(std::uint64_t value);
std::string text_of_value(double value);
std::string text_of_value(bool value);

}  // namespace vae
