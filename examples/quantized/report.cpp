#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vaelib/report/pictures.hpp>
#include <vaelib/report/svg.hpp>

namespace vqvae {

using namespace vaelib;
using report::Mood;
using report::Report;
using report::Width;

Usage measure(const Model& model, const SourceView& images, std::int64_t most, std::int64_t batch) {
  Usage u;
  u.counts.resize(std::size_t(model.code_count()));
  const std::int64_t count = std::min(most, images.size());
  const auto features = std::size_t(images.shape().size());
  double squares = 0, gaps = 0, numbers = 0, gap_numbers = 0;
  for (std::int64_t first = 0; first < count; first += batch) {
    const auto pixels = take(images, first, std::min(batch, count - first));
    const auto [codes, before, after, remade] = model.look(pixels, Model::Look::at_images);
    std::vector<double> own(u.counts.size());
    for (const auto code : codes) own[std::size_t(code)] += 1;
    for (std::size_t k = 0; k < own.size(); ++k) u.counts[k] += own[k];
    const auto use = metrics::codebook_use<double>(own);
    u.used_by_batch.push_back(double(use.used));
    u.entropy_by_batch.push_back(use.normalised_entropy);
    u.vectors_a_batch += use.vectors;
    for (std::size_t i = 0; i < before.size(); ++i) gaps += (double(before[i]) - after[i]) * (double(before[i]) - after[i]);
    for (std::size_t i = 0; i < pixels.size(); ++i) squares += (double(pixels[i]) - remade[i]) * (double(pixels[i]) - remade[i]);
    gap_numbers += double(before.size());
    numbers += double(pixels.size() / features * features);
  }
  const auto batches = double(std::max<std::size_t>(1, u.used_by_batch.size()));
  u.whole = metrics::codebook_use<double>(u.counts);
  u.used_a_batch = std::accumulate(u.used_by_batch.begin(), u.used_by_batch.end(), 0.0) / batches;
  u.entropy_a_batch = std::accumulate(u.entropy_by_batch.begin(), u.entropy_by_batch.end(), 0.0) / batches;
  u.vectors_a_batch /= batches;
  u.quantization_error = gaps / std::max(1.0, gap_numbers);
  u.reconstruction_error = squares / std::max(1.0, numbers);
  return u;
}

std::vector<metrics::CodebookAdvice> advice_of(const Usage& usage, const Model& model, const Options& o) {
  metrics::CodebookState s;
  s.epoch = s.batch = usage.whole;
  s.batch.used = std::int64_t(usage.used_a_batch);
  s.batch.utilisation = usage.used_a_batch / double(usage.whole.codes);
  s.batch.vectors = usage.vectors_a_batch;
  if (!model.epochs().empty()) s.moving = model.epochs().back().moving;
  s.quantization_error = usage.quantization_error;
  const bool stored = o.quantizer != "fsq" && o.quantizer != "lfq";
  if (stored) {
    s.temperature = o.temperature;
    s.decay = o.learned_codes || o.quantizer == "simvq" || o.quantizer == "gumbel" ? NAN : o.decay;
    s.spread = o.spread;
    s.replaces_dead_codes = o.replace_steps > 0 || o.replace_epochs > 0;
  } else {
    s.temperature = 3;
  }
  return metrics::codebook_advice(s);
}

void add_usage(Report& page, const Usage& u, const Model& model, const Options& o) {
  page.section("Use of the codes", "Which codes the images need, with the weights as they are and the nearest code taken.");
  page.number("codes_used", "codes used", double(u.whole.used), text("of ", u.whole.codes));
  page.number("normalised_entropy", "normalised entropy", u.whole.normalised_entropy, "1 is even use");
  page.number("perplexity", "perplexity", u.whole.perplexity, "codes");
  page.number("reconstruction_error", "reconstruction error", u.reconstruction_error, "mean square");
  auto sorted = u.counts;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  std::vector<double> shares;  // at most 128 bars, each the mean of neighbours
  const std::size_t step = (sorted.size() + 127) / 128;
  for (std::size_t k = 0; k < sorted.size(); k += step) {
    const auto end = std::min(sorted.size(), k + step);
    shares.push_back(std::accumulate(sorted.begin() + long(k), sorted.begin() + long(end), 0.0) / double(end - k) / std::max(1.0, u.whole.vectors));
  }
  std::vector<std::string> names;
  for (std::size_t k = 0; k < shares.size(); ++k) names.push_back(std::to_string(k * step));
  page.figure("usage", report::Bars{"Use of the codes", "share of all vectors", "codes, the most used first", shares, names},
              text("An even line is best. Codes that are not used at all: ", u.whole.codes - u.whole.used, '.'), Width::two_thirds, {{"counts", u.counts}});
  std::vector<report::Fact> facts{{"codes", double(u.whole.codes)},
                                  {"used by all images", double(u.whole.used)},
                                  {"used by a batch (mean)", u.used_a_batch},
                                  {"utilisation", u.whole.utilisation},
                                  {"utilisation of a batch", u.used_a_batch / double(u.whole.codes)},
                                  {"entropy", u.whole.entropy, "nats"},
                                  {"normalised entropy", u.whole.normalised_entropy},
                                  {"normalised entropy of a batch", u.entropy_a_batch},
                                  {"perplexity", u.whole.perplexity},
                                  {"quantization error", u.quantization_error, "mean square"}};
  if (!model.epochs().empty() && model.epochs().back().moving.codes > 0) {
    const auto& moving = model.epochs().back().moving;
    facts.push_back({"utilisation by moving averages", moving.utilisation});
    facts.push_back({"normalised entropy by moving averages", moving.normalised_entropy});
  }
  page.table("codebook", "Codebook", facts);
  if (const auto table = model.codebook(); !table.empty() && u.whole.codes <= 4096) {
    const auto distances = metrics::nearest_code_distances(table, table.size() / std::size_t(u.whole.codes));
    const double most = *std::max_element(distances.begin(), distances.end());
    std::vector<double> counts(24);
    for (const double d : distances) counts[std::min<std::size_t>(23, std::size_t(most > 0 ? d / most * 24 : 0))] += 1;
    std::vector<std::string> places;
    for (int b = 0; b < 24; ++b) places.push_back(report::shown_number(most * (b + 0.5) / 24));
    page.figure("code_distances", report::Bars{"Distance to the nearest other code", "codes", "Euclidean distance", counts, places},
                "Codes at distance 0 are twins, of which one is never chosen.", Width::third, {{"distances", distances}});
  }
  if (!model.epochs().empty()) {
    plot::Series whole{"epoch", {}, {}}, batch{"batch", {}, {}}, moving{"moving average", {}, {}};
    for (std::size_t e = 0; e < model.epochs().size(); ++e) {
      const auto& epoch = model.epochs()[e];
      for (auto* s : {&whole, &batch, &moving}) s->x.push_back(double(e + 1));
      whole.y.push_back(100 * epoch.whole.utilisation);
      batch.y.push_back(100 * epoch.used_a_batch / double(epoch.whole.codes));
      moving.y.push_back(epoch.moving.codes > 0 ? 100 * epoch.moving.utilisation : NAN);
    }
    page.figure("utilisation_by_epoch", plot::Lines{"Codes used while it trained", "%", "epoch", {whole, batch, moving}},
                "Three views of the same codes. Where the moving averages stay high and the batches fall, the averages mislead.");
  }
  for (const auto& advice : advice_of(u, model, o)) page.verdict(advice.rule == "more_codes" ? Mood::good : Mood::fair, text("Codebook (", advice.rule, ")."), advice.sentence);
  if (u.whole.utilisation >= 0.95)
    page.verdict(Mood::good, "The codebook is used.", text(u.whole.used, " of ", u.whole.codes, " codes."));
  else if (u.whole.utilisation < 0.1)
    page.verdict(Mood::bad, "Collapsed.", text("Only ", u.whole.used, " of ", u.whole.codes, " codes are used."));
}

std::vector<std::int32_t> by_use(const std::vector<double>& counts, std::size_t most) {
  std::vector<std::int32_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return counts[std::size_t(a)] > counts[std::size_t(b)]; });
  order.resize(std::min(order.size(), most));
  return order;
}

