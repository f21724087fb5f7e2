// GRU and LSTM: each row of a sequence is seen with what is known of the rows before it (backend/recurrent.hpp).
//
//   x: ragged rows (core/rows.hpp), one set a sequence, of any lengths      y: as many rows of Out features, the states h
//
// The equations, parameters and their names are those of PyTorch's nn.GRU and nn.LSTM of one layer. A time step is one product
// of the states of all sequences that are still running, the inputs are one product, and so are the gradients of the weights.
// What a row gives depends on its own sequence up to it alone: nothing else changes a bit of it.
#pragma once

#include <vaelib/backend/recurrent.hpp>
#include <vaelib/layers/causal_attention.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// The rows of sequences in another order: those of one time side by side, of the longest sequence first.
struct TimeMajor {
  long sequences, rows, times;
  const long* begin;             ///< of each time, and the end
  const std::int32_t *row, *place;  ///< which row is at a place; where a row is
  const std::int32_t* order;     ///< of the sequences

  long running(long time) const { return begin[time + 1] - begin[time]; }
};
template <class S>
TimeMajor time_major(S& step, const RowSpace* space) {
  if (!space->offsets) fail("vaelib: GRU and LSTM take ragged rows, one set a sequence; found ", space->count, " plain rows");
  const long sequences = space->groups, rows = space->count;
  if (rows > INT32_MAX || sequences > INT32_MAX) fail("vaelib: GRU and LSTM take at most ", INT32_MAX, " rows, found ", rows);
  const long* offsets = space->offsets;
  const auto length = [=](std::int32_t s) { return offsets[s + 1] - offsets[s]; };
  auto* order = step.arena.template allocate<std::int32_t>(std::size_t(sequences + 2 * rows));
  auto *row = order + sequences, *place = row + rows;
  std::iota(order, order + sequences, 0);
  std::stable_sort(order, order + sequences, [=](std::int32_t a, std::int32_t b) { return length(a) > length(b); });
  const long times = sequences > 0 ? length(order[0]) : 0;
  long* begin = step.arena.template allocate<long>(std::size_t(times + 1));
  long at = 0, running = sequences;
  for (long t = 0; t < times; ++t) {
    begin[t] = at;
    while (length(order[running - 1]) <= t) --running;
    for (long k = 0; k < running; ++k) {
      row[at] = std::int32_t(offsets[order[k]] + t);
      place[row[at]] = std::int32_t(at);
      ++at;
    }
  }
  begin[times] = at;
  return {sequences, rows, times, begin, row, place, order};
}

/// target[r] (+)= x[index[r]]
template <class B, class R>
void gather_to(B& backend, long rows, int columns, const R* x, const std::int32_t* index, Target<R> target) {
  backend.parallel((rows + 63) / 64, [&](long block) {
    for (long r = block * 64; r < std::min(rows, block * 64 + 64); ++r)
      for (int j = 0; j < columns; ++j) {
        R& to = target.data[r * columns + j];
        to = (target.add ? to : R(0)) + x[long(index[r]) * columns + j];
      }
  });
}

