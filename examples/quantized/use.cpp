#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vaelib/io/csv.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/report/pictures.hpp>
#include <vaelib/report/training.hpp>

#include "commands.hpp"
#include "model_file.hpp"
#include "report.hpp"

namespace vqvae {

using namespace vaelib;

namespace {

std::string output_of(const UseOptions& u, const char* ending) {
  if (!u.output.empty()) return u.output;
  const std::string& path = u.model_path;
  return (path.ends_with(".safetensors") ? path.substr(0, path.size() - 12) : path) + ending;
}

/// The images that a command works on: a folder's, or the test images that the model was trained beside.
ImageData images_of(const UseOptions& u, const OpenModel& open) {
  const Shape image = open.model->image();
  if (u.image_size != 0 && u.image_size != image.height)
    throw UsageError(text("--image-size ", u.image_size, ": ", u.model_path, " was trained on images of ", image.height));
  ImageData data = u.data_dir.empty() ? load_data(open.options) : load_folder(u.data_dir, image.height, image.channels);
  for (const auto& note : data.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  if (data.test.shape() != image) fail(u.model_path, ": takes images of ", text_of(image), ", found ", text_of(data.test.shape()));
  return data;
}

std::int64_t count_of(const UseOptions& u, const SourceView& images, std::int64_t usual) {
  return std::min(u.count > 0 ? u.count : usual, images.size());
}

void encode(const UseOptions& u, const OpenModel& open) {
  const auto data = images_of(u, open);
  const auto& model = *open.model;
  const std::int64_t count = count_of(u, data.test, data.test.size());
  const Shape codes = model.code_shape();
  std::vector<float> values;
  for (std::int64_t first = 0; first < count; first += 256) {
    const auto pixels = take(data.test, first, std::min<std::int64_t>(256, count - first));
    const auto seen = model.look(pixels, Model::Look::at_codes);
    if (u.latents)
      values.insert(values.end(), seen.latents.begin(), seen.latents.end());
    else
      values.insert(values.end(), seen.codes.begin(), seen.codes.end());
  }
  const std::string path = output_of(u, u.latents ? ".latents.npy" : ".codes.npy");
  write_npy(path, {count, codes.height, codes.width, u.latents ? codes.channels : model.per_vector()}, values);
  std::printf("%s: %lld images, %d x %d vectors of %d %s\n", path.c_str(), static_cast<long long>(count), codes.height, codes.width, u.latents ? codes.channels : model.per_vector(),
              u.latents ? "numbers" : "codes");
}

void decode(const UseOptions& u, const OpenModel& open) {
  const auto& model = *open.model;
  if (u.data.empty()) throw UsageError("vqvae decode wants --codes FILE.npy, as vqvae encode writes it");
  const NpyArray file = read_npy(u.data);
  const auto each = std::size_t(model.codes_per_image());
  const bool fits = !file.shape.empty() && file.shape[0] > 0 && file.values.size() == std::size_t(file.shape[0]) * each;
  if (!fits) fail(u.data, ": is an array of shape ", shape_text(file.shape), ", expected images x ", model.code_shape().height, " x ", model.code_shape().width, " x ", model.per_vector());
  Model::Codes codes;
  for (std::size_t i = 0; i < file.values.size(); ++i) {
    const float v = file.values[i];
    if (!(v >= 0 && v < float(model.code_count())) || v != std::floor(v))
      fail(u.data, ": value ", i % each, " of image ", i / each, " is ", v, ", expected a code from 0 to ", model.code_count() - 1);
    codes.push_back(std::int32_t(v));
  }
  auto pixels = model.decode(codes, long(file.shape[0]));
  for (float& v : pixels) v = std::clamp(v, 0.0f, 1.0f);
  const std::string path = output_of(u, ".decoded.png");
  write_png(path, report::tiles(pixels, model.image(), 8));
  std::printf("%s: %lld images\n", path.c_str(), static_cast<long long>(file.shape[0]));
}

void reconstruct(const UseOptions& u, const OpenModel& open) {
  const auto data = images_of(u, open);
  const std::string path = output_of(u, ".reconstructions.png");
  if (path.ends_with(".npy")) {
    const auto pixels = take(data.test, 0, count_of(u, data.test, 32));
    const Shape image = open.model->image();
    write_npy(path, {std::int64_t(pixels.size()) / image.size(), image.height, image.width, image.channels}, open.model->look(pixels, Model::Look::at_images).images);
    std::printf("%s\n", path.c_str());
    return;
  }
  write_png(path, reconstruction_grid(*open.model, data.test, count_of(u, data.test, 32)));
  std::printf("%s\n", path.c_str());
}

// ---------------------------------------------------------------------------------------------------------- codebook
nlohmann::ordered_json json_of(const Usage& usage) {
  return {{"codes", usage.whole.codes},
          {"used", usage.whole.used},
          {"utilisation", usage.whole.utilisation},
          {"entropy", usage.whole.entropy},
          {"normalised_entropy", usage.whole.normalised_entropy},
          {"perplexity", usage.whole.perplexity},
          {"used_a_batch", usage.used_a_batch},
          {"normalised_entropy_a_batch", usage.entropy_a_batch},
          {"quantization_error", usage.quantization_error},
          {"reconstruction_error", usage.reconstruction_error}};
}

void print(const char* name, const Usage& usage) {
  std::printf("%s\n  used by all images       %lld of %lld codes (%.1f %%)\n  used by a batch (mean)   %.1f\n  normalised entropy       %.4f (a batch: %.4f)\n", name,
              static_cast<long long>(usage.whole.used), static_cast<long long>(usage.whole.codes), 100 * usage.whole.utilisation, usage.used_a_batch, usage.whole.normalised_entropy,
              usage.entropy_a_batch);
  std::printf("  perplexity               %.1f\n  quantization error       %.6f\n  reconstruction error     %.6f\n", usage.whole.perplexity, usage.quantization_error, usage.reconstruction_error);
}

void check(const UseOptions& u) {
  if (!(u.temperature > 0)) throw UsageError(text("--temperature ", u.temperature, ": expected more than 0"));
  if (u.batch_size < 1) throw UsageError(text("--batch-size ", u.batch_size, ": expected at least 1"));
  const auto open = open_model(u.model_path, u.threads);
  const auto data = images_of(u, open);
  const Usage usage = measure(*open.model, data.test, count_of(u, data.test, data.test.size()), u.batch_size);
  print(u.model_path.c_str(), usage);
  if (u.temperature != 1) std::printf("  (the nearest code does not depend on the temperature %g)\n", u.temperature);
  const auto advice = advice_of(usage, *open.model, open.options);
  for (const auto& a : advice) std::printf("  %s: %s\n", a.rule.c_str(), a.sentence.c_str());
  create_directories(u.output_dir);
  auto json = json_of(usage);
  json["model"] = u.model_path;
  for (const auto& a : advice) json["advice"].push_back({{"rule", a.rule}, {"sentence", a.sentence}});
  write_file_atomically(u.output_dir + "/codebook.json", json.dump(2) + "\n");
  if (u.save_details) {
    std::string counts = "code,count\n", batches = "batch,used,normalised_entropy\n";
    for (std::size_t k = 0; k < usage.counts.size(); ++k) counts += text(k, ',', std::int64_t(usage.counts[k]), '\n');
    for (std::size_t b = 0; b < usage.used_by_batch.size(); ++b) batches += text(b, ',', std::int64_t(usage.used_by_batch[b]), ',', usage.entropy_by_batch[b], '\n');
    write_file_atomically(u.output_dir + "/counts.csv", counts);
    write_file_atomically(u.output_dir + "/batches.csv", batches);
  }
  if (u.plot) {
    report::Report page("Codebook", u.model_path);
    add_usage(page, usage, *open.model, open.options);
    add_gallery(page, *open.model, usage);
    add_reconstructions(page, *open.model, data.test);
    page.write(u.output_dir + "/report.html");
  }
  std::printf("  %s/codebook.json%s%s\n", u.output_dir.c_str(), u.save_details ? ", counts.csv, batches.csv" : "", u.plot ? ", report.html" : "");
}

void compare(const UseOptions& u) {
  const auto a = open_model(u.model_path, u.threads), b = open_model(u.other_path, u.threads);
  const auto data = images_of(u, a);
  if (b.model->image() != a.model->image()) fail(u.other_path, ": takes images of ", text_of(b.model->image()), ", the other model of ", text_of(a.model->image()));
  const auto count = count_of(u, data.test, data.test.size());
  const Usage of_a = measure(*a.model, data.test, count, u.batch_size), of_b = measure(*b.model, data.test, count, u.batch_size);
  print(u.model_path.c_str(), of_a);
  print(u.other_path.c_str(), of_b);
  std::printf("the second has %.2f times the reconstruction error of the first\n", of_b.reconstruction_error / of_a.reconstruction_error);
  create_directories(u.output_dir);
  write_file_atomically(u.output_dir + "/compare.json", nlohmann::ordered_json{{u.model_path, json_of(of_a)}, {u.other_path, json_of(of_b)}}.dump(2) + "\n");
}

void visualize(const UseOptions& u) {
  const auto open = open_model(u.model_path, u.threads);
  const auto data = images_of(u, open);
  const Usage usage = measure(*open.model, data.test, count_of(u, data.test, 1000), u.batch_size);
  const auto codes = by_use(usage.counts, u.count > 0 ? std::size_t(u.count) : 256);
  auto pixels = decoded_codes(*open.model, codes);
  for (float& v : pixels) v = std::clamp(v, 0.0f, 1.0f);
  create_directories(u.output_dir);
  const std::string path = u.output_dir + "/codes.png";
  write_png(path, report::tiles(pixels, open.model->image(), 16));
  std::printf("%s: the %zu most used codes, the first at the top left, each decoded from an image that has it everywhere\n", path.c_str(), codes.size());
}

}  // namespace

void use(const UseOptions& u) {
  const auto open = open_model(u.model_path, u.threads);
  if (u.command == "reconstruct") reconstruct(u, open);
  if (u.command == "encode") encode(u, open);
  if (u.command == "decode") decode(u, open);
}

void codebook(const UseOptions& u) {
  if (u.command == "check") check(u);
  if (u.command == "compare") compare(u);
  if (u.command == "visualize") visualize(u);
}

}  // namespace vqvae
