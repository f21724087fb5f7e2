// The programs vqvae and codebook.
#include <doctest/doctest.h>

#include <vaelib/io/npy.hpp>
#include <vaelib/io/png.hpp>

#include "program.hpp"

using namespace program;

namespace {

const Limits vqvae{.program = VAELIB_VQVAE_PROGRAM}, codebook{.program = VAELIB_CODEBOOK_PROGRAM};

/// A small model on colour scenes; flags are written as the papers' programs have them.
struct Trained {
  TemporaryFolder folder;
  std::string model = folder / "small.safetensors";
  Result result;

  explicit Trained(const Arguments& more = {}) {
    Arguments all{"train",     "--images",     "48", "--epochs",     "2",        "--batch_size",   "16",    "--image-size", "16",   "--width",      "8",    "--hidden", "4", "--blocks", "1",
                  "--codes",   "16",           "--code-width", "8", "--model_dir", folder.path, "--model_name", "small", "--threads", "2"};
    all.insert(all.end(), more.begin(), more.end());
    result = run(all, vqvae);
    REQUIRE_MESSAGE(result.code == 0, result.err);
  }
};

Result refused(const Arguments& arguments) { return run(arguments, vqvae); }

}  // namespace

TEST_CASE("vqvae train writes model, report and pictures; its codes can be encoded, decoded, modelled and drawn") {
  const Trained t({"--perceptual", "0.1", "--adversarial", "0.4", "--discriminator-start", "2", "--discriminator-width", "4", "--prior-epochs", "1"});
  CHECK(has(t.result.out, "codes: epoch"));
  CHECK(has(t.result.err, "starts after 2 epochs, but there are only 2: it will never be trained"));
  for (const char* name : {"small.safetensors", "small/features.safetensors", "small/report.html", "small/report.json", "small/config.json", "small/metrics.csv", "small/reconstructions.png"}) CHECK(exists(t.folder / name));
  const auto page = content(t.folder / "small/report.json");
  for (const char* figure : {"\"usage\"", "\"code_gallery\"", "\"reconstructions\"", "\"utilisation_by_epoch\"", "\"code_distances\"", "\"prior_samples\"", "\"adversary\""}) CHECK(has(page, figure));

  const std::string codes = t.folder / "codes.npy";
  CHECK(run({"encode", "--model_path", t.model, "--count", "10", "--output", codes}, vqvae).code == 0);
  const auto array = vaelib::read_npy(codes);
  CHECK(array.shape == std::vector<std::int64_t>{10, 4, 4, 1});
  for (const float code : array.values) CHECK((code >= 0 && code < 16 && code == float(int(code))));
  CHECK(run({"encode", "--model-path", t.model, "--count", "10", "--latents", "--output", t.folder / "latents.npy"}, vqvae).code == 0);
  CHECK(vaelib::read_npy(t.folder / "latents.npy").shape == std::vector<std::int64_t>{10, 4, 4, 8});

  CHECK(run({"decode", "--model-path", t.model, "--codes", codes, "--output", t.folder / "decoded.png"}, vqvae).code == 0);
  CHECK(run({"reconstruct", "--model-path", t.model, "--output", t.folder / "remade.png"}, vqvae).code == 0);
  CHECK(run({"prior", "--model-path", t.model, "--epochs", "1", "--count", "32"}, vqvae).code == 0);
  CHECK(has(content(t.folder / "small.prior.json"), "\"prior_samples\""));
  CHECK(run({"sample", "--model-path", t.model, "--count", "9", "--output", t.folder / "drawn.png"}, vqvae).code == 0);
  CHECK(vaelib::read_png(t.folder / "drawn.png").channels == 3);

  std::vector<float> wrong(array.values);
  wrong[17] = 16;
  vaelib::write_npy(codes, array.shape, wrong);
  check_refusal(run({"decode", "--model-path", t.model, "--codes", codes}, vqvae), 1, "value 1 of image 1 is 16, expected a code from 0 to 15", "vqvae");
  check_refusal(run({"sample", "--model-path", t.model, "--temperature", "0"}, vqvae), 1, "the temperature is 0", "vqvae");

  const std::string out = t.folder / "analysis";
  const auto checked = run({"check", "--model_path", t.model, "--output_dir", out, "--batch_size", "32", "--plot", "--save_details", "--temperature", "1.0"}, codebook);
  REQUIRE_MESSAGE(checked.code == 0, checked.err);
  CHECK(has(checked.out, "normalised entropy"));
  for (const char* name : {"/codebook.json", "/counts.csv", "/batches.csv", "/report.html"}) CHECK(exists(out + name));
  CHECK(run({"visualize", "--model-path", t.model, "--output-dir", out}, codebook).code == 0);
  CHECK(exists(out + "/codes.png"));
  const auto compared = run({"compare", "--model-path", t.model, "--with", t.model, "--output-dir", out}, codebook);
  CHECK(has(compared.out, "1.00 times the reconstruction error"));
  check_refusal(run({"check", "--model-path", t.model, "--temperature", "-1"}, codebook), 2, "--temperature -1: expected more than 0", "codebook");
  check_refusal(run({"check", "--model-path", t.folder / "nothing.safetensors"}, codebook), 1, "nothing.safetensors", "codebook");
  check_refusal(run({"check", "--model-path", t.folder / "model.pt"}, codebook), 1, "pt_to_safetensors", "codebook");
}

