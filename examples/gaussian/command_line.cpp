#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <vaelib/core/error.hpp>
#include <vaelib/version.hpp>

#include "config.hpp"

namespace vae {

using vaelib::text;

namespace {

constexpr const char* examples_of_vae = R"(
Examples:
  vae train                              a convolutional VAE, 50 epochs
  vae train --model-type fc --epochs 10  a fully connected one, 10 epochs
  vae sample runs/fc-fashion-mnist       new images of the trained model
  vae train --help                       all flags of a command)";

constexpr const char* examples_of_train = R"(
Losses are in nats an image. The output folder receives
  model.safetensors      the weights, by PyTorch's names and layouts
  config.json            the flags, the data and the model
  metrics.csv, .jsonl    the losses of each epoch, for training and test images
  training_losses.png    the same as curves
  reconstructions.png    test images, and below each what the VAE makes of it
  generated_samples.png  new images; with --conditional a row a label
  latent_space.png       where the test images lie, with --code-size 2 only
  report.html, .json     all of this and more as a page for the browser, and its numbers
  checkpoints/           what --resume goes on from
  logs/                  the same for TensorBoard: tensorboard --logdir FOLDER/logs

Examples:
  vae train --epochs 10 --code-size 16
  vae train --model-type fc --hidden-size 400 --code-size 2
  vae train --data shapes --beta 4 --output-dir runs/factors
  vae train --beta-strategy cyclical --cycle-length 5000 --max-beta 1
  vae train --data photos --image-size 64 --likelihood learned-gaussian
  vae train --config runs/conv-shapes/config.json --seed 1 --output-dir runs/again
  vae train --resume --epochs 100        100 in all, the 50 of before included)";

/// A command that uses a trained run: its flags by the letters of `flags` (see add_use_flags).
struct UseCommand {
  const char *name, *flags, *summary, *count, *footer;
};
constexpr UseCommand use_commands[] = {
    {"sample", "cols", "draw new images: samples of the prior, decoded", "images [100]",
     "\nExamples:\n  vae sample runs/conv-fashion-mnist\n  vae sample runs/digits --label 7 --count 25 --seed 3 --output sevens.png"},
    {"reconstruct", "cof", "draw test images, and below each what the model makes of it", "images [10]",
     "\nExample:\n  vae reconstruct runs/conv-fashion-mnist --from 100 --count 20"},
    {"interpolate", "coftn", "draw the way from the code of one test image to that of another",
     "rows: image 0 to 1, 2 to 3, ... [8]", "\nExample:\n  vae interpolate runs/conv-fashion-mnist --from 3 --to 8 --steps 12"},
    {"traverse", "cofnr", "draw what each dimension of the code does; those of the largest KL divergence first",
     "dimensions [10]", "\nExample:\n  vae traverse runs/conv-fashion-mnist --from 7 --range 2.5"},
    {"encode", "co", "write the codes of the test images: means of q(z|x)", "test images [all]",
     "\nThe output is CSV (label, z0, z1, ...), or an array of NumPy where its name ends in .npy.\n\nExample:\n"
     "  vae encode runs/conv-fashion-mnist --output codes.npy"},
    {"evaluate", "cks", "ELBO and importance-weighted likelihood of test images, in nats", "test images [1000]",
     "\nlog p(x) is bounded from below by importance weighting (Burda et al. 2016): the more samples, the closer.\n\n"
     "Example:\n  vae evaluate runs/conv-fashion-mnist --samples 500 --count 200"},
    {"report", "o", "write the run as a page for the browser: report.html, and its numbers as report.json", "",
     "\nvae train writes both at its end. The page is one file that works offline.\n\nExample:\n  vae report runs/conv-fashion-mnist"},
    {"export", "d", "write encoder.onnx and decoder.onnx", "",
     "\nONNX, opset 17; images are N x channels x height x width, of any N. The encoder makes mean and log_variance of\n"
     "input, the decoder output of code; where the model is conditional, both take labels too.\n\n"
     "Example:\n  vae export runs/conv-fashion-mnist --output onnx"}};

