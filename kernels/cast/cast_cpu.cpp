#include "kernels/cast/cast.h"
#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cast/cast_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <typename From, typename To>
HWY_ATTR void cast_range(const From* x, To* y, std::size_t n) {
  const simd::HWY_NAMESPACE::FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) simd::HWY_NAMESPACE::store(d, simd::HWY_NAMESPACE::load(d, x + i), y + i);
  if (i < n) simd::HWY_NAMESPACE::store_tail(d, simd::HWY_NAMESPACE::load_tail(d, x + i, n - i), y + i, n - i);
}

void cast_all(const Cast& args) {
  visit_compute_type(args.x.dtype(), "cast", [&](auto from) {
    visit_compute_type(args.y.dtype(), "cast", [&](auto to) {
      const auto* x = args.x.as<decltype(from)>();
      auto* y = args.y.as<decltype(to)>();
      parallel_for(args.x.size(), 1 << 15, [&](std::int64_t begin, std::int64_t end) {
        cast_range(x + begin, y + begin, static_cast<std::size_t>(end - begin));
      });
    });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(cast_all);

void cast(const Cast& args, Stream&) {
  check_cast(args);
  HWY_DYNAMIC_DISPATCH(cast_all)(args);
}

}  // namespace dino::cpu
#endif
