#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <vaelib/metrics/diagnostics.hpp>
#include <vaelib/report/collapse_monitor.hpp>
#include <vaelib/report/pictures.hpp>
#include <vaelib/report/training.hpp>

namespace vae {

using namespace vaelib;
using report::Mood;
using report::Report;
using report::Width;

namespace {

using Floats = std::vector<float>;
using Span = std::span<const float>;

constexpr std::int64_t most_samples = 256;  // that are looked at
constexpr int strip_width = 640;            // pixels of a row of images

/// How many test images are looked at: fewer of large ones, so that a report takes seconds.
std::int64_t images_of(Shape image) { return std::clamp<std::int64_t>(2'000'000 / image.size(), 256, 2000); }

/// A model, and what it makes of the first test images.
struct Findings {
  const AnyModel& model;
  Shape image;
  std::size_t features, code = 0;
  Images images{};
  Floats means{}, log_variances{}, remade{};
  std::vector<double> kl{}, variances{};
  std::vector<std::size_t> order{};  ///< dimensions, the largest KL divergence first

  Findings(const AnyModel& m, const SourceView& test)
      : model(m), image(test.shape()), features(std::size_t(image.size())), images(take(test, 0, images_of(image))) {
    constexpr std::size_t part = 500;
    for (std::size_t first = 0; first < count(); first += part) {
      const std::size_t rows = std::min(part, count() - first);
      const Span pixels = Span(images.pixels).subspan(first * features, rows * features);
      const std::int32_t* labels = images.labels.data() + first;
      append(means, model.encode(pixels, labels));
      append(log_variances, model.log_variances(pixels, labels));
      append(remade, model.reconstruct(pixels, labels));
    }
    code = means.size() / count();
    kl = metrics::kl_by_dimension(means, log_variances, code);
    variances = metrics::column_variances(means, code);
    order = metrics::descending(kl);
  }

  std::size_t count() const { return images.labels.size(); }
  Span pixels(std::size_t first, std::size_t rows) const {
    return Span(images.pixels).subspan(first * features, rows * features);
  }
  /// Images of codes, all with the label of the first test image.
  Floats decode(const Floats& codes) const {
    const std::vector<std::int32_t> labels(codes.size() / code, images.labels[0]);
    return model.decode(codes, labels.data());
  }

