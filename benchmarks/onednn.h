#pragma once

#include "kernels/common/array.h"

#include <functional>

/// Primitives of oneDNN as references: what the CPU's library makes of the same arrays, with its scratch memory and
/// descriptions made beforehand. Arrays are on the host.
namespace dino::bench::onednn {

using Call = std::function<void()>;

/// y = a + b; any shape.
Call add(const Array& a, const Array& b, const Array& y);
/// Statistics are written to mean and variance, (T) fp32.
Call layer_norm(const Array& x, const Array& gamma, const Array& beta, double eps, const Array& y, const Array& mean,
                const Array& variance);
Call layer_norm_backward(const Array& x, const Array& dy, const Array& gamma, double eps, const Array& mean,
                         const Array& variance, const Array& dx, const Array& dgamma, const Array& dbeta);
Call gelu(const Array& x, const Array& y);
Call gelu_backward(const Array& x, const Array& dy, const Array& dx);
/// y (M, N) = op(a)·op(b) [+ bias], in the layouts that they have in memory.
Call matmul(const Array& a, bool transpose_a, const Array& b, bool transpose_b, const Array& bias, const Array& y);
/// y (C) fp32 = the sums of the columns of x (R, C).
Call column_sum(const Array& x, const Array& y);
/// y = x in another element type.
Call reorder(const Array& x, const Array& y);

}  // namespace dino::bench::onednn
