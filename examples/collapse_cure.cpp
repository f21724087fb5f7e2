// A posterior that collapses, and its cure: the same data and encoder, once with a strong decoder and a constant beta of 1, once
// with one that sees less and is told z in every layer, free bits and a cyclical beta. Writes a report on each.
//
//   collapse_cure [FOLDER [EPOCHS [SEED]]]        Fashion-MNIST, halved to 14 x 14 and cut to black and white
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vaelib/models/pixel_vae.hpp>
#include <vaelib/models/collapse_control.hpp>
#include <vaelib/report/collapse.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

constexpr Shape image{14, 14, 1};

/// Images of 28 x 28: a pixel is white where four of them are bright on average.
struct BlackAndWhite {
  const data::Dataset& images;
  std::int64_t count;

  std::int64_t size() const { return std::min(count, images.size()); }
  Shape shape() const { return image; }
  int classes() const { return images.classes(); }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* out, std::int32_t* labels) const {
    std::vector<float> whole(rows.size() * 784);
    images.fill(epoch, rows, whole.data(), labels);
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (std::size_t p = 0; p < 196; ++p) {
        const float* corner = &whole[r * 784 + p / 14 * 56 + p % 14 * 2];
        *out++ = corner[0] + corner[1] + corner[28] + corner[29] > 2 ? 1.0f : 0.0f;
      }
  }
};

using Encoder = Sequential<image, Conv2d<32, 4, 2, 1>, ReLU, Flatten, Linear<128>, ReLU>;
constexpr int code = 12;
using Decoder = Sequential<Shape{code}, Linear<128>, ReLU, Linear<7 * 7 * 32>, ReLU, Reshape<Shape{7, 7, 32}>, ConvTranspose2d<32, 4, 2, 1>>;
using Model = PixelVae<Encoder, Gaussian<code>, Decoder, Bernoulli, PixelStack<5>, CollapseControl>;

constexpr std::int64_t batch = 64;
std::int64_t steps_of(const BlackAndWhite& data, std::int64_t epochs) { return epochs * ((data.size() + batch - 1) / batch); }

void train(const char* name, const Model& model, const Schedule& beta, std::int64_t epochs, std::uint64_t seed, const BlackAndWhite& data,
           const BlackAndWhite& test, const std::string& folder) {
  Trainer trainer{model, Adam{.learning_rate = 4e-3f}, Cpu{}, seed};
  const auto history = trainer.fit(data, {.epochs = epochs, .batch_size = batch, .validation = test, .beta = beta,
                                          .learning_rate = anneal::Linear{.begin = 1, .end = 0.1f, .steps = steps_of(data, epochs)}, .progress = ProgressStyle::automatic});
  const auto found = CollapseDiagnostics{folder + '/' + name}.report(trainer, test, history);
  const auto& u = found.all.use;
  std::printf("%-10s collapse_ratio %.3f  latent_utilization_ratio %.3f  KL %.3f nats a dimension  use of the code %.2f nats  test -ELBO %.2f\n", name,
              u.collapse_ratio, u.latent_utilization_ratio, u.avg_kl, found.all.decoder_use, history.back().val_recon + history.back().val_kl);
  for (const auto& advice : found.advice) std::printf("  %s: %s\n", advice.rule.c_str(), advice.sentence.c_str());
  std::printf("  %s/%s/report.html\n", folder.c_str(), name);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string folder = argc > 1 ? argv[1] : "runs/collapse";
    const std::int64_t epochs = argc > 2 ? std::max(1L, std::atol(argv[2])) : 4;
    const std::uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
    const auto images = data::fashion_mnist();
    const BlackAndWhite train_images{images.train, 10'000}, test_images{images.test, 2'000};

    Model model;
    model.stack.layers = 6;  // each pixel sees nearly all of those before it
    model.stack.skips = false;
    train("collapsed", model, 1.0f, epochs, seed, train_images, test_images, folder);

    model.stack.layers = 5;
    model.stack.skips = true;
    model.elbo.free_bits = 0.13f;  // a little above what counts as collapsed, 0.1
    train("cured", model, Cyclical{.period = std::max<std::int64_t>(1, steps_of(train_images, epochs) / 2)}, epochs, seed, train_images, test_images, folder);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "collapse_cure: %s\n", error.what());
    return 1;
  }
}
