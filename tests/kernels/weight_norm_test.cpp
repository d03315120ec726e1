#include "kernels/weight_norm/weight_norm.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

static void check_rows(Stream& stream);
TEST_CASE("weight_norm agrees with the oracle", "[device]") { every_stream(check_rows); }
static void check_rows(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{131, 33}, Shape{300, 256}}) {
      for (const int misalign : {0, 1}) {
        const HostArray v = random_normal(DType::float32, shape, 1, 0.04, 0.0, misalign);
        const HostArray g = random_normal(DType::float32, {shape[0], 1}, 2, 0.2, 1.0, misalign);
        const HostArray dw = random_normal(dtype, shape, 3, 1.0, 0.0, misalign);
        HostArray w(dtype, shape, misalign);
        HostArray expected(DType::float64, shape);
        weight_norm({.v = v, .g = g, .w = w}, stream);
        reference::weight_norm({.v = v, .g = g, .w = expected});
        check_close(w, expected, dtype == DType::float32 ? 1e-6 : 0x1p-8, "w");

        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          const bool accumulate = mode == GradientMode::accumulate;
          HostArray dv = accumulate ? random_normal(DType::float32, shape, 4, 1.0, 0.0, misalign)
                                    : HostArray(DType::float32, shape, misalign);
          HostArray dg =
              accumulate ? random_normal(DType::float32, g.shape(), 5) : HostArray(DType::float32, g.shape());
          HostArray expected_dv = dv.to(DType::float64);
          HostArray expected_dg = dg.to(DType::float64);
          weight_norm_backward({.v = v, .g = g, .dw = dw, .dv = dv, .dg = dg, .dv_mode = mode, .dg_mode = mode},
                               stream);
          reference::weight_norm_backward(
              {.v = v, .g = g, .dw = dw, .dv = expected_dv, .dg = expected_dg, .dv_mode = mode, .dg_mode = mode});
          check_close(dg, expected_dg, 2e-6, "dg");
          if (shape[1] == 1) continue;  // dv is zero up to the rounding of what cancels
          check_close(dv, expected_dv, 2e-6, "dv");

          // Each gradient alone.
          HostArray only_v(DType::float32, shape);
          HostArray only_g(DType::float32, g.shape());
          weight_norm_backward({.v = v, .g = g, .dw = dw, .dv = only_v, .dg = {}, .dv_mode = GradientMode::overwrite},
                               stream);
          weight_norm_backward({.v = v, .g = g, .dw = dw, .dv = {}, .dg = only_g, .dg_mode = GradientMode::overwrite},
                               stream);
          if (!accumulate) {
            check_close(only_v, dv, 0.0, "dv alone");
            check_close(only_g, dg, 0.0, "dg alone");
          }
        }
      }
    }
  }
}

TEST_CASE("the oracle of weight_norm has the right gradient") {
  const Shape shape{5, 4};
  const HostArray v = random_normal(DType::float64, shape, 1);
  const HostArray g = random_normal(DType::float64, {5, 1}, 2, 0.3, 1.0);
  const HostArray dw = random_normal(DType::float64, shape, 3);
  HostArray dv(DType::float64, shape);
  HostArray dg(DType::float64, {5, 1});
  reference::weight_norm_backward({.v = v,
                                   .g = g,
                                   .dw = dw,
                                   .dv = dv,
                                   .dg = dg,
                                   .dv_mode = GradientMode::overwrite,
                                   .dg_mode = GradientMode::overwrite});
  const auto loss = [&] {
    HostArray w(DType::float64, shape);
    reference::weight_norm({.v = v, .g = g, .w = w});
    double sum = 0;
    for (std::int64_t i = 0; i < w.size(); ++i) sum += w.at(i) * dw.at(i);
    return sum;
  };
  check_gradient(loss, v, dv, 1e-8, "dv");
  check_gradient(loss, g, dg, 1e-8, "dg");
}
