#include "kernels/weight_norm/weight_norm.h"

#include <cmath>

namespace dino::reference {
namespace {

double norm_of_row(const ConstArray& v, std::int64_t row) {
  double square = 0;
  for (std::int64_t c = 0; c < v.extent(1); ++c) {
    const double value = load_double(v, row * v.extent(1) + c);
    square += value * value;
  }
  return std::sqrt(square);
}

void put(const Array& array, std::int64_t i, double value, GradientMode mode) {
  if (mode == GradientMode::ignore) return;
  store_double(array, i, mode == GradientMode::accumulate ? load_double(array, i) + value : value);
}

}  // namespace

void weight_norm(const WeightNorm& args) {
  const std::int64_t width = args.v.extent(1);
  for (std::int64_t k = 0; k < args.v.extent(0); ++k) {
    const double norm = norm_of_row(args.v, k);
    for (std::int64_t c = 0; c < width; ++c) {
      store_double(args.w, k * width + c, load_double(args.g, k) * load_double(args.v, k * width + c) / norm);
    }
  }
}

void weight_norm_backward(const WeightNormBackward& args) {
  const std::int64_t width = args.v.extent(1);
  for (std::int64_t k = 0; k < args.v.extent(0); ++k) {
    const double norm = norm_of_row(args.v, k);
    double dg = 0;
    for (std::int64_t c = 0; c < width; ++c)
      dg += load_double(args.dw, k * width + c) * load_double(args.v, k * width + c) / norm;
    put(args.dg, k, dg, args.dg_mode);
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t i = k * width + c;
      const double direction = load_double(args.v, i) / norm;
      put(args.dv, i, load_double(args.g, k) / norm * (load_double(args.dw, i) - direction * dg), args.dv_mode);
    }
  }
}

}  // namespace dino::reference
