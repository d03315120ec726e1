#include "selftest/kernel_bench.h"

#include <cmath>
#include <limits>

namespace dino {
namespace {

bool is_floating(DType dtype) { return dtype == DType::float32 || dtype == DType::bfloat16; }

std::vector<std::byte> zeroed(DType dtype, const Shape& shape) {
  return std::vector<std::byte>(static_cast<std::size_t>(shape.size()) * size_of(dtype));
}

}  // namespace

KernelBench::Value KernelBench::place(DType dtype, const Shape& shape, const std::vector<std::byte>& bytes) {
  return {context_.from_host(ConstArray(bytes.data(), dtype, shape)), std::make_shared<std::vector<std::byte>>(bytes),
          dtype};
}

std::vector<std::byte> KernelBench::random_bytes(DType dtype, const Shape& shape, double scale, double mean) {
  std::vector<std::byte> bytes = zeroed(dtype, shape);
  const Array array(bytes.data(), dtype, shape);
  Random random(++drawn_, RandomStream::test);
  for (std::int64_t i = 0; i < shape.size(); ++i) store_double(array, i, mean + scale * random.normal());
  return bytes;
}

KernelBench::Value KernelBench::normal(DType dtype, const Shape& shape, double scale, double mean) {
  return place(dtype, shape, random_bytes(dtype, shape, scale, mean));
}

KernelBench::Value KernelBench::coarse(const Shape& shape) {
  std::vector<std::byte> bytes = random_bytes(DType::float32, shape, 2, 0);
  const Array array(bytes.data(), DType::float32, shape);
  for (std::int64_t i = 0; i < shape.size(); ++i) store_double(array, i, std::round(load_double(array, i)) / 8);
  return place(DType::float32, shape, bytes);
}

KernelBench::Value KernelBench::integers(const Shape& shape, const std::vector<std::int32_t>& values) {
  std::vector<std::byte> bytes = zeroed(DType::int32, shape);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return place(DType::int32, shape, bytes);
}

KernelBench::Value KernelBench::bytes(const Shape& shape) {
  std::vector<std::byte> bytes = zeroed(DType::uint8, shape);
  Random random(++drawn_, RandomStream::test);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
  return place(DType::uint8, shape, bytes);
}

KernelBench::Value KernelBench::input_of(DType dtype, const Value& result) {
  std::vector<std::byte> bytes = zeroed(dtype, result.device.shape());
  const Array array(bytes.data(), dtype, result.device.shape());
  for (std::int64_t i = 0; i < array.size(); ++i) store_double(array, i, load_double(result.host_array(), i));
  return place(dtype, result.device.shape(), bytes);
}

KernelBench::Value KernelBench::widened(const Value& input) const {
  Value value = input;
  value.host_dtype = DType::float64;
  value.host = std::make_shared<std::vector<std::byte>>(zeroed(DType::float64, input.device.shape()));
  const Array array = value.host_array();
  for (std::int64_t i = 0; i < array.size(); ++i) store_double(array, i, load_double(input.host_array(), i));
  return value;
}

KernelBench::Value KernelBench::result(DType dtype, const Shape& shape) {
  std::vector<std::byte> bytes = zeroed(dtype, shape);
  if (is_floating(dtype)) {
    const Array array(bytes.data(), dtype, shape);
    for (std::int64_t i = 0; i < shape.size(); ++i) store_double(array, i, std::numeric_limits<double>::quiet_NaN());
  } else {
    std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
  }
  Value value = place(dtype, shape, bytes);
  if (!is_floating(dtype)) return value;
  value.host_dtype = DType::float64;
  *value.host = zeroed(DType::float64, shape);
  return value;
}

KernelBench::Value KernelBench::updated(DType dtype, const Shape& shape, double scale, double mean) {
  const std::vector<std::byte> before = random_bytes(dtype, shape, scale, mean);
  Value value = place(dtype, shape, before);
  value.host_dtype = DType::float64;
  *value.host = zeroed(DType::float64, shape);
  const ConstArray from(before.data(), dtype, shape);
  for (std::int64_t i = 0; i < shape.size(); ++i) store_double(value.host_array(), i, load_double(from, i));
  return value;
}

void KernelBench::compare(const Expectation& expected) {
  const Tensor& device = expected.value.device;
  std::vector<std::byte> bytes = zeroed(device.dtype(), device.shape());
  const Array got(bytes.data(), device.dtype(), device.shape());
  context_.copy_to_host(device, got);
  worst_.add(error_between(got, expected.value.host_array()), expected.bound, expected.name);
}

}  // namespace dino