/// "--flag VALUE", and nothing else beside it.
struct Formatter : CLI::Formatter {
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_option_text().empty() ? "" : " " + option->get_option_text();
  }
};

/// A flag that may stand alone, which means "auto".
void set(std::string& member, const std::vector<std::string>& values) {
  member = values.empty() || values.front().empty() || values.front() == "true" ? "auto" : values.front();
}
void set(auto&, const std::vector<std::string>&) {}  // no such flag has another type

void add_flags(CLI::App& app, TrainOptions& options) {
  each_flag(options, [&](const Flag& flag, auto& member) {
    using Member = std::remove_reference_t<decltype(member)>;
    const std::string name = "--" + flag.name;
    if constexpr (std::is_same_v<Member, bool>) {
      app.add_flag(name, member, flag.help)->group(flag.group);
    } else if (flag.value.starts_with('[')) {
      app.add_option_function<std::vector<std::string>>(
             name, [&](const std::vector<std::string>& values) { set(member, values); }, flag.help)
          ->expected(0, 1)
          ->option_text(flag.value)
          ->group(flag.group);
    } else {
      const std::string value = flag.shows_default ? text("  [", text_of_value(member), "]") : "";
      auto* option = app.add_option(name, member, flag.help + value);
      option->group(flag.group)->option_text(flag.value)->take_last();
      option->check(flag.check);
    }
  });
}

