#include "kernels/l2_normalize/l2_normalize.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

// The oracle in double on inputs that were rounded to `dtype`, its result rounded once more.
double tolerance_of(DType dtype) { return dtype == DType::float32 ? 1e-6 : 0x1p-8; }

}  // namespace

static void check_rows(Stream& stream);
TEST_CASE("l2_normalize agrees with the oracle", "[device]") { every_stream(check_rows); }
static void check_rows(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{130, 33}, Shape{64, 256}}) {
      for (const int misalign : {0, 1}) {
        const HostArray x = random_normal(dtype, shape, 1, 0.3, 0.1, misalign);
        const HostArray dy = random_normal(dtype, shape, 2, 1.0, 0.0, misalign);
        HostArray y(dtype, shape, misalign);
        HostArray expected(DType::float64, shape);
        l2_normalize({.x = x, .y = y}, stream);
        reference::l2_normalize({.x = x, .y = expected});
        check_close(y, expected, tolerance_of(dtype), "y");

        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          const bool accumulate = mode == GradientMode::accumulate;
          HostArray dx =
              accumulate ? random_normal(dtype, shape, 3, 1.0, 0.0, misalign) : HostArray(dtype, shape, misalign);
          HostArray expected_dx = dx.to(DType::float64);
          l2_normalize_backward({.x = x, .dy = dy, .dx = dx, .mode = mode}, stream);
          reference::l2_normalize_backward({.x = x, .dy = dy, .dx = expected_dx, .mode = mode});
          // One column: the gradient is zero up to rounding, and has no relative error.
          if (shape[1] > 1 || accumulate) check_close(dx, expected_dx, tolerance_of(dtype), "dx");
        }
        l2_normalize_backward({.x = x, .dy = dy, .dx = {}, .mode = GradientMode::ignore}, stream);
      }
    }
  }
}

static void check_short_rows(Stream& stream);
TEST_CASE("l2_normalize divides rows shorter than eps by eps", "[device]") { every_stream(check_short_rows); }
static void check_short_rows(Stream& stream) {
  const HostArray x = from_values(DType::float32, {3, 2}, {0, 0, 3e-3, 4e-3, 30, 40});
  const HostArray dy = from_values(DType::float32, {3, 2}, {1, 2, 1, 2, 1, 2});
  HostArray y(DType::float32, {3, 2});
  HostArray dx(DType::float32, {3, 2});
  l2_normalize({.x = x, .y = y, .eps = 0.01}, stream);
  l2_normalize_backward({.x = x, .dy = dy, .dx = dx, .eps = 0.01, .mode = GradientMode::overwrite}, stream);
  check_close(y, from_values(DType::float64, {3, 2}, {0, 0, 0.3, 0.4, 0.6, 0.8}), 1e-6, "y");
  const double along = (1 * 0.6 + 2 * 0.8) / 50;
  check_close(dx, from_values(DType::float64, {3, 2}, {100, 200, 100, 200, 0.02 - 0.6 * along, 0.04 - 0.8 * along}),
              1e-6, "dx");
}

TEST_CASE("the oracle of l2_normalize has the right gradient") {
  const Shape shape{4, 6};
  const HostArray x = random_normal(DType::float64, shape, 1);
  const HostArray dy = random_normal(DType::float64, shape, 2);
  HostArray dx(DType::float64, shape);
  reference::l2_normalize_backward({.x = x, .dy = dy, .dx = dx, .mode = GradientMode::overwrite});
  const auto loss = [&] {
    HostArray y(DType::float64, shape);
    reference::l2_normalize({.x = x, .y = y});
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) sum += y.at(i) * dy.at(i);
    return sum;
  };
  check_gradient(loss, x, dx, 1e-8, "dx");
}
