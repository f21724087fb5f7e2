// Configuration files of the program vae, and the flags in them.
#include "config.hpp"

#include <vaelib/io/file.hpp>

#include <sys/mman.h>

#include "harness.hpp"

namespace vae {
std::string kind_of_data(const std::string& data) { return data; }  // data.cpp asks the disk; here nothing asks
}  // namespace vae

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int file = ::memfd_create("config", MFD_CLOEXEC);
  static const std::string path = vaelib::text("/proc/self/fd/", file);
  if (::ftruncate(file, 0) != 0 || ::pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) __builtin_trap();
  return fuzz::read([&] {
    try {
      const vae::Values values = vae::read_config_file(path);
      vae::TrainOptions options;
      vae::Given given;
      vae::set_flags(options, given, values, "input");
      vae::resolve(options, given);
      vae::flags_without_effect(options, given);
    } catch (const vae::UsageError&) {  // the program's own, for a flag that there is not
    }
  });
}
