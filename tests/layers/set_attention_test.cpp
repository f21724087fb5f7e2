// Layers of sets: against a brute force in double, PyTorch's numbers, and that a set's result is its own.
#include "layers/numbers.hpp"
#include <vaelib/io/safetensors.hpp>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/layers/set_pooling.hpp>
#include <vaelib/train/gradient_check.hpp>

#include <numeric>

using namespace vaelib;

namespace {

using layer_test::difference, layer_test::Floats, layer_test::normals;
using Offsets = std::vector<long>;
constexpr Shape flat{dynamic};

Offsets offsets_of(std::vector<long> sizes) {
  Offsets offsets{0};
  for (const long n : sizes) offsets.push_back(offsets.back() + n);
  return offsets;
}
/// Features of some rows, as they are in a batch of these rows only.
Floats rows_of(const Floats& all, long first, long last, long width) {
  return {all.begin() + first * width, all.begin() + last * width};
}

struct Case {
  Offsets from, to;
  int heads, width, out;  // of a head
  Floats q, k, v, g;      // g: gradient of the result

  Case(std::vector<long> queries, std::vector<long> keys, int h, int w, int o, std::uint64_t seed)
      : from(offsets_of(queries)), to(offsets_of(keys)), heads(h), width(w), out(o) {
    q = normals(from.back() * h * w, seed), k = normals(to.back() * h * w, seed + 1);
    v = normals(to.back() * h * o, seed + 2), g = normals(from.back() * h * o, seed + 3);
  }
  Case only(std::size_t set) const {
    Case one{{from[set + 1] - from[set]}, {to[set + 1] - to[set]}, heads, width, out, 0};
    one.q = rows_of(q, from[set], from[set + 1], heads * width),
    one.k = rows_of(k, to[set], to[set + 1], heads * width);
    one.v = rows_of(v, to[set], to[set + 1], heads * out), one.g = rows_of(g, from[set], from[set + 1], heads * out);
    return one;
  }
};

template <class R>
struct Result {
  std::vector<R> y, dq, dk, dv;
  bool operator==(const Result&) const = default;
};

template <Over What>
Result<float> attend(const Case& c, int threads = 1) {
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::training, 0, 0, Stream::noise);
  const long groups = long(c.from.size()) - 1;
  const auto *queries = step.ragged(groups, c.from.data()), *keys = step.ragged(groups, c.to.data());
  const auto variable = [&](const RowSpace* space, int features, const Floats& numbers) {
    auto x = step.variable<flat>(space, Shape{features}, true);
    std::copy(numbers.begin(), numbers.end(), x.value());
    return x;
  };
  const auto q = variable(queries, c.heads * c.width, c.q), k = variable(keys, c.heads * c.width, c.k),
             v = variable(keys, c.heads * c.out, c.v);
  const auto y = attention<What>(step, q, k, v, c.heads);
  const auto g = step.constant<flat>(queries, Shape{c.heads * c.out}, c.g.data());
  const auto weighted = sum_features(step, multiply(step, y, fixed(g)));
  const auto loss = mean_rows(step, weighted);
  const long rows = c.from.back();
  if (rows > 0) step.backward(loss, float(rows));
  const auto numbers = [](const float* p, long n) { return p ? Floats(p, p + n) : Floats(n); };
  return {numbers(y.value(), y.size()), numbers(step.gradient(q), q.size()), numbers(step.gradient(k), k.size()),
          numbers(step.gradient(v), v.size())};
}

