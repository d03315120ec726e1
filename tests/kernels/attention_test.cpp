#include "kernels/attention/attention.h"

#include "kernels/common/parallel.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

struct Case {
  std::vector<std::int32_t> lengths;
  int heads;
  std::int64_t head_width;
  int max_length = 0;  // that kernels are told; 0: the longest
};
const Case kCases[] = {
    {{1}, 1, 64},
    {{1, 2, 3}, 2, 1},
    {{5, 0, 9}, 3, 5},
    {{17, 37}, 3, 64},
    {{65, 1, 16}, 2, 32},
    {{7, 8, 23}, 1, 16},
    {{24, 25, 48}, 2, 20},
    {{50, 10}, 1, 128},
    {{197}, 1, 64},
    {{33, 31, 32}, 1, 80},
    {{300}, 1, 16},
    // Many short sequences after a long one, with heads that share a block of CUDA threads.
    {{81, 0, 17, 16, 37, 1, 1, 5}, 3, 64},
    // So long, or said to be, that CUDA kernels do not keep all keys in shared memory.
    {{385}, 1, 64},
    {{64, 0, 1, 130}, 2, 64, 1000},
    {{65, 9}, 1, 32, 1000},
};

struct Problem {
  explicit Problem(const Case& c) : heads(c.heads), width(c.heads * c.head_width) {
    std::vector<std::int32_t> ends{0};
    for (const std::int32_t length : c.lengths) {
      ends.push_back(ends.back() + length);
      max_length = std::max(max_length, length);
    }
    max_length = std::max(max_length, c.max_length);
    rows = ends.back();
    offsets = std::make_unique<HostArray>(from_integers(ends));
  }
  int heads;
  int max_length = 0;
  std::int64_t width;
  std::int64_t rows = 0;
  std::unique_ptr<HostArray> offsets;
};

double to_bf16(double x) { return static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(x)))); }

/// Calls body(query's row, first row of its sequence, first column of its head, probabilities of the sequence's keys).
template <typename Body>
void for_queries(const Problem& p, const HostArray& qkv, const Body& body) {
  const std::int64_t size = p.width / p.heads;
  for (std::int64_t s = 0; s + 1 < p.offsets->size(); ++s) {
    const std::int64_t begin = p.offsets->as<std::int32_t>()[s];
    const std::int64_t end = p.offsets->as<std::int32_t>()[s + 1];
    for (std::int64_t column = 0; column < p.width; column += size) {
      for (std::int64_t query = begin; query < end; ++query) {
        std::vector<double> scores;
        for (std::int64_t key = begin; key < end; ++key) {
          double score = 0;
          for (std::int64_t c = column; c < column + size; ++c) {
            score += qkv.at(query * 3 * p.width + c) * qkv.at(key * 3 * p.width + p.width + c);
          }
          scores.push_back(score / std::sqrt(static_cast<double>(size)));
        }
        const double largest = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - largest);
        for (double& score : scores) score /= sum;
        body(query, begin, column, scores);
      }
    }
  }
}

/// What bf16 arithmetic gives at best: the probabilities, relative to the largest, are rounded before their products
/// with the values, and each result once. Kernels may be off from the oracle twice as much.
HostArray rounded_forward(const Problem& p, const HostArray& qkv) {
  const std::int64_t size = p.width / p.heads;
  HostArray out(DType::bfloat16, {p.rows, p.width});
  for_queries(p, qkv, [&](std::int64_t query, std::int64_t begin, std::int64_t column, const std::vector<double>& ps) {
    const double largest = *std::max_element(ps.begin(), ps.end());
    for (std::int64_t c = column; c < column + size; ++c) {
      double sum = 0;
      for (std::size_t j = 0; j < ps.size(); ++j) {
        const std::int64_t key = begin + static_cast<std::int64_t>(j);
        sum += to_bf16(ps[j] / largest) * largest * qkv.at(key * 3 * p.width + 2 * p.width + c);
      }
      out.set(query * p.width + c, sum);
    }
  });
  return out;
}

/// The same of the gradient, which rounds the probabilities and ds; added to `before` where that is wanted.
HostArray rounded_backward(const Problem& p, const HostArray& qkv, const HostArray& out, const HostArray& d_out,
                           const HostArray& before, GradientMode mode) {
  const std::int64_t size = p.width / p.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(size));
  std::vector<double> sums(static_cast<std::size_t>(qkv.size()));
  for_queries(p, qkv, [&](std::int64_t query, std::int64_t begin, std::int64_t column, const std::vector<double>& ps) {
    const auto of = [&](std::int64_t row, int part, std::int64_t c) { return (row * 3 + part) * p.width + column + c; };
    double delta = 0;
    for (std::int64_t i = query * p.width + column; i < query * p.width + column + size; ++i) {
      delta += out.at(i) * d_out.at(i);
    }
    for (std::size_t j = 0; j < ps.size(); ++j) {
      const std::int64_t key = begin + static_cast<std::int64_t>(j);
      double dp = 0;
      for (std::int64_t c = 0; c < size; ++c) dp += d_out.at(query * p.width + column + c) * qkv.at(of(key, 2, c));
      const double ds = to_bf16(ps[j] * (dp - delta)) * scale;
      for (std::int64_t c = 0; c < size; ++c) {
        sums[static_cast<std::size_t>(of(query, 0, c))] += ds * qkv.at(of(key, 1, c));
        sums[static_cast<std::size_t>(of(key, 1, c))] += ds * qkv.at(of(query, 0, c));
        sums[static_cast<std::size_t>(of(key, 2, c))] += to_bf16(ps[j]) * d_out.at(query * p.width + column + c);
      }
    }
  });
  HostArray d_qkv(DType::bfloat16, qkv.shape());
  for (std::int64_t i = 0; i < d_qkv.size(); ++i) {
    d_qkv.set(i, sums[static_cast<std::size_t>(i)] + (mode == GradientMode::accumulate ? before.at(i) : 0.0));
  }
  return d_qkv;
}

