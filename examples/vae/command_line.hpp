// The command line of `vae`: its commands, help, and sentences about what is wrong.
#pragma once

#include "options.hpp"
#include "use.hpp"

namespace vae {

struct CommandLine {
  std::string command;  ///< empty where help or the version was asked for, and printed
  TrainOptions train;   ///< of `vae train`
  Given given;
  UseOptions use;  ///< of the other commands
};

/// Throws UsageError.
CommandLine read_command_line(int argc, char** argv);

/// The one of `known` that is most like a word; empty where none is.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace vae
