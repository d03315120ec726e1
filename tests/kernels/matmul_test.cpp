#include "kernels/matmul/matmul.h"
#include "kernels/matmul/onednn_matmul.h"
#include "kernels/matmul/packed_matmul.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

struct Size {
  std::int64_t m, n, k;
};

struct Case {
  Size size;
  DType operands = DType::float32;
  DType result = DType::float32;
  bool transpose_a = false;
  bool transpose_b = false;
  bool bias = false;
  bool gelu = false;
  bool preactivation = false;
  GradientMode mode = GradientMode::overwrite;
  int misalign = 0;
};

using Multiply = void (*)(const Matmul&, Stream&);

/// Runs one product on the stream and against the oracle in double.
void check(const Case& c, Stream& stream, Multiply multiply = matmul) {
  const auto [m, n, k] = c.size;
  CAPTURE(m, n, k, c.transpose_a, c.transpose_b, c.bias, c.gelu, c.preactivation, name_of(c.operands),
          name_of(c.result));
  const double scale = 1.0 / std::sqrt(static_cast<double>(k));
  const HostArray a = random_normal(c.operands, c.transpose_a ? Shape{k, m} : Shape{m, k}, 1, 1.0, 0.1, c.misalign);
  const HostArray b = random_normal(c.operands, c.transpose_b ? Shape{n, k} : Shape{k, n}, 2, scale, 0.0, c.misalign);
  const HostArray bias = random_normal(DType::float32, {n}, 3, 1.0, 0.0, c.misalign);
  const HostArray before = random_normal(c.result, {m, n}, 4);
  HostArray y(c.result, {m, n}, c.misalign);
  if (c.mode == GradientMode::accumulate) {
    for (std::int64_t i = 0; i < y.size(); ++i) y.set(i, before.at(i));
  }
  HostArray z(c.result, {m, n}, c.misalign);
  Matmul args{.a = a,
              .b = b,
              .y = y,
              .transpose_a = c.transpose_a,
              .transpose_b = c.transpose_b,
              .mode = c.mode,
              .gelu = c.gelu};
  if (c.bias) args.bias = bias.array();
  if (c.preactivation) args.preactivation = z.array();
  multiply(args, stream);

  HostArray expected = before.to(DType::float64);
  HostArray expected_z(DType::float64, {m, n});
  args.y = expected.array();
  if (c.preactivation) args.preactivation = expected_z.array();
  reference::matmul(args);
  // fp32 sums over k; then at most two bf16 roundings of 2⁻⁸: of the value before the GELU, of whose relative error the
  // GELU of a positive value makes at most 1.3 times as much, and of its result.
  const bool rounds_twice = c.gelu && c.result == DType::bfloat16;
  const double tolerance = c.result == DType::float32 ? 1e-6 : 4e-3;
  check_close(y, expected, rounds_twice ? 2.3 * 4e-3 : tolerance, "y");
  if (c.preactivation) check_close(z, expected_z, tolerance, "preactivation");
}

}  // namespace

static void check_sizes(Stream& stream);
TEST_CASE("matmul agrees with the oracle for every size, transpose and element type", "[device]") {
  every_stream(check_sizes);
}
static void check_sizes(Stream& stream) {
  for (const Size& size :
       {Size{1, 1, 1}, Size{3, 5, 7}, Size{1, 33, 17}, Size{33, 1, 65}, Size{37, 65, 129}, Size{64, 48, 16}}) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        for (const DType operands : {DType::float32, DType::bfloat16}) {
          for (const DType result : {DType::float32, DType::bfloat16}) {
            for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
              for (const int misalign : {0, 1}) {
                check({.size = size,
                       .operands = operands,
                       .result = result,
                       .transpose_a = transpose_a,
                       .transpose_b = transpose_b,
                       .bias = misalign == 1,
                       .mode = mode,
                       .misalign = misalign},
                      stream);
              }
            }
          }
        }
      }
    }
  }
}

