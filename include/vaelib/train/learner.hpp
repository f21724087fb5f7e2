// One training step: for each phase of the model a loss, its gradients and an optimizer's pass.
//
// A model has one loss for all its parameters, or names phases, each with the parameters it trains by the beginning of
// their names (a GAN: first the discriminator, then the generator):
//   static constexpr std::array phases{Phase{"discriminator", "discriminator."}, Phase{"generator", "generator."}};
//   auto loss(auto& step, const auto& batch) const { return step.phase == 0 ? ... : ...; }
#pragma once

#include <vaelib/models/batch.hpp>
#include <vaelib/models/losses.hpp>
#include <vaelib/optim/optimizers.hpp>
#include <vaelib/train/roll_back.hpp>
#include <vaelib/train/run_state.hpp>

#include <cmath>
#include <limits>
#include <optional>

namespace vaelib::inline VAELIB_ABI {

/// Parameters whose names begin with `prefix` learn at their own rate (times the optimizer's) and weight decay.
struct ParameterGroup {
  std::string prefix;
  float rate = 1;  ///< 0 freezes them
  std::optional<float> weight_decay{};
};

/// What may be done about a loss or a gradient that is not finite: stop with an error, leave the step out, or go back to
/// the last snapshot (train/roll_back.hpp) and on from there.
enum class NonFinite { stop, skip, roll_back };

struct StepOptions {
  float beta = 1, capacity = 0;
  float learning_rate = 1;  ///< factor on the optimizer's learning rate, from a schedule
  float clip_norm = 0;      ///< gradients of a larger norm are scaled down to it; 0: never
  NonFinite non_finite = NonFinite::stop;
  RollBack roll_back{};
  std::int64_t micro_batch = 0;  ///< rows that are computed at a time, their gradients added up; 0: all
  float average = 0;             ///< decay of the average of the weights (Learner::average); 0: none is kept
  std::int64_t epoch = 0, batch = 0;  ///< the place of the step in the run, for the schedules of layers
};

template <class Model>
constexpr int phase_count() {
  if constexpr (requires { Model::phases; }) return int(Model::phases.size());
  return 1;
}

template <class Model, class Optimizer, class B>
class Learner {
 public:
  using Real = typename B::Real;

  [[gnu::cold]] Learner(Model model, Optimizer o, B b, std::uint64_t s)
      : weights(std::move(model), s), optimizer(o), seed(s), backend(std::move(b)), step(backend), gradients(weights.values.size()),
        written(weights.parameters.size()), trained(weights.parameters.size()) {
    for (auto& phase : moments)
      for (auto& m : phase) m.resize(weights.values.size());
  }

  /// Learns from one batch. A step that is not accepted changes nothing but the count of steps; of a model with several
  /// phases, those before the one whose numbers are not finite have changed their parameters, but no state is kept.
  StepResult learn(const Batch<Real>& samples, const StepOptions& options = {}) {
    StepResult result;
    ++steps;
    weights.discard();  // what a step proposed that was left by an exception
    if (options.average > 0 && average.size() == 0) begin_average();
    for (int phase = 0; phase < phase_count<Model>() && result.accepted; ++phase) {
      select_phase(phase);
      const StepResult of_phase = gradients_of(samples, options, phase, Stream::noise, steps);
      if (phase == 0) result = of_phase;
      const double norm = gradient_norm();
      if (phase == 0) result.gradient_norm = norm;
      if (!std::isfinite(of_phase.objective) || !std::isfinite(norm)) {
        if (options.non_finite == NonFinite::stop) fail(what_is_not_finite(of_phase));
        if (options.non_finite == NonFinite::roll_back) roll_back(of_phase, options.roll_back);
        result.accepted = false;
        break;
      }
      if (options.non_finite == NonFinite::roll_back && phase == 0 && snapshot.is_due(steps, options.roll_back)) keep_snapshot();
      if (std::none_of(written.begin(), written.end(), [](bool w) { return w; })) continue;  // a phase that waits: Adam's count, too
      apply(phase, ++updates[phase], options, norm);
    }
    if (result.accepted) {
      weights.commit();
      if (options.average > 0) update_average(options.average);
    } else {
      weights.discard();
    }
    step.end();
    return result;
  }