TEST_CASE("vqvae: every quantizer and recipe trains; a run is gone on with") {
  for (const Arguments& flags : std::vector<Arguments>{{"--quantizer", "fsq", "--levels", "4,4"},
                                                       {"--quantizer", "lfq"},
                                                       {"--quantizer", "simvq"},
                                                       {"--quantizer", "gumbel"},
                                                       {"--quantizer", "residual", "--depth", "2"},
                                                       {"--quantizer", "product", "--depth", "2"},
                                                       {"--quantizer", "grouped", "--depth", "4"},
                                                       {"--low-width", "4", "--distance", "cosine", "--gradient", "rotation"},
                                                       {"--learned_codes", "--start", "data", "--l1", "0.7", "--use_amp"},
                                                       {"--recipe", "collapsing", "--grow-from", "8"},
                                                       {"--recipe", "cured", "--discriminator-width", "4"},
                                                       {"--adversarial", "0.4", "--adversary", "vanilla", "--discriminator-start", "1", "--discriminator-width", "4"},
                                                       {"--perceptual", "0.5", "--perceptual-network", VAELIB_TEST_FOLDER "/golden/lpips.safetensors"}}) {
    CAPTURE(flags[0]);
    const Trained t(flags);
    CHECK(has(t.result.out, "codes used, normalised entropy"));
  }
  const Trained t;
  check_refusal(run({"train", "--images", "48", "--image-size", "16", "--model-dir", t.folder.path, "--model-name", "small"}, vqvae), 1, "exists already; --resume goes on", "vqvae");
  const auto again = run({"train", "--resume", "--images", "48", "--epochs", "3", "--batch-size", "16", "--image-size", "16", "--width", "8", "--hidden", "4", "--blocks", "1", "--codes", "16",
                          "--code-width", "8", "--model-dir", t.folder.path, "--model-name", "small"}, vqvae);
  CHECK_MESSAGE(again.code == 0, again.err);
  CHECK(has(again.out, "epoch 3 "));
  CHECK_FALSE(has(again.out, "epoch 2 "));
}

TEST_CASE("vqvae: what is wrong with a command line is said in one line") {
  check_refusal(refused({"train", "--codes", "0"}), 2, "--codes 0: expected 1 to 1048576", "vqvae");
  check_refusal(refused({"train", "--temperature", "0"}), 2, "--temperature 0: expected more than 0", "vqvae");
  check_refusal(refused({"train", "--temperature", "-2"}), 2, "--temperature -2: expected more than 0", "vqvae");
  check_refusal(refused({"train", "--image_size", "30"}), 2, "--image-size 30: cannot be halved 2 times; expected a multiple of 4", "vqvae");
  check_refusal(refused({"train", "--quantizer", "qv"}), 2, "--quantizer qv: expected one of vq, fsq", "vqvae");
  check_refusal(refused({"train", "--levels", "8,x", "--quantizer", "fsq", "--model-dir", "/tmp/none"}), 2, "expected whole numbers separated by commas, found 'x'", "vqvae");
  check_refusal(refused({"train", "--device", "cuda"}), 1, "built without CUDA", "vqvae");
  check_refusal(refused({"train", "--val_dir", "x"}), 2, "--val-dir wants --train-dir", "vqvae");
  check_refusal(refused({"train", "--out_channels", "1"}), 2, "--out-channels 1", "vqvae");
  check_refusal(refused({"train", "--adversary", "wasserstein"}), 2, "--adversary wasserstein: expected one of hinge, vanilla", "vqvae");
  check_refusal(refused({"train", "--discriminator-layers", "5"}), 2, "--discriminator-layers 5: expected 1 to 6, and to leave 3 pixels of the image", "vqvae");
  check_refusal(refused({"train", "--perceptual-network", "vgg.safetensors"}), 2, "--perceptual-network wants --perceptual", "vqvae");
  check_refusal(refused({"train", "--perceptual", "1", "--perceptual-network", "vgg.safetensors", "--model-dir", "/tmp/vaelib-none"}), 1, "vgg.safetensors", "vqvae");
  check_refusal(refused({"train", "--no-such-flag"}), 2, "vqvae train --help lists the flags", "vqvae");
  CHECK(has(refused({"train", "--help"}).out, "--early-stopping-patience"));
}