/// c: --count, o: --output, d: --output of a folder, f: --from, t: --to, n: --steps, r: --range, l: --label, k: --samples, s: --seed
void add_use_flags(CLI::App& app, const UseCommand& command, UseOptions& o) {
  const std::string flags = command.flags;
  const auto add = [&](char letter, const char* name, auto& member, const char* value, std::string help, Check check, bool shows_default) {
    if (letter != ' ' && flags.find(letter) == std::string::npos) return;
    if (shows_default) help += text("  [", text_of_value(member), "]");
    app.add_option(name, member, help)->option_text(value)->take_last()->check(check);
  };
  app.add_option("RUN", o.run, "the output folder of vae train")->required()->option_text("");
  add('c', "--count", o.count, "N", command.count, whole_number(1, 1'000'000), false);
  add('f', "--from", o.from, "I", "the test image to begin with, from 0 on", whole_number(0, 4'000'000'000), false);
  add('t', "--to", o.to, "I", "the test image to end with", whole_number(0, 4'000'000'000), false);
  add('n', "--steps", o.steps, "N", "images a row", whole_number(1, 1000), true);
  add('r', "--range", o.range, "X", "from -X to X, in standard deviations of the prior", number(0, 1000), true);
  add('l', "--label", o.label, "I", "of a conditional model [each in turn]", whole_number(0, 1'000'000), false);
  add('k', "--samples", o.samples, "K", "of z for each image", whole_number(1, 1'000'000), true);
  add('s', "--seed", o.seed, "N", "of what is drawn", whole_number(0, ~0ull), true);
  add('o', "--output", o.output, "FILE", "[in the folder of the run]", not_empty(), false);
  add('d', "--output", o.output, "FOLDER", "[the folder of the run]", not_empty(), false);
  add(' ', "--threads", o.threads, "N", "0: as many as this process may use", whole_number(0, 1024), true);
}

/// Refuses the first argument that no flag or command took.
void refuse_unknown(const std::vector<std::string>& left, const std::vector<std::string>& known,
                    const std::string& advice) {
  if (left.empty()) return;
  const std::string word = left.front().substr(0, left.front().find('='));
  const std::string like = nearest(word, known);
  throw UsageError(text(word, word.starts_with('-') ? " is not known; " : " was not expected; ",
                        like.empty() ? advice : text("did you mean ", like, "?")));
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> names{"--help"};
  for (const CLI::Option* option : app.get_options())
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// A script that completes commands, flags and file names.
std::string completion_for(const std::string& shell, const CLI::App& app) {
  std::string commands, cases;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands += (commands.empty() ? "" : " ") + command->get_name();
    std::string flags;
    for (const auto& flag : flags_of(*command)) flags += ' ' + flag;
    if (shell == "fish") {
      cases += text("complete -c vae -n __fish_use_subcommand -f -a ", command->get_name(), "\n");
      for (const auto& flag : flags_of(*command))
        cases += text("complete -c vae -n '__fish_seen_subcommand_from ", command->get_name(), "' -l ", flag.substr(2), "\n");
    } else {
      cases += text("    ", command->get_name(), ") words='", flags.substr(1), "' ;;\n");
    }
  }
  if (shell == "fish") return cases;
  return text(shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "",
              "_vae() {\n  local words word=${COMP_WORDS[COMP_CWORD]}\n  case ${COMP_WORDS[1]} in\n", cases,
              "    *) words='", commands, " --help --version' ;;\n  esac\n",
              "  case $word in\n    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n",
              "    *) if [ \"$COMP_CWORD\" = 1 ]; then COMPREPLY=($(compgen -W \"$words\" -- \"$word\")); else COMPREPLY=($(compgen -f -- \"$word\")); fi ;;\n",
              "  esac\n}\ncomplete -o filenames -F _vae vae\n");
}

}  // namespace

CommandLine read_command_line(int argc, char** argv) {
  CommandLine line;
  CLI::App app("vae trains variational autoencoders on images, and uses them.", "vae");
  app.formatter(std::make_shared<Formatter>());
  app.get_formatter()->column_width(32);
  app.footer(examples_of_vae);
  app.set_version_flag("--version", "vae " VAELIB_VERSION, "print the version");
  app.set_help_flag("-h,--help", "print this help");
  app.allow_extras();
  auto* train = app.add_subcommand("train", "train a VAE; writes model, metrics and pictures into a folder");
  train->allow_extras();
  train->footer(examples_of_train);
  std::string config;
  train->add_option("--config", config, "flags from a JSON file, such as a run's config.json; flags given here count more")
      ->option_text("FILE")
      ->group("Configuration");
  train->add_flag("--print-config", line.calls.print_config, "print the flags of the run as JSON, for --config, and do nothing else")
      ->group("Configuration");
  train->add_flag("--dry-run", line.calls.dry_run, "say what would be done: shapes, memory, the loss of one batch, files; writes nothing")
      ->group("Configuration");
  add_flags(*train, line.train);

  std::vector<std::string> commands{"train", "--help", "--version"};
  for (const UseCommand& command : use_commands) {
    auto* sub = app.add_subcommand(command.name, command.summary);
    sub->allow_extras();
    sub->footer(command.footer);
    add_use_flags(*sub, command, line.use);
    commands.push_back(command.name);
  }

  std::string shell;
  auto* completion = app.add_subcommand("completion", "print a script that completes commands and flags in a shell");
  completion->add_option("SHELL", shell, "bash, zsh or fish")->required()->option_text("")->check(one_of({"bash", "zsh", "fish"}));
  completion->footer("\nExamples:\n  eval \"$(vae completion bash)\"\n  vae completion fish > ~/.config/fish/completions/vae.fish");
  commands.push_back("completion");

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // help or version
    app.exit(asked);
    return line;
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();
    throw UsageError(text(what.substr(0, what.find(':')), " wants a value"));
  } catch (const CLI::RequiredError&) {
    const std::string command = app.get_subcommands().front()->get_name();
    throw UsageError(text("vae ", command, " wants ", command == "completion" ? "the name of a shell" : "the folder of a run", "; vae ", command,
                          " --help shows an example"));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  refuse_unknown(app.remaining(), commands, "vae --help lists the commands");
  if (app.get_subcommands().empty()) {
    std::fputs(app.help().c_str(), stdout);
    return line;
  }
  const CLI::App* command = app.get_subcommands().front();
  line.command = command->get_name();
  refuse_unknown(command->remaining(), flags_of(*command), text("vae ", line.command, " --help lists the flags"));
  if (command == completion) {
    std::fputs(completion_for(shell, app).c_str(), stdout);
    line.command.clear();
  }
  for (const CLI::Option* option : train->get_options())
    if (option->count() > 0) line.given.insert(option->get_lnames().front());
  if (!config.empty()) set_flags(line.train, line.given, read_config_file(config), config);
  return line;
}

}  // namespace vae
