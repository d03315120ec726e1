// The host's form of CUDA: that it computes what CUDA would, and that it finds the mistakes that it is there to find.
#include "engine/graph.h"
#include "kernels/attention/attention.h"
#include "kernels/common/cuda/launch.h"
#include "tests/simt/host_stream.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

using namespace dino;
using namespace dino::test;

namespace {

constexpr int kThreads = 96;
const simt::Schedule kSchedules[] = {simt::Schedule::ascending, simt::Schedule::descending, simt::Schedule::shuffled};

enum class Fault { none, no_barrier, no_second_barrier, divergent_barrier, short_tail, unwritten, beyond_shared };

/// Sums of the blocks' values by way of shared memory, twice, with one mistake or none.
template <Fault kFault>
__global__ void block_sums(const float* x, float* sums, int n) {
  float* shared = &cuda::shared_memory<float>();  // one value per warp
  const int thread = static_cast<int>(threadIdx.x);
  const int i = static_cast<int>(blockIdx.x) * kThreads + thread;
  const int end = kFault == Fault::short_tail ? n - 1 : n;
  float result = 0;
  for (int round = 0; round < 2; ++round) {
    const float sum = cuda::warp_sum(i < end ? x[i] * static_cast<float>(round + 1) : 0.0F);
    const int slot = thread / 32 + (kFault == Fault::beyond_shared ? 1 : 0);
    if (thread % 32 == 0) shared[slot] = sum;
    if (kFault == Fault::divergent_barrier) {
      if (thread < 64) __syncthreads();
    } else if (kFault != Fault::no_barrier) {
      __syncthreads();
    }
    for (int warp = 0; warp < kThreads / 32; ++warp) result += shared[warp];
    if (kFault != Fault::no_second_barrier) __syncthreads();
  }
  if (thread == 0 && (kFault != Fault::unwritten || blockIdx.x > 0)) sums[blockIdx.x] = result;
}

/// How far the kernel's sums are from the right ones; infinite where one is not written.
template <Fault kFault>
double error_of_sums(simt::Schedule schedule) {
  const int n = 250;
  const HostArray x = random_normal(DType::float32, {n}, 1, 1.0, 2.0);
  HostArray sums(DType::float32, {3});
  HostArray expected(DType::float64, {3});
  for (int b = 0; b < 3; ++b) expected.set(b, 0);
  for (int i = 0; i < n; ++i) expected.set(i / kThreads, expected.at(i / kThreads) + 3 * x.at(i));
  const auto stream = simt::make_host_stream();
  simt::set_schedule(schedule);
  cuda::launch(block_sums<kFault>, {3, kThreads, kThreads / 32 * sizeof(float)}, *stream, x.as<float>(),
               sums.as<float>(), n);
  simt::set_schedule(simt::Schedule::ascending);
  return difference(sums, expected).relative_norm;
}

template <Fault kFault>
double largest_error() {
  double largest = 0;
  for (const simt::Schedule schedule : kSchedules) largest = std::max(largest, error_of_sums<kFault>(schedule));
  return largest;
}

/// Does this end a process, as the address sanitizer does?
bool kills(const std::function<void()>& call) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (std::FILE* stream : {stdout, stderr}) std::freopen("/dev/null", "w", stream);
    call();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/// Whether the host can read at an address, as the system sees it.
bool host_can_read(const void* address) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const bool readable = write(ends[1], address, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return readable;
}

__global__ void add_one(const float* x, float* y, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) y[i] = x[i] + 1;
}

__global__ void read_at(const float* x, float* y, int i) { y[0] = x[i]; }

__global__ void read_pack(const float* x, float* y) {
  float pack[4];
  cuda::load(x, pack);
  y[0] = pack[3];
}

/// Goes right only where blocks run in ascending order.
__global__ void count_blocks(float* y) {
  if (threadIdx.x == 0) y[blockIdx.x] = blockIdx.x == 0 ? 1 : y[blockIdx.x - 1] + 1;
}

/// Every lane writes what the warp's operations give it.
__global__ void warp_operations(std::int32_t* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  out += 6 * threadIdx.x;
  out[0] = __shfl_sync(cuda::kWholeWarp, lane * lane, 5);
  out[1] = __shfl_xor_sync(cuda::kWholeWarp, lane, 3);
  out[2] = __shfl_down_sync(cuda::kWholeWarp, lane, 8);
  out[3] = static_cast<std::int32_t>(__ballot_sync(cuda::kWholeWarp, lane % 2 == 1));
  out[4] = __all_sync(cuda::kWholeWarp, lane < 32) && !__all_sync(cuda::kWholeWarp, lane < 31) ? 1 : 0;
  const unsigned half = lane < 16 ? 0x0000ffffU : 0xffff0000U;
  out[5] = __shfl_sync(half, lane, lane < 16 ? 3 : 19);
}

