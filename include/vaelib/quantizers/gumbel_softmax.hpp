// Codes drawn by Gumbel-softmax; Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax", and Ramesh et al. 2021.
//
//   l = x W      p = softmax(l)      s = softmax((l + g) / tau), g ~ Gumbel(0, 1)      q = s E       l: K logits for each vector
//   loss = weight (log K - H(p)), the divergence of the posterior from uniform codes, nats, mean over vectors
//
// In evaluation, and in training with `hard`, q is the code of the largest s; the gradient is that of the soft one. The logits of all
// vectors are what the layer computes, so memory grows with N K here.
#pragma once

#include <vaelib/quantizers/quantizer.hpp>

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

struct GumbelOptions {
  Schedule temperature = 1;        ///< tau; usually annealed towards 1/2 or 1/16
  Schedule divergence = 5e-4f;     ///< weight of the loss above
  bool hard = true;
};

template <int Codes>
struct GumbelSoftmax {
  static_assert(Codes == dynamic || Codes > 0, "vaelib: a codebook has at least one code");
  GumbelOptions options{};
  [[no_unique_address]] Extent<Codes> codes{};
  int width = 0;
  Parameter projection{}, codebook{};  ///< D x K, K x D
  State batch_count{};

  int code_count() const { return codes; }
  static constexpr int per_vector() { return 1; }
  [[gnu::cold]] void build(Shape in) {
    width = in.channels;
    detail::table_size(codes, width);
    projection = {{width, int(codes)}, initialize(Initializer::torch, width, codes), Layout::linear};
    codebook = {{int(codes), width}, normal(1)};
    batch_count = {int(codes), 0};
  }
  void fields(auto&& f) {
    f("projection", projection);
    f("codebook", codebook);
    f("batch_count", batch_count);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const long rows = vector_count(x);
    const int k = codes, d = width;
    const R tau = R(at_this_step(step, options.temperature)), weight = R(at_this_step(step, options.divergence));
    if (!(tau > 0)) fail("vaelib: the temperature of GumbelSoftmax is ", tau, ", expected more than 0");
    R *p = step.arena.template allocate<R>(rows * k), *soft = step.arena.template allocate<R>(rows * k), *zero = step.arena.template allocate<R>(k);
    auto* index = step.arena.template allocate<std::int32_t>(rows);
    const auto entropies = step.scratch(rows);
    std::fill_n(zero, k, R(0));
    step.backend.product(rows, k, d, MatrixView<R>{x.value(), d, 1}, MatrixView<R>{step.value(projection), k, 1}, p, false);
    if (step.training()) {
      step.backend.uniform(step.next_key(), first_vector(x), rows, k, soft);
      step.backend.elements(rows * k, [=](auto at) VAELIB_LOOP { at.store(soft, at.load(p) - log(-log(at.load(soft)))); });
    } else {
      std::copy_n(p, rows * k, soft);
    }
    for (long r = 0; r < rows; ++r) index[r] = std::int32_t(std::max_element(soft + r * k, soft + (r + 1) * k) - (soft + r * k));
    step.backend.assign_softly(rows, k, zero, 1 / tau, soft);
    step.backend.assign_softly(rows, k, zero, R(1), p);
    step.backend.row_entropies(rows, k, p, entropies.data);
    double entropy = 0;
    for (long r = 0; r < rows; ++r) entropy += double(entropies.data[r]);

    auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, projection, codebook));
    auto loss = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(x, projection));
    if (options.hard || !step.training()) {
      step.backend.gather_rows(rows, d, step.value(codebook), index, y.value());
    } else {
      step.backend.product(rows, d, k, MatrixView<R>{soft, k, 1}, MatrixView<R>{step.value(codebook), d, 1}, y.value(), false);
    }
    *loss.value() = rows > 0 ? R(double(weight) * (std::log(double(k)) - entropy / double(rows))) : R(0);
    detail::count_codes(step, batch_count, rows, index);
    if (y.needs_gradient())
      step.record({y.node, loss.node}, [=, matrix = projection, table = codebook](S& s) {
        const auto scratch = s.scratch(2 * rows * k);
        R *to_logits = scratch.data, *of_loss = to_logits + rows * k;
        if (auto t = s.target(table)) s.backend.product(k, d, rows, MatrixView<R>{soft, 1, k}, MatrixView<R>{s.gradient(y), d, 1}, t.data, t.add);
        s.backend.product(rows, k, d, MatrixView<R>{s.gradient(y), d, 1}, MatrixView<R>{s.value(table), 1, d}, to_logits, false);
        s.backend.softmax_gradient(rows, k, soft, 1 / tau, to_logits);
        if (rows > 0) {  // of weight (log K - H(p)): p (log p + H)
          std::copy_n(p, rows * k, of_loss);
          s.backend.entropy_gradient(rows, k, zero, R(0), -weight * *s.gradient(loss) / R(rows), of_loss);
          s.backend.copy(rows * k, of_loss, Target<R>{to_logits, true});
        }
        if (auto t = s.target(matrix)) s.backend.product(d, k, rows, MatrixView<R>{x.value(), 1, d}, MatrixView<R>{to_logits, k, 1}, t.data, t.add);
        if (auto t = s.target(x)) s.backend.product(rows, d, k, MatrixView<R>{to_logits, k, 1}, MatrixView<R>{s.value(matrix), 1, k}, t.data, t.add);
      });
    // how far the drawn codes are from the expected ones is not measured: the error is told as 0
    return Quantized<Var<R, A>, Var<R, Shape{1}>>{y, index, rows, loss, detail::known(step, 0)};
  }

  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* index) const {
    auto y = step.template variable<A>(space, shape, false);
    detail::check_codes(vector_count(y), index, codes);
    step.backend.gather_rows(vector_count(y), width, step.value(codebook), index, y.value());
    return y;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
