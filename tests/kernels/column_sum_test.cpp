#include "kernels/column_sum/column_sum.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

using namespace dino;
using namespace dino::test;

static void check_sums(Stream& stream);
TEST_CASE("column sums agree with the oracle", "[device]") { every_stream(check_sums); }
static void check_sums(Stream& stream) {
  for (const Shape& shape :
       {Shape{1, 1}, Shape{1, 17}, Shape{63, 3}, Shape{65, 33}, Shape{2760, 384}, Shape{20000, 5}}) {
    for (const int misalign : {0, 1}) {
      for (const DType dtype : {DType::float32, DType::bfloat16}) {
        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          const HostArray x = random_normal(dtype, shape, 1, 1.0, 0.5, misalign);
          const HostArray before = random_normal(DType::float32, {shape[1]}, 2);
          HostArray y =
              mode == GradientMode::accumulate ? before.copy() : HostArray(DType::float32, {shape[1]}, misalign);
          HostArray expected = before.to(DType::float64);
          column_sum({.x = x, .y = y, .mode = mode}, stream);
          reference::column_sum({.x = x, .y = expected, .mode = mode});
          check_close(y, expected, 2e-6, "sums");
        }
      }
    }
  }
}

static void check_ignored(Stream& stream);
TEST_CASE("ignored column sums are not written", "[device]") { every_stream(check_ignored); }
static void check_ignored(Stream& stream) {
  const HostArray x = random_normal(DType::float32, {9, 4}, 1);
  HostArray y = random_normal(DType::float32, {4}, 2);
  const HostArray before = y.copy();
  column_sum({.x = x, .y = y, .mode = GradientMode::ignore}, stream);
  check_close(y, before, 0.0, "untouched");
}

TEST_CASE("column sums are the same bits for any number of threads") {
  const auto stream = make_cpu_stream();
  const HostArray x = random_normal(DType::float32, {3001, 257}, 1);
  HostArray one(DType::float32, {257});
  HostArray three(DType::float32, {257});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  column_sum({.x = x, .y = one}, *stream);
  omp_set_num_threads(3);
  column_sum({.x = x, .y = three}, *stream);
  omp_set_num_threads(threads);
  check_close(three, one, 0.0, "three threads against one");
}

TEST_CASE("column sums refuse arrays that do not fit") {
  const auto stream = make_cpu_stream();
  const HostArray x = random_normal(DType::float32, {9, 4}, 1);
  HostArray y(DType::float32, {5});
  CHECK_THROWS_AS(column_sum({.x = x, .y = y}, *stream), Error);
}
