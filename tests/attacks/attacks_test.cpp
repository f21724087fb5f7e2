// Every known way to attack programs by the files they read, one test each: https://github.com/huggingface/safetensors
// (attacks/), and the advisories of NumPy, PyTorch, TensorFlow, MLX, GGUF, ONNX, libpng and stb_image that have had
// them.
//
// The sentences of each reader are shown in tests/io; here it is that nothing else happens: one Error, less than 64 MB.
#include "hostile.hpp"

#include <sys/mman.h>

#include <vaelib/io/checkpoint.hpp>
#include <vaelib/io/csv.hpp>
#include <vaelib/io/idx.hpp>
#include <vaelib/io/npz.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/io/tensorboard.hpp>

#include "io/jpeg_files.hpp"

using namespace attacks;

namespace {

constexpr std::size_t megabyte = std::size_t{1} << 20;

void read_tensors(const SafetensorsFile& file) {
  for (const TensorInfo& info : file.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(info.count()));
    file.read(info.name, values);
  }
}
const auto as_safetensors = [](const std::string& path) { read_tensors(SafetensorsFile(path)); };
void as_safetensors_of(const std::string& bytes) { read_tensors(SafetensorsFile(InputFile("f", bytes))); }
const auto as_checkpoint = [](const std::string& path) { read_tensors(load_checkpoint(path).file); };
const auto as_npy = [](const std::string& path) { read_npy(path); };
const auto as_npz = [](const std::string& path) {
  for (const auto& name : npz_names(path)) read_npz(path, name);
};
const auto as_idx = [](const std::string& path) { read_idx(path); };
const auto as_csv = [](const std::string& path) { read_csv(path); };
const auto as_png = [](const std::string& path) { read_png(path); };
const auto as_jpeg = [](const std::string& path) { read_jpeg(path); };

std::string with_extents(const std::vector<std::uint8_t>& jpeg, std::uint16_t height, std::uint16_t width) {
  std::string file(jpeg.begin(), jpeg.end());
  for (std::size_t at = 0; at + 9 < file.size(); ++at)
    if (file[at] == '\xff' && (file[at + 1] == '\xc0' || file[at + 1] == '\xc2') && file[at + 2] == 0) {
      file[at + 5] = char(height >> 8), file[at + 6] = char(height), file[at + 7] = char(width >> 8),
                file[at + 8] = char(width);
      return file;
    }
  FAIL("no frame");
  return file;
}

}  // namespace

TEST_CASE("attack: code in the file") {
  const std::string zipped = "PK\x03\x04" + std::string(100, '\0') + "archive/data.pkl",
                    pickled = "\x80\x02}q\x01X" + std::string(20, '\0');
  for (const std::string& file : {zipped, pickled}) {
    check_refused(file, as_safetensors,
                  "is a pickle (torch.save), which can run code and is never read; convert it by vaelib's "
                  "examples/pt_to_safetensors.py");
    check_refused(file, as_checkpoint, "is a pickle (torch.save)");
  }
  const std::string objects = npy("1", "cos\nsystem\n(S'true'\ntR.", "|O");
  check_refused(objects, as_npy, "holds Python objects, a pickle that can run code, and is never read");
  check_refused(zip({stored("x.npy", objects)}), as_npz, "\"x\": holds Python objects");
  check_refused(zip({{"x.npy", gzip(objects), objects.size(), true}}), as_npz, "x");
}

