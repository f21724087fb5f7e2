// CausalTransformer: a prior over grids of codes, p(codes) = product of p(code | codes before it in reading order), by
// a Transformer that is given a start token and then each code but the last; Radford et al. 2019, Esser et al. 2021.
//
//   x_t = token(code t - 1) + position(t);   x = blocks(x);   logits = W norm(x) + b
//
// The loss is the negative log-likelihood in nats a sample. Codes are drawn with the keys and values of those before
// kept, so that a position costs what one row of each layer costs.
#pragma once

#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/transformer_block.hpp>
#include <vaelib/layers/word_dropout.hpp>
#include <vaelib/priors/codes.hpp>
#include <vaelib/priors/sampling.hpp>

namespace vaelib::inline VAELIB_ABI {

struct CausalTransformer {
  Shape grid{8, 8, 1};  ///< height x width x 1 codes
  int codes = 512;      ///< how many there are to choose from
  int width = 128, heads = 4, layers = 4;
  float dropout = 0;
  float word_dropout = 0;  ///< share of the codes before that are hidden in training (layers/word_dropout.hpp)

  Embedding<dynamic, dynamic> tokens{}, positions{};  ///< behind the codes the start and, with word dropout, a hidden code
  detail::Stack<TransformerBlock<dynamic>> stack{};
  LayerNorm norm{};
  Linear<dynamic> head{};
  Categorical likelihood{};

  [[gnu::cold]] void build() {
    detail::check_prior(grid, codes);
    if (width < 1 || layers < 1)
      fail("vaelib: a CausalTransformer of ", width, " features and ", layers, " layers, expected at least 1 of each");
    likelihood.largest = float(codes - 1);
    tokens.count = word_dropout == 0 ? codes + 1 : codes + 2;
    drop().build();
    positions.count = grid.size();
    tokens.out = positions.out = width;
    tokens.build();
    positions.build();
    tokens.weight.initial = positions.weight.initial = normal(0.02f);  // as GPT-2's
    const TransformerBlock<dynamic> block{.width = width, .heads = heads, .hidden = 4 * width, .dropout = {dropout}};
    stack.blocks.assign(layers, block);
    for (auto& b : stack.blocks) b.build(Shape{width});
    norm.build(Shape{width});
    head.out = codes;
    head.build(Shape{width});
  }
  void fields(auto&& f) {
    f("tokens", tokens);
    f("positions", positions);
    f("blocks", stack);
    f("norm", norm);
    f("head", head);
  }
  Shape input_shape() const { return grid; }

  /// Mean over the samples of -log p, in nats.
  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const std::int32_t* targets = codes_of(step, batch, grid, codes);
    const auto of_codes = mean_rows(step, likelihood.nll(step, logits(step, batch.space, targets), targets));
    return map_few(step, ScaleBy{float(grid.size())}, of_codes);
  }
  /// Of each code given those before it: height x width rows a sample, of `codes` logits each.
  template <class S>
  auto logits(S& step, const RowSpace* space, const std::int32_t* given) const {
    const long length = grid.size(), all = space->count * length;
    auto* token = step.arena.template allocate<std::int32_t>(2 * all);
    for (long i = 0; i < all; ++i) {
      token[i] = i % length == 0 ? codes : given[i - 1];
      token[all + i] = int(i % length);
    }
    const RowSpace* rows = sequences(step, space->count, length, space->first);
    auto x = add(step, tokens(step, rows, drop()(step, rows, token)), positions(step, rows, token + all));
    for (const auto& block : stack.blocks) x = block.forward(step, x);
    return head.forward(step, norm.forward(step, x));
  }

  /// Draws grids of codes, rows x height x width: choose(position, logits, stride) is given the logits at a position,
  /// those of row r at logits + r * stride, and sets the codes there.
  template <class S>
  void sample(S& step, const RowSpace* space, std::int32_t* drawn, auto&& choose) const {
    const long rows = space->count, length = grid.size();
    auto* memory = step.arena.template allocate<KeysAndValues<typename S::Real>>(layers);
    for (int l = 0; l < layers; ++l) memory[l] = stack.blocks[l].attention.memory(step, rows, length);
    auto* token = step.arena.template allocate<std::int32_t>(2 * rows);
    for (int t = 0; t < length; ++t) {
      const auto before = step.position();
      for (long r = 0; r < rows; ++r) {
        token[r] = t == 0 ? codes : drawn[r * length + t - 1];
        token[rows + r] = t;
      }
      auto x = add(step, tokens(step, space, token), positions(step, space, token + rows));
      for (int l = 0; l < layers; ++l) x = stack.blocks[l].next(step, x, memory[l], t);
      choose(t, head.forward(step, norm.forward(step, x)).value(), long(codes));
      step.forget(before);
    }
  }

 private:
  WordDropout drop() const { return {word_dropout, codes + 1, codes}; }
};

}  // namespace vaelib::inline VAELIB_ABI
