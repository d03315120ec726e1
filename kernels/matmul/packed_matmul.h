#pragma once

#include "kernels/matmul/matmul.h"

namespace dino::cpu {

/// Packed b that stays in the second-level cache while all rows of a pass by: three fifths of it.
std::int64_t packed_b_bytes();

/// How a product is cut, for caches of the first and second level. Every value is at least 1. The result does not
/// depend on it.
struct PackedBlocks {
  static constexpr std::int64_t kMostDepth = 384;
  std::int64_t depth = kMostDepth;  // of K, that a tile of a is packed for: 21 KiB; at most kMostDepth
  std::int64_t chunk = 1024;        // of K, that b is packed for
  std::int64_t b_bytes = packed_b_bytes();
};

/// The product in fp32 arithmetic, whatever the operands' type: both are widened where they are packed into the order
/// in which a tile of sums in registers reads them, and bias, GELU and rounding are applied to a tile that is still in
/// the first-level cache. Each thread computes a rectangle of y, from its own packed operands.
/// Numerics: every element is one sum over K in ascending order, in fp32: the same bits for any number of threads. The
/// products of two bf16 numbers are exact in fp32.
void matmul_packed(const Matmul& args, Stream& stream, const PackedBlocks& blocks = {});

}  // namespace dino::cpu
