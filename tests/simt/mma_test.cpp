// The host's forms of the tensor cores' instructions: each against the PTX ISA's layouts and plain matrix products, and
// with the mistakes that they are there to find.
#include "kernels/common/cuda/mma.h"
#include "kernels/common/cuda/launch.h"
#include "tests/simt/host_stream.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

const simt::Schedule kSchedules[] = {simt::Schedule::ascending, simt::Schedule::descending, simt::Schedule::shuffled};

/// Runs a kernel with the threads in every order.
template <typename Body>
void every_schedule(const Body& body) {
  for (const simt::Schedule schedule : kSchedules) {
    simt::set_schedule(schedule);
    body();
  }
  simt::set_schedule(simt::Schedule::ascending);
}

/// Puts four 8×8 matrices, one below the other, into shared memory and writes what each lane receives.
template <bool kTransposed>
__global__ void load_matrices(const BFloat16* x, unsigned* out) {
  BFloat16* shared = &cuda::shared_memory<BFloat16>();
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 4 * 64; i += 32) shared[i] = x[i];
  __syncthreads();
  unsigned registers[4];
  if (kTransposed) {
    cuda::ldmatrix_x4_trans(shared + lane * 8, registers);
  } else {
    cuda::ldmatrix_x4(shared + lane * 8, registers);
  }
  for (unsigned m = 0; m < 4; ++m) out[lane * 4 + m] = registers[m];
}

/// One mma whose registers are filled and emptied by the ISA's formulas for an element's row and column.
__global__ void multiply(const BFloat16* a, const BFloat16* b, float* c) {
  const unsigned group = threadIdx.x >> 2;
  const unsigned in_group = threadIdx.x % 4;
  unsigned a_registers[4] = {};
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const unsigned column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
    a_registers[i / 2] |= static_cast<unsigned>(a[row * 16 + column].bits) << (16 * (i % 2));
  }
  unsigned b_registers[2] = {};
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
    b_registers[i / 2] |= static_cast<unsigned>(b[row * 8 + group].bits) << (16 * (i % 2));
  }
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  cuda::mma_m16n8k16(sums, a_registers, b_registers[0], b_registers[1]);
  for (unsigned i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = sums[i];
}

enum class Fault { none, swapped_fragments, not_transposed, no_barrier, no_wait, short_tail, unwritten };

constexpr int kRows = 32;
constexpr int kDepth = 32;
constexpr int kColumns = 16;
constexpr int kThreads = 64;

/// c (32, 16) = a[:, :depth] b for a (32, 32) and b (depth, 16), by way of shared memory, with one mistake or none.
/// Each of two warps computes 16 rows.
template <Fault kFault>
__global__ void tile_product(const BFloat16* a, const BFloat16* b, float* c, int depth) {
  BFloat16* shared_a = &cuda::shared_memory<BFloat16>();
  BFloat16* shared_b = shared_a + kRows * kDepth;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * kDepth / 8; i += kThreads) cuda::cp_async_16(shared_a + i * 8, a + i * 8);
  const int valid = kFault == Fault::short_tail ? depth - 1 : depth;
  for (int i = thread; i < kDepth * kColumns / 8; i += kThreads) {
    const bool there = i / 2 < valid;
    cuda::cp_async_16(shared_b + i * 8, there ? b + i * 8 : b, there ? 16 : 0);
  }
  cuda::cp_async_commit();
  if (kFault != Fault::no_wait) cuda::cp_async_wait<0>();
  if (kFault != Fault::no_barrier) __syncthreads();
  const int lane = thread % 32;
  const int first = thread / 32 * 16;
  float sums[2][4] = {};
  for (int k = 0; k < kDepth; k += 16) {
    unsigned left[4];
    unsigned right[4];
    cuda::ldmatrix_x4(shared_a + (first + lane % 16) * kDepth + k + lane / 16 * 8, left);
    const BFloat16* row = shared_b + (k + lane % 16) * kColumns + lane / 16 * 8;
    if (kFault == Fault::not_transposed) {
      cuda::ldmatrix_x4(row, right);
    } else {
      cuda::ldmatrix_x4_trans(row, right);
    }
    for (int n = 0; n < 2; ++n) {
      const int swap = kFault == Fault::swapped_fragments ? 1 : 0;
      cuda::mma_m16n8k16(sums[n], left, right[2 * n + swap], right[2 * n + 1 - swap]);
    }
  }
  for (int n = 0; n < 2; ++n) {
    for (int i = 0; i < 4; ++i) {
      const int row = first + lane / 4 + i / 2 * 8;
      if (kFault == Fault::unwritten && row == kRows - 1) continue;
      c[row * kColumns + n * 8 + lane % 4 * 2 + i % 2] = sums[n][i];
    }
  }
}

