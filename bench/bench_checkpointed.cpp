// What it costs to compute the blocks of a deep Set Transformer again in the backward pass, and what it saves: 12 layers of width 64,
// forward and backward, 16 sets of 50 to 500 points; the least of interleaved rounds, at one thread and at two.
//
//   bench_checkpointed [ROUNDS]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/layers/checkpointed.hpp>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/train/weights.hpp>

namespace {

using namespace vaelib;
using Clock = std::chrono::steady_clock;
constexpr int width = 64, layers = 12;
constexpr Shape wide{width};

template <class Layer>
struct Deep {
  std::vector<Checkpointed<Layer>> blocks{};
  explicit Deep(bool again) : blocks(layers, Checkpointed<Layer>{.on = again}) {}
  void build() {
    for (auto& block : blocks) block.build(wide);
  }
  void fields(auto&& f) {
    for (int l = 0; l < layers; ++l) f(text("blocks.", l), blocks[std::size_t(l)]);
  }
};

template <class Layer>
struct Run {
  Weights<Deep<Layer>, Cpu> weights;
  Buffer<float> gradients{weights.values.size()};
  Buffer<bool> written{long(weights.parameters.size())}, trained{long(weights.parameters.size())};
  Cpu cpu;
  Step<Cpu> step{cpu};
  std::vector<long> offsets{0};
  std::vector<float> points;
  double least = 1e9;

  Run(bool again, int threads) : weights(Deep<Layer>{again}), cpu(threads) {
    std::fill_n(trained.data(), trained.size(), true);
    for (int s = 0; s < 16; ++s) offsets.push_back(offsets.back() + 50 + 30 * s);
    points.resize(std::size_t(offsets.back() * width));
    normal(RandomKey{.seed = 2}, 0, offsets.back(), width, points.data());
  }
  void round() {
    auto b = weights.buffers();
    b.gradients = gradients.data();
    b.written = written.data();
    b.trained = trained.data();
    const auto begun = Clock::now();
    step.begin(b, Mode::training, 0, 1, Stream::noise);
    auto x = step.template constant<wide>(step.ragged(16, offsets.data()), wide, points.data());
    for (const auto& block : weights.model.blocks) x = block.forward(step, x);
    step.backward(mean_rows(step, sum_features(step, map(step, Square{}, x))));
    step.end();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - begun).count());
  }
};

template <class Layer>
void compare(const char* name, int threads, int rounds) {
  Run<Layer> plain(false, threads), again(true, threads);
  for (int r = 0; r < rounds; ++r) {
    plain.round();
    again.round();
  }
  const auto mib = [](const auto& run) { return double(run.step.bytes_held()) / (1 << 20); };
  std::printf("%-4s threads %d  %7.1f ms %6.1f MiB   computed again %7.1f ms %6.1f MiB   time x %.2f, memory x %.2f\n", name, threads, 1e3 * plain.least, mib(plain),
              1e3 * again.least, mib(again), again.least / plain.least, mib(again) / mib(plain));
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  for (const int threads : {1, 2}) {
    compare<SAB<width, 4>>("SAB", threads, rounds);
    compare<ISAB<width, 4>>("ISAB", threads, rounds);
  }
}
