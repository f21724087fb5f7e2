// Models as safetensors files, by the names and layouts of PyTorch: torch.nn modules of the same structure load them by
// load_state_dict, and their files load here.
//
//   Linear            [out, in]                   here in x out
//   Conv2d            [out, in, kh, kw]           here kh x kw x in x out
//   ConvTranspose2d   [in, out, kh, kw]           here kh x kw x out x in
//   LayerNorm of images   [channels, h, w]        here h x w x channels
//   features that were flattened (Flatten, Reshape)   channels first there, channels last here
//   num_batches_tracked                           a 64-bit integer without axes
#pragma once

#include <vaelib/core/buffer.hpp>
#include <vaelib/core/parameter.hpp>
#include <vaelib/io/safetensors.hpp>

#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// Where feature k of a file, channels first, stands in rows of this library, channels last.
inline long feature_here(Shape order, long extent, long k) {
  if (order.is_flat() || order.size() != extent || k >= extent) return k;
  const long pixels = long(order.height) * order.width;
  return k % pixels * order.channels + k / pixels;
}

[[gnu::cold]] inline std::vector<std::int64_t> file_shape(const Parameter& p) {
  const auto& e = p.extents;
  switch (p.layout) {
    case Layout::image: return {e[2], e[0], e[1]};
    case Layout::linear: return {e[1], e[0]};
    case Layout::convolution: return {e[3], e[2], e[0], e[1]};
    case Layout::transposed_convolution: return {e[3], e[2], e[0], e[1]};
    case Layout::features: break;
  }
  std::vector<std::int64_t> same(p.rank);
  for (int axis = 0; axis < p.rank; ++axis) same[axis] = e[axis];
  return same;
}

[[gnu::cold]] inline std::vector<std::int64_t> file_shape(const State& s) {
  if (s.integer) return {};
  if (s.columns > 0) return {s.count / s.columns, s.columns};
  return {s.count};
}

/// f(place in the file, place here) for every number of a parameter.
void for_each_place(const Parameter& p, auto&& f) {
  const auto& e = p.extents;
  long there = 0;
  if (p.layout == Layout::linear) {
    for (long o = 0; o < e[1]; ++o)
      for (long i = 0; i < e[0]; ++i) f(there++, feature_here(p.in_order, e[0] - p.in_beside, i) * e[1] + feature_here(p.out_order, e[1], o));
  } else if (p.layout == Layout::image) {
    for (; there < p.size(); ++there) f(there, feature_here({e[0], e[1], e[2]}, p.size(), there));
  } else if (p.layout == Layout::features) {
    const bool flat = p.rank == 1;
    for (; there < p.size(); ++there) f(there, flat ? feature_here(p.out_order, e[0], there) : there);
  } else {  // both convolutions: the last two axes here come first there, in the other order
    const long taps = long(e[0]) * e[1];
    for (long last = 0; last < e[3]; ++last)
      for (long third = 0; third < e[2]; ++third)
        for (long tap = 0; tap < taps; ++tap) f(there++, (tap * e[2] + third) * e[3] + last);
  }
}

}  // namespace detail

/// Writes parameters and state of a model; the file is replaced whole or not at all.
template <class Weights>
[[gnu::cold]] void save(const std::string& path, const Weights& weights, const Metadata& metadata = {}) {
  Buffer<float> values(weights.values.size()), state(weights.state.size());  // as the file has them
  std::vector<std::int64_t> counters(weights.states.size());
  std::vector<SafetensorsView> tensors;
  for (const auto& [name, p] : weights.parameters) {
    const auto* from = weights.values.data() + p.offset;
    float* to = values.data() + p.offset;
    detail::for_each_place(p, [&](long there, long here) { to[there] = float(from[here]); });
    tensors.push_back({name, Dtype::f32, detail::file_shape(p), to});
  }
  for (const auto& [name, s] : weights.states) {
    const auto* from = weights.state.data() + s.offset;
    if (s.integer) {
      counters[s.id] = std::int64_t(*from);
      tensors.push_back({name, Dtype::i64, {}, &counters[s.id]});
    } else {
      float* to = state.data() + s.offset;
      for (long k = 0; k < s.count; ++k) to[k] = float(from[detail::feature_here(s.order, s.count, k)]);
      tensors.push_back({name, Dtype::f32, detail::file_shape(s), to});
    }
  }
  safetensors_write(path, std::move(tensors), metadata);
}