std::vector<float> decoded_codes(const Model& model, const std::vector<std::int32_t>& codes) {
  Model::Codes all;
  for (const auto code : codes) all.insert(all.end(), std::size_t(model.codes_per_image()), code);
  return model.decode(all, long(codes.size()));
}

void add_gallery(Report& page, const Model& model, const Usage& usage) {
  const auto codes = by_use(usage.counts, 64);
  page.figure("code_gallery", report::Pictures{"Codes as images", {{"codes", report::tiles(decoded_codes(model, codes), model.image(), 16)}}},
              text("The ", codes.size(), " most used codes, each decoded from an image that has it everywhere."), Width::full);
}

Image reconstruction_grid(const Model& model, const SourceView& images, std::int64_t count) {
  constexpr std::int64_t columns = 8;
  const auto features = std::size_t(images.shape().size());
  const auto pixels = take(images, 0, count), remade = model.look(pixels, Model::Look::at_images).images;
  std::vector<float> rows;
  for (std::size_t begin = 0; begin < pixels.size(); begin += columns * features)
    for (const auto* source : {&pixels, &remade}) {
      const std::size_t end = std::min(pixels.size(), begin + columns * features);
      rows.insert(rows.end(), source->begin() + long(begin), source->begin() + long(end));
      rows.insert(rows.end(), columns * features - (end - begin), 1.0f);
    }
  for (float& v : rows) v = std::clamp(v, 0.0f, 1.0f);
  return report::tiles(rows, images.shape(), columns);
}

