#include <vaelib/io/safetensors.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

// Written by safetensors 0.8.0 for Python: safetensors.numpy.save, safetensors.torch.save, save({}).
constexpr unsigned char numpy_file[] = {
    0xc0, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7b, 0x22, 0x5f, 0x5f, 0x6d, 0x65, 0x74, 0x61, 0x64, 0x61, 0x74,
    0x61, 0x5f, 0x5f, 0x22, 0x3a, 0x7b, 0x22, 0x6b, 0x5c, 0x74, 0x22, 0x3a, 0x22, 0xc3, 0xa9, 0xe2, 0x80, 0xa8, 0x5c,
    0x62, 0x22, 0x7d, 0x2c, 0x22, 0x73, 0x74, 0x65, 0x70, 0x73, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79, 0x70, 0x65,
    0x22, 0x3a, 0x22, 0x49, 0x36, 0x34, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a, 0x5b, 0x32, 0x5d,
    0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22, 0x3a, 0x5b, 0x30, 0x2c,
    0x31, 0x36, 0x5d, 0x7d, 0x2c, 0x22, 0x61, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22,
    0x46, 0x36, 0x34, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a, 0x5b, 0x5d, 0x2c, 0x22, 0x64, 0x61,
    0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22, 0x3a, 0x5b, 0x31, 0x36, 0x2c, 0x32, 0x34, 0x5d,
    0x7d, 0x2c, 0x22, 0x62, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x46, 0x33, 0x32,
    0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a, 0x5b, 0x33, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61,
    0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22, 0x3a, 0x5b, 0x32, 0x34, 0x2c, 0x33, 0x36, 0x5d, 0x7d, 0x2c,
    0x22, 0xc3, 0xa9, 0x5c, 0x6e, 0x5c, 0x22, 0x5c, 0x5c, 0x2f, 0x5c, 0x75, 0x30, 0x30, 0x30, 0x31, 0x22, 0x3a, 0x7b,
    0x22, 0x64, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x46, 0x33, 0x32, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70,
    0x65, 0x22, 0x3a, 0x5b, 0x32, 0x2c, 0x30, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73,
    0x65, 0x74, 0x73, 0x22, 0x3a, 0x5b, 0x33, 0x36, 0x2c, 0x33, 0x36, 0x5d, 0x7d, 0x2c, 0x22, 0x68, 0x22, 0x3a, 0x7b,
    0x22, 0x64, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x46, 0x31, 0x36, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70,
    0x65, 0x22, 0x3a, 0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74,
    0x73, 0x22, 0x3a, 0x5b, 0x33, 0x36, 0x2c, 0x34, 0x30, 0x5d, 0x7d, 0x2c, 0x22, 0x75, 0x22, 0x3a, 0x7b, 0x22, 0x64,
    0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x55, 0x38, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a,
    0x5b, 0x31, 0x2c, 0x33, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73,
    0x22, 0x3a, 0x5b, 0x34, 0x30, 0x2c, 0x34, 0x33, 0x5d, 0x7d, 0x2c, 0x22, 0x66, 0x6c, 0x61, 0x67, 0x22, 0x3a, 0x7b,
    0x22, 0x64, 0x74, 0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x42, 0x4f, 0x4f, 0x4c, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61,
    0x70, 0x65, 0x22, 0x3a, 0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65,
    0x74, 0x73, 0x22, 0x3a, 0x5b, 0x34, 0x33, 0x2c, 0x34, 0x35, 0x5d, 0x7d, 0x7d, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x9a, 0x99, 0x99,
    0x99, 0x99, 0x99, 0xb9, 0x3f, 0x00, 0x00, 0xc0, 0x3f, 0x00, 0x00, 0x00, 0xc0, 0xcd, 0xcc, 0xcc, 0x3d, 0x00, 0x3c,
    0x00, 0xb8, 0x01, 0x02, 0xff, 0x01, 0x00,
};
constexpr unsigned char torch_file[] = {
    0xe0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7b, 0x22, 0x43, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79,
    0x70, 0x65, 0x22, 0x3a, 0x22, 0x49, 0x33, 0x32, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a,
    0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22,
    0x3a, 0x5b, 0x30, 0x2c, 0x38, 0x5d, 0x7d, 0x2c, 0x22, 0x42, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79, 0x70,
    0x65, 0x22, 0x3a, 0x22, 0x42, 0x46, 0x31, 0x36, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a,
    0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22,
    0x3a, 0x5b, 0x38, 0x2c, 0x31, 0x32, 0x5d, 0x7d, 0x2c, 0x22, 0x41, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74, 0x79,
    0x70, 0x65, 0x22, 0x3a, 0x22, 0x46, 0x31, 0x36, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22, 0x3a,
    0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73, 0x22,
    0x3a, 0x5b, 0x31, 0x32, 0x2c, 0x31, 0x36, 0x5d, 0x7d, 0x2c, 0x22, 0x44, 0x22, 0x3a, 0x7b, 0x22, 0x64, 0x74,
    0x79, 0x70, 0x65, 0x22, 0x3a, 0x22, 0x55, 0x31, 0x36, 0x22, 0x2c, 0x22, 0x73, 0x68, 0x61, 0x70, 0x65, 0x22,
    0x3a, 0x5b, 0x32, 0x5d, 0x2c, 0x22, 0x64, 0x61, 0x74, 0x61, 0x5f, 0x6f, 0x66, 0x66, 0x73, 0x65, 0x74, 0x73,
    0x22, 0x3a, 0x5b, 0x31, 0x36, 0x2c, 0x32, 0x30, 0x5d, 0x7d, 0x7d, 0x20, 0x20, 0x20, 0x20, 0x20, 0x01, 0x00,
    0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0xc0, 0x3f, 0x40, 0xc0, 0x00, 0x3c, 0x00, 0x40, 0x01, 0x00, 0x02, 0x00,
};
constexpr unsigned char empty_file[] = {
    0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7b, 0x7d, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
};

