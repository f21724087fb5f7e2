// Layers one after another. The shapes are worked out by the compiler; the first layer that does not fit is named with its
// index and the shape it was given. Where extents are dynamic, the same rules are applied when the model is built.
//
//   Sequential<Shape{28, 28, 1}, Conv2d<32, 4, 2, 1>, ReLU, Flatten, Linear<256>>
//   Sequential<Shape{dynamic}, Linear<dynamic>, ReLU>{Shape{pixels}, Linear<dynamic>{hidden}, ReLU{}}
//
// A layer is a value with a shape rule, `Shape output(Shape in) const` and perhaps `bool accepts(Shape in) const`; with
// `build(Shape in)` and `fields(f)` if it has parameters; and with `forward(step, x)`. A plain functor of one number
// (ReLU) is a layer too: it is applied to each element, and where the layer before it allows, in that layer's last pass.
#pragma once

#include <vaelib/autodiff/map.hpp>
#include <vaelib/layers/activations.hpp>

#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A functor of one number: an activation.
template <class L>
concept Elementwise = !requires(const L& layer, Shape in) { layer.output(in); } && requires(const L& f) { f(1.0f); };

template <class L>
constexpr bool accepts_shape(const L& layer, Shape in) {
  if constexpr (requires { layer.accepts(in); }) return layer.accepts(in);
  return true;
}
template <class L>
constexpr Shape output_shape(const L& layer, Shape in) {
  if constexpr (Elementwise<L>) {
    return in;
  } else {
    return layer.output(in);
  }
}

/// Whether a layer takes samples of this shape; an own layer can be tested by static_assert.
template <class L, Shape In>
concept accepts = accepts_shape(L{}, In);

/// What a layer makes of the shape: the static shape of its output.
template <class L, Shape In>
inline constexpr Shape output_of = output_shape(L{}, In);

template <int Index, class Layer, Shape Receives>
struct layer_does_not_accept_shape;  // never defined, so that the compiler prints its arguments

namespace detail {

template <int Index, Shape In>
constexpr Shape chain_output() {
  return In;
}
template <int Index, Shape In, class L, class... Rest>
constexpr Shape chain_output() {
  if constexpr (accepts<L, In>) {
    return chain_output<Index + 1, output_of<L, In>, Rest...>();
  } else {
    return layer_does_not_accept_shape<Index, L, In>::value;
  }
}

/// The layers of a chain, one within the other.
template <int Index, class... Ls>
struct Chain {
  constexpr Chain() = default;
  constexpr void visit(auto&&) {}
  constexpr void visit(auto&&) const {}
  void fields(auto&&) {}
  constexpr Shape output(Shape in, bool&) const { return in; }
  template <class S, class V>
  auto forward(S&, V x) const {
    return x;
  }
};

template <int Index, class L, class... Rest>
struct Chain<Index, L, Rest...> {
  L layer{};
  Chain<Index + 1, Rest...> rest{};

  constexpr Chain() = default;
  constexpr explicit Chain(L l, Rest... others) : layer(l), rest(others...) {}
  /// A shorter chain with one more layer behind.
  template <class... Fewer, class Last>
  constexpr Chain(const Chain<Index, L, Fewer...>& front, const Last& last) : layer(front.layer), rest(front.rest, last) {}
  constexpr Chain(const Chain<Index>&, const L& last) : layer(last) {}

  constexpr void visit(auto&& f) {
    f(Index, layer);
    rest.visit(f);
  }
  constexpr void visit(auto&& f) const {
    f(Index, layer);
    rest.visit(f);
  }
  void fields(auto&& f) { visit(f); }
  /// The shape behind the chain; accepted becomes false where a layer refuses what it is given.
  constexpr Shape output(Shape in, bool& accepted) const {
    visit([&](int, const auto& l) {
      accepted = accepted && accepts_shape(l, in);
      if (accepted) in = output_shape(l, in);
    });
    return in;
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    if constexpr (Elementwise<L>) {
      return rest.forward(step, map(step, layer, x));
    } else if constexpr (fuses<S, V>()) {
      return rest.rest.forward(step, layer.forward(step, x, rest.layer));
    } else {
      return rest.forward(step, layer.forward(step, x));
    }
  }
  template <class S, class V>
  static consteval bool fuses() {
    if constexpr (sizeof...(Rest) > 0) {
      using Next = decltype(Chain<Index + 1, Rest...>::layer);
      if constexpr (Elementwise<Next> && SlopeFromOutput<Next>) return requires(const L& l, S& s, V v, Next f) { l.forward(s, v, f); };
    }
    return false;
  }
};

/// Builds layers one after another, those within layers too, and then tells their parameters in which spatial order the
/// features stand before and behind each layer, so that files can be permuted.
class ChainBuilder final : private LeafVisitor {
 public:
  explicit ChainBuilder(Shape in) { append(in, true); }

  template <class L>
  [[gnu::cold]] void operator()(int index, L& layer) {
    const Shape in = shape();
    if (!accepts_shape(layer, in) || output_shape(layer, in).is_dynamic()) refuse(index, type_name<L>());
    if constexpr (requires { layer.build_by(*this); }) {  // made of layers
      layer.build_by(*this);
    } else {
      if constexpr (requires { layer.build(in); }) layer.build(in);
      if constexpr (HasFields<L>) layer.fields(static_cast<LeafVisitor&>(*this));
      append(output_shape(layer, in), !Elementwise<L> && !requires { L::keeps_features; });
    }
  }

