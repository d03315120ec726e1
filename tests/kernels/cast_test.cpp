#include "kernels/cast/cast.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <limits>

using namespace dino;
using namespace dino::test;

static void check_against_oracle(Stream& stream);
TEST_CASE("cast agrees with the oracle to the last bit", "[device]") { every_stream(check_against_oracle); }
static void check_against_oracle(Stream& stream) {
  for (const std::int64_t n : {1, 7, 8, 63, 1000, 70001}) {
    for (const int misalign : {0, 1}) {
      const HostArray x = random_normal(DType::float32, {n}, 1, 1.0, 0.0, misalign);
      HostArray y(DType::bfloat16, {n}, misalign);
      HostArray expected(DType::bfloat16, {n});
      cast({.x = x, .y = y}, stream);
      reference::cast({.x = x, .y = expected});
      check_close(y, expected, 0.0, "fp32 to bf16");
      HostArray back(DType::float32, {n}, misalign);
      cast({.x = y, .y = back}, stream);
      check_close(back, expected, 0.0, "bf16 to fp32");
    }
  }
}

static void check_rounding(Stream& stream);
TEST_CASE("cast rounds to nearest even and keeps what is not finite", "[device]") { every_stream(check_rounding); }
static void check_rounding(Stream& stream) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> values{1.0 + 0x1p-8, 1.0 + 3 * 0x1p-8, 1.0 + 0x1p-8 + 0x1p-20,
                                   infinity,     -infinity,        std::numeric_limits<double>::quiet_NaN(),
                                   -0.0};
  const auto n = static_cast<std::int64_t>(values.size());
  const HostArray x = from_values(DType::float32, {n}, values);
  HostArray y(DType::bfloat16, {n});
  cast({.x = x, .y = y}, stream);
  CHECK(y.at(0) == 1.0);
  CHECK(y.at(1) == 1.0 + 4 * 0x1p-8);
  CHECK(y.at(2) == 1.0 + 2 * 0x1p-8);
  CHECK(y.at(3) == infinity);
  CHECK(y.at(4) == -infinity);
  CHECK(y.at(5) != y.at(5));
  CHECK(std::signbit(y.at(6)));
}
