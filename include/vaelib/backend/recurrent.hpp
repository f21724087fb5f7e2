// One time step of recurrent cells, on plain pointers: all units of the sequences that are still running.
//
//   GRU    r, z = sigmoid(a + s),   n = tanh(a_n + r s_n),   h = (1 - z) n + z h'            Cho et al. 2014
//   LSTM   i, f, o = sigmoid(a + s),   g = tanh(a_g + s_g),   c = f c' + i g,   h = o tanh(c)   Hochreiter & Schmidhuber 1997
//
// a: from the input, s: from the state h' before; the gates of a row one after another, in PyTorch's order (r z n; i f g o).
// The gates overwrite a. Besides h a cell keeps one number a unit: s_n, or c.
#pragma once

#include <vaelib/backend/host.hpp>
#include <vaelib/core/math.hpp>

namespace vaelib::inline VAELIB_ABI {

struct GruCell {
  static constexpr int gates = 3;
  static constexpr int states = 1;             ///< h
  static constexpr bool one_gradient = false;  ///< that of s is that of a

  template <class Backend, class R>
  static void forward(Backend& backend, long rows, int units, R* a, const R* s, const R* before, const R*, R* h, R* kept) {
    backend.lines(rows, units, [=](auto at, auto unit, long row) VAELIB_LOOP {
      R* const gate = a + row * gates * units;
      const R* const from = s + row * gates * units;
      const auto r = sigmoid(unit.load(gate) + unit.load(from));
      const auto z = sigmoid(unit.load(gate + units) + unit.load(from + units));
      const auto q = unit.load(from + 2 * units);
      const auto n = tanh(unit.load(gate + 2 * units) + r * q);
      unit.store(gate, r);
      unit.store(gate + units, z);
      unit.store(gate + 2 * units, n);
      at.store(kept, q);
      at.store(h, n + z * (at.load(before) - n));
    });
  }
  /// Gradients of a and s; `carry` is that of h from the next step, and becomes what h' gets beside s.
  template <class Backend, class R>
  static void backward(Backend& backend, long rows, int units, const R* a, const R* before, const R*, const R* kept,
                       const R* upstream, R* carry, R*, R* to_a, R* to_s) {
    backend.lines(rows, units, [=](auto at, auto unit, long row) VAELIB_LOOP {
      using T = decltype(at.load(a));
      const long place = row * gates * units;
      const R* const gate = a + place;
      const T r = unit.load(gate), z = unit.load(gate + units), n = unit.load(gate + 2 * units), one(R(1));
      const T g = at.load(upstream) + at.load(carry);
      const T dn = g * (one - z) * (one - n * n), dz = g * (at.load(before) - n) * z * (one - z);
      const T dr = dn * at.load(kept) * r * (one - r);
      for (R* to : {to_a + place, to_s + place}) {
        unit.store(to, dr);
        unit.store(to + units, dz);
      }
      unit.store(to_a + place + 2 * units, dn);
      unit.store(to_s + place + 2 * units, dn * r);
      at.store(carry, g * z);
    });
  }
};

struct LstmCell {
  static constexpr int gates = 4;
  static constexpr int states = 2;  ///< h and c
  static constexpr bool one_gradient = true;

  template <class Backend, class R>
  static void forward(Backend& backend, long rows, int units, R* a, const R* s, const R*, const R* kept_before, R* h, R* kept) {
    backend.lines(rows, units, [=](auto at, auto unit, long row) VAELIB_LOOP {
      R* const gate = a + row * gates * units;
      const R* const from = s + row * gates * units;
      const auto i = sigmoid(unit.load(gate) + unit.load(from));
      const auto f = sigmoid(unit.load(gate + units) + unit.load(from + units));
      const auto g = tanh(unit.load(gate + 2 * units) + unit.load(from + 2 * units));
      const auto o = sigmoid(unit.load(gate + 3 * units) + unit.load(from + 3 * units));
      unit.store(gate, i);
      unit.store(gate + units, f);
      unit.store(gate + 2 * units, g);
      unit.store(gate + 3 * units, o);
      const auto c = f * at.load(kept_before) + i * g;
      at.store(kept, c);
      at.store(h, o * tanh(c));
    });
  }
  template <class Backend, class R>
  static void backward(Backend& backend, long rows, int units, const R* a, const R*, const R* kept_before, const R* kept,
                       const R* upstream, R* carry, R* carry_kept, R* to_a, R*) {
    backend.lines(rows, units, [=](auto at, auto unit, long row) VAELIB_LOOP {
      using T = decltype(at.load(a));
      const R* const gate = a + row * gates * units;
      R* const to = to_a + row * gates * units;
      const T i = unit.load(gate), f = unit.load(gate + units), g = unit.load(gate + 2 * units),
              o = unit.load(gate + 3 * units), one(R(1));
      const T dh = at.load(upstream) + at.load(carry), squashed = tanh(at.load(kept));
      const T dc = at.load(carry_kept) + dh * o * (one - squashed * squashed);
      unit.store(to, dc * g * i * (one - i));
      unit.store(to + units, dc * at.load(kept_before) * f * (one - f));
      unit.store(to + 2 * units, dc * i * (one - g * g));
      unit.store(to + 3 * units, dh * squashed * o * (one - o));
      at.store(carry_kept, dc * f);
      at.store(carry, T(R(0)));
    });
  }
};

}  // namespace vaelib::inline VAELIB_ABI
