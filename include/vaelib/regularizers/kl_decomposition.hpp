// The three parts of KL(q(z|x) || p(z)) from one batch, so that each may have a weight of its own: the beta-TCVAE, Chen et al.
// 2018, "Isolating sources of disentanglement in variational autoencoders".
//
//   I   = mean_i [log q(z_i|x_i) - log q(z_i)]                  index-code mutual information
//   TC  = mean_i [log q(z_i) - sum_d log q(z_id)]               total correlation
//   DW  = mean_i [sum_d log q(z_id) - log p(z_i)]               dimension-wise KL divergence
//
//   q(z_i) = sum_j w_ij q(z_i|x_j)     q(z_id) = sum_j w_ij q(z_id|x_j)     w_ii = 1/N     w_ij = (N - 1) / (N (B - 1))
//
// for a batch of B samples of a data set of N. The weights are those of the stratified estimate (appendix C.1): the own sample
// counts as one of the N, the others stand for the rest; each row of w adds up to 1. The paper's weights single out one of
// the others; taken alike they have the same mean and less variance. Usual implementations put 1/N into the wrong column.
//
// log q(z) is biased by the logarithm, and I is at most log N. One batch couples its samples here: parts of a batch
// (micro-batches) see themselves only.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/core/math.hpp>

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// log q(z_d|x_j) for all j, as a function of z: one dimension of a batch, its numbers side by side.
template <class R>
struct Densities {
  const R *mean, *precision, *normaliser;  // of the B samples
  VAELIB_INLINE R log_density(long j, R z) const {
    const R gap = z - mean[j];
    return normaliser[j] - R(0.5) * gap * gap * precision[j];
  }
};

/// The dimensions of rows x size numbers one after another: to[d * rows + i].
template <class S, class R>
void transpose_rows(S& step, long rows, long size, const R* from, R* to) {
  step.backend.parallel(size, [=](long d) {
    for (long i = 0; i < rows; ++i) to[d * rows + i] = from[i * size + d];
  });
}

/// log sum_j w_ij exp(x_j), where the weight is `own` for j = i and `other` else, by their logarithms.
template <class R>
R weighted_log_sum(long rows, long i, const R* x, R own, R other) {
  R largest = x[i] + own;
  for (long j = 0; j < rows; ++j) largest = std::max(largest, x[j] + (j == i ? own : other));
  if (!(largest > -std::numeric_limits<R>::infinity())) return largest;
  R sum = 0;
  for (long j = 0; j < rows; ++j) sum += vaelib::exp(x[j] + (j == i ? own : other) - largest);
  return largest + std::log(sum);
}

}  // namespace detail

