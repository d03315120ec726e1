#include "engine/machine.h"

#include "engine/context_cuda.h"
#include "engine/device_choice.h"
#include "kernels/common/error.h"

#include <omp.h>

#include <algorithm>

namespace dino {
namespace {

std::string list_of(const std::vector<CudaDevice>& devices) {
  std::string list;
  for (const CudaDevice& device : devices) {
    list += fmt::format("{}cuda:{} ({})", list.empty() ? "" : ", ", device.ordinal, device.name);
  }
  return list;
}

std::string describe_cpu(const std::string& obstacle) {
  const int threads = omp_get_max_threads();
  return fmt::format("CPU, {} thread{}{}", threads, threads == 1 ? "" : "s",
                     obstacle.empty() ? "" : fmt::format(" (no GPU: {})", obstacle));
}

std::string describe_gpu(const CudaDevice& device) {
  return fmt::format("{} (cuda:{}), {} GiB", device.name, device.ordinal, device.memory_bytes >> 30);
}

}  // namespace

CudaSurvey look_for_cuda() {
  if (&survey_cuda != nullptr) return survey_cuda();
  return {.devices = {},
          .obstacle =
              "this program was built without the CUDA toolkit; try a build with nvcc on the PATH, or "
              "device cpu"};
}

std::unique_ptr<Context> open_device(const std::string& device, double memory_share) {
  const DeviceChoice choice = DeviceChoice::parse(device);
  if (choice.kind == DeviceChoice::Kind::cpu) return make_cpu_context();
  const CudaSurvey survey = look_for_cuda();
  if (choice.kind == DeviceChoice::Kind::automatic) {
    if (survey.devices.empty()) return make_cpu_context();
    return make_cuda_context(survey.devices.front().ordinal, memory_share);
  }
  require(!survey.devices.empty(), "device", "device {} is not to be had: {}", device, survey.obstacle);
  require(std::any_of(survey.devices.begin(), survey.devices.end(),
                      [&](const CudaDevice& found) { return found.ordinal == choice.ordinal; }),
          "device", "there is no device cuda:{}; expected one of {}", choice.ordinal, list_of(survey.devices));
  return make_cuda_context(choice.ordinal, memory_share);
}

std::string describe_device(Context& context, const std::string& device) {
  const bool is_cpu = context.device() == Device::cpu;
  if (is_cpu && device != "auto") return describe_cpu("");
  const CudaSurvey survey = look_for_cuda();
  if (is_cpu) return describe_cpu(survey.obstacle);
  for (const CudaDevice& found : survey.devices) {
    if (found.ordinal == context.stream().ordinal()) return describe_gpu(found);
  }
  return fmt::format("cuda:{}", context.stream().ordinal());
}

std::string describe_automatic_device() {
  const CudaSurvey survey = look_for_cuda();
  return survey.devices.empty() ? describe_cpu(survey.obstacle) : describe_gpu(survey.devices.front());
}

}  // namespace dino