  static void append(Floats& to, const Floats& from) { to.insert(to.end(), from.begin(), from.end()); }
};

double largest(const std::vector<double>& values) {
  double most = 1e-9;
  for (const double value : values)
    if (std::isfinite(value)) most = std::max(most, value);
  return most;
}

void add_code(Report& page, const Findings& f) {
  constexpr std::size_t most_bars = 128, most_cells = 24;
  const std::size_t active = metrics::active_units(f.variances);
  page.section("The code", text("What each of its ", f.code, " numbers z tells of an image, measured on ", f.count(),
                                " test images. The most telling come first."));
  std::vector<std::string> names;
  std::vector<double> kl, variances;
  std::vector<std::int32_t> idle;
  for (const std::size_t d : f.order) {
    if (names.size() == most_bars) break;
    names.push_back(std::to_string(d)), kl.push_back(f.kl[d]), variances.push_back(f.variances[d]);
    idle.push_back(f.variances[d] > metrics::active_variance ? 0 : 9);
  }
  page.figure("kl_per_dimension", report::Bars{"KL divergence by dimension", "nats", "dimension of z", kl, names, idle},
              "How much a dimension tells of an image, on average. Grey ones are not active.", Width::third,
              {{"by_dimension", f.kl}});
  page.figure(
      "active_units",
      report::Bars{"Variance of the means", "", "dimension of z", variances, names, idle, {}, metrics::active_variance},
      text("How far the mean of q(z|x) moves from image to image. A dimension is active where this is above ",
           metrics::active_variance, ", the dashed line: ", active, " of ", f.code, "."),
      Width::third, {{"by_dimension", f.variances}, {"active", active}, {"of", f.code}});
  const auto use = metrics::posterior_use(f.means, f.log_variances, f.code);
  page.figure("kl_histogram", report::kl_histogram(use), text("A tall bar at the left is a code of which little is used. ", use.collapse_ratio * 100, " % of the dimensions have less than 0.1 nats (collapse_ratio)."));
  report::add_effective_dimensions(page, use);
  const std::size_t cells = std::min(most_cells, f.code);
  names.resize(cells);
  const auto correlations = metrics::correlations(f.means, f.code, {f.order.data(), cells});
  page.figure("correlation",
              report::HeatMap{"Correlation of the means", "", "dimension of z", "", correlations, names, names},
              "Pale off the diagonal: each dimension tells something of its own.");

  const double share = double(active) / double(f.code);
  const std::string count = text(active, " of ", f.code, " dimensions are active");
  if (active == 0)
    page.verdict(
        Mood::bad, "Collapsed.",
        "No dimension is active: the decoder ignores the code. A smaller beta, a warm-up of beta or free bits help.");
  else if (share < 0.2)
    page.verdict(
        Mood::bad, "Most of the code is idle.",
        count + ". A smaller beta, a warm-up of beta or free bits wake more; a smaller code would do as well.");
  else if (share < 0.5)
    page.verdict(Mood::fair, "More than half of the code is idle.", count + ". A smaller code would do as well.");
  else
    page.verdict(Mood::good, "The code is used.", count + ".");
}

void add_map(Report& page, const Findings& f, const std::vector<std::string>& class_names) {
  page.section("Map");
  plot::Scatter map{"Where images lie", "mean of z[0]", "mean of z[1]", {}, {}, {}, {}};
  if (class_names.size() > 1) map.classes = f.images.labels, map.class_names = class_names;
  std::string caption = text(f.count(), " test images, each at the mean of its code.");
  if (f.code == 2) {
    for (std::size_t i = 0; i < f.means.size(); i += 2) map.x.push_back(f.means[i]), map.y.push_back(f.means[i + 1]);
  } else {
    auto plane = metrics::principal_plane(f.means, f.code);
    const auto label = [](const char* which, double part) {
      return text(which, " principal component (", std::round(1000 * part) / 10, " %)");
    };
    map.x = std::move(plane.x), map.y = std::move(plane.y);
    map.x_label = label("first", plane.x_share), map.y_label = label("second", plane.y_share);
    caption +=
        " The code has more dimensions than a page: these are the two directions in which the means vary most, and "
        "their share of the variance.";
  }
  page.figure("latent_map", map, caption + " Classes that form groups were told apart without their labels.",
              Width::half);

  // Each axis goes through the quantiles of the prior from 5 to 95 %.
  const int side = std::clamp(480 / (f.image.width + 1), 6, 16), rows = f.code > 1 ? side : 1;
  const auto quantile = [&](int i) { return float(metrics::inverse_normal(0.05 + 0.9 * i / (side - 1))); };
  const std::size_t across = f.code == 2 ? 0 : f.order[0], up = f.code == 2 ? 1 : f.code > 2 ? f.order[1] : 0;
  Floats codes(std::size_t(rows * side) * f.code);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < side; ++c) {
      float* z = codes.data() + std::size_t(r * side + c) * f.code;
      if (rows > 1) z[up] = quantile(rows - 1 - r);
      z[across] = quantile(c);
    }
  page.figure("manifold",
              report::Pictures{"Manifold", {{"decoded codes", report::tiles(f.decode(codes), f.image, side)}}, 500},
              text("Images decoded from a grid over the middle 90 % of the prior: z[", across, "] grows to the right",
                   rows > 1 ? text(", z[", up, "] upwards") : "", f.code > 2 ? "; all other dimensions are zero" : "",
                   ". Neighbours should change smoothly into one another."),
              Width::half, {{"across", across}, {"up", up}, {"side", side}});
}

void add_reconstructions(Report& page, const Findings& f) {
  const int columns = std::clamp(strip_width / (f.image.width + 1), 5, 10);
  page.section("Reconstructions");
  report::Pictures pictures{"Test images and what is made of them", {}, strip_width};
  for (std::size_t first = 0;
       first == 0 || (first < 2 * std::size_t(columns) && first + std::size_t(columns) <= f.count());
       first += std::size_t(columns)) {
    const std::size_t rows = std::min(std::size_t(columns), f.count() - first);
    const Span pixels = f.pixels(first, rows), remade = Span(f.remade).subspan(first * f.features, rows * f.features);
    Floats difference(pixels.size());
    for (std::size_t i = 0; i < pixels.size(); ++i) difference[i] = std::abs(pixels[i] - remade[i]);
    for (const auto& [name, values] :
         {std::pair<const char*, Span>{"image", pixels}, {"reconstruction", remade}, {"difference", difference}})
      pictures.strips.push_back({name, report::tiles(values, f.image, columns)});
  }
  const auto errors = metrics::mean_squared_errors(f.images.pixels, f.remade, f.features);
  const double error = metrics::mean_of(errors),
               spread = metrics::mean_of(metrics::column_variances(f.images.pixels, f.features));
  const double explained = spread > 0 ? 1 - error / spread : 0;
  page.figure("reconstructions", pictures,
              "Test images, what the model makes of the mean of their codes, and the size of the difference. What is "
              "lost is what the code does not hold.",
              Width::two_thirds);
  page.figure("reconstruction_error",
              plot::Lines{"Error",
                          "percent of images",
                          "squared error a pixel",
                          {report::histogram("images", errors, 0, largest(errors))}},
              text("Its mean is ", report::shown_number(error), "; the mean image alone would leave ",
                   report::shown_number(spread), ". A long tail on the right is made of unusual images."),
              Width::third, {{"mean_squared_error", error}, {"of_the_mean_image", spread}, {"explained", explained}});
  page.number("mean_squared_error", "squared error", error, "a pixel, test images");
  page.verdict(explained > 0.5   ? Mood::good
               : explained > 0.1 ? Mood::fair
                                 : Mood::bad,
               explained > 0.5   ? "Images are remade."
               : explained > 0.1 ? "Images are remade roughly."
                                 : "Images are hardly remade.",
               text("Reconstructions hold ", report::shown_number(std::round(100 * std::max(0.0, explained))),
                    " % of what tells the test images apart (variance of the pixels)."));
}

void add_samples(Report& page, const Findings& f, std::uint64_t seed) {
  const int columns = std::clamp(strip_width / (f.image.width + 1), 5, 10);
  const std::size_t count = std::min(std::size_t(most_samples), f.count()),
                    rows = std::clamp<std::size_t>(count / std::size_t(columns), 1, 3);
  const std::size_t shown = std::min(count, rows * std::size_t(columns));
  const Floats samples = f.model.sample(long(count), seed, f.images.labels.data());
  page.section("Samples");
  page.figure("samples",
              report::Pictures{"Samples beside test images",
                               {{"samples", report::tiles(Span(samples).first(shown * f.features), f.image, columns)},
                                {"test images", report::tiles(f.pixels(0, shown), f.image, columns)}},
                               strip_width},
              "New images, decoded from random codes, above as many test images. Good samples could be mistaken for "
              "them and are as varied.",
              Width::two_thirds);
  if (count < 2) return;
  const auto made = metrics::pairwise_distances(samples, f.features),
             real = metrics::pairwise_distances(f.pixels(0, count), f.features);
  const double mine = metrics::mean_of(made), theirs = metrics::mean_of(real),
               high = std::max(largest(made), largest(real));
  const double ratio = theirs > 0 ? mine / theirs : 1;
  page.figure(
      "sample_diversity",
      plot::Lines{"Diversity",
                  "percent of pairs",
                  "distance between two images",
                  {report::histogram("samples", made, 0, high), report::histogram("test images", real, 0, high)}},
      text("Distances between all pairs of ", count, " images: on average ", report::shown_number(mine),
           " for samples and ", report::shown_number(theirs),
           " for test images. Samples further left are too much alike."),
      Width::third, {{"samples", mine}, {"test_images", theirs}, {"ratio", ratio}});
  const std::string words = text("Two samples differ by ", report::shown_number(std::round(100 * ratio)),
                                 " % of what two test images differ by.");
  page.verdict(ratio > 0.8   ? Mood::good
               : ratio > 0.5 ? Mood::fair
                             : Mood::bad,
               ratio > 0.8   ? "Samples are varied."
               : ratio > 0.5 ? "Samples are less varied."
                             : "Samples are much alike.",
               words);
}

void add_traversals(Report& page, const Findings& f) {
  constexpr std::size_t most = 8;
  constexpr float range = 3;
  const int steps = std::clamp(strip_width / (f.image.width + 1), 5, 11);
  page.section("Traversals");
  report::Pictures pictures{"One dimension at a time", {}, strip_width};
  std::vector<double> effects;
  std::vector<std::string> names;
  for (const std::size_t d : f.order) {
    if (names.size() == most) break;
    Floats codes;
    for (int s = 0; s < steps; ++s) {
      codes.insert(codes.end(), f.means.begin(), f.means.begin() + long(f.code));
      codes[codes.size() - f.code + d] = range * (2 * float(s) / float(steps - 1) - 1);
    }
    const Floats row = f.decode(codes);
    effects.push_back(
        metrics::mean_squared_errors(Span(row).first(f.features), Span(row).last(f.features), f.features)[0]);
    names.push_back(std::to_string(d));
    pictures.strips.push_back(
        {text("z[", d, "], ", std::round(100 * f.kl[d]) / 100, " nats"), report::tiles(row, f.image, steps)});
  }
  page.figure("traversals", pictures,
              text("The code of the first test image, one number of it moved from ", -int(range), " to ", int(range),
                   " standard deviations of the prior; the dimensions of the largest KL divergence. A row that does "
                   "not change is an idle dimension."),
              Width::two_thirds,
              {{"dimensions", std::vector<std::size_t>(f.order.begin(), f.order.begin() + long(names.size()))}});
  page.figure("traversal_effect", report::Bars{"Effect of each dimension", "", "dimension of z", effects, names},
              "How much the two ends of a row differ: squared difference a pixel.");
}

void add_run(Report& page, const RunFolder& folder, const AnyModel& model, const ImageData& data,
             const History& history) {
  page.section("The run");
  std::vector<report::Fact> facts;
  std::int64_t threads = model.threads();
  for (const auto& [flag, value] : folder.read_config()) {
    if (flag == "threads") threads = std::atoll(value.c_str());
    facts.emplace_back(flag, value);
  }
  page.table("data", "Data and model",
             {{"data", data.name},
              {"training images", double(data.train.size())},
              {"test images", double(data.test.size())},
              {"image", text_of(data.test.shape())},
              {"classes", double(data.class_names.size())},
              {"parameters", double(model.parameters())},
              {"steps", history.empty() ? 0.0 : double(history.back().step)}});
  report::add_machine(page, history, data.train.size(), threads);
  page.table("configuration", "Configuration", facts, Width::two_thirds);
}

}  // namespace

