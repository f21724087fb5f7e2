// A quantizer that is chosen at run time: one type for the compiler.
#pragma once

#include <vaelib/quantizers/composed.hpp>
#include <vaelib/quantizers/finite_scalar.hpp>
#include <vaelib/quantizers/gumbel_softmax.hpp>
#include <vaelib/quantizers/lookup_free.hpp>
#include <vaelib/quantizers/sim_vq.hpp>
#include <vaelib/quantizers/vector_quantizer.hpp>

namespace vqvae {

struct AnyQuantizer {
  enum class Kind { vq, low_vq, fsq, lfq, sim_vq, gumbel, residual2, residual4, residual8, product2, product4, product8, grouped2, grouped4, grouped8 } kind = Kind::vq;
  using Vq = vaelib::VectorQuantizer<vaelib::dynamic>;
  Vq vq{};
  vaelib::Projected<vaelib::dynamic, Vq> low_vq{};
  vaelib::Projected<vaelib::dynamic, vaelib::FiniteScalar> fsq{};
  vaelib::Projected<vaelib::dynamic, vaelib::LookupFree> lfq{};
  vaelib::SimVq<vaelib::dynamic> sim_vq{};
  vaelib::GumbelSoftmax<vaelib::dynamic> gumbel{};
  vaelib::ResidualQuantizer<2, Vq> residual2{};
  vaelib::ResidualQuantizer<4, Vq> residual4{};
  vaelib::ResidualQuantizer<8, Vq> residual8{};
  vaelib::ProductQuantizer<2, Vq> product2{};
  vaelib::ProductQuantizer<4, Vq> product4{};
  vaelib::ProductQuantizer<8, Vq> product8{};
  vaelib::GroupedQuantizer<2, Vq> grouped2{};
  vaelib::GroupedQuantizer<4, Vq> grouped4{};
  vaelib::GroupedQuantizer<8, Vq> grouped8{};

  template <class Self, class F>
  static decltype(auto) visit(Self& self, F&& f) {
    switch (self.kind) {
      case Kind::vq: break;
      case Kind::low_vq: return f(self.low_vq);
      case Kind::fsq: return f(self.fsq);
      case Kind::lfq: return f(self.lfq);
      case Kind::sim_vq: return f(self.sim_vq);
      case Kind::gumbel: return f(self.gumbel);
      case Kind::residual2: return f(self.residual2);
      case Kind::residual4: return f(self.residual4);
      case Kind::residual8: return f(self.residual8);
      case Kind::product2: return f(self.product2);
      case Kind::product4: return f(self.product4);
      case Kind::product8: return f(self.product8);
      case Kind::grouped2: return f(self.grouped2);
      case Kind::grouped4: return f(self.grouped4);
      case Kind::grouped8: return f(self.grouped8);
    }
    return f(self.vq);
  }

  int code_count() const {
    return visit(*this, [](const auto& q) { return q.code_count(); });
  }
  int per_vector() const {
    return visit(*this, [](const auto& q) { return q.per_vector(); });
  }
  void build(vaelib::Shape in) {
    visit(*this, [&](auto& q) { q.build(in); });
  }
  void fields(auto&& f) {
    visit(*this, [&](auto& q) { q.fields(f); });
  }
  template <class S, class R, vaelib::Shape A>
  auto quantize(S& step, vaelib::Var<R, A> x) const {
    return visit(*this, [&](const auto& q) { return q.quantize(step, x); });
  }
  template <vaelib::Shape A, class S>
  auto lookup(S& step, const vaelib::RowSpace* space, vaelib::Shape shape, const std::int32_t* codes) const {
    return visit(*this, [&](const auto& q) { return q.template lookup<A>(step, space, shape, codes); });
  }
};

}  // namespace vqvae
