// What the fuzzers begin with, and what they have found: each input is read once, as its fuzzer reads it.
#include <vaelib/io/file.hpp>

#include <doctest/doctest.h>

#include <algorithm>

extern "C" {
using Harness = int(const std::uint8_t* data, std::size_t size);
Harness fuzz_checkpoint, fuzz_config, fuzz_csv, fuzz_idx, fuzz_jpeg, fuzz_json, fuzz_npy, fuzz_npz, fuzz_ply,
    fuzz_png, fuzz_safetensors, fuzz_xyz;
}

TEST_CASE("the corpora of the fuzzers") {
  struct Format {
    const char* name;
    Harness* harness;
  };
  const Format formats[] = {{"checkpoint", fuzz_checkpoint},
                            {"config", fuzz_config},
                            {"csv", fuzz_csv},
                            {"idx", fuzz_idx},
                            {"jpeg", fuzz_jpeg},
                            {"json", fuzz_json},
                            {"npy", fuzz_npy},
                            {"npz", fuzz_npz},
                            {"ply", fuzz_ply},
                            {"png", fuzz_png},
                            {"safetensors", fuzz_safetensors},
                            {"xyz", fuzz_xyz}};
  const std::string corpus = VAELIB_TEST_FOLDER "/fuzz/corpus";
  CHECK(vaelib::list_folder(corpus).size() == std::size(formats));
  for (const Format& format : formats) {
    const std::string folder = corpus + '/' + format.name + '/';
    const auto files = vaelib::list_folder(folder);
    CHECK(!files.empty());
    for (const auto& file : files) {
      CAPTURE(folder);
      CAPTURE(file);
      const std::string input = vaelib::read_file(folder + file, 1 << 20);
      CHECK(format.harness(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()) == 0);
    }
  }
}