TEST_CASE("vqvae: a model file that promises more than it holds is refused before memory is taken") {
  const TemporaryFolder folder;
  const std::string path = folder / "hostile.safetensors";
  const auto refused_with = [&](const std::string& options, const std::string& image, const std::string& sentence) {
    std::string escaped;
    for (const char c : "{'image-size':32,'out-channels':3,'discriminator-layers':2" + options + "}") escaped += c == '\'' ? std::string("\\\"") : std::string(1, c);
    const std::string header = R"({"__metadata__":{"vqvae.options":")" + escaped + R"(","vqvae.image":")" + image + R"("},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    std::string length(8, '\0');
    for (int i = 0; i < 8; ++i) length[std::size_t(i)] = char(header.size() >> 8 * i);
    vaelib::write_file_atomically(path, length + header + "1234");
    check_refusal(run({"encode", "--model-path", path, "--output", folder / "x.npy"}, vqvae), 1, sentence, "vqvae");
    check_refusal(run({"check", "--model-path", path, "--output-dir", folder / "out"}, codebook), 1, sentence, "codebook");
  };
  refused_with(",'width':4096,'hidden':4096,'blocks':64,'codes':65536,'code-width':4096", "32 32 3", "numbers, more than the 1 that the file has");
  refused_with(",'codes':1048576,'code-width':4096", "32 32 3", "a codebook of 1048576 codes of 4096 numbers, expected fewer than 2^31 numbers");
  refused_with(",'adversarial':1,'discriminator-width':1024", "32 32 3", "numbers, more than the 1 that the file has");
  refused_with(",'quantizer':'fsq','levels':'999999,999999,999999'", "32 32 3", "make 9.99997e+17 codes, expected less than 2^31");
  refused_with(",'width':-3", "32 32 3", "its metadata 'vqvae.options' cannot be: --width -3: expected 2 to 4096");
  refused_with(",'width':'wide'", "32 32 3", "are not those of this program");
  refused_with(",'quantizer':'" + std::string(3000, 'q') + "'", "32 32 3", "expected one of vq, fsq");
  refused_with("", "0 32 3", "expected height, width and 1 or 3 channels");
  refused_with("", "30 30 3", "cannot be halved 2 times");
  CHECK_FALSE(exists(folder / "x.npy"));
  CHECK_FALSE(exists(folder / "out"));
}

TEST_CASE("vqvae: photographs that cannot be used are left out and named") {
  const TemporaryFolder folder;
  const std::string photos = folder / "photos";
  vaelib::create_directories(photos);
  for (int i = 0; i < 4; ++i) vaelib::write_png(photos + "/" + std::to_string(i) + ".png", vaelib::blank_image(40, 30, 3, std::uint8_t(60 * i)));
  vaelib::write_file_atomically(photos + "/broken.png", "no picture");
  vaelib::write_png(photos + "/tiny.png", vaelib::blank_image(5, 5, 3, 9));
  const Arguments common{"--epochs", "1", "--batch-size", "4", "--image-size", "16", "--width", "8", "--hidden", "4", "--blocks", "0", "--codes", "4", "--code-width", "4", "--model-dir", folder.path};
  const auto with = [&](Arguments all) {
    all.insert(all.end(), common.begin(), common.end());
    return run(all, vqvae);
  };
  const auto crops = with({"train", "--train_dir", photos, "--crops", "--images", "16", "--model-name", "crops"});
  CHECK_MESSAGE(crops.code == 0, crops.err);
  CHECK(has(crops.err, "broken.png"));
  CHECK(has(crops.err, "tiny.png: is 5 x 5, a patch is 16 x 16"));
  const auto whole = with({"train", "--train_dir", photos, "--model-name", "whole"});
  CHECK_MESSAGE(whole.code == 0, whole.err);
  CHECK(has(whole.err, "broken.png"));
}
