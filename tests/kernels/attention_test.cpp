#include "kernels/attention/attention.h"

#include "kernels/common/parallel.h"
#include "tests/support/catch.h"
#include "tests/support/every_target.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

struct Case {
  std::vector<std::int32_t> lengths;
  int heads;
  std::int64_t head_width;
};
const Case kCases[] = {
    {{1}, 1, 64},         {{1, 2, 3}, 2, 1},     {{5, 0, 9}, 3, 5},     {{17, 37}, 3, 64},
    {{65, 1, 16}, 2, 32}, {{7, 8, 23}, 1, 16},   {{24, 25, 48}, 2, 20}, {{50, 10}, 1, 128},
    {{197}, 1, 64},       {{33, 31, 32}, 1, 80}, {{300}, 1, 16},
};

struct Problem {
  explicit Problem(const Case& c) : heads(c.heads), width(c.heads * c.head_width) {
    std::vector<std::int32_t> ends{0};
    for (const std::int32_t length : c.lengths) {
      ends.push_back(ends.back() + length);
      max_length = std::max(max_length, length);
    }
    rows = ends.back();
    offsets = std::make_unique<HostArray>(from_integers(ends));
  }
  int heads;
  int max_length = 0;
  std::int64_t width;
  std::int64_t rows = 0;
  std::unique_ptr<HostArray> offsets;
};

/// bf16 results are rounded once, to 8 bits; what goes in is the same on both sides.
double tolerance(DType dtype) { return dtype == DType::float32 ? 3e-6 : 4e-3; }

std::string describe(const Case& c, DType dtype) {
  return fmt::format("{} heads of {}, first length {}, {}", c.heads, c.head_width, c.lengths[0], name_of(dtype));
}

}  // namespace

static void check_forward();
TEST_CASE("attention forward agrees with the oracle") { every_target(check_forward); }
static void check_forward() {
  const auto stream = make_cpu_stream();
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Case& c : kCases) {
      const Problem p(c);
      INFO(describe(c, dtype));
      for (const int misalign : {0, 1}) {
        const HostArray qkv = random_normal(dtype, {p.rows, 3 * p.width}, 1, 1.5, 0.0, misalign);
        HostArray out(dtype, {p.rows, p.width}, misalign);
        HostArray logsumexp(DType::float32, {p.heads, p.rows}, misalign);
        HostArray out_expected(DType::float64, {p.rows, p.width});
        HostArray logsumexp_expected(DType::float64, {p.heads, p.rows});
        AttentionForward args{.qkv = qkv,
                              .offsets = *p.offsets,
                              .max_length = p.max_length,
                              .heads = p.heads,
                              .out = out_expected,
                              .logsumexp = logsumexp_expected};
        reference::attention_forward(args);
        args.out = out;
        args.logsumexp = logsumexp;
        attention_forward(args, *stream);
        check_close(out, out_expected, tolerance(dtype), "out");
        check_close(logsumexp, logsumexp_expected, 1e-6, "logsumexp");
      }
    }
  }
}

static void check_backward();
TEST_CASE("attention backward agrees with the oracle, overwriting and accumulating") { every_target(check_backward); }
static void check_backward() {
  const auto stream = make_cpu_stream();
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Case& c : kCases) {
      const Problem p(c);
      INFO(describe(c, dtype));
      const int misalign = c.heads % 2;
      const HostArray qkv = random_normal(dtype, {p.rows, 3 * p.width}, 1, 1.5, 0.0, misalign);
      const HostArray d_out = random_normal(dtype, {p.rows, p.width}, 2, 1.0, 0.0, misalign);
      HostArray out(dtype, {p.rows, p.width});
      HostArray logsumexp(DType::float32, {p.heads, p.rows});
      reference::attention_forward({.qkv = qkv,
                                    .offsets = *p.offsets,
                                    .max_length = p.max_length,
                                    .heads = p.heads,
                                    .out = out,
                                    .logsumexp = logsumexp});
      for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
        HostArray d_qkv = random_normal(dtype, qkv.shape(), 3, 1.0, 0.0, misalign);
        HostArray d_qkv_expected = d_qkv.to(DType::float64);
        AttentionBackward args{.qkv = qkv,
                               .offsets = *p.offsets,
                               .max_length = p.max_length,
                               .heads = p.heads,
                               .out = out,
                               .logsumexp = logsumexp,
                               .d_out = d_out,
                               .d_qkv = d_qkv_expected,
                               .mode = mode};
        reference::attention_backward(args);
        args.d_qkv = d_qkv;
        attention_backward(args, *stream);
        check_close(d_qkv, d_qkv_expected, tolerance(dtype), "d_qkv");
      }
    }
  }
}

