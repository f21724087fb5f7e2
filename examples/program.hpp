// What the command-line programs share: flags may be written with underscores for dashes, and what goes wrong is one line.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <set>
#include <string>
#include <vaelib/core/error.hpp>
#include <vaelib/version.hpp>
#include <vector>

#include "usage_error.hpp"

namespace program {

/// The arguments with dashes in the names of flags, the last first, as CLI11 wants them.
inline std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    std::string word = argv[i];
    if (word.starts_with("--"))
      for (std::size_t k = 0; k < std::min(word.find('='), word.size()); ++k)
        if (word[k] == '_') word[k] = '-';
    arguments.push_back(std::move(word));
  }
  return arguments;
}

/// Parses and returns true; false where help or the version was printed. Throws UsageError.
inline bool parse(CLI::App& app, int argc, char** argv) {
  app.require_subcommand(0, 1);
  try {
    app.parse(arguments_of(argc, argv));
  } catch (const CLI::Success& asked) {
    app.exit(asked);
    return false;
  } catch (const CLI::ParseError& error) {
    const auto used = app.get_subcommands();
    throw UsageError(vaelib::text(error.what(), "; ", app.get_name(), used.empty() ? "" : " " + used.front()->get_name(), " --help lists the flags"));
  }
  if (app.get_subcommands().empty()) std::fputs(app.help().c_str(), stdout);
  return !app.get_subcommands().empty();
}

/// A flag or option of a command for each line of a table of options: f(name, help, member, group).
template <class Options>
void add_flags(CLI::App& command, Options& options) {
  each_option(options, [&](const char* name, const char* help, auto& member, const char* group) {
    const std::string flag = std::string("--") + name;
    if constexpr (std::is_same_v<std::remove_reference_t<decltype(member)>, bool>)
      command.add_flag(flag, member, help)->group(group);
    else
      command.add_option(flag, member, help)->group(group)->capture_default_str()->take_last();
  });
}
/// The names of the flags that were given.
inline std::set<std::string> given_flags(const CLI::App& command) {
  std::set<std::string> given;
  for (const auto* option : command.get_options())
    if (option->count() > 0) given.insert(option->get_lnames().front());
  return given;
}

/// Runs a program; what goes wrong is one line on standard error. Exit code 2: the command line, 1: anything else.
template <class F>
int run_program(const char* name, F f) {
  const auto complain = [&](std::string sentence, int code) {
    if (sentence.starts_with("vaelib: ")) sentence.erase(0, 8);
    for (char& c : sentence)
      if (c >= 0 && c < ' ') c = '?';  // names out of files: a terminal would obey control characters
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, sentence.c_str());
    return code;
  };
  try {
    return f();
  } catch (const UsageError& error) {
    return complain(error.what(), 2);
  } catch (const std::bad_alloc&) {
    return complain("not enough memory", 1);
  } catch (const std::exception& error) {
    return complain(error.what(), 1);
  }
}

}  // namespace program
