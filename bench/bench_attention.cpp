// One attention block, forward and backward, over 64 sets of 50 to 2048 points (ragged): width 64, 4 heads, a hidden
// layer of 64.
//
//   bench_attention [--threads N] [flags of Google Benchmark]        attention_block
//   bench_attention [--threads N] --once SECONDS                     prints the milliseconds of the fastest run
//
// The second form is a contestant of compare_attention.py.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <iostream>
#include <string_view>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/vae.hpp>

#include "fma_peak.hpp"

namespace {

using namespace vaelib;

class AttentionBlock {
 public:
  static constexpr int width = 64, sets = 64;

  explicit AttentionBlock(int threads) : cpu(threads), step(cpu) {
    for (int g = 0; g < sets; ++g) offsets.push_back(offsets.back() + 50 + g * 1998L / 63);
    points.resize(std::size_t(offsets.back()) * width);
    normal(RandomKey{}, 0, offsets.back(), width, points.data());
    gradients = Buffer<float>(weights.values.size());
    written = Buffer<bool>(weights.parameters.size());
    trained = Buffer<bool>(weights.parameters.size());
    std::fill_n(trained.data(), trained.size(), true);
  }
  void run() {
    auto memory = weights.buffers();
    memory.gradients = gradients.data(), memory.written = written.data(), memory.trained = trained.data();
    step.begin(memory, Mode::training, 1, 1, Stream::noise);
    const auto x = step.variable<Shape{width}>(step.ragged(sets, offsets.data()), Shape{width}, true);
    std::copy(points.begin(), points.end(), x.value());
    step.backward(mean_rows(step, sum_features(step, weights.model(step, x))));
  }
  /// Of all products, forward and back, as peers count them.
  double flops() const {
    double pairs = 0;
    for (int g = 0; g < sets; ++g) pairs += double(offsets[g + 1] - offsets[g]) * double(offsets[g + 1] - offsets[g]);
    return 2.0 * (7 * pairs * width + 3.0 * 6 * width * width * double(offsets.back()));
  }
  double peak() { return bench::fma_peak(cpu); }

 private:
  Weights<Sequential<Shape{width}, SAB<width, 4, GELU>>, Cpu> weights;
  Cpu cpu;
  Step<Cpu> step;
  std::vector<long> offsets{0};
  std::vector<float> points;
  Buffer<float> gradients;
  Buffer<bool> written, trained;
};

void attention_block(benchmark::State& state, int threads) {
  AttentionBlock block(threads);
  block.run();
  const double peak = block.peak(), start = bench::seconds();
  for (auto _ : state) block.run();
  const double rate = block.flops() * double(state.iterations()) / (bench::seconds() - start) * 1e-9;
  state.counters["GFLOP/s"] = rate;
  state.counters["percent_of_peak"] = 100 * rate / peak;
}

void once(int threads, double seconds) {
  AttentionBlock block(threads);
  double best = 1e9;
  for (const double start = bench::seconds(); bench::seconds() - start < seconds;) {
    const double before = bench::seconds();
    block.run();
    best = std::min(best, bench::seconds() - before);
  }
  std::cout << best * 1e3 << ' ' << 100 * block.flops() * 1e-9 / best / block.peak() << '\n';
}

}  // namespace

int main(int count, char** arguments) {
  int threads = 0, kept = 1;
  double seconds = 0;
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    if (name == "--threads" && i + 1 < count) {
      threads = std::atoi(arguments[++i]);
    } else if (name == "--once" && i + 1 < count) {
      seconds = std::atof(arguments[++i]);
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  if (seconds > 0) return once(threads, seconds), 0;
  benchmark::Initialize(&kept, arguments);
  if (benchmark::ReportUnrecognizedArguments(kept, arguments)) return 2;
  benchmark::RegisterBenchmark("attention_block", attention_block, threads)->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
