// The numbers of a model. The model itself is only a layout; Weights owns one flat buffer of all its parameters and one of
// its state, and gives every parameter its place in them.
#pragma once

#include <vaelib/autodiff/step.hpp>
#include <vaelib/core/buffer.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A Parameter or a State with its name: "encoder.0.weight".
template <class T>
struct Named {
  std::string name;
  T leaf;
};

/// Gives every leaf of a model its place in the flat buffers.
struct Layouter final : LeafVisitor {
  void visit(Parameter& leaf) override { place(leaf, parameters, values_size); }
  void visit(State& leaf) override { place(leaf, states, state_size); }

  std::vector<Named<Parameter>> parameters;
  std::vector<Named<State>> states;
  long values_size = 0, state_size = 0;

 private:
  template <class T>
  [[gnu::cold]] void place(T& leaf, std::vector<Named<T>>& list, long& size) {
    constexpr long line = 64 / sizeof(float);  // every tensor starts on a cache line
    leaf.offset = size;
    leaf.id = int(list.size());
    size += (leaf.size() + line - 1) / line * line;
    list.push_back({path, leaf});
  }
};

/// What Weights is but for the model.
template <class R>
class WeightBuffers {
 public:
  using Real = R;

  [[gnu::cold]] void initialize(std::uint64_t seed) {
    for (const auto& [name, p] : parameters) draw(p.initial, {seed, 0, std::uint32_t(Stream::initialization), std::uint32_t(p.id)}, p.size(), values.data() + p.offset);
    const auto behind = std::uint32_t(parameters.size());  // so that no state draws the numbers of a parameter
    for (const auto& [name, s] : states) draw(s.initial, {seed, 0, std::uint32_t(Stream::initialization), behind + std::uint32_t(s.id)}, s.size(), state.data() + s.offset);
    discard();
  }

  /// How many numbers are learned.
  long count() const {
    long n = 0;
    for (const auto& [name, p] : parameters) n += p.size();
    return n;
  }

  /// The state that the last step proposed becomes the state.
  void commit() {
    for (const auto& [name, s] : states)
      if (proposals.data()[s.id]) std::copy_n(proposed.data() + s.offset, s.size(), state.data() + s.offset);
    discard();
  }
  void discard() { std::fill_n(proposals.data(), proposals.size(), false); }

  /// For inference: nothing is written.
  Buffers<Real> buffers() const {
    Buffers<Real> b;
    b.values = values.data();
    b.state = state.data();
    b.parameters = int(parameters.size());
    return b;
  }

  std::vector<Named<Parameter>> parameters;
  std::vector<Named<State>> states;
  Buffer<Real> values, state, proposed;
  Buffer<bool> proposals;

 protected:
  [[gnu::cold]] WeightBuffers(Layouter layout, std::uint64_t seed)
      : parameters(std::move(layout.parameters)), states(std::move(layout.states)), values(layout.values_size), state(layout.state_size),
        proposed(layout.state_size), proposals(long(states.size())) {
    initialize(seed);
  }

 private:
  [[gnu::cold]] static void draw(const Initialization& from, const RandomKey& key, long size, Real* to) {
    const auto scale = Real(from.value);
    switch (from.kind) {
      case Initialization::Kind::constant: std::fill_n(to, size, scale); break;
      case Initialization::Kind::uniform:
        detail::fill_random<detail::UniformOfWords, Real>(key, 0, 1, int(size), to);
        for (long i = 0; i < size; ++i) to[i] = (2 * to[i] - 1) * scale;
        break;
      case Initialization::Kind::normal:
        normal(key, 0, 1, int(size), to);
        for (long i = 0; i < size; ++i) to[i] *= scale;
        break;
    }
  }
};

template <class Model, class B>
class Weights : public WeightBuffers<typename B::Real> {
 public:
  /// Builds the model (dynamic extents are checked here) and draws its first values from the seed.
  [[gnu::cold]] explicit Weights(Model m = {}, std::uint64_t seed = 0) : WeightBuffers<typename B::Real>(layout_of(m), seed), model(std::move(m)) {}

  Model model;

 private:
  [[gnu::cold]] static Layouter layout_of(Model& model) {
    if constexpr (requires { model.build(); }) model.build();
    Layouter layout;
    if constexpr (HasFields<Model>) model.fields(layout);
    return layout;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