  /// One more update before the next step, of the first phase and the parameters whose names begin with `prefix`. `number` keys
  /// its random numbers. Neither the step nor Adam's count moves; what is not finite changes nothing.
  [[gnu::cold]] StepResult refine(const Batch<Real>& samples, const StepOptions& options, std::string_view prefix, std::int64_t number) {
    weights.discard();
    select_phase(0);
    for (const auto& [name, p] : weights.parameters) trained[p.id] = trained[p.id] && name.starts_with(prefix);
    StepResult result = gradients_of(samples, options, 0, Stream::refinement, (steps << 20) + std::uint64_t(number));
    result.gradient_norm = gradient_norm();
    result.accepted = std::isfinite(result.objective) && std::isfinite(result.gradient_norm);
    if (!result.accepted && options.non_finite == NonFinite::stop) fail(what_is_not_finite(result));
    if (result.accepted) {
      apply(0, updates[0] + 1, options, result.gradient_norm);
      weights.commit();
    }
    weights.discard();
    step.end();
    return result;
  }

  /// Begins the average of the weights with what they are now; learn() goes on with it.
  [[gnu::cold]] void begin_average() {
    average = weights.values;
  }

  /// The losses of a batch in evaluation mode; `number` keys its random numbers.
  StepResult evaluate(const Batch<Real>& samples, float beta, float capacity, std::uint64_t number) {
    const StepResult result = read(forward(samples, beta, capacity, Mode::evaluation, Stream::evaluation, number, 0));
    step.end();
    return result;
  }

  /// What NonFinite::roll_back goes back to; taken by learn() every so often.
  [[gnu::cold]] void keep_snapshot() { snapshot.keep(memory(), steps); }

  /// What a checkpoint keeps.
  [[gnu::cold]] LearnerMemory memory() {
    LearnerMemory m;
    static_assert(phase_count<Model>() * Optimizer::moments <= LearnerMemory::most_moments, "vaelib: more phases than a checkpoint has room for");
    m.dtype = dtype_of<Real>();
    m.values = {weights.values.data(), weights.values.size()};
    m.state = {weights.state.data(), weights.state.size()};
    m.average = {average.data(), average.size()};
    m.phases = phase_count<Model>();
    m.moments_of_phase = Optimizer::moments;
    for (int i = 0; i < m.phases * m.moments_of_phase; ++i) {
      auto& moment = moments[i / m.moments_of_phase][i % m.moments_of_phase];
      m.moments[i] = {moment.data(), moment.size()};
    }
    m.updates = updates.data();
    m.seed = seed;
    m.parameters = &weights.parameters;
    return m;
  }

  Weights<Model, B> weights;
  Optimizer optimizer;
  std::vector<ParameterGroup> groups;
  std::uint64_t seed;
  std::uint64_t steps = 0;                                            ///< taken so far
  std::array<std::int64_t, phase_count<Model>()> updates{};           ///< accepted, by phase: Adam's count
  std::array<std::array<Buffer<Real>, Optimizer::moments>, phase_count<Model>()> moments;
  Buffer<Real> average;  ///< of weights.values over the steps; empty where none was begun

  B backend;
  Step<B> step;
  Buffer<Real> gradients;

 private:
  auto forward(const Batch<Real>& samples, float beta, float capacity, Mode mode, Stream stream, std::uint64_t number, int phase, Place place = {}) {
    Buffers<Real> b = weights.buffers();
    if (mode == Mode::training) {
      b.gradients = gradients.data();
      b.written = written.data();
      b.trained = trained.data();
      b.proposed = weights.proposed.data();
      b.proposals = weights.proposals.data();
    }
    step.begin(b, mode, seed, number, stream);
    step.phase = phase;
    step.now = place;
    step.key.ordinal = std::uint32_t(phase) << 16;  // phases draw different numbers
    step.beta = step.scalar(beta);
    step.capacity = step.scalar(capacity);
    Batch<Real> batch = samples;
    batch.space = step.rows(samples.count, samples.first);
    return losses_of(weights.model.loss(step, batch));
  }

  /// Forward and backward, a part of the batch at a time. Rows keep their random numbers, whatever the parts.
  [[gnu::noinline]] StepResult gradients_of(const Batch<Real>& samples, const StepOptions& options, int phase, Stream stream, std::uint64_t number) {
    const Place place{std::int64_t(stream == Stream::noise ? steps - 1 : steps), options.epoch, options.batch};
    const std::int64_t most = options.micro_batch > 0 ? options.micro_batch : samples.count;
    StepResult total;
    for (std::int64_t done = 0; done < samples.count; done += most) {
      const std::int64_t count = std::min<std::int64_t>(most, samples.count - done);
      const auto part = samples.part(done, count);
      const auto loss = forward(part, options.beta, options.capacity, Mode::training, stream, number, phase, place);
      const double share = double(count) / double(samples.count);
      step.backward(loss.objective, Real(share), done > 0);
      const StepResult of_part = read(loss);
      total.objective += share * of_part.objective;
      total.reconstruction += share * of_part.reconstruction;
      total.kl += share * of_part.kl;
    }
    return total;
  }

