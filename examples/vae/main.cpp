// vae: trains variational autoencoders on images, and uses them. `vae --help` lists the commands.
//
// Exit codes: 0; 2 where the command line is wrong, 1 where anything else is: then one line on standard error says what; 130
// and 143 where SIGINT or SIGTERM interrupted a run, which was saved.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "command_line.hpp"
#include "train.hpp"
#include "use.hpp"

namespace {

int complain(std::string_view sentence, int code) {
  constexpr std::string_view library = "vaelib: ";
  if (sentence.starts_with(library)) sentence.remove_prefix(library.size());
  std::fflush(stdout);
  std::string line = "vae: ";
  for (const char c : sentence) line += c >= 0 && c < ' ' ? '?' : c;  // names out of files: a terminal would obey control characters
  std::fprintf(stderr, "%s\n", line.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto line = vae::read_command_line(argc, argv);
    if (line.command == "train") {
      return vae::train(line.train, line.given, line.calls);
    } else if (!line.command.empty()) {
      vae::use(line.command, line.use);
    }
    return 0;
  } catch (const vae::UsageError& error) {
    return complain(error.what(), 2);
  } catch (const std::bad_alloc&) {
    return complain("not enough memory", 1);
  } catch (const std::exception& error) {
    return complain(error.what(), 1);
  }
}
