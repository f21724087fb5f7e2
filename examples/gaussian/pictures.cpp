#include "pictures.hpp"

#include <algorithm>
#include <vaelib/io/plot.hpp>
#include <vaelib/io/png.hpp>

namespace vae {

using namespace vaelib;

namespace {

void write_grid(const std::string& path, const std::vector<float>& pixels, Shape image, int columns) {
  const int scale = std::max(1, 64 / image.width);
  write_png(path, image_grid(pixels, image.height, image.width, image.channels, {.columns = columns, .scale = scale}));
}

template <class Column>
std::vector<double> column(const History& history, Column number) {
  std::vector<double> values;
  for (const auto& row : history) values.push_back(number(row));
  return values;
}

}  // namespace

void draw_losses(const std::string& path, const History& history) {
  const auto panel = [&](const char* title, double EpochMetrics::*train, double EpochMetrics::*test) {
    const auto values = [&](auto member) { return column(history, [=](const auto& row) { return row.*member; }); };
    return plot::Lines{title, "nats an image", "epoch", {{"training", values(train)}, {"test", values(test)}}};
  };
  std::vector<plot::Lines> panels{panel("Loss", &EpochMetrics::train_loss, &EpochMetrics::val_loss),
                                  panel("Reconstruction", &EpochMetrics::train_recon, &EpochMetrics::val_recon),
                                  panel("KL divergence", &EpochMetrics::train_kl, &EpochMetrics::val_kl)};
  const auto betas = column(history, [](const auto& row) { return row.current_beta; });
  if (std::adjacent_find(betas.begin(), betas.end(), std::not_equal_to{}) != betas.end())
    panels.push_back({"Weight of the KL divergence", "", "epoch", {{"beta", betas}}});
  write_png(path, plot::draw(panels));
}

void draw_reconstructions(const std::string& path, const AnyModel& model, const ImageData& data) {
  constexpr std::int64_t columns = 12, pairs = 4;
  const auto features = static_cast<std::size_t>(data.test.shape().size());
  const Images images = take(data.test, 0, columns * pairs);
  const auto remade = model.reconstruct(images.pixels, images.labels.data());
  std::vector<float> rows;
  const std::size_t whole_row = columns * features;
  for (std::size_t begin = 0; begin < images.pixels.size(); begin += whole_row) {
    const std::size_t end = std::min(begin + whole_row, images.pixels.size()), gap = whole_row - (end - begin);
    for (const auto* source : {&images.pixels, &remade}) {
      rows.insert(rows.end(), source->begin() + long(begin), source->begin() + long(end));
      rows.insert(rows.end(), gap, 1.0f);  // a row of fewer images is filled up with white
    }
  }
  write_grid(path, rows, data.test.shape(), columns);
}

void draw_samples(const std::string& path, const AnyModel& model, const ImageData& data, bool conditional,
                  std::uint64_t seed) {
  constexpr int columns = 10;
  const int rows = conditional ? data.test.classes() : 10;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows * columns));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int32_t>(i) / columns;
  write_grid(path, model.sample(rows * columns, seed, labels.data()), data.test.shape(), columns);
}

void draw_latent_space(const std::string& path, const AnyModel& model, const ImageData& data) {
  constexpr std::int64_t most = 10'000, part = 500;  // images drawn, images encoded at a time
  plot::Scatter chart{"Codes of the test images", "mean of z[0]", "mean of z[1]", {}, {}, {}, data.class_names};
  for (std::int64_t first = 0; first < std::min(most, data.test.size()); first += part) {
    const Images images = take(data.test, first, part);
    const auto means = model.encode(images.pixels, images.labels.data());
    for (std::size_t i = 0; i + 1 < means.size(); i += 2) chart.x.push_back(means[i]), chart.y.push_back(means[i + 1]);
    chart.classes.insert(chart.classes.end(), images.labels.begin(), images.labels.end());
  }
  write_png(path, plot::draw(chart));
}

}  // namespace vae
