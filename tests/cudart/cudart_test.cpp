// The back end on a runtime that refuses what a real one refuses; and that this runtime does refuse it.
#include "engine/communicators/silent.h"
#include "engine/context_cuda.h"
#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cuda_stream.h"
#include "kernels/matmul/matmul.h"
#include "tests/cudart/fake_cudart.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/same_steps.h"
#include "tests/support/tiny_training.h"
#include "train/student_teacher.h"

#include <numeric>
#include <vector>

namespace dino::test {
namespace {

using cuda::CudaStream;
using cuda::DeviceBuffer;
using cuda::Event;
using cuda::PinnedBuffer;

cudaStream_t handle_of(Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

/// Sets the runtime back to what it was, whatever a test has made of it.
class Untouched {
 public:
  Untouched() { reset_fake_cuda(); }
  ~Untouched() {
    reset_fake_cuda();
    const FakeCuda& now = fake_cuda();
    CHECK(now.graphs == 0);
    CHECK(now.pinned_bytes == 0);
    fake_cuda() = {};
  }
  Untouched(const Untouched&) = delete;
  Untouched& operator=(const Untouched&) = delete;
};

TEST_CASE("a capture ends with an error after what it does not allow", "[device]") {
  const Untouched untouched;
  CudaStream stream(0), other(0);
  const DeviceBuffer device(0, 64, "a test");
  PinnedBuffer pinned(0, 64);
  Event event(0);
  std::vector<std::byte> pageable(64);
  const auto captured = [&](const std::function<void()>& work) {
    REQUIRE(stream.begin_recording());
    work();
    const std::string error = error_of([&] { stream.end_recording()->replay(); });
    cudaGetLastError();
    return error;
  };
  CHECK(captured([&] { stream.zero(device.data(), 64); }).empty());
  CHECK(contains(captured([&] { CHECK(cudaStreamSynchronize(handle_of(stream)) != cudaSuccess); }), "Invalidated"));
  CHECK(contains(captured([&] {
                   CHECK(cudaMemcpyAsync(pageable.data(), device.data(), 64, cudaMemcpyDeviceToHost,
                                         handle_of(stream)) != cudaSuccess);
                 }),
                 "Invalidated"));
  // What runs beside the capture is no part of it.
  event.record(handle_of(other));
  CHECK(contains(captured([&] { CHECK_THROWS_AS(event.hold(handle_of(stream)), Error); }), "Invalidated"));
  // A stream that was waited for, and has not come back.
  CHECK(contains(captured([&] {
                   other.wait_for(stream);
                   other.zero(device.data(), 64);
                 }),
                 "Unjoined"));
  CHECK(captured([&] {
          other.wait_for(stream);
          other.zero(device.data(), 64);
          stream.wait_for(other);
        }).empty());
  // An event of a capture says nothing to the host.
  REQUIRE(stream.begin_recording());
  event.record(handle_of(stream));
  CHECK_THROWS_AS(event.ready(), Error);
  stream.cancel_recording();
  event.record(handle_of(stream));
  event.wait();
}

TEST_CASE("copies are within their allocations and to the device from pinned memory", "[device]") {
  const Untouched untouched;
  CudaStream stream(0);
  const DeviceBuffer device(0, 64, "a test");
  const PinnedBuffer pinned(0, 128);
  std::vector<std::byte> pageable(64);
  const auto copy = [&](void* to, const void* from, std::size_t size_bytes, cudaMemcpyKind kind) {
    const cudaError_t status = cudaMemcpyAsync(to, from, size_bytes, kind, handle_of(stream));
    cudaGetLastError();
    return status;
  };
  CHECK(copy(device.data(), pinned.data(), 64, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(copy(device.data(), pinned.data(), 64, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK_THROWS_AS(copy(device.data(), pinned.data(), 65, cudaMemcpyHostToDevice), Error);
  CHECK_THROWS_AS(copy(device.data(), pageable.data(), 64, cudaMemcpyHostToDevice), Error);
  CHECK_THROWS_AS(stream.zero(device.data() + 1, 64), Error);
}

TEST_CASE("why there is no GPU is said in words of what can be done", "[device]") {
  const Untouched untouched;
  FakeCuda& cuda = fake_cuda();
  CHECK(survey_cuda().devices.size() == 2);
  const auto obstacle = [&](cudaError_t status, int driver) {
    cuda.count_status = status;
    cuda.driver_version = driver;
    const CudaSurvey survey = survey_cuda();
    CHECK(survey.devices.empty());
    CHECK(cudaGetLastError() == cudaSuccess);
    return survey.obstacle;
  };
  CHECK(contains(obstacle(cudaErrorInsufficientDriver, 0), "there is no NVIDIA driver (libcuda.so.1)"));
  CHECK(contains(obstacle(cudaErrorInsufficientDriver, 12080), "too old; got CUDA 12.8, expected 13.0 or later"));
  CHECK(contains(obstacle(cudaErrorNoDevice, 13000), "the NVIDIA driver sees no card"));
  CHECK(contains(obstacle(cudaErrorSystemNotReady, 13000), "the NVIDIA driver fails"));
  cuda = {};
  cuda.major = 7;
  CHECK(contains(survey_cuda().obstacle, "has compute capability 7.0; expected 8.0 or later"));
}

TEST_CASE("the pictures of the next steps lie ready while the device is busy", "[device]") {
  const Untouched untouched;
  constexpr std::int64_t kSlot = cuda::StagingRing::kSlotBytes, kMost = cuda::StagingRing::kMostSlots;
  CudaStream stream(0);
  const DeviceBuffer device(0, static_cast<std::size_t>(2 * kMost * kSlot), "a test");
  std::vector<std::uint32_t> values(device.size() / sizeof(std::uint32_t));
  std::iota(values.begin(), values.end(), 5U);
  const auto send = [&](std::int64_t slot, std::int64_t slots) {
    stream.copy_from_host(device.data() + slot * kSlot,
                          reinterpret_cast<const std::byte*>(values.data()) + slot * kSlot,
                          static_cast<std::size_t>(slots * kSlot));
  };
  send(0, 1);
  CHECK(fake_cuda().pinned_bytes == kSlot);
  send(1, kMost / 2 - 1);
  CHECK(fake_cuda().pinned_bytes >= kMost / 4 * kSlot);
  CHECK(fake_cuda().waits == 0);
  send(kMost / 2, 3 * kMost / 2);
  CHECK(fake_cuda().pinned_bytes <= kMost * kSlot);
  std::vector<std::uint32_t> got(values.size());
  stream.copy_to_host(got.data(), device.data(), device.size());
  CHECK(got == values);
  // Where the device keeps up, the ring stays small.
  CudaStream idle(0);
  const std::int64_t before = fake_cuda().pinned_bytes;
  for (int i = 0; i < 8; ++i) {
    idle.copy_from_host(device.data(), values.data(), static_cast<std::size_t>(kSlot));
    idle.synchronize();
  }
  CHECK(fake_cuda().pinned_bytes - before <= 2 * kSlot);
}

TEST_CASE("large copies to the device do not wait for the work before them, and come behind it", "[device]") {
  const Untouched untouched;
  fake_cuda().speed = DeviceSpeed::shuffled;
  CudaStream stream(0);
  constexpr std::size_t kLarge = cuda::StagingRing::kLarge;
  const DeviceBuffer device(0, kLarge, "a test");
  stream.zero(device.data(), kLarge);
  for (const std::size_t size_bytes : {kLarge / 2, kLarge}) {
    int early = 0;
    for (std::uint32_t trial = 0; trial < 12; ++trial) {
      const auto mark = static_cast<std::uint32_t>(size_bytes) + trial;
      std::vector<std::uint32_t> values(size_bytes / sizeof(std::uint32_t), mark);
      std::vector<std::uint32_t> before(1);
      stream.copy_to_host(before.data(), device.data(), sizeof(std::uint32_t));
      const std::int64_t arrived_bytes = fake_cuda().arrived_bytes;
      put_on_stream(handle_of(stream), [&] {
        if (fake_cuda().arrived_bytes > arrived_bytes) ++early;
        REQUIRE(*reinterpret_cast<const std::uint32_t*>(device.data()) == before[0]);
      });
      stream.copy_from_host(device.data(), values.data(), size_bytes);
      std::fill(values.begin(), values.end(), 0U);
      stream.copy_to_host(values.data(), device.data(), size_bytes);
      REQUIRE(values == std::vector<std::uint32_t>(values.size(), mark));
    }
    INFO(size_bytes << " bytes, " << early << " times before the work that was there first");
    CHECK((early > 0) == (size_bytes >= kLarge));
  }
}

TEST_CASE("two devices in turn, whichever is the thread's", "[device]") {
  const Untouched untouched;
  const std::unique_ptr<Context> contexts[] = {make_cuda_context(0, 0.2), make_cuda_context(1, 0.2)};
  const std::vector<float> values{1, 2, 3};
  for (int round = 0; round < 2; ++round) {
    for (const auto& context : contexts) {
      const auto other = context->stream().make_side_stream();
      const Tensor x = context->from_host(ConstArray(values.data(), Shape{3}));
      other->wait_for(context->stream());
      Tensor y = context->empty({3}, DType::float32);
      other->copy(y.data(), x.data(), y.size_bytes());
      cuda::use_device(round);
      context->stream().wait_for(*other);
      const auto copy = context->stream().make_host_copy(12);
      copy->start({{y.data(), 12}});
      CHECK(reinterpret_cast<const float*>(copy->wait())[2] == 3);
      Tensor product = context->zeros({1, 1}, DType::float32);
      const Tensor row = x.reshape({1, 3});
      cuda::use_device(1 - context->stream().ordinal());
      matmul({.a = row.const_array(), .b = row.const_array(), .y = product.array(), .transpose_b = true},
             context->stream());
      CHECK(to_host(*context, product).at(0) == 14);
    }
  }
}

/// Two ranks that have the same numbers: a sum doubles them, as work of the stream that it is put on.
class EqualRanks final : public SilentRank {
 public:
  EqualRanks() : SilentRank(2) {}
  void all_reduce_sum(const Array& values, Stream& stream, std::string_view) override {
    put_on_stream(handle_of(stream), [values] {
      for (std::int64_t i = 0; i < values.size(); ++i) store_double(values, i, 2 * load_double(values, i));
    });
  }
};

void check_equal_ranks(Context& context);
TEST_CASE("steps whose gradients are summed beside backward are those of one rank", "[device]") {
  const Untouched untouched;
  every_context(check_equal_ranks);
}
void check_equal_ranks(Context& context) {
  TrainConfig config = tiny_config();
  config.depth = 1;
  config.bucket_mb = 0;  // a sum for each parameter
  SingleProcess single;
  EqualRanks ranks;
  StudentTeacher alone(context, single, config, DType::float32), summed(context, ranks, config, DType::float32);
  check_same_steps(context, config, summed, alone, 4);
  CHECK(summed.replays() == 6);
}

}  // namespace
}  // namespace dino::test
