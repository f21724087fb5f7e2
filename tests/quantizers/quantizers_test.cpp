// Quantizers: what they give and keep, their gradients, what they refuse.
#include <doctest/doctest.h>

#include <set>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/backend/oracle.hpp>
#include <vaelib/quantizers/composed.hpp>
#include <vaelib/quantizers/finite_scalar.hpp>
#include <vaelib/quantizers/gumbel_softmax.hpp>
#include <vaelib/quantizers/lookup_free.hpp>
#include <vaelib/quantizers/sim_vq.hpp>
#include <vaelib/quantizers/vector_quantizer.hpp>
#include <vaelib/train/gradient_check.hpp>

using namespace vaelib;

namespace {

constexpr Shape image{dynamic, dynamic, dynamic};

/// One quantizer with its numbers, on vectors of `shape`; each call of step() is a training step that is accepted.
template <class Q, class B = Oracle>
struct Bench {
  using Real = typename B::Real;
  struct Model {
    Q quantizer;
    Shape shape;
    void build() { quantizer.build(shape); }
    void fields(auto&& f) { f("quantizer", quantizer); }
  };
  Weights<Model, B> weights;
  B backend;
  Step<B> step{backend};
  Buffer<Real> gradients;
  Buffer<bool> written, trained;
  Shape shape;
  Place place{};
  std::uint64_t steps = 0;
  std::vector<Real> values, to_x, upstream;
  std::vector<std::int32_t> codes;
  double loss = 0, error = 0;

  Bench(Q q, Shape s, B b = B{}) : weights(Model{q, s}, 1), backend(std::move(b)), gradients(weights.values.size()), written(weights.parameters.size() + 1), trained(weights.parameters.size() + 1), shape(s) {
    std::fill_n(trained.data(), trained.size(), true);
  }
  const Q& quantizer() const { return weights.model.quantizer; }

  /// The objective is loss + sum(values * upstream), without `upstream` the loss alone.
  void run(const std::vector<Real>& x, Mode mode = Mode::training, std::uint64_t number = 0) {
    weights.discard();  // what a run before proposed
    auto b = weights.buffers();
    if (mode == Mode::training) {
      b.gradients = gradients.data();
      b.written = written.data();
      b.trained = trained.data();
      b.proposed = weights.proposed.data();
      b.proposals = weights.proposals.data();
    }
    step.begin(b, mode, 7, number, Stream::noise);
    step.now = place;
    const long rows = long(x.size()) / shape.size();
    auto in = step.template variable<image>(step.rows(rows), shape, true);
    std::copy(x.begin(), x.end(), in.value());
    const auto q = quantizer().quantize(step, in);
    CHECK(q.vectors == rows * shape.height * shape.width);
    values.assign(q.values.value(), q.values.value() + q.values.size());
    codes.assign(q.codes, q.codes + q.vectors * quantizer().per_vector());
    loss = double(*q.loss.value());
    error = double(*q.error.value());
    if (mode == Mode::training) {
      auto objective = q.loss;
      if (!upstream.empty()) {
        const auto g = step.template constant<image>(in.space(), shape, upstream.data());
        const auto pulled = mean_rows(step, map_reduce(step, Multiply{}, q.values, fixed(g)));
        objective = add(step, q.loss, map_few(step, ScaleBy{float(rows)}, pulled));
      }
      step.backward(objective);
      to_x.assign(std::size_t(in.size()), Real(0));
      if (in.node->written) std::copy_n(step.gradient(in), in.size(), to_x.begin());
    }
  }
  void train(const std::vector<Real>& x) {
    run(x, Mode::training, ++steps);
    weights.commit();
    ++place.step;
    ++place.batch;
  }
  const Real* state(const State& s) const { return weights.state.data() + s.offset; }
};

template <class Real = double>
std::vector<Real> normals(long count, std::uint64_t seed, double scale = 1) {
  std::vector<Real> x(static_cast<std::size_t>(count));
  normal(RandomKey{seed}, 0, 1, int(count), x.data());
  for (auto& v : x) v = Real(double(v) * scale);
  return x;
}

VectorQuantizerOptions plain(CodebookLearning learning = CodebookLearning::moving_average) {
  VectorQuantizerOptions o;
  o.learning = learning;
  o.start = CodebookStart::normal;
  o.dead = never_replaced;
  return o;
}

}  // namespace

