// codebook: says how a trained model of `vqvae` uses its codes. `codebook --help` lists the commands.
#include "../program.hpp"
#include "../quantized/commands.hpp"

namespace {

using namespace vqvae;

constexpr const char* examples = R"(
Examples:
  codebook check --model-path runs/vqvae/vqvae.safetensors --data-dir photos --plot --save-details
  codebook compare --model-path a.safetensors --with b.safetensors
  codebook visualize --model-path runs/vqvae/vqvae.safetensors)";

int run(int argc, char** argv) {
  CLI::App app("codebook says how a trained model of vqvae uses its codes.", "codebook");
  app.footer(examples);
  app.set_version_flag("--version", "codebook " VAELIB_VERSION, "print the version");
  UseOptions u;
  const struct {
    const char *name, *help;
  } commands[] = {{"check", "utilisation, entropy, perplexity and errors on images, and what may help"},
                  {"compare", "the same of two models on the same images"},
                  {"visualize", "draw each code: decoded from an image that has it everywhere"}};
  for (const auto& c : commands) {
    const std::string name = c.name;
    auto* sub = app.add_subcommand(c.name, c.help);
    sub->add_option("--model-path", u.model_path, "MODEL.safetensors of vqvae train")->required();
    sub->add_option("--data-dir", u.data_dir, "a folder of photographs [the test images of the training]");
    sub->add_option("--output-dir", u.output_dir, "folder to write into")->capture_default_str();
    sub->add_option("--image-size", u.image_size, "has to be that of the model");
    sub->add_option("--batch-size", u.batch_size, "images a batch")->capture_default_str();
    sub->add_option("--count", u.count, name == "visualize" ? "codes to draw, the most used first [256]" : "images [all]");
    sub->add_option("--threads", u.threads, "0: as many as this process may use");
    if (name == "compare") sub->add_option("--with", u.other_path, "the other model")->required();
    if (name != "check") continue;
    sub->add_flag("--plot", u.plot, "write report.html");
    sub->add_flag("--save-details", u.save_details, "write counts.csv and batches.csv");
    sub->add_option("--temperature", u.temperature, "at which codes were drawn in training; the nearest code does not depend on it")->capture_default_str();
  }
  if (!program::parse(app, argc, argv)) return 0;
  u.command = app.get_subcommands().front()->get_name();
  codebook(u);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run_program("codebook", [&] { return run(argc, argv); });
}
