// One step: the tape, its memory, the buffers it works on and its random numbers.
//
// Operations are coarse (a product, a convolution, an attention); each leaves a record with the code of its backward pass.
// A gradient is unwritten or written: the first consumer to run backward writes, later ones add, and nothing is filled
// with zeros without need. Records never change the gradient of their own output, so one tape may be run backward twice.
#pragma once

#include <vaelib/autodiff/variable.hpp>
#include <vaelib/core/arena.hpp>
#include <vaelib/core/parameter.hpp>
#include <vaelib/core/random.hpp>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace vaelib::inline VAELIB_ABI {

/// The flat buffers of a model, in which parameters and states find their place by offset and id.
template <class Real>
struct Buffers {
  const Real* values = nullptr;
  Real* gradients = nullptr;
  bool* written = nullptr;        ///< by parameter: its gradient was written by the last backward pass
  const bool* trained = nullptr;  ///< by parameter: belongs to the group that this phase trains
  int parameters = 0;
  const Real* state = nullptr;
  Real* proposed = nullptr;     ///< state as this step would have it; applied by Weights::commit
  bool* proposals = nullptr;    ///< by state: whether this step proposed anything
};

enum class Mode { training, evaluation };

/// Where a run is: steps and epochs that were taken before this one, and the step's place in its epoch.
struct Place {
  std::int64_t step = 0, epoch = 0, batch = 0;
};

/// What random numbers are for: equal keys of different streams have nothing in common.
enum class Stream : std::uint32_t { initialization, order, noise, evaluation, data, sampling, refinement };

template <class B>
class Step {
 public:
  using Backend = B;
  using Real = typename B::Real;
  template <Shape S>
  using Variable = Var<Real, S>;

  explicit Step(Backend& b) : backend(b) {}

  /// Forgets the step before and takes its memory back.
  void begin(const Buffers<Real>& memory, Mode m, std::uint64_t seed, std::uint64_t number, Stream stream) {
    end();
    buffers = memory;
    mode = m;
    key = {seed, number, std::uint32_t(stream), 0};
    nodes = nullptr;
    records = nullptr;
    single_row = nullptr;
    recording = m == Mode::training;
    proposing = m == Mode::training;
  }

  /// Takes the memory back; what had to be opened piecemeal becomes one block, so that the next step needs none.
  void end() {
    arena.reset();
    temporary.reset();
  }

  bool training() const { return mode == Mode::training; }
  std::size_t bytes_held() const { return arena.capacity() + temporary.capacity(); }  ///< by this and the next steps

  // ---- what operations are made of

  /// A row space of this step: `count` rows, the first of which is row `first` of the global batch.
  const RowSpace* rows(long count, long first = 0) { return new (arena.allocate<RowSpace>(1)) RowSpace{count, first, 0, nullptr, 0}; }
  /// Ragged rows: the rows of all groups one after another; offsets holds groups + 1 numbers and must outlive the step.
  /// `each`: how many rows every set has, where that is a setting of a layer rather than of the data.
  const RowSpace* ragged(long groups, const long* offsets, long first = 0, int each = 0) {
    return new (arena.allocate<RowSpace>(1)) RowSpace{offsets[groups], first, groups, offsets, each};
  }
  /// The row space of numbers that belong to the whole batch, such as a loss.
  const RowSpace* single() { return single_row ? single_row : single_row = rows(1); }

  /// A variable with uninitialised values.
  template <Shape S>
  Var<Real, S> variable(const RowSpace* space, Shape shape, bool needs_gradient) {
    return {node(space, shape.size(), needs_gradient), shape};
  }
  /// The same without a shape: what operations work on, so that one function serves all shapes.
  [[gnu::noinline]] Node<Real>* node(const RowSpace* space, long features, bool needs_gradient) {
    Node<Real>* n = new_node(space, features, needs_gradient);
    n->value = arena.allocate<Real>(n->size());
    return n;
  }

  /// A variable that needs no gradient and looks at the caller's numbers: rows x shape, row-major, channels last.
  template <Shape S>
  Var<Real, S> constant(const RowSpace* space, Shape shape, const Real* data) {
    if (!agree(S, shape) || shape.is_dynamic()) fail("vaelib: expected rows of shape ", text_of(S), ", found ", text_of(shape));
    Node<Real>* n = new_node(space, shape.size(), false);
    n->value = const_cast<Real*>(data);  // never written: a constant has no producer
    return {n, shape};
  }

