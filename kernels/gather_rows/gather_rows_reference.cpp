#include "kernels/gather_rows/gather_rows.h"

namespace dino::reference {

void gather_rows(const GatherRows& args) {
  const std::int64_t width = args.x.extent(1);
  for (std::int64_t r = 0; r < args.y.extent(0); ++r) {
    const std::int64_t row = args.rows.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < width; ++c) store_double(args.y, r * width + c, load_double(args.x, row * width + c));
  }
}

void gather_rows_backward(const GatherRowsBackward& args) {
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t width = args.dx.extent(1);
  if (args.mode == GradientMode::overwrite) {
    for (std::int64_t i = 0; i < args.dx.size(); ++i) store_double(args.dx, i, 0.0);
  }
  for (std::int64_t r = 0; r < args.dy.extent(0); ++r) {
    const std::int64_t row = args.rows.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < width; ++c) {
      store_double(args.dx, row * width + c,
                   load_double(args.dx, row * width + c) + load_double(args.dy, r * width + c));
    }
  }
}

}  // namespace dino::reference
