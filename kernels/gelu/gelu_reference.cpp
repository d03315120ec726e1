#include "kernels/gelu/gelu.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace dino::reference {

void gelu_forward(const GeluForward& args) {
  for (std::int64_t i = 0; i < args.x.size(); ++i) {
    const double x = load_double(args.x, i);
    store_double(args.y, i, 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2)));
  }
}

void gelu_backward(const GeluBackward& args) {
  const std::int64_t columns = args.x.shape().rank() > 0 ? args.x.extent(-1) : 1;
  std::vector<double> sums(static_cast<std::size_t>(columns), 0.0);
  for (std::int64_t i = 0; i < args.x.size(); ++i) {
    const double x = load_double(args.x, i);
    const double cdf = 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2));
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
    const double dx = load_double(args.dy, i) * (cdf + x * density);
    sums[static_cast<std::size_t>(i % columns)] += dx;
    if (args.mode == GradientMode::overwrite) store_double(args.dx, i, dx);
    if (args.mode == GradientMode::accumulate) store_double(args.dx, i, load_double(args.dx, i) + dx);
  }
  if (args.dbias_mode == GradientMode::ignore) return;
  for (std::int64_t c = 0; c < columns; ++c) {
    const double before = args.dbias_mode == GradientMode::accumulate ? load_double(args.dbias, c) : 0.0;
    store_double(args.dbias, c, before + sums[static_cast<std::size_t>(c)]);
  }
}

}  // namespace dino::reference