/// first: h before the first row and, of an LSTM, c; each one row a sequence, or null: zeros.
template <class Cell, class S, class R>
Node<R>* recurrent(S& step, Node<R>* x, const Parameter& weight_x, const Parameter& weight_h, const Parameter& bias_x,
                   const Parameter& bias_h, std::array<Node<R>*, 2> first) {
  const TimeMajor rows = time_major(step, x->space);
  const int in = weight_x.extents[0], units = weight_h.extents[0], wide = Cell::gates * units;
  if (x->features != in) fail("vaelib: a recurrent layer takes ", in, " features, found ", x->features);
  for (const Node<R>* f : first)
    if (f && (f->space->count != rows.sequences || f->features != units))
      fail("vaelib: ", rows.sequences, " sequences begin with a state of ", units, " features each, found ", f->space->count, " of ", f->features);
  auto* y = step.node(x->space, units, step.needs_gradient(x, weight_x, weight_h, bias_x, bias_h) || (first[0] && step.needs_gradient(first[0])) ||
                                           (first[1] && step.needs_gradient(first[1])));
  // those before the first row, and then those of the rows
  const long head = rows.sequences * units, all = rows.rows * units;
  R* const states = step.arena.template allocate<R>(std::size_t(2 * (head + all)));
  R* const kept = states + head + all;
  for (int k = 0; k < 2; ++k) {
    R* to = k == 0 ? states : kept;
    std::fill_n(to, head, R(0));
    if (first[k]) step.backend.gather_rows(rows.sequences, units, first[k]->value, rows.order, to);
  }
  /// Where the states before a time are, of as many sequences as run then.
  const auto before = [=](long time) { return time == 0 ? 0 : head + rows.begin[time - 1] * units; };
  R* const gates = step.arena.template allocate<R>(std::size_t(rows.rows) * wide);
  {
    const auto ordered = step.scratch(rows.rows * in);
    step.backend.gather_rows(rows.rows, in, x->value, rows.row, ordered.data);
    step.backend.product(rows.rows, wide, in, {ordered.data, in, 1}, {step.value(weight_x), wide, 1}, gates, false, step.value(bias_x));
  }
  {
    const auto from_state = step.scratch(rows.sequences * wide);
    for (long t = 0; t < rows.times; ++t) {
      const long n = rows.running(t), now = head + rows.begin[t] * units;
      const R* h = states + before(t);
      step.backend.product(n, wide, units, {h, units, 1}, {step.value(weight_h), wide, 1}, from_state.data, false, step.value(bias_h));
      Cell::forward(step.backend, n, units, gates + rows.begin[t] * wide, from_state.data, h, kept + before(t), states + now, kept + now);
    }
  }
  step.backend.gather_rows(rows.rows, units, states + head, rows.place, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto upstream = s.scratch(all), carry = s.scratch(2 * head), to_x = s.scratch(rows.rows * wide);
      const auto extra = s.scratch(Cell::one_gradient ? 0 : rows.rows * wide);
      R *const of_x = to_x.data, *const of_h = Cell::one_gradient ? of_x : extra.data, *const carry_kept = carry.data + head;
      s.backend.gather_rows(rows.rows, units, s.gradient(y), rows.row, upstream.data);
      std::fill_n(carry.data, 2 * head, R(0));
      const auto turned = s.scratch(weight_h.size());  // once, as each time step reads it
      for (int j = 0; j < wide; ++j)
        for (int i = 0; i < units; ++i) turned.data[long(j) * units + i] = s.value(weight_h)[long(i) * wide + j];
      for (long t = rows.times; t-- > 0;) {
        const long n = rows.running(t), begin = rows.begin[t], now = head + begin * units;
        Cell::backward(s.backend, n, units, gates + begin * wide, states + before(t), kept + before(t), kept + now,
                       upstream.data + begin * units, carry.data, carry_kept, of_x + begin * wide, of_h + begin * wide);
        s.backend.product(n, units, wide, {of_h + begin * wide, wide, 1}, {turned.data, units, 1}, carry.data, true);
      }
      s.backend.sum_rows(rows.rows, wide, of_x, R(1), s.target(bias_x));
      s.backend.sum_rows(rows.rows, wide, of_h, R(1), s.target(bias_h));
      if (auto t = s.target(weight_x)) {
        const auto ordered = s.scratch(rows.rows * in);
        s.backend.gather_rows(rows.rows, in, x->value, rows.row, ordered.data);
        s.backend.product(in, wide, rows.rows, {ordered.data, 1, in}, {of_x, wide, 1}, t.data, t.add);
      }
      if (auto t = s.target(weight_h)) {  // the states before each row, side by side
        for (long time = 0; time < rows.times; ++time)
          std::copy_n(states + before(time), rows.running(time) * units, upstream.data + rows.begin[time] * units);
        s.backend.product(units, wide, rows.rows, {upstream.data, 1, units}, {of_h, wide, 1}, t.data, t.add);
      }
      if (auto t = s.target(x)) {
        const auto ordered = s.scratch(rows.rows * in);
        s.backend.product(rows.rows, in, wide, {of_x, wide, 1}, {s.value(weight_x), 1, wide}, ordered.data, false);
        gather_to(s.backend, rows.rows, in, ordered.data, rows.place, t);
      }
      for (int k = 0; k < 2; ++k) {
        if (!first[k]) continue;
        const Target<R> t = s.target(first[k]);
        if (!t) continue;
        for (long q = 0; q < rows.sequences; ++q)
          for (int j = 0; j < units; ++j) {
            R& to = t.data[long(rows.order[q]) * units + j];
            to = (t.add ? to : R(0)) + carry.data[(k * rows.sequences + q) * units + j];
          }
      }
    });
  return y;
}

}  // namespace detail

