#pragma once

#include "kernels/common/gradient_mode.h"
#include "selftest/kernel_bench.h"

#include <span>

namespace dino {

/// One operation, compared with its oracle at an odd size and at one of DINO's.
struct KernelCheck {
  const char* name;
  bool two_types;  // is there a choice of the element type
  void (*check)(KernelBench&);
};
using KernelChecks = std::span<const KernelCheck>;

// What the checks are written with.
using Value = KernelBench::Value;
using At = KernelBench::At;
inline constexpr DType kFloat = DType::float32;
inline constexpr auto kOverwrite = GradientMode::overwrite;
inline constexpr auto kAccumulate = GradientMode::accumulate;
/// Rounding to bf16 is off by 2^-9 of the value at most; bounds allow for twice that, and once more for each result
/// that is rounded on the way.
inline constexpr double kBf16 = 0x1p-8;

// Those of each folder of kernels/: NAME_check.cpp.
KernelChecks attention_checks();
KernelChecks augment_checks();
KernelChecks batch_norm_checks();
KernelChecks cast_checks();
KernelChecks column_sum_checks();
KernelChecks dino_loss_checks();
KernelChecks gather_rows_checks();
KernelChecks gelu_checks();
KernelChecks knn_checks();
KernelChecks l2_normalize_checks();
KernelChecks layer_norm_checks();
KernelChecks matmul_checks();
KernelChecks optimizer_step_checks();
KernelChecks patch_embed_checks();
KernelChecks pos_embed_checks();
KernelChecks weight_norm_checks();

}  // namespace dino