static void check_bias_and_gelu(Stream& stream);
TEST_CASE("matmul adds a bias and applies the GELU", "[device]") { every_stream(check_bias_and_gelu); }
static void check_bias_and_gelu(Stream& stream) {
  for (const Size& size : {Size{1, 1, 1}, Size{19, 37, 21}, Size{130, 96, 48}}) {
    for (const DType operands : {DType::float32, DType::bfloat16}) {
      for (const DType result : {DType::float32, DType::bfloat16}) {
        for (const bool bias : {false, true}) {
          for (const bool preactivation : {false, true}) {
            for (const bool transpose_b : {false, true}) {
              check({.size = size,
                     .operands = operands,
                     .result = result,
                     .transpose_b = transpose_b,
                     .bias = bias,
                     .gelu = true,
                     .preactivation = preactivation,
                     .misalign = 1},
                    stream);
            }
          }
        }
      }
    }
  }
}

static void check_dino_shapes(Stream& stream);
TEST_CASE("matmul agrees with the oracle on shapes of DINO", "[device]") { every_stream(check_dino_shapes); }
static void check_dino_shapes(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    check({.size = {197, 192, 192}, .operands = dtype, .result = dtype, .transpose_b = true, .bias = true}, stream);
    check({.size = {100, 768, 192},
           .operands = dtype,
           .result = dtype,
           .transpose_b = true,
           .bias = true,
           .gelu = true,
           .preactivation = true},
          stream);
    check({.size = {192, 384, 300}, .operands = dtype, .transpose_a = true, .mode = GradientMode::accumulate}, stream);
    check({.size = {10, 4096, 64}, .operands = dtype, .result = dtype, .transpose_b = true}, stream);
  }
}

static void check_packed(Stream& stream);
TEST_CASE("packed products agree with the oracle for every cut of their dimensions") { every_stream(check_packed); }
static void check_packed(Stream& stream) {
  // Chunks of K that are themselves cut, one panel of b at a time; and uncut.
  const auto in_small_blocks = [](const Matmul& args, Stream& stream) {
    cpu::matmul_packed(args, stream, {.depth = 7, .chunk = 20, .b_bytes = 1});
  };
  const auto uncut = [](const Matmul& args, Stream& stream) { cpu::matmul_packed(args, stream); };
  for (const Size& size : {Size{1, 1, 1}, Size{29, 70, 61}, Size{15, 33, 20}, Size{57, 8, 41}}) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        for (const DType operands : {DType::float32, DType::bfloat16}) {
          for (const DType result : {DType::float32, DType::bfloat16}) {
            Case c{.size = size,
                   .operands = operands,
                   .result = result,
                   .transpose_a = transpose_a,
                   .transpose_b = transpose_b,
                   .bias = transpose_a != transpose_b,
                   .misalign = 1};
            for (const Multiply multiply : {Multiply(in_small_blocks), Multiply(uncut)}) {
              c.mode = GradientMode::overwrite;
              c.gelu = c.preactivation = false;
              check(c, stream, multiply);
              c.mode = GradientMode::accumulate;
              check(c, stream, multiply);
              c.mode = GradientMode::overwrite;
              c.gelu = true;
              c.preactivation = transpose_b;
              check(c, stream, multiply);
            }
          }
        }
      }
    }
  }
  check({.size = {20, 40, 2100}, .operands = DType::bfloat16, .transpose_b = true}, stream, uncut);
}

static void check_packed_threads(Stream& stream);
TEST_CASE("packed products do not depend on blocks and threads") { every_stream(check_packed_threads); }
static void check_packed_threads(Stream& stream) {
  const int before = omp_get_max_threads();
  for (const Size& size : {Size{200, 90, 300}, Size{10, 2000, 300}, Size{300, 35, 600}}) {
    const HostArray a = random_normal(DType::bfloat16, {size.m, size.k}, 1);
    const HostArray b = random_normal(DType::bfloat16, {size.n, size.k}, 2);
    HostArray one(DType::float32, {size.m, size.n});
    omp_set_num_threads(1);
    cpu::matmul_packed({.a = a, .b = b, .y = one, .transpose_b = true}, stream);
    for (const int threads : {2, 3, 5}) {
      HostArray several(DType::float32, {size.m, size.n});
      omp_set_num_threads(threads);
      cpu::matmul_packed({.a = a, .b = b, .y = several, .transpose_b = true}, stream,
                         {.depth = 100, .chunk = 250, .b_bytes = 1 << 16});
      CAPTURE(threads, size.m);
      check_close(several, one, 0.0, "y");
    }
  }
  omp_set_num_threads(before);
}

