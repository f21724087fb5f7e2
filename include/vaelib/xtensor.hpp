// xtensor in and out. Opt-in: vae.hpp includes no xtensor.
//
//   xt::xtensor<float, 4> images = ...;                    rows x height x width x channels
//   trainer.fit(data::view(images), {.epochs = 10});       nothing is copied; data/dataset.hpp
//   xt::xtensor<float, 2> mu = to_xtensor(session.encode(span_of(images)), {rows, 16});
#pragma once

#include <vaelib/data/dataset.hpp>

// xtensor 0.26 moved its headers into folders.
#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xtensor.hpp>
#endif

#include <array>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// The numbers of a contiguous, row-major container or view, where they are. Throws Error for a strided view.
template <class Container>
std::span<const float> span_of(const Container& container) {
  data::detail::check_contiguous(container);
  return {data::detail::first_element(container), static_cast<std::size_t>(container.size())};
}

/// Numbers as a container of the given shape; they are copied once.
template <class Real, std::size_t Rank>
xt::xtensor<Real, Rank> to_xtensor(const std::vector<Real>& values, const std::size_t (&shape)[Rank]) {
  std::array<std::size_t, Rank> extents{};
  std::size_t count = 1;
  for (std::size_t i = 0; i < Rank; ++i) count *= extents[i] = shape[i];
  if (count != values.size()) fail("vaelib: ", values.size(), " numbers do not fill a container of ", count);
  xt::xtensor<Real, Rank> result(extents);
  std::copy(values.begin(), values.end(), result.data());
  return result;
}

/// A parameter or state of a model by name, as the numbers lie in memory (Layout of core/parameter.hpp); copied.
template <std::size_t Rank, class Weights>
auto parameter_of(const Weights& weights, std::string_view name) {
  using Real = typename Weights::Real;
  for (const auto& [own, p] : weights.parameters) {
    if (own != name) continue;
    if (p.rank != int(Rank)) fail("vaelib: ", own, " has ", p.rank, " axes, ", Rank, " were asked for");
    std::array<std::size_t, Rank> extents{};
    for (std::size_t i = 0; i < Rank; ++i) extents[i] = std::size_t(p.extents[i]);
    xt::xtensor<Real, Rank> result(extents);
    std::copy_n(weights.values.data() + p.offset, p.size(), result.data());
    return result;
  }
  fail("vaelib: the model has no parameter ", name);
}

}  // namespace vaelib::inline VAELIB_ABI