/// The same with all weights, in double.
template <Over What>
Result<double> brute_force(const Case& c) {
  const long all = c.heads * c.width, out = c.heads * c.out;
  Result<double> r{std::vector<double>(c.g.size()), std::vector<double>(c.q.size()), std::vector<double>(c.k.size()),
                   std::vector<double>(c.v.size())};
  for (std::size_t set = 0; set + 1 < c.from.size(); ++set)
    for (int h = 0; h < c.heads; ++h) {
      const long first = c.from[set], n = c.from[set + 1] - first, start = c.to[set], m = c.to[set + 1] - start;
      std::vector<double> p(n * m), w(n * m), dw(n * m), sums(n);
      const auto q = [&](long i, int d) { return (first + i) * all + h * c.width + d; };
      const auto k = [&](long j, int d) { return (start + j) * all + h * c.width + d; };
      const auto v = [&](long j, int d) { return (start + j) * out + h * c.out + d; };
      const auto y = [&](long i, int d) { return (first + i) * out + h * c.out + d; };
      for (long i = 0; i < n; ++i)
        for (long j = 0; j < m; ++j)
          for (int d = 0; d < c.width; ++d)
            p[i * m + j] += double(c.q[q(i, d)]) * c.k[k(j, d)] / std::sqrt(double(c.width));
      const bool over_keys = What == Over::keys;
      const long lines = over_keys ? n : m, length = over_keys ? m : n;
      const auto at = [&](long line, long place) -> std::size_t {
        return over_keys ? line * m + place : place * m + line;
      };
      for (long line = 0; line < lines; ++line) {
        double largest = -INFINITY, sum = 0;
        for (long e = 0; e < length; ++e) largest = std::max(largest, p[at(line, e)]);
        for (long e = 0; e < length; ++e) sum += p[at(line, e)] = std::exp(p[at(line, e)] - largest);
        for (long e = 0; e < length; ++e) p[at(line, e)] /= sum;
      }
      for (long i = 0; i < n; ++i) {
        for (long j = 0; j < m; ++j) sums[i] += p[i * m + j];
        for (long j = 0; j < m; ++j) {
          w[i * m + j] = p[i * m + j] / sums[i];
          for (int d = 0; d < c.out; ++d) r.y[y(i, d)] += w[i * m + j] * c.v[v(j, d)];
        }
      }
      for (long i = 0; i < n; ++i)
        for (long j = 0; j < m; ++j)
          for (int d = 0; d < c.out; ++d) {
            r.dv[v(j, d)] += w[i * m + j] * c.g[y(i, d)];
            dw[i * m + j] += (c.v[v(j, d)] - r.y[y(i, d)]) * c.g[y(i, d)] / sums[i];
          }
      for (long line = 0; line < lines; ++line) {
        double mean = 0;
        for (long e = 0; e < length; ++e) mean += p[at(line, e)] * dw[at(line, e)];
        for (long e = 0; e < length; ++e)
          dw[at(line, e)] = p[at(line, e)] * (dw[at(line, e)] - mean) / std::sqrt(double(c.width));
      }
      for (long i = 0; i < n; ++i)
        for (long j = 0; j < m; ++j)
          for (int d = 0; d < c.width; ++d) {
            r.dq[q(i, d)] += dw[i * m + j] * c.k[k(j, d)];
            r.dk[k(j, d)] += dw[i * m + j] * c.q[q(i, d)];
          }
    }
  return r;
}

/// Of float to double, in units of eps log2 of the rows: relative to the largest number.
double error(const Floats& found, const std::vector<double>& wanted, long rows) {
  double largest = 1, worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(wanted[i]));
    const double difference = std::abs(double(found[i]) - wanted[i]);
    worst = difference == difference ? std::max(worst, difference) : INFINITY;
  }
  return worst / largest / (0x1p-23 * std::log2(double(rows) + 2));
}

template <Over What>
void check(const Case& c) {
  const auto wanted = brute_force<What>(c);
  const auto found = attend<What>(c);
  long rows = 0;
  for (std::size_t g = 0; g + 1 < c.from.size(); ++g)
    rows = std::max({rows, c.from[g + 1] - c.from[g], c.to[g + 1] - c.to[g]});
  INFO("heads ", c.heads, " of ", c.width, " and ", c.out, ", largest set ", rows);
  CHECK(error(found.y, wanted.y, rows) < 4);
  CHECK(error(found.dq, wanted.dq, rows) < 8);
  CHECK(error(found.dk, wanted.dk, rows) < 8);
  CHECK(error(found.dv, wanted.dv, rows) < 8);
}