/// How far the kernel's product is from the plain one, at worst over the orders of threads.
template <Fault kFault>
double largest_error(int depth) {
  const HostArray a = random_normal(DType::bfloat16, {kRows, kDepth}, 1);
  const HostArray b = random_normal(DType::bfloat16, {depth, kColumns}, 2);
  HostArray expected(DType::float64, {kRows, kColumns});
  for (int i = 0; i < kRows * kColumns; ++i) {
    double sum = 0;
    for (int k = 0; k < depth; ++k) sum += a.at(i / kColumns * kDepth + k) * b.at(k * kColumns + i % kColumns);
    expected.set(i, sum);
  }
  const auto stream = simt::make_host_stream();
  double largest = 0;
  every_schedule([&] {
    HostArray c(DType::float32, {kRows, kColumns});
    cuda::launch(tile_product<kFault>, {1, kThreads, (kRows + kColumns) * kDepth * sizeof(BFloat16)}, *stream,
                 a.as<BFloat16>(), b.as<BFloat16>(), c.as<float>(), depth);
    largest = std::max(largest, difference(c, expected).relative_norm);
  });
  return largest;
}

/// Copies two packs in two groups, waits for both or for the first, and writes what is there.
template <int kPending>
__global__ void copy_in_groups(const BFloat16* x, BFloat16* out, int bytes) {
  BFloat16* shared = &cuda::shared_memory<BFloat16>();
  cuda::cp_async_16(shared, x, bytes);
  cuda::cp_async_commit();
  cuda::cp_async_16(shared + 8, x + 8, bytes);
  cuda::cp_async_commit();
  cuda::cp_async_wait<kPending>();
  for (int i = 0; i < 16; ++i) out[i] = shared[i];
}

/// Sums tiles of 64 packs that stream through two stages of shared memory, each thread of what another warp copied. The
/// barrier at the end keeps the next copy from what is still read.
template <bool kBarrier>
__global__ void sum_stream(const BFloat16* x, float* out, int tiles) {
  BFloat16* shared = &cuda::shared_memory<BFloat16>();
  const int thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int tile) {
    if (tile < tiles)
      cuda::cp_async_16(shared + (tile % 2 * kThreads + thread) * 8, x + (tile * kThreads + thread) * 8);
    cuda::cp_async_commit();
  };
  start(0);
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    start(tile + 1);
    cuda::cp_async_wait<1>();
    __syncthreads();
    sum += cuda::to_float(shared[(tile % 2 * kThreads + (thread ^ 32)) * 8]);
    if (kBarrier) __syncthreads();
  }
  out[thread] = sum;
}

template <bool kBarrier>
double error_of_stream() {
  constexpr int kTiles = 4;
  const HostArray x = random_normal(DType::bfloat16, {kTiles, kThreads, 8}, 1);
  HostArray expected(DType::float64, {kThreads});
  for (int i = 0; i < kThreads; ++i) {
    double sum = 0;
    for (int tile = 0; tile < kTiles; ++tile) sum += x.at((tile * kThreads + (i ^ 32)) * 8);
    expected.set(i, sum);
  }
  const auto stream = simt::make_host_stream();
  double largest = 0;
  every_schedule([&] {
    HostArray out(DType::float32, {kThreads});
    cuda::launch(sum_stream<kBarrier>, {1, kThreads, 2 * kThreads * 16}, *stream, x.as<BFloat16>(), out.as<float>(),
                 kTiles);
    largest = std::max(largest, difference(out, expected).relative_norm);
  });
  return largest;
}

__global__ void give_bad_address(int fault, const BFloat16* x) {
  BFloat16* shared = &cuda::shared_memory<BFloat16>();
  unsigned registers[4];
  if (fault == 0) cuda::ldmatrix_x4(shared + 4, registers);
  if (fault == 1) cuda::ldmatrix_x4(x, registers);
  if (fault == 2) cuda::cp_async_16(shared, x + 1);
  if (fault == 3) cuda::cp_async_16(shared + 32, x);
  if (fault == 4) cuda::cp_async_16(shared, x, 17);
}

}  // namespace

