#include "kernels/gather_rows/gather_rows.h"

namespace dino {
namespace {

void check(const ConstArray& all, const ConstArray& rows, const ConstArray& some) {
  constexpr std::string_view kWhere = "gather_rows";
  require(all.shape().rank() == 2, kWhere, "x has shape (T, C); got {}", all.shape().to_string());
  require_array(rows, DType::int32, {rows.size()}, kWhere, "rows");
  require_array(some, all.dtype(), {rows.size(), all.extent(1)}, kWhere, "y");
}

}  // namespace

void check_gather_rows(const GatherRows& args) { check(args.x, args.rows, args.y); }

void check_gather_rows(const GatherRowsBackward& args) { check(args.dx, args.rows, args.dy); }

}  // namespace dino