TEST_CASE("attention survives scores that are far apart") {
  const auto stream = make_cpu_stream();
  const Problem p({{37}, 1, 64});
  const HostArray qkv = random_normal(DType::float32, {p.rows, 3 * p.width}, 1, 30.0);
  HostArray out(DType::float32, {p.rows, p.width});
  HostArray logsumexp(DType::float32, {1, p.rows});
  HostArray out_expected(DType::float64, {p.rows, p.width});
  AttentionForward args{
      .qkv = qkv, .offsets = *p.offsets, .max_length = 37, .heads = 1, .out = out_expected, .logsumexp = Array()};
  reference::attention_forward(args);
  args.out = out;
  args.logsumexp = logsumexp;
  attention_forward(args, *stream);
  check_close(out, out_expected, 1e-3, "out");  // scores of some thousands, so that fp32's rounding of them shows
  HostArray d_qkv(DType::float32, qkv.shape());
  attention_backward({.qkv = qkv,
                      .offsets = *p.offsets,
                      .max_length = 37,
                      .heads = 1,
                      .out = out,
                      .logsumexp = logsumexp,
                      .d_out = out,
                      .d_qkv = d_qkv,
                      .mode = GradientMode::overwrite},
                     *stream);
  check_close(d_qkv, d_qkv, 0.0, "finite gradients");
}

TEST_CASE("attention gives the same bits for any number of threads") {
  const auto stream = make_cpu_stream();
  const Problem p({{65, 37, 17}, 3, 32});
  const HostArray qkv = random_normal(DType::float32, {p.rows, 3 * p.width}, 1);
  const HostArray d_out = random_normal(DType::float32, {p.rows, p.width}, 2);
  const int threads = omp_get_max_threads();
  std::vector<HostArray> outs;
  std::vector<HostArray> gradients;
  for (const int n : {1, 2, 3}) {
    omp_set_num_threads(n);
    HostArray& out = outs.emplace_back(DType::float32, Shape{p.rows, p.width});
    HostArray& d_qkv = gradients.emplace_back(DType::float32, qkv.shape());
    HostArray logsumexp(DType::float32, {p.heads, p.rows});
    attention_forward({.qkv = qkv,
                       .offsets = *p.offsets,
                       .max_length = p.max_length,
                       .heads = p.heads,
                       .out = out,
                       .logsumexp = logsumexp},
                      *stream);
    attention_backward({.qkv = qkv,
                        .offsets = *p.offsets,
                        .max_length = p.max_length,
                        .heads = p.heads,
                        .out = out,
                        .logsumexp = logsumexp,
                        .d_out = d_out,
                        .d_qkv = d_qkv,
                        .mode = GradientMode::overwrite},
                       *stream);
  }
  omp_set_num_threads(threads);
  for (const std::size_t i : {1U, 2U}) {
    check_close(outs[i], outs[0], 0.0, "out");
    check_close(gradients[i], gradients[0], 0.0, "d_qkv");
  }
}

TEST_CASE("attention's oracle has the gradient that central differences give") {
  const Problem p({{3, 5}, 2, 4});
  const HostArray qkv = random_normal(DType::float64, {p.rows, 3 * p.width}, 1);
  const HostArray d_out = random_normal(DType::float64, {p.rows, p.width}, 2);
  HostArray out(DType::float64, {p.rows, p.width});
  const auto loss = [&] {
    reference::attention_forward({.qkv = qkv,
                                  .offsets = *p.offsets,
                                  .max_length = p.max_length,
                                  .heads = p.heads,
                                  .out = out,
                                  .logsumexp = Array()});
    double total = 0;
    for (std::int64_t i = 0; i < out.size(); ++i) total += out.at(i) * d_out.at(i);
    return total;
  };
  HostArray d_qkv(DType::float64, qkv.shape());
  reference::attention_backward({.qkv = qkv,
                                 .offsets = *p.offsets,
                                 .max_length = p.max_length,
                                 .heads = p.heads,
                                 .out = {},
                                 .logsumexp = {},
                                 .d_out = d_out,
                                 .d_qkv = d_qkv,
                                 .mode = GradientMode::overwrite});
  check_gradient(loss, qkv, d_qkv, 1e-7, "d_qkv", 80);
}

TEST_CASE("attention says what is wrong with its arguments") {
  const auto stream = make_cpu_stream();
  const Problem p({{3}, 1, 8});
  const HostArray qkv = random_normal(DType::float32, {3, 25}, 1);
  HostArray out(DType::float32, {3, 8});
  CHECK_THROWS_AS(
      attention_forward(
          {.qkv = qkv, .offsets = *p.offsets, .max_length = 3, .heads = 1, .out = out, .logsumexp = Array()}, *stream),
      Error);
}
