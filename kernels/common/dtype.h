#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dino {

/// The upper half of an fp32 number: 8 exponent bits, 7 mantissa bits. Arithmetic happens in fp32.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  explicit BFloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(is_nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
static_assert(sizeof(BFloat16) == 2);

/// Element types of arrays. float64 exists for the oracles and the evaluation of metrics only.
enum class DType : std::uint8_t { float32, bfloat16, float64, float16, uint8, int32, int64 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::uint8: return 1;
    case DType::bfloat16:
    case DType::float16: return 2;
    case DType::float32:
    case DType::int32: return 4;
    case DType::float64:
    case DType::int64: return 8;
  }
  return 0;
}

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::bfloat16: return "bfloat16";
    case DType::float64: return "float64";
    case DType::float16: return "float16";
    case DType::uint8: return "uint8";
    case DType::int32: return "int32";
    case DType::int64: return "int64";
  }
  return "unknown";
}

template <typename T>
inline constexpr bool kIsDType = false;
template <typename T>
inline constexpr DType dtype_of = [] { static_assert(kIsDType<T>, "not an array element type"); }();
// clang-format off
template <> inline constexpr DType dtype_of<float> = DType::float32;
template <> inline constexpr DType dtype_of<BFloat16> = DType::bfloat16;
template <> inline constexpr DType dtype_of<double> = DType::float64;
template <> inline constexpr DType dtype_of<std::uint8_t> = DType::uint8;
template <> inline constexpr DType dtype_of<std::int32_t> = DType::int32;
template <> inline constexpr DType dtype_of<std::int64_t> = DType::int64;
// clang-format on

}  // namespace dino
