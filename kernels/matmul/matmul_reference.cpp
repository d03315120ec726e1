#include "kernels/matmul/matmul.h"

#include <cmath>
#include <numbers>

namespace dino::reference {

void matmul(const Matmul& args) {
  const auto [m, n, k] = checked_size(args);
  if (args.mode == GradientMode::ignore) return;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = args.bias ? load_double(args.bias, j) : 0.0;
      for (std::int64_t l = 0; l < k; ++l) {
        sum += load_double(args.a, args.transpose_a ? l * m + i : i * k + l) *
               load_double(args.b, args.transpose_b ? j * k + l : l * n + j);
      }
      const std::int64_t at = i * n + j;
      if (args.preactivation) store_double(args.preactivation, at, sum);
      if (args.gelu) sum = 0.5 * sum * (1.0 + std::erf(sum / std::numbers::sqrt2));
      if (args.mode == GradientMode::accumulate) sum += load_double(args.y, at);
      store_double(args.y, at, sum);
    }
  }
}

}  // namespace dino::reference