template <std::size_t n>
std::string bytes(const unsigned char (&array)[n]) {
  return {reinterpret_cast<const char*>(array), n};
}

std::string with_length(const std::string& header, std::uint64_t length) {
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, 8);
  return prefix + header;
}
std::string with_header(const std::string& header, std::size_t data = 0) {
  return with_length(header, header.size()) + std::string(data, '\x01');
}
SafetensorsFile opened(const std::string& content) { return SafetensorsFile(InputFile("f", content)); }
/// The error of a file with this header and so many bytes behind it.
std::string refused(const std::string& header, std::size_t data = 0) {
  return error_of([&] { opened(with_header(header, data)); });
}
std::string entry(const std::string& name, const std::string& shape, std::size_t begin, std::size_t end,
                  const std::string& dtype = "F32") {
  return text('"', name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ',', end,
              "]}");
}

const std::string odd_name = "\u00e9\n\"\\/\x01";

}  // namespace

TEST_CASE("the file of numpy is read") {
  const SafetensorsFile file = opened(bytes(numpy_file));
  CHECK(file.metadata() == Metadata{{"k\t", "\u00e9\u2028\b"}});
  REQUIRE(file.tensors().size() == 7);
  CHECK(file.tensors()[0].name == "steps");
  CHECK(file.tensors()[6].name == "flag");
  REQUIRE(file.find(odd_name));
  CHECK(file.find(odd_name)->shape == std::vector<std::int64_t>{2, 0});
  CHECK(file.find("a")->shape.empty());
  CHECK(file.find("none") == nullptr);
  const auto floats = [&](const std::string& name) {
    std::vector<float> values(static_cast<std::size_t>(file.find(name)->count()));
    file.read(name, values);
    return values;
  };
  CHECK(floats("steps") == std::vector<float>{1, -2});
  CHECK(floats("a") == std::vector<float>{0.1f});
  CHECK(floats("b") == std::vector<float>{1.5f, -2, 0.1f});
  CHECK(floats(odd_name).empty());
  CHECK(floats("u") == std::vector<float>{1, 2, 255});
  CHECK(floats("h") == std::vector<float>{1, -0.5f});
  CHECK(floats("flag") == std::vector<float>{1, 0});
  std::vector<std::int64_t> steps(2);
  file.read_exactly("steps", std::span(steps));
  CHECK(steps == std::vector<std::int64_t>{1, -2});
  std::vector<float> two(2);
  CHECK(error_of([&] { file.read("b", two); }) == "f: tensor \"b\": expected 2 values, found the shape [3]");
  CHECK(error_of([&] { file.read("none", two); }) == "f: has no tensor \"none\"");
  CHECK(error_of([&] { file.read_exactly("steps", std::span(two)); }) ==
        "f: tensor \"steps\": expected the type F32, found I64");
}

