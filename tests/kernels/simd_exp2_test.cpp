#include "tests/support/catch.h"

#include <cmath>
#include <limits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/simd_exp2_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd_exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::test::HWY_NAMESPACE {

/// y = 2^x; n is a multiple of every vector's length.
void exp2_all(const float* x, float* y, std::size_t n) {
  const simd::HWY_NAMESPACE::FloatTag d;
  for (std::size_t i = 0; i < n; i += hwy::HWY_NAMESPACE::Lanes(d)) {
    simd::HWY_NAMESPACE::store(d, simd::HWY_NAMESPACE::exp2(d, simd::HWY_NAMESPACE::load(d, x + i)), y + i);
  }
}

}  // namespace dino::test::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::test {

HWY_EXPORT(exp2_all);

TEST_CASE("2^x is accurate to 2e-7 wherever the result is a normal number") {
  constexpr std::size_t kCount = 1 << 18;
  std::vector<float> x(kCount), y(kCount);
  for (std::size_t i = 0; i < kCount; ++i) x[i] = -126.0F + 253.5F * static_cast<float>(i) / static_cast<float>(kCount);
  HWY_DYNAMIC_DISPATCH(exp2_all)(x.data(), y.data(), kCount);
  double worst = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const double error = std::abs(static_cast<double>(y[i]) / std::exp2(static_cast<double>(x[i])) - 1);
    if (!(error <= worst)) worst = error;
  }
  CHECK(worst <= 2e-7);
}

TEST_CASE("2^x at the ends of its range") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(64, 0.0F), y(64);
  const float special[] = {
      0.0F, -126.0F, -126.01F, -1000.0F, -3e38F, -kInfinity, std::numeric_limits<float>::quiet_NaN(), 10.0F};
  std::copy(std::begin(special), std::end(special), x.begin());
  HWY_DYNAMIC_DISPATCH(exp2_all)(x.data(), y.data(), x.size());
  CHECK(y[0] == 1.0F);
  CHECK(y[1] == 0x1p-126F);
  for (const std::size_t i : {2, 3, 4, 5}) CHECK(y[i] == 0.0F);
  CHECK(std::isnan(y[6]));
  CHECK(y[7] == 1024.0F);
}

}  // namespace dino::test
#endif
