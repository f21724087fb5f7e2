// Vector quantization: each vector becomes the nearest of K codes; van den Oord et al. 2017, "Neural discrete representation learning".
//
//   k_i = argmin_k |x_i - e_k|^2       q_i = e_{k_i}       N vectors of width D
//   loss = commitment mean (x - sg(q))^2  [+ mean (sg(x) - q)^2 where the codes are learned by gradient]        means over N D numbers
//
// Codes learn by gradient, or by exponential moving averages (Razavi et al. 2019, section 3.1), which take no gradient:
//   n_k <- d n_k + (1 - d) #{i: k_i = k}     s_k <- d s_k + (1 - d) sum_{i: k_i = k} x_i     e_k = s_k / n~_k for codes of this batch
//   n~_k = (n_k + epsilon) / (n + K epsilon) n, n = sum_k n_k        smoothed (Laplace) for the division only, never in the state
// A code that no vector chose does not move: s_k and n_k shrink alike, so that their quotient stays. Sums start as e_k itself,
// with n_k = 1. Vectors are quantized before codes are moved, and nothing moves in evaluation.
//
// Codes may be drawn from softmax_k(-|x - e_k|^2 / (2 v T)) in training, where v is the mean of (x - q)^2 over the batch, q being nearest: T = 1
// is the posterior of a mixture of normal distributions as wide as the quantization error, whatever the scale of the vectors (compare
// Takida et al. 2022, "SQ-VAE"). The entropies of assignments use the same scale.
//
// Codes that die are put where vectors lie that are represented badly: see DeadCodes.
#pragma once

#include <vaelib/quantizers/assignment_entropy.hpp>
#include <vaelib/quantizers/dead_codes.hpp>

#include <optional>

namespace vaelib::inline VAELIB_ABI {

enum class CodebookLearning { moving_average, gradient };
enum class CodeDistance {
  euclidean,
  cosine  ///< vectors and codes are scaled to length 1 first; Yu et al. 2022, "Vector-quantized image modeling with improved VQGAN"
};
enum class CodebookStart {
  uniform,  ///< U(-1/K, 1/K)
  normal,   ///< N(0, 1)
  data,     ///< vectors of the first batch
  k_means   ///< their k-means (Lloyd 1982), from distinct vectors
};

struct VectorQuantizerOptions {
  CodebookLearning learning = CodebookLearning::moving_average;
  CodeDistance distance = CodeDistance::euclidean;
  GradientEstimator gradient = GradientEstimator::straight_through;
  CodebookStart start = CodebookStart::k_means;
  int k_means_rounds = 10;
  Schedule decay = 0.8f;         ///< d above
  float smoothing = 1e-5f;       ///< epsilon above
  Schedule commitment = 1.0f;    ///< weight of the commitment loss
  Schedule spread = 0.0f;        ///< weight of log K - H(mean assignment), see assignment_entropy.hpp
  Schedule focus = 0.0f;         ///< weight of the mean entropy of a vector's assignment
  Schedule entropy_temperature = 1;         ///< T of the assignments of these two
  std::optional<Schedule> temperature{};    ///< T at which codes are drawn in training; none: the nearest is taken
  DeadCodes dead{};
  std::optional<Schedule> codes_in_use{};   ///< codebook expansion: how many of the codes there are by now; none: all
};

template <int Codes>
struct VectorQuantizer {
  static_assert(Codes == dynamic || Codes > 0, "vaelib: a codebook has at least one code");
  VectorQuantizerOptions options{};
  [[no_unique_address]] Extent<Codes> codes{};
  int width = 0;
  State codebook{};   ///< K x D; where codes learn by gradient they are codebook + learned, so that these can be replaced too
  Parameter learned{};
  State count{}, sum{};       ///< n_k and s_k
  State batch_count{};        ///< how many vectors of the last batch chose each code
  State used{};               ///< how many of the codes have a place by now

  int code_count() const { return codes; }
  static constexpr int per_vector() { return 1; }
  bool by_gradient() const { return options.learning == CodebookLearning::gradient; }

