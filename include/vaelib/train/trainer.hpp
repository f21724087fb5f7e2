// The loop around the steps: epochs, schedules, validation, metrics, checkpoints.
//
// A run is keyed by its seed and by positions only: neither the number of threads nor an interruption changes its bits.
#pragma once

#include <vaelib/data/batches.hpp>
#include <vaelib/data/dataset.hpp>
#include <vaelib/schedules/plateau.hpp>
#include <vaelib/schedules/schedule.hpp>
#include <vaelib/train/callbacks.hpp>
#include <vaelib/train/checkpoints.hpp>
#include <vaelib/train/history.hpp>
#include <vaelib/train/learner.hpp>
#include <vaelib/train/progress.hpp>
#include <vaelib/train/source.hpp>

#include <chrono>

namespace vaelib::inline VAELIB_ABI {

struct FitOptions {
  std::int64_t epochs = 10, batch_size = 128;
  SourceView validation{};     ///< evaluated after each epoch; none by default
  Schedule beta = 1.0f;        ///< weight of the KL divergence
  Schedule capacity = 0.0f;    ///< nats; for models with ElboOptions::use_capacity
  Schedule learning_rate = 1;  ///< factor on the optimizer's learning rate
  std::optional<Plateau> plateau{};  ///< one more factor, by the validation loss of the epochs; none by default
  float clip_norm = 0;         ///< largest norm of the gradients; 0: unlimited
  NonFinite non_finite = NonFinite::stop;
  RollBack roll_back{};        ///< of NonFinite::roll_back
  std::optional<MetricFiles> metrics{};      ///< metrics.csv and metrics.jsonl in a folder; none by default
  std::optional<Checkpoints> checkpoints{};  ///< none by default
  std::vector<Callback> callbacks{};         ///< told of every step and epoch; may end the run
  ProgressStyle progress = ProgressStyle::silent;
};

class Cpu;

template <class Model, class Optimizer = Adam, class B = Cpu>
class Trainer {
 public:
  using Real = typename B::Real;

  [[gnu::cold]] explicit Trainer(Model model, Optimizer optimizer = {}, B backend = B{}, std::uint64_t seed = 0)
      : learner(std::move(model), optimizer, std::move(backend), seed) {}

  auto& weights() { return learner.weights; }
  const auto& weights() const { return learner.weights; }

