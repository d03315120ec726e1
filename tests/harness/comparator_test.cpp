#include "tests/support/catch.h"
#include "tests/support/host_array.h"

#include <cmath>
#include <cstring>
#include <limits>

using namespace dino;
using namespace dino::test;

// The comparator judges every kernel, so faults are planted here that it must not let pass.

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

bool near(double got, double expected) { return std::abs(got - expected) <= 1e-12 * expected; }

HostArray ramp(DType dtype) { return from_values(dtype, {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}); }

/// Writes where the address sanitizer, if the test has it, forbids it.
[[gnu::no_sanitize_address]] unsigned char exchange_unseen(unsigned char* byte, unsigned char value) {
  const unsigned char before = *byte;
  *byte = value;
  return before;
}

}  // namespace

TEST_CASE("equal arrays do not differ, whatever their types") {
  for (const DType a : {DType::float32, DType::bfloat16, DType::float64}) {
    for (const DType b : {DType::float32, DType::bfloat16, DType::float64}) {
      const Difference d = difference(ramp(a), ramp(b));
      CHECK(d.relative_norm == 0.0);
      CHECK(d.largest == 0.0);
    }
  }
}

TEST_CASE("one wrong element shows with its place and size") {
  for (std::int64_t i = 0; i < 8; ++i) {
    HostArray got = ramp(DType::float32);
    got.set(i, got.at(i) + 0.5);
    const Difference d = difference(got, ramp(DType::float32));
    CHECK(d.where == i);
    CHECK(near(d.largest, 0.5));
    CHECK(near(d.relative_norm, 0.5 / std::sqrt(204.0)));
  }
}

TEST_CASE("one value that is not finite makes every number infinite, on either side and at any place") {
  for (const double fault : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const std::int64_t i : {0, 3, 7}) {
      for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
        HostArray faulty = ramp(dtype);
        faulty.set(i, fault);
        for (const Difference& d :
             {difference(faulty, ramp(dtype)), difference(ramp(dtype), faulty), difference(faulty, faulty)}) {
          CHECK_FALSE(d.relative_norm <= 1e300);
          CHECK_FALSE(d.largest <= 1e300);
          CHECK(d.where == i);
        }
      }
    }
  }
}

TEST_CASE("arrays of different sizes differ infinitely, and so does an empty one from a full one") {
  const HostArray eight = ramp(DType::float32);
  const HostArray seven = from_values(DType::float32, {7}, {1, 2, 3, 4, 5, 6, 7});
  for (const Difference& d : {difference(eight, seven), difference(seven, eight), difference(eight, ConstArray()),
                              difference(ConstArray(), eight)}) {
    CHECK_FALSE(d.relative_norm <= 1e300);
    CHECK_FALSE(d.largest <= 1e300);
  }
}

TEST_CASE("a difference from zero is measured absolutely") {
  const HostArray zero = from_values(DType::float32, {2}, {0, 0});
  const HostArray small = from_values(DType::float32, {2}, {3, 4});
  CHECK(near(difference(small, zero).relative_norm, 5.0));
  CHECK(near(difference(zero, small).relative_norm, 1.0));
}

TEST_CASE("an array starts poisoned, so that an output which no kernel wrote shows") {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
    const HostArray unwritten(dtype, {5}, 1);
    for (std::int64_t i = 0; i < 5; ++i) CHECK(std::isnan(unwritten.at(i)));
    CHECK_FALSE(difference(unwritten, from_values(dtype, {5}, {0, 0, 0, 0, 0})).relative_norm <= 1e300);
  }
  const HostArray integers(DType::int32, {3});
  CHECK(integers.as<std::int32_t>()[2] == -1);
}

TEST_CASE("a write before or behind an array is noticed") {
  for (const int misalign : {0, 1, 3}) {
    for (const std::int64_t at : {-1, 6}) {
      HostArray array(DType::float32, {2, 3}, misalign);
      std::memset(array.as<float>(), 0, 6 * sizeof(float));
      CHECK(array.canaries_intact());
      auto* byte = reinterpret_cast<unsigned char*>(array.as<float>() + at) + (at < 0 ? 3 : 0);
      const unsigned char before = exchange_unseen(byte, 0);
      CHECK_FALSE(array.canaries_intact());
      exchange_unseen(byte, before);  // else the destructor reports it
    }
  }
}

TEST_CASE("misaligned arrays are misaligned") {
  const HostArray aligned(DType::float32, {4});
  const HostArray shifted(DType::float32, {4}, 1);
  CHECK(reinterpret_cast<std::uintptr_t>(aligned.as<float>()) % 64 == 0);
  CHECK(reinterpret_cast<std::uintptr_t>(shifted.as<float>()) % 64 == sizeof(float));
}

TEST_CASE("random arrays are a function of the seed, with the asked mean and deviation") {
  const HostArray a = random_normal(DType::float64, {20000}, 5, 2.0, 3.0);
  CHECK(difference(a, random_normal(DType::float64, {20000}, 5, 2.0, 3.0)).largest == 0.0);
  CHECK(difference(a, random_normal(DType::float64, {20000}, 6, 2.0, 3.0)).largest > 0.1);
  double mean = 0, square = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) mean += a.at(i) / 20000;
  for (std::int64_t i = 0; i < a.size(); ++i) square += (a.at(i) - mean) * (a.at(i) - mean) / 20000;
  CHECK(std::abs(mean - 3.0) <= 0.06);  // four deviations
  CHECK(std::abs(std::sqrt(square) - 2.0) <= 0.04);
}
