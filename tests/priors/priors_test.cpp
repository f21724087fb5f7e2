// Priors over codes: that they learn what there is to learn, and draw what they learned.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vaelib/data/codes.hpp>
#include <vaelib/priors/causal_transformer.hpp>
#include <vaelib/priors/pixel_cnn.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

using namespace vaelib;

namespace {

using Codes = std::vector<std::int32_t>;

// A chain along the rows, which begins anew from the code above: the next code is one more (of 8) than that to the
// left, or at the beginning of a row than the one above, with probability 3/4, and any of the others else. The first is
// any code.
constexpr int count = 8, side = 4, positions = side * side;
constexpr double likely = 0.75;
double entropy() {
  const double step = -likely * std::log(likely) - (1 - likely) * std::log((1 - likely) / (count - 1));
  return std::log(double(count)) + (positions - 1) * step;
}
int before(int position) { return position % side > 0 ? position - 1 : position - side; }

Codes chains(long rows, std::uint64_t seed) {
  Codes codes(rows * positions);
  RandomSequence random(RandomKey{.seed = seed});
  for (long r = 0; r < rows; ++r)
    for (int p = 0; p < positions; ++p) {
      std::int32_t* c = codes.data() + r * positions;
      const bool follows = p > 0 && random.below(4) != 0;
      c[p] = p == 0    ? random.below(count)
             : follows ? (c[before(p)] + 1) % count
                       : (c[before(p)] + 2 + random.below(count - 1)) % count;
    }
  return codes;
}
/// Of all pairs, how many follow the chain.
double followed(const Codes& codes) {
  long all = 0, follow = 0;
  for (std::size_t i = 0; i < codes.size(); ++i)
    if (const int p = i % positions; p > 0) {
      ++all;
      follow += codes[i] == (codes[i - p + before(p)] + 1) % count;
    }
  return double(follow) / double(all);
}

const Shape grid{side, side, 1};
const PixelCnn pixel_cnn{.grid = grid, .codes = count, .channels = 16, .layers = 2};
const CausalTransformer transformer{.grid = grid, .codes = count, .width = 24, .heads = 2, .layers = 2};

template <class Model>
Weights<Model, Cpu> trained(const Model& model, int threads, std::int64_t epochs, long rows = 4096) {
  Trainer trainer(model, Adam{.learning_rate = 3e-3f}, Cpu(threads), 5);
  trainer.fit(data::Codes(grid, chains(rows, 1), count),
              {.epochs = epochs, .batch_size = 64, .learning_rate = anneal::Cosine{1, 0.05f, epochs * rows / 64}});
  return trainer.weights();
}

/// The logits that the model gives for whole grids.
template <class Model>
std::vector<float> logits_of(const Weights<Model, Cpu>& weights, const Codes& codes) {
  Session session(weights);
  return session.run(
      long(codes.size()) / positions, Shape{1}, nullptr, nullptr, 0,
      [&](auto& step, const auto& model, const auto& batch) { return model.logits(step, batch.space, codes.data()); });
}

/// Entropy reached on other chains, pairs as frequent as they are, and all that holds of any prior.
template <class Model>
void check_prior(const Model& model, std::int64_t epochs) {
  const auto weights = trained(model, 2, epochs);
  Trainer other(model);
  other.weights().values = weights.values;
  const double nats = other.evaluate(data::Codes(grid, chains(2048, 2), count)).objective;
  INFO("entropy ", entropy(), ", reached ", nats, " nats, ", bits_per_code(nats, grid), " bits a code");
  CHECK(nats > entropy() - 0.3);  // of 2048 chains, whose mean has a deviation of 0.1
  CHECK(nats < entropy() * 1.03);
  Session session(weights);
  const Codes drawn = sample_codes(session, 2048, 3);
  CHECK(followed(drawn) == doctest::Approx(likely).epsilon(0.03));
  for (int k = 0; k < count; ++k)
    CHECK(std::count(drawn.begin(), drawn.end(), k) == doctest::Approx(2048 * positions / count).epsilon(0.1));
  CHECK(followed(sample_codes(session, 512, 3, {.temperature = 0.5})) > 0.95);
  CHECK(followed(sample_codes(session, 512, 3, {.top_k = 1})) == 1);
  CHECK(followed(sample_codes(session, 512, 3, {.top_p = 0.7})) > 0.99);

  // what was drawn by parts of the network is what the whole of it would have drawn: the likeliest code each time
  const Codes best = sample_codes(session, 9, 4, {.top_k = 1});
  const auto logits = logits_of(weights, best);
  for (std::size_t i = 0; i < best.size(); ++i) {
    const float* row = logits.data() + i * count;
    CHECK(best[i] == std::max_element(row, row + count) - row);
  }
}

/// No code changes a bit of the logits at its own position or before; nor do threads, nor the parts of a batch.
template <class Model>
void check_bits(const Model& model) {
  const auto weights = trained(model, 1, 1, 256);
  for (const int threads : {2, 4}) {
    const auto other = trained(model, threads, 1, 256);
    CHECK(std::equal(weights.values.begin(), weights.values.end(), other.values.begin()));
  }
  const Codes codes = chains(2, 9);
  const auto logits = logits_of(weights, codes);
  for (int changed = 0; changed < positions; ++changed) {
    Codes others = codes;
    others[positions + changed] = (codes[positions + changed] + 3) % count;
    const auto after = logits_of(weights, others);
    CHECK(std::memcmp(logits.data(), after.data(), (positions + changed + 1) * count * sizeof(float)) == 0);
    if (changed + 1 < positions) {
      const auto* next = logits.data() + (positions + changed + 1) * count;
      CHECK(std::memcmp(next, after.data() + (next - logits.data()), count * sizeof(float)) != 0);
    }
  }
  Session one(weights), two(weights, Cpu(2)), four(weights, Cpu(4));
  const SamplingOptions options{.temperature = 1.2, .top_k = 6, .top_p = 0.9};
  const Codes drawn = sample_codes(one, 150, 7, options);  // more than are drawn at a time
  CHECK(drawn.size() == 150 * positions);
  CHECK(drawn == sample_codes(two, 150, 7, options));
  CHECK(drawn == sample_codes(four, 150, 7, options));
  CHECK(drawn != sample_codes(one, 150, 8, options));
  Codes parts = sample_codes(one, 33, 7, options);
  const Codes rest = sample_codes(two, 117, 7, options, 33);
  parts.insert(parts.end(), rest.begin(), rest.end());
  CHECK(drawn == parts);
  CHECK(sample_codes(one, 0, 7).empty());
}

template <class Model>
void check_gradient(Model model) {
  static const Codes codes = chains(3, 4);
  const auto report = gradient_check<Shape{1}>(
      model, [](auto& step, const auto& m, auto x) { return m.logits(step, x.space(), codes.data()); }, {.rows = 3});
  INFO(report.summary());
  CHECK(report.passed());
}

}  // namespace

