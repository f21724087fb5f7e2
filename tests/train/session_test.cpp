// Inference by several threads on shared weights, and what a stranger may get wrong.
#include <doctest/doctest.h>

#include <autodiff/toy_models.hpp>
#include <thread>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;
using Plain = Vae<Sequential<toy::pixels, Conv2d<3, 4, 2, 1>, BatchNorm, ReLU, Flatten, Dropout>, Gaussian<4>,
                  Sequential<Shape{4}, Linear<36>, Reshape<toy::pixels>>, Bernoulli>;
using Conditional = ConditionalVae<Sequential<toy::pixels, Flatten, Linear<9>, ReLU>, Gaussian<4>,
                                   Sequential<Shape{6}, Linear<36>, Reshape<toy::pixels>>, Bernoulli, 3, 2>;

Floats some_images(long count) {
  Floats x(count * 36);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 37) / 36;
  return x;
}

/// Images and labels of the caller's own making, that a stranger may have got wrong.
struct Own {
  Floats values;
  Shape of{6, 6, 1};
  int label = -2;  ///< the same for all; -2: there are none
  std::int64_t size() const { return std::int64_t(values.size()) / of.size(); }
  Shape shape() const { return of; }
  int classes() const { return label == -2 ? 0 : 3; }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* out, std::int32_t* labels) const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(values.begin() + long(rows[i]) * of.size(), of.size(), out + long(i) * of.size());
      if (label != -2) labels[i] = label;
    }
  }
};

template <class Model>
std::string error_of_fit(Trainer<Model>& trainer, const Own& data,
                         FitOptions options = {.epochs = 1, .batch_size = 4}) {
  const Floats before(trainer.weights().values.begin(), trainer.weights().values.end());
  try {
    trainer.fit(data, options);
  } catch (const Error& error) {
    CHECK(Floats(trainer.weights().values.begin(), trainer.weights().values.end()) == before);  // nothing was learned
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("sessions on shared weights") {
  const Weights<Plain, Cpu> weights({}, 3);
  const Floats x = some_images(13), z = Floats(13 * 4, 0.3f);
  struct Results {
    Floats code, again, images, sampled, decoded;
    bool operator==(const Results&) const = default;
  };
  const auto run = [&](int threads) {
    Session session(weights, Cpu(threads));
    Results r;
    for (int i = 0; i < 5; ++i)
      r = {session.encode(x), session.encode(x), session.reconstruct(x), session.sample(13, 9), session.decode(z)};
    return r;
  };
  const Results one = run(1);
  CHECK(one.code.size() == 13 * 4);
  CHECK(one.code == one.again);
  CHECK(one.images.size() == x.size());
  CHECK(one.sampled.size() == x.size());
  CHECK(one.decoded.size() == x.size());
  for (const float p : one.images) CHECK((p > 0 && p < 1));  // means, not logits
  CHECK(run(3) == one);

  Results found[4];
  std::vector<std::thread> threads;
  for (Results& result : found) threads.emplace_back([&] { result = run(1); });
  for (auto& thread : threads) thread.join();
  for (const Results& result : found) CHECK(result == one);

  Session session(weights);
  Floats parts;  // a row's result does not depend on the rows around it
  for (const auto& [first, last] : {std::pair{0, 1}, {1, 6}, {6, 13}}) {
    const Floats part = session.reconstruct(std::span(x).subspan(first * 36, (last - first) * 36));
    parts.insert(parts.end(), part.begin(), part.end());
  }
  CHECK(parts == one.images);
  CHECK(session.sample(13, 10) != one.sampled);
  const Floats first_five = session.sample(5, 9);
  CHECK(std::equal(first_five.begin(), first_five.end(), one.sampled.begin()));
  CHECK(session.reconstruct({}).empty());
  Floats room(13 * 36);
  session.decode(z, room);
  CHECK(room == one.decoded);
}

TEST_CASE("a session says what does not fit") {
  const Weights<Conditional, Cpu> weights;
  Session session(weights);
  const Floats x = some_images(2);
  const std::int32_t labels[] = {0, 2}, wrong[] = {0, 3};
  CHECK(session.reconstruct(x, labels).size() == x.size());
  CHECK(session.sample(2, 1, labels) != session.sample(2, 1, std::array{0, 0}.data()));
  CHECK_THROWS_WITH_AS(session.reconstruct(x), "vaelib: this model wants labels, and the data has none", Error);
  CHECK_THROWS_WITH_AS(session.sample(2, 1), "vaelib: this model wants labels, and the data has none", Error);
  CHECK_THROWS_WITH_AS(session.encode(x, wrong), "vaelib: row 1 has label 3, expected 0 to 2", Error);
  CHECK_THROWS_WITH_AS(session.encode(std::span(x).first(71), labels),
                       "vaelib: 71 numbers are no whole rows of 36 features", Error);
  CHECK_THROWS_WITH_AS(session.decode(std::span(x).first(5), labels),
                       "vaelib: 5 numbers are no whole rows of 4 features", Error);
  Floats room(2 * 36 + 1);
  CHECK_THROWS_WITH_AS(session.decode(std::span(x).first(8), room, labels), "vaelib: decode wants room for 72 numbers, found 73", Error);
  CHECK(session.reconstruct(x, labels).size() == x.size());  // a refusal leaves the session as it was
}

TEST_CASE("fit says what does not fit") {
  Trainer<Plain> plain({}, {}, Cpu(1));
  Trainer<Conditional> conditional({}, {}, Cpu(1));
  const Own good{some_images(8)};
  CHECK(error_of_fit(plain, {Floats(100), {5, 5, 1}}) ==
        "vaelib: the model takes samples of shape 6 x 6 x 1, the data has 5 x 5 x 1");
  CHECK(error_of_fit(plain, {Floats(72), {36}}) ==
        "vaelib: the model takes samples of shape 6 x 6 x 1, the data has 36");
  CHECK(error_of_fit(plain, {}) == "vaelib: the data set is empty");
  CHECK(error_of_fit(plain, good, {.epochs = 1, .batch_size = 0}) == "vaelib: a batch has at least 1 sample, found 0");
  const Own other{Floats(50), {5, 5, 1}};
  CHECK(error_of_fit(plain, good, {.epochs = 1, .validation = other}) ==
        "vaelib: the model takes samples of shape 6 x 6 x 1, the data has 5 x 5 x 1");
  CHECK(error_of_fit(plain, good, {.epochs = 1, .checkpoints = Checkpoints{.folder = "", .resume = true}})
            .starts_with("vaelib: Checkpoints::folder is empty"));
  CHECK(error_of_fit(conditional, good) == "vaelib: this model wants labels, and the data has none");
  CHECK(error_of_fit(conditional, {some_images(8), {6, 6, 1}, 3}).ends_with(" has label 3, expected 0 to 2"));
  CHECK(error_of_fit(conditional, {some_images(8), {6, 6, 1}, -1}).ends_with(" has label -1, expected 0 to 2"));

  Own bad = good;
  for (const float value : {NAN, INFINITY, -0.01f, 1.01f, 255.0f}) {
    bad.values = Floats(8 * 36, 0.5f);
    bad.values[3 * 36 + 5] = value;
    const std::string error = error_of_fit(plain, bad, {.epochs = 1, .batch_size = 8});
    INFO(error);
    CHECK(error.starts_with("vaelib: row 3 of the data has the value "));
    CHECK(error.ends_with(" at feature 5, the likelihood wants numbers from 0 to 1"));
  }
  CHECK(error_of_fit(plain, good) == "no error");
  CHECK(error_of_fit(conditional, {some_images(8), {6, 6, 1}, 2}) == "no error");
}