TEST_CASE("files are byte for byte those of the reference") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const auto written = [&](const std::vector<SafetensorsView>& tensors, const Metadata& metadata = {}) {
    safetensors_write(path, tensors, metadata);
    return read_file(path, 1 << 20);
  };
  const float b[] = {1.5f, -2, 0.1f};
  const double a = 0.1;
  const std::int64_t steps[] = {1, -2};
  const std::uint8_t u[] = {1, 2, 255}, flag[] = {1, 0};
  const std::uint16_t h[] = {float_to_f16(1), float_to_f16(-0.5f)};
  CHECK(written({{"b", Dtype::f32, {3}, b},
                 {"a", Dtype::f64, {}, &a},
                 {odd_name, Dtype::f32, {2, 0}, nullptr},
                 {"steps", Dtype::i64, {2}, steps},
                 {"u", Dtype::u8, {1, 3}, u},
                 {"h", Dtype::f16, {2}, h},
                 {"flag", Dtype::boolean, {2}, flag}},
                {{"k\t", "\u00e9\u2028\b"}}) == bytes(numpy_file));
  const std::uint16_t B[] = {float_to_bf16(1.5f), float_to_bf16(-3)}, A[] = {float_to_f16(1), float_to_f16(2)};
  const std::vector<std::int32_t> C{1, 2};
  const std::vector<std::uint16_t> D{1, 2};
  CHECK(written({{"B", Dtype::bf16, {2}, B},
                 {"A", Dtype::f16, {2}, A},
                 SafetensorsView::of("C", {2}, C),
                 SafetensorsView::of("D", {2}, D)}) == bytes(torch_file));
  CHECK(written({}) == bytes(empty_file));
}

TEST_CASE("what is written is read again, on disk, in pieces larger than the buffer") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  std::vector<double> values(10001);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) / 4;
  std::vector<float> special{std::nanf(""), INFINITY, -INFINITY, -0.0f};
  safetensors_write(path,
                    {SafetensorsView::of("values", {73, 137}, values), SafetensorsView::of("special", {2, 2}, special)},
                    {{"b", "2"}, {"a", "1"}});
  const SafetensorsFile file(path);
  std::vector<float> got(values.size());
  file.read("values", got);
  CHECK(std::equal(got.begin(), got.end(), values.begin()));
  got.resize(4);
  file.read("special", got);
  CHECK(std::memcmp(got.data(), special.data(), 16) == 0);
  CHECK(file.metadata() == Metadata{{"a", "1"}, {"b", "2"}});
}

TEST_CASE("the writer refuses what nobody could read") {
  const TemporaryFolder folder;
  const float x = 1;
  const auto refusal = [&](const std::vector<SafetensorsView>& tensors, const Metadata& metadata = {}) {
    return error_of([&] { safetensors_write(folder / "a", tensors, metadata); });
  };
  CHECK(contains(refusal({{"x", Dtype::f32, {1}, &x}, {"x", Dtype::f32, {1}, &x}}), "two tensors have the name \"x\""));
  CHECK(contains(refusal({{"__metadata__", Dtype::f32, {1}, &x}}), "__metadata__"));
  CHECK(contains(refusal({{"\xff", Dtype::f32, {1}, &x}}), "UTF-8"));
  CHECK(contains(refusal({}, {{"a", "\xc0\x80"}}), "UTF-8"));
  CHECK(contains(refusal({{"x", Dtype::f32, {-1}, &x}}), "impossible shape [-1]"));
  CHECK(contains(refusal({}, {{"a", std::string(17'000'000, 'x')}}), "above the limit"));
  CHECK(contains(error_of([&] { SafetensorsView::of("x", {2}, std::span<const float>(&x, 1)); }),
                 "does not have 1 values"));
  CHECK(names_in(folder.path).empty());
}

