// SimVQ: the codes are a fixed table times a learned matrix, so that every code moves whenever one is used; Zhu et al. 2024,
// "Addressing representation collapse in vector quantized models with one linear layer".
//
//   e = m + C (S + W)      C: K x D, fixed      W: D x D, learned, 0 at first      m, S: mean and standard deviations, fixed
//   loss = commitment mean (x - sg(q))^2 + mean (sg(x) - q)^2
//
// C is made of vectors of the first batch, standardised, so that the codes begin where the encoder is; codes beyond the number of vectors
// are such vectors with normal noise of half a deviation. The authors draw C from N(0, 1/D), far from what encoders give at first.
#pragma once

#include <vaelib/quantizers/dead_codes.hpp>

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

struct SimVqOptions {
  GradientEstimator gradient = GradientEstimator::straight_through;
  Schedule commitment = 0.25f;
};

template <int Codes>
struct SimVq {
  static_assert(Codes == dynamic || Codes > 0, "vaelib: a codebook has at least one code");
  SimVqOptions options{};
  [[no_unique_address]] Extent<Codes> codes{};
  int width = 0;
  State table{}, batch_count{};  ///< C; how many vectors of the last batch chose each code
  State middle{}, deviation{};   ///< m and S
  State started{};               ///< whether C is made of data by now
  Parameter weight{};

  int code_count() const { return codes; }
  static constexpr int per_vector() { return 1; }
  [[gnu::cold]] void build(Shape in) {
    width = in.channels;
    table = {detail::table_size(codes, width), 0};
    table.columns = width;
    table.initial = normal(1 / std::sqrt(float(width)));
    middle = {width, 0};
    deviation = {width, 1};
    batch_count = {int(codes), 0};
    started = {1, 0, true};
    weight = {{width, width}, constant(0), Layout::linear};
  }
  void fields(auto&& f) {
    f("table", table);
    f("weight", weight);
    f("batch_count", batch_count);
    f("middle", middle);
    f("deviation", deviation);
    f("started", started);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const long rows = vector_count(x), count = x.size();
    if (rows > 0 && step.training() && step.proposing && step.buffers.proposed && *step.value(started) == 0) start(step, x);
    const R* e = codebook(step);
    auto* index = step.arena.template allocate<std::int32_t>(rows);
    R *q = step.arena.template allocate<R>(count), *errors = step.arena.template allocate<R>(rows);
    step.backend.nearest_codes(rows, codes, width, x.value(), e, index);
    const double mean_square = detail::take_codes(step, x, e, index, q, errors);
    auto [values, loss] = detail::pass_through(step, x, q, options.gradient, step.scalar(at_this_step(step, options.commitment)), mean_square);
    detail::count_codes(step, batch_count, rows, index);
    return Quantized<Var<R, A>, Var<R, Shape{1}>>{values, index, rows, add(step, loss, table_loss(step, x, q, index, mean_square)), detail::known(step, mean_square)};
  }

  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* index) const {
    auto y = step.template variable<A>(space, shape, false);
    detail::check_codes(vector_count(y), index, codes);
    step.backend.gather_rows(vector_count(y), width, codebook(step), index, y.value());
    return y;
  }

  /// e, in memory of the step.
  template <class S>
  auto codebook(S& step) const {
    using R = typename S::Real;
    R* e = step.arena.template allocate<R>(table.size());
    const R *c = step.value(table), *m = step.value(middle), *s = step.value(deviation);
    step.backend.lines(codes, width, [=](auto at, auto column, long) VAELIB_LOOP { at.store(e, column.load(m) + at.load(c) * column.load(s)); });
    step.backend.product(int(codes), width, width, MatrixView<R>{step.value(table), width, 1}, MatrixView<R>{step.value(weight), width, 1}, e, true);
    return e;
  }

 private:
  template <class S, class R, Shape A>
  void start(S& step, Var<R, A> x) const {
    const long rows = vector_count(x), first_row = first_vector(x);
    R *even = step.arena.template allocate<R>(rows), *noise = step.arena.template allocate<R>(table.size());
    auto* chosen = step.arena.template allocate<std::int32_t>(int(codes));
    std::fill_n(even, rows, R(1));
    const int found = detail::draw_vectors(step, first_row, rows, width, x.value(), even, codes, chosen);
    if (found == 0) return;  // nothing but NaN
    R* c = step.propose(table);
    step.backend.gather_rows(found, width, x.value(), chosen, c);
    step.backend.normal(step.next_key(), 0, int(codes), width, noise);
    R *m = step.propose(middle), *deviations = step.propose(deviation);
    for (int j = 0; j < width; ++j) {
      double sum = 0, squares = 0;
      for (int k = 0; k < found; ++k) {
        sum += double(c[long(k) * width + j]);
        squares += double(c[long(k) * width + j]) * double(c[long(k) * width + j]);
      }
      m[j] = R(sum / found);
      deviations[j] = R(std::sqrt(std::max(1e-12, squares / found - sum / found * (sum / found))));
      for (int k = 0; k < found; ++k) c[long(k) * width + j] = (c[long(k) * width + j] - m[j]) / deviations[j];
      for (int k = found; k < codes; ++k) c[long(k) * width + j] = c[long(k % found) * width + j] + R(0.5) * noise[long(k) * width + j];
    }
    *step.propose(started) = 1;
  }

  /// mean (sg(x) - q)^2; dW = C_chosen^T 2 (q - x) / (N D)
  template <class S, class R, Shape A>
  auto table_loss(S& step, Var<R, A> x, const R* q, const std::int32_t* index, double mean_square) const {
    auto loss = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(weight));
    *loss.value() = R(mean_square);
    const long rows = vector_count(x);
    if (loss.needs_gradient() && rows > 0)
      step.record({loss.node}, [=, leaf = weight, given = table, d = width](S& s) {
        const auto t = s.target(leaf);
        const auto scratch = s.scratch(2 * rows * d);
        R *chosen = scratch.data, *pull = chosen + rows * d;
        s.backend.gather_rows(rows, d, s.value(given), index, chosen);
        s.backend.pull_gradient(rows * d, q, x.value(), 2 * *s.gradient(loss) / R(x.size()), static_cast<const R*>(nullptr), {pull});
        s.backend.product(d, d, rows, MatrixView<R>{chosen, 1, d}, MatrixView<R>{pull, d, 1}, t.data, t.add);
      });
    return loss;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
