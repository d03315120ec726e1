#include "cli/accelerators.h"

#include "engine/context_cuda.h"
#include "train/config.h"

#include <fmt/format.h>

#include <string>
#include <vector>

namespace dino {
namespace {

constexpr double kGB = 1e9, kTB = 1e12, kTFLOP = 1e12;
/// Context, code and libraries on the device. NVIDIA documents no number; about half a gigabyte is usual.
constexpr double kRuntimeBytes = 0.6e9;

constexpr Accelerator kAccelerators[] = {
    {"h200", "NVIDIA H200 SXM", 141 * kGB, 4.8 * kTB, 989.5 * kTFLOP, 67 * kTFLOP,
     "NVIDIA H200 Tensor Core GPU datasheet, 2024 (1,979 TFLOPS bf16 with sparsity, halved)"},
    {"h100", "NVIDIA H100 SXM 80 GB", 80 * kGB, 3.35 * kTB, 989.5 * kTFLOP, 67 * kTFLOP,
     "NVIDIA H100 Tensor Core GPU datasheet, 2023 (1,979 TFLOPS bf16 with sparsity, halved)"},
    {"a100", "NVIDIA A100 SXM 80 GB", 80 * kGB, 2.039 * kTB, 312 * kTFLOP, 19.5 * kTFLOP,
     "NVIDIA A100 Tensor Core GPU datasheet, 2021"},
    {"a100-40", "NVIDIA A100 SXM 40 GB", 40 * kGB, 1.555 * kTB, 312 * kTFLOP, 19.5 * kTFLOP,
     "NVIDIA A100 Tensor Core GPU datasheet, 2021"},
    {"l40s", "NVIDIA L40S", 48 * kGB, 0.864 * kTB, 362 * kTFLOP, 91.6 * kTFLOP,
     "NVIDIA L40S datasheet, 2023 (733 TFLOPS bf16 with sparsity, halved)"},
    {"rtx4090", "NVIDIA GeForce RTX 4090", 24 * kGB, 1.008 * kTB, 165.2 * kTFLOP, 82.6 * kTFLOP,
     "NVIDIA Ada GPU Architecture whitepaper, 2022, appendix A"},
    {"rtx3090", "NVIDIA GeForce RTX 3090", 24 * kGB, 0.936 * kTB, 71 * kTFLOP, 35.6 * kTFLOP,
     "NVIDIA Ampere GA102 GPU Architecture whitepaper, 2021, appendix A"},
};

}  // namespace

std::span<const Accelerator> accelerators() { return kAccelerators; }

const Accelerator& accelerator_of(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Accelerator& accelerator : kAccelerators) {
    if (accelerator.name == name) return accelerator;
    names.push_back(accelerator.name);
  }
  throw Error("plan", fmt::format("unknown device; got {}, expected cpu or one of {}; try --for {}", name,
                                  fmt::join(names, ", "), nearest_name(name, names)));
}

std::size_t tensor_memory_bytes(const Accelerator& accelerator) {
  return static_cast<std::size_t>(kCudaMemoryShare * (accelerator.memory_bytes - kRuntimeBytes));
}

}  // namespace dino
