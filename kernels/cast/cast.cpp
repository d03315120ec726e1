#include "kernels/cast/cast.h"

namespace dino {

void check_cast(const Cast& args) {
  require(args.x.size() == args.y.size(), "cast", "x and y differ in size; got {} and {}", args.x.shape().to_string(),
          args.y.shape().to_string());
}

}  // namespace dino