__global__ void shuffle_from_absent_lane(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffU, 1.0F, 16);
}

__global__ void half_a_warp_waits(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(cuda::kWholeWarp, 1.0F, 0);
}

__global__ void write_index(std::int32_t* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = static_cast<std::int32_t>(block * 1000 + thread);
}

}  // namespace

TEST_CASE("simt runs every thread of every block, and computes sums over them") {
  const auto stream = simt::make_host_stream();
  HostArray out(DType::int32, {24 * 30});
  cuda::launch(write_index, {dim3(2, 3, 4), dim3(5, 3, 2)}, *stream, out.as<std::int32_t>());
  for (int i = 0; i < 24 * 30; ++i) REQUIRE(out.as<std::int32_t>()[i] == i / 30 * 1000 + i % 30);
  CHECK(largest_error<Fault::none>() <= 1e-6);
}

TEST_CASE("simt's warp operations are CUDA's") {
  const auto stream = simt::make_host_stream();
  for (const simt::Schedule schedule : kSchedules) {
    simt::set_schedule(schedule);
    HostArray out(DType::int32, {64, 6});
    cuda::launch(warp_operations, {1, 64}, *stream, out.as<std::int32_t>());
    for (int thread = 0; thread < 64; ++thread) {
      const int lane = thread % 32;
      const std::int32_t* row = out.as<std::int32_t>() + 6 * thread;
      REQUIRE(row[0] == 25);
      REQUIRE(row[1] == (lane ^ 3));
      REQUIRE(row[2] == (lane + 8 < 32 ? lane + 8 : lane));
      REQUIRE(row[3] == static_cast<std::int32_t>(0xaaaaaaaaU));
      REQUIRE(row[4] == 1);
      REQUIRE(row[5] == (lane < 16 ? 3 : 19));
    }
  }
  simt::set_schedule(simt::Schedule::ascending);
}

TEST_CASE("simt finds planted faults") {
  CHECK_FALSE(largest_error<Fault::no_barrier>() <= 1e-3);
  CHECK_FALSE(largest_error<Fault::no_second_barrier>() <= 1e-3);
  CHECK_FALSE(largest_error<Fault::short_tail>() <= 1e-3);
  CHECK_FALSE(largest_error<Fault::unwritten>() <= 1e-3);
  for (const simt::Schedule schedule : kSchedules) {
    const std::string error = error_of([&] { error_of_sums<Fault::divergent_barrier>(schedule); });
    INFO(error);
    CHECK(error.starts_with("[simt] divergent: "));
  }
  const auto stream = simt::make_host_stream();
  HostArray out(DType::float32, {32});
  CHECK(error_of([&] {
          cuda::launch(shuffle_from_absent_lane, {1, 32}, *stream, out.as<float>());
        }).find("a lane that does not take part") != std::string::npos);
  CHECK(error_of([&] {
          cuda::launch(half_a_warp_waits, {1, 32}, *stream, out.as<float>());
        }).find("divergent") != std::string::npos);
  CHECK(error_of([&] {
          cuda::launch(block_sums<Fault::none>, {1, 96, 3}, *stream, out.as<float>(), out.as<float>(), 1);
        }).find("less shared memory") != std::string::npos);
}

TEST_CASE("simt refuses launches that a GPU does not start, and memory that it does not reach") {
  const auto stream = simt::make_host_stream();
  const HostArray x = random_normal(DType::float32, {10}, 1);
  HostArray y(DType::float32, {1});
  const auto error = [&](const cuda::LaunchShape& shape, const float* from, float* to) {
    return error_of([&] { cuda::launch(read_at, shape, *stream, from, to, 0); });
  };
  CHECK(error({1, 1}, x.as<float>(), y.as<float>()).empty());
  CHECK(error({dim3(1, 0), 1}, x.as<float>(), y.as<float>()).empty());
  CHECK(error({dim3(1, 65536), 1}, x.as<float>(), y.as<float>()).find("a grid has at most") != std::string::npos);
  CHECK(error({dim3(1, 1, 65536), 1}, x.as<float>(), y.as<float>()).find("a grid has at most") != std::string::npos);
  CHECK(error({0x80000000U, 1}, x.as<float>(), y.as<float>()).find("a grid has at most") != std::string::npos);
  CHECK(error({1, dim3(1, 1, 65)}, x.as<float>(), y.as<float>()).find("layers of threads") != std::string::npos);
  CHECK(error({1, 1025}, x.as<float>(), y.as<float>()).find("a block has 1 to") != std::string::npos);
  CHECK(error({1, 1, 228 << 10}, x.as<float>(), y.as<float>()).find("shared memory") != std::string::npos);
  // An oracle's array is no device's.
  float local = 1;
  const std::vector<float> heap{1};
  CHECK(error({1, 1}, &local, y.as<float>()).find("host memory") != std::string::npos);
  CHECK(error({1, 1}, heap.data(), y.as<float>()).find("host memory") != std::string::npos);
}

