#include "kernels/l2_normalize/l2_normalize.h"

#include <algorithm>
#include <cmath>

namespace dino::reference {

void l2_normalize(const L2Normalize& args) {
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t r = 0; r < args.x.extent(0); ++r) {
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c)
      square += load_double(args.x, r * width + c) * load_double(args.x, r * width + c);
    const double norm = std::max(std::sqrt(square), args.eps);
    for (std::int64_t c = 0; c < width; ++c)
      store_double(args.y, r * width + c, load_double(args.x, r * width + c) / norm);
  }
}

void l2_normalize_backward(const L2NormalizeBackward& args) {
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t r = 0; r < args.x.extent(0); ++r) {
    double square = 0;
    double along = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      square += load_double(args.x, r * width + c) * load_double(args.x, r * width + c);
      along += load_double(args.x, r * width + c) * load_double(args.dy, r * width + c);
    }
    const double norm = std::sqrt(square);
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t i = r * width + c;
      const double direct = load_double(args.dy, i) / std::max(norm, args.eps);
      const double through_norm = norm < args.eps ? 0.0 : load_double(args.x, i) * along / (norm * norm * norm);
      const double old = args.mode == GradientMode::accumulate ? load_double(args.dx, i) : 0.0;
      store_double(args.dx, i, old + direct - through_norm);
    }
  }
}

}  // namespace dino::reference
