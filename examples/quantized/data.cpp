#include "data.hpp"

#include <algorithm>
#include <numeric>
#include <vaelib/data/cifar10.hpp>
#include <vaelib/data/fashion_mnist.hpp>
#include <vaelib/data/image_folder.hpp>
#include <vaelib/data/patches.hpp>
#include <vaelib/data/scenes.hpp>
#include <vaelib/data/subset.hpp>

namespace vqvae {

using namespace vaelib;

namespace {

template <class Train, class Test>
ImageData hold(std::string name, Train train, Test test) {
  const auto kept = std::make_shared<const std::pair<Train, Test>>(std::move(train), std::move(test));
  return {.name = std::move(name), .train = kept->first, .test = kept->second, .owner = kept};
}

std::vector<std::string> notes_of(const std::vector<data::SkippedFile>& skipped) {
  constexpr std::size_t named = 5;
  std::vector<std::string> notes;
  for (std::size_t i = 0; i < std::min(named, skipped.size()); ++i) notes.push_back(text("left out: ", skipped[i].reason));
  if (skipped.size() > named) notes.push_back(text("left out: ", skipped.size() - named, " more files that could not be used"));
  return notes;
}

/// One folder, of which a tenth is kept for testing.
struct Parted {
  data::Dataset all;
  data::SplitRows rows;
  data::Subset<data::Dataset> train{all, rows.train}, test{all, rows.test};
};

ImageData crops(const Options& o) {
  data::PatchOptions options{.size = int(o.image_size), .channels = int(o.in_channels), .seed = o.seed};
  if (o.images > 0) options.patches = std::uint32_t(o.images);
  options.largest_side = std::max(options.largest_side, options.size);
  data::Patches train(o.train_dir, options);
  auto notes = notes_of(train.skipped);
  options.patches = std::max<std::uint32_t>(1, std::min<std::uint32_t>(1000, options.patches));
  options.fixed = true;
  options.seed = ~o.seed;
  auto test = o.val_dir.empty() ? train.with(options) : data::Patches(o.val_dir, options);
  for (auto& note : o.val_dir.empty() ? std::vector<std::string>{} : notes_of(test.skipped)) notes.push_back(note);
  const std::string name = text("crops of ", train.image_count(), " photographs");
  auto result = hold(name, std::move(train), std::move(test));
  result.notes = std::move(notes);
  return result;
}

ImageData photographs(const Options& o) {
  const data::ImageFolderOptions options{.height = int(o.image_size), .width = int(o.image_size), .channels = int(o.in_channels), .threads = int(o.threads)};
  auto folder = data::image_folder(o.train_dir, options);
  auto notes = notes_of(folder.skipped);
  if (o.images > 0 && o.images < folder.images.size()) folder.images = folder.images.slice(0, o.images);
  ImageData result;
  if (o.val_dir.empty()) {
    if (folder.images.size() < 2) fail(o.train_dir, ": expected at least 2 images to learn from and test on, found ", folder.images.size(), "; or give --val-dir");
    auto rows = data::split_rows(folder.images.size(), 0.1, o.seed);
    const auto kept = std::shared_ptr<const Parted>(new Parted{std::move(folder.images), std::move(rows)});
    result = {.name = "photographs", .train = kept->train, .test = kept->test, .owner = kept};
  } else {
    auto val = data::image_folder(o.val_dir, options);
    for (auto& note : notes_of(val.skipped)) notes.push_back(note);
    result = hold("photographs", std::move(folder.images), std::move(val.images));
  }
  result.notes = std::move(notes);
  return result;
}

}  // namespace

ImageData load_data(const Options& o) {
  if (!o.train_dir.empty()) return o.crops ? crops(o) : photographs(o);
  if (o.data == "scenes") {
    auto split = data::scenes(int(o.image_size), o.seed);
    if (o.images > 0) split.train.images = std::uint32_t(o.images);
    split.test.images = std::min(split.test.images, split.train.images);
    return hold("scenes", split.train, split.test);
  }
  auto split = o.data == "fashion-mnist" ? data::fashion_mnist() : data::cifar10(o.data.substr(std::string("cifar10:").size()));
  if (o.images > 0 && o.images < split.train.size()) split.train = split.train.slice(0, o.images);
  return hold(split.name, std::move(split.train), std::move(split.test));
}

ImageData load_folder(const std::string& path, int image_size, int channels) {
  auto folder = data::image_folder(path, {.height = image_size, .width = image_size, .channels = channels});
  auto notes = notes_of(folder.skipped);
  auto result = hold("photographs", data::Dataset(folder.images), data::Dataset(folder.images));
  result.notes = std::move(notes);
  return result;
}

std::vector<float> take(const SourceView& source, std::int64_t first, std::int64_t count) {
  count = std::clamp<std::int64_t>(source.size() - first, 0, count);
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), static_cast<std::uint32_t>(first));
  std::vector<float> pixels(rows.size() * static_cast<std::size_t>(source.shape().size()));
  std::vector<std::int32_t> labels(rows.size());
  source.fill(0, rows, pixels.data(), labels.data());
  return pixels;
}

}  // namespace vqvae
