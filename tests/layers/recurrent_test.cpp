// GRU and LSTM: PyTorch's numbers, gradients, and that a row depends on its own sequence up to it alone, to the bit.
#include <doctest/doctest.h>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/recurrent.hpp>
#include <vaelib/train/gradient_check.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;
using Offsets = std::vector<long>;
constexpr Shape flat{dynamic};

Floats normals(long count, std::uint64_t seed) {
  Floats numbers(std::size_t(count), 0.0f);
  normal(RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}

/// A layer on parameters as the rows of sequences and their first states, so that all gradients can be checked.
template <class Layer, int States>
struct OnRows {
  Layer layer{};
  int width = 1;
  Offsets offsets{};
  bool given = false;
  Parameter rows{}, first[2]{};
  void build() {
    rows = {{int(offsets.back()), width}, normal(1)};
    for (auto& f : first) f = {{int(offsets.size()) - 1, int(layer.out)}, normal(1)};
    layer.build(Shape{width});
  }
  void fields(auto&& f) {
    f("layer", layer);
    f("rows", rows);
    if (given)
      for (int k = 0; k < States; ++k) f(text("first", k), first[k]);
  }
  template <class S>
  static auto variable(S& step, const RowSpace* space, const Parameter& p) {
    auto x = step.template variable<flat>(space, Shape{p.extents[1]}, step.needs_gradient(p));
    std::copy_n(step.value(p), x.size(), x.value());
    if (x.needs_gradient())
      step.record({x.node}, [=](S& s) { s.backend.copy(x.size(), s.gradient(x), s.target(p)); });
    return x;
  }
  template <class S>
  auto operator()(S& step) const {
    const long sequences = long(offsets.size()) - 1;
    const auto x = variable(step, step.ragged(sequences, offsets.data()), rows);
    if (!given) return layer.forward(step, x);
    const auto* space = step.rows(sequences);
    if constexpr (States == 1) return layer.from(step, x, variable(step, space, first[0]));
    else return layer.from(step, x, variable(step, space, first[0]), variable(step, space, first[1]));
  }
};

/// tests/golden/make_recurrent.py
template <class Layer, int States>
void check_golden(const std::string& name, bool given) {
  const SafetensorsFile file(VAELIB_TEST_FOLDER "/golden/recurrent.safetensors");
  const auto golden = [&](const std::string& tensor) {
    const TensorInfo* info = file.find(name + '.' + tensor);
    REQUIRE_MESSAGE(info, tensor);
    Floats values(info->count());
    file.read(name + '.' + tensor, values);
    return values;
  };
  const auto compare = [&](const std::string& tensor, const float* found) {
    double largest = 1e-30, worst = 0;
    for (const float wanted : golden(tensor)) {
      largest = std::max(largest, std::abs(double(wanted)));
      worst = std::max(worst, std::abs(double(*found++) - wanted));
    }
    CHECK_MESSAGE(worst < 2e-6 * largest, name, ' ', tensor);
  };
  using Model = OnRows<Layer, States>;
  Weights<Model, Cpu> weights(Model{{5}, 3, {0, 4, 4, 11, 12}, given});
  const auto in_file = [](std::string path) { return path.substr(path.find('.') + 1); };  // "layer.weight_ih_l0"
  for (const auto& [path, p] : weights.parameters) {
    const Floats there = golden(path == "rows" ? "x" : in_file(path));
    float* here = weights.values.data() + p.offset;
    detail::for_each_place(p, [&](long from, long to) { here[to] = there[std::size_t(from)]; });
  }
  Buffer<float> gradients(weights.values.size());
  Buffer<bool> written(long(weights.parameters.size())), trained(long(weights.parameters.size()));
  std::fill_n(trained.data(), trained.size(), true);
  auto b = weights.buffers();
  b.gradients = gradients.data();
  b.written = written.data();
  b.trained = trained.data();
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin(b, Mode::training, 0, 1, Stream::noise);
  const auto y = weights.model(step);
  const std::string kind = given ? "given." : "zeros.";
  compare(kind + "y", y.value());
  const Floats g = golden("g");
  step.backward(mean_rows(step, map_reduce(step, Multiply{}, y, fixed(step.constant<flat>(y.space(), Shape{5}, g.data())))));
  for (const auto& [path, p] : weights.parameters) {
    Floats there(std::size_t(p.size()), 0.0f);
    const float* here = gradients.data() + p.offset;
    detail::for_each_place(p, [&](long to, long from) { there[std::size_t(to)] = here[from]; });
    compare(path.starts_with("first") ? "d" + path : kind + "d" + (path == "rows" ? "x" : in_file(path)), there.data());
  }
}

template <class Layer, int States>
void check_gradient(int width, int units, Offsets offsets, bool given) {
  const auto report = gradient_check<Shape{1}>(OnRows<Layer, States>{{units}, width, offsets, given}, [](auto& step, const auto& m, auto) { return m(step); },
                                               {.single = 4e-6});
  INFO(type_name<Layer>(), " of ", units, " units: ", report.summary());
  CHECK(report.passed());
}

/// Nothing that comes later and no other sequence changes a bit, and one row at a time gives the bits of all at once.
template <class Layer>
void check_bits(int width, int units) {
  using Chain = Sequential<flat, Layer>;
  const Weights<Chain, Cpu> weights(Chain{width, Layer{units}}, 3);
  const auto outputs = [&](const Floats& rows, const Offsets& offsets, int threads) {
    Cpu cpu(threads);
    Step<Cpu> step(cpu);
    step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
    const auto y = weights.model(step, step.constant<flat>(step.ragged(long(offsets.size()) - 1, offsets.data()), Shape{width}, rows.data()));
    return Floats(y.value(), y.value() + y.size());
  };
  const Offsets offsets{0, 9, 9, 30, 31, 52};
  const Floats rows = normals(52 * width, 2), all = outputs(rows, offsets, 1);
  CHECK(outputs(rows, offsets, 2) == all);
  CHECK(outputs(rows, offsets, 4) == all);
  Floats parts;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    const auto one = outputs({rows.begin() + offsets[s] * width, rows.begin() + offsets[s + 1] * width}, {0, offsets[s + 1] - offsets[s]}, 1);
    parts.insert(parts.end(), one.begin(), one.end());
  }
  CHECK(parts == all);
  for (const long changed : {9L, 15L, 29L}) {
    Floats other = rows;
    for (int d = 0; d < width; ++d) other[std::size_t(changed * width + d)] += 1;
    const Floats after = outputs(other, offsets, 2);
    const auto same = [&](long first, long last) { return std::equal(all.begin() + first * units, all.begin() + last * units, after.begin() + first * units); };
    CHECK(same(0, changed));
    for (long row = changed; row < 30; ++row) CHECK(!same(row, row + 1));
    CHECK(same(30, 52));
  }

  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const Layer& layer = weights.model.layers.layer;
  const auto state = layer.begin(step, 2);  // the third sequence and the last, both of 21 rows
  for (int t = 0; t < 21; ++t) {
    Floats now(rows.begin() + (9 + t) * width, rows.begin() + (10 + t) * width);
    now.insert(now.end(), rows.begin() + (31 + t) * width, rows.begin() + (32 + t) * width);
    const auto y = layer.next(step, step.constant<flat>(step.rows(2), Shape{width}, now.data()), state);
    CHECK(std::equal(y.value(), y.value() + units, all.begin() + (9 + t) * units));
    CHECK(std::equal(y.value() + units, y.value() + 2 * units, all.begin() + (31 + t) * units));
  }
}

