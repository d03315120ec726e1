// Tests of what runs on an NVIDIA GPU. Where there is none, the program says so and ends with a status of its own.
#define CATCH_CONFIG_RUNNER
#include "engine/context_cuda.h"
#include "tests/support/catch.h"

#include <cstdio>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  const dino::CudaSurvey survey = dino::survey_cuda();
  if (survey.devices.empty()) {
    std::printf("SKIPPED: %s\n", survey.obstacle.c_str());
    return kSkipped;
  }
  const dino::CudaDevice& device = survey.devices.front();
  std::printf("On %s, compute capability %d.%d\n", device.name.c_str(), device.major, device.minor);
  std::fflush(stdout);
  return Catch::Session().run(argc, argv);
}