TEST_CASE("the processor's own bf16 products agree with the oracle, whether they are the faster ones or not") {
  const auto stream = make_cpu_stream();
  const auto multiply = [](const Matmul& args, Stream& stream) {
    const auto [m, n, k] = checked_size(args);
    const cpu::OnednnProduct product{.m = m,
                                     .n = n,
                                     .k = k,
                                     .transpose_a = args.transpose_a,
                                     .transpose_b = args.transpose_b,
                                     .operands = args.a.dtype(),
                                     .result = args.y.dtype(),
                                     .bias = static_cast<bool>(args.bias),
                                     .accumulate = args.mode == GradientMode::accumulate};
    if (!cpu::onednn_supports(product)) return cpu::matmul_packed(args, stream);
    void* scratch = stream.scratch(cpu::onednn_scratch_bytes(product));
    cpu::onednn_run(product, {args.a.data(), args.b.data(), args.bias.data(), args.y.data(), scratch});
  };
  for (const Size& size : {Size{3, 5, 7}, Size{37, 65, 129}, Size{192, 384, 300}}) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        for (const DType result : {DType::float32, DType::bfloat16}) {
          for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
            check({.size = size,
                   .operands = DType::bfloat16,
                   .result = result,
                   .transpose_a = transpose_a,
                   .transpose_b = transpose_b,
                   .bias = true,
                   .mode = mode},
                  *stream, multiply);
          }
        }
      }
    }
  }
}

static void check_repetition(Stream& stream);
TEST_CASE("matmul repeats itself bit by bit", "[device]") { every_stream(check_repetition); }
static void check_repetition(Stream& stream) {
  const HostArray a = random_normal(DType::float32, {70, 90}, 1);
  const HostArray b = random_normal(DType::float32, {90, 110}, 2);
  HostArray first(DType::float32, {70, 110});
  HostArray second(DType::float32, {70, 110});
  matmul({.a = a, .b = b, .y = first}, stream);
  matmul({.a = a, .b = b, .y = second}, stream);
  check_close(second, first, 0.0, "the second run");
}

static void check_ignore(Stream& stream);
TEST_CASE("matmul does nothing when its result is ignored", "[device]") { every_stream(check_ignore); }
static void check_ignore(Stream& stream) {
  const HostArray a = random_normal(DType::float32, {3, 4}, 1);
  const HostArray b = random_normal(DType::float32, {4, 5}, 2);
  HostArray y = random_normal(DType::float32, {3, 5}, 3);
  const HostArray before = y.copy();
  matmul({.a = a, .b = b, .y = y, .mode = GradientMode::ignore}, stream);
  check_close(y, before, 0.0, "untouched");
}

TEST_CASE("matmul refuses arguments that do not go together") {
  const auto stream = make_cpu_stream();
  const HostArray a = random_normal(DType::float32, {3, 4}, 1);
  const HostArray b = random_normal(DType::float32, {4, 5}, 2);
  const HostArray b16 = b.to(DType::bfloat16);
  const HostArray bias = random_normal(DType::float32, {3}, 2);
  HostArray y(DType::float32, {3, 5});
  HostArray small(DType::float32, {3, 4});
  CHECK_THROWS_AS(matmul({.a = a, .b = a, .y = y}, *stream), Error);
  CHECK_THROWS_AS(matmul({.a = a, .b = b16, .y = y}, *stream), Error);
  CHECK_THROWS_AS(matmul({.a = a, .b = b, .y = small}, *stream), Error);
  CHECK_THROWS_AS(matmul({.a = a, .b = b, .bias = bias, .y = y}, *stream), Error);
  CHECK_THROWS_AS(matmul({.a = a, .b = b, .y = y, .mode = GradientMode::accumulate, .gelu = true}, *stream), Error);
}
