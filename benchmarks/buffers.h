#pragma once

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/array.h"

#include <benchmark/benchmark.h>

#include <cstdint>

namespace dino::bench {

/// An array of its own memory for a benchmark, filled with small values that are normal numbers in every element type.
class Filled {
 public:
  Filled(DType dtype, const Shape& shape)
      : buffer_(static_cast<std::size_t>(shape.size()) * size_of(dtype)), dtype_(dtype), shape_(shape) {
    for (std::int64_t i = 0; i < shape.size(); ++i) {
      const float value = static_cast<float>(i * 37 % 251 - 125) / 64.0F;
      switch (dtype) {
        case DType::float32: array().as<float>()[i] = value; break;
        case DType::bfloat16: array().as<BFloat16>()[i] = BFloat16(value); break;
        case DType::uint8: array().as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 37); break;
        case DType::int32: array().as<std::int32_t>()[i] = static_cast<std::int32_t>(i); break;
        default: fail("benchmark", "unsupported element type {}", name_of(dtype));
      }
    }
  }
  Array array() const { return {buffer_.data(), dtype_, shape_}; }
  operator Array() const { return array(); }
  operator ConstArray() const { return array(); }

 private:
  AlignedBuffer buffer_;
  DType dtype_;
  Shape shape_;
};

/// GB/s for kernels that are bound by memory: `bytes` is the traffic that the kernel's header states.
inline void report_bytes(benchmark::State& state, std::int64_t bytes) {
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(bytes) * static_cast<double>(state.iterations()) / 1e9, benchmark::Counter::kIsRate);
}

inline DType dtype_argument(const benchmark::State& state, int i = 0) {
  return state.range(i) == 2 ? DType::bfloat16 : DType::float32;
}

}  // namespace dino::bench
