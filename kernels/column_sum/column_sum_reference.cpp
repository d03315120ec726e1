#include "kernels/column_sum/column_sum.h"

namespace dino::reference {

void column_sum(const ColumnSum& args) {
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t columns = args.x.extent(1);
  for (std::int64_t c = 0; c < columns; ++c) {
    double sum = args.mode == GradientMode::accumulate ? load_double(args.y, c) : 0.0;
    for (std::int64_t r = 0; r < args.x.extent(0); ++r) sum += load_double(args.x, r * columns + c);
    store_double(args.y, c, sum);
  }
}

}  // namespace dino::reference
