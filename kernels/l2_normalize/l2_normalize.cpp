#include "kernels/l2_normalize/l2_normalize.h"

namespace dino {

void check_l2_normalize(const L2Normalize& args) {
  require(args.x.shape().rank() == 2, "l2_normalize", "x has shape (R, C); got {}", args.x.shape().to_string());
  require_array(args.y, args.x.dtype(), args.x.shape(), "l2_normalize", "y");
}

void check_l2_normalize(const L2NormalizeBackward& args) {
  constexpr std::string_view kWhere = "l2_normalize_backward";
  require(args.x.shape().rank() == 2, kWhere, "x has shape (R, C); got {}", args.x.shape().to_string());
  require_array(args.dy, args.x.dtype(), args.x.shape(), kWhere, "dy");
  require_array(args.dx, args.x.dtype(), args.x.shape(), kWhere, "dx");
}

}  // namespace dino
