#pragma once

#include "kernels/common/cuda/device.h"

// The instructions behind matrix products on tensor cores, for which CUDA C++ has no names. Names, layouts and rules
// are those of the PTX ISA ("Matrix fragments for mma.m16n8k16", "ldmatrix", "cp.async"); the host's forms implement
// them element by element. A lane's place in every layout: group = lane / 4, pair = lane % 4 of the group's lanes.

#ifndef __CUDACC__
#include <cstring>
#endif

namespace dino::cuda {

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* address) {
  return static_cast<unsigned>(__cvta_generic_to_shared(address));
}

/// Four 8×8 matrices of bf16 in shared memory. Lane i gives the address of row i % 8 of matrix i / 8: 16 bytes,
/// aligned. to[m]: of matrix m, row `group`, columns 2·pair and 2·pair + 1. All lanes take part; other lanes' stores
/// must have been waited for.
__device__ __forceinline__ void ldmatrix_x4(const BFloat16* row, unsigned (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same of the transposed matrices. to[m]: of matrix m as it lies, rows 2·pair and 2·pair + 1, column `group`.
__device__ __forceinline__ void ldmatrix_x4_trans(const BFloat16* row, unsigned (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c += a b for a (16, 16), b (16, 8) of bf16 and c (16, 8) of fp32. All lanes take part.
///   a[0]: row group, columns 2·pair, + 1;   a[1]: row group + 8;   a[2], a[3]: the same, 8 columns on
///   b0: rows 2·pair, + 1, column group;     b1: 8 rows on
///   c[0], c[1]: row group, columns 2·pair, + 1;   c[2], c[3]: row group + 8
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Starts copying `bytes` (0 to 16) from global to shared memory, where zeros follow up to 16. Both addresses are
/// multiples of 16. Nothing may be read there before this thread's cp_async_wait, and a barrier for other threads.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}

/// Makes a group of this thread's copies since the last one.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for this thread's groups but the last `kPending`.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

namespace host {

/// A lane reads its row when it arrives, so that a store it should have waited for is missed.
inline void ldmatrix_x4(const BFloat16* row, bool transposed, unsigned (&to)[4]) {
  simt::require_aligned(row, 16);
  simt::require_shared(row, 16);
  std::uint64_t halves[2];
  std::memcpy(halves, row, sizeof(halves));
  std::uint16_t rows[kWarpSize][8];
  for (int half = 0; half < 2; ++half) {
    const std::uint64_t* received = simt::exchange_in_warp(kWholeWarp, halves[half]);
    for (int i = 0; i < kWarpSize; ++i) std::memcpy(rows[i] + 4 * half, received + i, sizeof(std::uint64_t));
  }
  const unsigned group = simt::lane() / 4;
  const unsigned pair = simt::lane() % 4;
  for (unsigned m = 0; m < 4; ++m) {
    const auto element = [&](unsigned r, unsigned c) -> unsigned {
      return transposed ? rows[8 * m + c][r] : rows[8 * m + r][c];
    };
    to[m] = element(group, 2 * pair) | element(group, 2 * pair + 1) << 16;
  }
}

}  // namespace host

inline void ldmatrix_x4(const BFloat16* row, unsigned (&to)[4]) { host::ldmatrix_x4(row, false, to); }
inline void ldmatrix_x4_trans(const BFloat16* row, unsigned (&to)[4]) { host::ldmatrix_x4(row, true, to); }

inline void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  float left[16][16];
  float right[16][8];
  const auto half = [](std::uint64_t registers, int i) {
    return to_float(std::bit_cast<BFloat16>(static_cast<std::uint16_t>(registers >> (16 * i))));
  };
  const auto both = [](unsigned low, unsigned high) { return low | std::uint64_t{high} << 32; };
  const std::uint64_t given[3] = {both(a[0], a[1]), both(a[2], a[3]), both(b0, b1)};
  for (int part = 0; part < 3; ++part) {
    const std::uint64_t* received = simt::exchange_in_warp(kWholeWarp, given[part]);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int group = lane / 4;
      const int pair = lane % 4;
      for (int i = 0; i < 4; ++i) {  // elements 0 and 1 lie in the first register, 2 and 3 in the second
        const float value = half(received[lane], i);
        if (part < 2) left[group + 8 * (i / 2)][2 * pair + i % 2 + 8 * part] = value;
        if (part == 2) right[2 * pair + i % 2 + 8 * (i / 2)][group] = value;
      }
    }
  }
  const unsigned group = simt::lane() / 4;
  const unsigned pair = simt::lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) c[i] += left[group + 8 * (i / 2)][k] * right[k][2 * pair + i % 2];
  }
}

inline void cp_async_16(void* shared, const void* global, int bytes = 16) {
  simt::require_aligned(shared, 16);
  simt::require_aligned(global, 16);
  simt::require_shared(shared, 16);
  simt::queue_copy(shared, global, static_cast<std::size_t>(bytes), 16);
}
inline void cp_async_commit() { simt::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  simt::wait_for_copies(kPending);
}

#endif

}  // namespace dino::cuda
