#include "cli/machine.h"

#include "engine/device_choice.h"
#include "kernels/common/error.h"

#include <omp.h>
#include <unistd.h>

#include <fstream>

namespace dino {

std::unique_ptr<Context> open_machine(const std::string& device, int threads) {
  if (threads > 0) omp_set_num_threads(threads);
  return open_device(device);
}

std::string gpu_of_rank(const std::string& device, int local_rank) {
  const CudaSurvey survey = look_for_cuda();
  if (survey.devices.empty()) return device;
  return fmt::format("cuda:{}", survey.devices[static_cast<std::size_t>(local_rank) % survey.devices.size()].ordinal);
}

MachineSummary summarize_machine(const std::string& device) {
  const DeviceChoice choice = DeviceChoice::parse(device);
  MachineSummary machine{.cores = omp_get_num_procs()};
  if (choice.kind != DeviceChoice::Kind::cpu) {
    const CudaSurvey survey = look_for_cuda();
    const bool automatic = choice.kind == DeviceChoice::Kind::automatic;
    machine.has_gpu = !automatic || !survey.devices.empty();
    for (const CudaDevice& found : survey.devices) {
      if (machine.memory_bytes == 0 && (automatic || found.ordinal == choice.ordinal))
        machine.memory_bytes = found.memory_bytes;
    }
  }
  if (!machine.has_gpu) {
    machine.memory_bytes =
        static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  }
  return machine;
}

void add_device_option(Command command, std::string& device) {
  command
      .add_option("--device", device,
                  "auto, cpu, cuda or cuda:N; auto is the first GPU where there are a driver and a card, else the CPU")
      .check([](const std::string& text) {
        try {
          DeviceChoice::parse(text);
          return std::string();
        } catch (const Error& error) {
          return std::string(error.what());
        }
      })
      .type_name("DEVICE")
      .capture_default_str();
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