TEST_CASE("a PixelCnn learns a chain") { check_prior(pixel_cnn, 6); }
TEST_CASE("the bits of a PixelCnn") { check_bits(pixel_cnn); }
TEST_CASE("the gradient of a PixelCnn") {
  check_gradient(PixelCnn{.grid = grid, .codes = count, .channels = 5, .layers = 2});
}
TEST_CASE("a CausalTransformer learns a chain") { check_prior(transformer, 4); }
TEST_CASE("the bits of a CausalTransformer") { check_bits(transformer); }
TEST_CASE("a CausalTransformer that sees no code learns their frequencies only") {
  CausalTransformer blind = transformer;
  blind.word_dropout = 1;
  Trainer trainer(blind, Adam{.learning_rate = 3e-3f}, Cpu(2), 5);
  const auto history = trainer.fit(data::Codes(grid, chains(1024, 3), count), {.epochs = 3, .batch_size = 64});
  CHECK(history.back().train_loss > 0.98 * positions * std::log(double(count)));
  CHECK(trainer.weights().model.tokens.weight.extents[0] == count + 2);
}
TEST_CASE("the gradient of a CausalTransformer") {
  check_gradient(CausalTransformer{.grid = grid, .codes = count, .width = 6, .heads = 3, .layers = 2});
}