  Scalar<Real> scalar(double number) {
    Real* place = arena.allocate<Real>(1);
    *place = Real(number);
    return {place};
  }

  const Real* value(const Parameter& p) const { return buffers.values + p.offset; }
  const Real* value(const Node<Real>* node) const { return node->value; }
  bool trains(const Parameter& p) const { return recording && p.id >= 0 && buffers.trained[p.id]; }

  /// Whether an operation on these variables and parameters has to be recorded.
  bool needs_gradient(const auto&... operands) const { return recording && (needs(operands) || ...); }

  /// Stores the backward pass of an operation: f(step), called once all consumers of the outputs have run.
  template <class F>
  void record(std::initializer_list<Node<Real>*> outputs, const F& f) {
    static_assert(std::is_trivially_destructible_v<F>, "vaelib: a record lives in the arena, which runs no destructors");
    struct Entry : Record {
      F body;
      static void run_body(Step& step, Record& record) { static_cast<Entry&>(record).body(step); }
    };
    add_record(new (arena.take(1, sizeof(Entry))) Entry{{Entry::run_body}, f}, outputs);
  }

  /// Where the gradient of a variable goes now; the caller writes or adds all of it. Empty where nobody needs it.
  template <Shape S>
  Target<Real> target(Var<Real, S> x) {
    return target(x.node);
  }
  [[gnu::noinline]] Target<Real> target(Node<Real>* node) {
    if (!node->needs_gradient) return {};
    reserve_gradient(node);
    const bool add = node->written;
    node->written = true;
    return {node->gradient, add};
  }
  Target<Real> target(const Parameter& p) {
    if (!trains(p)) return {};
    const bool add = buffers.written[p.id];
    buffers.written[p.id] = true;
    return {buffers.gradients + p.offset, add};
  }
  void reserve_gradient(Node<Real>* node) {
    if (!node->gradient) node->gradient = arena.allocate<Real>(node->size());
  }
  /// The gradient of a variable; complete, as its consumers have run.
  template <Shape S>
  const Real* gradient(Var<Real, S> y) const {
    return y.node->gradient;
  }
  const Real* gradient(const Node<Real>* y) const { return y->gradient; }

  /// Memory until the end of the scope.
  struct Scratch {
    Arena& arena;
    Arena::Mark mark;
    Real* data;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    Scratch(Arena& a, long count) : arena(a), mark(a.mark()), data(a.template allocate<Real>(count)) {}
    ~Scratch() { arena.rewind(mark); }
  };
  Scratch scratch(long count) { return {temporary, count}; }

  /// A key for the random numbers of one operation; the next call gives another.
  RandomKey next_key() {
    RandomKey result = key;
    ++key.ordinal;
    return result;
  }

  /// State as of now: what this step proposed already, or else what was committed before.
  const Real* value(const State& s) const {
    return (buffers.proposals && buffers.proposals[s.id] ? buffers.proposed : buffers.state) + s.offset;
  }
  /// Where an operation writes the state it proposes, all of it; null in evaluation and recomputation.
  Real* propose(const State& s) {
    if (!proposing || !buffers.proposed) return nullptr;
    buffers.proposals[s.id] = true;
    return buffers.proposed + s.offset;
  }

  /// A place in the step to which forget() goes back.
  struct Position {
    Arena::Mark mark;
    Node<Real>* nodes;
  };
  Position position() {
    single();  // what lives as long as the step must not be forgotten
    return {arena.mark(), nodes};
  }
  /// Takes back the memory and the variables since then; nothing may have been recorded since.
  void forget(const Position& to) {
    nodes = to.nodes;
    arena.rewind(to.mark);
  }

  // ---- backward

  /// Gradients of a loss (one number), times `weight`, for all parameters that this step trains; with `add` they are added
  /// to those of the last backward pass.
  template <Shape S>
  void backward(Var<Real, S> loss, Real weight = 1, bool add = false) {
    if (loss.size() != 1) fail("vaelib: backward wants one number, found ", loss.rows(), " rows of ", loss.features());
    for (auto* n = nodes; n; n = n->previous) n->written = false;
    if (!add) std::fill_n(buffers.written, buffers.parameters, false);
    if (Target<Real> seed = target(loss)) *seed.data = weight;
    propagate();
  }