TEST_CASE("moving averages: counts are the geometric sum, codes that are not chosen do not move") {
  auto options = plain();
  options.decay = 0.9f;
  Bench<VectorQuantizer<dynamic>> bench({options, {96}}, Shape{2, 2, 3});
  const auto& q = bench.quantizer();
  std::vector<double> counts(96, 1.0), sums, before(bench.state(q.codebook), bench.state(q.codebook) + 288);
  sums = before;
  std::set<int> chosen;
  for (int s = 0; s < 20; ++s) {
    const auto x = normals(5 * 12, std::uint64_t(100 + s));
    const std::vector<double> table(bench.state(q.codebook), bench.state(q.codebook) + 288);
    bench.train(x);
    for (int k = 0; k < 96; ++k) counts[std::size_t(k)] *= double(0.9f);
    for (auto& v : sums) v *= double(0.9f);
    for (std::size_t r = 0; r < 20; ++r) {
      const auto k = std::size_t(bench.codes[r]);
      chosen.insert(int(k));
      counts[k] += 1 - double(0.9f);
      for (std::size_t j = 0; j < 3; ++j) {
        CHECK(bench.values[r * 3 + j] == table[k * 3 + j]);  // quantized before the codes are moved
        sums[k * 3 + j] += (1 - double(0.9f)) * x[r * 3 + j];
      }
    }
  }
  double total = 0;
  for (std::size_t k = 0; k < 96; ++k) {
    CHECK(bench.state(q.count)[k] == doctest::Approx(counts[k]).epsilon(1e-9));
    total += counts[k];
  }
  REQUIRE(chosen.size() < 96);
  for (std::size_t k = 0; k < 96; ++k)
    for (std::size_t j = 0; j < 3; ++j) {
      const double now = bench.state(q.codebook)[k * 3 + j];
      CHECK(bench.state(q.sum)[k * 3 + j] == doctest::Approx(sums[k * 3 + j]).epsilon(1e-9));
      if (!chosen.count(int(k))) CHECK(now == before[k * 3 + j]);
    }
  // of the last batch: the quotient, smoothed for the division only
  for (const auto code : bench.codes) {
    const auto k = std::size_t(code);
    const double epsilon = double(options.smoothing), smooth = (counts[k] + epsilon) / (total + 96 * epsilon) * total;
    for (std::size_t j = 0; j < 3; ++j) CHECK(bench.state(q.codebook)[k * 3 + j] == doctest::Approx(sums[k * 3 + j] / smooth).epsilon(1e-6));
  }
}

TEST_CASE("in evaluation nothing moves") {
  Bench<VectorQuantizer<dynamic>> bench({plain(), {8}}, Shape{4});
  bench.train(normals(40, 1));
  const std::vector<double> state(bench.weights.state.data(), bench.weights.state.data() + bench.weights.state.size());
  bench.run(normals(40, 2), Mode::evaluation);
  CHECK(std::equal(state.begin(), state.end(), bench.weights.state.data()));
  for (long k = 0; k < bench.weights.proposals.size(); ++k) CHECK_FALSE(bench.weights.proposals[k]);
}

TEST_CASE("straight through: the Jacobian is one; the commitment pulls by 2 beta (x - q) / n; moving averages take no gradient") {
  auto options = plain();
  options.commitment = 0.5f;
  Bench<VectorQuantizer<dynamic>> bench({options, {8}}, Shape{2, 1, 3});
  const auto x = normals(7 * 6, 3);
  bench.upstream = normals(7 * 6, 4);
  bench.run(x);
  double squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double gap = x[i] - bench.values[i];
    squares += gap * gap;
    CHECK(bench.to_x[i] == doctest::Approx(bench.upstream[i] + 2 * 0.5 * gap / 42).epsilon(1e-12));
  }
  CHECK(bench.error == doctest::Approx(squares / 42));
  CHECK(bench.loss == doctest::Approx(0.5 * squares / 42));
  for (const auto& p : bench.weights.parameters) CHECK(p.name.empty());  // there is none
}

