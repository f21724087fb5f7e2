// setvae: trains hierarchical VAEs of sets of points, and uses them. `setvae --help` lists the commands.
#include <set>

#include "../program.hpp"
#include "../sets/options.hpp"

namespace {

using namespace setvae;

constexpr const char* examples = R"(
Examples:
  setvae train                                    solids, made on the fly
  setvae train --data fashion-mnist --output-dir runs/pixels
  setvae train --data clouds/ --normalise each    a folder of .ply, .xyz or .npy files
  setvae sample runs/setvae --count 32 --points 400 --format ply
  setvae analyze runs/setvae)";

/// The published settings, where they are not given otherwise.
void apply_reference(Options& o, const std::set<std::string>& given) {
  const auto set = [&](const char* flag, auto& member, auto value) {
    if (!given.contains(flag)) member = value;
  };
  set("width", o.width, 256);
  set("latent", o.latent, 256);
  set("heads", o.heads, 2);
  set("inducing", o.inducing, 16);
  set("levels", o.levels, 2);
  set("lr", o.lr, 1e-4);
  set("spectral-norm", o.spectral_norm, true);
  set("beta-strategy", o.beta_strategy, std::string("cyclical"));
  set("min-beta", o.min_beta, 0.0);
  set("max-beta", o.max_beta, 0.5);
  set("cycle-length", o.cycle_length, 5000);
  set("beta-warmup-steps", o.beta_warmup_steps, 1000);
  set("free-bits", o.free_bits, 0.2);
  set("pc-threshold", o.pc_threshold, 0.1);
}

int run(int argc, char** argv) {
  CLI::App app("setvae trains hierarchical VAEs of sets of points, and uses them.", "setvae");
  app.footer(examples);
  app.set_version_flag("--version", "setvae " VAELIB_VERSION, "print the version");
  Options options;
  UseOptions u;
  auto* train_command = app.add_subcommand("train", "train a model; writes it, a report and pictures");
  program::add_flags(*train_command, options);
  for (const auto& [name, help] : {std::pair{"sample", "draw new sets: a picture, or files of points"}, {"reconstruct", "draw test sets, and below each row what the model makes of them"},
                                   {"interpolate", "draw what lies between test sets"}, {"analyze", "whether the levels of the code collapsed, and how good new sets are beside test sets: figures, advice and a report"}}) {
    auto* sub = app.add_subcommand(name, help);
    sub->add_option("RUN", u.run, "the folder of a run of setvae train")->required();
    sub->add_option("--output", u.output, "file (analyze: folder) to write [in the folder of the run]");
    sub->add_option("--count", u.count, "sets");
    sub->add_option("--seed", u.seed, "of what is drawn")->capture_default_str();
    sub->add_option("--threads", u.threads, "0: as many as this process may use")->check(CLI::Range(0, 1024));
    if (std::string(name) == "sample") {
      sub->add_option("--points", u.points, "of each set [drawn from how many training sets have]")->check(CLI::Range(0, 1 << 20));
      sub->add_option("--format", u.format, "png, a picture; npz, all points and where each set begins; ply or xyz, a folder with a file a set [by --output]")->check(CLI::IsMember({"png", "npz", "ply", "xyz"}));
    }
    if (std::string(name) == "interpolate") sub->add_option("--steps", u.steps, "sets of a row")->check(CLI::Range(2, 64))->capture_default_str();
  }
  if (!program::parse(app, argc, argv)) return 0;
  const auto* chosen = app.get_subcommands().front();
  u.command = chosen->get_name();
  if (chosen != train_command) {
    use(u);
    return 0;
  }
  const auto given = program::given_flags(*train_command);
  if (options.preset == "reference") apply_reference(options, given);
  return train(options);
}

}  // namespace

int main(int argc, char** argv) {
  return program::run_program("setvae", [&] { return run(argc, argv); });
}
