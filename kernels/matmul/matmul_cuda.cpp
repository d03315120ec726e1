// Matrix products on a GPU: cuBLASLt's, with the bias as its epilogue, then the GELU of kernels/gelu.
//
// cuBLASLt's own GELU is the tanh approximation, and the recipe's is the exact one; the pass over y that this costs
// reads and writes 2·M·N elements, which the backward pass, where the preactivation is kept, needs anyway.
// A bf16 result takes a bias of bf16 only, so the fp32 bias is rounded first, as PyTorch's autocast does: the one
// rounding that the contract does not have elsewhere.
#include "kernels/cast/cast.h"
#include "kernels/common/cuda/cublas_lt.h"
#include "kernels/gelu/gelu.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/plain_matmul.h"

#include <algorithm>

namespace dino::cuda {
namespace {

/// The greatest power of two, up to what matters, that an address is a multiple of.
unsigned alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | CublasLt::kAlignment;
  return static_cast<unsigned>(bits & (~bits + 1));
}

/// The bias in y's type and at an address that cuBLASLt takes; in scratch memory where it is not so already.
const void* epilogue_bias(const Matmul& args, Stream& stream) {
  if (!args.bias) return nullptr;
  const bool same_type = args.y.dtype() == DType::float32;
  if (same_type && alignment_of(args.bias.data()) == CublasLt::kAlignment) return args.bias.data();
  const auto count = static_cast<std::size_t>(args.bias.size());
  const Array bias(stream.scratch(count * size_of(args.y.dtype())), args.y.dtype(), args.bias.shape());
  cuda::cast({.x = args.bias, .y = bias}, stream);
  return bias.data();
}

}  // namespace

void matmul(const Matmul& args, Stream& stream) {
  const auto [m, n, k] = checked_size(args);
  if (args.mode == GradientMode::ignore) return;
  // The GELU runs over the finished product, from the preactivation where that is wanted.
  const Array& linear = args.preactivation ? args.preactivation : args.y;
  const CublasLtProduct product{.m = m,
                                .n = n,
                                .k = k,
                                .transpose_a = args.transpose_a,
                                .transpose_b = args.transpose_b,
                                .operands = args.a.dtype(),
                                .result = args.y.dtype(),
                                .bias = static_cast<bool>(args.bias),
                                .a_alignment = alignment_of(args.a.data()),
                                .b_alignment = alignment_of(args.b.data()),
                                .y_alignment = alignment_of(linear.data())};
  // It multiplies fp32 into fp32 only, and has no business with anything else.
  const bool types_go_together = args.a.dtype() == DType::bfloat16 || args.y.dtype() == DType::float32;
  CublasLt& cublas = cublas_lt_of(stream);
  if (types_go_together && cublas.supports(product)) {
    const void* bias = epilogue_bias(args, stream);
    cublas.run(product, {args.a.data(), args.b.data(), bias, linear.data()}, args.mode == GradientMode::accumulate,
               stream.handle());
  } else {
    plain_matmul(args, linear, stream);
  }
  if (args.gelu) cuda::gelu_forward({.x = linear, .y = args.y}, stream);
}

}  // namespace dino::cuda