TEST_CASE("attack: counts whose product with a size wraps around") {
  const std::vector<std::string> extents{
      "0", "1", "2147483648", "4294967296", "9223372036854775808", "18446744073709551615", "-1"};
  const std::vector<std::uint32_t> short_extents{0, 1, 1u << 31, ~0u};
  const auto one_of_each = [&](const std::string&) {
    int allowed = 0;
    const auto expect = [&](const std::string& bytes, auto read, bool empty) {
      try {
        read(InputFile("f", bytes));
      } catch (const Error&) {
        return;
      }
      if (!empty) fail("a file was read that cannot be right");
      ++allowed;
    };
    const auto every_format = [&](const std::string& shape, bool empty) {
      const auto read_safetensors = [](InputFile file) { read_tensors(SafetensorsFile(std::move(file))); };
      const auto read_npz_file = [](const InputFile& file) { read_npz(file, "x"); };
      for (const std::uint64_t end : {std::uint64_t{0}, std::uint64_t{4}, ~std::uint64_t{0}, std::uint64_t{1} << 63})
        expect(safetensors('{' + tensor("a", shape, 0, end) + '}', end == 4 ? "data" : ""), read_safetensors,
               end == 0 ? empty : end == 4 && shape == "1, 1, 1");
      expect(
          checkpoint(tensor("a", shape, 0, 0), ""),
          [](const InputFile& file) { read_tensors(load_checkpoint(file).file); }, empty);
      expect(
          npy(shape), [](const InputFile& file) { read_npy(file); }, empty);
      expect(zip({stored("x.npy", npy(shape))}), read_npz_file, empty);
      expect(zip({{"x.npy", gzip(npy(shape)), npy(shape).size(), true}}), read_npz_file, empty);
    };
    for (const auto& a : extents)
      for (const auto& b : extents)
        for (const auto& c : extents) every_format(a + ", " + b + ", " + c, a == "0" || b == "0" || c == "0");
    for (const auto& extent : {"2", "8", "65536", "2147483648", "4611686018427387904"})
      for (const auto* last : {"1", "3", "0"}) {
        std::string shape;
        for (int axis = 0; axis < 19; ++axis) shape += text(extent, ", ");
        every_format(shape + last, last[0] == '0');
      }
    for (const auto a : short_extents)
      for (const auto b : short_extents)
        for (const auto c : short_extents)
          for (const bool packed : {false, true})
            expect(
                packed ? gzip(idx({a, b, c})) : idx({a, b, c}), [](const InputFile& file) { read_idx(file); },
                a == 0 || b == 0 || c == 0);
    expect(
        idx(std::vector<std::uint32_t>(8, ~0u)), [](const InputFile& file) { read_idx(file); }, false);
    if (allowed < 100) fail("only ", allowed, " empty arrays were read");
  };
  const Outcome outcome = outcome_of("", one_of_each);
  CHECK(outcome.error == "");
  CHECK(outcome.orderly);
  if (memory_is_our_own) CHECK(outcome.megabytes < 64);
}

TEST_CASE("attack: shape and size differ") {
  for (const std::size_t found : {11, 13, 0}) {
    const std::string data(found, 'x');
    check_refused(safetensors('{' + tensor("a", "3", 0, found) + '}', data), as_safetensors, "need 12 bytes");
    check_refused(safetensors('{' + tensor("a", "3", 0, 12) + '}', data), as_safetensors,
                  found < 12 ? "is truncated" : "expected 12 bytes");
    check_refused(checkpoint(tensor("a", "3", 0, found), data), as_checkpoint, "need 12 bytes");
    check_refused(npy("3", data), as_npy, "its shape needs 12 bytes of values");
    check_refused(zip({stored("a.npy", npy("3", data))}), as_npz, "its shape needs 12 bytes of values");
    check_refused(idx({3, 4}, data), as_idx, "the extents need 12 bytes of values");
    check_refused(gzip(idx({3, 4}, data)), as_idx,
                  found < 12 ? "found the end of the gzip data" : "more values than its extents");
  }
}