template <class Layer, int States>
void check_layer_of_sequences(const std::string& name) {
  check_golden<Layer, States>(name, false);
  check_golden<Layer, States>(name, true);
  check_gradient<Layer, States>(4, 6, {0, 3, 3, 4, 10}, false);
  check_gradient<Layer, States>(2, 19, {0, 1, 8}, true);
  check_gradient<Layer, States>(3, 2, {0, 0}, false);
  check_bits<Layer>(5, 7);
  check_bits<Layer>(3, 40);

  Cpu cpu(1);
  Step<Cpu> step(cpu);
  using Chain = Sequential<flat, Layer>;
  const Weights<Chain, Cpu> weights(Chain{4, Layer{3}});
  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const Floats numbers(12);
  CHECK_THROWS_WITH_AS(weights.model(step, step.constant<flat>(step.rows(2), 4, numbers.data())),
                       "vaelib: GRU and LSTM take ragged rows, one set a sequence; found 2 plain rows", Error);
  const Offsets two{0, 1, 3};
  const auto wrong = step.constant<flat>(step.rows(1), 3, numbers.data());
  const auto x = step.constant<flat>(step.ragged(2, two.data()), 4, numbers.data());
  const auto begin = [&] {
    if constexpr (States == 1) weights.model.layers.layer.from(step, x, wrong);
    else weights.model.layers.layer.from(step, x, wrong, wrong);
  };
  CHECK_THROWS_WITH_AS(begin(), "vaelib: 2 sequences begin with a state of 3 features each, found 1 of 3", Error);
  CHECK_THROWS_AS((Weights<Chain, Cpu>(Chain{4, Layer{0}})), Error);
}

}  // namespace

TEST_CASE("GRU") { check_layer_of_sequences<GRU<dynamic>, 1>("gru"); }
TEST_CASE("LSTM") { check_layer_of_sequences<LSTM<dynamic>, 2>("lstm"); }
