// vqvae: trains vector-quantized autoencoders on images, and uses them. `vqvae --help` lists the commands.
#include "../program.hpp"
#include "../quantized/commands.hpp"

namespace {

using namespace vqvae;

constexpr const char* examples = R"(
Examples:
  vqvae train                                        colour scenes, made on the fly
  vqvae train --train-dir photos --crops --image-size 64 --model-name photos
  vqvae reconstruct --model-path runs/vqvae/vqvae.safetensors
  vqvae encode --model-path runs/vqvae/vqvae.safetensors --output codes.npy
  vqvae prior --model-path runs/vqvae/vqvae.safetensors && vqvae sample --model-path runs/vqvae/vqvae.safetensors)";

int run(int argc, char** argv) {
  CLI::App app("vqvae trains vector-quantized autoencoders on images, and uses them.", "vqvae");
  app.footer(examples);
  app.set_version_flag("--version", "vqvae " VAELIB_VERSION, "print the version");
  Options options;
  UseOptions u;
  auto* train_command = app.add_subcommand("train", "train a model; writes it, a report and pictures");
  program::add_flags(*train_command, options);
  const struct {
    const char *name, *help;
    bool images, output;
  } commands[] = {{"reconstruct", "draw test images, and below each row what the model makes of it (into a .npy: that alone)", true, true},
                  {"encode", "write the codes of images (or, with --latents, the quantized vectors) as .npy", true, true},
                  {"decode", "draw the images of codes out of a .npy file", false, true},
                  {"prior", "learn how codes go together, so that new images can be drawn", false, false},
                  {"sample", "draw new images: codes of the prior, decoded", false, true}};
  for (const auto& c : commands) {
    auto* sub = app.add_subcommand(c.name, c.help);
    sub->add_option("--model-path", u.model_path, "MODEL.safetensors of vqvae train")->required();
    if (c.output) sub->add_option("--output", u.output, "file to write [beside the model]");
    sub->add_option("--threads", u.threads, "0: as many as this process may use");
    if (c.images) {
      sub->add_option("--data-dir", u.data_dir, "a folder of photographs [the test images of the training]");
      sub->add_option("--image-size", u.image_size, "has to be that of the model");
      sub->add_option("--count", u.count, "images");
    }
    const std::string name = c.name;
    if (name == "prior" || name == "sample") {
      sub->add_option("--count", u.count, name == "prior" ? "training images whose codes are learned [20000]" : "images [64]");
      sub->add_option("--seed", u.seed, "of what is drawn")->capture_default_str();
    }
    if (name == "prior") {
      sub->add_option("--epochs", u.epochs, "times that the codes are gone through")->capture_default_str();
      sub->add_flag("--transformer", u.transformer, "a causal Transformer instead of a PixelCNN");
    }
    if (name == "sample") {
      sub->add_option("--temperature", u.temperature, "below 1: likelier codes")->capture_default_str();
      sub->add_option("--top-p", u.top_p, "only the likeliest codes that make up this probability")->capture_default_str();
    }
    if (name == "encode") sub->add_flag("--latents", u.latents, "the quantized vectors, for a later model");
    if (name == "decode") sub->add_option("--codes", u.data, "FILE.npy: images x height x width x codes of a vector")->required();
  }
  if (!program::parse(app, argc, argv)) return 0;
  const auto* chosen = app.get_subcommands().front();
  u.command = chosen->get_name();
  if (chosen != train_command) {
    u.command == "prior" || u.command == "sample" ? prior(u) : use(u);
    return 0;
  }
  const auto given = program::given_flags(*train_command);
  resolve(options, given);
  return train(options);
}

}  // namespace

int main(int argc, char** argv) {
  return program::run_program("vqvae", [&] { return run(argc, argv); });
}
