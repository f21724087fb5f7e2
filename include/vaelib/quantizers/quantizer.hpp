// What quantizers have in common. A quantizer replaces each vector by one of finitely many; what it gives is
//
//   values    rows of the same shape as its input: the chosen vectors, with a gradient that goes on to the encoder
//   codes     which ones: integers below code_count, `per_vector` of them for each vector, vector after vector
//   loss      one number that is added to the objective (commitment, regularisers), already weighted
//   error     mean over all numbers of (x - q)^2: one number, without a gradient
//
// A vector is the channels of one pixel, or a whole row where rows are flat. An own quantizer is a struct with
//
//   void build(Shape in);                        extents of its parameters and states
//   void fields(auto&& f);                       as every layer
//   int code_count() const;  int per_vector() const;
//   auto quantize(auto& step, auto x) const;     a Quantized
//   auto lookup(auto& step, const RowSpace*, Shape, const std::int32_t* codes) const;   the vectors of codes, rows of `Shape`
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/backend/shapes.hpp>
#include <vaelib/schedules/schedule.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class V, class L>
struct Quantized {
  V values;
  const std::int32_t* codes;  ///< in memory of the step
  long vectors;
  L loss, error;
};

/// Vectors of a variable: as many as it has pixels in all its rows.
template <class V>
long vector_count(const V& x) {
  return x.shape.channels > 0 ? x.size() / x.shape.channels : 0;
}

/// The position of the first vector of x in the global batch, which keys its random numbers.
template <class V>
long first_vector(const V& x) {
  return x.rows() > 0 ? x.space()->first * (vector_count(x) / x.rows()) : 0;
}

/// A schedule at the step that is being made.
template <class S>
float at_this_step(const S& step, const Schedule& schedule) {
  return schedule.at(step.now.step, step.now.epoch);
}

/// What a quantizer must have besides its templates `quantize` and `lookup`.
template <class Q>
concept Quantizer = requires(Q& q, const Q& c, Shape in) {
  q.build(in);
  { c.code_count() } -> std::convertible_to<int>;
  { c.per_vector() } -> std::convertible_to<int>;
};

/// How the gradient of what the decoder got reaches the encoder.
enum class GradientEstimator {
  straight_through,  ///< unchanged; van den Oord et al. 2017, section 3.2
  rotation           ///< rotated and scaled as x is to become q; Fifty et al. 2024
};

/// x / |x|, vector by vector.
template <class S, class R, Shape A>
Var<R, A> unit_vectors(S& step, Var<R, A> x) {
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x));
  const long vectors = vector_count(x);
  const int width = x.shape.channels;
  R* lengths = step.arena.template allocate<R>(vectors);
  step.backend.unit_rows(vectors, width, x.value(), y.value(), lengths);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.unit_rows_gradient(vectors, width, y.value(), lengths, s.gradient(y), t);
    });
  return y;
}

namespace detail {

/// A number that is known when it is computed and takes no gradient.
template <class S>
auto known(S& step, double number) {
  auto y = step.template variable<Shape{1}>(step.single(), Shape{1}, false);
  *y.value() = typename S::Real(number);
  return y;
}

/// q = rows of a table (of the width of x), errors[r] = |x_r - q_r|^2; the mean of (x - q)^2 over all numbers.
template <class S, class V, class R>
double take_codes(S& step, const V& x, const R* table, const std::int32_t* index, R* q, R* errors) {
  const long rows = vector_count(x);
  const int width = x.shape.channels;
  step.backend.gather_rows(rows, width, table, index, q);
  step.backend.squared_errors(rows, width, x.value(), q, errors);
  double squares = 0;
  for (long r = 0; r < rows; ++r) squares += double(errors[r]);
  return x.size() > 0 ? squares / double(x.size()) : 0.0;
}

/// How many vectors chose each code, as a state of the quantizer.
template <class S>
void count_codes(S& step, const State& state, long rows, const std::int32_t* index) {
  auto* counted = step.propose(state);
  if (!counted) return;
  std::fill_n(counted, state.size(), typename S::Real(0));
  for (long r = 0; r < rows; ++r) counted[index[r]] += 1;
}

/// Numbers of a table of codes, which a State can count.
[[gnu::cold]] inline int table_size(int codes, int width) {
  if (codes < 1 || width < 1) fail("vaelib: a codebook has at least one code of one number, found ", codes, " of ", width);
  if (std::int64_t{codes} * width > INT32_MAX) fail("vaelib: a codebook of ", codes, " codes of ", width, " numbers, expected fewer than 2^31 numbers in all");
  return codes * width;
}

/// Codes from outside, which may be anything.
inline void check_codes(long count, const std::int32_t* codes, int below) {
  for (long k = 0; k < count; ++k)
    if (codes[k] < 0 || codes[k] >= below) fail("vaelib: code ", codes[k], " at place ", k, ", expected 0 to ", below - 1);
}

/// values = q with the gradient of an estimator, and the loss weight * mean (x - q)^2, of which the vectors x take the gradient.
template <class S, class R, Shape A>
auto pass_through(S& step, Var<R, A> x, const R* q, GradientEstimator estimator, Scalar<R> weight, double mean_square) {
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x));
  auto loss = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(x));
  const long count = x.size();
  const int width = x.shape.channels;
  step.backend.copy(count, q, Target<R>{y.value()});
  *loss.value() = R(double(*weight.value) * mean_square);
  if (y.needs_gradient())
    step.record({y.node, loss.node}, [=, vectors = vector_count(x)](S& s) {
      const auto t = s.target(x);
      if (!t) return;
      const R pull = count > 0 ? 2 * *weight.value / R(count) * *s.gradient(loss) : R(0);
      if (estimator == GradientEstimator::rotation) {
        s.backend.rotation_gradient(vectors, width, x.value(), y.value(), pull, s.gradient(y), t);
      } else {
        s.backend.pull_gradient(count, x.value(), y.value(), pull, s.gradient(y), t);
      }
    });
  return std::pair{y, loss};
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