/// Some sets of every kind: none, one, few and many rows, of queries and keys.
Case some_sets(std::uint64_t seed) {
  std::vector<long> queries, keys;
  const long sizes[] = {0, 1, 2, 15, 16, 17, 63, 64, 65, 130, 200};
  std::uint64_t state = seed * 2 + 1;
  const auto next = [&](long below) {
    return long((state = state * 6364136223846793005u + 1442695040888963407u) >> 33) % below;
  };
  for (int set = 0; set < 6; ++set) queries.push_back(sizes[next(11)]), keys.push_back(sizes[next(11)]);
  const int widths[] = {1, 3, 8, 16, 20, 37};
  return {queries, keys, int(1 + next(4)), widths[next(6)], widths[next(6)], seed};
}

template <Over What>
void check_properties() {
  for (std::uint64_t seed = 0; seed < 12; ++seed) check<What>(some_sets(seed));
  check<What>(Case({16, 16}, {256, 100}, 4, 16, 16, 1));
  check<What>(Case({256, 1}, {16, 0}, 4, 16, 16, 2));
  check<What>(Case({700}, {700}, 2, 16, 16, 3));

  const Case c = some_sets(5), equal({70, 0, 1, 130}, {70, 3, 64, 20}, 3, 5, 16, 9);
  for (const Case& sets : {c, equal}) {
    const auto all = attend<What>(sets);
    CHECK(attend<What>(sets, 2) == all);
    CHECK(attend<What>(sets, 4) == all);
    Result<float> parts;
    for (std::size_t set = 0; set + 1 < sets.from.size(); ++set) {
      const auto one = attend<What>(sets.only(set));
      const auto append = [](Floats& to, const Floats& more) { to.insert(to.end(), more.begin(), more.end()); };
      append(parts.y, one.y), append(parts.dq, one.dq), append(parts.dk, one.dk), append(parts.dv, one.dv);
    }
    CHECK(parts == all);  // bit for bit: a set does not depend on the others
  }
}

// ---- layers

/// A layer on parameters as the rows of sets, so that their gradients can be checked.
template <class Layer>
struct OnSets {
  Layer layer{};
  int width = 0;
  Offsets offsets{};
  Parameter rows{};
  void build() {
    rows = {{int(offsets.back()), width}, normal(1)};
    layer.build(Shape{width});
  }
  void fields(auto&& f) {
    f("rows", rows);
    f("layer", layer);
  }
  template <class S>
  auto input(S& step) const {
    auto x = step.template variable<flat>(step.ragged(long(offsets.size()) - 1, offsets.data()), Shape{width},
                                         step.needs_gradient(rows));
    std::copy_n(step.value(rows), x.size(), x.value());
    if (x.needs_gradient())
      step.record({x.node}, [=, p = rows](S& s) { s.backend.copy(x.size(), s.gradient(x), s.target(p)); });
    return x;
  }
  template <class S>
  auto operator()(S& step) const {
    return layer.forward(step, input(step));
  }
};
template <class Layer>
void check_layer_of_sets(Layer layer, int width, Offsets offsets) {
  const auto report = gradient_check<Shape{1}>(
      OnSets<Layer>{layer, width, offsets}, [](auto& step, const auto& m, auto) { return m(step); }, {.single = 4e-6});
  INFO(type_name<Layer>(), " of width ", width, ": ", report.summary());
  CHECK(report.passed());
}

template <class Layer>
Floats outputs(const Weights<OnSets<Layer>, Cpu>& weights, const Offsets& offsets, const Floats& rows,
               int threads = 1) {
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const auto x = step.constant<flat>(step.ragged(long(offsets.size()) - 1, offsets.data()), Shape{weights.model.width},
                                    rows.data());
  const auto y = weights.model.layer.forward(step, x);
  return {y.value(), y.value() + y.size()};
}

