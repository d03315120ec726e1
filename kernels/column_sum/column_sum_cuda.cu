#include "kernels/column_sum/column_sum.h"
#include "kernels/column_sum/column_sum_cuda.h"

namespace dino::cuda {
namespace {

template <typename T, int N>
struct Elements {
  const T* x;
  __device__ __forceinline__ void operator()(const ColumnPlace& place, float (&values)[N]) const {
    load(x + place.at, values);
  }
};

}  // namespace

void column_sum(const ColumnSum& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  check_column_sum(args);
  const ColumnBlocks blocks(args.x.extent(0), args.x.extent(1));
  auto* partial = static_cast<float*>(stream.scratch(blocks.partial_bytes()));
  visit_compute_type(args.x.dtype(), "column_sum", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(blocks.columns, args.x), [&](auto n) {
      sum_columns<n>(Elements<T, n>{args.x.as<T>()}, blocks, partial, args.y, args.mode, stream);
    });
  });
}

}  // namespace dino::cuda
