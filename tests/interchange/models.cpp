// Models and what they compute, for other programs to compare with: interchange_models FOLDER [load]
//
// Each model is trained for a few steps and written into FOLDER/<name>/ with the arrays of NumPy that check.py and
// torch_both_ways.py compare; with `load`, its weights are read from there instead, and the arrays are computed anew.
#include <cstdio>
#include <cstring>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/onnx_export.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

inline constexpr Shape images{16, 12, 3};
using Conv =
    Vae<Sequential<images, Conv2d<8, 4, 2, 1>, ReLU, Conv2d<16, 4, 2, 1>, ReLU, Flatten, Linear<32>, ReLU>, Gaussian<8>,
        Sequential<Shape{8}, Linear<32>, ReLU, Linear<192>, ReLU, Reshape<Shape{4, 3, 16}>, ConvTranspose2d<8, 4, 2, 1>,
                   ReLU, ConvTranspose2d<3, 4, 2, 1>>,
        FixedGaussian>;

using BatchNormed = Vae<Sequential<images, Conv2d<8, 4, 2, 1>, BatchNorm, ReLU, Conv2d<16, 4, 2, 1>, Flatten, BatchNorm,
                                   ReLU, Linear<32>, BatchNorm, ReLU>,
                        Gaussian<8>,
                        Sequential<Shape{8}, Linear<192>, BatchNorm, ReLU, Reshape<Shape{4, 3, 16}>,
                                   ConvTranspose2d<8, 3, 2, 1, 1>, BatchNorm, ReLU, ConvTranspose2d<3, 4, 2, 1>>,
                        Bernoulli>;

/// The encoder ends in features that were flattened.
using Conditional =
    ConditionalVae<Sequential<images, Conv2d<8, 4, 2, 1>, ReLU, Flatten>, Gaussian<4>,
                   Sequential<Shape{9}, Linear<192>, ReLU, Reshape<Shape{4, 3, 16}>, ConvTranspose2d<3, 4, 4>>,
                   LearnedLaplace, 3, 5>;

/// Layers within layers, on features that were flattened.
using Nested = Vae<
    Sequential<images, Sequential<images, Conv2d<4, 4, 4>, Flatten>, Residual<LayerNorm, Linear<48>, Tanh, Linear<48>>,
               Linear<32>, ReLU>,
    Gaussian<8>,
    Sequential<Shape{8}, Linear<192>, Residual<Tanh, Linear<192>>, Reshape<Shape{4, 3, 16}>, ConvTranspose2d<3, 4, 4>>,
    Bernoulli>;

/// A layer and an activation of a user's own.
struct Scale {
  Parameter scale{};
  static constexpr Shape output(Shape in) { return in; }
  void build(Shape in) { scale = {{in.channels}, normal(1)}; }
  void fields(auto&& f) { f("scale", scale); }
  auto forward(auto& step, auto x) const { return multiply(step, x, scale); }
};
struct HardTanh {
  constexpr auto operator()(auto x) const { return min(max(x, -1.0f), 1.0f); }
};
OnnxValue export_onnx(OnnxExport& out, const Scale& layer, OnnxValue x) {
  return x.named(out.node("Mul", {x.name, out.channelwise(layer.scale, x)}));
}
OnnxValue export_onnx(OnnxExport& out, const HardTanh&, OnnxValue x) {
  return x.named(out.node("Clip", {x.name, out.constant(-1), out.constant(1)}));
}

