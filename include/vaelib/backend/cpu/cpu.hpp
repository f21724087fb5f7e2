// The processor: packed products and convolutions, vectorised loops, one pool of threads.
#pragma once

#include <memory>
#include <vaelib/backend/cpu/nearest.hpp>
#include <vaelib/backend/cpu/pool.hpp>
#include <vaelib/backend/cpu/precision.hpp>
#include <vaelib/backend/cpu/workspace.hpp>
#include <vaelib/backend/host_codes.hpp>
#include <vaelib/backend/shapes.hpp>
#include <vaelib/core/functors.hpp>

namespace vaelib::inline VAELIB_ABI {

/// Cpu{} uses the threads that affinity and cgroup allow, Cpu{4} four. Not to be used by two threads at a time.
/// Cpu{4, bfloat16_precision} computes products and convolutions in bfloat16: see bfloat16.hpp.
class Cpu : public HostCodes<Cpu, float> {
 public:
  static constexpr const char* name = "cpu";

  explicit Cpu(int threads = 0, Precision products = single_precision)
      : machine(std::make_unique<Machine>(threads)), precision(products) {}
  int threads() const { return machine->pool.threads(); }

  void parallel(long tasks, auto&& f) { machine->pool.run(tasks, f); }
  /// body(lanes, task) for each task, where `lanes` tells the vectors of the processor: see core/vectorize.hpp.
  template <class Body>
  void parallel_lanes(long tasks, const Body& body) {
    parallel(tasks, [&body, run = vectorized<const Body, long>()](long task) { run(body, task); });
  }

  /// C = f(A B + bias), or C += A B. C is m x n without gaps, A m x k, B k x n.
  template <class F = Identity>
  void product(long m, int n, long k, MatrixView<float> a, MatrixView<float> b, float* c, bool add,
               const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.product(machine->pool, machine->workspace, m, n, k, a, b, c, n, add, epilogue.finish());
  }
  template <class F = Identity>
  void convolution(const ConvolutionShape& s, long images, const float* x, const float* weight, float* y, bool add,
                   const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.convolution(machine->pool, machine->workspace, s, images, x, weight, y, add, epilogue.finish());
  }
  template <class F = Identity>
  void convolution_adjoint(const ConvolutionShape& s, long images, const float* y, const float* weight, float* x,
                           bool add, const float* bias = nullptr, F f = {}) {
    const Epilogue<F> epilogue{bias, f};
    precision.convolution_adjoint(machine->pool, machine->workspace, s, images, y, weight, x, add, epilogue.finish());
  }
  void convolution_weight_gradient(const ConvolutionShape& s, long images, const float* x, const float* y,
                                   float* weight, bool add) {
    precision.convolution_weight_gradient(machine->pool, machine->workspace, s, images, x, y, weight, add);
  }
  /// The nearest of `count` codes to each row of x, the lowest where several are as near: backend/cpu/nearest.hpp.
  void nearest_codes(long rows, int count, int width, const float* x, const float* codes, std::int32_t* index) {
    cpu::nearest_codes(machine->pool, machine->workspace, rows, count, width, x, codes, index);
  }

 private:
  struct Machine {
    explicit Machine(int threads) : pool(threads) {}
    cpu::Pool pool;
    cpu::Workspace workspace;
  };

  /// Bias and activation, applied to each block of a product while it is in the cache.
  template <class F>
  struct Epilogue {
    const float* bias;
    F f;

    cpu::Finish finish() const {
      if (!bias && std::is_same_v<F, Identity>) return {};
      return {[](const void* context, float* c, long ldc, int rows, int columns, long, int first) {
                static_cast<const Epilogue*>(context)->apply(c, ldc, rows, columns, first);
              },
              this};
    }
    void apply(float* c, long ldc, int rows, int columns, int first) const {
      constexpr int widest = 16;
      const float* biases = bias ? bias + first : nullptr;
      if (columns >= widest || ldc != columns) return apply(c, ldc, rows, columns, biases);
      float repeated[widest * widest];  // images of few channels: the pixels lie side by side, the bias repeats
      const int period = columns * widest;
      for (int i = 0; i < period; ++i) repeated[i] = biases ? biases[i % columns] : 0.0f;
      const long count = long(rows) * columns, whole = count / period;
      apply(c, period, whole, period, repeated);
      apply(c + whole * period, period, 1, int(count % period), repeated);
    }
    void apply(float* c, long ldc, long rows, int columns, const float* biases) const {
      const auto body = [&](auto lanes) VAELIB_LOOP {
        using T = typename decltype(lanes)::type;
        for (int j = 0; j < columns; j += lanes.width) {
          const T b = biases ? load<T>(biases + j, columns - j) : T(0);
          for (long r = 0; r < rows; ++r) {
            float* place = c + r * ldc + j;
            store<T>(place, f(load<T>(place, columns - j) + b), columns - j);
          }
        }
      };
      if constexpr (std::is_same_v<F, Identity>) {
        body(BaseLanes{});
      } else {
        vectorize(body);
      }
    }
  };

  std::unique_ptr<Machine> machine;
  Precision precision;
};

}  // namespace vaelib::inline VAELIB_ABI