TEST_CASE("the rotation trick gives q exactly, and its Jacobian is a rotation times |q| / |x|") {
  auto options = plain();
  options.gradient = GradientEstimator::rotation;
  options.commitment = 0.0f;
  Bench<VectorQuantizer<dynamic>> bench({options, {8}}, Shape{5});
  const auto x = normals(3 * 5, 5);
  double jacobian[3][5][5];
  for (int column = 0; column < 5; ++column) {
    bench.upstream.assign(15, 0);
    for (int r = 0; r < 3; ++r) bench.upstream[std::size_t(r * 5 + column)] = 1;
    bench.run(x);
    for (int r = 0; r < 3; ++r)
      for (int j = 0; j < 5; ++j) jacobian[r][column][j] = bench.to_x[std::size_t(r * 5 + j)];  // d y_column / d x_j
  }
  const double* table = bench.state(bench.quantizer().codebook);
  for (int r = 0; r < 3; ++r) {
    double xx = 0, qq = 0;
    for (int j = 0; j < 5; ++j) {
      const double q = table[bench.codes[std::size_t(r)] * 5 + j];
      CHECK(bench.values[std::size_t(r * 5 + j)] == q);
      xx += x[std::size_t(r * 5 + j)] * x[std::size_t(r * 5 + j)];
      qq += q * q;
    }
    for (int i = 0; i < 5; ++i) {
      double mapped = 0;
      for (int j = 0; j < 5; ++j) mapped += jacobian[r][i][j] * x[std::size_t(r * 5 + j)];
      CHECK(mapped == doctest::Approx(bench.values[std::size_t(r * 5 + i)]).epsilon(1e-9));  // J x = q
      for (int k = 0; k < 5; ++k) {
        double product = 0;
        for (int j = 0; j < 5; ++j) product += jacobian[r][i][j] * jacobian[r][k][j];
        CHECK(product == doctest::Approx(i == k ? qq / xx : 0).epsilon(1e-9).scale(1));
      }
    }
  }
}

TEST_CASE("codes learned by gradient: central differences of the whole loss") {
  for (const auto distance : {CodeDistance::euclidean, CodeDistance::cosine}) {
    auto options = plain(CodebookLearning::gradient);
    options.distance = distance;
    Bench<VectorQuantizer<dynamic>> bench({options, {6}}, Shape{1, 2, 3});
    const auto x = normals(8 * 6, 6);
    bench.run(x);
    const auto codes = bench.codes;
    const auto leaf = bench.quantizer().learned;
    const std::vector<double> analytic(bench.gradients.data() + leaf.offset, bench.gradients.data() + leaf.offset + leaf.size());
    for (long i = 0; i < leaf.size(); ++i) {
      double& place = bench.weights.values.data()[leaf.offset + i];
      const double kept = place, h = 1e-6;
      place = kept + h;
      bench.run(x, Mode::evaluation);
      const double above = bench.error;
      CHECK(bench.codes == codes);
      place = kept - h;
      bench.run(x, Mode::evaluation);
      CHECK(analytic[std::size_t(i)] == doctest::Approx((above - bench.error) / (2 * h)).epsilon(1e-5).scale(1e-2));
      place = kept;
    }
  }
}

namespace {
/// The entropies of soft assignments as a layer, so that the usual check applies; the codes are a parameter of it.
struct AssignmentEntropy {
  float spread, focus;
  Parameter codes{};
  static constexpr Shape output(Shape) { return Shape{1}; }
  void build(Shape in) { codes = {{7, in.channels}, normal(1)}; }
  void fields(auto&& f) { f("codes", codes); }
  template <class S, class V>
  auto forward(S& step, V x) const {
    const EntropyWeights<typename S::Real> weights{step.scalar(spread), step.scalar(focus), step.scalar(0.7)};
    return assignment_entropy(step, x, step.value(codes), 7, weights, &codes);
  }
};
struct UnitVectors {
  static constexpr Shape output(Shape in) { return in; }
  template <class S, class V>
  auto forward(S& step, V x) const {
    return unit_vectors(step, x);
  }
};
}  // namespace

