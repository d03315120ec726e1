#pragma once

// CUDA's device language as C++, for kernels that run on the host: one fibre per CUDA thread. Names and meanings are
// those of the CUDA C++ Programming Guide. Included by kernels/common/cuda/device.h where the compiler is not nvcc.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "tests/simt/reach.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

namespace dino {
class Stream;
}

namespace dino::simt {

/// Runs `work` as the stream's: now, or in the replays of what it records.
void submit(Stream& stream, std::function<void()> work);

/// The thread that runs: what CUDA's built-in variables say.
struct ThreadView {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
  void* shared = nullptr;
  std::size_t shared_bytes = 0;
};
const ThreadView& this_thread();

/// Which block of a grid goes first, which warp of a block, and which lane of a warp. A warp runs as far as it gets, so
/// that a missing barrier shows in at least one order.
enum class Schedule : std::uint8_t { ascending, descending, shuffled };
void set_schedule(Schedule schedule);

/// Shared memory that a block can have, in bytes: at first an H100's 227 KB.
std::size_t most_shared_bytes();
void set_most_shared_bytes(std::size_t size_bytes);

/// Throws Error for a grid, a block or shared memory that an H100, or one with so much of that, does not start.
void check_launch(const dim3& grid, const dim3& block, std::size_t shared_bytes);
/// Runs `kernel` once for every thread of every block. Throws Error when threads wait for each other without end, as
/// they do at a barrier that not all of them reach, and what a thread throws.
void run_grid(const dim3& grid, const dim3& block, std::size_t shared_bytes, const std::function<void()>& kernel);

/// Waits for all threads of the block.
void block_barrier();
/// Gives `value` to the lanes of the warp that are named in `mask` and waits for theirs; entry i is lane i's.
const std::uint64_t* exchange_in_warp(unsigned mask, std::uint64_t value);

template <typename T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) return std::bit_cast<std::uint32_t>(value);
  if constexpr (sizeof(T) == 8) return std::bit_cast<std::uint64_t>(value);
}
template <typename T>
T from_bits(std::uint64_t bits) {
  if constexpr (sizeof(T) == 4) return std::bit_cast<T>(static_cast<std::uint32_t>(bits));
  if constexpr (sizeof(T) == 8) return std::bit_cast<T>(bits);
}

unsigned lane();
[[noreturn]] void fail_in_kernel(const char* what);

/// Asynchronous copies of this thread: `bytes` from `from`, then zeros up to `size`. They happen as late as they may:
/// in wait_for_copies, for all groups but the last `pending`; what was never waited for never happens. With the
/// schedule `descending` they happen as early as they may, at once.
void queue_copy(void* to, const void* from, std::size_t bytes, std::size_t size);
void commit_copies();
void wait_for_copies(std::size_t pending);

/// Throw Error unless an address is a multiple of `alignment`, or unless `size` bytes there are the block's shared
/// memory.
void require_aligned(const void* address, std::size_t alignment);
void require_shared(const void* address, std::size_t size);

/// The value of another lane, which must take part.
template <typename T>
T shuffle(unsigned mask, T value, unsigned from) {
  const std::uint64_t* values = exchange_in_warp(mask, to_bits(value));
  if (from >= 32 || (mask >> from & 1U) == 0) fail_in_kernel("a shuffle reads a lane that does not take part");
  return from_bits<T>(values[from]);
}

}  // namespace dino::simt

#define threadIdx (::dino::simt::this_thread().thread_index)
#define blockIdx (::dino::simt::this_thread().block_index)
#define blockDim (::dino::simt::this_thread().block_size)
#define gridDim (::dino::simt::this_thread().grid_size)

inline void __syncthreads() { ::dino::simt::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffU) { ::dino::simt::exchange_in_warp(mask, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return ::dino::simt::shuffle(mask, value, static_cast<unsigned>(from) % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return ::dino::simt::shuffle(mask, value, ::dino::simt::lane() ^ static_cast<unsigned>(lane_mask));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const unsigned from = ::dino::simt::lane() + distance;
  return ::dino::simt::shuffle(mask, value, from < 32 ? from : ::dino::simt::lane());
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  const std::uint64_t* values = ::dino::simt::exchange_in_warp(mask, predicate ? 1 : 0);
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if ((mask >> i & 1U) != 0 && values[i] != 0) votes |= 1U << i;
  }
  return votes;
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) == mask; }

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
using std::fmaf;
using std::isfinite;
// Sources for the host are compiled without fusing products into sums.
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }

namespace dino::cuda {

template <typename T>
T& shared_memory() {
  const simt::ThreadView& thread = simt::this_thread();
  if (sizeof(T) > thread.shared_bytes) simt::fail_in_kernel("the launch gives less shared memory than the kernel uses");
  return *static_cast<T*>(thread.shared);
}

}  // namespace dino::cuda
