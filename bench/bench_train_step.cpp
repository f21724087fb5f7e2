// The time of one training step: forward, backward, Adam.
//
//   bench_train_step [--threads N] [flags of Google Benchmark]      train_step/fc, ... conv28, conv64, vq, set;
//                                                                   the same in bfloat16: train_step_bfloat16/...
//   bench_train_step [--threads N] --worker NAME --weights FILE --inputs FILE      a contestant of compare.py
//
// As a worker it talks as peers/worker.py says, and knows two commands more: `peak` measures the multiply-adds that the
// processor can do, in GFLOP/s, and `core` names the kernels of OpenBLAS, which are not used here.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <vaelib/backend/cpu/bfloat16.hpp>

#include "fma_peak.hpp"
#include "set_workload.hpp"
#include "workloads.hpp"
#ifdef VAELIB_BENCH_OPENBLAS
#include <cblas.h>
#endif

namespace {

using namespace bench;

std::string blas_core() {
#ifdef VAELIB_BENCH_OPENBLAS
  return openblas_get_corename();
#else
  return "none";
#endif
}

struct Options {
  int threads = 0;
  std::string worker, weights, inputs;
};

// ------------------------------------------------------------------------------------------------- Google Benchmark
double peak = 0;  // GFLOP/s of the processor: the best of all measurements counts

template <class Workload>
void train_step(benchmark::State& state, int threads, Precision precision) {
  Training<Workload> training(threads, precision);
  for (int i = 0; i < 3; ++i) training.step();
  Cpu& cpu = training.learner.backend;
  peak = std::max(peak, fma_peak(cpu));
  const double start = seconds();
  for (auto _ : state) benchmark::DoNotOptimize(training.step());
  const double rate = flops<Workload>() * double(state.iterations()) / (seconds() - start) * 1e-9;
  peak = std::max(peak, fma_peak(cpu));
  state.counters["GFLOP/s"] = rate;
  state.counters["FMA_peak"] = peak;
  state.counters["percent_of_peak"] = 100 * rate / peak;
}

template <class Workload>
void add_benchmarks(int threads) {
  for (const Precision* precision : {&single_precision, &bfloat16_precision}) {
    const auto name = text(precision == &bfloat16_precision ? "train_step_bfloat16/" : "train_step/", Workload::name);
    benchmark::RegisterBenchmark(name.c_str(), train_step<Workload>, threads, *precision)
        ->Unit(benchmark::kMillisecond);
  }
}

int run_benchmarks(const Options& options, int count, char** rest) {
  benchmark::Initialize(&count, rest);
  if (benchmark::ReportUnrecognizedArguments(count, rest)) return 2;
  benchmark::AddCustomContext("threads", std::to_string(Cpu(options.threads).threads()));
  benchmark::AddCustomContext("simd_width", std::to_string(simd_width()));
  benchmark::AddCustomContext("openblas_core", blas_core());
  add_benchmarks<Fc>(options.threads);
  add_benchmarks<Conv28>(options.threads);
  add_benchmarks<Conv64>(options.threads);
  add_benchmarks<Vq>(options.threads);
  add_benchmarks<Set>(options.threads);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

// ---------------------------------------------------------------------------------------------------------- a worker
template <class Workload>
class Worker {
 public:
  explicit Worker(const Options& o) : options(o), inputs(o.inputs), timed(o.threads) { give(timed); }

  std::string answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    long count = 0;
    words >> command >> count;
    if (command == "run" && count > 0) return run(count);
    if (command == "loss") return losses();
    if (command == "peak") return number(fma_peak(timed.learner.backend));
    if (command == "core") return blas_core();
    if (command == "about") return text("vaelib ", VAELIB_VERSION, ", ", simd_width(), " floats wide");
    return "unknown command '" + line + "'";
  }

 private:
  static std::string number(double value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", value);
    return digits;
  }
  /// The weights and images that all contestants start from.
  void give(Training<Workload>& fresh) const {
    if constexpr (requires { fresh.learner.weights.model.quantizer; }) {
      load_part(options.weights, fresh.learner.weights, {"encoder.", "quantizer.codebook", "decoder."});
    } else {
      load(options.weights, fresh.learner.weights);
    }
    inputs.read("input", fresh.images);
  }
  std::string run(long count) {
    timed.step();  // caches and threads wake up before the clock runs
    const double start = seconds();
    for (long i = 0; i < count; ++i) timed.step();
    return number((seconds() - start) / double(count));
  }
  std::string losses() const {
    constexpr int steps = 10, noise_of_step = Workload::batch * Workload::latent;
    std::vector<float> noise(steps * noise_of_step);
    if (noise_of_step > 0) inputs.read("noise", noise);
    Training<Workload> fresh(options.threads);
    give(fresh);
    auto& model = fresh.learner.weights.model;
    std::string all;
    for (int i = 0; i < steps; ++i) {
      if constexpr (requires { model.latent; }) {
        model.latent.logvar_limit = 1e6f;  // the peers do not clamp
        model.latent.noise = noise.data() + i * noise_of_step;
      } else if constexpr (requires { model.noise; }) {
        model.noise = noise.data() + i * noise_of_step;
      }
      all += (i ? " " : "") + number(fresh.step());
    }
    return all;
  }

  Options options;
  SafetensorsFile inputs;
  Training<Workload> timed;
};

template <class Workload>
bool serve(const Options& options) {
  if (options.worker != Workload::name) return false;
  Worker<Workload> worker(options);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) std::cout << worker.answer(line) << std::endl;
  return true;
}

int run_worker(const Options& options) {
  if (serve<Fc>(options) || serve<Conv28>(options) || serve<Conv64>(options) || serve<Vq>(options) || serve<Set>(options))
    return 0;
  fail("--worker ", options.worker, ": expected fc, conv28, conv64, vq or set");
}

/// Takes the program's own options out of the arguments; what is left is Google Benchmark's.
Options take_options(int& count, char** arguments) {
  Options options;
  int kept = 1;
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == count) fail(name, " wants a value");
      return arguments[++i];
    };
    if (name == "--threads") {
      const auto number = value();
      options.threads = std::atoi(number.c_str());
      if (options.threads < 1) fail("--threads ", number, ": expected a number from 1 on");
    } else if (name == "--worker") {
      options.worker = value();
    } else if (name == "--weights") {
      options.weights = value();
    } else if (name == "--inputs") {
      options.inputs = value();
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  count = kept;
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const Options options = take_options(count, arguments);
    return options.worker.empty() ? run_benchmarks(options, count, arguments) : run_worker(options);
  } catch (const std::exception& error) {
    std::cerr << "bench_train_step: " << error.what() << '\n';
    return 1;
  }
}
