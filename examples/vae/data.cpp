#include "data.hpp"

#include <algorithm>
#include <numeric>
#include <vaelib/data/fashion_mnist.hpp>
#include <vaelib/data/shapes.hpp>

namespace vae {

using namespace vaelib;

namespace {

template <class Split>
ImageData data_of(Split split, const std::string& origin) {
  const auto kept = std::make_shared<const Split>(std::move(split));
  return {kept->name, origin, kept->train, kept->test, kept->class_names, kept};
}

}  // namespace

ImageData load_data(const TrainOptions& options) {
  if (options.data == "shapes") {
    auto split = data::shapes(64, options.seed);
    if (options.images > 0) split.train.images = static_cast<std::uint32_t>(options.images);
    split.test.images = std::min(split.test.images, split.train.images);  // a short trial is tested shortly
    return data_of(std::move(split), "made on the fly");
  }
  auto split = options.data == "mnist" ? data::mnist(options.data_dir) : data::fashion_mnist(options.data_dir);
  if (split.train.size() < 1 || split.test.size() < 1)
    fail(options.data_dir, ": expected training and test images, found ", split.train.size(), " and ",
         split.test.size());
  if (options.images > split.train.size())
    fail(options.data_dir, ": --images ", options.images, " are wanted, there are ", split.train.size());
  if (options.images > 0) split.train = split.train.slice(0, options.images);
  return data_of(std::move(split), options.data_dir);
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
