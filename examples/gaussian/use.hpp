// The commands that use a trained run: sample, reconstruct, interpolate, traverse, encode, evaluate, report, export.
#pragma once

#include <cstdint>
#include <string>

namespace vae {

struct UseOptions {
  std::string run;      ///< the output folder of `vae train`
  std::string output;   ///< empty: a name of the command's in that folder
  std::int64_t count = 0, from = -1, to = -1, steps = 10, samples = 100;
  std::int64_t label = -1;  ///< of a conditional model; -1: each in turn
  double range = 3;
  std::uint64_t seed = 0;
  std::int64_t threads = 0;
};

/// `command` is one of these. Throws vaelib::Error.
void use(const std::string& command, const UseOptions& options);

}  // namespace vae
