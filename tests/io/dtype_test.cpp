#include <vaelib/io/dtype.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace vaelib;

namespace {

/// The value of an IEEE 754 binary16, by the definition.
double value_of_f16(unsigned bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

/// Checks the rounding between all neighbours `bits` and `bits + 1` of a 16-bit format.
void check_rounding(std::uint16_t (*round)(float), float (*widen)(std::uint16_t), unsigned infinity) {
  bool right = true;
  for (unsigned bits = 0; bits + 1 < infinity; ++bits) {
    const float low = widen(static_cast<std::uint16_t>(bits)), high = widen(static_cast<std::uint16_t>(bits + 1));
    const float middle = low / 2 + high / 2;
    const unsigned even = bits % 2 ? bits + 1 : bits;
    right = right && round(middle) == even && round(-middle) == (even | 0x8000);
    right = right && round(std::nextafter(middle, low)) == bits && round(std::nextafter(middle, high)) == bits + 1;
  }
  CHECK(right);
}

}  // namespace

TEST_CASE("f16: all 65536 codes, there and back") {
  bool right = true;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const double expected = value_of_f16(bits);
    const float got = f16_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(expected)) {
      right = right && std::isnan(got) && std::isnan(f16_to_float(float_to_f16(got)));
    } else {
      right = right && got == expected && std::signbit(got) == std::signbit(expected) && float_to_f16(got) == bits;
    }
  }
  CHECK(right);
}

TEST_CASE("bf16: all 65536 codes, there and back") {
  bool right = true;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_float(static_cast<std::uint16_t>(bits));
    const std::uint16_t back = float_to_bf16(value);
    right = right && (std::isnan(value) ? std::isnan(bf16_to_float(back)) : back == bits);
  }
  CHECK(right);
}

TEST_CASE("rounding to f16 and bf16 is to nearest, ties to even") {
  check_rounding(float_to_f16, f16_to_float, 0x7C00);
  CHECK(float_to_f16(65519.996f) == 0x7BFF);
  CHECK(float_to_f16(65520.0f) == 0x7C00);
  CHECK(float_to_f16(-1e30f) == 0xFC00);
  CHECK(float_to_f16(1e-30f) == 0);
  CHECK(float_to_f16(-1e-30f) == 0x8000);
  // Halves of denormal bf16 are exact in float, so the same check holds down to zero.
  check_rounding(float_to_bf16, bf16_to_float, 0x7F80);
  CHECK(float_to_bf16(std::numeric_limits<float>::max()) == 0x7F80);
}

TEST_CASE("conversion to float of every type, at odd addresses") {
  const auto first = []<class T>(Dtype dtype, T value) {
    char bytes[1 + sizeof(T)];
    std::memcpy(bytes + 1, &value, sizeof(T));
    float result = -99;
    to_float(dtype, bytes + 1, &result, 1);
    CHECK(dtype_size(dtype) == sizeof(T));
    return result;
  };
  CHECK(first(Dtype::boolean, std::uint8_t{2}) == 1);
  CHECK(first(Dtype::u8, std::uint8_t{255}) == 255);
  CHECK(first(Dtype::i8, std::int8_t{-1}) == -1);
  CHECK(first(Dtype::i16, std::int16_t{-300}) == -300);
  CHECK(first(Dtype::u16, std::uint16_t{65535}) == 65535);
  CHECK(first(Dtype::f16, std::uint16_t{0xC000}) == -2);
  CHECK(first(Dtype::bf16, std::uint16_t{0xC000}) == -2);
  CHECK(first(Dtype::i32, std::int32_t{-70000}) == -70000);
  CHECK(first(Dtype::u32, std::uint32_t{1u << 31}) == 2147483648.0f);
  CHECK(first(Dtype::f32, 1.5f) == 1.5f);
  CHECK(first(Dtype::f64, 0.1) == 0.1f);
  CHECK(first(Dtype::f64, 1e300) == std::numeric_limits<float>::infinity());
  CHECK(first(Dtype::i64, std::int64_t{-5}) == -5);
  CHECK(first(Dtype::u64, ~std::uint64_t{0}) == 18446744073709551616.0f);
}

TEST_CASE("names and types") {
  static_assert(dtype_of<float>() == Dtype::f32 && dtype_of<long long>() == Dtype::i64 &&
                dtype_of<unsigned long>() == Dtype::u64);
  for (int i = 0; i < 13; ++i) CHECK(dtype_named(dtype_name(static_cast<Dtype>(i))) == static_cast<Dtype>(i));
  CHECK(dtype_named("BF16") == Dtype::bf16);
  CHECK_FALSE(dtype_named("F8_E4M3"));
  CHECK_FALSE(dtype_named("f32"));
}
