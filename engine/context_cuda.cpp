#include "engine/context_cuda.h"

#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cuda_stream.h"

#include <algorithm>
#include <cstdlib>

namespace dino {
namespace {

constexpr int kLeastMajor = 8;  // bf16 on tensor cores, cp.async

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// Why the runtime counts no devices, in words of what a user can do about it.
std::string obstacle_of(cudaError_t status) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  cudaGetLastError();
  if (driver == 0) return "there is no NVIDIA driver (libcuda.so.1); try installing one, or device cpu";
  if (status == cudaErrorInsufficientDriver || driver < CUDART_VERSION / 1000 * 1000) {
    return fmt::format("the driver is too old; got CUDA {}, expected {} or later; try a newer driver, or device cpu",
                       version_text(driver), version_text(CUDART_VERSION / 1000 * 1000));
  }
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return fmt::format("the NVIDIA driver sees no card{}; try nvidia-smi, or device cpu",
                       visible == nullptr ? "" : fmt::format(" (CUDA_VISIBLE_DEVICES is \"{}\")", visible));
  }
  return fmt::format("the NVIDIA driver fails: {} ({}); try nvidia-smi, or device cpu", cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

std::size_t tensor_bytes(int ordinal, double share) {
  cuda::use_device(ordinal);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  DINO_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  constexpr std::size_t kGranularity = std::size_t{2} << 20;
  const auto bytes = static_cast<std::size_t>(share * static_cast<double>(free_bytes)) / kGranularity * kGranularity;
  require(bytes > 0, "cuda", "device {} has no memory left: {} of {} MiB free; try nvidia-smi to see who uses it",
          ordinal, free_bytes >> 20, total_bytes >> 20);
  return bytes;
}

class CudaArena final : public Arena {
 public:
  CudaArena(int ordinal, double memory_share)
      : memory_(ordinal, tensor_bytes(ordinal, memory_share), "memory for tensors") {
    set_range(memory_.data(), memory_.size());
  }

 private:
  void commit(std::size_t) override {}  // all of it is there

  cuda::DeviceBuffer memory_;
};

}  // namespace

CudaSurvey survey_cuda() {
  CudaSurvey survey;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    survey.obstacle = obstacle_of(status);
    return survey;
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    const CudaDevice device{.ordinal = ordinal,
                            .name = properties.name,
                            .major = properties.major,
                            .minor = properties.minor,
                            .memory_bytes = properties.totalGlobalMem};
    if (device.major >= kLeastMajor) {
      survey.devices.push_back(device);
    } else {
      survey.obstacle =
          fmt::format("{} has compute capability {}.{}; expected {}.0 or later (A100, H100, …); try device cpu",
                      device.name, device.major, device.minor, kLeastMajor);
    }
  }
  if (!survey.devices.empty()) survey.obstacle.clear();
  if (survey.devices.empty() && survey.obstacle.empty()) {
    survey.obstacle = "the NVIDIA driver does not describe its cards; try nvidia-smi, or device cpu";
  }
  return survey;
}

std::unique_ptr<Context> make_cuda_context(int ordinal, double memory_share) {
  auto stream = std::make_unique<cuda::CudaStream>(ordinal);
  return std::make_unique<Context>(std::move(stream), std::make_shared<CudaArena>(ordinal, memory_share));
}

}  // namespace dino
