// What reading a folder of images costs while a model trains: the time of a conv64 step, batch 64, with the images in memory,
// decoded by the thread that computes, and decoded ahead (FitOptions::read_ahead), in turns.
//
//   bench_loading [FOLDER [ROUNDS]]      of PNG or JPEG, 64 x 64; without one 60 000 PNG are written into a temporary folder
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vaelib/data/image_folder.hpp>

#include "workloads.hpp"

namespace {

using namespace bench;
using Clock = std::chrono::steady_clock;

/// Soft colours with some noise, as photographs have: they compress to about half.
void write_images(const std::string& folder, int count) {
  create_directories(folder);
  Image image = blank_image(64, 64, 3, 0);
  for (int i = 0; i < count; ++i) {
    std::vector<float> noise(image.pixels.size());
    uniform(RandomKey{.seed = std::uint64_t(i)}, 0, 1, int(noise.size()), noise.data());
    for (int y = 0, k = 0; y < 64; ++y)
      for (int x = 0; x < 64; ++x)
        for (int c = 0; c < 3; ++c, ++k) image.pixels[k] = std::uint8_t(128 + 100 * std::sin(0.05 * (x + c * y) + i) + 12 * noise[k]);
    const auto png = encode_png(image);
    std::ofstream(text(folder, '/', i, ".png"), std::ios::binary).write(reinterpret_cast<const char*>(png.data()), std::streamsize(png.size()));
  }
}

/// The times of the steps of a fit that ends after `most` of them.
struct Timer {
  std::vector<double> seconds{};
  Clock::time_point last = Clock::now();
  std::size_t most = 40;
  void step_end(const RunState&) {
    const auto now = Clock::now();
    seconds.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  }
  bool should_interrupt(const RunState&) const { return seconds.size() >= most; }
};

struct Way {
  const char* name;
  SourceView data;
  bool ahead;
  std::vector<double> steps{};

  double round(Trainer<Conv64::Model>& trainer) {
    Timer timer;
    trainer.fit(data, {.epochs = 1, .batch_size = Conv64::batch, .read_ahead = ahead, .callbacks = {timer}});
    steps.insert(steps.end(), timer.seconds.begin() + 5, timer.seconds.end());  // the first ones warm up
    return std::accumulate(timer.seconds.begin() + 5, timer.seconds.end(), 0.0) / double(timer.seconds.size() - 5);
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = argc > 1 ? argv[1] : "";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  const bool own = folder.empty();
  if (own) {
    folder = (std::filesystem::temp_directory_path() / "vaelib_bench_loading").string();
    write_images(folder, 60'000);
  }
  auto begun = Clock::now();
  const auto since = [&] { return std::chrono::duration<double>(Clock::now() - begun).count(); };
  const auto memory = data::image_folder(folder);
  std::printf("%lld images read into memory in %.1f s\n", static_cast<long long>(memory.images.size()), since());
  begun = Clock::now();
  const data::ImageFiles files(folder);
  std::printf("the same looked through, to be decoded later, in %.1f s\n", since());
  std::vector<float> pixels(64 * 64 * 64 * 3);
  std::vector<std::uint32_t> rows(64);
  std::iota(rows.begin(), rows.end(), 0u);
  begun = Clock::now();
  for (int i = 0; i < 20; ++i) files.fill(0, rows, pixels.data(), nullptr);
  std::printf("a batch of 64 is decoded in %.2f ms by all threads\n", since() / 20 * 1e3);

  Trainer trainer(Conv64::Model{}, Adam{}, Cpu{});
  Way ways[] = {{"in memory", memory.images, false}, {"decoded by the computing thread", files, false}, {"decoded ahead", files, true}};
  std::vector<double> means[3];
  for (int r = 0; r < rounds; ++r)
    for (int w = 0; w < 3; ++w) means[w].push_back(ways[w].round(trainer));
  for (int w = 0; w < 3; ++w)
    std::printf("%-32s median step %7.2f ms, median of the rounds' means %7.2f ms, ratio of them %.3f\n", ways[w].name, 1e3 * median(ways[w].steps),
                1e3 * median(means[w]), median(means[w]) / median(means[0]));
  if (own) std::filesystem::remove_all(folder);
}
