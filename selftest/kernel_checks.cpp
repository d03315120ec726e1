#include "selftest/kernel_checks.h"

#include "selftest/kernels/kernel_check.h"

#include <hwy/targets.h>

#include <optional>
#include <vector>

namespace dino {
namespace {

std::vector<KernelCheck> all_checks() {
  std::vector<KernelCheck> all;
  for (const auto checks_of :
       {attention_checks, augment_checks, batch_norm_checks, cast_checks, column_sum_checks, dino_loss_checks,
        gather_rows_checks, gelu_checks, knn_checks, l2_normalize_checks, layer_norm_checks, matmul_checks,
        optimizer_step_checks, patch_embed_checks, pos_embed_checks, weight_norm_checks}) {
    for (const KernelCheck& check : checks_of()) all.push_back(check);
  }
  return all;
}

/// Makes the CPU kernels run with one instruction set; afterwards with the best again.
class ChosenTarget {
 public:
  explicit ChosenTarget(std::int64_t target) { hwy::GetChosenTarget().Update(target); }
  ~ChosenTarget() { hwy::GetChosenTarget().Update(hwy::SupportedTargets()); }
  ChosenTarget(const ChosenTarget&) = delete;
  ChosenTarget& operator=(const ChosenTarget&) = delete;
};

/// Instruction sets that the kernels are compiled for and this machine has; 0 alone where there is no choice.
std::vector<std::int64_t> targets_of(Device device) {
  if (device != Device::cpu) return {0};
  std::vector<std::int64_t> targets;
  const std::int64_t all = (hwy::SupportedTargets() & HWY_TARGETS) | HWY_SCALAR;
  for (std::int64_t rest = all; rest != 0; rest &= rest - 1) targets.push_back(rest & -rest);
  return targets;
}

}  // namespace

SelfChecks check_kernels(Context& context, const SelfTestProgress& progress) {
  SelfChecks checks;
  std::int64_t done = 0;
  const std::vector<KernelCheck> operations = all_checks();
  for (const KernelCheck& operation : operations) {
    if (progress) progress(done, static_cast<std::int64_t>(operations.size()), operation.name);
    ++done;
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      if (dtype != DType::float32 && !operation.two_types) continue;
      for (const std::int64_t target : targets_of(context.device())) {
        std::optional<ChosenTarget> chosen;
        if (target != 0) chosen.emplace(target);
        KernelBench bench(context, dtype);
        SelfCheck check{.group = "kernels", .name = operation.name};
        if (operation.two_types) check.dtype = dtype == DType::float32 ? "fp32" : "bf16";
        if (target != 0) check.target = hwy::TargetName(target);
        try {
          operation.check(bench);
          bench.worst().finish(check);
        } catch (const Error& error) {
          fail_check(check, error);
        }
        checks.push_back(std::move(check));
      }
    }
  }
  return checks;
}

}  // namespace dino
