// The loop around the steps: epochs, schedules, validation, metrics, checkpoints.
//
// A run is keyed by its seed and by positions only: neither the number of threads nor an interruption changes its bits.
#pragma once

#include <vaelib/data/batches.hpp>
#include <vaelib/data/dataset.hpp>
#include <vaelib/schedules/plateau.hpp>
#include <vaelib/schedules/schedule.hpp>
#include <vaelib/train/aggressive_encoder.hpp>
#include <vaelib/train/batch_reader.hpp>
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
  std::int64_t micro_batch = 0;  ///< a batch is computed in parts of so many samples, their gradients added up; 0: as a whole
  SourceView validation{};     ///< evaluated after each epoch; none by default
  Schedule beta = 1.0f;        ///< weight of the KL divergence
  Schedule capacity = 0.0f;    ///< nats; for models with ElboOptions::use_capacity
  Schedule learning_rate = 1;  ///< factor on the optimizer's learning rate
  std::optional<Plateau> plateau{};  ///< one more factor, by the validation loss of the epochs; none by default
  float clip_norm = 0;         ///< largest norm of the gradients; 0: unlimited
  NonFinite non_finite = NonFinite::stop;
  RollBack roll_back{};        ///< of NonFinite::roll_back
  float average = 0;  ///< decay of an average of the weights, which validation and Trainer::averaged_weights use; 0: none
  std::optional<AggressiveEncoder> aggressive{};  ///< updates of the encoder alone; none by default
  bool read_ahead = false;  ///< the next batch is read while a step computes; the data set is then used by two threads
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
  /// The average of the weights (FitOptions::average) with the state of the model; the weights where none is kept.
  Weights<Model, B> averaged_weights() const {
    Weights<Model, B> result = learner.weights;
    if (learner.average.size() > 0) result.values = learner.average;
    return result;
  }

  /// Trains until options.epochs epochs are done, those of a resumed run included. Throws Error where data, numbers or
  /// files are not as they have to be; what was saved before stays valid.
  History fit(SourceView data, const FitOptions& options = {}) {
    check(data);
    if (options.validation) check(options.validation);
    if (options.batch_size < 1) fail("vaelib: a batch has at least 1 sample, found ", options.batch_size);
    if (options.plateau && !options.validation) fail("vaelib: FitOptions::plateau watches the validation loss; give FitOptions::validation");
    if (options.plateau) options.plateau->check();
    if (options.micro_batch < 0) fail("vaelib: FitOptions::micro_batch is ", options.micro_batch, ", expected 0 or more");
    if (!(options.average >= 0 && options.average < 1)) fail("vaelib: FitOptions::average is ", options.average, ", expected 0 or more and less than 1");
    if (options.aggressive) check(*options.aggressive);
    RunState state{.batch_size = options.batch_size, .rows = data.size(), .shape = data.shape()};
    if (options.average > 0 && learner.average.size() == 0) learner.begin_average();
    if (options.checkpoints && options.checkpoints->resume) resume(state, *options.checkpoints);
    keep_snapshot(options);

    data::Batches batches(data.size(), options.batch_size, true, learner.seed);
    BatchReader reader(data);
    std::optional<Refinement> refinement;
    if (options.aggressive) refinement.emplace(data, options.batch_size, learner.seed);
    last_saved = Clock::now();
    Progress progress(options.progress);
    while (state.epoch < options.epochs && !should_stop(options, state)) {
      const auto begun = Clock::now();
      batches.start(state.epoch);
      state.plateau = plateau_of(options, state.history);
      for (; state.batch < batches.count(); ++state.batch) {
        if (is_due(options, state)) save(state, options);
        if (state.batch > 0 && interrupted(options, state)) {
          if (options.checkpoints && state.saved != learner.steps) save(state, options);
          return std::move(state.history);
        }
        if (refinement && state.refining) refine(*refinement, data, state, options);
        reader.read(state.epoch, batches[state.batch]);
        if (options.read_ahead && state.batch + 1 < batches.count()) reader.read_ahead(state.epoch, batches[state.batch + 1]);
        one_step(batch_of(reader, data, batches[state.batch]), state, options);
        for (const Callback& callback : options.callbacks) callback.step_end(state);
        progress.step(state.epoch, options.epochs, state.batch + 1, batches.count(), state.last.objective, state.last.kl, options.beta.at(state.step(), state.epoch));
      }
      finish_epoch(state, options, seconds_since(begun));
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
    BatchReader reader(data);
    StepResult total;
    for (std::int64_t b = 0; b < batches.count(); ++b) {
      const auto rows = batches[b];
      reader.read(0, rows);
      const auto result = learner.evaluate(batch_of(reader, data, rows), beta, capacity, std::uint64_t(b));
      const double share = double(rows.size()) / double(data.size());
      total.objective += share * result.objective;
      total.reconstruction += share * result.reconstruction;
      total.kl += share * result.kl;
    }
    return total;
  }

  Learner<Model, Optimizer, B> learner;

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

  static bool interrupted(const FitOptions& options, const RunState& state) {
    bool interrupt = false;
    for (const Callback& callback : options.callbacks) interrupt = callback.should_interrupt(state) || interrupt;
    return interrupt;
  }
  static bool should_stop(const FitOptions& options, const RunState& state) {
    bool stop = false;
    for (const Callback& callback : options.callbacks) stop = callback.should_stop(state) || stop;
    return (stop && state.batch == 0) || interrupted(options, state);  // an epoch that was begun is ended, unless interrupted
  }
  void check(const SourceView& data) const {
    if (data.size() < 1) fail("vaelib: the data set is empty");
    if constexpr (requires { learner.weights.model.input_shape(); }) {
      const Shape wanted = learner.weights.model.input_shape();
      if (data.shape() != wanted) fail("vaelib: the model takes samples of shape ", text_of(wanted), ", the data has ", text_of(data.shape()));
    }
  }

  Batch<Real> batch_of(const BatchReader& reader, const SourceView& data, std::span<const std::uint32_t> rows) {
    const long count = long(rows.size()), points = reader.offsets() ? reader.offsets()[count] : count, numbers = points * data.shape().size();
    check_values(rows, reader.offsets(), data.shape().size(), reader.features());
    const Real* values = nullptr;
    if constexpr (std::is_same_v<Real, float>) {
      values = reader.features();
    } else {
      values = std::copy_n(reader.features(), numbers, converted.at_least(numbers)) - numbers;
    }
    return {count, data.shape(), values, data.classes() > 0 ? reader.labels() : nullptr, 0, nullptr, reader.offsets()};
  }

  /// Values that the likelihood does not allow (NaN is none it allows) are named, not learned from.
  void check_values(std::span<const std::uint32_t> rows, const long* offsets, long features, const float* floats) {
    float low = -3.0e38f, high = 3.0e38f;
    if constexpr (requires { learner.weights.model.likelihood.smallest; }) {
      low = learner.weights.model.likelihood.smallest;
      high = learner.weights.model.likelihood.largest;
    }
    if (all_within((offsets ? offsets[rows.size()] : long(rows.size())) * features, floats, low, high)) return;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const long begin = offsets ? offsets[r] : long(r), end = offsets ? offsets[r + 1] : begin + 1;
      for (long k = begin * features; k < end * features; ++k)
        if (const float v = floats[k]; !(v >= low && v <= high))
          fail("vaelib: row ", rows[r], " of the data has the value ", v, " at ", offsets ? text("point ", k / features - begin, ", feature ") : std::string("feature "), k % features,
               ", the likelihood wants numbers from ", detail::shortest(low), " to ", detail::shortest(high));
    }
  }

  [[gnu::noinline]] static StepOptions step_options(const RunState& state, const FitOptions& options) {
    return {options.beta.at(state.step(), state.epoch), options.capacity.at(state.step(), state.epoch),
            state.plateau * options.learning_rate.at(state.step(), state.epoch), options.clip_norm, options.non_finite,
            options.roll_back, options.micro_batch, options.average, state.epoch, state.batch};
  }

  /// The batches of which the encoder learns alone, in an order of their own for each step.
  struct Refinement {
    BatchReader reader;
    data::Batches batches;
    [[gnu::cold]] Refinement(const SourceView& data, std::int64_t size, std::uint64_t seed) : reader(data), batches(data.size(), size, true, ~seed) {}
  };
  [[gnu::cold]] void check(const AggressiveEncoder& aggressive) const {
    aggressive.check();
    bool any = false;
    for (const auto& [name, p] : learner.weights.parameters) any = any || name.starts_with(aggressive.encoder);
    if (!any) fail("vaelib: AggressiveEncoder::encoder is '", aggressive.encoder, "', with which no parameter's name begins");
  }
  [[gnu::cold]] void refine(Refinement& other, const SourceView& data, const RunState& state, const FitOptions& options) {
    const AggressiveEncoder& aggressive = *options.aggressive;
    const StepOptions step = step_options(state, options);
    other.batches.start(state.steps);
    double before = std::numeric_limits<double>::infinity(), sum = 0;
    for (int k = 0; k < aggressive.most; ++k) {
      const auto rows = other.batches[k % other.batches.count()];
      other.reader.read(state.epoch, rows);
      sum += learner.refine(batch_of(other.reader, data, rows), step, aggressive.encoder, k).objective;
      if ((k + 1) % aggressive.window != 0) continue;
      if (!(sum < before)) return;
      before = sum;
      sum = 0;
    }
  }

  void one_step(const Batch<Real>& batch, RunState& state, const FitOptions& options) {
    state.last = learner.learn(batch, step_options(state, options));
    state.steps = learner.steps;
    if (state.last.accepted) {
      const double n = double(batch.count);
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
      const Averaged averaged(learner, options.average > 0);
      const auto v = evaluate(options.validation, options.batch_size, float(m.current_beta), options.capacity.at(last, state.epoch));
      m.val_loss = v.objective;
      m.val_recon = v.reconstruction;
      m.val_kl = v.kl;
    }
    if (options.aggressive && state.refining) {
      const double information = options.aggressive->information();
      state.refining = information > state.information;
      state.information = information;
    }
    state.history.push_back(m);
    ++state.epoch;
    state.batch = 0;
    state.samples = 0;
    state.skipped = 0;
    state.sums = {};
  }

  bool is_due(const FitOptions& options, const RunState& state) const {
    if (!options.checkpoints || learner.steps == 0 || state.saved == learner.steps) return false;
    const Checkpoints& when = *options.checkpoints;
    return (when.every > 0 && learner.steps % when.every == 0) || (when.every_seconds > 0 && seconds_since(last_saved) >= when.every_seconds);
  }
  [[gnu::cold]] void save(RunState& state, const FitOptions& options) {
    options.checkpoints->save(*options.checkpoints, learner.memory(), state);
    state.saved = learner.steps;
    last_saved = Clock::now();
    keep_snapshot(options);
  }
  [[gnu::cold]] void resume(RunState& state, const Checkpoints& checkpoints) {
    if (checkpoints.load(checkpoints, learner.memory(), state)) learner.steps = state.steps;
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

  /// The average in the place of the weights, until the end of the scope.
  struct Averaged {
    Learner<Model, Optimizer, B>& learner;
    bool on;
    Averaged(Learner<Model, Optimizer, B>& l, bool o) : learner(l), on(o) { swap(); }
    Averaged(const Averaged&) = delete;
    Averaged& operator=(const Averaged&) = delete;
    ~Averaged() { swap(); }
    void swap() {
      if (on) std::swap(learner.average, learner.weights.values);
    }
  };

  Buffer<Real> converted;
  Clock::time_point last_saved{};
};

}  // namespace vaelib::inline VAELIB_ABI
