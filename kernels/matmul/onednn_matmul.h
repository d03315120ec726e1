#pragma once

#include "kernels/common/dtype.h"

#include <compare>
#include <cstddef>
#include <cstdint>

namespace dino::cpu {

/// One product as oneDNN does it in one primitive.
struct OnednnProduct {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType operands, result;
  bool bias;        // fp32
  bool accumulate;  // y += …
  auto operator<=>(const OnednnProduct&) const = default;
};

struct OnednnPointers {
  const void* a;
  const void* b;
  const void* bias;
  void* y;
  void* scratch;  // onednn_scratch_bytes(product), 64-byte aligned
};

/// Whether bf16 products are faster than fp32 ones. They are with AMX, and with AVX-512 BF16 where its instruction runs
/// at the rate of an fp32 multiply-add. Intel's cores issue it at a quarter of that rate: where AMX is missing or
/// switched off, 86 GFLOP/s a core against 175 in fp32 (docs/performance.md).
bool multiplies_bf16_faster();

/// Whether oneDNN has an optimised implementation for this processor; its plain reference loops do not count. The
/// primitive is made on the first question and kept, per thread.
bool onednn_supports(const OnednnProduct& product);
/// Needs onednn_supports(product), as does onednn_run.
std::size_t onednn_scratch_bytes(const OnednnProduct& product);
void onednn_run(const OnednnProduct& product, const OnednnPointers& pointers);

}  // namespace dino::cpu
