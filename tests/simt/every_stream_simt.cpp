#include "tests/simt/host_stream.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"

namespace dino::test {

void every_stream(const std::function<void(Stream&)>& body) {
  const auto stream = simt::make_host_stream();
  const std::pair<simt::Schedule, const char*> schedules[] = {{simt::Schedule::ascending, "ascending"},
                                                              {simt::Schedule::descending, "descending"},
                                                              {simt::Schedule::shuffled, "shuffled"}};
  for (const auto& [schedule, name] : schedules) {
    INFO("CUDA kernels on the host, threads " << name);
    simt::set_schedule(schedule);
    body(*stream);
  }
  simt::set_schedule(simt::Schedule::ascending);
}

}  // namespace dino::test
