// What a layer learns (Parameter) and what it merely keeps (State: running statistics, codebooks). Both only describe:
// extents, first values, layout in a file, and the place in the flat buffers of Weights, which own the numbers.
#pragma once

#include <vaelib/core/shape.hpp>

#include <array>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {

/// How the first values are drawn.
struct Initialization {
  enum class Kind { constant, uniform, normal } kind = Kind::constant;
  float value = 0;  ///< the constant, the bound of U(-value, value), or the standard deviation of N(0, value^2)
};
constexpr Initialization constant(float value) { return {Initialization::Kind::constant, value}; }
constexpr Initialization uniform(float bound) { return {Initialization::Kind::uniform, bound}; }
constexpr Initialization normal(float deviation) { return {Initialization::Kind::normal, deviation}; }

/// The usual choices for a weight. `torch` is what PyTorch's layers do: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)).
enum class Initializer { torch, xavier_uniform, xavier_normal, kaiming_uniform, kaiming_normal, zeros };

/// Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming, gain of ReLU); fans count inputs and outputs of one unit.
[[gnu::cold]] inline Initialization initialize(Initializer choice, long fan_in, long fan_out) {
  const float in = fan_in > 0 ? float(fan_in) : 1.0f, sum = fan_in + fan_out > 0 ? float(fan_in + fan_out) : 1.0f;
  switch (choice) {
    case Initializer::torch: return uniform(1 / std::sqrt(in));
    case Initializer::xavier_uniform: return uniform(std::sqrt(6 / sum));
    case Initializer::xavier_normal: return normal(std::sqrt(2 / sum));
    case Initializer::kaiming_uniform: return uniform(std::sqrt(6 / in));
    case Initializer::kaiming_normal: return normal(std::sqrt(2 / in));
    case Initializer::zeros: return constant(0);
  }
  return constant(0);
}

/// Where the axes of a parameter stand in a file of PyTorch's layout.
enum class Layout {
  features,               ///< one number a feature, or any axes in the same order: saved as it is
  image,                  ///< height x width x channels here, channels x height x width there
  linear,                 ///< in x out here, out x in there
  convolution,            ///< kernel height x kernel width x in x out here, out x in x kernel height x kernel width there
  transposed_convolution  ///< kernel height x kernel width x out x in here, in x out x kernel height x kernel width there
};

struct Parameter {
  std::array<int, 4> extents{};
  int rank = 0;
  Initialization initial{};
  Layout layout = Layout::features;
  /// PyTorch flattens channels first, rows here are channels last: the spatial shapes that were flattened into (or are
  /// taken out of) the features of this parameter, so that files can be permuted. Flat shapes permute nothing.
  Shape in_order{1}, out_order{1};
  int in_beside = 0;  ///< how many of the inputs stand behind those of in_order (the features of a label)
  long offset = -1;  ///< of the first value in the flat buffers; given by Weights
  int id = -1;       ///< position among the parameters of the model

  constexpr Parameter() = default;
  constexpr Parameter(std::initializer_list<int> e, Initialization i, Layout l = Layout::features) : initial(i), layout(l) {
    for (int extent : e) extents[rank++] = extent;
  }
  constexpr long size() const {
    long n = 1;
    for (int a = 0; a < rank; ++a) n *= extents[a];
    return n;
  }
};

struct State {
  int count = 0;
  Initialization initial{};
  bool integer = false;  ///< a counter: saved as one 64-bit integer without axes
  int columns = 0;       ///< saved as a table of so many columns; 0: as one row of numbers
  Shape order{1};        ///< of features that were flattened, as Parameter has it
  bool of_inputs = false;  ///< one number an input of its layer rather than an output
  long offset = -1;
  int id = -1;

  constexpr State() = default;
  constexpr State(int n, float first, bool is_integer = false) : count(n), initial(constant(first)), integer(is_integer) {}
  constexpr long size() const { return count; }
};

class LeafVisitor;

/// Anything made of named members: `void fields(auto&& f) { f("weight", weight); f("bias", bias); }`.
template <class T>
concept HasFields = requires(T& object, LeafVisitor& f) { object.fields(f); };

/// Goes through every Parameter and State below an object, in the order of its fields: `object.fields(visitor)`.
class LeafVisitor {
 public:
  virtual void visit(Parameter&) {}
  virtual void visit(State&) {}

  template <class Member>
  void operator()(std::string_view name, Member& member) {
    const std::size_t outside = enter(name);
    if constexpr (std::is_same_v<Member, Parameter> || std::is_same_v<Member, State>) {
      visit(member);
    } else if constexpr (HasFields<Member>) {
      member.fields(*this);
    }
    path.resize(outside);
  }
  template <class Member>
  void operator()(int index, Member& member) {
    if constexpr (HasFields<Member>) (*this)(text(index), member);
  }

 protected:
  ~LeafVisitor() = default;
  std::string path;  ///< of the leaf that is visited: "encoder.0.weight"

 private:
  /// Gives the length of the path outside.
  [[gnu::cold]] std::size_t enter(std::string_view name) {
    const std::size_t outside = path.size();
    if (outside > 0) path += '.';
    path += name;
    return outside;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