/// What sequences that are continued by one row at a time are at: sequences x units each.
template <class R>
struct RecurrentState {
  R *h, *kept;
};

/// See the head of this file: GRU and LSTM below.
template <class Cell, int Out>
struct Recurrent {
  [[no_unique_address]] Extent<Out> out{};
  Parameter weight_ih{}, weight_hh{}, bias_ih{}, bias_hh{};

  static constexpr bool accepts(Shape in) { return in.is_flat(); }
  constexpr Shape output(Shape) const { return {int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    if (out < 1) fail("vaelib: a recurrent layer of ", int(out), " units, expected at least 1");
    const auto first = uniform(1 / std::sqrt(float(out)));
    const int wide = Cell::gates * out;
    weight_ih = {{in.size(), wide}, first, Layout::linear};
    weight_hh = {{int(out), wide}, first, Layout::linear};
    bias_ih = {{wide}, first};
    bias_hh = {{wide}, first};
  }
  void fields(auto&& f) {
    f("weight_ih_l0", weight_ih);
    f("weight_hh_l0", weight_hh);
    f("bias_ih_l0", bias_ih);
    f("bias_hh_l0", bias_hh);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    return apply(step, x, {});
  }
  /// The same from other states than zeros: h and, of an LSTM, c; plain rows, one a sequence.
  template <class S, class V, class... First>
  auto from(S& step, V x, First... first) const {
    static_assert(sizeof...(First) == Cell::states, "vaelib: a GRU begins with h, an LSTM with h and c");
    return apply(step, x, {first.node...});
  }

  /// Zeros, in memory of the step.
  template <class S>
  auto begin(S& step, long sequences) const {
    using R = typename S::Real;
    R* all = step.arena.template allocate<R>(std::size_t(2 * sequences * out));
    std::fill_n(all, 2 * sequences * out, R(0));
    return RecurrentState<R>{all, all + sequences * out};
  }
  /// The next row of each sequence (plain rows, one a sequence), which moves the state: the bits of forward on the whole
  /// sequences. Takes no gradient.
  template <class S, class V, class R>
  auto next(S& step, V x, const RecurrentState<R>& state) const {
    const int units = out, wide = Cell::gates * units;
    const long n = x.rows(), in = x.features();
    if (in != weight_ih.extents[0]) fail("vaelib: a recurrent layer takes ", weight_ih.extents[0], " features, found ", in);
    const auto y = step.template variable<Shape{Out}>(x.space(), Shape{units}, false);
    const auto gates = step.scratch(2 * n * wide);
    R* const from_state = gates.data + n * wide;
    step.backend.product(n, wide, in, {x.value(), in, 1}, {step.value(weight_ih), wide, 1}, gates.data, false, step.value(bias_ih));
    step.backend.product(n, wide, units, {state.h, units, 1}, {step.value(weight_hh), wide, 1}, from_state, false, step.value(bias_hh));
    Cell::forward(step.backend, n, units, gates.data, from_state, state.h, state.kept, y.value(), state.kept);
    std::copy_n(y.value(), y.size(), state.h);
    return y;
  }

 private:
  template <class S, class R, Shape In>
  auto apply(S& step, Var<R, In> x, std::array<Node<R>*, 2> first) const {
    return Var<R, Shape{Out}>{detail::recurrent<Cell>(step, x.node, weight_ih, weight_hh, bias_ih, bias_hh, first), Shape{int(out)}};
  }
};

template <int Out>
using GRU = Recurrent<GruCell, Out>;
template <int Out>
using LSTM = Recurrent<LstmCell, Out>;

}  // namespace vaelib::inline VAELIB_ABI
