#include "engine/device_choice.h"

#include "tests/support/catch.h"

namespace dino {

TEST_CASE("a device is auto, cpu, cuda or cuda:N") {
  using Kind = DeviceChoice::Kind;
  CHECK(DeviceChoice::parse("auto").kind == Kind::automatic);
  CHECK(DeviceChoice::parse("cpu").kind == Kind::cpu);
  CHECK(DeviceChoice::parse("cuda").kind == Kind::cuda);
  CHECK(DeviceChoice::parse("cuda").ordinal == 0);
  CHECK(DeviceChoice::parse("cuda:3").kind == Kind::cuda);
  CHECK(DeviceChoice::parse("cuda:3").ordinal == 3);
  for (const char* text :
       {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999", "3", "cpu:0", "CUDA"}) {
    INFO(text);
    CHECK_THROWS_AS(DeviceChoice::parse(text), Error);
  }
}

}  // namespace dino
