// How the product on a GPU uses cuBLASLt: where it does, where it does not, and that it asks once.
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/plain_matmul.h"
#include "tests/cublas/fake_cublas_lt.h"
#include "tests/cublas/host_stream.h"
#include "tests/simt/device.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

namespace dino::test {
namespace {

/// How many calls of cuBLASLt a product makes.
int products_of(DType operands, DType result, int misalign) {
  CublasHostStream host;
  Stream& stream = host;
  const HostArray a = random_normal(operands, {8, 16}, 1, 1.0, 0.0, misalign);
  const HostArray b = random_normal(operands, {16, 24}, 2, 1.0, 0.0, misalign);
  HostArray y(result, {8, 24}, misalign);
  const int before = fake_cublas_lt_products();
  matmul({.a = a, .b = b, .y = y}, stream);
  return fake_cublas_lt_products() - before;
}

TEST_CASE("matmul leaves to cuBLASLt what cuBLASLt has", "[device]") {
  CHECK(products_of(DType::bfloat16, DType::bfloat16, 0) == 1);
  CHECK(products_of(DType::bfloat16, DType::float32, 0) == 1);
  CHECK(products_of(DType::float32, DType::float32, 0) == 1);
  CHECK(products_of(DType::float32, DType::float32, 1) == 1);
  CHECK(products_of(DType::float32, DType::bfloat16, 0) == 0);
  CHECK(products_of(DType::bfloat16, DType::bfloat16, 1) == 0);
}

TEST_CASE("the plain product does not depend on the order of threads", "[device]") {
  CublasHostStream host;
  Stream& stream = host;
  const HostArray a = random_normal(DType::bfloat16, {19, 35}, 1);
  const HostArray b = random_normal(DType::bfloat16, {33, 35}, 2);
  const HostArray bias = random_normal(DType::float32, {33}, 3);
  HostArray expected(DType::float64, {19, 33});
  Matmul args{.a = a, .b = b, .bias = bias, .y = expected, .transpose_b = true};
  reference::matmul(args);
  for (const auto schedule : {simt::Schedule::ascending, simt::Schedule::descending, simt::Schedule::shuffled}) {
    simt::set_schedule(schedule);
    HostArray y(DType::float32, {19, 33});
    args.y = y;
    cuda::plain_matmul(args, y, stream);
    check_close(y, expected, 1e-6, "y");
  }
  simt::set_schedule(simt::Schedule::ascending);
}

TEST_CASE("a stream without a cuBLASLt handle is refused", "[device]") {
  const auto stream = make_cpu_stream();
  const HostArray a = random_normal(DType::float32, {3, 3}, 1);
  HostArray y(DType::float32, {3, 3});
  CHECK_THROWS_AS(cuda::matmul({.a = a, .b = a, .y = y}, *stream), Error);
}

}  // namespace
}  // namespace dino::test
