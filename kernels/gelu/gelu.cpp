#include "kernels/gelu/gelu.h"

namespace dino {

void check_gelu(const GeluForward& args) { require_array(args.y, args.x.dtype(), args.x.shape(), "gelu", "y"); }

void check_gelu(const GeluBackward& args) {
  require_array(args.dy, args.x.dtype(), args.x.shape(), "gelu", "dy");
  if (args.mode != GradientMode::ignore) require_array(args.dx, args.x.dtype(), args.x.shape(), "gelu", "dx");
  if (args.dbias_mode == GradientMode::ignore) return;
  require(args.x.shape().rank() >= 1 && args.x.size() > 0, "gelu", "a bias gradient needs rows to sum; got x {}",
          args.x.shape().to_string());
  require_array(args.dbias, DType::float32, Shape{args.x.extent(-1)}, "gelu", "dbias");
}

}  // namespace dino