  [[gnu::cold]] void build(Shape in) {
    width = in.channels;
    const int k = codes;
    const int numbers = detail::table_size(k, width);
    codebook = {numbers, 0};
    codebook.initial = options.start == CodebookStart::uniform ? uniform(1.0f / float(k)) : normal(1);
    codebook.columns = width;
    learned = {{k, width}, constant(0)};
    sum = {numbers, 0};
    sum.columns = width;
    count = {k, 1};
    batch_count = {k, 0};
    used = {1, 0, true};
  }
  void fields(auto&& f) {
    f("codebook", codebook);
    if (by_gradient()) {
      f("learned", learned);
    } else {
      f("sum", sum);
    }
    f("count", count);
    f("batch_count", batch_count);
    f("used", used);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    return options.distance == CodeDistance::cosine ? choose(step, unit_vectors(step, x)) : choose(step, x);
  }

  /// The vectors of codes, rows of `shape`, whose channels are the width.
  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* index) const {
    auto y = step.template variable<A>(space, shape, false);
    detail::check_codes(vector_count(y), index, codes);
    step.backend.gather_rows(vector_count(y), width, table(step), index, y.value());
    return y;
  }

  /// The codes as they are: K x D, in memory of the step or of the weights, where they stay as they are until the step is over.
  template <class S>
  auto table(S& step) const -> const typename S::Real* {
    using R = typename S::Real;
    const R* given = step.value(codebook);
    const bool cosine = options.distance == CodeDistance::cosine, moves = step.buffers.proposals && step.buffers.proposals[codebook.id];
    if (!by_gradient() && !cosine && !moves) return given;
    R* result = step.arena.template allocate<R>(codebook.size());
    std::copy_n(given, codebook.size(), result);
    if (by_gradient()) step.backend.copy(codebook.size(), step.value(learned), {result, true});
    if (cosine) step.backend.unit_rows(codes, width, result, result, step.arena.template allocate<R>(int(codes)));
    return result;
  }

 private:
  template <class S>
  bool learns(const S& step) const {
    return step.training() && step.proposing && step.buffers.proposed;
  }
  /// How many codes there may be at this step.
  template <class S>
  int codes_now(const S& step) const {
    if (!options.codes_in_use) return codes;
    return std::clamp(int(std::lround(at_this_step(step, *options.codes_in_use))), 1, int(codes));
  }
  template <class S>
  auto scalar(S& step, const Schedule& schedule) const {
    return step.scalar(at_this_step(step, schedule));
  }

  template <class S, class R, Shape A>
  auto choose(S& step, Var<R, A> x) const;
  template <class S, class R, Shape A>
  auto codebook_loss(S& step, Var<R, A> x, const R* e, const std::int32_t* index, double mean_square) const;
  template <class S, class R>
  void start(S& step, long first_row, long rows, const R* x) const;
  template <class S, class R>
  void move_codes(S& step, long rows, const R* x, const std::int32_t* index, int in_use) const;
  template <class S, class R>
  void revive(S& step, long first_row, long rows, const R* x, const R* errors, int in_use) const;
  template <class S, class R>
  void place_code(S& step, int code, const R* vector, R counted) const;
};

/// The nearest codes of the vectors (or drawn ones), what the decoder gets, the losses, and what the codes become.
template <int Codes>
template <class S, class R, Shape A>
auto VectorQuantizer<Codes>::choose(S& step, Var<R, A> x) const {
  const long rows = vector_count(x), first_row = first_vector(x);
  const bool learning = learns(step) && rows > 0;
  if (learning && *step.value(used) == 0) start(step, first_row, rows, x.value());
  const int in_use = *step.value(used) > 0 ? int(*step.value(used)) : int(codes);
  const R* e = table(step);
  auto* index = step.arena.template allocate<std::int32_t>(rows);
  R *q = step.arena.template allocate<R>(x.size()), *errors = step.arena.template allocate<R>(rows);
  step.backend.nearest_codes(rows, in_use, width, x.value(), e, index);
  double mean_square = detail::take_codes(step, x, e, index, q, errors);
  const double scale = 2 * std::max(mean_square, 1e-30);
  if (step.training() && options.temperature) {
    const float temperature = at_this_step(step, *options.temperature);
    if (!(temperature > 0)) fail("vaelib: the temperature of sampled codes is ", temperature, ", expected more than 0");
    sample_codes(step, step.next_key(), first_row, rows, in_use, width, x.value(), e, R(scale * double(temperature)), index);
    mean_square = detail::take_codes(step, x, e, index, q, errors);
  }

  auto [values, loss] = detail::pass_through(step, x, q, options.gradient, scalar(step, options.commitment), mean_square);
  if (by_gradient()) loss = add(step, loss, codebook_loss(step, x, e, index, mean_square));
  const float softness = at_this_step(step, options.entropy_temperature);
  const EntropyWeights<R> weights{scalar(step, options.spread), scalar(step, options.focus), step.scalar(scale * double(softness))};
  if (*weights.spread.value != 0 || *weights.focus.value != 0)
    loss = add(step, loss, assignment_entropy(step, x, e, in_use, weights, by_gradient() && options.distance == CodeDistance::euclidean ? &learned : nullptr));
  if (learning) {
    move_codes(step, rows, x.value(), index, in_use);
    revive(step, first_row, rows, x.value(), errors, in_use);
  }
  return Quantized<Var<R, A>, Var<R, Shape{1}>>{values, index, rows, loss, detail::known(step, mean_square)};
}