TEST_CASE("attention keeps to what a card's blocks can have of shared memory") {
  constexpr std::size_t kOfH100 = std::size_t{227} << 10, kOfRtx4090 = std::size_t{99} << 10;
  const auto stream = simt::make_host_stream();
  const HostArray offsets = from_integers({0, 197, 234});
  const HostArray qkv = random_normal(DType::bfloat16, {234, 3 * 64}, 1);
  const HostArray d_out = random_normal(DType::bfloat16, {234, 64}, 2);
  HostArray out(DType::bfloat16, {234, 64}), logsumexp(DType::float32, {1, 234});
  std::vector<HostArray> results;
  for (const std::size_t most : {kOfH100, kOfRtx4090}) {
    simt::set_most_shared_bytes(most);
    HostArray& d_qkv = results.emplace_back(DType::bfloat16, qkv.shape());
    cuda::attention_forward(
        {.qkv = qkv, .offsets = offsets, .max_length = 197, .heads = 1, .out = out, .logsumexp = logsumexp}, *stream);
    cuda::attention_backward({.qkv = qkv,
                              .offsets = offsets,
                              .max_length = 197,
                              .heads = 1,
                              .out = out,
                              .logsumexp = logsumexp,
                              .d_out = d_out,
                              .d_qkv = d_qkv,
                              .mode = GradientMode::overwrite},
                             *stream);
  }
  // What a launch that asks for more meets.
  CHECK_THROWS_AS(
      cuda::launch(read_at, {1, 1, kOfRtx4090 + 1}, *stream, logsumexp.as<float>(), logsumexp.as<float>(), 0), Error);
  simt::set_most_shared_bytes(kOfH100);
  CHECK(difference(results[1], results[0]).relative_norm <= 1e-3);
}

TEST_CASE("simt finds a kernel that needs an order of its blocks") {
  const auto stream = simt::make_host_stream();
  int wrong = 0;
  for (const simt::Schedule schedule : kSchedules) {
    HostArray out = from_values(DType::float32, {4}, {NAN, NAN, NAN, NAN});
    simt::set_schedule(schedule);
    cuda::launch(count_blocks, {4, 32}, *stream, out.as<float>());
    wrong += out.at(3) == 4 ? 0 : 1;
  }
  simt::set_schedule(simt::Schedule::ascending);
  CHECK(wrong >= 1);
}

TEST_CASE("simt's sanitizer sees a pack at an address that is no multiple of its size") {
  const auto stream = simt::make_host_stream();
  const HostArray x = random_normal(DType::float32, {16}, 1);
  HostArray y(DType::float32, {1});
  const auto aligned = static_cast<int>(reinterpret_cast<std::uintptr_t>(x.as<float>()) / 4 % 4);
  const auto read = [&](int i) { cuda::launch(read_pack, {1, 1}, *stream, x.as<float>() + i, y.as<float>()); };
  CHECK_FALSE(kills([&] { read((4 - aligned) % 4); }));
  CHECK(kills([&] { read((4 - aligned) % 4 + 1); }));
}

TEST_CASE("simt's address sanitizer sees accesses outside of shared memory and of arrays") {
  CHECK(kills([] { error_of_sums<Fault::beyond_shared>(simt::Schedule::ascending); }));
  const auto stream = simt::make_host_stream();
  const HostArray x = random_normal(DType::float32, {10}, 1);
  HostArray y(DType::float32, {1});
  const auto read = [&](int i) { cuda::launch(read_at, {1, 1}, *stream, x.as<float>(), y.as<float>(), i); };
  CHECK_FALSE(kills([&] { read(9); }));
  CHECK(kills([&] { read(10); }));
  CHECK(kills([&] { read(-1); }));
}

