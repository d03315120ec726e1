#include "kernels/layer_norm/layer_norm.h"

#include <cmath>
#include <vector>

namespace dino::reference {
namespace {

void put(const Array& gradient, GradientMode mode, std::int64_t i, double value) {
  if (mode == GradientMode::ignore) return;
  store_double(gradient, i, mode == GradientMode::accumulate ? load_double(gradient, i) + value : value);
}

double scale_of_row(const ConstArray& branch_scale, const ConstArray& row_sequence, std::int64_t row) {
  return branch_scale ? load_double(branch_scale, row_sequence.as<std::int32_t>()[row]) : 1.0;
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args) {
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t t = 0; t < rows; ++t) {
    ConstArray x = args.x;
    if (args.branch) {
      const double scale = scale_of_row(args.branch_scale, args.row_sequence, t);
      for (std::int64_t c = 0; c < width; ++c) {
        const std::int64_t i = t * width + c;
        store_double(args.sum, i, load_double(args.x, i) + scale * load_double(args.branch, i));
      }
      x = args.sum;
    }
    double mean = 0;
    for (std::int64_t c = 0; c < width; ++c) mean += load_double(x, t * width + c) / static_cast<double>(width);
    double variance = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double centred = load_double(x, t * width + c) - mean;
      variance += centred * centred / static_cast<double>(width);
    }
    const double rstd = 1.0 / std::sqrt(variance + args.eps);
    for (std::int64_t c = 0; c < width; ++c) {
      const double normal = (load_double(x, t * width + c) - mean) * rstd;
      store_double(args.normalized, t * width + c, normal * load_double(args.gamma, c) + load_double(args.beta, c));
    }
    if (args.mean) store_double(args.mean, t, mean);
    if (args.rstd) store_double(args.rstd, t, rstd);
  }
}

void layer_norm_backward(const LayerNormBackward& args) {
  const std::int64_t rows = args.sum.extent(0);
  const std::int64_t width = args.sum.extent(1);
  std::vector<double> dgamma(static_cast<std::size_t>(width));
  std::vector<double> dbeta(static_cast<std::size_t>(width));
  for (std::int64_t t = 0; t < rows; ++t) {
    const double mean = load_double(args.mean, t);
    const double rstd = load_double(args.rstd, t);
    const double scale = scale_of_row(args.branch_scale, args.row_sequence, t);
    const auto normal = [&](std::int64_t c) { return (load_double(args.sum, t * width + c) - mean) * rstd; };
    const auto dy = [&](std::int64_t c) {
      return args.d_normalized ? load_double(args.d_normalized, t * width + c) : 0.0;
    };
    const auto g = [&](std::int64_t c) { return dy(c) * load_double(args.gamma, c); };
    double mean_g = 0;
    double mean_gn = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      mean_g += g(c) / static_cast<double>(width);
      mean_gn += g(c) * normal(c) / static_cast<double>(width);
      dgamma[static_cast<std::size_t>(c)] += dy(c) * normal(c);
      dbeta[static_cast<std::size_t>(c)] += dy(c);
    }
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t i = t * width + c;
      const double total =
          rstd * (g(c) - mean_g - normal(c) * mean_gn) + (args.d_sum ? load_double(args.d_sum, i) : 0.0);
      put(args.dx, args.dx_mode, i, total);
      put(args.d_branch, args.d_branch_mode, i, scale * total);
    }
  }
  for (std::int64_t c = 0; c < width; ++c) {
    put(args.dgamma, args.dgamma_mode, c, dgamma[static_cast<std::size_t>(c)]);
    put(args.dbeta, args.dbeta_mode, c, dbeta[static_cast<std::size_t>(c)]);
  }
}

}  // namespace dino::reference
