#include "kernels/layer_norm/layer_norm.h"

namespace dino {
namespace {

constexpr const char* kForward = "layer_norm";
constexpr const char* kBackward = "layer_norm_backward";

void require_matrix(const ConstArray& x, const char* where) {
  require(x && x.shape().rank() == 2 && x.extent(1) >= 1, where, "the input must be a matrix (T, C); got {}",
          x.shape().to_string());
  require(x.dtype() == DType::float32 || x.dtype() == DType::bfloat16, where,
          "unsupported element type; got {}, expected float32 or bfloat16", name_of(x.dtype()));
}

void require_branch_scale(const ConstArray& scale, const ConstArray& row_sequence, std::int64_t rows,
                          const char* where) {
  if (!scale) return;
  require(scale.dtype() == DType::float32 && scale.shape().rank() == 1, where,
          "branch_scale must be (S) float32; got {} {}", name_of(scale.dtype()), scale.shape().to_string());
  require_array(row_sequence, DType::int32, Shape{rows}, where, "row_sequence");
}

void require_gradient(const Array& gradient, GradientMode mode, DType dtype, const Shape& shape, const char* name) {
  if (mode != GradientMode::ignore) require_array(gradient, dtype, shape, kBackward, name);
}

}  // namespace

void check_layer_norm(const LayerNormForward& args) {
  require_matrix(args.x, kForward);
  const Shape matrix = args.x.shape();
  const DType dtype = args.x.dtype();
  require_array(args.gamma, DType::float32, Shape{matrix[1]}, kForward, "gamma");
  require_array(args.beta, DType::float32, Shape{matrix[1]}, kForward, "beta");
  require_array(args.normalized, dtype, matrix, kForward, "normalized");
  if (args.branch) {
    require_array(args.branch, dtype, matrix, kForward, "branch");
    require_array(args.sum, dtype, matrix, kForward, "sum");
    require_branch_scale(args.branch_scale, args.row_sequence, matrix[0], kForward);
  } else {
    require(!args.sum && !args.branch_scale, kForward, "sum and branch_scale go with a branch, and none was given");
  }
  if (args.mean) require_array(args.mean, DType::float32, Shape{matrix[0]}, kForward, "mean");
  if (args.rstd) require_array(args.rstd, DType::float32, Shape{matrix[0]}, kForward, "rstd");
  require(args.eps > 0, kForward, "eps must be positive; got {}", args.eps);
}

void check_layer_norm(const LayerNormBackward& args) {
  require_matrix(args.sum, kBackward);
  const Shape matrix = args.sum.shape();
  const DType dtype = args.sum.dtype();
  require_array(args.mean, DType::float32, Shape{matrix[0]}, kBackward, "mean");
  require_array(args.rstd, DType::float32, Shape{matrix[0]}, kBackward, "rstd");
  require_array(args.gamma, DType::float32, Shape{matrix[1]}, kBackward, "gamma");
  if (args.d_normalized) {
    require_array(args.d_normalized, dtype, matrix, kBackward, "d_normalized");
  } else {
    require(args.d_sum && args.dgamma_mode == GradientMode::ignore && args.dbeta_mode == GradientMode::ignore,
            kBackward, "without d_normalized there must be d_sum, and no gradient of gamma and beta");
  }
  if (args.d_sum) require_array(args.d_sum, dtype, matrix, kBackward, "d_sum");
  require_branch_scale(args.branch_scale, args.row_sequence, matrix[0], kBackward);
  require_gradient(args.dx, args.dx_mode, dtype, matrix, "dx");
  require_gradient(args.d_branch, args.d_branch_mode, dtype, matrix, "d_branch");
  require_gradient(args.dgamma, args.dgamma_mode, DType::float32, Shape{matrix[1]}, "dgamma");
  require_gradient(args.dbeta, args.dbeta_mode, DType::float32, Shape{matrix[1]}, "dbeta");
}

}  // namespace dino
