#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/pos_embed/pos_embed.h"

namespace dino::bench::textbook {

/// Keys' cubic kernel, a = -0.75.
DINO_STEP inline double cubic(double t) {
  constexpr double kA = -0.75;
  t = std::fabs(t);
  if (t < 1) return ((kA + 2) * t - (kA + 3)) * t * t + 1;
  return t < 2 ? ((kA * t - 5 * kA) * t + 8 * kA) * t - 4 * kA : 0;
}

/// weights (outputs, side) of a resize along one axis: what falls outside of the grid counts for its border.
template <typename On>
void resize_weights(const On& on, std::int64_t outputs, std::int64_t side, float* weights) {
  const double scale = (static_cast<double>(outputs) + 0.1) / static_cast<double>(side);
  on.for_each(outputs * side, [=] DINO_STEP(std::int64_t i) {
    const std::int64_t output = i / side, source = i % side;
    const double at = (static_cast<double>(output) + 0.5) / scale - 0.5;
    double sum = 0;
    for (std::int64_t tap = -2; tap < side + 2; ++tap) {
      const std::int64_t seen = tap < 0 ? 0 : tap < side ? tap : side - 1;
      if (seen == source) sum += cubic(at - static_cast<double>(tap));
    }
    weights[i] = static_cast<float>(sum);
  });
}

/// Along each axis a product with the matrix of its weights; the first row is copied.
struct ResizePosEmbedSteps {
  ResizePosEmbed args;
  Array vertical, horizontal;  // (rows, M) and (columns, M) fp32
  Array between;               // (rows · M, C) fp32

  [[gnu::weak]] static Call on_gpu(const ResizePosEmbedSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    const std::int64_t columns = args.columns, side = vertical.extent(1), width = args.resized.extent(1);
    const auto* positions = args.positions.as<float>();
    float *wy = vertical.as<float>(), *wx = horizontal.as<float>(), *middle = between.as<float>();
    float* resized = args.resized.as<float>();
    resize_weights(on, args.rows, side, wy);
    resize_weights(on, columns, side, wx);
    on.for_each(width, [=] DINO_STEP(std::int64_t c) { resized[c] = positions[c]; });
    on.for_rows(args.rows * side, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t y = r / side, x = r % side;
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t v = 0; v < side; ++v) sum += wy[y * side + v] * positions[(1 + v * side + x) * width + c];
        middle[r * width + c] = sum;
      });
    });
    on.for_rows(args.rows * columns, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t y = r / columns, x = r % columns;
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t u = 0; u < side; ++u) sum += wx[x * side + u] * middle[(y * side + u) * width + c];
        resized[(1 + r) * width + c] = sum;
      });
    });
  }
};

/// The same with the matrices' transposes, the other way round.
struct ResizePosEmbedBackwardSteps {
  ResizePosEmbedBackward args;
  Array vertical, horizontal;  // (rows, M) and (columns, M) fp32
  Array between;               // (rows · M, C) fp32

  [[gnu::weak]] static Call on_gpu(const ResizePosEmbedBackwardSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.rows, columns = args.columns, side = vertical.extent(1);
    const std::int64_t width = args.d_positions.extent(1);
    const auto* d_resized = args.d_resized.as<float>();
    float *wy = vertical.as<float>(), *wx = horizontal.as<float>(), *middle = between.as<float>();
    float* d_positions = args.d_positions.as<float>();
    resize_weights(on, rows, side, wy);
    resize_weights(on, columns, side, wx);
    on.for_each(width, [=] DINO_STEP(std::int64_t c) { d_positions[c] = d_resized[c]; });
    on.for_rows(rows * side, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t y = r / side, u = r % side;
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t x = 0; x < columns; ++x)
          sum += wx[x * side + u] * d_resized[(1 + y * columns + x) * width + c];
        middle[r * width + c] = sum;
      });
    });
    on.for_rows(side * side, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t v = r / side, u = r % side;
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t y = 0; y < rows; ++y) sum += wy[y * side + v] * middle[(y * side + u) * width + c];
        d_positions[(1 + r) * width + c] = sum;
      });
    });
  }
};

}  // namespace dino::bench::textbook
