// Optimizers: one functor each, applied in one pass over the flat buffers.
//
//   Sgd     m = momentum m + g;  w -= rate m                                  (as torch.optim.SGD, dampening 0)
//   Adam    m, v = moving averages of g, g^2;  w -= rate m' / (sqrt(v') + epsilon),  m', v' corrected for their start;
//           Kingma & Ba 2015. weight_decay is added to the gradient.
//   AdamW   the same with the weight decay applied to the weights themselves; Loshchilov & Hutter 2019
//
// An own optimizer has learning_rate, weight_decay, `moments` (how many numbers it keeps for each weight), `rates(step)`
// and `update(w, g, m, rates)` for one weight or a vector of them.
#pragma once

#include <vaelib/core/math.hpp>

#include <array>
#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// The numbers of one step, worked out once in double. `step` counts from 1.
struct Rates {
  float learning_rate = 0, weight_decay = 0, first = 0, second = 0;
};

struct Sgd {
  static constexpr int moments = 1;
  float learning_rate = 1e-2f, momentum = 0, weight_decay = 0;

  Rates rates(std::int64_t) const { return {learning_rate, weight_decay}; }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 1>& m, const Rates& r) const {
    g = g + w * r.weight_decay;
    m[0] = m[0] * momentum + g;
    w = w - m[0] * r.learning_rate;
  }
};

struct Adam {
  static constexpr int moments = 2;
  float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0;

  Rates rates(std::int64_t step) const {
    return {learning_rate, weight_decay, float(1 / (1 - std::pow(double(beta1), double(step)))),
            float(1 / std::sqrt(1 - std::pow(double(beta2), double(step))))};
  }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 2>& m, const Rates& r) const {
    g = g + w * r.weight_decay;
    m[0] = m[0] * beta1 + g * (1 - beta1);
    m[1] = m[1] * beta2 + g * g * (1 - beta2);
    w = w - m[0] * (r.learning_rate * r.first) / (sqrt(m[1]) * r.second + epsilon);
  }
};

struct AdamW {
  static constexpr int moments = 2;
  float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 1e-2f;

  Rates rates(std::int64_t step) const { return Adam{learning_rate, beta1, beta2, epsilon, weight_decay}.rates(step); }
  template <class T>
  VAELIB_INLINE void update(T& w, T g, std::array<T, 2>& m, const Rates& r) const {
    w = w - w * (r.learning_rate * r.weight_decay);
    Rates rest = r;
    rest.weight_decay = 0;
    Adam{learning_rate, beta1, beta2, epsilon, 0}.update(w, g, m, rest);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