TEST_CASE("gradients of entropies and of unit vectors") {
  for (const auto& [spread, focus] : {std::pair{1.0f, 0.0f}, std::pair{0.0f, 1.0f}, std::pair{2.0f, 0.5f}}) {
    const auto report = check_layer<image>(AssignmentEntropy{spread, focus}, {.single = 2e-5}, Shape{2, 3, 4});
    INFO(report.summary());
    CHECK(report.passed());
  }
  const auto report = check_layer<image>(UnitVectors{}, {}, Shape{2, 3, 4});
  INFO(report.summary());
  CHECK(report.passed());
}

TEST_CASE("the spread is log K - H of the mean assignment, the focus the mean entropy") {
  auto options = plain();
  options.commitment = 0.0f;
  for (const bool spread : {true, false}) {
    options.spread = spread ? 1.0f : 0.0f;
    options.focus = spread ? 0.0f : 1.0f;
    options.entropy_temperature = 2.0f;
    Bench<VectorQuantizer<dynamic>> bench({options, {5}}, Shape{3});
    const auto x = normals(4 * 3, 8);
    const std::vector<double> e(bench.state(bench.quantizer().codebook), bench.state(bench.quantizer().codebook) + 15);
    bench.run(x);
    double nearest = 0;
    for (int r = 0; r < 4; ++r) {
      double smallest = INFINITY;
      for (int k = 0; k < 5; ++k) {
        double d = 0;
        for (int j = 0; j < 3; ++j) d += std::pow(x[std::size_t(r * 3 + j)] - e[std::size_t(k * 3 + j)], 2);
        smallest = std::min(smallest, d);
      }
      nearest += smallest / 12;
    }
    std::vector<double> mean(5, 0.0);
    double own = 0;
    for (int r = 0; r < 4; ++r) {
      double p[5], sum = 0;
      for (int k = 0; k < 5; ++k) {
        double d = 0;
        for (int j = 0; j < 3; ++j) d += std::pow(x[std::size_t(r * 3 + j)] - e[std::size_t(k * 3 + j)], 2);
        sum += p[k] = std::exp(-d / (2 * nearest * 2));
      }
      for (int k = 0; k < 5; ++k) {
        mean[std::size_t(k)] += p[k] / sum / 4;
        own -= p[k] / sum * std::log(p[k] / sum) / 4;
      }
    }
    double entropy = 0;
    for (const double p : mean) entropy -= p * std::log(p);
    CHECK(bench.loss == doctest::Approx(spread ? std::log(5.0) - entropy : own).epsilon(1e-9));
  }
}

TEST_CASE("sampled codes follow softmax(-d^2 / (2 v T)), and do not depend on how a batch is split") {
  auto options = plain();
  options.temperature = 1.5f;
  Bench<VectorQuantizer<dynamic>> bench({options, {4}}, Shape{2});
  std::vector<double> x;
  for (int r = 0; r < 20000; ++r) x.insert(x.end(), {0.3, -0.2});
  bench.run(x);
  const double* e = bench.state(bench.quantizer().codebook);
  double p[4], d[4], sum = 0, counts[4] = {};
  for (int k = 0; k < 4; ++k) d[k] = std::pow(0.3 - e[2 * k], 2) + std::pow(-0.2 - e[2 * k + 1], 2);
  const double v = *std::min_element(d, d + 4) / 2;  // of two numbers each
  for (int k = 0; k < 4; ++k) sum += p[k] = std::exp(-d[k] / (2 * v * 1.5));
  for (const auto k : bench.codes) counts[k] += 1.0 / 20000;
  for (int k = 0; k < 4; ++k) CHECK(counts[k] == doctest::Approx(p[k] / sum).epsilon(0.02).scale(1));
  bench.run(x, Mode::evaluation);
  for (const auto k : bench.codes) CHECK(k == bench.codes[0]);
}