/// A set's rows are the same bits in any company, and its points may come in any order. `pooled` rows a set, or 0: as
/// many as points.
template <class Layer>
void check_sets(Layer layer, int width, long pooled = 0) {
  const Offsets offsets = offsets_of({3, 0, 1, 90, 17});
  const Weights<OnSets<Layer>, Cpu> weights(OnSets<Layer>{layer, width, offsets}, 3);
  const Floats rows = normals(offsets.back() * width, 4), all = outputs(weights, offsets, rows);
  CHECK(outputs(weights, offsets, rows, 2) == all);
  CHECK(outputs(weights, offsets, rows, 4) == all);
  Floats parts;
  for (std::size_t set = 0; set + 1 < offsets.size(); ++set) {
    const Floats own =
        outputs(weights, {0, offsets[set + 1] - offsets[set]}, rows_of(rows, offsets[set], offsets[set + 1], width));
    parts.insert(parts.end(), own.begin(), own.end());
  }
  INFO(type_name<Layer>());
  CHECK(parts == all);

  Floats turned = rows;  // the set of 90 points, backwards
  for (long r = 4; r < 94; ++r) std::copy_n(&rows[r * width], width, &turned[(97 - r) * width]);
  const Floats after = outputs(weights, offsets, turned);
  const long features = pooled ? long(all.size()) / (5 * pooled) : long(all.size()) / offsets.back();
  double worst = 0, moved = 0;
  for (long r = pooled ? 3 * pooled : 4; r < (pooled ? 4 * pooled : 94); ++r)
    for (long d = 0; d < features; ++d) {
      const long other = pooled ? r : 97 - r;
      worst = std::max(worst, std::abs(double(all[r * features + d]) - after[other * features + d]));
      moved = std::max(moved, std::abs(double(all[r * features + d]) - after[r * features + d]));
    }
  CHECK(worst < 32 * 0x1p-23 * std::log2(90.0));
  if (!pooled) CHECK(moved > 0.01);
}

template <class Layer>
struct Pooled {  // one row a set: of the seeds, or of the points
  Pooling how = Pooling::sum;
  Layer layer{};
  void build(Shape in) { layer.build(in); }
  void fields(auto&& f) { f("layer", layer); }
  template <class S, class X>
  auto forward(S& step, X x) const {
    return pool_sets(step, how, layer.forward(step, x));
  }
};

/// All tensors of tests/golden/sets.safetensors.
struct Golden {
  std::string path = text(VAELIB_TEST_FOLDER, "/golden/sets.safetensors");
  SafetensorsFile file{path};
  Floats operator[](const std::string& name) const {
    const TensorInfo* info = file.find(name);
    REQUIRE_MESSAGE(info, name);
    Floats values(info->count());
    file.read(name, values);
    return values;
  }
};

/// Parameters by their names in the file; their gradients, those of the rows and the output are compared.
template <class Layer>
void check_golden(const std::string& name, Layer layer) {
  const Golden golden;
  const Offsets offsets = offsets_of({5, 1, 9});
  Weights<OnSets<Layer>, Cpu> weights(OnSets<Layer>{layer, 8, offsets}, 1);
  for (const auto& [path, p] : weights.parameters) {
    const Floats there = golden[name + (path == "rows" ? ".x" : path.substr(5))];  // "layer.mab.ln0.weight"
    REQUIRE(long(there.size()) == p.size());
    if (p.layout == Layout::linear) {  // out x in there
      for (int i = 0; i < p.extents[0]; ++i)
        for (int o = 0; o < p.extents[1]; ++o)
          weights.values[p.offset + i * p.extents[1] + o] = there[o * p.extents[0] + i];
    } else {
      std::copy(there.begin(), there.end(), weights.values.begin() + p.offset);
    }
  }
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  Buffers<float> b = weights.buffers();
  Buffer<float> gradients(weights.values.size());
  Buffer<bool> written(weights.parameters.size()), trained(weights.parameters.size());
  std::fill_n(trained.data(), trained.size(), true);
  b.gradients = gradients.data(), b.written = written.data(), b.trained = trained.data();
  step.begin(b, Mode::training, 0, 1, Stream::noise);
  const auto y = weights.model(step);
  const Floats g = golden[name + ".g"];
  CHECK(difference({y.value(), y.value() + y.size()}, golden[name + ".y"]) < 3e-6);
  const auto upstream = step.constant<flat>(y.space(), y.shape, g.data());
  step.backward(mean_rows(step, sum_features(step, multiply(step, y, fixed(upstream)))), float(y.rows()));
  for (const auto& parameter : weights.parameters) {
    const std::string& path = parameter.name;
    const Parameter& p = parameter.leaf;
    const Floats wanted = golden[name + (path == "rows" ? ".dx" : ".d" + path.substr(6))];
    // a bias that moves all scores of a softmax alike has no gradient but rounding
    if (std::all_of(wanted.begin(), wanted.end(), [](float d) { return std::abs(d) < 1e-12f; })) continue;
    Floats own(p.size());
    for (long e = 0; e < p.size(); ++e) {
      const long in = p.extents[0], out = p.extents[1];
      own[p.layout == Layout::linear ? e % out * in + e / out : e] = gradients[p.offset + e];
    }
    INFO(path);
    CHECK(difference(own, wanted) < 1e-5);
  }
}

}  // namespace