namespace detail {

/// Reads the tensors that are chosen; `whole`: the file may hold no others.
template <class Weights>
[[gnu::cold]] void load_chosen(const std::string& path, Weights& weights, bool whole, auto&& chosen) {
  const SafetensorsFile file(path);
  std::string missing, unexpected, misshapen;
  const auto check = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    if (!chosen(name)) return;
    const TensorInfo* tensor = file.find(name);
    if (!tensor) {
      missing += text(missing.empty() ? "" : ", ", name);
    } else if (tensor->shape != shape) {
      misshapen += text(misshapen.empty() ? "" : ", ", name, " is ", shape_text(tensor->shape), ", expected ", shape_text(shape));
    }
  };
  for (const auto& [name, p] : weights.parameters) check(name, file_shape(p));
  for (const auto& [name, s] : weights.states) check(name, file_shape(s));
  constexpr std::size_t most_named = 50;
  std::size_t foreign = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!whole) break;
    const auto named = [&](const auto& entry) { return entry.name == tensor.name; };
    if (std::none_of(weights.parameters.begin(), weights.parameters.end(), named) && std::none_of(weights.states.begin(), weights.states.end(), named) && ++foreign <= most_named)
      unexpected += text(unexpected.empty() ? "" : ", ", shown(tensor.name));
  }
  if (foreign > most_named) unexpected += text(" and ", foreign - most_named, " more");
  if (!missing.empty() || !unexpected.empty() || !misshapen.empty())
    fail(path, ": not a file of this model", missing.empty() ? "" : "; missing: " + missing, unexpected.empty() ? "" : "; unexpected: " + unexpected,
         misshapen.empty() ? "" : "; other shape: " + misshapen);

  auto loaded = weights;  // so that a file that cannot be read to its end changes nothing
  std::vector<float> values;
  for (const auto& [name, p] : weights.parameters) {
    if (!chosen(name)) continue;
    values.resize(p.size());
    file.read(name, values);
    auto* to = loaded.values.data() + p.offset;
    for_each_place(p, [&](long there, long here) { to[here] = values[there]; });
  }
  for (const auto& [name, s] : weights.states) {
    if (!chosen(name)) continue;
    values.resize(s.count);
    file.read(name, values);
    for (long k = 0; k < s.count; ++k) loaded.state[s.offset + feature_here(s.order, s.count, k)] = values[k];
  }
  weights = std::move(loaded);
}

}  // namespace detail

/// Reads a model. Missing, unexpected and misshapen tensors are listed in one Error, and then nothing is changed.
template <class Weights>
[[gnu::cold]] void load(const std::string& path, Weights& weights) {
  detail::load_chosen(path, weights, true, [](const std::string&) { return true; });
}

/// Reads a part of a model from the file of another: the tensors whose names begin with one of `prefixes` ("encoder."), all of
/// which must be there and of the same shape; the rest keeps its values. The names of what was read.
template <class Weights>
[[gnu::cold]] std::vector<std::string> load_part(const std::string& path, Weights& weights, const std::vector<std::string>& prefixes) {
  const auto begins = [](const std::string& prefix) { return [&](const auto& entry) { return entry.name.starts_with(prefix); }; };
  for (const auto& prefix : prefixes)
    if (std::none_of(weights.parameters.begin(), weights.parameters.end(), begins(prefix)) &&
        std::none_of(weights.states.begin(), weights.states.end(), begins(prefix)))
      fail(path, ": the model has no tensors whose names begin with '", prefix, "'");
  std::vector<std::string> names;
  const auto chosen = [&](const std::string& name) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& prefix) { return name.starts_with(prefix); });
  };
  for (const auto& entry : weights.parameters)
    if (chosen(entry.name)) names.push_back(entry.name);
  for (const auto& entry : weights.states)
    if (chosen(entry.name)) names.push_back(entry.name);
  detail::load_chosen(path, weights, false, chosen);
  return names;
}

}  // namespace vaelib::inline VAELIB_ABI