TEST_CASE("attack: the length of a header") {
  for (const std::uint64_t length : {std::uint64_t{1} << 31, std::uint64_t{1} << 32, std::uint64_t{100'000'000},
                                     ~std::uint64_t{0}, ~std::uint64_t{0} - 8}) {
    check_refused(little(length, 8) + "{}", as_safetensors, "is above the limit of 16000000");
    check_refused(little(length, 8) + "{}", as_checkpoint, "is above the limit of 16000000");
  }
  check_refused(little(16'000'000, 8) + "{}", as_safetensors, "the header needs 16000000 bytes, found 2");
  check_refused(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12), as_npy,
                "a header of 4294967295 bytes; expected at most 0");
  std::string far = zip({stored("a.npy", npy("0"))});
  for (const std::size_t field : {10u, 6u}) {  // from the end: the directory's size, its place
    std::string changed = far;
    changed.replace(changed.size() - field, 4, "\xff\xff\xff\xff");
    check_refused(changed, as_npz, "is a damaged zip file: a directory of ");
  }
}

TEST_CASE("attack: bytes outside of the file") {
  // The decoders of images get a span: it ends where the readable memory ends. (All other readers go through
  // InputFile.)
  const Image picture = blank_image(9, 7, 3, 50);
  const auto png_bytes = encode_png(picture), jpeg_bytes = encode_jpeg(picture),
             progressive = encode_jpeg(picture, true);
  const auto read_all_parts = [&](const std::string&) {
    const std::size_t page = 4096;
    auto* memory = static_cast<std::uint8_t*>(
        ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(memory + page, page, PROT_NONE);
    for (const auto& file : {png_bytes, jpeg_bytes, progressive})
      for (std::size_t length = 0; length <= file.size(); ++length) {
        std::uint8_t* start = memory + page - length;
        std::copy_n(file.begin(), length, start);
        error_of([&] { decode_png({start, length}); });
        error_of([&] { decode_jpeg({start, length}); });
      }
  };
  CHECK(outcome_of("", read_all_parts).orderly);
}

TEST_CASE("attack: bombs, which unpack to a thousand times their size") {
  const std::uint64_t gigabyte = std::uint64_t{1} << 30;
  const auto array = [](std::uint64_t size) { return npy(std::to_string(size), "", "|u1"); };
  SUBCASE("10 MB that unpack to 10 GB") {
    const std::uint64_t size = 10 * gigabyte;
    CHECK(gzip("", size).size() < 11 * megabyte);
    check_refused(gzip(idx({10, 1u << 30}), size), as_idx, "the extents need 10737418240 bytes of values, at most");
    check_refused(zip({{"x.npy", deflated(array(size), size, -MAX_WBITS), 0xfffffff0, true}}), as_npz,
                  "its shape needs 10737418240 bytes");
    check_refused(gzip(idx({10}), size), as_idx, "has more values than its extents declare");
    check_refused(png(1u << 16, 1u << 15, 8, 0, deflated("", size, MAX_WBITS)), as_png, "pixels, at most 67108864");
  }
  SUBCASE("1 MB that unpack to 1 GB, of which as much is declared as may be") {
    const std::uint64_t allowed = 48 * megabyte;
    check_refused(gzip(idx({std::uint32_t(allowed)}), gigabyte), as_idx, "has more values");
    check_refused(zip({{"x.npy", deflated(array(allowed / 4), gigabyte, -MAX_WBITS),
                        array(allowed / 4).size() + allowed / 4, true}}),
                  as_npz, "is damaged");
    check_refused(
        zip({{"x.npy", deflated(array(allowed), gigabyte, -MAX_WBITS), array(allowed).size() + allowed, true}}), as_npz,
        "values; at most 12582912 are expected");
    check_refused(png(4096, 4096, 8, 2, deflated("", 48 * megabyte, MAX_WBITS)), as_png,
                  "no valid PNG file");  // 1 byte a row is missing
  }
  SUBCASE("in the parts of a picture that nobody looks at") {
    const std::string bomb = deflated("", 400 * megabyte, MAX_WBITS), pixels = deflated("", 2, MAX_WBITS);
    for (const std::string& chunk :
         {png_chunk("zTXt", std::string("k\0\0", 3) + bomb), png_chunk("iCCP", std::string("k\0\0", 3) + bomb),
          png_chunk("iTXt", std::string("k\0\1\0\0\0", 6) + bomb)})
      check_small(png(1, 1, 8, 0, pixels, chunk), as_png);
    std::string many;
    while (many.size() < megabyte) many += png_chunk("tEXt", std::string("k\0", 2));
    check_small(png(1, 1, 8, 0, pixels, many), as_png);
  }
}

TEST_CASE("attack: names that are paths") {
  const TemporaryFolder folder;
  create_directories(folder / "inner");
  const std::string model = folder / "inner/model.safetensors", arrays = folder / "inner/x.npz";
  const std::vector<std::string> names{"../escape",  folder / "absolute",        "..",    "a/../../../b",
                                       "/dev/stdin", std::string("nul\0nul", 7), "C:\\x", "inner/y"};
  const std::vector<float> one{1};
  std::vector<SafetensorsView> tensors;
  std::vector<Member> members;
  for (const auto& name : names) {
    tensors.push_back(SafetensorsView::of(name, {1}, one));
    members.push_back(stored(name + ".npy", npy("1", "data")));
  }
  safetensors_write(model, tensors, {{"../key", "../value"}});
  CheckpointStore(folder / "inner").save(1, tensors);
  write_raw(arrays, zip(members));
  as_safetensors(model);
  as_checkpoint(CheckpointStore(folder / "inner").path_of(1));
  as_npz(arrays);
  CHECK(contains(error_of([&] { read_npz(arrays, "../inner/x.npz"); }), "has no array"));
  {
    EventFile events(folder / "inner/logs");
    for (const auto& name : names) events.scalar(1, name, 1.0);
    CHECK(names_in(folder / "inner/logs").size() == 1);
  }
  CHECK(names_in(folder.path) == std::vector<std::string>{"inner"});
  CHECK(names_in(folder / "inner") ==
        std::vector<std::string>{"checkpoint-000000000001.safetensors", "logs", "model.safetensors", "x.npz"});
}

TEST_CASE("attack: pictures of impossible sizes") {
  const std::string pixels = deflated("", 1000, MAX_WBITS);
  for (const auto& [width, height] :
       {std::pair{0u, 0u}, {0u, 1u}, {0x7fffffffu, 0x7fffffffu}, {0xffffffffu, 1u}, {1u << 31, 2u}})
    check_refused(png(width, height, 8, 2, pixels), as_png, "no valid PNG file");
  check_refused(png(8193, 8192, 8, 0, pixels), as_png, "8193 x 8192 pixels, at most 67108864 expected");
  check_refused(png(65537, 1, 8, 0, pixels), as_png, "at most 65536 a side expected");
  check_refused(png(1, 900000, 8, 0, pixels), as_png, "at most 65536 a side expected");
  check_refused(png(8192, 8192, 8, 0, pixels), as_png, "8192 x 8192 pixels are more than is expected of ");
  check_refused(png(8192, 8192, 1, 0, deflated("", 1025 * 8192, MAX_WBITS)), as_png,
                "pixels are more than is expected");  // whole, and white
  check_refused(png(4000, 4000, 8, 2, pixels), as_png, "pixels are more than is expected");
  for (const std::uint32_t length :
       {0x222d0000u, 0x7fffffffu, ~0u})  // found by a fuzzer: libpng takes memory for the whole chunk
    check_refused(png(8, 8, 8, 0, "").substr(0, 33) + big(length) + "zTXt...", as_png,
                  text("byte 33: a chunk of ", length, " bytes is cut off"));
  check_refused("\x89PNG\r\n\x1a\n" + png_chunk("gAMA", big(1)) + png(8, 8, 8, 0, pixels).substr(8), as_png,
                "its first chunk is not IHDR");
  for (const int interlaced : {0, 1})  // rows as long and as deep as they may be
    check_refused(png(65536, 255, 16, 6, std::string(megabyte, 'x'), "", interlaced), as_png, "no valid PNG file");

  const Image grey = blank_image(16, 16, 1, 50), colour = blank_image(16, 16, 3, 50);
  check_refused(with_extents(encode_jpeg(colour), 0xffff, 0xffff), as_jpeg, "no valid JPEG file");  // above 65500
  check_refused(with_extents(encode_jpeg(colour), 0, 16), as_jpeg, "no valid JPEG file");
  check_refused(with_extents(encode_jpeg(colour), 65000, 65000), as_jpeg,
                "65000 x 65000 pixels, at most 67108864 expected");
  check_refused(with_extents(encode_jpeg(colour), 8000, 8000), as_jpeg,
                "8000 x 8000 pixels are more than is expected of ");
  check_refused(with_extents(encode_jpeg(grey), 7000, 7000), as_jpeg,
                "no valid JPEG file");  // allowed, but cut off: no memory is taken for the rest
  check_refused(with_extents(encode_jpeg(colour), 4000, 4000), as_jpeg, "no valid JPEG file");
  check_refused(with_extents(encode_jpeg(colour, true), 4000, 4000), as_jpeg,
                "pixels are more than is expected");  // scans are kept in memory
  check_refused(with_extents(encode_jpeg(colour, true), 2300, 2300), as_jpeg, "no valid JPEG file");
}

// The proposals of safetensors' attacks/README.md, by their numbers.
TEST_CASE("attack on safetensors 1: the first eight bytes are more than the file") {
  check_refused(little(1000, 8) + "{}", as_safetensors, "is truncated: the header needs 1000 bytes, found 2");
}
TEST_CASE("attack on safetensors 2: a header as large as the file") {
  std::string tensors = "{", metadata = "{\"__metadata__\":{";
  for (int i = 0; tensors.size() < megabyte - 100; ++i) tensors += tensor(std::to_string(i), "0", 0, 0, "U8") + ',';
  for (int i = 0; metadata.size() < megabyte - 100; ++i) metadata += text('"', i, "\":\"\",");
  tensors.back() = '}', metadata.back() = '}';
  check_small(safetensors(tensors), as_safetensors);
  check_small(safetensors(metadata + '}'), as_safetensors);
  std::string axes = "1";
  for (int axis = 1; axis < 64; ++axis) axes += ",1";
  as_safetensors_of(safetensors('{' + tensor("a", axes, 0, 4) + '}', "data"));
  while (axes.size() < megabyte - 200) axes += ",1";
  check_refused(safetensors('{' + tensor("a", axes, 0, 4) + '}', "data"), as_safetensors,
                "a shape of more than 64 axes");
  check_refused(safetensors('{' + std::string(16'000'000, ' ') + '}'), as_safetensors,
                "is above the limit of 16000000");
}
TEST_CASE("attack on safetensors 3: offsets that are negative or outside of the file") {
  check_refused(safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}"), as_safetensors,
                "expected an unsigned integer");
  check_refused(safetensors('{' + tensor("a", "1", 100, 104) + '}', "data"), as_safetensors,
                "expected data_offsets to begin at 0");
  check_refused(safetensors('{' + tensor("a", "25", 0, 100) + '}', "data"), as_safetensors, "is truncated");
  check_refused(safetensors('{' + tensor("a", "4611686018427387903", 0, ~std::uint64_t{3}) + '}', "data"),
                as_safetensors, "is truncated");
}
TEST_CASE("attack on safetensors 4: thousands of tensors in the same bytes") {
  std::string header = "{";
  for (int i = 0; i < 8000; ++i) header += tensor(std::to_string(i), "125000", 0, 500'000) + ',';
  header.back() = '}';
  check_refused(safetensors(header, std::string(500'000, 'x')), as_safetensors,
                "expected data_offsets to begin at 500000");
}
TEST_CASE("attack on safetensors 5: offsets that do not fit type and shape") {
  check_refused(safetensors('{' + tensor("a", "1", 0, 8) + '}', "datadata"), as_safetensors,
                "need 4 bytes, its data_offsets span 8");
  check_refused(safetensors('{' + tensor("a", "2", 0, 4, "F16") + ',' + tensor("b", "1", 2, 6) + '}', "data12"),
                as_safetensors, "begin at 4");
}
TEST_CASE("attack on safetensors 6, and every other file that is cut while it is read") {
  static std::string path;
  static int reads_left;
  const TemporaryFolder folder;
  path = folder / "f";
  const FileHook cut = [](const char* operation) {
    if (std::string_view(operation) == "read" && reads_left-- == 0 && ::truncate(path.c_str(), 30) != 0) return EIO;
    return 0;
  };
  const auto image = encode_png(blank_image(20, 20, 3, 1));
  const std::string values(400, 'x');
  const auto check_every_read = [&](const std::string& bytes, auto read) {
    write_raw(path, bytes);
    CHECK(error_of([&] { read(path); }) == "");
    for (int at = 0;; ++at) {
      write_raw(path, bytes);
      reads_left = at;
      file_hook = cut;
      const std::string error = error_of([&] { read(path); });
      file_hook = nullptr;
      if (reads_left >= 0) break;   // it reads no more often
      if (error.empty()) continue;  // what was needed had been read
      CHECK(contains(error, "the file was shortened while it was read"));
      REQUIRE(at < 100);
    }
    write_raw(path, bytes);
    reads_left = 0;
    file_hook = cut;
    CHECK(contains(error_of([&] { read(path); }), path));
    file_hook = nullptr;
  };
  check_every_read(safetensors('{' + tensor("a", "100", 0, 400) + '}', values), as_safetensors);
  check_every_read(checkpoint(tensor("a", "100", 0, 400), values), as_checkpoint);
  check_every_read(npy("100", values), as_npy);
  check_every_read(zip({stored("x.npy", npy("100", values))}), as_npz);
  check_every_read(idx({400}, values), as_idx);
  check_every_read("1,2\n3,4\n5,6\n7,8\n9,10\n11,12\n13,14\n15,16\n", as_csv);
  check_every_read({image.begin(), image.end()}, as_png);
}
TEST_CASE("attack on safetensors 7: a header that abuses the parser") {
  const std::string open = "{\"a\":", deep(megabyte - 100, '[');
  for (const std::string& header : std::vector<std::string>{
           '{' + std::string(megabyte, '{'), open + deep, open + "{\"shape\":" + deep,
           std::string("{\"__metadata__\":") + std::string(megabyte / 5, '{'), "{\"" + std::string(megabyte, 'a'),
           "{\"a\\ud800\":1}", "{\"a\\", "{\"\xed\xa0\x80\":1}", "{\xef\xbb\xbf}", std::string("{\0}", 3),
           "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e9],\"data_offsets\":[0,4]}}",
           open + std::string(megabyte, '1') + '}'})
    check_refused(safetensors(header), as_safetensors, "byte ");
}

TEST_CASE("attack: one file, two meanings") {
  const std::string good = safetensors('{' + tensor("a", "1", 0, 4) + '}', "data"), array = npy("1", "data"),
                    archive = zip({stored("x.npy", array)});
  SUBCASE("another file behind it") {
    check_refused(good + archive, as_safetensors, "expected 4 bytes of tensors behind the header");
    check_refused(array + archive, as_npy, "its shape needs 4 bytes of values");
    check_refused(idx({4}, "data") + archive, as_idx, "the extents need 4 bytes");
    check_refused(gzip(idx({4}, "data")) + gzip("more"), as_idx, "foreign bytes behind the gzip data");
    check_refused(checkpoint("", "") + archive, as_checkpoint, "behind the header");
  }
  SUBCASE("another file before it") { check_refused(good + archive, as_npz, "damaged zip file"); }
  SUBCASE("holes: bytes that no tensor owns") {
    check_refused(safetensors('{' + tensor("a", "1", 0, 4) + ',' + tensor("b", "1", 8, 12) + '}', "datahid!data"),
                  as_safetensors, "begin at 4");
    check_refused(safetensors('{' + tensor("a", "1", 4, 8) + '}', "hid!data"), as_safetensors, "begin at 0");
  }
  SUBCASE("the same name twice") {
    check_refused(safetensors('{' + tensor("a", "1", 0, 4) + ',' + tensor("a", "1", 4, 8) + '}', "datadata"),
                  as_safetensors, "two tensors have the name \"a\"");
    check_refused(
        safetensors('{' + tensor("a", "1", 0, 4) + ",\"\\u0061\":" + tensor("", "1", 4, 8).substr(3) + '}', "datadata"),
        as_safetensors, "two tensors have the name \"a\"");
    check_refused(zip({stored("x.npy", array), stored("x.npy", npy("1", "evil"))}), as_npz,
                  "two entries have the name \"x.npy\"");
    check_refused(npy("1,), 'shape': (2", "data"), as_npy, "each once");
  }
  SUBCASE("an entry that is called otherwise where it lies, or lies in another") {
    check_refused(zip({{"x.npy", array, array.size(), false, "y.npy"}}), as_npz,
                  "entry \"x.npy\": is called \"y.npy\" at byte 0");
    std::string overlapping = zip({stored("x.npy", array), stored("y.npy", array)});
    overlapping.replace(overlapping.rfind("y.npy") - 4, 4, little(0, 4));
    check_refused(overlapping, as_npz, "entry \"y.npy\": is called \"x.npy\" at byte 0");
  }
}

TEST_CASE("attack: a megabyte of whatever takes most memory") {
  const auto repeated = [](std::string_view part, std::size_t size = megabyte) {
    std::string content;
    while (content.size() + part.size() <= size) content += part;
    return content;
  };
  for (const auto* part : {",", "\n", "1\n", "1,", "\"\",", "a,", "1,2\n", "\"", "\r\n", "aaaaaaaaaaaaaaaa,"}) {
    CAPTURE(part);
    check_small(repeated(part), as_csv);
    check_small("1" + repeated(part) + "\nx", as_csv);
  }
  check_refused(repeated(","), as_csv, "row 1: has more than 262144 fields");
  std::vector<Member> members;
  for (int i = 0; i < 10'000; ++i) members.push_back({std::to_string(i) + ".npy", "", 0, false, ""});
  check_refused(zip(members), as_npz, "is called \"\" at byte 0");
  std::string forged = zip({});
  forged.replace(forged.size() - 12, 2, "\xff\xff");  // 65535 entries, and not one
  check_refused(forged, as_npz, "an entry of its directory is cut off");
  for (const auto& read : {Reader(as_safetensors), Reader(as_checkpoint), Reader(as_npy), Reader(as_npz),
                           Reader(as_idx), Reader(as_png), Reader(as_jpeg)})
    for (const auto* part : {"\xff", "{", "PK\x01\x02", "\x1f\x8b\x08"})
      check_refused(repeated(part), read, "hostile: ");
}

#ifdef VAELIB_VAE_PROGRAM
TEST_CASE("attack: configurations of the program vae") {
  const auto configure = [](const std::string& path) {
    ::dup2(::open("/dev/null", O_WRONLY), 2);
    ::execl(VAELIB_VAE_PROGRAM, "vae", "train", "--config", path.c_str(), nullptr);
  };
  std::string names = "{", numbers = "{\"options\":[1", deep = "{\"options\":";
  for (int i = 0; names.size() < megabyte - 20; ++i) names += text('"', i, "\":1,");
  while (numbers.size() < megabyte - 10) numbers += ",\"\"";
  names.back() = '}', numbers += "]}",
  deep += std::string(megabyte / 2 - 20, '[') + std::string(megabyte / 2 - 20, ']') + '}';
  for (const std::string& file : {names, numbers, deep, std::string(megabyte, '['), std::string(megabyte, '{'),
                                  std::string("{\"seed\":1e999}"), std::string("{\"\x1b[2J\":1}")})
    check_small(file, configure);
}
#endif