/// I, TC and DW of a batch, nats: one row of three. mu and logvar are those of q(z|x), z samples of it; all are rows x size.
template <class S, class R, Shape A>
Var<R, Shape{3}> kl_decomposition(S& step, Var<R, A> mu, Var<R, A> logvar, Var<R, A> z, std::int64_t dataset_size) {
  const long rows = z.rows(), size = z.features(), all = rows * size;
  if (mu.rows() != rows || logvar.rows() != rows || mu.features() != size || logvar.features() != size)
    fail("vaelib: kl_decomposition wants mean, log-variance and sample of the same rows");
  if (dataset_size < rows) fail("vaelib: a data set of ", dataset_size, " samples cannot have a batch of ", rows);
  auto y = step.template variable<Shape{3}>(step.single(), Shape{3}, step.needs_gradient(mu, logvar, z));
  // by dimension: samples, means, 1 / variance, log normaliser, log q(z_id); then log q(z_i|x_j) as a matrix, log q(z_i)
  R* const numbers = step.arena.template allocate<R>(5 * all + rows * rows + rows);
  R *const zs = numbers, *const means = zs + all, *const precisions = means + all, *const normalisers = precisions + all,
          *const marginals = normalisers + all, *const joint = marginals + all, *const aggregated = joint + rows * rows;
  detail::transpose_rows(step, rows, size, z.value(), zs);
  detail::transpose_rows(step, rows, size, mu.value(), means);
  detail::transpose_rows(step, rows, size, logvar.value(), normalisers);
  const R own = rows == 1 ? R(0) : R(-std::log(double(dataset_size)));
  const R other = rows == 1 ? R(0) : R(std::log((double(dataset_size) - 1) / (double(dataset_size) * double(rows - 1))));
  constexpr R log_2pi = R(1.8378770664093454836);
  step.backend.parallel(size, [=](long d) {
    for (long k = d * rows; k < (d + 1) * rows; ++k) {
      precisions[k] = exp(-normalisers[k]);
      normalisers[k] = R(-0.5) * (log_2pi + normalisers[k]);
    }
  });
  const auto dimension = [=](long d) { return detail::Densities<R>{means + d * rows, precisions + d * rows, normalisers + d * rows}; };
  step.backend.parallel(rows, [=](long i) {
    R* const row = joint + i * rows;
    std::fill_n(row, rows, R(0));
    for (long d = 0; d < size; ++d) {
      const auto q = dimension(d);
      for (long j = 0; j < rows; ++j) row[j] += q.log_density(j, zs[d * rows + i]);
    }
    aggregated[i] = detail::weighted_log_sum(rows, i, row, own, other);
  });
  const auto scratch = step.scratch(all);
  R* const densities = scratch.data;
  step.backend.parallel(size, [=](long d) {
    const auto q = dimension(d);
    R* const row = densities + d * rows;
    for (long i = 0; i < rows; ++i) {
      for (long j = 0; j < rows; ++j) row[j] = q.log_density(j, zs[d * rows + i]);
      marginals[d * rows + i] = detail::weighted_log_sum(rows, i, row, own, other);
    }
  });
  double information = 0, correlation = 0, dimension_wise = 0;
  for (long i = 0; i < rows; ++i) {
    double product = 0, prior = 0;
    for (long d = 0; d < size; ++d) {
      product += double(marginals[d * rows + i]);
      prior -= 0.5 * (double(log_2pi) + double(zs[d * rows + i]) * double(zs[d * rows + i]));
    }
    information += double(joint[i * rows + i]) - double(aggregated[i]);
    correlation += double(aggregated[i]) - product;
    dimension_wise += product - prior;
  }
  y.value()[0] = R(information / double(rows));
  y.value()[1] = R(correlation / double(rows));
  y.value()[2] = R(dimension_wise / double(rows));
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      const R* g = s.gradient(y);
      const R of_own = g[0] / R(rows), of_joint = (g[1] - g[0]) / R(rows), of_marginal = (g[2] - g[1]) / R(rows), of_prior = g[2] / R(rows);
      const auto to_mu = s.target(mu), to_logvar = s.target(logvar), to_z = s.target(z);
      const auto room = s.scratch(rows * rows + 3 * all);
      R *const shares = room.data, *const dz = shares + rows * rows, *const dmu = dz + all, *const dlogvar = dmu + all;
      s.backend.parallel(rows, [=](long i) {
        for (long j = 0; j < rows; ++j) {
          shares[i * rows + j] = of_joint * exp(joint[i * rows + j] + (i == j ? own : other) - aggregated[i]);
          if (i == j) shares[i * rows + j] += of_own;
        }
      });
      s.backend.parallel(size, [=](long d) {
        const auto q = dimension(d);
        for (long k = d * rows; k < (d + 1) * rows; ++k) {
          dz[k] = of_prior * zs[k];
          dmu[k] = dlogvar[k] = 0;
        }
        for (long i = 0; i < rows; ++i) {
          const R at = zs[d * rows + i], marginal = marginals[d * rows + i];
          for (long j = 0; j < rows; ++j) {
            const R share = shares[i * rows + j] + of_marginal * exp(q.log_density(j, at) + (i == j ? own : other) - marginal);
            const R gap = at - q.mean[j], pull = share * gap * q.precision[j];
            dz[d * rows + i] -= pull;
            dmu[d * rows + j] += pull;
            dlogvar[d * rows + j] += R(0.5) * (gap * pull - share);
          }
        }
      });
      const auto give = [&](const Target<R>& target, const R* gradient) {
        if (!target) return;
        s.backend.parallel(rows, [=](long i) {
          for (long d = 0; d < size; ++d) {
            R& to = target.data[i * size + d];
            to = (target.add ? to : R(0)) + gradient[d * rows + i];
          }
        });
      };
      give(to_mu, dmu);
      give(to_logvar, dlogvar);
      give(to_z, dz);
    });
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
