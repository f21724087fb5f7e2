#include "run_folder.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vaelib/io/checkpoint.hpp>
#include <vaelib/version.hpp>

#include "../history.hpp"
#include "config.hpp"

namespace vae {

using namespace vaelib;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::array outputs{"config.json",         "metrics.csv",           "metrics.jsonl",    "training_losses.png",
                             "reconstructions.png", "generated_samples.png", "latent_space.png", "report.html",
                             "report.json",         "model.safetensors",     "model_best.safetensors", "collapse.csv", "collapse.jsonl"};

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

/// Whether a run writes this one of the outputs.
bool is_planned(const std::string& name, bool latent_space, bool best) {
  return (latent_space || name != "latent_space.png") && (best || name != "model_best.safetensors");
}

}  // namespace

bool RunFolder::holds_checkpoints() const {
  if (!exists(checkpoints())) return false;
  const auto names = list_folder(checkpoints());
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.starts_with("checkpoint-") && name.ends_with(".safetensors");
  });
}

bool RunFolder::holds_model() const { return exists(file("model.safetensors")); }

bool RunFolder::holds_run() const {
  return holds_checkpoints() ||
         std::any_of(outputs.begin() + 1, outputs.end(), [&](const char* name) { return exists(file(name)); });
}

void RunFolder::create() const {
  create_directories(folder);
  for (const std::string& name : list_folder(folder))
    for (const std::string output : outputs)
      if (name.starts_with(text(output, AtomicFile::temporary_mark))) remove_file(file(name));
}

bool RunFolder::is_complete(std::uint64_t step, bool latent_space, bool best) const {
  for (const std::string name : outputs)
    if (is_planned(name, latent_space, best) && !name.starts_with("collapse.") && !exists(file(name))) return false;  // one test image has no posterior to look at
  try {
    const SafetensorsFile model(file("model.safetensors"));
    const auto found = model.metadata().find(step_key);
    return found != model.metadata().end() && found->second == std::to_string(step);
  } catch (const Error&) {
    return false;  // it will be written again
  }
}

void RunFolder::clear() const {
  if (exists(checkpoints())) CheckpointStore(checkpoints()).clear();
  for (const char* name : outputs) remove_file(file(name));
  for (const std::string& name : list_folder(logs()))
    if (name.starts_with("events.out.tfevents.")) remove_file(logs() + '/' + name);
}

Values RunFolder::read_config() const {
  const std::string path = file("config.json");
  return exists(path) ? read_config_file(path) : Values{};
}

RunFolder::Description RunFolder::read_description() const {
  const std::string path = file("config.json");
  const auto config = Json::parse(read_file(path, 1 << 20), nullptr, false);
  try {
    const auto& data = config.at("data");
    const auto& image = data.at("image");
    const auto extent = [&](std::size_t axis) { return image.at(axis).get<int>(); };
    Description description{{extent(0), extent(1), extent(2)}, int(data.at("classes").size())};
    if (data.contains("normalisation"))
      description.normalisation = {data["normalisation"].at("offset").get<double>(), data["normalisation"].at("scale").get<double>()};
    if (description.image.size() < 1 || description.image.size() > (1 << 24)) fail(path, ": images of ", text_of(description.image));
    return description;
  } catch (const Json::exception&) {
    fail(path, ": is no configuration of a run: expected 'data' with 'image' and 'classes'");
  }
}

History RunFolder::read_history() const { return program::read_history(folder); }

void RunFolder::write_config(const TrainOptions& options, const ImageData& data, long parameters) const {
  const Shape image = data.train.shape();
  const Json config{{"program", "vae"},
                    {"version", VAELIB_VERSION},
                    {"options", config_of(options)},
                    {"data",
                     {{"name", data.name},
                      {"image", {image.height, image.width, image.channels}},
                      {"training_images", data.train.size()},
                      {"test_images", data.test.size()},
                      {"split", data.split},
                      {"normalisation", {{"offset", data.normalisation.offset}, {"scale", data.normalisation.scale}}},
                      {"classes", data.class_names}}},
                    {"model", {{"parameters", parameters}}}};
  write_file_atomically(file("config.json"), config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Metadata RunFolder::description_of(const ImageData& data, std::uint64_t step) const {
  return {{step_key, std::to_string(step)},
          {"vae.data", data.name},
          {"vae.split", data.split},
          {"vae.normalisation", text("(x - ", text_of_value(data.normalisation.offset), ") * ", text_of_value(data.normalisation.scale))}};
}

std::string RunFolder::planned(bool latent_space, bool best) const {
  std::string names;
  for (const std::string name : outputs)
    if (is_planned(name, latent_space, best)) names += name + ", ";
  return names + "checkpoints/, logs/";
}

void RunFolder::list() const {
  for (const char* name : outputs) {
    struct stat status {};
    if (::stat(file(name).c_str(), &status) == 0)
      std::printf("  %-22s %9.1f kB\n", name, double(status.st_size) / 1000);
  }
  if (holds_checkpoints()) std::printf("  checkpoints/\n");
  std::printf("  logs/                  for TensorBoard\n");
}

}  // namespace vae
