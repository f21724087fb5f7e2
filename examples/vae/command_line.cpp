#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <vaelib/core/error.hpp>
#include <vaelib/version.hpp>

namespace vae {

using vaelib::text;

namespace {

constexpr const char* examples_of_vae = R"(
Examples:
  vae train                              a convolutional VAE, 50 epochs
  vae train --model-type fc --epochs 10  a fully connected one, 10 epochs
  vae train --help                       all flags)";

constexpr const char* examples_of_train = R"(
Losses are in nats an image. The output folder receives
  model.safetensors      the weights, by PyTorch's names and layouts
  config.json            the flags, the data and the model
  metrics.csv, .jsonl    the losses of each epoch, for training and test images
  training_losses.png    the same as curves
  reconstructions.png    test images, and below each what the VAE makes of it
  generated_samples.png  new images; with --conditional a row a label
  latent_space.png       where the test images lie, with --code-size 2 only
  checkpoints/           what --resume goes on from

Examples:
  vae train --epochs 10 --code-size 16
  vae train --model-type fc --hidden-size 400 --code-size 2
  vae train --data shapes --beta 4 --output-dir runs/factors
  vae train --beta-strategy cyclical --cycle-length 5000 --max-beta 1
  vae train --resume --epochs 100        100 in all, the 50 of before included)";

/// "--flag VALUE", and nothing else beside it.
struct Formatter : CLI::Formatter {
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_option_text().empty() ? "" : " " + option->get_option_text();
  }
};

void add_flags(CLI::App& app, TrainOptions& options) {
  each_flag(options, [&](const Flag& flag, auto& member) {
    using Member = std::remove_reference_t<decltype(member)>;
    const std::string name = "--" + flag.name;
    if constexpr (std::is_same_v<Member, bool>) {
      app.add_flag(name, member, flag.help)->group(flag.group);
    } else {
      const std::string value = flag.shows_default ? text("  [", text_of_value(member), "]") : "";
      auto* option = app.add_option(name, member, flag.help + value);
      option->group(flag.group)->option_text(flag.value)->take_last();
      option->check(flag.check);
    }
  });
}

std::size_t edits_between(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])}));
  }
  return row.back();
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

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t fewest = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const auto& candidate : known)
    if (const std::size_t edits = edits_between(word, candidate); edits < fewest) best = candidate, fewest = edits;
  return best;
}

CommandLine read_command_line(int argc, char** argv) {
  CommandLine line;
  CLI::App app("vae trains variational autoencoders on images.", "vae");
  app.formatter(std::make_shared<Formatter>());
  app.get_formatter()->column_width(32);
  app.footer(examples_of_vae);
  app.set_version_flag("--version", "vae " VAELIB_VERSION, "print the version");
  app.set_help_flag("-h,--help", "print this help");
  app.allow_extras();
  auto* train = app.add_subcommand("train", "train a VAE; writes model, metrics and pictures into a folder");
  train->allow_extras();
  train->footer(examples_of_train);
  add_flags(*train, line.train);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // help or version
    app.exit(asked);
    return line;
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();
    throw UsageError(text(what.substr(0, what.find(':')), " wants a value"));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  refuse_unknown(app.remaining(), {"train", "--help", "--version"}, "vae --help lists the commands");
  if (!train->parsed()) {
    std::fputs(app.help().c_str(), stdout);
    return line;
  }
  refuse_unknown(train->remaining(), flags_of(*train), "vae train --help lists the flags");
  line.command = "train";
  for (const CLI::Option* option : train->get_options())
    if (option->count() > 0) line.given.insert(option->get_lnames().front());
  return line;
}

}  // namespace vae