TEST_CASE("The played device's memory is out of the host's reach, and of its exact size") {
  const auto context = simt::make_host_context();
  const HostArray x = random_normal(DType::float32, {10}, 1);
  const Tensor tensor = context->from_host(x);
  CHECK_FALSE(host_can_read(tensor.data()));
  CHECK_FALSE(host_can_read(context->stream().scratch(64)));
  CHECK(kills([&] { *reinterpret_cast<volatile float*>(tensor.data()); }));
  CHECK(kills([&] { *reinterpret_cast<volatile float*>(tensor.data()) = 1; }));
  check_close(to_host(*context, tensor), x, 0.0, "copy");

  const Tensor y = context->empty({1}, DType::float32);
  CHECK(std::isnan(to_host(*context, y).at(0)));  // written by nobody
  const auto read = [&](const float* from, int i) {
    cuda::launch(read_at, {1, 1}, context->stream(), from, y.as<float>(), i);
  };
  read(tensor.as<float>(), 9);
  CHECK(to_host(*context, y).at(0) == x.at(9));
  CHECK(kills([&] { read(tensor.as<float>(), 10); }));
  CHECK(kills([&] { read(tensor.as<float>(), -1); }));
  CHECK(kills([&] { read(static_cast<const float*>(context->stream().scratch(40)), 10); }));
  const auto* freed = context->from_host(x).as<float>();
  CHECK(kills([&] { read(freed, 0); }));
}

TEST_CASE("The played device records, and replays with what its memory then holds") {
  const auto context = simt::make_host_context();
  Stream& stream = context->stream();
  Tensor x = context->from_host(from_values(DType::float32, {3}, {1, 2, 3}));
  Tensor y = context->zeros({3}, DType::float32);
  REQUIRE(stream.begin_recording());
  {
    // Freed in the recording: it is there again in each replay.
    const Tensor between = context->empty({3}, DType::float32);
    auto* scratch = static_cast<float*>(stream.scratch(3 * sizeof(float)));
    cuda::launch(add_one, {1, 2}, stream, x.as<float>(), between.as<float>(), 3);
    cuda::launch(add_one, {1, 2}, stream, between.as<float>(), scratch, 3);
    cuda::launch(add_one, {1, 2}, stream, scratch, y.as<float>(), 3);
    CHECK_THROWS_AS(to_host(*context, y), Error);
    CHECK_THROWS_AS(context->copy_from_host(from_values(DType::float32, {3}, {0, 0, 0}), x), Error);
    CHECK_THROWS_AS(stream.synchronize(), Error);
  }
  const auto graph = stream.end_recording();
  stream.scratch(1 << 20);
  check_close(to_host(*context, y), from_values(DType::float32, {3}, {0, 0, 0}), 0.0, "before the first replay");
  graph->replay();
  check_close(to_host(*context, y), from_values(DType::float32, {3}, {4, 5, 6}), 0.0, "first replay");
  context->copy_from_host(from_values(DType::float32, {3}, {10, 20, 30}), x);
  graph->replay();
  check_close(to_host(*context, y), from_values(DType::float32, {3}, {13, 23, 33}), 0.0, "second replay");
}

TEST_CASE("GraphCache runs, records and replays, and records anew where other memory is in use") {
  const auto context = simt::make_host_context();
  GraphCache graphs(*context);
  const Tensor x = context->from_host(from_values(DType::float32, {1}, {0}));
  int calls = 0;
  Tensor kept;
  const auto run = [&](std::uint64_t key, bool keep = false) {
    graphs.run({key}, [&] {
      ++calls;
      const Tensor between = context->empty({1}, DType::float32);
      cuda::launch(add_one, {1, 1}, context->stream(), x.as<float>(), between.as<float>(), 1);
      cuda::launch(add_one, {1, 1}, context->stream(), between.as<float>(), x.as<float>(), 1);
      if (keep) kept = between;
    });
  };
  const int expected_calls[] = {1, 2, 2, 2};
  for (int i = 0; i < 4; ++i) {
    run(1);
    CHECK(calls == expected_calls[i]);
    CHECK(to_host(*context, x).at(0) == 2 * (i + 1));
  }
  CHECK(graphs.replays() == 3);
  run(2);  // another piece of work
  CHECK(calls == 3);
  {
    // It takes the place where the recorded work had its tensor.
    const Tensor other = context->from_host(from_values(DType::float32, {1}, {-7}));
    run(1);
    CHECK(calls == 4);
    CHECK(to_host(*context, other).at(0) == -7);
  }
  run(1);
  CHECK(calls == 5);
  CHECK(to_host(*context, x).at(0) == 14);
  CHECK(error_of([&] { run(2, true); }).find("left tensors behind") != std::string::npos);
  kept = Tensor();
  // A recording that fails is given up; the stream goes on.
  graphs.run({3}, [] {});
  CHECK(error_of([&] { graphs.run({3}, [] { fail("test", "no"); }); }).starts_with("[test] no"));
  CHECK(to_host(*context, x).at(0) == 14);
}
