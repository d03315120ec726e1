#pragma once

#include "kernels/matmul/matmul.h"

namespace dino::cpu {

/// fp32 copies that a block has at once, per thread: second-level caches have 0.5 to 2 MiB.
inline constexpr std::int64_t kWidenedBlockBytes = 1 << 20;

/// matmul in fp32 arithmetic where an array is bf16, for processors that multiply fp32 at least as fast. The products
/// of two bf16 numbers are exact in fp32, so only the order of the sums differs from a bf16 instruction's. Method:
/// along the longest of M, N and K, blocks are widened, multiplied, and rounded while they lie in the cache; the
/// operand that does not have this dimension is widened once. Blocks depend on the sizes and the number of threads.
void matmul_widened(const Matmul& args, Stream& stream, std::int64_t block_bytes = kWidenedBlockBytes);

}  // namespace dino::cpu
