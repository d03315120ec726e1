#include "kernels/batch_norm/batch_norm.h"

namespace dino {
namespace {

constexpr std::string_view kWhere = "batch_norm";

std::int64_t width_of(const ConstArray& x) {
  require(x.shape().rank() == 2, kWhere, "x has shape (R, C); got {}", x.shape().to_string());
  return x.extent(1);
}

}  // namespace

void check_batch_norm(const BatchNormSums& args) {
  require_array(args.sums, DType::float32, {width_of(args.x) + 1}, kWhere, "sums");
}

void check_batch_norm(const BatchNormSquares& args) {
  const std::int64_t width = width_of(args.x);
  require_array(args.sums, DType::float32, {width + 1}, kWhere, "sums");
  require_array(args.squares, DType::float32, {width}, kWhere, "squares");
}

void check_batch_norm(const BatchNormForward& args) {
  const std::int64_t width = width_of(args.x);
  require_array(args.sums, DType::float32, {width + 1}, kWhere, "sums");
  require_array(args.squares, DType::float32, {width}, kWhere, "squares");
  require_array(args.gamma, DType::float32, {width}, kWhere, "gamma");
  require_array(args.beta, DType::float32, {width}, kWhere, "beta");
  require_array(args.mean, DType::float32, {width}, kWhere, "mean");
  require_array(args.inverse_std, DType::float32, {width}, kWhere, "inverse_std");
  require_array(args.y, args.x.dtype(), args.x.shape(), kWhere, "y");
  if (args.statistics) require_array(args.statistics, DType::float32, {2, width}, kWhere, "statistics");
}

void check_batch_norm(const BatchNormBackwardSums& args) {
  const std::int64_t width = width_of(args.x);
  require_array(args.dy, args.x.dtype(), args.x.shape(), kWhere, "dy");
  require_array(args.mean, DType::float32, {width}, kWhere, "mean");
  require_array(args.inverse_std, DType::float32, {width}, kWhere, "inverse_std");
  require_array(args.sums, DType::float32, {2, width}, kWhere, "sums");
  if (args.gamma_mode != GradientMode::ignore) require_array(args.d_gamma, DType::float32, {width}, kWhere, "d_gamma");
  if (args.beta_mode != GradientMode::ignore) require_array(args.d_beta, DType::float32, {width}, kWhere, "d_beta");
}

void check_batch_norm(const BatchNormBackward& args) {
  const std::int64_t width = width_of(args.x);
  require_array(args.dy, args.x.dtype(), args.x.shape(), kWhere, "dy");
  require_array(args.dx, args.x.dtype(), args.x.shape(), kWhere, "dx");
  require_array(args.mean, DType::float32, {width}, kWhere, "mean");
  require_array(args.inverse_std, DType::float32, {width}, kWhere, "inverse_std");
  require_array(args.gamma, DType::float32, {width}, kWhere, "gamma");
  require_array(args.sums, DType::float32, {2, width}, kWhere, "sums");
  require_array(args.forward_sums, DType::float32, {width + 1}, kWhere, "forward_sums");
}

}  // namespace dino
