// A block of a causal Transformer, normalised first; Vaswani et al. 2017, Radford et al. 2019 (GPT-2).
//
//   x = x + drop(attention(norm(x)))
//   x = x + drop(W_2 gelu(W_1 norm(x) + b_1) + b_2)      W_1: width x hidden, W_2: hidden x width
//
// Takes and gives ragged rows of width features: see layers/causal_attention.hpp.
#pragma once

#include <vaelib/layers/causal_attention.hpp>
#include <vaelib/layers/dropout.hpp>
#include <vaelib/layers/layer_norm.hpp>

namespace vaelib::inline VAELIB_ABI {

template <int Width>
struct TransformerBlock {
  [[no_unique_address]] Extent<Width> width{};
  int heads = 1;
  int hidden = 4 * width;
  Dropout dropout{0};
  CausalSelfAttention<Width> attention{};
  LayerNorm norm1{}, norm2{};
  Linear<dynamic> linear1{};
  Linear<Width> linear2{};

  static constexpr bool keeps_features = true;
  constexpr bool accepts(Shape in) const { return in.is_flat() && agree(in.channels, width); }
  static constexpr Shape output(Shape in) { return in; }

  [[gnu::cold]] void build(Shape in) {
    if (hidden < 1) fail("vaelib: a TransformerBlock of ", hidden, " hidden units, expected at least 1");
    if constexpr (Width == dynamic) attention.width = linear2.out = width;
    attention.heads = heads;
    linear1.out = hidden;
    dropout.build(in);
    norm1.build(in);
    attention.build(in);
    norm2.build(in);
    linear1.build(in);
    linear2.build(Shape{hidden});
  }
  void fields(auto&& f) {
    f("norm1", norm1);
    f("attention", attention);
    f("norm2", norm2);
    f("linear1", linear1);
    f("linear2", linear2);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return apply(step, x, [&](V y) { return attention.forward(step, y); });
  }
  /// The next row of each sequence: see CausalSelfAttention.
  template <class S, class V, class R>
  V next(S& step, V x, const KeysAndValues<R>& memory, long place) const {
    return apply(step, x, [&](V y) { return attention.next(step, y, memory, place); });
  }

 private:
  template <class S, class V>
  V apply(S& step, V x, auto&& attend) const {
    x = add(step, x, dropout.forward(step, attend(norm1.forward(step, x))));
    const auto hidden_units = map(step, GELU{}, linear1.forward(step, norm2.forward(step, x)));
    return add(step, x, dropout.forward(step, linear2.forward(step, hidden_units)));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