TEST_CASE("foreign, empty and truncated files") {
  CHECK(error_of([] { opened(""); }) == "f: is no safetensors file: it has only 0 bytes");
  CHECK(contains(error_of([] { opened(std::string(8, '\0')); }), "only 8 bytes"));
  CHECK(contains(error_of([] { opened("hello, I am a text file"); }), "f: byte 8: is no safetensors file"));
  const std::string pickle_advice = "convert it by vaelib's examples/pt_to_safetensors.py";
  CHECK(contains(error_of([] { opened(std::string("PK\x03\x04\0\0\x08\x08\0\0archive", 17)); }), pickle_advice));
  CHECK(contains(error_of([] { opened(std::string("\x80\x02}q\0X\x05\0\0\0model", 16)); }), pickle_advice));
  const std::string whole = bytes(numpy_file);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK(contains(error_of([&] { opened(whole.substr(0, size)); }), "f: "));
  }
  CHECK(contains(error_of([&] { opened(whole.substr(0, whole.size() - 1)); }),
                 "is truncated: the tensors need 45 bytes behind the header, the file has 44"));
  CHECK(contains(error_of([&] { opened(whole + "x"); }), "expected 45 bytes of tensors behind the header, found 46"));
}

TEST_CASE("header lengths") {
  const std::string header = "{}";
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{1} << 20, std::uint64_t{1} << 32,
                                     std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{7}}) {
    CAPTURE(length);
    CHECK(error_of([&] { opened(with_length(header, length)); }) != "");
  }
  CHECK(contains(error_of([&] { opened(with_length(header, 3)); }),
                 "byte 0: is truncated: the header needs 3 bytes, found 2"));
  CHECK(error_of([&] { opened(with_length("{}", 0)); }) != "");
  CHECK(error_of([&] { opened(with_length("{}", 1)); }) != "");
  const std::string large = "{" + std::string(100, ' ') + "}";
  CHECK(
      contains(error_of([&] { SafetensorsFile(InputFile("f", with_header(large)), 101); }), "above the limit of 101"));
  CHECK_NOTHROW(SafetensorsFile(InputFile("f", with_header(large)), 102));
}

TEST_CASE("headers that are allowed") {
  CHECK(refused("{}") == "");
  CHECK(refused("{}     ") == "");
  CHECK(refused("{\"__metadata__\":{}}") == "");
  CHECK(refused("{" + entry("", "[]", 0, 4) + "}", 4) == "");
  CHECK(refused("{ " + entry("b", "[1]", 4, 8) + " ,\n" + entry("a", "[1]", 0, 4) + "}", 8) == "");  // any order
  CHECK(refused("{" + entry("a", "[0]", 0, 0) + "," + entry("b", "[2,0]", 0, 0) + "," + entry("c", "[1]", 0, 4) + "}",
                4) == "");
  CHECK(refused("{" + entry("a", "[9223372036854775807,0]", 0, 0, "U8") + "}") == "");
}

TEST_CASE("attacks on the layout: holes, overlaps, wrapped products") {
  CHECK(contains(refused("{" + entry("a", "[1]", 4, 8) + "}", 8), "begin at 0, where the one before ends, found 4"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4) + "," + entry("b", "[1]", 8, 12) + "}", 12), "begin at 4"));
  CHECK(contains(refused("{" + entry("a", "[2]", 0, 8) + "," + entry("b", "[1]", 4, 8) + "}", 8), "begin at 8"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4) + "," + entry("b", "[1]", 0, 4) + "}", 4), "begin at 4"));
  CHECK(contains(refused("{" + entry("a", "[1]", 4, 0) + "}", 4), "found 4"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4) + "," + entry("b", "[4611686018427387903]", 4, 0) + "}"),
                 "end at 0 before they begin at 4"));  // 0 - 4 wraps to the bytes of that shape
  CHECK(contains(refused("{" + entry("a", "[2]", 0, 4) + "}", 4), "need 8 bytes, its data_offsets span 4"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4) + "}", 8), "expected 4 bytes of tensors"));
  CHECK(contains(refused("{" + entry("a", "[4]", 0, 16) + "}", 8), "is truncated"));
  CHECK(contains(refused("{" + entry("a", "[4611686018427387904]", 0, 0) + "}"), "above 2^64"));  // 2^62 * 4 wraps to 0
  CHECK(contains(refused("{" + entry("a", "[4294967296,4294967296]", 0, 0) + "}"), "above 2^64"));
  CHECK(contains(refused("{" + entry("a", "[9223372036854775808]", 0, 0) + "}"), "an extent of 9223372036854775808"));
  CHECK(contains(refused("{" + entry("a", "[18446744073709551616]", 0, 0) + "}"), "below 2^64"));
  std::string many = "[65536";
  for (int i = 0; i < 20; ++i) many += ",65536";
  CHECK(contains(refused("{" + entry("a", many + "]", 0, 4) + "}", 4), "above 2^64"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4).replace(0, 3, "\"b\"") + "," +
                             entry("a", "[4611686018427387903]", 4, ~std::size_t{0}) + "}",
                         4),
                 "need"));
}

