// What the commands of `vqvae` and `codebook` do.
#pragma once

#include <set>

#include "options.hpp"

namespace vqvae {

/// Sets what the recipe says and was not `given`, fills in defaults that depend on others, and refuses what does not go together.
void resolve(Options& options, const std::set<std::string>& given);

/// Exit code: 0, or 128 + signal where the run was interrupted and saved.
int train(const Options& options);

void use(const UseOptions& options);       ///< reconstruct, encode, decode
void prior(const UseOptions& options);     ///< prior, sample
void codebook(const UseOptions& options);  ///< check, compare, visualize

}  // namespace vqvae
