// Gradients against central differences, in double, for any layer or operation.
//
//   CHECK(check_layer<Shape{6, 6, 3}>(Conv2d<4, 3, 2, 1>{}).passed());
//
// The loss is a sum of the outputs with random weights. All memory of the step is filled with NaN beforehand, so that what
// is read before it is written shows; the output has two consumers and the input another one, so that gradients are both
// written and added to; gradients of the parameters start as NaN too.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/backend/oracle.hpp>
#include <vaelib/layers/sequential.hpp>
#include <vaelib/train/weights.hpp>

namespace vaelib::inline VAELIB_ABI {

struct GradientCheckOptions {
  long rows = 5;
  double epsilon = 1e-6, absolute = 1e-7, relative = 1e-5;
  double single = 2e-6;      ///< largest difference of float to double, relative to the largest number of the tensor
  double input_scale = 1;    ///< inputs are standard normal times this
  std::uint64_t seed = 1;
  Mode mode = Mode::training;
};

struct GradientReport {
  double worst = 0;         ///< |analytic - numeric| / (absolute + relative |numeric|); at most 1 is right
  double worst_single = 0;  ///< |float - double| / (single * largest of the tensor); at most 1 is right
  std::string where = "nothing was checked", where_single;
  long checked = 0;
  bool passed() const { return checked > 0 && worst <= 1 && worst_single <= 1; }
  std::string summary() const { return text("worst ", worst, " at ", where, "; float ", worst_single, " at ", where_single, "; ", checked, " numbers"); }
};

namespace detail {

template <class Real>
struct Gradients {
  double loss = 0;
  std::vector<Real> output, of_input, of_parameters;
};

/// One forward pass of forward(step, model, x), and a backward pass unless only the loss is wanted. The memory that the
/// step has from earlier passes is poisoned.
template <Shape In, class B, class Model, class F>
auto gradients_of(Step<B>& step, const Weights<Model, B>& weights, const GradientCheckOptions& options, Shape shape, const std::vector<double>& input, F forward,
                  bool only_loss = false) {
  using Real = typename B::Real;
  Weights<Model, B> own = weights;
  Buffer<Real> gradients(own.values.size());
  std::fill_n(gradients.data(), gradients.size(), std::numeric_limits<Real>::quiet_NaN());
  Buffer<bool> written(own.parameters.size() + 1), trained(own.parameters.size() + 1);
  std::fill_n(trained.data(), trained.size(), true);
  Buffers<Real> b = own.buffers();
  b.gradients = gradients.data();
  b.written = written.data();
  b.trained = trained.data();
  b.proposed = own.proposed.data();
  b.proposals = own.proposals.data();
  step.begin(b, Mode::training, options.seed, 1, Stream::noise);
  step.mode = options.mode;
  step.arena.poison();
  auto x = step.template variable<In>(step.rows(options.rows), shape, true);
  std::copy(input.begin(), input.end(), x.value());
  auto y = forward(step, own.model, x);
  const auto weigh = [&](auto v) {
    const auto g = standard_normal<decltype(v)::static_shape>(step, v.space(), v.shape);
    return mean_rows(step, map_reduce(step, Multiply{}, v, fixed(g)));
  };
  step.key.ordinal = 1000;
  const auto loss = add(step, add(step, weigh(y), weigh(x)), weigh(y));
  Gradients<Real> result;
  result.loss = double(*loss.value());
  if (only_loss) return result;
  step.backward(loss);
  step.backward(loss);  // a second time over the same tape gives the same
  result.output.assign(y.value(), y.value() + y.size());
  result.of_input.assign(step.gradient(x), step.gradient(x) + x.size());
  result.of_parameters.resize(gradients.size(), 0);
  for (const auto& [name, p] : own.parameters)
    if (written[p.id]) std::copy_n(gradients.data() + p.offset, p.size(), result.of_parameters.data() + p.offset);
  return result;
}

}  // namespace detail

/// forward(step, model, x) is any differentiable code; x has rows x In numbers (or `shape`, where In is dynamic).
template <Shape In, class Model, class F>
GradientReport gradient_check(Model model, F forward, GradientCheckOptions options = {}, Shape shape = In) {
  Oracle oracle;
  Weights<Model, Oracle> weights(model, options.seed);
  const RandomKey key{options.seed, 0, std::uint32_t(Stream::data), 0};
  std::vector<double> input(options.rows * shape.size());
  normal(key, 0, options.rows, shape.size(), input.data());
  for (double& v : input) v = float(v * options.input_scale);
  std::vector<double> noise(weights.values.size());  // parameters that start as constants are moved off them
  normal(RandomKey{options.seed, 1, std::uint32_t(Stream::data), 0}, 0, 1, int(noise.size()), noise.data());
  for (const auto& [name, p] : weights.parameters)
    for (long i = 0; i < p.size(); ++i) weights.values[p.offset + i] = float(weights.values[p.offset + i] + 0.1 * noise[p.offset + i]);

  Step<Oracle> step(oracle);
  const auto run = [&](bool only_loss) { return detail::gradients_of<In>(step, weights, options, shape, input, forward, only_loss); };
  run(false);  // opens memory, which the next one finds poisoned
  const auto analytic = run(false);
  GradientReport report;
  report.where = "";
  const auto compare = [&](double& place, double gradient, const std::string& name, long index) {
    const double before = place;
    place = before + options.epsilon;
    const double above = run(true).loss;
    place = before - options.epsilon;
    const double below = run(true).loss;
    place = before;
    const double numeric = (above - below) / (2 * options.epsilon), error = std::abs(gradient - numeric) / (options.absolute + options.relative * std::abs(numeric));
    ++report.checked;
    if (!(error <= report.worst)) {
      report.worst = error == error ? error : INFINITY;
      report.where = text(name, '[', index, "]: ", gradient, " instead of ", numeric);
    }
  };
  // a few dozen numbers of each tensor are enough to find a wrong formula, and keep tests quick
  const auto stride = [](long size) { return std::max(1L, size / 40); };
  for (long i = 0; i < long(input.size()); i += stride(input.size())) compare(input[i], analytic.of_input[i], "input", i);
  for (const auto& [name, p] : weights.parameters)
    for (long i = 0; i < p.size(); i += stride(p.size())) compare(weights.values[p.offset + i], analytic.of_parameters[p.offset + i], name, i);
  if (input.empty()) ++report.checked;

  Cpu cpu(1);
  Weights<Model, Cpu> singles(model, options.seed);
  std::copy(weights.values.begin(), weights.values.end(), singles.values.begin());
  std::copy(weights.state.begin(), weights.state.end(), singles.state.begin());
  Step<Cpu> single_step(cpu);
  const auto run_single = [&] { return detail::gradients_of<In>(single_step, singles, options, shape, input, forward); };
  run_single();
  const auto single = run_single();
  const auto close = [&](const auto& a, const auto& b, const char* name) {
    double largest = 1e-30, difference = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(double(b[i])));
      difference = std::max(difference, a[i] == a[i] ? std::abs(double(a[i]) - double(b[i])) : INFINITY);
    }
    const double error = difference / (options.single * std::max(largest, 1e-3));
    if (error > report.worst_single) {
      report.worst_single = error;
      report.where_single = name;
    }
  };
  close(single.output, analytic.output, "output");
  close(single.of_input, analytic.of_input, "gradient of the input");
  close(single.of_parameters, analytic.of_parameters, "gradients of the parameters");
  return report;
}

/// A layer by itself, for samples of shape In.
template <Shape In, class Layer>
GradientReport check_layer(Layer layer, GradientCheckOptions options = {}, Shape shape = In) {
  return gradient_check<In>(Sequential<In, Layer>{shape, layer}, [](auto& step, const auto& chain, auto x) { return chain(step, x); }, options, shape);
}

}  // namespace vaelib::inline VAELIB_ABI
