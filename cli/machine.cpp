#include "cli/machine.h"

#include "kernels/common/error.h"

#include <omp.h>

#include <fstream>

namespace dino {

std::unique_ptr<Context> open_machine(const std::string& device, int threads) {
  if (threads > 0) omp_set_num_threads(threads);
  require(device != "cuda", "device", "this build knows no CUDA; got device cuda, expected auto or cpu");
  require(device == "auto" || device == "cpu", "device", "unknown device; got {}, expected auto, cpu or cuda", device);
  return make_cpu_context();
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