constexpr double kFp32 = 3e-6;  // rounding of sums
/// What bf16 arithmetic may be off by, given its best result.
double bound_of(const HostArray& rounded, const HostArray& expected) {
  return 2 * difference(rounded, expected).relative_norm + kFp32;
}

std::string describe(const Case& c, DType dtype) {
  return fmt::format("{} heads of {}, first length {}, {}", c.heads, c.head_width, c.lengths[0], name_of(dtype));
}

}  // namespace

static void check_forward(Stream& stream);
TEST_CASE("attention forward agrees with the oracle", "[device]") { every_stream(check_forward); }
static void check_forward(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Case& c : kCases) {
      const Problem p(c);
      INFO(describe(c, dtype));
      // CUDA threads on the host take long: the largest case is for the tensor cores, which need aligned bf16.
      const bool slow = stream.device() == Device::cuda && p.rows > 100;
      if (slow && p.rows > 300 && dtype == DType::float32) continue;
      HostArray out_expected(DType::float64, {p.rows, p.width});
      HostArray logsumexp_expected(DType::float64, {p.heads, p.rows});
      for (const int misalign : {0, 1}) {
        if (misalign != 0 && slow) continue;
        const HostArray qkv = random_normal(dtype, {p.rows, 3 * p.width}, 1, 1.5, 0.0, misalign);
        HostArray out(dtype, {p.rows, p.width}, misalign);
        HostArray logsumexp(DType::float32, {p.heads, p.rows}, misalign);
        AttentionForward args{.qkv = qkv,
                              .offsets = *p.offsets,
                              .max_length = p.max_length,
                              .heads = p.heads,
                              .out = out_expected,
                              .logsumexp = logsumexp_expected};
        if (misalign == 0) reference::attention_forward(args);
        args.out = out;
        args.logsumexp = logsumexp;
        attention_forward(args, stream);
        const double bound = dtype == DType::float32 ? kFp32 : bound_of(rounded_forward(p, qkv), out_expected);
        check_close(out, out_expected, bound, "out");
        check_close(logsumexp, logsumexp_expected, 1e-6, "logsumexp");
      }
    }
  }
}

static void check_backward(Stream& stream);
TEST_CASE("attention backward agrees with the oracle, overwriting and accumulating", "[device]") {
  every_stream(check_backward);
}
static void check_backward(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Case& c : kCases) {
      const Problem p(c);
      INFO(describe(c, dtype));
      // CUDA threads on the host take long: the largest case is for the tensor cores, which need aligned bf16.
      const bool slow = stream.device() == Device::cuda && p.rows > 100;
      if (slow && p.rows > 300 && dtype == DType::float32) continue;
      for (const int misalign : {0, 1}) {
        if (misalign != 0 && slow) continue;
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
        const GradientMode mode =
            misalign == static_cast<int>(c.lengths.size() % 2) ? GradientMode::overwrite : GradientMode::accumulate;
        const bool adds = mode == GradientMode::accumulate;
        HostArray d_qkv =
            adds ? random_normal(dtype, qkv.shape(), 3, 1.0, 0.0, misalign) : HostArray(dtype, qkv.shape(), misalign);
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
        const double bound = dtype == DType::float32
                                 ? kFp32
                                 : bound_of(rounded_backward(p, qkv, out, d_out, d_qkv, mode), d_qkv_expected);
        args.d_qkv = d_qkv;
        attention_backward(args, stream);
        check_close(d_qkv, d_qkv_expected, bound, "d_qkv");
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

static void check_wide_heads(Stream& stream);
TEST_CASE("attention refuses heads that do not fit into a GPU's shared memory", "[device]") {
  every_stream(check_wide_heads);
}
static void check_wide_heads(Stream& stream) {
  const Problem p({{2}, 1, 1000});
  const HostArray qkv = random_normal(DType::float32, {2, 3000}, 1);
  HostArray out(DType::float32, {2, 1000});
  const AttentionForward args{
      .qkv = qkv, .offsets = *p.offsets, .max_length = 2, .heads = 1, .out = out, .logsumexp = Array()};
  if (stream.device() == Device::cpu) {
    CHECK_NOTHROW(attention_forward(args, stream));
  } else {
    CHECK_THROWS_AS(attention_forward(args, stream), Error);
  }
}