TEST_CASE("attacks on the text: duplicates, depth, types, foreign keys") {
  const std::string a = entry("a", "[1]", 0, 4);
  CHECK(contains(refused("{" + a + "," + a + "}", 4), "two tensors have the name \"a\""));
  CHECK(contains(refused("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}"), "a second dtype of tensor \"a\""));
  CHECK(contains(refused("{\"__metadata__\":{},\"__metadata__\":{}}"), "byte 27: a second __metadata__"));
  CHECK(contains(refused("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}"), "a second value of the key \"k\""));
  CHECK(contains(refused("{\"__metadata__\":{\"k\":1}}"), "expected '\"', found '1'"));
  CHECK(contains(refused("{\"__metadata__\":{\"k\":{\"l\":\"m\"}}}"), "expected '\"', found '{'"));
  CHECK(contains(refused("{\"__metadata__\":null}"), "expected '{', found 'n'"));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4, "F8_E4M3") + "}", 4), "found the type \"F8_E4M3\""));
  CHECK(contains(refused("{" + entry("a", "[1]", 0, 4, "f32") + "}", 4), "found the type"));
  CHECK(contains(refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offset\":[0,4]}}", 4), "found the key \"offset\""));
  CHECK(contains(refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4), "lacks one of"));
  CHECK(contains(refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4), "found fewer"));
  CHECK(contains(refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4), "two data_offsets"));
  CHECK(refused("{" + entry("a", "[-1]", 0, 4) + "}", 4) != "");
  CHECK(refused("{" + entry("a", "[1.0]", 0, 4) + "}", 4) != "");
  CHECK(refused("{" + entry("a", "1", 0, 4) + "}", 4) != "");
  CHECK(refused("{" + entry("a", std::string(100000, '['), 0, 4) + "}", 4) != "");
  CHECK(refused(std::string(100000, '{')) != "");
  CHECK(refused("{" + a, 4) != "");
  CHECK(refused(" {" + a + "}", 4) != "");
  CHECK(refused("[]") != "");
  CHECK(contains(refused("{}\n"), "nothing but spaces behind the end"));
  CHECK(contains(refused("{}{}"), "nothing but spaces behind the end"));
  CHECK(contains(refused("{" + entry("\xff", "[1]", 0, 4) + "}", 4), "byte 10: expected valid UTF-8"));
}

TEST_CASE("any flipped bit of a header gives a file or an Error, and no tensor outside the file") {
  const std::string whole = bytes(numpy_file);
  int accepted = 0;
  for (std::size_t bit = 0; bit < (whole.size() - 45) * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    try {
      const SafetensorsFile file = opened(damaged);
      for (const TensorInfo& info : file.tensors()) {
        std::vector<float> values(static_cast<std::size_t>(info.count()));
        file.read(info.name, values);
      }
      ++accepted;
    } catch (const Error&) {
    }
  }
  CHECK(accepted > 0);  // names and metadata may change unnoticed: the format has no checksum
}

TEST_CASE("saving fails without a trace at every operation") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const std::vector<float> values(100, 1.0f);
  const auto save = [&] { safetensors_write(path, {SafetensorsView::of("x", {100}, values)}); };
  const int operations = count_operations(save);
  for (int at = 0; at < operations; ++at) {
    ::unlink(path.c_str());
    throws_with_fault(ENOSPC, at, save);
    REQUIRE(fault.fired);
    for (const std::string& name : list_folder(folder.path)) CHECK(name == "a.safetensors");
    if (!list_folder(folder.path).empty()) CHECK_NOTHROW(SafetensorsFile{path});
  }
}