TEST_CASE("dead codes become vectors of the batch: count, sum and vector together, no twins, the same for any threads") {
  auto options = plain();
  options.dead = {.below_mean = 0.5f, .every_steps = 3};
  std::vector<std::vector<float>> tables;
  for (const int threads : {1, 2, 4}) {
    Bench<VectorQuantizer<dynamic>, Cpu> bench({options, {64}}, Shape{2, 2, 4}, Cpu(threads));
    const auto& q = bench.quantizer();
    for (int s = 0; s < 30; ++s) {
      auto x = normals<float>(25 * 16, std::uint64_t(s), 3);
      std::copy_n(x.begin(), 16 * 16, x.begin() + 9 * 16);  // samples that are there twice
      bench.train(x);
      const float *table = bench.state(q.codebook), *sum = bench.state(q.sum), *count = bench.state(q.count);
      if (s % 3 == 2) {
        std::set<std::vector<float>> different;
        for (int k = 0; k < 64; ++k) {
          different.insert(std::vector<float>(table + k * 4, table + k * 4 + 4));
          bool from_batch = false;
          for (std::size_t r = 0; r < 100; ++r) from_batch = from_batch || std::equal(table + k * 4, table + k * 4 + 4, &x[r * 4]);
          for (int j = 0; from_batch && j < 4; ++j) CHECK(sum[k * 4 + j] == count[k] * table[k * 4 + j]);
        }
        CHECK(different.size() == 64);
      }
    }
    tables.emplace_back(bench.weights.state.data(), bench.weights.state.data() + bench.weights.state.size());
  }
  CHECK(tables[0] == tables[1]);
  CHECK(tables[0] == tables[2]);
}

TEST_CASE("fewer vectors than dead codes: the least used are replaced, and nothing is doubled") {
  auto options = plain();
  options.dead = {.below_mean = 0, .lowest = 1, .every_steps = 1};
  Bench<VectorQuantizer<dynamic>> bench({options, {32}}, Shape{3});
  const std::vector<double> before(bench.state(bench.quantizer().codebook), bench.state(bench.quantizer().codebook) + 96);
  bench.train({5, 5, 5, 5, 5, 5, -4, 4, 4, 9, 9, 9});  // three different vectors
  const double* now = bench.state(bench.quantizer().codebook);
  int replaced = 0;
  for (int k = 0; k < 32; ++k) replaced += std::abs(now[k * 3 + 1]) >= 4 && now[k * 3 + 1] == std::abs(now[k * 3]);
  CHECK(replaced >= 3);
  std::set<std::vector<double>> different;
  for (int k = 0; k < 32; ++k) different.insert(std::vector<double>(now + k * 3, now + k * 3 + 3));
  CHECK(different.size() == 32);
}

TEST_CASE("a rule by epochs is due at the first step of an epoch") {
  const DeadCodes rule{.every_steps = 0, .every_epochs = 2};
  CHECK_FALSE(rule.is_due({0, 0, 0}));
  CHECK_FALSE(rule.is_due({10, 1, 0}));
  CHECK(rule.is_due({20, 2, 0}));
  CHECK_FALSE(rule.is_due({21, 2, 1}));
  CHECK_FALSE(never_replaced.is_due({20, 2, 0}));
}

TEST_CASE("codebooks start from data, also where the first batch has fewer vectors than codes, and grow where they may") {
  auto options = plain();
  options.start = CodebookStart::data;
  Bench<VectorQuantizer<dynamic>> bench({options, {40}}, Shape{2});
  const auto& q = bench.quantizer();
  bench.train(normals(15 * 2, 1));
  CHECK(*bench.state(q.used) == 15);
  for (std::size_t r = 0; r < 15; ++r) CHECK(bench.error == 0);
  bench.train(normals(15 * 2, 2));
  CHECK(*bench.state(q.used) == 30);
  bench.train(normals(15 * 2, 3));
  CHECK(*bench.state(q.used) == 40);

  options.start = CodebookStart::k_means;
  options.codes_in_use = Steps{.every = 2, .factor = 2};  // 1, 1, 2, 2, 4, 4, 8 ... times
  Bench<VectorQuantizer<dynamic>> growing({options, {8}}, Shape{2});
  for (const int wanted : {1, 1, 2, 2, 4, 4, 8, 8, 8, 8}) {
    growing.train(normals(50 * 2, std::uint64_t(wanted)));
    CHECK(*growing.state(growing.quantizer().used) == wanted);
    for (const auto k : growing.codes) CHECK(k < wanted);
  }
}

