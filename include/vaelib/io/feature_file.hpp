// The network of a perceptual loss (models/perceptual.hpp) from a safetensors file: a VGG as the package lpips or
// torchvision names it.
//
//   lpips          of LPIPS(net="vgg"):
//                  net.slice1.0.weight, net.slice1.0.bias, net.slice1.2.weight, net.slice2.5.weight ...
//                  lin0.model.1.weight ...      importance of channels by stage, [1, channels, 1, 1]; none: all count 1
//                  scaling_layer.shift, scaling_layer.scale      of images from -1 to 1
//   torchvision    of models.vgg16() and the others without batch norm:
//                  features.0.weight, features.0.bias, features.2.weight, features.5.weight ...
//
// Other tensors are left alone.
//
// Stages are told from the numbers: a ReLU stands between two convolutions whose numbers differ by 2, a ReLU and a pool
// where they differ by 3. The last ReLU before each pool is looked at, and so is the last of all. lpips publishes its
// `lin` weights without the network: they may lie in a file of their own. Without a scaling layer images of 3 channels
// are scaled by the means and deviations of ImageNet, as both packages do. Files of pickles (.pth) have to be converted
// first.
#pragma once

#include <vaelib/io/safetensors.hpp>
#include <vaelib/models/perceptual.hpp>

#include <charconv>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// Reads a tensor of `count` numbers into a buffer of that size.
[[gnu::cold]] inline Buffer<float> read_numbers(const SafetensorsFile& file, const std::string& name, long count) {
  const TensorInfo* tensor = file.find(name);
  if (!tensor) fail(file.input().path(), ": has no tensor ", shown(name));
  if (tensor->count() != std::uint64_t(count))
    fail(file.input().path(), ": tensor ", shown(name), ": expected ", count, " numbers, found the shape ",
         shape_text(tensor->shape));
  Buffer<float> numbers(count);
  file.read(name, {numbers.data(), std::size_t(count)});
  for (const float v : numbers)
    if (!(std::abs(v) <= 3e38f)) fail(file.input().path(), ": tensor ", shown(name), " has the value ", v);
  return numbers;
}

/// The number of a convolution from the name of its weight; -1 where it is none.
[[gnu::cold]] inline long convolution_number(std::string_view name) {
  std::string_view rest = name;
  if (rest.starts_with("net.slice")) {
    rest.remove_prefix(std::min(rest.size(), rest.find('.', 9)));
    if (!rest.empty()) rest.remove_prefix(1);
  } else if (rest.starts_with("features.")) {
    rest.remove_prefix(9);
  } else {
    return -1;
  }
  long number = -1;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  return error == std::errc() && number >= 0 && number < 10'000 &&
                 std::string_view(end, std::size_t(rest.data() + rest.size() - end)) == ".weight"
             ? number
             : -1;
}

}  // namespace detail

/// `importance`: a file with the weights lin0.model.1.weight and so on; empty: they are looked for in the network's
/// own.
[[gnu::cold]] inline FeatureNetwork read_feature_network(const std::string& path, const std::string& importance = {}) {
  const SafetensorsFile file(path);
  std::vector<std::pair<long, const TensorInfo*>> found;
  for (const TensorInfo& tensor : file.tensors())
    if (const long number = detail::convolution_number(tensor.name); number >= 0) found.emplace_back(number, &tensor);
  std::sort(found.begin(), found.end());
  std::vector<detail::NumberedConvolution> convolutions;
  for (const auto& [number, tensor] : found) {
    const auto& shape = tensor->shape;
    if (shape.size() != 4 || shape[2] != 3 || shape[3] != 3 || shape[0] < 1 || shape[1] < 1 || shape[0] > 65536 ||
        shape[1] > 65536)
      fail(path, ": tensor ", shown(tensor->name), " has the shape ", shape_text(shape),
           ", expected the 3x3 convolutions of a VGG, [out, in, 3, 3]");
    const int out = int(shape[0]), in = int(shape[1]);
    const Buffer<float> there = detail::read_numbers(file, tensor->name, 9L * in * out);
    auto& [n, layer] = convolutions.emplace_back();
    n = number;
    layer.in = in;
    layer.out = out;
    layer.weight.resize(there.size());
    for (long o = 0, from = 0; o < out; ++o)
      for (long i = 0; i < in; ++i)
        for (long tap = 0; tap < 9; ++tap) layer.weight[(tap * in + i) * out + o] = there[from++];
    layer.bias = detail::read_numbers(file, tensor->name.substr(0, tensor->name.size() - 6) + "bias", out);
  }
  std::vector<Buffer<float>> weights;
  const auto read_weights = [&](const SafetensorsFile& from) {
    for (int stage = 0;; ++stage) {
      const std::string name = text("lin", stage, ".model.1.weight");
      const TensorInfo* tensor = from.find(name);
      if (!tensor) break;
      if (tensor->count() > 65536)
        fail(from.input().path(), ": tensor ", shown(name), " has the impossible shape ", shape_text(tensor->shape));
      weights.push_back(detail::read_numbers(from, name, long(tensor->count())));
    }
  };
  if (importance.empty()) {
    read_weights(file);
  } else {
    read_weights(SafetensorsFile(importance));
    if (weights.empty()) fail(importance, ": has no tensor 'lin0.model.1.weight'");
  }
  FeatureNetwork network = detail::network_of(std::move(convolutions), std::move(weights), path);
  const int channels = network.channels();
  if (file.find("scaling_layer.shift")) {
    network.shift = detail::read_numbers(file, "scaling_layer.shift", channels);
    network.scale = detail::read_numbers(file, "scaling_layer.scale", channels);
    for (const float s : network.scale)
      if (s == 0) fail(path, ": tensor 'scaling_layer.scale' has the value 0");
  } else if (channels == 3) {
    constexpr float shift[] = {-0.030f, -0.088f, -0.188f},
                    scale[] = {0.458f, 0.448f, 0.450f};  // 2 mean - 1 and 2 deviations
    std::copy_n(shift, 3, network.shift.data());
    std::copy_n(scale, 3, network.scale.data());
  }
  return network;
}

}  // namespace vaelib::inline VAELIB_ABI
