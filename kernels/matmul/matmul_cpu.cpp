#include "kernels/matmul/matmul.h"

#include "kernels/cast/cast.h"
#include "kernels/gelu/gelu.h"
#include "kernels/matmul/onednn_matmul.h"

namespace dino::cpu {
namespace {

/// Cuts one piece of scratch memory into aligned parts.
class ScratchPlan {
 public:
  std::size_t add(std::size_t size_bytes) {
    const std::size_t offset = size_;
    size_ += (size_bytes + 63) / 64 * 64;
    return offset;
  }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

/// y = op(a)·op(b) + bias in fp32 from bf16 operands, where the processor has no bf16 products: the operands are
/// widened into scratch memory first, and a bf16 result is rounded from there.
void multiply_widened(const Matmul& args, OnednnProduct product, Stream& stream) {
  const bool widen_result = args.y.dtype() != DType::float32;
  product.operands = DType::float32;
  product.result = DType::float32;
  product.accumulate = args.mode == GradientMode::accumulate;
  require(onednn_supports(product), "matmul", "oneDNN has no fp32 product for this processor");

  ScratchPlan plan;
  const std::size_t at_a = plan.add(static_cast<std::size_t>(args.a.size()) * sizeof(float));
  const std::size_t at_b = plan.add(static_cast<std::size_t>(args.b.size()) * sizeof(float));
  const std::size_t at_y = plan.add(widen_result ? static_cast<std::size_t>(args.y.size()) * sizeof(float) : 0);
  const std::size_t at_scratch = plan.add(onednn_scratch_bytes(product));
  auto* scratch = static_cast<std::byte*>(stream.scratch(plan.size()));
  const Array a(scratch + at_a, DType::float32, args.a.shape());
  const Array b(scratch + at_b, DType::float32, args.b.shape());
  const Array y = widen_result ? Array(scratch + at_y, DType::float32, args.y.shape()) : args.y;
  cpu::cast({.x = args.a, .y = a}, stream);
  cpu::cast({.x = args.b, .y = b}, stream);
  if (widen_result && product.accumulate) cpu::cast({.x = args.y, .y = y}, stream);
  onednn_run(product, {a.data(), b.data(), args.bias.data(), y.data(), scratch + at_scratch});
  if (!widen_result) return;
  if (args.preactivation) cpu::cast({.x = y, .y = args.preactivation}, stream);
  if (args.gelu) cpu::gelu_forward({.x = y, .y = y}, stream);
  cpu::cast({.x = y, .y = args.y}, stream);
}

}  // namespace

void matmul(const Matmul& args, Stream& stream) {
  const auto [m, n, k] = checked_size(args);
  if (args.mode == GradientMode::ignore) return;
  const OnednnProduct product{.m = m,
                              .n = n,
                              .k = k,
                              .transpose_a = args.transpose_a,
                              .transpose_b = args.transpose_b,
                              .operands = args.a.dtype(),
                              .result = args.y.dtype(),
                              .bias = static_cast<bool>(args.bias),
                              .accumulate = args.mode == GradientMode::accumulate};
  // The GELU runs over the finished product, from the pre-activation where that is wanted.
  const Array& linear = args.preactivation ? args.preactivation : args.y;
  if (onednn_supports(product)) {
    void* scratch = stream.scratch(onednn_scratch_bytes(product));
    onednn_run(product, {args.a.data(), args.b.data(), args.bias.data(), linear.data(), scratch});
  } else {
    Matmul widened = args;
    if (args.y.dtype() == DType::float32) widened.y = linear;
    multiply_widened(widened, product, stream);
    if (args.y.dtype() != DType::float32) return;
  }
  if (args.gelu) cpu::gelu_forward({.x = linear, .y = args.y}, stream);
}

}  // namespace dino::cpu