void add_adversary(Report& page, const Model& model) {
  const auto epochs = model.adversaries();
  if (epochs.empty()) return;
  const auto series = [&](std::string name, double Model::Adversary::*number) {
    plot::Series s{std::move(name), {}, {}};
    for (std::size_t e = 0; e < epochs.size(); ++e) s.x.push_back(double(e + 1)), s.y.push_back(epochs[e].*number);
    return s;
  };
  using A = Model::Adversary;
  page.figure("adversary", plot::Lines{"Generator and discriminator", "", "epoch", {series("generator", &A::generator), series("discriminator", &A::discriminator)}},
              "Their losses, unweighted. A discriminator whose loss goes to 0 has won, and teaches nothing.");
  page.figure("logits", plot::Lines{"Logits of the discriminator", "", "epoch", {series("real images", &A::real), series("made images", &A::made)}}, "Close together: it cannot tell them apart.");
  page.figure("perceptual_distance", plot::Lines{"Perceptual distance", "", "epoch", {series("training", &A::perceptual)}}, "Lower is better.");
  page.figure("adaptive_weight", plot::Lines{"Weight of the generator's loss", "", "epoch", {series("lambda", &A::lambda)}}, "Found in each step, so that both gradients are alike at the last layer.");
}

void add_prior(Report& page, const Model& model, const LearntPrior& prior) {
  page.section("Prior", text("How codes go together, learnt by a ", prior.kind == "transformer" ? "causal Transformer" : "PixelCNN", " from the codes of the training images."));
  page.figure("prior_samples", report::Pictures{"New images", {{"images", report::tiles(model.decode(prior.drawn, long(prior.drawn.size()) / model.codes_per_image()), model.image(), 16)}}},
              "Codes drawn from the prior, decoded.", Width::full);
  const auto series = [](std::string name, const std::vector<double>& y) {
    plot::Series s{std::move(name), {}, y};
    for (std::size_t e = 0; e < y.size(); ++e) s.x.push_back(double(e + 1));
    return s;
  };
  page.figure("prior_by_epoch", plot::Lines{"Bits a code", "bits", "epoch", {series("training", prior.train), series("test", prior.test)}},
              text("If all codes were as likely: ", report::shown_number(prior.uniform), " bits."));
}

void add_reconstructions(Report& page, const Model& model, const SourceView& images) {
  page.section("Images");
  page.figure("reconstructions", report::Pictures{"Reconstructions", {{"images", reconstruction_grid(model, images, 24)}}},
              "Rows of test images, and below each row what the model makes of it.", Width::full);
}

}  // namespace vqvae
