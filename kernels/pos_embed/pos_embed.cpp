#include "kernels/pos_embed/pos_embed.h"

#include <cmath>

namespace dino {
namespace {

std::int64_t check(std::int64_t rows, std::int64_t columns, const ConstArray& positions, const ConstArray& resized) {
  constexpr std::string_view kWhere = "resize_pos_embed";
  require(positions.shape().rank() == 2 && positions.extent(0) >= 2, kWhere,
          "positions have shape (1 + M·M, C); got {}", positions.shape().to_string());
  const std::int64_t side = std::llround(std::sqrt(static_cast<double>(positions.extent(0) - 1)));
  require(side * side + 1 == positions.extent(0), kWhere, "positions have 1 + M·M rows; got {}",
          positions.shape().to_string());
  require(rows >= 1 && columns >= 1, kWhere, "the new grid has at least one row and column; got {} x {}", rows,
          columns);
  require_array(positions, DType::float32, positions.shape(), kWhere, "positions");
  require_array(resized, DType::float32, {1 + rows * columns, positions.extent(1)}, kWhere, "resized");
  return side;
}

}  // namespace

std::int64_t check_pos_embed(const ResizePosEmbed& args) {
  return check(args.rows, args.columns, args.positions, args.resized);
}

std::int64_t check_pos_embed(const ResizePosEmbedBackward& args) {
  return check(args.rows, args.columns, args.d_positions, args.d_resized);
}

}  // namespace dino
