#include <vaelib/io/json.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using io_test::contains;
using io_test::error_of;

namespace {
std::string parsed(std::string_view json) { return JsonCursor(json, "f", 0).string(); }
std::uint64_t integer(std::string_view json) { return JsonCursor(json, "f", 0).unsigned_integer(); }
}  // namespace

TEST_CASE("strings: escapes, UTF-8, surrogate pairs") {
  CHECK(parsed(R"("a\"\\\/\b\f\n\r\t")") == "a\"\\/\b\f\n\r\t");
  CHECK(parsed(R"("\u0041\u00e9\u20AC\ud83d\ude00")") == "A\u00e9\u20ac\U0001F600");
  CHECK(parsed(R"("\u0000")") == std::string(1, '\0'));
  CHECK(parsed("\"\u00e9\u20ac\U0001F600\x7f\"") == "\u00e9\u20ac\U0001F600\x7f");
  for (const char* wrong : {"\"",
                            "\"a",
                            "a",
                            "",
                            "\"\\x\"",
                            "\"\\",
                            "\"\\u12\"",
                            "\"\\u12g4\"",
                            "\"\\ud83d\"",
                            "\"\\ud83dx\"",
                            "\"\\ud83d\\n\"",
                            "\"\\ud83d\\u0041\"",
                            "\"\\ude00\"",
                            "\"\n\"",
                            "\"\xff\"",
                            "\"\xc0\x80\"",
                            "\"\xe0\x80\x80\"",
                            "\"\xed\xa0\x80\"",
                            "\"\xf0\x80\x80\x80\"",
                            "\"\xf4\x90\x80\x80\"",
                            "\"\xf8\x88\x80\x80\x80\"",
                            "\"\xe2\x82\"",
                            "\"\x80\""}) {
    CAPTURE(wrong);
    CHECK(error_of([&] { parsed(wrong); }) != "");
  }
  CHECK(error_of([] { parsed(std::string_view("\"\0\"", 3)); }) != "");
}

TEST_CASE("all code points are UTF-8 as the standard says") {
  int valid = 0;
  for (unsigned a = 0; a < 256; ++a)
    for (unsigned b = 0; b < 256; ++b)
      for (unsigned c = 0x7F; c < 0xC1; ++c) {
        const char bytes[3] = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
        valid += utf8_length({bytes, 3}) == 3;
      }
  CHECK(valid == 0x10000 - 0x800 - 0x800);  // the codes of three bytes, without surrogates
}

TEST_CASE("integers") {
  CHECK(integer("0") == 0);
  CHECK(integer(" 12,") == 12);
  CHECK(integer("18446744073709551615") == ~std::uint64_t{0});
  for (const char* wrong : {"18446744073709551616", "99999999999999999999999", "-1", "-0", "+1", "01", "00", "1.0",
                            "1e3", "1E3", "", "x", "null"}) {
    CAPTURE(wrong);
    CHECK(error_of([&] { integer(wrong); }) != "");
  }
}

TEST_CASE("objects and arrays") {
  std::vector<std::uint64_t> values;
  std::string keys;
  JsonCursor json(" { \"a\" : [ 1 , 2 ],\n\t\"b\":[ ] , \"c\" : [3] } ", "f", 0);
  json.members([&](const std::string& key) {
    keys += key;
    json.elements([&] { values.push_back(json.unsigned_integer()); });
  });
  CHECK(keys == "abc");
  CHECK(values == std::vector<std::uint64_t>{1, 2, 3});
  CHECK_NOTHROW(json.expect_end());
  JsonCursor behind("1  \n", "f", 0);
  behind.unsigned_integer();
  CHECK(contains(error_of([&] { behind.expect_end(); }), "f: byte 3: expected nothing but spaces"));
  for (const char* wrong : {"{", "{\"a\"", "{\"a\":", "{\"a\":[", "{\"a\":[]", "{\"a\":[],}", "{\"a\":[1,]}",
                            "{\"a\":[1 2]}", "{,}", "{a:[]}", "[]", "{\"a\" []}"}) {
    CAPTURE(wrong);
    JsonCursor cursor(wrong, "f", 0);
    CHECK(error_of([&] {
            cursor.members([&](const std::string&) { cursor.elements([&] { cursor.unsigned_integer(); }); });
          }) != "");
  }
}

TEST_CASE("errors name the file and the byte") {
  CHECK(error_of([] { JsonCursor("  x", "some.file", 8).string(); }) == "some.file: byte 10: expected '\"', found 'x'");
  CHECK(error_of([] { JsonCursor("", "some.file", 8).string(); }) == "some.file: byte 8: expected '\"', found the end");
}

TEST_CASE("names from files are shown on one line and cut") {
  CHECK(shown("a\nb\x1b[31m") == "\"a\\nb\\u001b[31m\"");
  CHECK(shown(std::string(1000, 'x')) == '"' + std::string(80, 'x') + "\"...");
  CHECK(shown("ok\xff") == "\"ok\"...");
  CHECK(json_quote("\"\\/\b\f\n\r\t\x01\x7f\u00e9") == "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7f\u00e9\"");
  std::string every;
  for (int c = 0; c < 128; ++c) every += static_cast<char>(c);
  CHECK(parsed(json_quote(every)) == every);
}