  /// The gradient of a loss (one number) for one parameter, while the forward pass is still under way: only the records back to
  /// it run, so that all variables made since have their gradients, too. Other parameters get none, and this one keeps what it
  /// has from an earlier part of the batch. False where the loss does not depend on it.
  template <Shape S>
  bool gradient_of(Var<Real, S> loss, const Parameter& p, Real* gradient) {
    if (loss.size() != 1) fail("vaelib: gradient_of wants one number, found ", loss.rows(), " rows of ", loss.features());
    if (p.id < 0 || !buffers.trained) return false;
    bool* flags = arena.allocate<bool>(2 * std::size_t(buffers.parameters));
    std::fill_n(flags, 2 * buffers.parameters, false);
    bool* const written = std::exchange(buffers.written, flags);
    const bool* const trained = std::exchange(buffers.trained, flags + buffers.parameters);
    flags[buffers.parameters + p.id] = true;
    const auto kept = scratch(p.size());
    Real* const place = buffers.gradients + p.offset;
    std::copy_n(place, p.size(), kept.data);
    for (auto* n = nodes; n; n = n->previous) n->written = false;
    if (Target<Real> seed = target(loss)) *seed.data = 1;
    propagate(&flags[p.id]);
    const bool found = flags[p.id];
    if (found) std::copy_n(place, p.size(), gradient);
    std::copy_n(kept.data, p.size(), place);
    buffers.written = written;
    buffers.trained = trained;
    return found;
  }

  /// Runs a piece of forward code again while the gradients of its output are known, then its records backward.
  template <class F>
  void recompute(RandomKey first_key, Node<Real>* output, F forward) {
    const Position before = position();
    Record* const saved_records = records;
    const RandomKey saved_key = key;
    records = nullptr;
    key = first_key;
    proposing = false;
    Node<Real>* again = forward(*this);
    again->gradient = output->gradient;
    again->written = true;
    propagate();
    proposing = true;
    records = saved_records;
    key = saved_key;
    forget(before);
  }

  Backend& backend;
  Arena arena;
  Buffers<Real> buffers;
  Mode mode = Mode::evaluation;
  RandomKey key{};
  bool recording = false;  ///< operations leave records
  bool proposing = false;  ///< operations propose state
  Scalar<Real> beta{}, capacity{};  ///< of this step's schedules
  Place now{};                      ///< for the schedules of layers
  int phase = 0;                    ///< which of the model's phases this is

 private:
  struct Record {
    void (*run)(Step&, Record&);
    Node<Real>** outputs = nullptr;
    int count = 0;
    Record* previous = nullptr;
  };

  Node<Real>* new_node(const RowSpace* space, long features, bool needs_gradient) {
    auto* n = new (arena.take(1, sizeof(Node<Real>))) Node<Real>;
    n->space = space;
    n->features = features;
    n->needs_gradient = needs_gradient;
    n->previous = nodes;
    return nodes = n;
  }
  [[gnu::noinline]] void add_record(Record* record, std::initializer_list<Node<Real>*> outputs) {
    record->outputs = arena.allocate<Node<Real>*>(outputs.size());
    std::copy(outputs.begin(), outputs.end(), record->outputs);
    record->count = int(outputs.size());
    record->previous = records;
    records = record;
  }
  template <class T>
  bool needs(const T& operand) const {
    if constexpr (is_variable<T>) {
      return operand.needs_gradient();
    } else if constexpr (std::is_convertible_v<T, const Node<Real>*>) {
      return operand->needs_gradient;
    } else if constexpr (std::is_same_v<T, Parameter>) {
      return trains(operand);
    } else {
      return false;
    }
  }
  /// All records backward, or those until a flag is set.
  void propagate(const bool* enough = nullptr) {
    for (Record* r = records; r && !(enough && *enough); r = r->previous) {
      bool any = false;
      for (int o = 0; o < r->count; ++o) any = any || r->outputs[o]->written;
      if (!any) continue;
      for (int o = 0; o < r->count; ++o) {
        if (r->outputs[o]->written) continue;
        reserve_gradient(r->outputs[o]);
        std::fill_n(r->outputs[o]->gradient, r->outputs[o]->size(), Real(0));
        r->outputs[o]->written = true;
      }
      r->run(*this, *r);
    }
  }

  Node<Real>* nodes = nullptr;
  Record* records = nullptr;
  const RowSpace* single_row = nullptr;
  Arena temporary;
};

}  // namespace vaelib::inline VAELIB_ABI
