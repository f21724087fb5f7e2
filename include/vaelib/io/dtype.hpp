// Element types of tensors on disk, by the names of safetensors, and their conversion to float.
// f16: IEEE 754 binary16; bf16: the upper half of a binary32. Both are held as their bits in std::uint16_t.
#pragma once

#include <vaelib/version.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

namespace vaelib::inline VAELIB_ABI {

static_assert(std::endian::native == std::endian::little, "vaelib: tensors are copied to and from little-endian files");

/// In the order of the reference implementation of safetensors, which sorts tensors by it, the last first.
enum class Dtype : std::uint8_t { boolean, u8, i8, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };

namespace detail {
struct DtypeRow {
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<DtypeRow, 13> dtype_table{{{"BOOL", 1},
                                                       {"U8", 1},
                                                       {"I8", 1},
                                                       {"I16", 2},
                                                       {"U16", 2},
                                                       {"F16", 2},
                                                       {"BF16", 2},
                                                       {"I32", 4},
                                                       {"U32", 4},
                                                       {"F32", 4},
                                                       {"F64", 8},
                                                       {"I64", 8},
                                                       {"U64", 8}}};
}  // namespace detail

constexpr std::string_view dtype_name(Dtype dtype) { return detail::dtype_table[static_cast<std::size_t>(dtype)].name; }
constexpr std::size_t dtype_size(Dtype dtype) { return detail::dtype_table[static_cast<std::size_t>(dtype)].size; }
constexpr std::optional<Dtype> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_table.size(); ++i)
    if (detail::dtype_table[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

/// The Dtype that holds values of a C++ type. (f16 and bf16 have no type of their own here.)
template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, bool>)
    return Dtype::boolean;
  else if constexpr (std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::byte>)
    return Dtype::u8;
  else if constexpr (std::is_same_v<T, std::int8_t>)
    return Dtype::i8;
  else if constexpr (std::is_same_v<T, std::int16_t>)
    return Dtype::i16;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return Dtype::u16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return Dtype::i32;
  else if constexpr (std::is_same_v<T, std::uint32_t>)
    return Dtype::u32;
  else if constexpr (std::is_same_v<T, float>)
    return Dtype::f32;
  else if constexpr (std::is_same_v<T, double>)
    return Dtype::f64;
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
    return std::is_signed_v<T> ? Dtype::i64 : Dtype::u64;
  else
    static_assert(!sizeof(T), "vaelib: no tensor on disk holds values of this type");
}

constexpr float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Rounds to nearest, ties to even; a NaN stays one.
constexpr std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

constexpr float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

/// Rounds to nearest, ties to even; a NaN stays one; 65520 and more become infinite.
constexpr std::uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  std::uint32_t result = 0;
  if (magnitude > 0x7F800000) {
    result = 0x7E00 | (magnitude >> 13 & 0x3FF);
  } else if (magnitude >= 0x477FF000) {
    result = 0x7C00;
  } else if (magnitude >= 0x38800000) {  // normal in f16: drop 13 bits of the fraction, shift the exponent
    result = (magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  } else {  // a multiple of 2^-24: adding 0.5 moves it to the last bits of the sum, which rounds as float does
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
  }
  return static_cast<std::uint16_t>(sign | result);
}

namespace detail {
template <class T, class Convert>
void convert(const void* from, float* to, std::size_t count, Convert value) {
  for (std::size_t i = 0; i < count; ++i) {
    T element;
    std::memcpy(&element, static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
    to[i] = value(element);
  }
}
}  // namespace detail

/// Converts `count` elements, at any address, to the nearest float; a boolean becomes 0 or 1.
inline void to_float(Dtype dtype, const void* from, float* to, std::size_t count) {
  const auto cast = [](auto element) { return static_cast<float>(element); };
  switch (dtype) {
    case Dtype::boolean:
      return detail::convert<std::uint8_t>(from, to, count, [](auto e) { return e ? 1.0f : 0.0f; });
    case Dtype::u8:
      return detail::convert<std::uint8_t>(from, to, count, cast);
    case Dtype::i8:
      return detail::convert<std::int8_t>(from, to, count, cast);
    case Dtype::i16:
      return detail::convert<std::int16_t>(from, to, count, cast);
    case Dtype::u16:
      return detail::convert<std::uint16_t>(from, to, count, cast);
    case Dtype::f16:
      return detail::convert<std::uint16_t>(from, to, count, f16_to_float);
    case Dtype::bf16:
      return detail::convert<std::uint16_t>(from, to, count, bf16_to_float);
    case Dtype::i32:
      return detail::convert<std::int32_t>(from, to, count, cast);
    case Dtype::u32:
      return detail::convert<std::uint32_t>(from, to, count, cast);
    case Dtype::f32:
      return detail::convert<float>(from, to, count, cast);
    case Dtype::f64:
      return detail::convert<double>(from, to, count, cast);
    case Dtype::i64:
      return detail::convert<std::int64_t>(from, to, count, cast);
    case Dtype::u64:
      return detail::convert<std::uint64_t>(from, to, count, cast);
  }
}

}  // namespace vaelib::inline VAELIB_ABI