TEST_CASE("k-means finds clusters") {
  auto options = plain();
  options.start = CodebookStart::k_means;
  Bench<VectorQuantizer<dynamic>> bench({options, {4}}, Shape{2});
  std::vector<double> x;
  const auto noise = normals(400 * 2, 1, 0.01);
  for (std::size_t r = 0; r < 400; ++r) x.insert(x.end(), {(r % 2 ? 5 : -5) + noise[2 * r], (r % 4 < 2 ? 5 : -5) + noise[2 * r + 1]});
  bench.train(x);
  CHECK(bench.error < 2e-4);
}

TEST_CASE("finite scalars: all codes of the grid, lookup is their inverse, the slope is that of the bound") {
  Bench<FiniteScalar> bench(FiniteScalar{4, 3, 5}, Shape{3});
  CHECK(bench.quantizer().code_count() == 60);
  const auto x = normals(3000 * 3, 1, 2);
  bench.upstream.assign(9000, 1);
  bench.run(x);
  std::set<int> seen(bench.codes.begin(), bench.codes.end());
  CHECK(seen.size() == 60);
  CHECK(*seen.begin() == 0);
  CHECK(*seen.rbegin() == 59);
  const auto space = bench.step.rows(3000);
  const auto again = bench.quantizer().lookup<image>(bench.step, space, Shape{3}, bench.codes.data());
  for (std::size_t i = 0; i < 9000; ++i) CHECK(again.value()[i] == bench.values[i]);
  const double half = 3 * 1.001 / 2, offset = 0.5;  // of the first channel, 4 levels
  for (std::size_t r = 0; r < 50; ++r) {
    const double t = std::tanh(x[3 * r] + std::atanh(offset / half));
    CHECK(bench.to_x[3 * r] == doctest::Approx((1 - t * t) * half / 2).epsilon(1e-6));
  }
}

TEST_CASE("lookup-free: codes are signs") {
  LookupFree q;
  q.options.commitment = 0.0f;
  Bench<LookupFree> bench(q, Shape{1, 2, 4});
  const auto x = normals(6 * 8, 2);
  bench.run(x);
  CHECK(bench.quantizer().code_count() == 16);
  for (std::size_t r = 0; r < 12; ++r)
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(bench.values[r * 4 + j] == (x[r * 4 + j] > 0 ? 1 : -1));
      CHECK((bench.codes[r] >> j & 1) == int(x[r * 4 + j] > 0));
    }
}

namespace {
struct SoftGumbel {
  GumbelSoftmax<dynamic> quantizer{{.divergence = 0.3f, .hard = false}, {6}};
  void build() { quantizer.build(Shape{2, 1, 3}); }
  void fields(auto&& f) { f("quantizer", quantizer); }
};
}  // namespace

TEST_CASE("Gumbel-softmax: the gradient of soft codes, and of the divergence") {
  const auto check = [](auto chosen) {
    const auto report = gradient_check<image>(SoftGumbel{}, [=](auto& step, const SoftGumbel& m, auto x) { return chosen(m.quantizer.quantize(step, x)); }, {.single = 5e-5}, Shape{2, 1, 3});
    INFO(report.summary());
    CHECK(report.passed());
  };
  check([](const auto& q) { return q.values; });
  check([](const auto& q) { return q.loss; });
}