  /// Behind the last layer so far; after set_orders() of flat features the image that they stand for.
  Shape shape() const { return places.back().shape; }

  int last() const { return int(places.size()) - 1; }
  /// The features behind the last layer so far stand in the order of an earlier place, since they are added to it.
  [[gnu::cold]] void tie_to(int earlier) { places.back().tie = earlier; }

  /// Called behind the last layer.
  [[gnu::cold]] void set_orders() {
    for (int sweep = 0; sweep < 2; ++sweep) {  // the second brings to a body what was found behind it
      for (int i = 1; i <= last(); ++i) carry(i, false);
      for (int i = last(); i > 0; --i) carry(i, true);
    }
    for (const auto& [shape, place] : orders) *shape = places[place].shape;
  }

 private:
  struct Place {  // before the first layer, and behind each
    Shape shape;
    bool cut;      // the outputs of the layer are not its inputs in the same order
    int tie = -1;  // to an earlier place of the same order
  };
  struct Order {  // of features, to be told when the shapes of all places are known
    Shape* shape;
    int place;
  };

  [[noreturn, gnu::cold]] void refuse(int index, const std::string& layer) const {
    fail("vaelib: layer ", index, ", ", layer, ", does not accept shape ", text_of(shape()));
  }
  [[gnu::cold]] void append(Shape to, bool cut) { places.push_back({to, cut}); }
  [[gnu::cold]] void tell(Shape& order, int place) { orders.push_back({&order, place}); }
  [[gnu::cold]] void visit(Parameter& leaf) override {
    tell(leaf.in_order, last());
    tell(leaf.out_order, last() + 1);
  }
  [[gnu::cold]] void visit(State& leaf) override {
    if (leaf.order.is_flat()) tell(leaf.order, last() + (leaf.of_inputs ? 0 : 1));
  }
  /// Places that are flat take the spatial shape before or behind them.
  [[gnu::cold]] void carry(int place, bool back) {
    const Place& here = places[place];
    if (!here.cut) carry(place - 1, place, back);
    if (here.tie >= 0) carry(here.tie, place, back);
  }
  [[gnu::cold]] void carry(int from, int to, bool back) {
    if (back) std::swap(from, to);
    if (places[to].shape.is_flat() && places[from].shape.size() == places[to].shape.size()) places[to].shape = places[from].shape;
  }

  std::vector<Place> places;
  std::vector<Order> orders;
};

}  // namespace detail

template <Shape In, class... Layers>
struct Sequential {
  static constexpr Shape takes = In;
  static constexpr Shape makes = detail::chain_output<0, In, Layers...>();
  static constexpr int size = sizeof...(Layers);
  /// The same chain with more layers behind.
  template <class... More>
  using Append = Sequential<In, Layers..., More...>;

  detail::Chain<0, Layers...> layers{};
  Shape input_shape = In, output_shape = makes;
  Shape output_order = makes;  ///< of flat features that were flattened: the image, whose channels come first in files

  constexpr Sequential() = default;
  constexpr explicit Sequential(Shape in) : input_shape(in) {}
  constexpr explicit Sequential(Layers... l)
    requires(sizeof...(Layers) > 0)
      : layers(l...) {}
  constexpr Sequential(Shape in, Layers... l)
    requires(sizeof...(Layers) > 0)
      : layers(l...), input_shape(in) {}

  template <class... Fewer, class Last>
  constexpr Sequential(const Sequential<In, Fewer...>& front, const Last& last) : layers(front.layers, last), input_shape(front.input_shape) {}

  /// Gives every parameter its extents; throws Error where dynamic extents do not fit.
  [[gnu::cold]] void build() { build(input_shape); }
  [[gnu::cold]] void build(Shape in) {
    if (in.is_dynamic()) fail("vaelib: a Sequential with dynamic input needs its shape, found ", text_of(in));
    if (!agree(In, in)) fail("vaelib: a Sequential of shape ", text_of(In), " was given shape ", text_of(in));
    detail::ChainBuilder builder(in);
    build_by(builder);
    builder.set_orders();
    output_order = builder.shape();
  }
  [[gnu::cold]] void build_by(detail::ChainBuilder& builder) {
    input_shape = builder.shape();
    layers.visit(builder);
    output_shape = builder.shape();
  }
  void fields(auto&& f) { layers.visit(f); }

  template <class S, class V>
  auto operator()(S& step, V x) const {
    static_assert(agree(V::static_shape, In), "vaelib: this Sequential takes another shape");
    if (x.shape != input_shape) fail("vaelib: expected samples of shape ", text_of(input_shape), ", found ", text_of(x.shape));
    return layers.forward(step, x);
  }

  // as a layer of another chain
  constexpr bool accepts(Shape in) const { return agree(in, In); }
  constexpr Shape output(Shape in) const {
    bool accepted = true;
    return layers.output(in, accepted);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    return (*this)(step, x);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
