#include "kernels/gelu/gelu.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

double largest_difference(const HostArray& got, const HostArray& expected) {
  REQUIRE(got.size() == expected.size());
  return difference(got, expected).largest;
}

/// `count` evenly spaced values over [-limit, limit].
HostArray evenly_spaced(DType dtype, std::int64_t count, double limit) {
  HostArray x(dtype, {count});
  for (std::int64_t i = 0; i < count; ++i)
    x.set(i, limit * (2.0 * static_cast<double>(i) / static_cast<double>(count - 1) - 1.0));
  return x;
}

}  // namespace

static void check_accuracy(Stream& stream);
TEST_CASE("gelu is the erf formula to fp32 accuracy", "[device]") { every_stream(check_accuracy); }
static void check_accuracy(Stream& stream) {
  const HostArray x = evenly_spaced(DType::float32, 200001, 10.0);
  HostArray y(DType::float32, x.shape());
  HostArray expected(DType::float64, x.shape());
  gelu_forward({.x = x, .y = y}, stream);
  reference::gelu_forward({.x = x, .y = expected});
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(y.at(i) - expected.at(i));
    // Relative to y above 1; below, erf itself within 1e-7, and CUDA's exponential and reciprocal within 2^-22 and
    // 2^-23 of x·Φ(−|x|), which is at most 0.17; in the negative tail relative again.
    if (!(error <= 2e-7 * std::max(1.0, std::abs(x.at(i))))) FAIL("gelu(" << x.at(i) << ") is off by " << error);
    if (x.at(i) > -8.0 && !(error <= 1e-5 * std::abs(expected.at(i)) + 1e-12))
      FAIL("gelu(" << x.at(i) << ") is relatively off");
  }
}

static void check_ends(Stream& stream);
TEST_CASE("gelu keeps the ends of the number line", "[device]") { every_stream(check_ends); }
static void check_ends(Stream& stream) {
  const HostArray x = from_values(DType::float32, {6}, {0.0, 100.0, -100.0, 3e38, -3e38, NAN});
  HostArray y(DType::float32, {6});
  gelu_forward({.x = x, .y = y}, stream);
  CHECK(y.at(0) == 0.0);
  CHECK(y.at(1) == 100.0);
  CHECK(y.at(2) == 0.0);
  CHECK(y.at(3) == x.at(3));
  CHECK(y.at(4) == 0.0);
  CHECK(std::isnan(y.at(5)));
}

static void check_forward(Stream& stream);
TEST_CASE("gelu forward agrees with the oracle for every size and place", "[device]") { every_stream(check_forward); }
static void check_forward(Stream& stream) {
  for (const std::int64_t n : {1, 7, 8, 9, 63, 1000, 70001}) {
    for (const int misalign : {0, 1}) {
      for (const DType dtype : {DType::float32, DType::bfloat16}) {
        const HostArray x = random_normal(dtype, {n}, 3, 2.0, 0.0, misalign);
        HostArray y(dtype, {n}, misalign);
        HostArray expected(DType::float64, {n});
        gelu_forward({.x = x, .y = y}, stream);
        reference::gelu_forward({.x = x, .y = expected});
        check_close(y, expected, dtype == DType::float32 ? 1e-6 : 4e-3, "gelu");
        if (dtype == DType::bfloat16) CHECK(largest_difference(y, expected.to(dtype)) <= 0x1p-6);  // one step at most
        HostArray in_place = x.copy();
        gelu_forward({.x = in_place, .y = in_place}, stream);
        check_close(in_place, y, 0.0, "gelu in place");
      }
    }
  }
}

static void check_backward(Stream& stream);
TEST_CASE("gelu backward agrees with the oracle, overwrites, accumulates and sums columns", "[device]") {
  every_stream(check_backward);
}
static void check_backward(Stream& stream) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{65, 31}, Shape{200, 384}, Shape{17, 1536}}) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const GradientMode mode : {GradientMode::ignore, GradientMode::overwrite, GradientMode::accumulate}) {
        for (const GradientMode bias_mode : {GradientMode::ignore, GradientMode::overwrite, GradientMode::accumulate}) {
          const HostArray x = random_normal(dtype, shape, 4, 1.5, 0.0, 1);
          const HostArray dy = random_normal(dtype, shape, 5, 1.0, 0.0, 3);
          const HostArray before = random_normal(dtype, shape, 6);
          const HostArray bias_before = random_normal(DType::float32, {shape[1]}, 7);
          HostArray dx = before.copy();
          HostArray dbias = bias_before.copy();
          HostArray expected = before.to(DType::float64);
          HostArray expected_bias = bias_before.to(DType::float64);
          gelu_backward({.x = x, .dy = dy, .dx = dx, .mode = mode, .dbias = dbias, .dbias_mode = bias_mode}, stream);
          reference::gelu_backward(
              {.x = x, .dy = dy, .dx = expected, .mode = mode, .dbias = expected_bias, .dbias_mode = bias_mode});
          check_close(dx, expected, dtype == DType::float32 ? 1e-6 : 4e-3, "dx");
          check_close(dbias, expected_bias, 2e-6, "dbias");
          if (mode == GradientMode::overwrite) {
            HostArray in_place = x.copy();
            gelu_backward({.x = in_place, .dy = dy, .dx = in_place}, stream);
            check_close(in_place, dx, 0.0, "dx over x");
          }
        }
      }
    }
  }
}

TEST_CASE("gelu's oracle has the gradient that central differences show") {
  const HostArray x = random_normal(DType::float64, {5, 7}, 8, 1.5);
  const HostArray dy = random_normal(DType::float64, {5, 7}, 9);
  HostArray y(DType::float64, {5, 7});
  HostArray dx(DType::float64, {5, 7});
  HostArray dbias(DType::float64, {7});
  reference::gelu_backward({.x = x, .dy = dy, .dx = dx, .dbias = dbias, .dbias_mode = GradientMode::overwrite});
  const auto loss = [&] {
    reference::gelu_forward({.x = x, .y = y});
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) sum += y.at(i) * dy.at(i);
    return sum;
  };
  check_gradient(loss, x, dx, 1e-8, "dx");
  HostArray sums(DType::float64, {7});
  for (std::int64_t c = 0; c < 7; ++c) {
    double sum = 0;
    for (std::int64_t r = 0; r < 5; ++r) sum += dx.at(r * 7 + c);
    sums.set(c, sum);
  }
  check_close(dbias, sums, 1e-12, "dbias");
}
