#include "benchmarks/benchmark.h"

#include "kernels/common/error.h"
#include "kernels/common/operation_cost.h"

#include <algorithm>
#include <array>

namespace dino::bench {
namespace {

constexpr std::array kWorkloads = {
    Workload{.name = "vits16", .images = 4, .width = 384, .heads = 6, .depth = 12, .patch_px = 16},
    Workload{.name = "vitb16", .images = 4, .width = 768, .heads = 12, .depth = 12, .patch_px = 16},
    Workload{.name = "tiny",
             .images = 2,
             .width = 192,
             .heads = 3,
             .depth = 2,
             .patch_px = 8,
             .global_px = 64,
             .local_px = 32,
             .head_hidden = 256,
             .bottleneck = 64,
             .prototypes = 1024,
             .bank = 500,
             .queries = 40},
};

std::vector<Benchmark>& registry() {
  static std::vector<Benchmark> benchmarks;
  return benchmarks;
}

/// A number in [-1, 1) for each position; neither sorted nor with a short period.
float value_at(std::int64_t i) {
  auto bits = static_cast<std::uint32_t>(i) * 0x9e3779b1u;
  bits ^= bits >> 15;
  bits *= 0x85ebca77u;
  bits ^= bits >> 13;
  return static_cast<float>(bits >> 8) * 0x1p-23F - 1.0F;
}

/// Adds up what the operations on a stream cost; those that a kernel uses for parts of its work belong to it.
class WorkCounter final : public OperationObserver {
 public:
  explicit WorkCounter(Stream& stream) : stream_(stream) { stream.observe(this); }
  ~WorkCounter() override { stream_.observe(nullptr); }

  void begin(const Operation& operation) override {
    if (depth_++ > 0) return;
    const OperationCost cost = cost_of(operation, stream_);
    bytes += cost.bytes;
    flops += cost.flops;
  }
  void end() noexcept override { --depth_; }

  double bytes = 0, flops = 0;

 private:
  Stream& stream_;
  int depth_ = 0;
};

}  // namespace

std::span<const Workload> workloads() { return kWorkloads; }

Workload workload_of(std::string_view name) {
  for (const Workload& workload : kWorkloads) {
    if (workload.name == name) return workload;
  }
  fail("bench", "unknown shape; got {}, expected vits16, vitb16 or tiny", name);
}

Array Bench::keep(Tensor tensor) {
  kept_.push_back(std::move(tensor));
  return kept_.back().array();
}

Array Bench::values(DType dtype, const Shape& shape) {
  std::vector<std::byte> host(static_cast<std::size_t>(shape.size()) * size_of(dtype));
  const Array array(host.data(), dtype, shape);
  const std::int64_t first = 0x9e3779b9 * ++arrays_of_values_;
  const auto fill = [&](auto* to, const auto& of) {
#pragma omp parallel for
    for (std::int64_t i = 0; i < shape.size(); ++i) to[i] = of(value_at(first + i));
  };
  switch (dtype) {
    case DType::float32: fill(array.as<float>(), [](float value) { return value; }); break;
    case DType::bfloat16: fill(array.as<BFloat16>(), [](float value) { return BFloat16(value); }); break;
    case DType::uint8:
      fill(array.as<std::uint8_t>(), [](float value) { return static_cast<std::uint8_t>(127.5F * (value + 1)); });
      break;
    default: fail("bench", "no values of the type {}", name_of(dtype));
  }
  return keep(context_.from_host(array));
}

Array Bench::zeros(DType dtype, const Shape& shape) { return keep(context_.zeros(shape, dtype)); }

Array Bench::copy(const Array& array) {
  const Array to = keep(context_.empty(array.shape(), array.dtype()));
  stream().copy(to.data(), array.data(), array.size_bytes());
  return to;
}

Array Bench::indices(std::span<const std::int32_t> values) {
  return keep(context_.from_host(ConstArray(values.data(), {static_cast<std::int64_t>(values.size())})));
}

std::vector<std::int32_t> Bench::sequence_offsets() const {
  std::vector<std::int32_t> offsets{0};
  const auto add = [&](std::int64_t count, std::int64_t length) {
    for (std::int64_t i = 0; i < count; ++i) offsets.push_back(offsets.back() + static_cast<std::int32_t>(length));
  };
  add(workload_.images * workload_.globals, workload_.global_tokens());
  add(workload_.images * workload_.locals, workload_.local_tokens());
  return offsets;
}

std::vector<std::int32_t> Bench::sequence_of_tokens() const {
  const std::vector<std::int32_t> offsets = sequence_offsets();
  std::vector<std::int32_t> sequences;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    sequences.resize(static_cast<std::size_t>(offsets[s + 1]), static_cast<std::int32_t>(s));
  return sequences;
}

Prepared prepare(const Benchmark& benchmark, Bench& bench) {
  Prepared prepared = benchmark.prepare(bench);
  if (benchmark.whole_program || !benchmark.has_roofline) return prepared;
  WorkCounter work(bench.stream());
  prepared.run();
  if (prepared.restore) prepared.restore();
  prepared.bytes = work.bytes;
  prepared.flops = work.flops;
  return prepared;
}

Registered::Registered(Benchmark benchmark) { registry().push_back(std::move(benchmark)); }

std::vector<Benchmark> benchmarks() {
  std::vector<Benchmark> sorted = registry();
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Benchmark& a, const Benchmark& b) { return a.operation < b.operation; });
  return sorted;
}

std::string_view short_name(DType dtype) {
  switch (dtype) {
    case DType::float32: return "fp32";
    case DType::bfloat16: return "bf16";
    default: return name_of(dtype);
  }
}

}  // namespace dino::bench
