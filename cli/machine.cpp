#include "cli/machine.h"

#include "engine/context_cuda.h"
#include "engine/device_choice.h"
#include "kernels/common/error.h"

#include <omp.h>

#include <algorithm>
#include <fstream>

namespace dino {
namespace {

/// This build's view of CUDA.
CudaSurvey look_for_cuda() {
  if (&survey_cuda != nullptr) return survey_cuda();
  return {.devices = {},
          .obstacle =
              "this program was built without the CUDA toolkit; try a build with nvcc on the PATH, or "
              "device cpu"};
}

std::string list_of(const std::vector<CudaDevice>& devices) {
  std::string list;
  for (const CudaDevice& device : devices) {
    list += fmt::format("{}cuda:{} ({})", list.empty() ? "" : ", ", device.ordinal, device.name);
  }
  return list;
}

std::string describe_cpu(const std::string& obstacle) {
  return fmt::format("CPU, {} threads{}", omp_get_max_threads(),
                     obstacle.empty() ? "" : fmt::format(" (no GPU: {})", obstacle));
}

std::string describe_gpu(const CudaDevice& device) {
  return fmt::format("{} (cuda:{}), {} GiB", device.name, device.ordinal, device.memory_bytes >> 30);
}

}  // namespace

std::unique_ptr<Context> open_machine(const std::string& device, int threads) {
  if (threads > 0) omp_set_num_threads(threads);
  const DeviceChoice choice = DeviceChoice::parse(device);
  if (choice.kind == DeviceChoice::Kind::cpu) return make_cpu_context();
  const CudaSurvey survey = look_for_cuda();
  if (choice.kind == DeviceChoice::Kind::automatic) {
    if (survey.devices.empty()) return make_cpu_context();
    return make_cuda_context(survey.devices.front().ordinal);
  }
  require(!survey.devices.empty(), "device", "device {} is not to be had: {}", device, survey.obstacle);
  require(std::any_of(survey.devices.begin(), survey.devices.end(),
                      [&](const CudaDevice& found) { return found.ordinal == choice.ordinal; }),
          "device", "there is no device cuda:{}; expected one of {}", choice.ordinal, list_of(survey.devices));
  return make_cuda_context(choice.ordinal);
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

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device,
                  "auto, cpu, cuda or cuda:N; auto is the first GPU where there are a driver and a card, else the CPU")
      ->check([](const std::string& text) {
        try {
          DeviceChoice::parse(text);
          return std::string();
        } catch (const Error& error) {
          return std::string(error.what());
        }
      })
      ->capture_default_str();
}

std::string machine_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace dino