TEST_CASE("attention over keys against all weights in double") { check_properties<Over::keys>(); }
TEST_CASE("attention over slots against all weights in double") { check_properties<Over::slots>(); }

TEST_CASE("attention at every width of vectors") {
  const Case c({70, 3}, {90, 17}, 2, 16, 9, 7);
  const auto wide = attend<Over::keys>(c), wide_slots = attend<Over::slots>(c);
  const int before = simd_width();
  for (const int width : {4, 8})
    if (width < before) {
      set_simd_width(width);
      check<Over::keys>(c);
      check<Over::slots>(c);
    }
  set_simd_width(before);
}

TEST_CASE("attention: large scores, no keys, NaN") {
  Case c({3, 2, 80}, {0, 4, 100}, 2, 4, 4, 1);
  for (float& q : c.q) q *= 1e4f;
  for (const auto& r : {attend<Over::keys>(c), attend<Over::slots>(c)}) {
    for (const Floats* numbers : {&r.y, &r.dq, &r.dk, &r.dv})
      for (const float x : *numbers) REQUIRE(std::isfinite(x));
    for (int i = 0; i < 3 * 8; ++i) CHECK((r.y[i] == 0 && r.dq[i] == 0));
  }
  c.k[8] = NAN;  // a key of the second set
  const auto r = attend<Over::keys>(c);
  CHECK(std::isnan(r.y[3 * 8]));
  for (int i = 5 * 8; i < 85 * 8; ++i) REQUIRE(std::isfinite(r.y[i]));
}

TEST_CASE("layers of sets: gradients") {
  const Offsets offsets = offsets_of({3, 0, 1, 5});
  check_layer_of_sets(SAB<dynamic, dynamic>{{.width = 6, .heads = 2}}, 6, offsets);
  check_layer_of_sets(SAB<dynamic, dynamic, GELU>{{.width = 6, .heads = 3, .norm = Norm::pre, .hidden = 9}}, 6,
                      offsets);
  check_layer_of_sets(ISAB<dynamic, dynamic>{.inducing = 3, .mab1 = {.width = 6, .heads = 2, .norm = Norm::none}}, 6,
                      offsets);
  check_layer_of_sets(ISAB<dynamic, dynamic, GELU, Over::slots>{.inducing = 4, .mab1 = {.width = 4, .heads = 2}}, 4,
                      offsets);
  check_layer_of_sets(SAB<dynamic, dynamic, GELU>{{.width = 16, .heads = 4, .hidden = 32}}, 16, offsets);  // in one pass
  check_layer_of_sets(PMA<dynamic, dynamic, GELU>{.seeds = 2, .mab = {.width = 4, .heads = 1}}, 4, offsets);
  for (const Pooling how : {Pooling::sum, Pooling::mean, Pooling::max})
    check_layer_of_sets(Pooled<Linear<dynamic>>{how, {3}}, 4, offsets);
}