void write_report(const std::string& path, const RunFolder& folder, const AnyModel& model, const ImageData& data) {
  const History history = folder.read_history();
  auto config = folder.read_config();
  const auto shown = [](std::int64_t count) { return report::shown_number(double(count)); };
  const Findings findings(model, data.test);
  Report page(text("VAE on ", data.name),
              text(config["model-type"] == "conv" ? "Convolutional" : "Fully connected",
                   config["conditional"] == "true" ? " conditional" : "", " VAE with a code of ", findings.code,
                   " numbers and ", shown(model.parameters()), " parameters, trained on ", shown(data.train.size()),
                   " images for ", history.size(), history.size() == 1 ? " epoch" : " epochs"));
  if (!history.empty()) {
    page.number("epochs", "epochs", double(history.size()), shown(history.back().step) + " steps");
    const EpochMetrics& last = history.back();
    page.number("test_neg_elbo", "test -ELBO", last.val_recon + last.val_kl, "nats an image");
    page.number("test_reconstruction", "reconstruction", last.val_recon, "nats an image");
    page.number("test_kl", "KL divergence", last.val_kl, "nats an image");
  }
  page.number("active_dimensions", "active dimensions", double(metrics::active_units(findings.variances)),
              text("of ", findings.code));
  page.section("Training");
  report::add_training(page, history);
  report::add_posterior(page, read_collapse_rows(folder.path()));
  add_code(page, findings);
  add_reconstructions(page, findings);
  add_samples(page, findings, std::strtoull(config["seed"].c_str(), nullptr, 10));
  add_traversals(page, findings);
  add_map(page, findings, data.class_names);
  add_run(page, folder, model, data, history);
  page.write(path);
}

}  // namespace vae
