#include "kernels/matmul/matmul.h"

#include "kernels/gelu/gelu.h"
#include "kernels/matmul/onednn_matmul.h"
#include "kernels/matmul/packed_matmul.h"

namespace dino::cpu {

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
  // The fused GELU of packed products pays where there are rows enough to share the packing.
  constexpr std::int64_t kRowsForGelu = 64;
  const bool is_bf16 = args.a.dtype() == DType::bfloat16;
  const bool packs = is_bf16 ? !multiplies_bf16_faster() : args.gelu && m >= kRowsForGelu;
  if (packs || !onednn_supports(product)) {
    matmul_packed(args, stream);
    return;
  }
  // The GELU runs over the finished product, from the pre-activation where that is wanted.
  const Array& linear = args.preactivation ? args.preactivation : args.y;
  void* scratch = stream.scratch(onednn_scratch_bytes(product));
  onednn_run(product, {args.a.data(), args.b.data(), args.bias.data(), linear.data(), scratch});
  if (args.gelu) cpu::gelu_forward({.x = linear, .y = args.y}, stream);
}

}  // namespace dino::cpu
