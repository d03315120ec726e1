#include "kernels/weight_norm/weight_norm.h"

namespace dino {
namespace {

void check(const ConstArray& v, const ConstArray& g, std::string_view where) {
  require(v.shape().rank() == 2, where, "v has shape (K, D); got {}", v.shape().to_string());
  require_array(v, DType::float32, v.shape(), where, "v");
  require(g.dtype() == DType::float32 && g.size() == v.extent(0), where, "g has {} float32 elements; got {} {}",
          v.extent(0), name_of(g.dtype()), g.shape().to_string());
}

}  // namespace

void check_weight_norm(const WeightNorm& args) {
  check(args.v, args.g, "weight_norm");
  require_array(args.w, args.w.dtype(), args.v.shape(), "weight_norm", "w");
}

void check_weight_norm(const WeightNormBackward& args) {
  constexpr std::string_view kWhere = "weight_norm_backward";
  check(args.v, args.g, kWhere);
  require_array(args.dw, args.dw.dtype(), args.v.shape(), kWhere, "dw");
  if (args.dv_mode != GradientMode::ignore) require_array(args.dv, DType::float32, args.v.shape(), kWhere, "dv");
  if (args.dg_mode != GradientMode::ignore) require_array(args.dg, DType::float32, args.g.shape(), kWhere, "dg");
}

}  // namespace dino
