// The command line of `vae`: its commands, help, and sentences about what is wrong.
#pragma once

#include "options.hpp"
#include "train.hpp"
#include "use.hpp"

namespace vae {

struct CommandLine {
  std::string command;  ///< empty where help or the version was asked for, and printed
  TrainOptions train;   ///< of `vae train`
  Given given;
  TrainCalls calls;
  UseOptions use;  ///< of the other commands
};

/// Throws UsageError.
CommandLine read_command_line(int argc, char** argv);

}  // namespace vae