using EveryLayer =
    Vae<Sequential<Shape{8, 12, 4}, Conv2d<8, 3, 1, 1>, GroupNorm<2>, SiLU, MaxPool2d<3, 2, 1>,
                   Residual<LayerNorm, ELU, Conv2d<8, 1>, Scale>, Gated, AvgPool2d<3, 1, 1>, GELU, Dropout, Flatten,
                   GroupNorm<4>, Residual<LayerNorm, Linear<96>, Tanh, Linear<96>>, Gated, Linear<32>, LeakyReLU,
                   LayerNorm, Gated>,
        Gaussian<5>,
        Sequential<Shape{5}, Linear<96>, Softplus, Gated, Reshape<Shape{1, 1, 48}>, Scale, ConvTranspose2d<8, 2>,
                   HardTanh, GroupNorm<8>, Flatten, Sequential<Shape{32}, Linear<48>, Sigmoid>, Reshape<Shape{2, 3, 8}>,
                   Upsample<2>, BatchNorm, Flatten, Scale, Reshape<Shape{8, 6, 4}>, Upsample<2, Interpolation::bilinear>,
                   MaxPool2d<2, 2>, Flatten, Linear<384>, Reshape<Shape{8, 12, 4}>>,
        ContinuousBernoulli>;

/// Uniform numbers and three labels.
struct Noise {
  std::int64_t size() const { return 64; }
  Shape sample;
  Shape shape() const { return sample; }
  int classes() const { return 3; }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      detail::fill_random<detail::UniformOfWords, float>(RandomKey{.seed = 9}, rows[i], 1, sample.size(),
                                                         features + long(i) * sample.size());
      labels[i] = std::int32_t(rows[i] % 3);
    }
  }
};

template <class Model>
void write(const std::string& folder, const char* name, bool load_weights, Model model = {}) {
  const std::string place = folder + '/' + name + '/';
  create_directories(place);
  Trainer trainer{std::move(model), Adam{.learning_rate = 1e-2f}, Cpu{1}};
  auto& weights = trainer.weights();
  const Shape shape = weights.model.input_shape();
  const Noise data{shape};
  if (load_weights) {
    load(place + "model.safetensors", weights);
  } else {
    trainer.fit(data, {.epochs = 4, .batch_size = 16});
    save(place + "model.safetensors", weights);
    export_encoder_onnx(place + "encoder.onnx", weights);
    export_decoder_onnx(place + "decoder.onnx", weights);
  }

  constexpr std::int64_t rows = 7;
  const int size = weights.model.latent.size;
  std::vector<std::uint32_t> first(rows);
  for (std::uint32_t i = 0; i < rows; ++i) first[i] = i;
  std::vector<float> x(std::size_t(rows * shape.size())), codes(std::size_t(rows * size)), labels_written;
  std::vector<std::int32_t> labels(rows);
  data.fill(0, first, x.data(), labels.data());
  normal(RandomKey{.seed = 4}, 0, rows, size, codes.data());
  labels_written.assign(labels.begin(), labels.end());

  Session session(weights);
  const auto mean = session.encode(x, labels.data());
  const auto log_variance =
      session.run(rows, shape, x.data(), labels.data(), 0, [](auto& step, const auto& m, const auto& batch) {
        return m.latent.logvar(step, m.encode(step, input<Model::takes>(step, batch), batch));
      });
  const auto output = session.decode(codes, labels.data());
  const std::vector<std::int64_t> of_image{rows, shape.height, shape.width, shape.channels}, of_code{rows, size};
  write_npy(place + "input.npy", of_image, x);
  write_npy(place + "labels.npy", {rows}, labels_written);
  write_npy(place + "mean.npy", of_code, mean);
  write_npy(place + "log_variance.npy", of_code, log_variance);
  write_npy(place + "code.npy", of_code, codes);
  write_npy(place + "output.npy", of_image, output);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::puts("usage: interchange_models FOLDER [load]"), 2;
  const bool load_weights = argc > 2 && std::strcmp(argv[2], "load") == 0;
  write(argv[1], "fc", load_weights, models::fc_vae({28, 28, 1}, 64, 8));
  write<Conv>(argv[1], "conv", load_weights);
  write<BatchNormed>(argv[1], "batch_norm", load_weights);
  write<Conditional>(argv[1], "conditional", load_weights);
  write<Nested>(argv[1], "nested", load_weights);
  write<EveryLayer>(argv[1], "every_layer", load_weights);
}
