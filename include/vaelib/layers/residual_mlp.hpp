// h = norm0(x + a),   y = norm1(h + linear2(f(linear1(h)))): what follows the attention a of a post-norm block, as one
// operation; backend/residual_mlp.hpp. Other norms, and widths that do not fit into it, go layer by layer.
#pragma once

#include <vaelib/backend/residual_mlp.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/linear.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

template <class S, class R, class F>
Node<R>* residual_mlp(S& step, F f, Node<R>* x, Node<R>* a, const LayerNorm& norm0, const auto& linear1,
                      const auto& linear2, const LayerNorm& norm1) {
  const MlpParameters<Parameter> parameters{norm0.weight,   norm0.bias,   linear1.weight, linear1.bias,
                                            linear2.weight, linear2.bias, norm1.weight,   norm1.bias};
  const auto values = [parameters](S& s) {
    const auto& p = parameters;
    return MlpParameters<const R*>{s.value(p.norm0_weight), s.value(p.norm0_bias), s.value(p.weight1),
                                   s.value(p.bias1),        s.value(p.weight2),    s.value(p.bias2),
                                   s.value(p.norm1_weight), s.value(p.norm1_bias)};
  };
  const ResidualMlp m{x->space->count, int(x->features), linear1.weight.extents[1], norm0.epsilon, norm1.epsilon};
  const auto& p = parameters;
  auto* y = step.node(x->space, m.width,
                      step.needs_gradient(x, a, p.norm0_weight, p.norm0_bias, p.weight1, p.bias1, p.weight2, p.bias2,
                                          p.norm1_weight, p.norm1_bias));
  const auto keep = [&](long count) { return step.arena.template allocate<R>(m.rows * count); };
  R *const u = keep(m.hidden), *const s = keep(m.width), *const statistics = keep(4);
  vaelib::residual_mlp(step.backend, m, f, x->value, a->value, values(step), u, s, y->value, statistics,
                       step.scratch(m.parts() * m.room()).data);
  if (y->needs_gradient)
    step.record({y}, [=](S& back) {
      const auto sums = back.scratch(m.parts() * m.sums()), turned = back.scratch(2 * m.weights());
      const auto all = values(back);
      turn<R>(m.width, m.hidden, all.weight1, m.hidden, R(1), turned.data, m.width);
      turn<R>(m.hidden, m.width, all.weight2, m.width, R(1), turned.data + m.weights(), m.hidden);
      const auto to_x = back.target(x), to_a = back.target(a);
      residual_mlp_gradient(back.backend, m, f, x->value, a->value, all, turned.data, u, s, statistics, y->gradient,
                            to_x, to_a, sums.data, back.scratch(m.parts() * m.gradient_room()).data);
      const auto total = back.scratch(m.sums());
      back.backend.sum_rows(m.parts(), m.sums(), sums.data, R(1), {total.data});
      const R* from = total.data;
      for (const Parameter& one :
           {parameters.norm0_weight, parameters.norm0_bias, parameters.weight1, parameters.bias1, parameters.weight2,
            parameters.bias2, parameters.norm1_weight, parameters.norm1_bias}) {
        if (const auto t = back.target(one)) back.backend.copy(one.size(), from, t);
        from += one.size();
      }
    });
  return y;
}

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
