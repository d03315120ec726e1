#include "kernels/common/parallel.h"
#include "kernels/pos_embed/pos_embed.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/pos_embed/pos_embed_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

#ifndef DINO_POS_EMBED_COMMON
#define DINO_POS_EMBED_COMMON
namespace dino::cpu {

// One axis of the resize as a dense matrix (outputs, M), row-major: small, and its transpose is as easy to walk. Taps
// beyond the border fall onto it.
struct Axis {
  const float* weights;
  std::int64_t outputs;
  std::int64_t side;  // M

  float operator()(std::int64_t output, std::int64_t source) const { return weights[output * side + source]; }
};

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

// sum += weight · x
HWY_ATTR void add_scaled(float weight, const float* x, std::size_t n, float* sum) {
  const simd::FloatTag d;
  const auto w = hn::Set(d, weight);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto old = simd::load_up_to(d, sum + i, n - i);
    simd::store_up_to(d, hn::MulAdd(w, simd::load_up_to(d, x + i, n - i), old), sum + i, n - i);
  }
}

void resize_rows(const ResizePosEmbed& args, const Axis& vertical, const Axis& horizontal) {
  const std::int64_t width = args.positions.extent(1), side = vertical.side;
  const auto* positions = args.positions.as<float>();
  auto* resized = args.resized.as<float>();
  std::copy_n(positions, width, resized);
  parallel_for(args.rows * args.columns, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t output = begin; output < end; ++output) {
      const std::int64_t y = output / args.columns, x = output % args.columns;
      float* row = resized + (1 + output) * width;
      std::fill_n(row, width, 0.0F);
      for (std::int64_t v = 0; v < side; ++v) {
        if (vertical(y, v) == 0) continue;
        for (std::int64_t u = 0; u < side; ++u) {
          const float weight = vertical(y, v) * horizontal(x, u);
          if (weight != 0)
            add_scaled(weight, positions + (1 + v * side + u) * width, static_cast<std::size_t>(width), row);
        }
      }
    }
  });
}

void resize_backward_rows(const ResizePosEmbedBackward& args, const Axis& vertical, const Axis& horizontal) {
  const std::int64_t width = args.d_positions.extent(1), side = vertical.side;
  const auto* d_resized = args.d_resized.as<float>();
  auto* d_positions = args.d_positions.as<float>();
  const bool overwrite = args.mode == GradientMode::overwrite;
  if (overwrite) std::fill_n(d_positions, width, 0.0F);
  add_scaled(1.0F, d_resized, static_cast<std::size_t>(width), d_positions);
  parallel_for(side * side, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t source = begin; source < end; ++source) {
      const std::int64_t v = source / side, u = source % side;
      float* row = d_positions + (1 + source) * width;
      if (overwrite) std::fill_n(row, width, 0.0F);
      for (std::int64_t y = 0; y < args.rows; ++y) {
        if (vertical(y, v) == 0) continue;
        for (std::int64_t x = 0; x < args.columns; ++x) {
          const float weight = vertical(y, v) * horizontal(x, u);
          if (weight != 0)
            add_scaled(weight, d_resized + (1 + y * args.columns + x) * width, static_cast<std::size_t>(width), row);
        }
      }
    }
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(resize_rows);
HWY_EXPORT(resize_backward_rows);

namespace {

Axis make_axis(std::int64_t outputs, std::int64_t side, float* weights) {
  constexpr double kA = -0.75;
  std::fill_n(weights, outputs * side, 0.0F);
  const double step = static_cast<double>(side) / (static_cast<double>(outputs) + 0.1);
  for (std::int64_t i = 0; i < outputs; ++i) {
    const double at = step * (static_cast<double>(i) + 0.5) - 0.5;
    const double t = at - std::floor(at);  // distance to the second of four taps
    const double s = 1 - t;
    const double taps[4] = {kA * t * s * s, ((kA + 2) * t - (kA + 3)) * t * t + 1,
                            ((kA + 2) * s - (kA + 3)) * s * s + 1, kA * s * t * t};
    for (std::int64_t k = 0; k < 4; ++k) {
      const std::int64_t source =
          std::clamp<std::int64_t>(static_cast<std::int64_t>(std::floor(at)) - 1 + k, 0, side - 1);
      weights[i * side + source] += static_cast<float>(taps[k]);
    }
  }
  return {weights, outputs, side};
}

struct Axes {
  Axis vertical, horizontal;
};

Axes make_axes(std::int64_t rows, std::int64_t columns, std::int64_t side, Stream& stream) {
  auto* weights =
      static_cast<float*>(stream.scratch(static_cast<std::size_t>((rows + columns) * side) * sizeof(float)));
  return {make_axis(rows, side, weights), make_axis(columns, side, weights + rows * side)};
}

}  // namespace

void resize_pos_embed(const ResizePosEmbed& args, Stream& stream) {
  const Axes axes = make_axes(args.rows, args.columns, check_pos_embed(args), stream);
  HWY_DYNAMIC_DISPATCH(resize_rows)(args, axes.vertical, axes.horizontal);
}

void resize_pos_embed_backward(const ResizePosEmbedBackward& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  const Axes axes = make_axes(args.rows, args.columns, check_pos_embed(args), stream);
  HWY_DYNAMIC_DISPATCH(resize_backward_rows)(args, axes.vertical, axes.horizontal);
}

}  // namespace dino::cpu
#endif