/// mean (sg(x) - q)^2, of which the learned codes take the gradient 2 (n_k e_k - s_k) / (N D).
template <int Codes>
template <class S, class R, Shape A>
auto VectorQuantizer<Codes>::codebook_loss(S& step, Var<R, A> x, const R* e, const std::int32_t* index, double mean_square) const {
  auto loss = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(learned));
  *loss.value() = R(mean_square);
  const long rows = vector_count(x);
  if (loss.needs_gradient() && rows > 0)
    step.record({loss.node}, [=, leaf = learned, k = int(codes), d = width, cosine = options.distance == CodeDistance::cosine, given = codebook](S& s) {
      const auto t = s.target(leaf);
      const R scale = 2 * *s.gradient(loss) / R(x.size());
      auto* starts = s.arena.template allocate<std::int32_t>(k + 1);
      auto* members = s.arena.template allocate<std::int32_t>(rows);
      s.backend.group_by_code(rows, k, index, starts, members);
      const R *base = s.value(given), *moved = s.value(leaf);
      s.backend.for_each_code(k, d, x.value(), starts, members, [=](int code, const R* total, int n) {
        const R* unit = e + long(code) * d;
        R along = 0, length = 0;  // codes that were scaled to length 1 take what is left of the gradient across them
        for (int j = 0; cosine && j < d; ++j) {
          const R number = base[long(code) * d + j] + moved[long(code) * d + j];
          length += number * number;
          along += unit[j] * (R(n) * unit[j] - total[j]);
        }
        const R rate = cosine ? scale / std::max(std::sqrt(length), R(1e-12)) : scale;
        for (int j = 0; j < d; ++j) {
          const R g = rate * (R(n) * unit[j] - total[j] - along * unit[j]);
          R& place = t.data[long(code) * d + j];
          place = t.add ? place + g : g;
        }
      });
    });
  return loss;
}

/// The first places of the codes, from the first vectors that are seen.
template <int Codes>
template <class S, class R>
void VectorQuantizer<Codes>::start(S& step, long first_row, long rows, const R* x) const {
  const int now = codes_now(step);
  R* e = step.propose(codebook);
  std::copy_n(step.buffers.state + codebook.offset, codebook.size(), e);
  R* counted = step.propose(count);
  std::fill_n(counted, int(codes), R(1));
  int placed = now;
  if (options.start == CodebookStart::data || options.start == CodebookStart::k_means) {
    R* all = step.arena.template allocate<R>(rows);
    std::fill_n(all, rows, R(1));
    auto* chosen = step.arena.template allocate<std::int32_t>(now);
    placed = detail::draw_vectors(step, first_row, rows, width, x, all, now, chosen);
    if (placed == 0) return;  // nothing but NaN
    step.backend.gather_rows(placed, width, x, chosen, e);
    auto* index = step.arena.template allocate<std::int32_t>(rows);
    auto* starts = step.arena.template allocate<std::int32_t>(placed + 1);
    auto* members = step.arena.template allocate<std::int32_t>(rows);
    for (int round = 0; options.start == CodebookStart::k_means && round < options.k_means_rounds; ++round) {
      step.backend.nearest_codes(rows, placed, width, x, e, index);
      step.backend.group_by_code(rows, placed, index, starts, members);
      step.backend.for_each_code(placed, width, x, starts, members, [=, d = width](int k, const R* total, int n) {
        for (int j = 0; n > 0 && j < d; ++j) e[long(k) * d + j] = total[j] / R(n);
        counted[k] = R(std::max(n, 1));
      });
    }
  }
  if (R* s = by_gradient() ? nullptr : step.propose(sum)) {
    for (int k = 0; k < codes; ++k)
      for (int j = 0; j < width; ++j) s[long(k) * width + j] = counted[k] * e[long(k) * width + j];
  }
  *step.propose(used) = R(placed);
}

