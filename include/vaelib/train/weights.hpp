// The numbers of a model. The model itself is only a layout; Weights owns one flat buffer of all its parameters and one of
// its state, and gives every parameter its place in them.
#pragma once

#include <vaelib/autodiff/step.hpp>
#include <vaelib/core/buffer.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

template <class Model, class B>
class Weights {
 public:
  using Real = typename B::Real;
  template <class T>
  struct Named {
    std::string name;
    T leaf;
  };

  /// Builds the model (dynamic extents are checked here) and draws its first values from the seed.
  explicit Weights(Model m = {}, std::uint64_t seed = 0) : model(std::move(m)) {
    if constexpr (requires { model.build(); }) model.build();
    long values_size = 0, state_size = 0;
    for_each_leaf(model, [&](const std::string& name, auto& leaf) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(leaf)>, Parameter>) {
        place(leaf, parameters, values_size, name);
      } else {
        place(leaf, states, state_size, name);
      }
    });
    values.resize(values_size);
    state.resize(state_size);
    proposed.resize(state_size);
    proposals.resize(states.size());
    initialize(seed);
  }

  void initialize(std::uint64_t seed) {
    for (const auto& [name, p] : parameters) {
      const RandomKey key{seed, 0, std::uint32_t(Stream::initialization), std::uint32_t(p.id)};
      Real* to = values.data() + p.offset;
      const auto scale = Real(p.initial.value);
      switch (p.initial.kind) {
        case Initialization::Kind::constant: std::fill_n(to, p.size(), scale); break;
        case Initialization::Kind::uniform:
          uniform(key, 0, 1, int(p.size()), to);
          for (long i = 0; i < p.size(); ++i) to[i] = (2 * to[i] - 1) * scale;
          break;
        case Initialization::Kind::normal:
          normal(key, 0, 1, int(p.size()), to);
          for (long i = 0; i < p.size(); ++i) to[i] *= scale;
          break;
      }
    }
    for (const auto& [name, s] : states) std::fill_n(state.data() + s.offset, s.size(), Real(s.initial));
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

  Model model;
  std::vector<Named<Parameter>> parameters;
  std::vector<Named<State>> states;
  Buffer<Real> values, state, proposed;
  Buffer<bool> proposals;

 private:
  template <class T>
  static void place(T& leaf, std::vector<Named<T>>& list, long& size, const std::string& name) {
    constexpr long line = 64 / sizeof(float);  // every tensor starts on a cache line
    leaf.offset = size;
    leaf.id = int(list.size());
    size += (leaf.size() + line - 1) / line * line;
    list.push_back({name, leaf});
  }
};

}  // namespace vaelib::inline VAELIB_ABI
