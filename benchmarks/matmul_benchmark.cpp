// The products of a step: the linear layers of a block on all tokens, and the head's last layer on the CLS rows; each
// forward, and backward to its input and to its weight (fp32).
#include "kernels/matmul/matmul.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook/gelu.h"
#include "benchmarks/textbook/matmul.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <vector>

namespace dino::bench {
namespace textbook {

template <typename T, typename Y>
void multiply(const Matmul& args, const Cpu& on) {
  const auto [m, n, k] = checked_size(args);
  const T *a = args.a.as<T>(), *b = args.b.as<T>();
  Y* y = args.y.as<Y>();
  on.for_rows(m, n, [=, &args, m = m, n = n, k = k](const Cpu::Row&, std::int64_t i) {
    std::vector<float> sums(static_cast<std::size_t>(n), 0.0F);
    for (std::int64_t j = 0; args.bias && j < n; ++j) sums[static_cast<std::size_t>(j)] = args.bias.as<float>()[j];
    const auto a_at = [=, &args](std::int64_t l) { return get(args.transpose_a ? a[l * m + i] : a[i * k + l]); };
    if (args.transpose_b) {
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t l = 0; l < k; ++l) sum += a_at(l) * get(b[j * k + l]);
        sums[static_cast<std::size_t>(j)] += sum;
      }
    } else {
      for (std::int64_t l = 0; l < k; ++l) {
        const float factor = a_at(l);
        for (std::int64_t j = 0; j < n; ++j) sums[static_cast<std::size_t>(j)] += factor * get(b[l * n + j]);
      }
    }
    for (std::int64_t j = 0; j < n; ++j) {
      float value = sums[static_cast<std::size_t>(j)];
      if (args.preactivation) args.preactivation.as<Y>()[i * n + j] = put<Y>(value);
      if (args.gelu) value *= normal_cdf(value);
      y[i * n + j] = put<Y>(value);
    }
  });
}

void MatmulSteps::run(const Cpu& on) const {
  visit_compute_type(args.a.dtype(), "bench", [&](auto from) {
    visit_compute_type(args.y.dtype(), "bench", [&](auto to) { multiply<decltype(from), decltype(to)>(args, on); });
  });
}

}  // namespace textbook

namespace {

Prepared prepare_product(Bench& bench, const Matmul& args) {
  const auto [m, n, k] = checked_size(args);
  Stream& stream = bench.stream();
  Prepared prepared{
      .size = fmt::format("{} x {} x {}", m, n, k), .run = [=, &stream] { matmul(args, stream); }, .outputs = {args.y}};
  if (args.preactivation) prepared.outputs.push_back(args.preactivation);
  textbook::add(bench, prepared, textbook::MatmulSteps{args});
  if (!bench.on_cpu()) {
    prepared.note = args.gelu ? "cuBLASLt's product, then the GELU" : "cuBLASLt's own";
    return prepared;
  }
  const auto writable = [](const ConstArray& array) {
    return Array(const_cast<void*>(array.data()), array.dtype(), array.shape());
  };
  const Array& linear = args.preactivation ? args.preactivation : args.y;
  const auto product = onednn::matmul(writable(args.a), args.transpose_a, writable(args.b), args.transpose_b,
                                      args.bias ? writable(args.bias) : Array(), linear);
  if (args.gelu) {
    const auto gelu = onednn::gelu(linear, args.y);
    prepared.references.push_back({"oneDNN", [=] {
                                     product();
                                     gelu();
                                   }});
  } else {
    prepared.references.push_back({"oneDNN", product});
  }
  return prepared;
}

struct Layer {
  std::int64_t rows, outputs, inputs;
};

Prepared forward(Bench& bench, const Layer& l, bool gelu = false) {
  const DType dtype = bench.dtype();
  Matmul args{.a = bench.values({l.rows, l.inputs}),
              .b = bench.values({l.outputs, l.inputs}),
              .bias = bench.values(DType::float32, {l.outputs}),
              .y = bench.zeros(dtype, {l.rows, l.outputs}),
              .transpose_b = true};
  if (gelu) {
    args.gelu = true;
    args.preactivation = bench.zeros(dtype, {l.rows, l.outputs});
  }
  return prepare_product(bench, args);
}
Prepared to_input(Bench& bench, const Layer& l) {
  return prepare_product(bench, {.a = bench.values({l.rows, l.outputs}),
                                 .b = bench.values({l.outputs, l.inputs}),
                                 .y = bench.zeros(bench.dtype(), {l.rows, l.inputs})});
}
Prepared to_weight(Bench& bench, const Layer& l) {
  return prepare_product(bench, {.a = bench.values({l.rows, l.outputs}),
                                 .b = bench.values({l.rows, l.inputs}),
                                 .y = bench.zeros(DType::float32, {l.outputs, l.inputs}),
                                 .transpose_a = true});
}

Layer qkv(const Workload& w) { return {w.tokens(), 3 * w.width, w.width}; }
Layer fc1(const Workload& w) { return {w.tokens(), w.mlp(), w.width}; }
Layer fc2(const Workload& w) { return {w.tokens(), w.width, w.mlp()}; }
Layer last(const Workload& w) { return {w.sequences(), w.prototypes, w.bottleneck}; }

/// A layer forward, to its input and to its weight.
template <Layer (*kLayer)(const Workload&), bool kGelu = false>
struct RegisteredLayer {
  explicit RegisteredLayer(std::string_view forward_name, std::string_view input_name, std::string_view weight_name)
      : forward_{{"matmul", forward_name, [](Bench& b) { return forward(b, kLayer(b.workload()), kGelu); }}},
        input_{{"matmul", input_name, [](Bench& b) { return to_input(b, kLayer(b.workload())); }}},
        weight_{{"matmul", weight_name, [](Bench& b) { return to_weight(b, kLayer(b.workload())); }}} {}
  Registered forward_, input_, weight_;
};
const RegisteredLayer<qkv> kQkv{"qkv forward", "qkv dx", "qkv dweight"};
const RegisteredLayer<fc1, true> kFc1{"fc1+GELU forward", "fc1 dx", "fc1 dweight"};
const RegisteredLayer<fc2> kFc2{"fc2 forward", "fc2 dx", "fc2 dweight"};
const RegisteredLayer<last> kLast{"last forward", "last dx", "last dweight"};

}  // namespace
}  // namespace dino::bench
