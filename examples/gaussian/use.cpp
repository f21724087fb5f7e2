#include "use.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/metrics/diagnostics.hpp>

#include "report.hpp"
#include "trained.hpp"

namespace vae {

using namespace vaelib;

namespace {

/// `count` labels: the one that is asked for, or each in turn in runs of `repeat`.
std::vector<std::int32_t> labels_of(const Trained& run, const UseOptions& use, std::int64_t count, std::int64_t repeat = 1) {
  if (use.label >= run.data.classes) fail("--label ", use.label, ": the model knows the labels 0 to ", run.data.classes - 1);
  std::vector<std::int32_t> result(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i)
    result[std::size_t(i)] = std::int32_t(use.label >= 0 ? use.label : run.data.classes > 0 ? i / repeat % run.data.classes : 0);
  return result;
}

std::string output_of(const Trained& run, const UseOptions& use, const char* name) {
  return use.output.empty() ? run.folder.file(name) : use.output;
}

void write_grid(const Trained& run, const UseOptions& use, const char* name, const std::vector<float>& pixels, std::int64_t columns) {
  const Shape image = run.data.image;
  const std::string path = output_of(run, use, name);
  write_png(path, image_grid(pixels, image.height, image.width, image.channels,
                             {.columns = int(columns), .scale = std::max(1, 64 / image.width)}));
  std::printf("%s\n", path.c_str());
}

Images test_images(const ImageData& data, std::int64_t first, std::int64_t count) {
  if (first + count > data.test.size())
    fail("test images ", first, " to ", first + count - 1, " were asked for, there are ", data.test.size());
  return take(data.test, first, count);
}

/// f(images, first) for the test images, a part at a time.
void for_each_part(const ImageData& data, std::int64_t count, auto&& f) {
  constexpr std::int64_t part = 500;
  for (std::int64_t first = 0; first < count; first += part) f(take(data.test, first, std::min(part, count - first)), first);
}
std::int64_t test_count(const ImageData& data, std::int64_t wanted) {
  if (wanted > data.test.size()) fail("--count ", wanted, ": there are ", data.test.size(), " test images");
  return wanted > 0 ? wanted : data.test.size();
}

void sample(const Trained& run, const UseOptions& use) {
  const std::int64_t count = use.count > 0 ? use.count : 100;
  const auto columns = std::int64_t(std::ceil(std::sqrt(double(count))));
  write_grid(run, use, "samples.png", run.model->sample(count, use.seed, labels_of(run, use, count, columns).data()), columns);
}

void reconstruct(const Trained& run, const UseOptions& use) {
  const Images images = test_images(run.load_images(), std::max<std::int64_t>(0, use.from), use.count > 0 ? use.count : 10);
  const auto remade = run.model->reconstruct(images.pixels, images.labels.data());
  std::vector<float> rows = images.pixels;
  rows.insert(rows.end(), remade.begin(), remade.end());
  write_grid(run, use, "reconstructed.png", rows, std::int64_t(images.labels.size()));
}

void interpolate(const Trained& run, const UseOptions& use) {
  const bool one = use.from >= 0 || use.to >= 0;
  const std::int64_t rows = one ? 1 : use.count > 0 ? use.count : 8, first = std::max<std::int64_t>(0, use.from);
  const ImageData data = run.load_images();
  std::vector<float> codes, ends;
  std::vector<std::int32_t> labels;
  for (std::int64_t r = 0; r < rows; ++r) {
    const Images a = test_images(data, one ? first : 2 * r, 1), b = test_images(data, one ? (use.to >= 0 ? use.to : first + 1) : 2 * r + 1, 1);
    const auto from = run.model->encode(a.pixels, a.labels.data()), to = run.model->encode(b.pixels, b.labels.data());
    for (std::int64_t s = 0; s < use.steps; ++s) {
      const auto share = float(double(s) / double(std::max<std::int64_t>(1, use.steps - 1)));
      for (std::size_t d = 0; d < from.size(); ++d) codes.push_back(from[d] + share * (to[d] - from[d]));
      labels.push_back((share < 0.5f ? a : b).labels[0]);
    }
  }
  write_grid(run, use, "interpolation.png", run.model->decode(codes, labels.data()), use.steps);
}

void traverse(const Trained& run, const UseOptions& use) {
  const ImageData data = run.load_images();
  std::vector<float> means, log_variances;
  for_each_part(data, std::min<std::int64_t>(1000, data.test.size()), [&](const Images& images, std::int64_t) {
    const auto mean = run.model->encode(images.pixels, images.labels.data());
    const auto log_variance = run.model->log_variances(images.pixels, images.labels.data());
    means.insert(means.end(), mean.begin(), mean.end());
    log_variances.insert(log_variances.end(), log_variance.begin(), log_variance.end());
  });
  const auto kl = metrics::kl_by_dimension(means, log_variances, std::size_t(run.code_size()));
  auto order = metrics::descending(kl);
  order.resize(std::min<std::size_t>(order.size(), use.count > 0 ? std::size_t(use.count) : 10));

  const Images base = test_images(data, std::max<std::int64_t>(0, use.from), 1);
  const auto mean = run.model->encode(base.pixels, base.labels.data());
  std::vector<float> codes;
  for (const std::size_t d : order) {
    std::printf("z[%zu]: KL divergence %.3f nats\n", d, kl[d]);
    for (std::int64_t s = 0; s < use.steps; ++s) {
      codes.insert(codes.end(), mean.begin(), mean.end());
      codes[codes.size() - mean.size() + d] = float(use.range * (2 * double(s) / double(std::max<std::int64_t>(1, use.steps - 1)) - 1));
    }
  }
  const std::vector<std::int32_t> labels(order.size() * std::size_t(use.steps), base.labels[0]);
  write_grid(run, use, "traversal.png", run.model->decode(codes, labels.data()), use.steps);
}

void encode(const Trained& run, const UseOptions& use) {
  const ImageData data = run.load_images();
  const std::int64_t count = test_count(data, use.count), size = run.code_size();
  std::vector<float> codes;
  std::vector<std::int32_t> labels;
  for_each_part(data, count, [&](const Images& images, std::int64_t) {
    const auto means = run.model->encode(images.pixels, images.labels.data());
    codes.insert(codes.end(), means.begin(), means.end());
    labels.insert(labels.end(), images.labels.begin(), images.labels.end());
  });
  const std::string path = output_of(run, use, "codes.csv");
  if (path.ends_with(".npy")) {
    write_npy(path, {count, size}, codes);
  } else {
    std::string table = "label";
    for (std::int64_t d = 0; d < size; ++d) table += text(",z", d);
    for (std::int64_t i = 0; i < count; ++i) {
      table += text('\n', labels[std::size_t(i)]);
      for (std::int64_t d = 0; d < size; ++d) table += ',' + detail::shortest(double(codes[std::size_t(i * size + d)]));
    }
    write_file_atomically(path, table + '\n');
  }
  std::printf("%s\n", path.c_str());
}

void evaluate(const Trained& run, const UseOptions& use) {
  const ImageData data = run.load_images();
  const std::int64_t count = test_count(data, use.count > 0 ? use.count : std::min<std::int64_t>(1000, data.test.size()));
  double elbo = 0, log_likelihood = 0, squares = 0;
  for_each_part(data, count, [&](const Images& images, std::int64_t first) {
    const auto evidence = run.model->evidence(images.pixels, images.labels.data(), int(use.samples), use.seed + std::uint64_t(first));
    for (std::size_t i = 0; i < evidence.elbo.size(); ++i) {
      elbo += evidence.elbo[i] / double(count);
      log_likelihood += evidence.log_likelihood[i] / double(count);
      squares += evidence.log_likelihood[i] * evidence.log_likelihood[i] / double(count);
    }
  });
  const double error = std::sqrt(std::max(0.0, squares - log_likelihood * log_likelihood) / double(count));
  std::printf("%lld test images, %lld samples of z each\nELBO                     %.3f nats an image\nlog p(x), a lower bound  %.3f nats an image (standard error %.3f)\n",
              static_cast<long long>(count), static_cast<long long>(use.samples), elbo, log_likelihood, error);
}

void make_report(const Trained& run, const UseOptions& use) {
  const std::string path = output_of(run, use, "report.html");
  write_report(path, run.folder, *run.model, run.load_images());
  std::printf("%s\n", path.c_str());
}

void export_onnx(const Trained& run, const UseOptions& use) {
  const std::string folder = use.output.empty() ? run.folder.path() : use.output;
  create_directories(folder);
  run.model->export_onnx(folder);
  std::printf("%s/encoder.onnx\n%s/decoder.onnx\n", folder.c_str(), folder.c_str());
}

}  // namespace

void use(const std::string& command, const UseOptions& options) {
  const Trained run(options.run, options.threads);
  if (options.label >= 0 && !run.conditional()) fail("--label: the model in ", options.run, " is not conditional");
  if (command == "sample") sample(run, options);
  if (command == "reconstruct") reconstruct(run, options);
  if (command == "interpolate") interpolate(run, options);
  if (command == "traverse") traverse(run, options);
  if (command == "encode") encode(run, options);
  if (command == "evaluate") evaluate(run, options);
  if (command == "report") make_report(run, options);
  if (command == "export") export_onnx(run, options);
}

}  // namespace vae
