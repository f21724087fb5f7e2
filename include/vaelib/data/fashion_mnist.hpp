// MNIST (LeCun, Cortes, Burges 1998) and Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747): 60 000 training and
// 10 000 test images of 28 x 28 grey pixels in 10 classes, in four IDX files, plain or gzip-compressed.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/data/dataset.hpp>
#include <vaelib/io/idx.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// Where Debian's package dataset-fashion-mnist puts the files.
inline constexpr const char* fashion_mnist_folder = "/usr/share/datasets/fashion-mnist";

namespace detail {

inline bool is_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file) std::fclose(file);
  return file != nullptr;
}

/// The path of `name` or `name`.gz in the folder; empty where there is neither.
[[gnu::cold]] inline std::string find_idx(const std::string& folder, const std::string& name) {
  for (const char* ending : {"", ".gz"})
    if (auto path = folder + "/" + name + ending; is_file(path)) return path;
  return {};
}

[[gnu::cold]] inline std::string need_idx(const std::string& folder, const std::string& name, const std::string& advice) {
  auto path = find_idx(folder, name);
  if (path.empty())
    fail(folder, ": no file ", name, " or ", name,
         ".gz; expected are train-images-idx3-ubyte, train-labels-idx1-ubyte, ",
         "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or as .gz", advice);
  return path;
}

[[gnu::cold]] inline Dataset read_mnist_part(const std::string& folder, const std::string& part, const std::string& advice) {
  const auto images_path = need_idx(folder, part + "-images-idx3-ubyte", advice);
  const auto labels_path = need_idx(folder, part + "-labels-idx1-ubyte", advice);
  IdxArray images = read_idx(images_path);
  if (images.shape.size() != 3 || images.shape[1] != 28 || images.shape[2] != 28) {
    std::string shape;
    for (auto extent : images.shape) shape += text(shape.empty() ? "" : " x ", extent);
    fail(images_path, ": the shape is ", shape, ", expected images x 28 x 28");
  }
  const IdxArray labels = read_idx(labels_path);
  if (labels.shape.size() != 1) fail(labels_path, ": ", labels.shape.size(), " dimensions, expected 1 (labels)");
  if (labels.shape[0] != images.shape[0])
    fail(labels_path, ": ", labels.shape[0], " labels for ", images.shape[0], " images in ", images_path);
  std::vector<std::int32_t> classes(labels.values.size());
  for (std::size_t row = 0; row < classes.size(); ++row) {
    classes[row] = labels.values[row];
    if (classes[row] > 9) fail(labels_path, ": label ", row, " is ", classes[row], ", expected 0 to 9");
  }
  return {{28, 28, 1}, std::move(images.values), std::move(classes), 10};
}

}  // namespace detail

/// MNIST's four files in a folder. They are not packaged; whoever has them names the folder.
[[gnu::cold]] inline Split mnist(const std::string& folder) {
  return {detail::read_mnist_part(folder, "train", ""),
          detail::read_mnist_part(folder, "t10k", ""),
          "mnist",
          {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
}

[[gnu::cold]] inline Split fashion_mnist(const std::string& folder = fashion_mnist_folder) {
  const std::string advice = "; on Debian: apt install dataset-fashion-mnist";
  return {detail::read_mnist_part(folder, "train", advice),
          detail::read_mnist_part(folder, "t10k", advice),
          "fashion-mnist",
          {"T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"}};
}

/// Whether fashion_mnist() would find its files, so that a program can choose its default.
inline bool has_fashion_mnist(const std::string& folder = fashion_mnist_folder) {
  for (const char* name :
       {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"})
    if (detail::find_idx(folder, name).empty()) return false;
  return true;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
