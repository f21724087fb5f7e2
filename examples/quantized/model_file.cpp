#include "model_file.hpp"

#include <nlohmann/json.hpp>
#include <vaelib/io/safetensors.hpp>

namespace vqvae {

using namespace vaelib;
using Json = nlohmann::ordered_json;

Json json_of(const Options& options) {
  Json json = Json::object();
  each_option(options, [&](const char* name, const char*, const auto& member, const char*) { json[name] = member; });
  return json;
}

Metadata metadata_of(const Options& options, Shape image, std::uint64_t step) {
  return {{"vqvae.options", json_of(options).dump()}, {"vqvae.image", text(image.height, " ", image.width, " ", image.channels)}, {"vqvae.step", std::to_string(step)}};
}

OpenModel open_model(const std::string& path, std::int64_t threads) {
  OpenModel open;
  Shape image{1};
  std::int64_t numbers = 0;
  {
    if (path.ends_with(".pt") || path.ends_with(".pth")) fail(path, ": PyTorch's pickled files are not read; examples/pt_to_safetensors.py makes .safetensors of them");
    const SafetensorsFile file(path);
    const auto options = file.metadata().find("vqvae.options"), shape = file.metadata().find("vqvae.image");
    if (options == file.metadata().end() || shape == file.metadata().end()) fail(path, ": is no model of vqvae: its metadata has no 'vqvae.options'");
    const auto json = Json::parse(options->second, nullptr, false);
    try {
      each_option(open.options, [&](const char* name, const char*, auto& member, const char*) {
        if (json.contains(name)) json.at(name).get_to(member);  // else the file is older than the option
      });
      check(open.options);
    } catch (const UsageError& error) {
      fail(path, ": its metadata 'vqvae.options' cannot be: ", error.what());
    } catch (const Json::exception& error) {
      fail(path, ": its metadata 'vqvae.options' are not those of this program: ", error.what());
    }
    int extents[3] = {};
    if (std::sscanf(shape->second.c_str(), "%d %d %d", &extents[0], &extents[1], &extents[2]) != 3 || extents[0] < 1 || extents[1] < 1 || extents[0] > 4096 || extents[1] > 4096 ||
        (extents[2] != 1 && extents[2] != 3))
      fail(path, ": its metadata 'vqvae.image' is '", shape->second, "', expected height, width and 1 or 3 channels");
    image = {extents[0], extents[1], extents[2]};
    for (const auto& tensor : file.tensors()) numbers += std::int64_t(tensor.count());
  }
  open.options.threads = threads;
  open.model = make_model(open.options, image, {}, numbers);
  open.model->load(path);
  return open;
}

}  // namespace vqvae
