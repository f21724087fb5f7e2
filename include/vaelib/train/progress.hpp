// A progress line on standard error: on a terminal one line that is drawn again, elsewhere one line an epoch.
#pragma once

#include <vaelib/train/history.hpp>

#include <chrono>
#include <cstdio>
#include <unistd.h>

namespace vaelib::inline VAELIB_ABI {

enum class ProgressStyle { automatic, lines, silent };

class Progress {
 public:
  explicit Progress(ProgressStyle style) : bar(style == ProgressStyle::automatic && isatty(STDERR_FILENO)), silent(style == ProgressStyle::silent) {}

  /// Called after every step; draws at most ten times a second.
  void step(std::int64_t epoch, std::int64_t epochs, std::int64_t batch, std::int64_t batches, double loss, double kl, double beta) {
    ++steps;
    if (!bar) return;
    const auto now = clock::now();
    if (now - drawn < std::chrono::milliseconds(100) && batch < batches) return;
    drawn = now;
    const double rate = steps / seconds_since(begun), left = ((epochs - epoch) * double(batches) - batch) / rate;
    constexpr int width = 24;
    const int full = batches > 0 ? int(batch * width / batches) : width;
    std::fprintf(stderr, "\r\033[Kepoch %lld/%lld [%.*s%.*s] %.0f steps/s, %s left, loss %.2f, KL %.2f, beta %.3g", (long long)epoch + 1,
                 (long long)epochs, full, "########################", width - full, "........................", rate, clock_text(left).c_str(), loss,
                 kl, beta);
    std::fflush(stderr);
  }
  [[gnu::cold]] void epoch(std::int64_t epochs, const EpochMetrics& m) {
    if (silent) return;
    const bool validated = m.val_recon == m.val_recon;
    std::fprintf(stderr, "%sepoch %lld/%lld: train loss %.3f (recon %.3f, KL %.3f)", bar ? "\r\033[K" : "", (long long)m.epoch, (long long)epochs,
                 m.train_loss, m.train_recon, m.train_kl);
    if (validated) std::fprintf(stderr, ", test -ELBO %.3f (recon %.3f, KL %.3f)", m.val_recon + m.val_kl, m.val_recon, m.val_kl);
    std::fprintf(stderr, ", beta %.3g, %.1f s\n", m.current_beta, m.seconds);
    std::fflush(stderr);
  }

 private:
  using clock = std::chrono::steady_clock;
  static double seconds_since(clock::time_point t) { return std::chrono::duration<double>(clock::now() - t).count(); }
  [[gnu::cold]] static std::string clock_text(double seconds) {
    char buffer[32];
    const auto s = seconds > 0 && seconds < 1e7 ? long(seconds) : 0L;
    if (s < 3600) {
      std::snprintf(buffer, sizeof buffer, "%ld:%02ld", s / 60, s % 60);
    } else {
      std::snprintf(buffer, sizeof buffer, "%ld:%02ld h", s / 3600, s / 60 % 60);
    }
    return buffer;
  }
  bool bar, silent;
  double steps = 0;
  clock::time_point begun = clock::now(), drawn{};
};

}  // namespace vaelib::inline VAELIB_ABI