TEST_CASE("ldmatrix gives each lane the elements that the ISA says") {
  HostArray x(DType::bfloat16, {4, 8, 8});
  for (int i = 0; i < 256; ++i) x.set(i, i);  // exact in bf16
  const auto element = [&](unsigned bits, int half) {
    return static_cast<float>(std::bit_cast<BFloat16>(static_cast<std::uint16_t>(bits >> (16 * half))));
  };
  const auto stream = simt::make_host_stream();
  every_schedule([&] {
    HostArray plain(DType::int32, {32, 4});
    HostArray transposed(DType::int32, {32, 4});
    const cuda::LaunchShape shape{1, 32, 256 * sizeof(BFloat16)};
    cuda::launch(load_matrices<false>, shape, *stream, x.as<BFloat16>(),
                 reinterpret_cast<unsigned*>(plain.as<std::int32_t>()));
    cuda::launch(load_matrices<true>, shape, *stream, x.as<BFloat16>(),
                 reinterpret_cast<unsigned*>(transposed.as<std::int32_t>()));
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        for (int half = 0; half < 2; ++half) {
          const int row = lane / 4;
          const int column = lane % 4 * 2 + half;
          const auto got = [&](const HostArray& registers) {
            return element(static_cast<unsigned>(registers.as<std::int32_t>()[lane * 4 + m]), half);
          };
          REQUIRE(got(plain) == static_cast<float>(m * 64 + row * 8 + column));
          REQUIRE(got(transposed) == static_cast<float>(m * 64 + column * 8 + row));
        }
      }
    }
  });
}

TEST_CASE("mma adds a matrix product") {
  const HostArray a = random_normal(DType::bfloat16, {16, 16}, 1);
  const HostArray b = random_normal(DType::bfloat16, {16, 8}, 2);
  const HostArray before = random_normal(DType::float32, {16, 8}, 3);
  HostArray expected(DType::float64, {16, 8});
  for (int i = 0; i < 16 * 8; ++i) {
    double sum = before.at(i);
    for (int k = 0; k < 16; ++k) sum += a.at(i / 8 * 16 + k) * b.at(k * 8 + i % 8);
    expected.set(i, sum);
  }
  const auto stream = simt::make_host_stream();
  every_schedule([&] {
    HostArray c = before.copy();
    cuda::launch(multiply, {1, 32}, *stream, a.as<BFloat16>(), b.as<BFloat16>(), c.as<float>());
    check_close(c, expected, 1e-6, "c");
  });
}

TEST_CASE("cp.async, ldmatrix and mma together multiply matrices") {
  for (const int depth : {1, 15, 16, 17, 32}) CHECK(largest_error<Fault::none>(depth) <= 1e-6);
}

TEST_CASE("simt finds planted faults around tensor cores") {
  CHECK_FALSE(largest_error<Fault::swapped_fragments>(17) <= 1e-2);
  CHECK_FALSE(largest_error<Fault::not_transposed>(17) <= 1e-2);
  CHECK_FALSE(largest_error<Fault::no_barrier>(17) <= 1e-2);
  CHECK_FALSE(largest_error<Fault::no_wait>(17) <= 1e-2);
  CHECK_FALSE(largest_error<Fault::short_tail>(17) <= 1e-2);
  CHECK_FALSE(largest_error<Fault::unwritten>(17) <= 1e-2);
  CHECK(error_of_stream<true>() <= 1e-6);
  CHECK_FALSE(error_of_stream<false>() <= 1e-2);
}

TEST_CASE("cp.async shows only what was waited for, and zeros after it") {
  const HostArray x = random_normal(DType::bfloat16, {16}, 1);
  const auto stream = simt::make_host_stream();
  const auto copied = [&](auto kernel, int bytes) {
    HostArray out(DType::bfloat16, {16});
    cuda::launch(kernel, {1, 1, 32}, *stream, x.as<BFloat16>(), out.as<BFloat16>(), bytes);
    return out;
  };
  check_close(copied(copy_in_groups<0>, 16), x, 0.0, "both groups");
  const HostArray first = copied(copy_in_groups<1>, 16);
  const HostArray part = copied(copy_in_groups<0>, 6);
  for (int i = 0; i < 8; ++i) {
    REQUIRE(first.at(i) == x.at(i));
    REQUIRE(std::isnan(first.at(8 + i)));
    REQUIRE(part.at(i) == (i < 3 ? x.at(i) : 0.0));
  }
}

TEST_CASE("simt refuses addresses that the instructions do not take") {
  const HostArray x = random_normal(DType::bfloat16, {64}, 1);
  const auto stream = simt::make_host_stream();
  const char* expected[] = {"multiple of its size", "shared memory", "multiple of its size", "shared memory",
                            "reads more than it writes"};
  for (int fault = 0; fault < 5; ++fault) {
    const std::string error = error_of([&] {
      cuda::launch(give_bad_address, {1, 32, 64}, *stream, fault, x.as<BFloat16>());
    });
    INFO(error);
    CHECK(error.find(expected[fault]) != std::string::npos);
  }
}
