#include "kernels/attention/cls_attention.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

struct Case {
  std::vector<std::int32_t> offsets;
  int max_length;
  int heads;
  std::int64_t width;
};
const Case kCases[] = {
    {{0, 1}, 1, 1, 1}, {{0, 5, 6}, 5, 3, 15}, {{0, 17, 54, 119}, 65, 3, 192}, {{0, 197}, 197, 6, 384}};

double tolerance(DType dtype) { return dtype == DType::float32 ? 3e-6 : 4e-3; }

}  // namespace

static void check_both_ways(Stream& stream);
TEST_CASE("cls_attention agrees with the oracle, forward and backward", "[device]") { every_stream(check_both_ways); }
static void check_both_ways(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Case& c : kCases) {
      for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
        const int misalign = mode == GradientMode::accumulate ? 1 : 0;
        const std::int64_t rows = c.offsets.back();
        const Shape queries{static_cast<std::int64_t>(c.offsets.size()) - 1, c.width};
        INFO(name_of(dtype) << ", " << rows << " rows, mode " << static_cast<int>(mode));
        const HostArray offsets = from_integers(c.offsets);
        const HostArray q = random_normal(dtype, queries, 1, 1.5, 0.0, misalign);
        const HostArray kv = random_normal(dtype, {rows, 2 * c.width}, 2, 1.5, 0.0, misalign);
        HostArray out(dtype, queries, misalign);
        HostArray probabilities(DType::float32, {c.heads, rows}, misalign);
        HostArray out_expected(DType::float64, queries);
        HostArray probabilities_expected(DType::float64, {c.heads, rows});
        ClsAttentionForward forward{.q = q,
                                    .kv = kv,
                                    .offsets = offsets,
                                    .max_length = c.max_length,
                                    .heads = c.heads,
                                    .out = out_expected,
                                    .probabilities = probabilities_expected};
        reference::cls_attention_forward(forward);
        forward.out = out;
        forward.probabilities = probabilities;
        cls_attention_forward(forward, stream);
        check_close(out, out_expected, tolerance(dtype), "out");
        check_close(probabilities, probabilities_expected, 2e-6, "probabilities");

        const HostArray d_out = random_normal(dtype, queries, 3);
        HostArray dq = random_normal(dtype, queries, 4, 1.0, 0.0, misalign);
        HostArray d_kv = random_normal(dtype, kv.shape(), 5, 1.0, 0.0, misalign);
        HostArray dq_expected = dq.to(DType::float64);
        HostArray d_kv_expected = d_kv.to(DType::float64);
        ClsAttentionBackward backward{.q = q,
                                      .kv = kv,
                                      .offsets = offsets,
                                      .max_length = c.max_length,
                                      .heads = c.heads,
                                      .probabilities = probabilities,
                                      .d_out = d_out,
                                      .dq = dq_expected,
                                      .dq_mode = mode,
                                      .d_kv = d_kv_expected,
                                      .d_kv_mode = mode};
        reference::cls_attention_backward(backward);
        backward.dq = dq;
        backward.d_kv = d_kv;
        cls_attention_backward(backward, stream);
        // Of one row the query's true gradient is zero, and what is left is rounding.
        if (rows > 1) check_close(dq, dq_expected, tolerance(dtype), "dq");
        check_close(d_kv, d_kv_expected, tolerance(dtype), "d_kv");
      }
    }
  }
}

TEST_CASE("cls_attention's oracle has the gradient that central differences give") {
  const HostArray offsets = from_integers({0, 3, 7});
  const HostArray q = random_normal(DType::float64, {2, 6}, 1);
  const HostArray kv = random_normal(DType::float64, {7, 12}, 2);
  const HostArray d_out = random_normal(DType::float64, {2, 6}, 3);
  HostArray out(DType::float64, {2, 6});
  HostArray probabilities(DType::float64, {2, 7});
  const auto loss = [&] {
    reference::cls_attention_forward({.q = q,
                                      .kv = kv,
                                      .offsets = offsets,
                                      .max_length = 4,
                                      .heads = 2,
                                      .out = out,
                                      .probabilities = probabilities});
    double total = 0;
    for (std::int64_t i = 0; i < out.size(); ++i) total += out.at(i) * d_out.at(i);
    return total;
  };
  loss();
  HostArray dq(DType::float64, {2, 6});
  HostArray d_kv(DType::float64, {7, 12});
  constexpr auto kOverwrite = GradientMode::overwrite;
  reference::cls_attention_backward({.q = q,
                                     .kv = kv,
                                     .offsets = offsets,
                                     .max_length = 4,
                                     .heads = 2,
                                     .probabilities = probabilities,
                                     .d_out = d_out,
                                     .dq = dq,
                                     .dq_mode = kOverwrite,
                                     .d_kv = d_kv,
                                     .d_kv_mode = kOverwrite});
  check_gradient(loss, q, dq, 1e-7, "dq");
  check_gradient(loss, kv, d_kv, 1e-7, "d_kv", 60);
}

TEST_CASE("cls_attention gives an attention map that sums to one") {
  const auto stream = make_cpu_stream();
  const HostArray offsets = from_integers({0, 9, 20});
  const HostArray q = random_normal(DType::float32, {2, 8}, 1, 20.0);
  const HostArray kv = random_normal(DType::float32, {20, 16}, 2, 20.0);
  HostArray out(DType::float32, {2, 8});
  HostArray probabilities(DType::float32, {2, 20});
  cls_attention_forward(
      {.q = q, .kv = kv, .offsets = offsets, .max_length = 11, .heads = 2, .out = out, .probabilities = probabilities},
      *stream);
  for (const std::int64_t first : {0, 9, 20, 29}) {
    double sum = 0;
    for (std::int64_t i = first; i < first + (first % 20 == 0 ? 9 : 11); ++i) sum += probabilities.at(i);
    CHECK(sum == Approx(1.0).epsilon(1e-5));
  }
}