TEST_CASE("layers of sets: company, order and threads") {
  check_sets(SAB<dynamic, dynamic>{{.width = 8, .heads = 2}}, 8);
  check_sets(ISAB<dynamic, dynamic>{.inducing = 5, .mab1 = {.width = 8, .heads = 2, .norm = Norm::pre}}, 8);
  check_sets(ISAB<dynamic, dynamic, ReLU, Over::slots>{.inducing = 5, .mab1 = {.width = 8, .heads = 4}}, 8);
  check_sets(ISAB<dynamic, dynamic, GELU>{.inducing = 5, .mab1 = {.width = 16, .heads = 2}}, 16);
  check_sets(PMA<dynamic, dynamic>{.seeds = 2, .mab = {.width = 8, .heads = 2}}, 8, 2);
  for (const Pooling how : {Pooling::sum, Pooling::mean, Pooling::max})
    check_sets(Pooled<Linear<dynamic>>{how, {3}}, 4, 1);
}

TEST_CASE("layers of sets: PyTorch's numbers") {
  check_golden("sab", SAB<8, 2, GELU>{});
  check_golden("pre", SAB<8, 4>{{.norm = Norm::pre, .hidden = 5}});
  check_golden("isab", ISAB<8, 2>{.inducing = 3});
  check_golden("slots", ISAB<8, 2, ReLU, Over::slots>{.inducing = 3, .mab1 = {.norm = Norm::none}});
  check_golden("pma", PMA<8, 1>{.seeds = 2});
}

TEST_CASE("layers of sets: what they refuse") {
  CHECK_THROWS_WITH_AS((Weights<OnSets<SAB<dynamic, dynamic>>, Cpu>(
                           OnSets<SAB<dynamic, dynamic>>{{{.width = 6, .heads = 4}}, 6, {0, 1}})),
                       "vaelib: attention of 6 features cannot have 4 heads of one width", Error);
  CHECK_THROWS_WITH_AS((Weights<OnSets<SAB<6>>, Cpu>(OnSets<SAB<6>>{{}, 5, {0, 1}})),
                       "vaelib: MAB of 6 features, found rows of 5", Error);
  CHECK_THROWS_WITH_AS((Weights<OnSets<ISAB<6>>, Cpu>(OnSets<ISAB<6>>{{.inducing = 0}, 6, {0, 1}})),
                       "vaelib: a set has 0 learned rows, expected at least 1", Error);
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 0, 0, Stream::noise);
  const long pairs[] = {0, 2};
  const auto x = step.variable<Shape{6}>(step.ragged(1, pairs), 6, false),
             plain = step.variable<Shape{6}>(step.rows(2), 6, false);
  CHECK_THROWS_WITH_AS(attention(step, x, x, x, 4),
                       "vaelib: attention of 6 features, values of 6, cannot have 4 heads of one width", Error);
  CHECK_THROWS_WITH_AS(pool_sets(step, Pooling::mean, plain),
                       "vaelib: pooling of sets wants ragged rows, found 2 plain rows", Error);
  CHECK_THROWS_WITH_AS(pool_sets(step, Pooling::mean, x, plain.space()), "vaelib: pooling of 1 sets into 2 rows",
                       Error);
}

TEST_CASE("pooling of sets") {
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 0, 0, Stream::noise);
  const long offsets[] = {0, 3, 3, 4};
  const float rows[] = {1, -5, 2, -7, 6, -6, 4, NAN};
  const auto x = step.constant<Shape{2}>(step.ragged(3, offsets), 2, rows);
  const auto pooled = [&](Pooling how) {
    const auto y = pool_sets(step, how, x);
    CHECK(y.rows() == 3);
    CHECK(std::isnan(y.value()[5]));
    return Floats(y.value(), y.value() + 5);
  };
  CHECK(pooled(Pooling::sum) == Floats{9, -18, 0, 0, 4});
  CHECK(pooled(Pooling::mean) == Floats{3, -6, 0, 0, 4});
  CHECK(pooled(Pooling::max) == Floats{6, -5, 0, 0, 4});
}
