// Models in safetensors files: there and back, and files that are not of this model.
#include <doctest/doctest.h>

#include <cstdlib>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/residual.hpp>
#include <vaelib/models/vae.hpp>
#include <vaelib/train/weights.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

/// Every layer with parameters, and each place where features are flattened.
struct Model {
  Sequential<Shape{6, 4, 2}, Conv2d<3, 3, 1, 1>, BatchNorm, Flatten, LayerNorm, Linear<7>, ReLU, Linear<24>, BatchNorm,
             Reshape<Shape{2, 4, 3}>, Residual<LayerNorm, Conv2d<3, 1>>, ConvTranspose2d<5, 2, 2>>
      body{};
  Embedding<4, 3> labels{};
  void build() {
    body.build();
    labels.build();
  }
  void fields(auto&& f) {
    f("body", body);
    f("labels", labels);
  }
};
struct Other {  // other layers under the same names
  Sequential<Shape{6, 4, 2}, Conv2d<4, 3, 1, 1>, ReLU, Flatten, LayerNorm, Linear<8>> body{};
  void build() { body.build(); }
  void fields(auto&& f) { f("body", body); }
};

using Numbers = Weights<Model, Cpu>;

/// Weights of which no two numbers are the same, state included.
Numbers some_weights(std::uint64_t seed) {
  Numbers w({}, seed);
  normal(RandomKey{.seed = seed}, 0, 1, int(w.values.size()), w.values.data());
  normal(RandomKey{.seed = seed + 1}, 0, 1, int(w.state.size()), w.state.data());
  for (const auto& [name, s] : w.states)
    if (s.integer) w.state[s.offset] = float(seed + 10);
  return w;
}
Floats bits_of(const Numbers& w) {
  Floats bits;
  for (const auto& [name, p] : w.parameters)
    bits.insert(bits.end(), w.values.data() + p.offset, w.values.data() + p.offset + p.size());
  for (const auto& [name, s] : w.states)
    bits.insert(bits.end(), w.state.data() + s.offset, w.state.data() + s.offset + s.size());
  return bits;
}

struct TemporaryFile {
  char path[64] = "/tmp/vaelib-weights-XXXXXX";
  TemporaryFile() {
    const int descriptor = mkstemp(path);
    REQUIRE(descriptor >= 0);
    ::close(descriptor);
  }
  ~TemporaryFile() { std::remove(path); }
};

std::string error_of_load(const std::string& path) {
  Numbers w = some_weights(5);
  const Floats before = bits_of(w);
  std::string error = "no error";
  try {
    load(path, w);
  } catch (const Error& e) {
    error = e.what();
    CHECK(bits_of(w) == before);  // nothing was changed
  }
  return error;
}

}  // namespace

TEST_CASE("what is saved is what is loaded") {
  const TemporaryFile file;
  const Numbers saved = some_weights(1);
  save(file.path, saved, {{"made by", "a test"}});
  Numbers loaded = some_weights(2);
  CHECK(bits_of(loaded) != bits_of(saved));
  load(file.path, loaded);
  CHECK(bits_of(loaded) == bits_of(saved));
  CHECK(SafetensorsFile(file.path).metadata().at("made by") == "a test");
}

TEST_CASE("names and shapes are those of torch.nn") {
  const TemporaryFile file;
  save(file.path, some_weights(1));
  const SafetensorsFile opened(file.path);
  const auto shape = [&](const char* name) {
    return opened.find(name) ? shape_text(opened.find(name)->shape) : "missing";
  };
  CHECK(shape("body.0.weight") == shape_text({3, 2, 3, 3}));
  CHECK(shape("body.1.running_var") == shape_text({3}));
  CHECK(shape("body.1.num_batches_tracked") == shape_text({}));
  CHECK(opened.find("body.1.num_batches_tracked")->dtype == Dtype::i64);
  CHECK(shape("body.4.weight") == shape_text({7, 72}));
  CHECK(shape("body.9.body.1.weight") == shape_text({3, 3, 1, 1}));
  CHECK(shape("body.9.body.0.weight") == shape_text({3, 2, 4}));
  CHECK(shape("body.10.weight") == shape_text({3, 5, 2, 2}));
  CHECK(shape("labels.weight") == shape_text({4, 3}));
}