  /// Trains until options.epochs epochs are done, those of a resumed run included. Throws Error where data, numbers or
  /// files are not as they have to be; what was saved before stays valid.
  History fit(SourceView data, const FitOptions& options = {}) {
    check(data);
    if (options.validation) check(options.validation);
    if (options.batch_size < 1) fail("vaelib: a batch has at least 1 sample, found ", options.batch_size);
    if (options.plateau && !options.validation) fail("vaelib: FitOptions::plateau watches the validation loss; give FitOptions::validation");
    if (options.plateau) options.plateau->check();
    RunState state{.batch_size = options.batch_size, .rows = data.size(), .shape = data.shape()};
    if (options.checkpoints && options.checkpoints->resume) resume(state, *options.checkpoints);
    keep_snapshot(options);

    data::Batches batches(data.size(), options.batch_size, true, learner.seed);
    Progress progress(options.progress);
    while (state.epoch < options.epochs && !should_stop(options, state)) {
      const auto begun = std::chrono::steady_clock::now();
      batches.start(state.epoch);
      state.plateau = plateau_of(options, state.history);
      for (; state.batch < batches.count(); ++state.batch) {
        if (is_due(options, state)) save(state, options);
        one_step(data, batches[state.batch], state, options);
        for (const Callback& callback : options.callbacks) callback.step_end(state);
        progress.step(state.epoch, options.epochs, state.batch + 1, batches.count(), state.last.objective, state.last.kl, options.beta.at(state.step(), state.epoch));
      }
      finish_epoch(state, options, std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
      progress.epoch(options.epochs, state.history.back());
      if (options.metrics) options.metrics->write(options.metrics->folder, state.history);
      if (options.checkpoints) save(state, options);
      for (const Callback& callback : options.callbacks) callback.epoch_end(state);
    }
    return std::move(state.history);
  }

  /// Means over a data set in evaluation mode, nats a sample: reconstruction + kl is the negative ELBO.
  StepResult evaluate(SourceView data, std::int64_t batch_size = 128, float beta = 1, float capacity = 0) {
    check(data);
    data::Batches batches(data.size(), batch_size);
    StepResult total;
    for (std::int64_t b = 0; b < batches.count(); ++b) {
      const auto rows = batches[b];
      const auto result = learner.evaluate(gather(data, 0, rows), beta, capacity, std::uint64_t(b));
      const double share = double(rows.size()) / double(data.size());
      total.objective += share * result.objective;
      total.reconstruction += share * result.reconstruction;
      total.kl += share * result.kl;
    }
    return total;
  }

  Learner<Model, Optimizer, B> learner;

 private:
  static bool should_stop(const FitOptions& options, const RunState& state) {
    bool stop = false;
    for (const Callback& callback : options.callbacks) stop = callback.should_stop(state) || stop;
    return stop && state.batch == 0;  // an epoch that was begun is ended
  }
  void check(const SourceView& data) const {
    if (data.size() < 1) fail("vaelib: the data set is empty");
    if constexpr (requires { learner.weights.model.input_shape(); }) {
      const Shape wanted = learner.weights.model.input_shape();
      if (data.shape() != wanted) fail("vaelib: the model takes samples of shape ", text_of(wanted), ", the data has ", text_of(data.shape()));
    }
  }

  Batch<Real> gather(const SourceView& data, std::uint64_t epoch, std::span<const std::uint32_t> rows) {
    const long count = long(rows.size()), features = data.shape().size();
    data.fill(epoch, rows, floats.at_least(count * features), labels.at_least(count));
    check_values(rows, features);
    const Real* values = nullptr;
    if constexpr (std::is_same_v<Real, float>) {
      values = floats.data();
    } else {
      values = std::copy_n(floats.data(), count * features, converted.at_least(count * features)) - count * features;
    }
    return {count, data.shape(), values, data.classes() > 0 ? labels.data() : nullptr};
  }

  /// Values that the likelihood does not allow (NaN is none it allows) are named, not learned from.
  void check_values(std::span<const std::uint32_t> rows, long features) {
    float low = -3.0e38f, high = 3.0e38f;
    if constexpr (requires { learner.weights.model.likelihood.smallest; }) {
      low = learner.weights.model.likelihood.smallest;
      high = learner.weights.model.likelihood.largest;
    }
    if (all_within(long(rows.size()) * features, floats.data(), low, high)) return;
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (long j = 0; j < features; ++j) {
        const float v = floats[r * features + j];
        if (!(v >= low && v <= high))
          fail("vaelib: row ", rows[r], " of the data has the value ", v, " at feature ", j, ", the likelihood wants numbers from ", detail::shortest(low), " to ",
               detail::shortest(high));
      }
  }

  void one_step(const SourceView& data, std::span<const std::uint32_t> rows, RunState& state, const FitOptions& options) {
    const StepOptions step{options.beta.at(state.step(), state.epoch), options.capacity.at(state.step(), state.epoch),
                           state.plateau * options.learning_rate.at(state.step(), state.epoch), options.clip_norm, options.non_finite,
                           options.roll_back};
    state.last = learner.learn(gather(data, state.epoch, rows), step);
    state.steps = learner.steps;
    if (state.last.accepted) {
      const double n = double(rows.size());
      state.samples += n;
      state.sums[0] += n * state.last.objective;
      state.sums[1] += n * state.last.reconstruction;
      state.sums[2] += n * state.last.kl;
    } else {
      ++state.skipped;
    }
  }

  [[gnu::cold]] void finish_epoch(RunState& state, const FitOptions& options, double seconds) {
    EpochMetrics m;
    const std::int64_t last = std::max<std::int64_t>(0, state.step() - 1);
    m.epoch = state.epoch + 1;
    m.step = state.step();
    m.train_loss = state.sums[0] / state.samples;
    m.train_recon = state.sums[1] / state.samples;
    m.train_kl = state.sums[2] / state.samples;
    m.current_beta = options.beta.at(last, state.epoch);
    m.learning_rate = learner.optimizer.learning_rate * state.plateau * options.learning_rate.at(last, state.epoch);
    m.skipped = state.skipped;
    m.seconds = seconds;
    m.val_loss = m.val_recon = m.val_kl = std::numeric_limits<double>::quiet_NaN();
    if (options.validation) {
      const auto v = evaluate(options.validation, options.batch_size, float(m.current_beta), options.capacity.at(last, state.epoch));
      m.val_loss = v.objective;
      m.val_recon = v.reconstruction;
      m.val_kl = v.kl;
    }
    state.history.push_back(m);
    ++state.epoch;
    state.batch = 0;
    state.samples = 0;
    state.skipped = 0;
    state.sums = {};
  }

  bool is_due(const FitOptions& options, const RunState& state) const {
    if (!options.checkpoints || options.checkpoints->every <= 0) return false;
    return learner.steps > 0 && state.saved != learner.steps && learner.steps % options.checkpoints->every == 0;
  }
  [[gnu::cold]] void save(RunState& state, const FitOptions& options) {
    options.checkpoints->save(options.checkpoints->folder, learner.memory(), state);
    state.saved = learner.steps;
    keep_snapshot(options);
  }
  [[gnu::cold]] void resume(RunState& state, const Checkpoints& checkpoints) {
    if (checkpoints.load(checkpoints.folder, learner.memory(), state)) learner.steps = state.steps;
  }
  /// Where a run begins, and where it is saved: so the one resumed from there goes back to the same weights.
  void keep_snapshot(const FitOptions& options) {
    if (options.non_finite == NonFinite::roll_back) learner.keep_snapshot();
  }
  [[gnu::cold]] static float plateau_of(const FitOptions& options, const History& history) {
    if (!options.plateau) return 1;
    Plateau plateau = *options.plateau;
    for (const auto& epoch : history) plateau.see(epoch.val_loss);
    return plateau.rate;
  }

  Buffer<float> floats;
  Buffer<Real> converted;
  Buffer<std::int32_t> labels;
};

}  // namespace vaelib::inline VAELIB_ABI