  template <class L>
  static StepResult read(const L& loss) {
    return {double(*loss.objective.value()), double(*loss.reconstruction.value()), double(*loss.kl.value())};
  }

  [[gnu::noinline]] void select_phase(int phase) {
    for (const auto& [name, p] : weights.parameters) {
      bool belongs = rate_of(name) != 0;
      if constexpr (requires { Model::phases; }) belongs = belongs && Model::phases[phase].trains(name);
      trained[p.id] = belongs;
    }
    (void)phase;
  }
  const ParameterGroup* group_of(std::string_view name) const {
    for (const auto& group : groups)
      if (name.starts_with(group.prefix)) return &group;
    return nullptr;
  }
  float rate_of(std::string_view name) const {
    const auto* group = group_of(name);
    return group ? group->rate : 1.0f;
  }

  /// f(offset, count, group) for each run of neighbouring parameters whose gradients were written and that share a group.
  void for_each_run(auto&& f) const {
    const auto& all = weights.parameters;
    for (std::size_t i = 0; i < all.size();) {
      if (!written[i]) {
        ++i;
        continue;
      }
      std::size_t end = i + 1;
      const auto* group = group_of(all[i].name);
      while (end < all.size() && written[end] && group_of(all[end].name) == group) ++end;
      const long first = all[i].leaf.offset, last = end < all.size() ? all[end].leaf.offset : weights.values.size();
      f(first, last - first, group);
      i = end;
    }
  }
  [[gnu::noinline]] double gradient_norm() {
    double squares = 0;
    for_each_run([&](long first, long count, const ParameterGroup*) { squares += backend.squared_norm(count, gradients.data() + first); });
    return std::sqrt(squares);
  }
  [[gnu::noinline]] void apply(int phase, std::int64_t update, const StepOptions& options, double norm) {
    const auto scale = Real(options.clip_norm > 0 && norm > options.clip_norm ? options.clip_norm / norm : 1.0);
    const float factor = options.learning_rate;
    const auto common = optimizer.rates(update);
    for_each_run([&](long first, long count, const ParameterGroup* group) {
      auto rates = common;
      rates.learning_rate *= factor * (group ? group->rate : 1.0f);
      if (group && group->weight_decay) rates.weight_decay = *group->weight_decay;
      std::array<Real*, Optimizer::moments> m;
      for (int k = 0; k < Optimizer::moments; ++k) m[k] = moments[phase][k].data() + first;
      backend.update(optimizer, rates, scale, count, weights.values.data() + first, gradients.data() + first, m);
    });
  }

  /// average += (1 - d) (values - average), where d = min(decay, (1 + n) / (10 + n)) at update n, so that an early average
  /// forgets the first weights (as in TensorFlow's ExponentialMovingAverage).
  void update_average(float decay) {
    const double n = double(updates[0]);
    const auto share = Real(1 - std::min(double(decay), (1 + n) / (10 + n)));
    const Real* value = weights.values.data();
    Real* mean = average.data();
    for (long i = 0; i < average.size(); ++i) mean[i] += share * (value[i] - mean[i]);
  }

  [[gnu::cold]] void roll_back(const StepResult& result, const RollBack& options) {
    if (snapshot.times_used() >= options.most)
      fail(what_is_not_finite(result), ", after ", snapshot.times_used(), " roll-backs to the same weights");
    snapshot.give_back(memory());
  }
  [[gnu::cold]] std::string what_is_not_finite(const StepResult& result) const {
    const auto where = text("vaelib: step ", steps, ": ");
    if (!std::isfinite(result.reconstruction)) return text(where, "the reconstruction loss is ", result.reconstruction);
    if (!std::isfinite(result.kl)) return text(where, "the KL divergence is ", result.kl);
    if (!std::isfinite(result.objective)) return text(where, "the objective is ", result.objective);
    for (const auto& [name, p] : weights.parameters) {
      if (!written[p.id]) continue;
      long bad = 0;
      for (long i = 0; i < p.size(); ++i) bad += !std::isfinite(double(gradients[p.offset + i]));
      if (bad > 0) return text(where, "the gradient of ", name, " is not finite in ", bad, " of ", p.size(), " numbers");
    }
    return text(where, "the norm of the gradients is not finite");
  }

  Buffer<bool> written, trained;
  Snapshot snapshot;
};

}  // namespace vaelib::inline VAELIB_ABI