TEST_CASE("composed quantizers: as many codes as parts, lookup gives the same vectors, the gradient goes straight through") {
  const auto check = [](auto q, Shape shape, int per_vector) {
    Bench<decltype(q)> bench(q, shape);
    CHECK(bench.quantizer().per_vector() == per_vector);
    const auto x = normals(9L * shape.size(), 3);
    bench.upstream = normals(9L * shape.size(), 4);
    bench.run(x);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(bench.to_x[i] == doctest::Approx(bench.upstream[i]).epsilon(1e-9));
    bench.run(x, Mode::evaluation);  // training has moved the codes
    const auto again = bench.quantizer().template lookup<image>(bench.step, bench.step.rows(9), shape, bench.codes.data());
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(again.value()[i] == doctest::Approx(bench.values[i]).epsilon(1e-12));
  };
  auto options = plain();
  options.commitment = 0.0f;
  const VectorQuantizer<dynamic> part{options, {8}};
  check(ProductQuantizer<2, VectorQuantizer<dynamic>>{{part, part}}, Shape{2, 2, 6}, 2);
  check(GroupedQuantizer<3, VectorQuantizer<dynamic>>{part}, Shape{2, 2, 6}, 3);
  check(ResidualQuantizer<3, VectorQuantizer<dynamic>>{{part, part, part}}, Shape{2, 2, 6}, 3);
}

TEST_CASE("each level of a residual quantizer leaves less") {
  auto options = plain();
  options.start = CodebookStart::k_means;
  const VectorQuantizer<dynamic> level{options, {16}};
  Bench<ResidualQuantizer<4, VectorQuantizer<dynamic>>> deep({{level, level, level, level}}, Shape{4});
  Bench<VectorQuantizer<dynamic>> single(level, Shape{4});
  const auto x = normals(300 * 4, 5);
  for (int s = 0; s < 3; ++s) deep.train(x), single.train(x);
  CHECK(deep.error < 0.25 * single.error);
}

TEST_CASE("what quantizers refuse") {
  const auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  const auto with = [](auto change) {
    auto options = plain();
    change(options);
    Bench<VectorQuantizer<dynamic>> bench({options, {4}}, Shape{2});
    bench.train(normals(20, 1));
  };
  CHECK(message([&] { with([](auto& o) { o.temperature = 0.0f; }); }) == "vaelib: the temperature of sampled codes is 0, expected more than 0");
  CHECK(message([&] { with([](auto& o) { o.temperature = -1.0f; }); }) == "vaelib: the temperature of sampled codes is -1, expected more than 0");
  CHECK(message([&] { with([](auto& o) { o.spread = 1.0f, o.entropy_temperature = 0.0f; }); }) == "vaelib: the temperature of soft assignments is 0, expected more than 0");
  CHECK(message([&] { with([](auto& o) { o.decay = 1.5f; }); }) == "vaelib: the decay of a codebook is 1.5, expected 0 to 1");
  CHECK(message([] { Bench<VectorQuantizer<dynamic>>({plain(), {0}}, Shape{2}); }) == "vaelib: a codebook has at least one code of one number, found 0 of 2");
  CHECK(message([] { FiniteScalar{8, 1}; }) == "vaelib: level 1 of FiniteScalar is 1, expected at least 2");
  CHECK(message([] { Bench<FiniteScalar>(FiniteScalar{8, 8}, Shape{3}); }) == "vaelib: FiniteScalar has 2 levels, and the vectors have 3 channels");
  CHECK(message([] { Bench<LookupFree>({}, Shape{40}); }) == "vaelib: LookupFree takes vectors of 1 to 18 channels, found 40");
  Bench<VectorQuantizer<dynamic>> bench({plain(), {4}}, Shape{2});
  bench.run(normals(4, 1));
  const std::int32_t bad[] = {0, 4};
  CHECK(message([&] { bench.quantizer().lookup<image>(bench.step, bench.step.rows(2), Shape{2}, bad); }) == "vaelib: code 4 at place 1, expected 0 to 3");
}

TEST_CASE("one code, no vectors, and vectors that are no numbers") {
  Bench<VectorQuantizer<dynamic>> one({plain(), {1}}, Shape{2});
  one.train(normals(20, 1));
  for (const auto k : one.codes) CHECK(k == 0);
  Bench<VectorQuantizer<dynamic>> none({VectorQuantizerOptions{}, {4}}, Shape{2});
  none.train({});
  CHECK(none.loss == 0);
  CHECK(*none.state(none.quantizer().used) == 0);
  none.run({NAN, NAN, NAN, NAN});  // the step's loss is not a number, which Learner names; the codes stay
  CHECK(none.loss != none.loss);
}