TEST_CASE("how a code is chosen") {
  const auto chosen = [](const std::vector<double>& logits, double u, const SamplingOptions& options = {}) {
    std::vector<double> weights(logits.size());
    Codes order(logits.size());
    return choose_code(int(logits.size()), logits.data(), u, options, weights.data(), order.data());
  };
  const std::vector<double> logits{std::log(0.1), std::log(0.4), std::log(0.2), std::log(0.3)};
  for (const auto& [u, code] :
       {std::pair{0.05, 0}, {0.11, 1}, {0.49, 1}, {0.51, 2}, {0.69, 2}, {0.71, 3}, {1 - 1e-9, 3}})
    CHECK(chosen(logits, u) == code);
  for (const auto& [u, code] : {std::pair{0.56, 1}, {0.58, 3}})
    CHECK(chosen(logits, u, {.top_k = 2}) == code);  // 4/7 and 3/7
  for (const auto& [u, code] : {std::pair{0.44, 1}, {0.45, 2}, {0.66, 2}, {0.67, 3}})
    CHECK(chosen(logits, u, {.top_p = 0.75}) == code);  // of 0.9
  CHECK(chosen(logits, 0.99, {.top_p = 0.39}) == 1);
  CHECK(chosen(logits, 0.99, {.top_k = 2, .top_p = 0.5}) == 1);  // 4/7 of the two
  CHECK(chosen(logits, 0.99, {.top_k = 9, .top_p = 1e-9}) == 1);
  CHECK(chosen({0, 0, 0}, 0.99, {.top_k = 1}) == 0);  // of equals the first
  CHECK(chosen({0, 1000, 0}, 0.5, {.temperature = 1e-3}) == 1);
  CHECK(chosen({-INFINITY, 0, -INFINITY}, 0.999) == 1);
  CHECK(chosen({0, NAN}, 0.5) == -1);
  CHECK(chosen({0, INFINITY}, 0.5) == -1);
  CHECK(chosen({-INFINITY, -INFINITY}, 0.5) == -1);
}

TEST_CASE("codes and options that are refused") {
  CHECK_THROWS_WITH_AS(data::Codes(grid, Codes(31, 0), count),
                       "data set: 31 values are no whole number of rows of 4 x 4 x 1", Error);
  Codes wrong(2 * positions);
  wrong[positions + 3] = count;
  CHECK_THROWS_WITH_AS(data::Codes(grid, wrong, count), "data set: row 1 has the code 8 at position 3, expected 0 to 7",
                       Error);
  wrong[positions + 3] = -1;
  CHECK_THROWS_WITH_AS(data::Codes(grid, wrong, count),
                       "data set: row 1 has the code -1 at position 3, expected 0 to 7", Error);

  Trainer trainer(pixel_cnn);
  std::vector<float> values(3 * positions);
  const data::Rows rows(values, grid);
  for (const auto& [value, text] : {std::pair{8.0f, "8 at feature 5, the likelihood wants numbers from 0 to 7"},
                                    {-1.0f, "-1 at feature 5, the likelihood wants numbers from 0 to 7"}}) {
    values[2 * positions + 5] = value;
    CHECK_THROWS_WITH_AS(trainer.fit(rows, {.batch_size = 3}),
                         (std::string("vaelib: row 2 of the data has the value ") + text).c_str(), Error);
  }
  for (const auto& [value, text] : {std::pair{1.5f, "1.5"}, {8.0f, "8"}, {-1.0f, "-1"}, {NAN, "nan"}}) {
    values[2 * positions + 5] = value;
    CHECK_THROWS_WITH_AS(
        trainer.learner.learn({3, grid, values.data()}),
        (std::string("vaelib: row 2 has the code ") + text + " at position 5, expected a whole number from 0 to 7")
            .c_str(),
        Error);
  }
  CHECK_THROWS_AS(trainer.fit(data::Rows(std::span(values).first(30), Shape{3, 5, 1})), Error);
  CHECK_THROWS_AS(Trainer(PixelCnn{.codes = 0}), Error);
  CHECK_THROWS_AS(Trainer(PixelCnn{.grid = {4, 4, 2}}), Error);
  CHECK_THROWS_AS(Trainer(PixelCnn{.layers = 0}), Error);
  CHECK_THROWS_AS(Trainer(CausalTransformer{.codes = 0}), Error);
  CHECK_THROWS_AS(Trainer(CausalTransformer{.width = 10, .heads = 3}), Error);
  CHECK_THROWS_AS(Trainer(CausalTransformer{.dropout = 1}), Error);
  CHECK_THROWS_AS(Trainer(CausalTransformer{.word_dropout = -1}), Error);

  Session session(trainer.weights());
  for (const double temperature : {0.0, -1.0, double(NAN), double(INFINITY)})
    CHECK_THROWS_AS(sample_codes(session, 1, 0, {.temperature = temperature}), Error);
  for (const double top_p : {0.0, -1.0, 1.1, double(NAN)})
    CHECK_THROWS_AS(sample_codes(session, 1, 0, {.top_p = top_p}), Error);
  CHECK_THROWS_AS(sample_codes(session, 1, 0, {.top_k = -1}), Error);
  CHECK_THROWS_AS(sample_codes(session, -1, 0), Error);
  std::fill(trainer.weights().values.begin(), trainer.weights().values.end(), NAN);
  CHECK_THROWS_WITH_AS(sample_codes(session, 1, 0),
                       "vaelib: row 0 has no code at position 0: the logits are not finite", Error);
}
