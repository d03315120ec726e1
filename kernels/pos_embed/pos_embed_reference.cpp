#include "kernels/pos_embed/pos_embed.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace dino::reference {
namespace {

// Keys' cubic convolution kernel (IEEE ASSP 29, 1981), a = -0.75.
double cubic(double t) {
  constexpr double kA = -0.75;
  t = std::abs(t);
  if (t < 1) return (kA + 2) * t * t * t - (kA + 3) * t * t + 1;
  if (t < 2) return kA * t * t * t - 5 * kA * t * t + 8 * kA * t - 4 * kA;
  return 0;
}

std::int64_t side_of(const ConstArray& positions) {
  return std::llround(std::sqrt(static_cast<double>(positions.extent(0) - 1)));
}

// Calls visit(output row, source row, weight) for every tap.
void for_each_tap(std::int64_t side, std::int64_t rows, std::int64_t columns,
                  const std::function<void(std::int64_t, std::int64_t, double)>& visit) {
  const double row_scale = (static_cast<double>(rows) + 0.1) / static_cast<double>(side);
  const double column_scale = (static_cast<double>(columns) + 0.1) / static_cast<double>(side);
  for (std::int64_t y = 0; y < rows; ++y) {
    for (std::int64_t x = 0; x < columns; ++x) {
      const double at_y = (static_cast<double>(y) + 0.5) / row_scale - 0.5;
      const double at_x = (static_cast<double>(x) + 0.5) / column_scale - 0.5;
      for (double v = std::floor(at_y) - 1; v <= std::floor(at_y) + 2; ++v) {
        for (double u = std::floor(at_x) - 1; u <= std::floor(at_x) + 2; ++u) {
          const auto source_y = std::clamp<std::int64_t>(static_cast<std::int64_t>(v), 0, side - 1);
          const auto source_x = std::clamp<std::int64_t>(static_cast<std::int64_t>(u), 0, side - 1);
          visit(1 + y * columns + x, 1 + source_y * side + source_x, cubic(at_y - v) * cubic(at_x - u));
        }
      }
    }
  }
}

}  // namespace

void resize_pos_embed(const ResizePosEmbed& args) {
  const std::int64_t width = args.positions.extent(1);
  for (std::int64_t c = 0; c < width; ++c) {
    std::vector<double> sum(static_cast<std::size_t>(args.resized.extent(0)), 0.0);
    sum[0] = load_double(args.positions, c);
    for_each_tap(side_of(args.positions), args.rows, args.columns,
                 [&](std::int64_t to, std::int64_t from, double weight) {
                   sum[static_cast<std::size_t>(to)] += weight * load_double(args.positions, from * width + c);
                 });
    for (std::size_t n = 0; n < sum.size(); ++n)
      store_double(args.resized, static_cast<std::int64_t>(n) * width + c, sum[n]);
  }
}

void resize_pos_embed_backward(const ResizePosEmbedBackward& args) {
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t width = args.d_positions.extent(1);
  for (std::int64_t c = 0; c < width; ++c) {
    std::vector<double> sum(static_cast<std::size_t>(args.d_positions.extent(0)), 0.0);
    sum[0] = load_double(args.d_resized, c);
    for_each_tap(side_of(args.d_positions), args.rows, args.columns,
                 [&](std::int64_t to, std::int64_t from, double weight) {
                   sum[static_cast<std::size_t>(from)] += weight * load_double(args.d_resized, to * width + c);
                 });
    for (std::size_t n = 0; n < sum.size(); ++n) {
      const std::int64_t i = static_cast<std::int64_t>(n) * width + c;
      store_double(args.d_positions, i,
                   sum[n] + (args.mode == GradientMode::accumulate ? load_double(args.d_positions, i) : 0.0));
    }
  }
}

}  // namespace dino::reference
