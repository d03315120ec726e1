// What only a GPU can show of the CUDA back end: order, memory that stays, recordings, and cuBLASLt's choices.
#include "kernels/common/cuda/cuda_stream.h"
#include "engine/context_cuda.h"
#include "kernels/cast/cast.h"
#include "kernels/matmul/matmul.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace dino {
namespace {

using cuda::CudaStream;
using cuda::DeviceBuffer;

std::vector<std::uint32_t> counted(std::size_t count, std::uint32_t first) {
  std::vector<std::uint32_t> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

TEST_CASE("a copy to the GPU may be longer than the staging ring, and the host memory may change at once", "[device]") {
  CudaStream stream(0);
  constexpr std::size_t kRing = cuda::StagingRing::kMostSlots * cuda::StagingRing::kSlotBytes;
  constexpr std::size_t kCount = kRing / sizeof(std::uint32_t) * 5 / 4 + 3;
  const DeviceBuffer device(0, kCount * sizeof(std::uint32_t), "a test");
  std::vector<std::uint32_t> values = counted(kCount, 7);
  stream.copy_from_host(device.data(), values.data(), device.size());
  std::fill(values.begin(), values.end(), 0);
  stream.copy_to_host(values.data(), device.data(), device.size());
  CHECK(values == counted(kCount, 7));
}

TEST_CASE("pieces of host memory come to lie one behind the other on the GPU", "[device]") {
  CudaStream stream(0);
  constexpr std::size_t kSlot = cuda::StagingRing::kSlotBytes / sizeof(std::uint32_t);
  std::vector<std::vector<std::uint32_t>> pieces;
  std::vector<std::span<const std::byte>> parts;
  std::vector<std::uint32_t> expected;
  for (const std::size_t count :
       {std::size_t{3}, std::size_t{0}, kSlot / 2, kSlot / 2 - 3, std::size_t{1}, 2 * kSlot + 5}) {
    pieces.push_back(counted(count, static_cast<std::uint32_t>(expected.size())));
    expected.insert(expected.end(), pieces.back().begin(), pieces.back().end());
  }
  for (const auto& piece : pieces) parts.push_back(std::as_bytes(std::span(piece)));
  const DeviceBuffer device(0, expected.size() * sizeof(std::uint32_t), "a test");
  stream.gather_from_host(device.data(), parts);
  for (auto& piece : pieces) std::fill(piece.begin(), piece.end(), 0U);
  std::vector<std::uint32_t> got(expected.size());
  stream.copy_to_host(got.data(), device.data(), device.size());
  CHECK(got == expected);
}

TEST_CASE("thousands of small copies to the GPU arrive in their order", "[device]") {
  CudaStream stream(0);
  constexpr std::uint32_t kCount = 300'000;  // 64 bytes each: more than a slot of the ring
  const DeviceBuffer device(0, kCount * sizeof(std::uint32_t), "a test");
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const std::uint32_t value = i * 3;
    stream.copy_from_host(device.data() + i % 1000 * sizeof(value), &value, sizeof(value));
  }
  std::vector<std::uint32_t> got(1000);
  stream.copy_to_host(got.data(), device.data(), got.size() * sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == (kCount - 1000 + i) * 3);
}

TEST_CASE("scratch memory on the GPU grows, and what it was stays valid", "[device]") {
  CudaStream stream(0);
  void* small = stream.scratch(1000);
  CHECK(stream.scratch(500) == small);
  stream.zero(small, 1000);
  void* large = stream.scratch(std::size_t{200} << 20);
  CHECK(large != small);
  stream.zero(large, std::size_t{200} << 20);
  std::vector<std::byte> got(1000, std::byte{1});
  stream.copy_to_host(got.data(), small, got.size());
  CHECK(got == std::vector<std::byte>(1000));
}

TEST_CASE("a recording runs when it is replayed, on the memory of the recording", "[device]") {
  CudaStream cuda_stream(0);
  Stream& stream = cuda_stream;
  const auto run = [&](const DeviceBuffer& x, const DeviceBuffer& y, const DeviceBuffer& z) {
    const Shape shape{100};
    cast({.x = ConstArray(x.data(), DType::float32, shape), .y = Array(y.data(), DType::bfloat16, shape)}, stream);
    stream.copy(z.data(), y.data(), 200);
    stream.zero(y.data(), 200);
  };
  const DeviceBuffer x(0, 400, "a test");
  const DeviceBuffer y(0, 200, "a test");
  const DeviceBuffer z(0, 200, "a test");
  stream.zero(z.data(), 200);
  std::vector<float> values(100, 2.0F);
  stream.copy_from_host(x.data(), values.data(), 400);
  const auto copy = stream.make_host_copy(4);
  REQUIRE(stream.begin_recording());
  run(x, y, z);
  CHECK_THROWS_AS(stream.synchronize(), Error);
  CHECK_THROWS_AS(copy->start({{x.data(), 4}}), Error);
  CHECK_THROWS_AS(stream.copy_from_host(x.data(), values.data(), 400), Error);
  const auto graph = stream.end_recording();
  std::vector<BFloat16> got(100, BFloat16(1.0F));
  stream.copy_to_host(got.data(), z.data(), 200);
  CHECK(static_cast<float>(got[99]) == 0);  // it has not run yet
  for (const float value : {2.0F, 3.0F}) {
    std::fill(values.begin(), values.end(), value);
    stream.copy_from_host(x.data(), values.data(), 400);
    graph->replay();
    stream.copy_to_host(got.data(), z.data(), 200);
    CHECK(static_cast<float>(got[0]) == value);
    CHECK(static_cast<float>(got[99]) == value);
  }
  REQUIRE(stream.begin_recording());
  stream.cancel_recording();
  stream.synchronize();
}

TEST_CASE("products can be recorded", "[device]") {
  const auto context = make_cuda_context(0, 0.1);
  Stream& stream = context->stream();
  const test::HostArray a = test::random_normal(DType::bfloat16, {64, 48}, 1);
  const test::HostArray b = test::random_normal(DType::bfloat16, {32, 48}, 2);
  const test::HostArray bias = test::random_normal(DType::float32, {32}, 3);
  const Tensor on_device[] = {context->from_host(a), context->from_host(b), context->from_host(bias)};
  Tensor direct = context->zeros({64, 32}, DType::bfloat16);
  Tensor replayed = context->zeros({64, 32}, DType::bfloat16);
  const auto product = [&](Tensor& y) {
    matmul({.a = on_device[0].const_array(),
            .b = on_device[1].const_array(),
            .bias = on_device[2].const_array(),
            .y = y.array(),
            .transpose_b = true,
            .gelu = true},
           stream);
  };
  product(direct);
  REQUIRE(stream.begin_recording());
  product(replayed);
  stream.end_recording()->replay();
  test::HostArray expected(DType::bfloat16, {64, 32});
  test::HostArray got(DType::bfloat16, {64, 32});
  context->copy_to_host(direct, expected);
  context->copy_to_host(replayed, got);
  test::check_close(got, expected, 0.0, "the replay");
}

TEST_CASE("a host copy holds what was there when it was started", "[device]") {
  CudaStream stream(0);
  const DeviceBuffer device(0, 4000, "a test");
  const std::vector<std::uint32_t> first = counted(1000, 5);
  stream.copy_from_host(device.data(), first.data(), 4000);
  const auto copy = stream.make_host_copy(16);
  copy->start({{device.data() + 40, 8}, {device.data(), 8}});
  stream.zero(device.data(), 4000);
  const auto* got = reinterpret_cast<const std::uint32_t*>(copy->wait());
  CHECK(copy->ready());
  CHECK(std::vector<std::uint32_t>(got, got + 4) == std::vector<std::uint32_t>{15, 16, 5, 6});
  CHECK_THROWS_AS(copy->start({{device.data(), 17}}), Error);
}

TEST_CASE("too much memory is an error that says how much there is", "[device]") {
  try {
    const DeviceBuffer impossible(0, std::size_t{1} << 50, "a test");
    FAIL("a petabyte was given");
  } catch (const Error& error) {
    const std::string text = error.what();
    INFO(text);
    CHECK(text.starts_with("[cuda] out of memory on device 0"));
    CHECK(text.find("MiB free") != std::string::npos);
  }
  // The error does not stick to the next call.
  CudaStream(0).synchronize();
}

TEST_CASE("cuBLASLt has a kernel for every product of a training step", "[device]") {
  CudaStream stream(0);
  constexpr unsigned kAligned = cuda::CublasLt::kAlignment;
  struct Layer {
    std::int64_t in, out;
  };
  for (const std::int64_t tokens : {4 * 690, 4 * 394, 40}) {
    for (const Layer layer : {Layer{384, 1152},
                              {384, 384},
                              {384, 1536},
                              {1536, 384},
                              {768, 384},
                              {384, 2048},
                              {2048, 2048},
                              {2048, 256},
                              {256, 65536}}) {
      for (const DType dtype : {DType::float32, DType::bfloat16}) {
        INFO(tokens << " tokens, " << layer.in << " to " << layer.out << ", " << name_of(dtype));
        const auto supported = [&](std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b,
                                   DType result, bool bias) {
          return stream.cublas_lt().supports(
              {m, n, k, transpose_a, transpose_b, dtype, result, bias, kAligned, kAligned, kAligned});
        };
        CHECK(supported(tokens, layer.out, layer.in, false, true, dtype, true));  // y = x·Wᵀ + b
        CHECK(supported(tokens, layer.out, layer.in, false, true, dtype, false));
        CHECK(supported(tokens, layer.in, layer.out, false, false, dtype, false));          // dx = dy·W
        CHECK(supported(layer.out, layer.in, tokens, true, false, DType::float32, false));  // dW = dyᵀ·x
      }
    }
  }
}

}  // namespace
}  // namespace dino
