#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// y = x·Φ(x), Φ the distribution function of the standard normal: the exact GELU (Hendrycks & Gimpel,
/// arXiv 1606.08415; torch.nn.GELU's default), not its tanh approximation.
/// Traffic: reads and writes every element once; about 30 flops an element.
/// Numerics: fp32, Φ within 4e-8 absolute (4e-7 on CUDA, whose exponential and reciprocal are the fast ones) and,
/// where the result is no denormal number, a few fp32 roundings of x²/2 relative in the negative tail.
struct GeluForward {
  ConstArray x;  // any shape, float32 or bfloat16
  Array y;       // same shape and type; may be x
};
DINO_OPERATION(gelu_forward, GeluForward)

/// dx = dy·(Φ(x) + x·φ(x)), φ the density of the standard normal; and, where asked for, the column sums of the new
/// part of dx: the gradient of a bias that was added to give x. One pass over x, dy and dx.
/// Numerics: as the forward pass. The sums add unrounded fp32 products in an order that depends on R alone.
struct GeluBackward {
  ConstArray x;   // (..., C), float32 or bfloat16
  ConstArray dy;  // same shape and type
  Array dx;       // same shape and type; may be x or, with overwrite, dy
  GradientMode mode = GradientMode::overwrite;
  Array dbias = {};  // (C) fp32
  GradientMode dbias_mode = GradientMode::ignore;
};
DINO_OPERATION(gelu_backward, GeluBackward)

/// Throw Error unless types and shapes are as declared above.
void check_gelu(const GeluForward& args);
void check_gelu(const GeluBackward& args);

}  // namespace dino
