#include "data.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vaelib/data/cifar10.hpp>
#include <vaelib/data/fashion_mnist.hpp>
#include <vaelib/data/image_folder.hpp>
#include <vaelib/data/shapes.hpp>
#include <vaelib/data/subset.hpp>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/npz.hpp>
#include <vaelib/io/safetensors.hpp>

namespace vae {

using namespace vaelib;

namespace {

constexpr std::int64_t bytes_in_memory = std::int64_t{1} << 31;  // larger folders are decoded while the model trains

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

ImageData data_of(auto split, const std::string& origin) {
  const auto kept = std::make_shared<const decltype(split)>(std::move(split));
  return {.name = kept->name, .origin = origin, .train = kept->train, .test = kept->test, .class_names = kept->class_names, .owner = kept,
          .split = "its own test images"};
}

/// One data set without test images of its own, and its parts.
template <class T>
struct Parted {
  T all;
  data::SplitRows rows;
  data::Subset<T> train{all, rows.train}, test{all, rows.test};
};

ImageData parted(auto source, const TrainOptions& o, std::vector<std::string> class_names) {
  using Source = decltype(source);
  if (source.size() < 2) fail(o.data_dir, ": expected at least 2 images, found ", source.size());
  auto rows = data::split_rows(source.size(), o.test_share, o.seed);
  if (o.images > std::int64_t(rows.train.size())) fail(o.data_dir, ": --images ", o.images, " are wanted, there are ", rows.train.size());
  if (o.images > 0) rows.train.resize(std::size_t(o.images));
  const auto kept = std::shared_ptr<const Parted<Source>>(new Parted<Source>{std::move(source), std::move(rows)});
  return {.name = o.data, .origin = o.data_dir, .train = kept->train, .test = kept->test, .class_names = std::move(class_names), .owner = kept,
          .split = text("a share of ", text_of_value(o.test_share), " of all, drawn by seed ", o.seed, ", is for testing")};
}

ImageData image_files(const TrainOptions& o) {
  const data::ImageFolderOptions options{.height = int(o.image_size), .width = int(o.image_size), .channels = int(o.channels), .threads = int(o.threads)};
  std::vector<std::string> classes;
  const auto count = std::int64_t(data::detail::find_images(o.data_dir, options, classes).size());
  const bool streams = count * options.height * options.width * options.channels > bytes_in_memory;
  ImageData result;
  std::vector<data::SkippedFile> skipped;
  if (streams) {
    data::ImageFiles files(o.data_dir, options);
    skipped = files.skipped;
    result = parted(std::move(files), o, classes);
  } else {
    auto folder = data::image_folder(o.data_dir, options);
    skipped = folder.skipped;
    result = parted(std::move(folder.images), o, classes);
  }
  result.streams = streams;
  constexpr std::size_t named = 5;
  for (std::size_t i = 0; i < std::min(named, skipped.size()); ++i) result.notes.push_back(text("left out: ", skipped[i].reason));
  if (skipped.size() > named) result.notes.push_back(text("left out: ", skipped.size() - named, " more files that could not be read"));
  return result;
}

/// An array of images with the rows that `Rows` looks at.
struct ArrayImages {
  std::vector<float> values;
  Shape image;
  std::int64_t size() const { return std::int64_t(values.size()) / image.size(); }
  Shape shape() const { return image; }
  int classes() const { return 0; }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    data::Rows(values, image).fill(epoch, rows, features, labels);
  }
};

ImageData array(const TrainOptions& o, const Normalisation* known) {
  const std::string& path = o.data_dir;
  const bool zip = path.ends_with(".npz");
  const auto names = zip ? npz_names(path) : std::vector<std::string>{};
  if (zip && names.size() != 1) fail(path, ": expected one array, found ", names.size(), "; save the images alone");
  NpyArray read = zip ? read_npz(path, names[0]) : read_npy(path);
  const auto& s = read.shape;
  const bool grey = s.size() == 3, colour = s.size() == 4 && (s[3] == 1 || s[3] == 3);
  if ((!grey && !colour) || s[0] < 2 || s[1] < 1 || s[2] < 1 || s[1] > 4096 || s[2] > 4096)
    fail(path, ": is an array of shape ", shape_text(s), ", expected images x height x width, or images x height x width x 1 or 3");
  const Shape image{int(s[1]), int(s[2]), colour ? int(s[3]) : 1};
  Normalisation normalisation;
  const auto [low, high] = std::minmax_element(read.values.begin(), read.values.end());
  for (std::size_t i = 0; i < read.values.size(); ++i)
    if (!std::isfinite(read.values[i])) fail(path, ": value ", i % std::size_t(image.size()), " of image ", i / std::size_t(image.size()), " is ", read.values[i]);
  if (known) {
    normalisation = *known;
  } else if (*low < 0 || *high > 1) {
    const bool bytes = *low >= 0 && *high <= 255;
    normalisation = bytes ? Normalisation{0, 1.0 / 255} : Normalisation{*low, *high > *low ? 1 / (double(*high) - double(*low)) : 1};
  }
  if (normalisation != Normalisation{})
    for (float& v : read.values) v = float((double(v) - normalisation.offset) * normalisation.scale);
  ImageData result = parted(ArrayImages{std::move(read.values), image}, o, {});
  result.normalisation = normalisation;
  return result;
}

ImageData own_test_images(data::Split split, const TrainOptions& o) {
  if (split.train.size() < 1 || split.test.size() < 1)
    fail(o.data_dir, ": expected training and test images, found ", split.train.size(), " and ", split.test.size());
  if (o.images > split.train.size()) fail(o.data_dir, ": --images ", o.images, " are wanted, there are ", split.train.size());
  if (o.images > 0) split.train = split.train.slice(0, o.images);
  return data_of(std::move(split), o.data_dir);
}

}  // namespace

std::string kind_of_data(const std::string& name) {
  for (const char* known : {"shapes", "mnist", "fashion-mnist", "cifar10", "images", "array"})
    if (name == known) return name;
  if (!exists(name))
    throw UsageError(text("--data ", name, ": is neither a file or folder nor one of shapes, mnist, fashion-mnist, cifar10, images and array"));
  if (name.ends_with(".npy") || name.ends_with(".npz")) return "array";
  if (exists(name + "/data_batch_1.bin")) return "cifar10";
  for (const char* file : {"/train-images-idx3-ubyte", "/train-images-idx3-ubyte.gz"})
    if (exists(name + file)) return "mnist";
  return "images";
}

ImageData load_data(const TrainOptions& options, const Normalisation* known) {
  if (options.data == "shapes") {
    auto split = data::shapes(64, options.seed);
    if (options.images > 0) split.train.images = static_cast<std::uint32_t>(options.images);
    split.test.images = std::min(split.test.images, split.train.images);  // a short trial is tested shortly
    return data_of(std::move(split), "made on the fly");
  }
  if (options.data == "images") return image_files(options);
  if (options.data == "array") return array(options, known);
  if (options.data == "cifar10") return own_test_images(data::cifar10(options.data_dir), options);
  return own_test_images(options.data == "mnist" ? data::mnist(options.data_dir) : data::fashion_mnist(options.data_dir), options);
}

Images take(const SourceView& source, std::int64_t first, std::int64_t count) {
  count = std::clamp<std::int64_t>(source.size() - first, 0, count);
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), static_cast<std::uint32_t>(first));
  Images images;
  images.pixels.resize(rows.size() * static_cast<std::size_t>(source.shape().size()));
  images.labels.resize(rows.size());
  source.fill(0, rows, images.pixels.data(), images.labels.data());
  return images;
}

}  // namespace vae
