// A small classifier whose features serve as a perceptual network (models/perceptual.hpp) where no pretrained one is at
// hand.
//
//   features    for each width two 3x3 convolutions with ReLUs; between widths a 2x2 MaxPool2d, as in a VGG
//   head        Linear, one logit a class
//   loss        -log p(class), mean over samples, nats
//
// It learns labels, or, where the data has none, by how many quarters of a turn an image was rotated: each image is
// shown in all four ways; Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations".
// (Images without an up and a down, such as textures, teach it little.) Its numbers are named as those of a VGG of
// torchvision, so its files are read as theirs.
//
//   Trainer trainer{FeatureClassifier<Shape{28, 28, 1}, Labels<10>, 16, 32>{}};
//   trainer.fit(train, {.epochs = 2});
//   model.perceptual = Perceptual(features_of(trainer.weights()));
#pragma once

#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/pooling.hpp>
#include <vaelib/likelihoods/categorical.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/models/perceptual.hpp>

#include <cstdlib>

namespace vaelib::inline VAELIB_ABI {

template <int Classes>
struct Labels {
  static constexpr int classes = Classes;
};
template <>
struct Labels<dynamic> {
  static constexpr int classes = dynamic;
  int count = 0;  ///< labels are 0 to count - 1
};
struct Rotations {
  static constexpr int classes = 4;
};

namespace detail {

template <class Chain, int... Widths>
struct FeatureStages {
  using type = Chain;
};
template <class Chain, int Width, int... Rest>
struct FeatureStages<Chain, Width, Rest...> {
  using Stage = typename Chain::template Append<Conv2d<Width, 3, 1, 1>, ReLU, Conv2d<Width, 3, 1, 1>, ReLU>;
  using type = typename FeatureStages<typename Stage::template Append<MaxPool2d<2>>, Rest...>::type;
};
template <class Chain, int Width>
struct FeatureStages<Chain, Width> {
  using type = typename Chain::template Append<Conv2d<Width, 3, 1, 1>, ReLU, Conv2d<Width, 3, 1, 1>, ReLU>;
};

struct ToBothSides {
  VAELIB_HD constexpr auto operator()(auto x) const { return 2.0f * x - 1.0f; }
};

/// An image of size x size pixels by `quarters` quarters of a turn.
template <class Real>
void rotate(int size, int channels, int quarters, const Real* from, Real* to) {
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) {
      int row = i, column = j;
      for (int q = 0; q < quarters; ++q) row = std::exchange(column, size - 1 - row);
      std::copy_n(from + (row * size + column) * channels, channels, to + (i * size + j) * channels);
    }
}

}  // namespace detail

template <Shape In, class Task, int... Widths>
struct FeatureClassifier {
  static_assert(sizeof...(Widths) > 0, "vaelib: a classifier has at least one stage");
  static constexpr int classes = Task::classes;
  static constexpr Shape takes = In;
  using Features = typename detail::FeatureStages<Sequential<In>, Widths...>::type;
  using Head = Sequential<Features::makes, Flatten, Linear<classes>>;
  [[no_unique_address]] Task task{};
  Features features{};
  Head head{};
  State shift{}, scale{};  ///< images are used from -1 to 1: for the readers of files

  [[gnu::cold]] void build() {
    features.build();
    if constexpr (classes == dynamic) head = Head(Flatten{}, Linear<dynamic>{{task.count}});
    head.build(features.output_shape);
    shift = {features.input_shape.channels, 0};
    scale = {features.input_shape.channels, 1};
    if (std::is_same_v<Task, Rotations> && features.input_shape.height != features.input_shape.width)
      fail("vaelib: rotated images must be square, found shape ", text_of(features.input_shape));
  }
  void fields(auto&& f) {
    f("features", features);
    f("head", head);
    f("scaling_layer.shift", shift);
    f("scaling_layer.scale", scale);
  }
  Shape input_shape() const { return features.input_shape; }

  template <class S, class V>
  auto logits(S& step, V x) const {
    return head(step, features(step, map(step, detail::ToBothSides{}, x)));
  }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    if constexpr (std::is_same_v<Task, Rotations>) {
      using R = typename S::Real;
      const Shape image = features.input_shape;
      R* turned = step.arena.template allocate<R>(4 * batch.count * image.size());
      auto* quarters = step.arena.template allocate<std::int32_t>(4 * batch.count);
      for (long r = 0; r < 4 * batch.count; ++r) {
        quarters[r] = std::int32_t(r % 4);
        detail::rotate(image.height, image.channels, quarters[r], batch.features + r / 4 * image.size(),
                       turned + r * image.size());
      }
      const auto x = step.template constant<In>(step.rows(4 * batch.count, 4 * batch.first), image, turned);
      return mean_rows(step, categorical_nll(step, logits(step, x), quarters));
    } else {
      return mean_rows(step, categorical_nll(step, logits(step, input<In>(step, batch)), labels_of(batch)));
    }
  }
};

/// The convolutions of a classifier as a perceptual network of which all channels count the same.
template <class W>
[[gnu::cold]] FeatureNetwork features_of(const W& weights) {
  std::vector<detail::NumberedConvolution> convolutions;
  const std::string prefix = "features.";
  for (const auto& [name, p] : weights.parameters) {
    if (!name.starts_with(prefix)) continue;
    const auto* from = weights.values.data() + p.offset;
    auto& to = p.rank == 4 ? convolutions.emplace_back().layer.weight : convolutions.back().layer.bias;
    to.resize(p.size());
    std::copy_n(from, p.size(), to.data());
    if (p.rank != 4) continue;
    convolutions.back().number = std::atol(name.c_str() + prefix.size());
    convolutions.back().layer.in = p.extents[2];
    convolutions.back().layer.out = p.extents[3];
  }
  return detail::network_of(std::move(convolutions), {}, "vaelib: the classifier");
}

}  // namespace vaelib::inline VAELIB_ABI
