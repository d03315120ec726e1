#include "kernels/column_sum/column_sum.h"

namespace dino {

void check_column_sum(const ColumnSum& args) {
  require(args.x.shape().rank() == 2 && args.x.size() > 0, "column_sum", "x must be a matrix that is not empty; got {}",
          args.x.shape().to_string());
  require_array(args.y, DType::float32, Shape{args.x.extent(1)}, "column_sum", "y");
}

}  // namespace dino