/// The moving averages, and the codes of this batch with them.
template <int Codes>
template <class S, class R>
void VectorQuantizer<Codes>::move_codes(S& step, long rows, const R* x, const std::int32_t* index, int in_use) const {
  const R decay = *scalar(step, options.decay).value;
  if (!(decay >= 0 && decay <= 1)) fail("vaelib: the decay of a codebook is ", decay, ", expected 0 to 1");
  auto* starts = step.arena.template allocate<std::int32_t>(in_use + 1);
  auto* members = step.arena.template allocate<std::int32_t>(rows);
  step.backend.group_by_code(rows, in_use, index, starts, members);

  const auto carried = [&](const State& state) {  // what it was, where the step may write
    const R* before = step.value(state);
    R* now = step.propose(state);
    if (now != before) std::copy_n(before, state.size(), now);
    return now;
  };
  R *n = carried(count), *of_batch = step.propose(batch_count);
  double total = 0;
  for (int k = 0; k < codes; ++k) {
    of_batch[k] = k < in_use ? R(starts[k + 1] - starts[k]) : R(0);
    if (k < in_use) total += double(n[k] = decay * n[k] + (1 - decay) * of_batch[k]);
  }
  if (by_gradient()) return;
  R *e = carried(codebook), *s = carried(sum);
  const double epsilon = double(options.smoothing);
  const R rate = R((total + in_use * epsilon) / std::max(total, 1e-30));
  step.backend.for_each_code(in_use, width, x, starts, members, [=, d = width](int k, const R* of_code, int members_of_code) {
    const R divisor = (n[k] + R(epsilon)) / rate;
    for (long at = long(k) * d, end = at + d; at < end; ++at) {
      s[at] = decay * s[at] + (1 - decay) * *of_code++;
      if (members_of_code > 0) e[at] = s[at] / divisor;
    }
  });
}

/// Dead codes get vectors of the batch, and so do new ones, where the first codes came from data.
template <int Codes>
template <class S, class R>
void VectorQuantizer<Codes>::revive(S& step, long first_row, long rows, const R* x, const R* errors, int in_use) const {
  R* n = step.propose(count);
  auto* dead = step.arena.template allocate<std::int32_t>(int(codes));
  const int dying = options.dead.is_due(step.now) ? detail::find_dead(options.dead, in_use, n, dead) : 0;
  const bool from_data = options.start == CodebookStart::data || options.start == CodebookStart::k_means;
  const int more = std::max(0, codes_now(step) - in_use), fresh = from_data ? more : 0;
  if (more > fresh) *step.propose(used) = R(in_use + more);  // they stand where they were drawn
  if (dying + fresh == 0) return;
  auto* chosen = step.arena.template allocate<std::int32_t>(dying + fresh);
  const int found = detail::draw_vectors(step, first_row, rows, width, x, errors, dying + fresh, chosen);
  double total = 0;
  for (int k = 0; k < in_use; ++k) total += double(n[k]);
  const R mean = R(std::max(total / in_use, double(options.dead.below)));
  const int grown = std::min(fresh, found);  // new codes first
  for (int k = 0; k < found; ++k) place_code(step, k < grown ? in_use + k : dead[k - grown], x + long(chosen[k]) * width, mean);
  if (grown > 0) *step.propose(used) = R(in_use + grown);
}

template <int Codes>
template <class S, class R>
void VectorQuantizer<Codes>::place_code(S& step, int code, const R* vector, R counted) const {
  const long at = long(code) * width;
  const R* moved = by_gradient() ? step.value(learned) + at : nullptr;
  R *e = const_cast<R*>(step.value(codebook)) + at, *s = by_gradient() ? nullptr : const_cast<R*>(step.value(sum)) + at;
  for (int j = 0; j < width; ++j) {
    e[j] = moved ? vector[j] - moved[j] : vector[j];
    if (s) s[j] = counted * vector[j];
  }
  const_cast<R*>(step.value(count))[code] = counted;
}

}  // namespace vaelib::inline VAELIB_ABI