TEST_CASE("features that were flattened are stored channels first") {
  const TemporaryFile file;
  Numbers w;
  // each number says where it stands: height, width, channel
  const auto code = [](long row, Shape s) {
    return float(row / (s.width * s.channels) * 100 + row / s.channels % s.width * 10 + row % s.channels);
  };
  const Shape before{6, 4, 3}, after{2, 4, 3};
  const auto set = [&](const std::string& wanted, Shape s, long repeat) {
    for (const auto& [name, p] : w.parameters)
      for (long i = 0; name == wanted && i < p.size(); ++i) w.values[p.offset + i] = code(i / repeat, s);
    for (const auto& [name, t] : w.states)
      for (long i = 0; name == wanted && i < t.size(); ++i) w.state[t.offset + i] = code(i, s);
  };
  set("body.4.weight", before, 7);  // in x out: one row for each feature
  for (const char* name : {"body.6.bias", "body.7.weight", "body.7.bias", "body.7.running_mean", "body.7.running_var"})
    set(name, after, 1);
  set("body.3.weight", before, 1);
  save(file.path, w);
  const SafetensorsFile opened(file.path);
  const auto read = [&](const char* name) {
    Floats values(opened.find(name)->count());
    opened.read(name, values);
    return values;
  };
  const auto first = [](long k, Shape s) {
    return float(k / s.width % s.height * 100 + k % s.width * 10 + k / (s.height * s.width));
  };
  const Floats weight = read("body.4.weight");
  for (long k = 0; k < 7 * 72; ++k) CHECK(weight[k] == first(k % 72, before));
  for (const char* name :
       {"body.6.bias", "body.7.weight", "body.7.bias", "body.7.running_mean", "body.7.running_var"}) {
    const Floats values = read(name);
    INFO(name);
    for (long k = 0; k < 24; ++k) CHECK(values[k] == first(k, after));
  }
  const Floats norm = read("body.3.weight");
  for (long k = 0; k < 72; ++k) CHECK(norm[k] == first(k, before));
}

TEST_CASE("features that were flattened keep their order through layers within layers") {
  constexpr Shape image{4, 2, 3}, flat{24};
  using Nested = Sequential<image, Sequential<image, ReLU, Flatten>, Residual<LayerNorm, Linear<24>, Tanh, Linear<24>>, Linear<24>, Tanh,
                            Residual<LayerNorm, Linear<24>>, Reshape<image>>;
  const Weights<Nested, Cpu> w;
  const auto orders = [&](const std::string& wanted, Shape in, Shape out) {
    const auto p = std::find_if(w.parameters.begin(), w.parameters.end(), [&](const auto& entry) { return entry.name == wanted; });
    REQUIRE(p != w.parameters.end());
    INFO(wanted, ": ", text_of(p->leaf.in_order), " to ", text_of(p->leaf.out_order));
    CHECK(p->leaf.in_order == in);
    CHECK(p->leaf.out_order == out);
  };
  orders("1.body.0.weight", image, image);
  orders("1.body.1.weight", image, flat);
  orders("1.body.3.weight", flat, image);  // is added to features of an image
  orders("2.weight", image, image);
  orders("4.body.0.weight", image, image);
  orders("4.body.1.weight", image, image);
}

TEST_CASE("features of a label stand behind those that were flattened") {
  constexpr Shape image{4, 2, 3};
  using Labelled = ConditionalVae<Sequential<image, Flatten>, Gaussian<1>, Sequential<Shape{6}, Linear<24>, Reshape<image>>, Bernoulli, 3, 5>;
  const TemporaryFile file;
  Weights<Labelled, Cpu> w;
  const Parameter& head = w.model.encoder.head.weight;  // 29 x 2 here
  for (long i = 0; i < head.size(); ++i) w.values[head.offset + i] = float(i / 2);
  save(file.path, w);
  const SafetensorsFile opened(file.path);
  Floats there(opened.find("encoder.head.weight")->count());
  opened.read("encoder.head.weight", there);
  for (int k = 0; k < 29; ++k) CHECK(there[k] == (k < 24 ? k % 8 * 3 + k / 8 : k));
  Weights<Labelled, Cpu> loaded({}, 1);
  load(file.path, loaded);
  for (long i = 0; i < head.size(); ++i) CHECK(loaded.values[head.offset + i] == float(i / 2));
}

