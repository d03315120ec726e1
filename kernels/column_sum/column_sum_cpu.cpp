#include "kernels/column_sum/column_sum.h"
#include "kernels/column_sum/row_blocks.h"
#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/column_sum/column_sum_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/column_sum/column_sum-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

template <typename T>
void sum_columns(const ColumnSum& args, float* partial) {
  const RowBlocks blocks(args.x.extent(0));
  const std::int64_t columns = args.x.extent(1);
  const T* x = args.x.as<T>();
  parallel_for(blocks.count, std::max<std::int64_t>(1, (1 << 15) / (blocks.height * columns)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t block = begin; block < end; ++block) {
                   float* sums = partial + block * columns;
                   std::fill_n(sums, columns, 0.0F);
                   for (std::int64_t row = blocks.begin(block); row < blocks.end(block); ++row) {
                     simd::HWY_NAMESPACE::add_row(x + row * columns, sums, static_cast<std::size_t>(columns));
                   }
                 }
               });
  simd::HWY_NAMESPACE::sum_blocks(partial, blocks.count, columns, args.y.as<float>(), args.mode);
}

void sum_columns_any(const ColumnSum& args, float* partial) {
  visit_compute_type(args.x.dtype(), "column_sum", [&](auto t) { sum_columns<decltype(t)>(args, partial); });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(sum_columns_any);

void column_sum(const ColumnSum& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  check_column_sum(args);
  const RowBlocks blocks(args.x.extent(0));
  auto* partial =
      static_cast<float*>(stream.scratch(static_cast<std::size_t>(blocks.count * args.x.extent(1)) * sizeof(float)));
  HWY_DYNAMIC_DISPATCH(sum_columns_any)(args, partial);
}

}  // namespace dino::cpu
#endif
