#include "kernels/gather_rows/gather_rows.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

static void check_rows(Stream& stream);
TEST_CASE("gather_rows agrees with the oracle to the last bit", "[device]") { every_stream(check_rows); }
static void check_rows(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const std::int64_t width : {1, 7, 33, 384}) {
      for (const int misalign : {0, 1}) {
        const std::int64_t tokens = 200;
        std::vector<std::int32_t> chosen;
        for (std::int32_t r = 199; r >= 0; r -= 5) chosen.push_back(r);
        const auto count = static_cast<std::int64_t>(chosen.size());
        const HostArray rows = from_integers(chosen);
        const HostArray x = random_normal(dtype, {tokens, width}, 1, 1.0, 0.0, misalign);
        HostArray y(dtype, {count, width}, misalign);
        HostArray expected(dtype, {count, width});
        gather_rows({.x = x, .rows = rows, .y = y}, stream);
        reference::gather_rows({.x = x, .rows = rows, .y = expected});
        check_close(y, expected, 0.0, "y");

        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          HostArray dx = mode == GradientMode::accumulate ? random_normal(dtype, x.shape(), 2, 1.0, 0.0, misalign)
                                                          : HostArray(dtype, x.shape(), misalign);
          HostArray expected_dx = dx.copy();
          gather_rows_backward({.dy = y, .rows = rows, .dx = dx, .mode = mode}, stream);
          reference::gather_rows_backward({.dy = y, .rows = rows, .dx = expected_dx, .mode = mode});
          check_close(dx, expected_dx, 0.0, "dx");
        }
      }
    }
  }
}

static void check_accumulation(Stream& stream);
TEST_CASE("gather_rows adds to the chosen rows only", "[device]") { every_stream(check_accumulation); }
static void check_accumulation(Stream& stream) {
  const HostArray rows = from_integers({2, 0});
  const HostArray dy = from_values(DType::float32, {2, 2}, {1, 2, 3, 4});
  HostArray dx(DType::float32, {4, 2});  // all NaN
  for (const std::int64_t i : {0, 1, 4, 5}) dx.set(i, 10);
  gather_rows_backward({.dy = dy, .rows = rows, .dx = dx, .mode = GradientMode::accumulate}, stream);
  CHECK(dx.at(0) == 13);
  CHECK(dx.at(5) == 12);
  CHECK(dx.at(2) != dx.at(2));
  CHECK(dx.at(7) != dx.at(7));
  gather_rows_backward({.dy = dy, .rows = rows, .dx = dx, .mode = GradientMode::overwrite}, stream);
  check_close(dx, from_values(DType::float64, {4, 2}, {3, 4, 0, 0, 1, 2, 0, 0}), 0.0, "dx");
}

TEST_CASE("gather_rows refuses rows that are not there") {
  const auto stream = make_cpu_stream();
  const HostArray x = random_normal(DType::float32, {4, 2}, 1);
  HostArray y(DType::float32, {2, 2});
  CHECK_THROWS_AS(gather_rows({.x = x, .rows = from_integers({0, 4}), .y = y}, *stream), Error);
  CHECK_THROWS_AS(gather_rows({.x = x, .rows = from_integers({-1, 0}), .y = y}, *stream), Error);
  CHECK_THROWS_AS(gather_rows({.x = x, .rows = from_integers({0}), .y = y}, *stream), Error);
}
