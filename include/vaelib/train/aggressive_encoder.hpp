// Aggressive training of the encoder; He et al. 2019, "Lagging inference networks and posterior collapse in variational
// autoencoders", algorithm 1.
//
// Before each step of the whole model the encoder alone learns from other batches, until the objective, in means over `window`
// updates, falls no more. This goes on from epoch to epoch while the mutual information of data and code grows.
#pragma once

#include <vaelib/core/error.hpp>

#include <memory>
#include <string>

namespace vaelib::inline VAELIB_ABI {

/// A function object that gives a number, which must outlive the view.
class Measure {
 public:
  Measure() = default;
  template <class F>
    requires requires(const F& f) { double(f()); }
  Measure(const F& f) : object(std::addressof(f)), call([](const void* o) { return double((*static_cast<const F*>(o))()); }) {}
  explicit operator bool() const { return call != nullptr; }
  double operator()() const { return call(object); }

 private:
  const void* object = nullptr;
  double (*call)(const void*) = nullptr;
};

struct AggressiveEncoder {
  Measure information{};             ///< nats; asked after each epoch: where it has not grown, the encoder gets no more updates of its own
  std::string encoder = "encoder.";  ///< with which the names of its parameters begin
  int window = 10;
  int most = 100;                    ///< updates a step

  [[gnu::cold]] void check() const {
    if (!information) fail("vaelib: AggressiveEncoder::information is missing; it says how long the encoder gets updates of its own");
    if (window < 1 || most < 1) fail("vaelib: AggressiveEncoder wants a window and updates of at least 1, found ", window, " and ", most);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
