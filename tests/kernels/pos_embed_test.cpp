#include "kernels/pos_embed/pos_embed.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

struct Grid {
  std::int64_t side, rows, columns, width;
};

}  // namespace

static void check_resize(Stream& stream);
TEST_CASE("resize_pos_embed agrees with the oracle", "[device]") { every_stream(check_resize); }
static void check_resize(Stream& stream) {
  // One position, down, up, other shapes, and DINO's: 14 × 14 at 6 × 6, 30 × 30, 60 × 60 and 28 × 28.
  for (const Grid& grid : {Grid{1, 1, 1, 1}, Grid{1, 3, 2, 5}, Grid{3, 2, 5, 7}, Grid{4, 4, 4, 9}, Grid{14, 6, 6, 384},
                           Grid{14, 30, 30, 33}, Grid{28, 12, 12, 17}, Grid{14, 20, 31, 8}}) {
    const Shape from{1 + grid.side * grid.side, grid.width};
    const Shape to{1 + grid.rows * grid.columns, grid.width};
    for (const int misalign : {0, 1}) {
      const HostArray positions = random_normal(DType::float32, from, 1, 0.02, 0.0, misalign);
      HostArray resized(DType::float32, to, misalign);
      HostArray expected(DType::float64, to);
      resize_pos_embed({.positions = positions, .resized = resized, .rows = grid.rows, .columns = grid.columns},
                       stream);
      reference::resize_pos_embed(
          {.positions = positions, .resized = expected, .rows = grid.rows, .columns = grid.columns});
      check_close(resized, expected, 1e-6, "resized");

      for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
        HostArray d = mode == GradientMode::accumulate ? random_normal(DType::float32, from, 2, 0.02, 0.0, misalign)
                                                       : HostArray(DType::float32, from, misalign);
        HostArray expected_d = d.to(DType::float64);
        ResizePosEmbedBackward args{
            .d_resized = resized, .d_positions = d, .rows = grid.rows, .columns = grid.columns, .mode = mode};
        resize_pos_embed_backward(args, stream);
        args.d_positions = expected_d;
        reference::resize_pos_embed_backward(args);
        check_close(d, expected_d, 1e-6, "d_positions");
      }
    }
  }
}

TEST_CASE("the oracle of resize_pos_embed has the right gradient") {
  const Shape from{10, 2};
  const Shape to{9, 2};
  const HostArray positions = random_normal(DType::float64, from, 1);
  const HostArray d_resized = random_normal(DType::float64, to, 2);
  HostArray d_positions(DType::float64, from);
  reference::resize_pos_embed_backward(
      {.d_resized = d_resized, .d_positions = d_positions, .rows = 2, .columns = 4, .mode = GradientMode::overwrite});
  const auto loss = [&] {
    HostArray resized(DType::float64, to);
    reference::resize_pos_embed({.positions = positions, .resized = resized, .rows = 2, .columns = 4});
    double sum = 0;
    for (std::int64_t i = 0; i < resized.size(); ++i) sum += resized.at(i) * d_resized.at(i);
    return sum;
  };
  check_gradient(loss, positions, d_positions, 1e-8, "d_positions");
}

static void check_scale_factor(Stream& stream);
TEST_CASE("resize_pos_embed moves the coordinates by the scale factor", "[device]") {
  every_stream(check_scale_factor);
}
static void check_scale_factor(Stream& stream) {
  // A ramp along x: the output follows from its four taps alone, which lie around (i + 0.5) · 12 / 3.1 - 0.5 and not
  // around (i + 0.5) · 12 / 3 - 0.5.
  const std::int64_t side = 12;
  HostArray positions(DType::float32, {1 + side * side, 1});
  positions.set(0, -7);
  for (std::int64_t i = 0; i < side * side; ++i) positions.set(1 + i, static_cast<double>(i % side));
  HostArray resized(DType::float32, {10, 1});
  resize_pos_embed({.positions = positions, .resized = resized, .rows = 3, .columns = 3}, stream);
  CHECK(resized.at(0) == -7);
  const double at = 1.5 * 12 / 3.1 - 0.5;
  const double low = std::floor(at);
  const double t = at - low;
  const double s = 1 - t;
  const double a = -0.75;
  const double expected = a * t * s * s * (low - 1) + ((a + 2) * t * t * t - (a + 3) * t * t + 1) * low +
                          ((a + 2) * s * s * s - (a + 3) * s * s + 1) * (low + 1) + a * t * t * s * (low + 2);
  CHECK(std::abs(resized.at(2) - expected) <= 1e-5);
}

TEST_CASE("resize_pos_embed refuses a grid that is not square") {
  const auto stream = make_cpu_stream();
  const HostArray positions = random_normal(DType::float32, {1 + 12, 2}, 1);
  HostArray resized(DType::float32, {5, 2});
  CHECK_THROWS_AS(resize_pos_embed({.positions = positions, .resized = resized, .rows = 2, .columns = 2}, *stream),
                  Error);
}
