// What report/collapse.hpp needs of a SetVae: its codes, level by level.
#pragma once

#include <vaelib/models/set_vae.hpp>
#include <vaelib/report/collapse.hpp>
#include <vaelib/train/batch_reader.hpp>

namespace vaelib::inline VAELIB_ABI {

/// Looks at up to `count` sets of a data set. The codes are those of u, which has the prior N(0, 1) on every level.
template <class B>
CollapseEvidence examine(const Weights<SetVae, B>& weights, const SourceView& data, std::int64_t count = 1000, std::uint64_t seed = 0) {
  count = std::min(count, data.size());
  if (count < 2) fail("vaelib: a posterior is judged by at least 2 samples, found ", count);
  if (!data.sets()) fail("vaelib: a SetVae takes sets, the data has rows of one length");
  if (data.shape() != weights.model.input_shape()) fail("vaelib: the model takes points of ", text_of(weights.model.input_shape()), " numbers, the data have ", text_of(data.shape()));
  const std::size_t levels = weights.model.levels.size();
  CollapseEvidence evidence;
  for (std::size_t l = 0; l < levels; ++l) {
    evidence.levels.emplace_back();
    evidence.levels.back().name = std::to_string(l + 1);
    evidence.levels.back().size = std::size_t(weights.model.code_size(l));
  }
  Session<SetVae, B> session(weights);
  double own = 0, other = 0;
  for (std::int64_t first = 0; first < count;) {
    std::int64_t rows = std::min<std::int64_t>(64, count - first);
    if (count - first - rows == 1) --rows;
    std::vector<std::uint32_t> numbers(static_cast<std::size_t>(rows));
    std::iota(numbers.begin(), numbers.end(), std::uint32_t(first));
    BatchReader reader(data);
    reader.read(0, numbers);
    using R = typename B::Real;
    const std::vector<R> points(reader.features(), reader.features() + reader.offsets()[rows] * data.shape().size());
    session.run(long(rows), data.shape(), points.data(), nullptr, seed + std::uint64_t(first), [&](auto& step, const SetVae& m, auto batch) {
      batch.offsets = reader.offsets();
      const auto x = points_of<SetVae::any>(step, batch);
      auto* codes = step.arena.template allocate<Var<R, SetVae::any>>(levels);
      const auto error = [&](auto y) {
        const auto distances = chamfer(step, y, x, PerSet::sum, batch.space);
        double sum = 0;
        for (long s = 0; s < long(rows); ++s) sum += double(distances.value()[s]);
        return sum * double(m.options.weight);
      };
      const auto y = m.reconstruct(step, x, batch.space, [&](std::size_t l, const auto& q, auto u) {
        const auto logvar = m.latent.logvar(step, q);
        auto& level = evidence.levels[l];
        level.means.insert(level.means.end(), q.mu.value(), q.mu.value() + q.mu.size());
        level.log_variances.insert(level.log_variances.end(), logvar.value(), logvar.value() + logvar.size());
        codes[l] = step.template variable<SetVae::any>(batch.space, u.shape, false);
        for (long r = 0; r < long(rows); ++r) std::copy_n(u.value() + (r + 1) % rows * u.features(), u.features(), codes[l].value() + r * u.features());
      });
      own += error(y);
      other += error(m.generate(step, x.space(), batch.space, [&](std::size_t l, auto, const RowSpace*) { return codes[l]; }));
      return y;
    });
    if (data.classes() > 1) evidence.labels.insert(evidence.labels.end(), reader.labels(), reader.labels() + rows);
    first += rows;
  }
  evidence.reconstruction = own / double(count);
  evidence.other_code = other / double(count);
  return evidence;
}

}  // namespace vaelib::inline VAELIB_ABI
