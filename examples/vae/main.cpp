// vae: trains variational autoencoders on images, and uses them. `vae --help` lists the commands.
//
// Exit codes: 0; 2 where the command line is wrong, 1 where anything else is: then one line on standard error says what; 130
// and 143 where SIGINT or SIGTERM interrupted a run, which was saved.
#include "../gaussian/command_line.hpp"
#include "../gaussian/train.hpp"
#include "../gaussian/use.hpp"
#include "../program.hpp"

int main(int argc, char** argv) {
  return program::run_program("vae", [&] {
    const auto line = vae::read_command_line(argc, argv);
    if (line.command == "train") return vae::train(line.train, line.given, line.calls);
    if (!line.command.empty()) vae::use(line.command, line.use);
    return 0;
  });
}
