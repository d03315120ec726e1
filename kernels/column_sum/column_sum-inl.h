// Sums over rows for Highway kernels. Included once per instruction set, after hwy/foreach_target.h and hwy/highway.h.
#if defined(DINO_KERNELS_COLUMN_SUM_COLUMN_SUM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DINO_KERNELS_COLUMN_SUM_COLUMN_SUM_INL_H_
#undef DINO_KERNELS_COLUMN_SUM_COLUMN_SUM_INL_H_
#else
#define DINO_KERNELS_COLUMN_SUM_COLUMN_SUM_INL_H_
#endif

#include "kernels/common/gradient_mode.h"
#include "kernels/common/parallel.h"
#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::simd::HWY_NAMESPACE {

/// sums[i] += x[i]
template <typename T>
HWY_INLINE void add_row(const T* HWY_RESTRICT x, float* HWY_RESTRICT sums, std::size_t n) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, sums + i), load(d, x + i)), d, sums + i);
  if (i < n) store_tail(d, hn::Add(load_tail(d, sums + i, n - i), load_tail(d, x + i, n - i)), sums + i, n - i);
}

/// y = (accumulate: y +) the sum of the `blocks` rows of `partial` (blocks, columns), added in their order.
inline void sum_blocks(const float* partial, std::int64_t blocks, std::int64_t columns, float* y, GradientMode mode) {
  parallel_for(columns, 1 << 10, [=](std::int64_t begin, std::int64_t end) {
    const auto n = static_cast<std::size_t>(end - begin);
    const float* first = partial + begin;
    std::int64_t block = 0;
    if (mode == GradientMode::overwrite) {
      std::copy_n(first, n, y + begin);
      block = 1;
    }
    for (; block < blocks; ++block) add_row(first + block * columns, y + begin, n);
  });
}

}  // namespace dino::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
