#include "kernels/batch_norm/batch_norm.h"

#include <algorithm>
#include <cmath>

namespace dino::reference {
namespace {

double column_sum(const ConstArray& x, std::int64_t c, const auto& function) {
  double sum = 0;
  for (std::int64_t r = 0; r < x.extent(0); ++r) sum += function(r * x.extent(1) + c);
  return sum;
}

void put(const Array& array, std::int64_t i, double value, GradientMode mode) {
  if (mode == GradientMode::ignore) return;
  store_double(array, i, mode == GradientMode::accumulate ? load_double(array, i) + value : value);
}

}  // namespace

void batch_norm_sums(const BatchNormSums& args) {
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t c = 0; c < width; ++c) {
    store_double(args.sums, c, column_sum(args.x, c, [&](std::int64_t i) { return load_double(args.x, i); }));
  }
  store_double(args.sums, width, static_cast<double>(args.x.extent(0)));
}

void batch_norm_squares(const BatchNormSquares& args) {
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t c = 0; c < width; ++c) {
    const double mean = load_double(args.sums, c) / load_double(args.sums, width);
    const auto square = [&](std::int64_t i) { return std::pow(load_double(args.x, i) - mean, 2); };
    store_double(args.squares, c, column_sum(args.x, c, square));
  }
}

void batch_norm_forward(const BatchNormForward& args) {
  const std::int64_t width = args.x.extent(1);
  const double count = load_double(args.sums, width);
  for (std::int64_t c = 0; c < width; ++c) {
    const double mean = load_double(args.sums, c) / count;
    const double inverse_std = 1 / std::sqrt(load_double(args.squares, c) / count + args.eps);
    store_double(args.mean, c, mean);
    store_double(args.inverse_std, c, inverse_std);
    if (args.statistics) {
      store_double(args.statistics, c, mean);
      store_double(args.statistics, width + c, load_double(args.squares, c) / std::max(count - 1, 1.0));
    }
    for (std::int64_t i = c; i < args.x.size(); i += width) {
      const double normalized = (load_double(args.x, i) - mean) * inverse_std;
      store_double(args.y, i, load_double(args.gamma, c) * normalized + load_double(args.beta, c));
    }
  }
}

void batch_norm_backward_sums(const BatchNormBackwardSums& args) {
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t c = 0; c < width; ++c) {
    const double mean = load_double(args.mean, c);
    const double inverse_std = load_double(args.inverse_std, c);
    const double d_beta = column_sum(args.x, c, [&](std::int64_t i) { return load_double(args.dy, i); });
    const double d_gamma = column_sum(args.x, c, [&](std::int64_t i) {
      return load_double(args.dy, i) * (load_double(args.x, i) - mean) * inverse_std;
    });
    store_double(args.sums, c, d_beta);
    store_double(args.sums, width + c, d_gamma);
    put(args.d_beta, c, d_beta, args.beta_mode);
    put(args.d_gamma, c, d_gamma, args.gamma_mode);
  }
}

void batch_norm_backward(const BatchNormBackward& args) {
  const std::int64_t width = args.x.extent(1);
  const double count = load_double(args.forward_sums, width);
  for (std::int64_t c = 0; c < width; ++c) {
    const double inverse_std = load_double(args.inverse_std, c);
    for (std::int64_t i = c; i < args.x.size(); i += width) {
      const double normalized = (load_double(args.x, i) - load_double(args.mean, c)) * inverse_std;
      const double through = (load_double(args.sums, c) + normalized * load_double(args.sums, width + c)) / count;
      put(args.dx, i, load_double(args.gamma, c) * inverse_std * (load_double(args.dy, i) - through), args.mode);
    }
  }
}

}  // namespace dino::reference