TEST_CASE("a file of another model is refused in one sentence, and nothing is changed") {
  const TemporaryFile file;
  Weights<Other, Cpu> other;
  save(file.path, other);
  const std::string error = error_of_load(file.path);
  INFO(error);
  CHECK(error.starts_with(file.path));
  const auto has = [&](const char* part) { return error.find(part) != std::string::npos; };
  CHECK(has("not a file of this model"));
  CHECK(has("; missing: body.1.weight, body.1.bias, body.6.weight"));
  CHECK(has("labels.weight"));
  CHECK(has("body.1.num_batches_tracked"));
  CHECK(!has("unexpected"));
  CHECK(has(text("; other shape: body.0.weight is ", shape_text({4, 2, 3, 3}), ", expected ", shape_text({3, 2, 3, 3}))
                .c_str()));

  save(file.path, some_weights(1));
  Weights<Other, Cpu> small;
  const Floats before(small.values.begin(), small.values.end());
  CHECK_THROWS_WITH_AS(load(file.path, small), doctest::Contains("unexpected: "), Error);
  std::vector<SafetensorsView> foreign;  // names that a terminal would obey
  for (int i = 0; i < 60; ++i) foreign.push_back({text("\x1b[2J", i), Dtype::f32, {0}, nullptr});
  safetensors_write(file.path, foreign);
  CHECK_THROWS_WITH_AS(load(file.path, small), doctest::Contains("unexpected: \"\\u001b[2J0\", "), Error);
  CHECK_THROWS_WITH_AS(load(file.path, small), doctest::Contains(" and 10 more"), Error);
  CHECK(Floats(small.values.begin(), small.values.end()) == before);
}

TEST_CASE("files that are damaged or absent") {
  CHECK(error_of_load("/tmp/vaelib-there-is-no-such-file").starts_with("/tmp/vaelib-there-is-no-such-file: "));
  const TemporaryFile file;
  CHECK(error_of_load(file.path).find("is no safetensors file") != std::string::npos);  // it is empty
  save(file.path, some_weights(1));
  CHECK(error_of_load(file.path) == "no error");
  std::FILE* opened = std::fopen(file.path, "r+b");
  std::fseek(opened, 0, SEEK_END);
  const long size = std::ftell(opened);
  REQUIRE(::ftruncate(fileno(opened), size - 4) == 0);
  std::fclose(opened);
  CHECK(error_of_load(file.path) != "no error");
  CHECK_THROWS_AS(save("/tmp/there/is/no/such/folder.safetensors", some_weights(1)), Error);
}

TEST_CASE("a part of another model") {
  const TemporaryFile file;
  const std::string path = file.path;
  const Numbers from = some_weights(1), before = some_weights(2);
  save(path, from);
  Numbers w = before;
  const auto names = load_part(path, w, {"labels.", "body.1."});
  CHECK(names.size() == 6);
  for (const auto& [name, p] : w.parameters) {
    const auto& source = name.starts_with("labels.") || name.starts_with("body.1.") ? from : before;
    for (long i = 0; i < p.size(); ++i) CHECK(w.values[p.offset + i] == source.values[p.offset + i]);
  }
  for (const auto& [name, s] : w.states)
    for (long i = 0; i < s.size(); ++i) CHECK(w.state[s.offset + i] == (name.starts_with("body.1.") ? from : before).state[s.offset + i]);

  Weights<Other, Cpu> other;
  const Floats untouched(other.values.begin(), other.values.end());
  CHECK_THROWS_WITH_AS(load_part(path, other, {"body.3.", "body.4."}), doctest::Contains("other shape: body.3.weight is [72], expected [96]"), Error);
  CHECK(Floats(other.values.begin(), other.values.end()) == untouched);
  CHECK_THROWS_WITH_AS(load_part(path, other, {"labels."}), doctest::Contains("the model has no tensors whose names begin with 'labels.'"), Error);
}
