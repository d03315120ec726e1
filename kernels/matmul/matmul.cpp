#include "kernels/matmul/matmul.h"

namespace dino {

MatmulSize checked_size(const Matmul& args) {
  constexpr const char* kWhere = "matmul";
  require(args.a.shape().rank() == 2 && args.b.shape().rank() == 2, kWhere, "a and b are matrices; got {} and {}",
          args.a.shape().to_string(), args.b.shape().to_string());
  const MatmulSize size{args.a.extent(args.transpose_a ? 1 : 0), args.b.extent(args.transpose_b ? 0 : 1),
                        args.a.extent(args.transpose_a ? 0 : 1)};
  const std::int64_t inner = args.b.extent(args.transpose_b ? 1 : 0);
  require(size.m > 0 && size.n > 0 && size.k > 0, kWhere, "a and b must not be empty; got {} and {}",
          args.a.shape().to_string(), args.b.shape().to_string());
  require(size.k == inner, kWhere, "the inner dimensions of a {}{} and b {}{} differ; got {} and {}",
          args.a.shape().to_string(), args.transpose_a ? "ᵀ" : "", args.b.shape().to_string(),
          args.transpose_b ? "ᵀ" : "", size.k, inner);
  require_array(args.b, args.a.dtype(), args.b.shape(), kWhere, "b");
  require_array(args.y, args.y.dtype(), Shape{size.m, size.n}, kWhere, "y");
  if (args.bias)
    require(args.bias.size() == size.n, kWhere, "bias has {} elements; expected {}", args.bias.size(), size.n);
  require(!args.gelu || args.mode == GradientMode::overwrite, kWhere, "a product with GELU cannot be accumulated");
  require(args.gelu || !args.preactivation, kWhere, "a preactivation without GELU is y itself");
  if (args.preactivation)
    require_array(args.preactivation, args.y.dtype(), Shape{size.m, size.n}, kWhere, "preactivation");
  return size;
}

}  // namespace dino
