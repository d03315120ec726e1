#include "tests/support/host_array.h"

#include "tests/support/catch.h"

#include <cmath>
#include <cstring>
#include <limits>

// There where the program is made with the address sanitizer.
extern "C" {
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* address, std::size_t size_bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* address, std::size_t size_bytes);
}

namespace dino::test {
namespace {

constexpr std::size_t kCanaryBytes = 64;
constexpr std::byte kCanary{0xC5};

/// Lets the address sanitizer report any access to what lies around an array, reading included.
void guard(std::byte* begin, std::byte* end) {
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(begin, static_cast<std::size_t>(end - begin));
}
void unguard(const std::byte* begin, const std::byte* end) {
  if (__asan_unpoison_memory_region != nullptr) {
    __asan_unpoison_memory_region(begin, static_cast<std::size_t>(end - begin));
  }
}

}  // namespace

HostArray::HostArray(DType dtype, const Shape& shape, int misalign)
    : buffer_(static_cast<std::size_t>(shape.size() + misalign) * size_of(dtype) + 2 * kCanaryBytes),
      dtype_(dtype),
      shape_(shape) {
  std::memset(buffer_.data(), static_cast<int>(kCanary), buffer_.size());
  data_ = buffer_.data() + kCanaryBytes + static_cast<std::size_t>(misalign) * size_of(dtype);
  // All bits set: NaN in every floating-point type, -1 in the signed integers.
  std::memset(data_, 0xff, static_cast<std::size_t>(shape.size()) * size_of(dtype));
  guard(buffer_.data(), data_);
  guard(data_ + static_cast<std::size_t>(shape.size()) * size_of(dtype), buffer_.data() + buffer_.size());
}

HostArray::~HostArray() {
  if (data_ == nullptr || buffer_.data() == nullptr) return;
  unguard(buffer_.data(), buffer_.data() + buffer_.size());
  if (!canaries_intact()) {
    FAIL_CHECK("a kernel wrote outside an array of shape " << shape_.to_string());
  }
}

[[gnu::no_sanitize_address]] bool HostArray::canaries_intact() const {
  const std::byte* end = buffer_.data() + buffer_.size();
  const std::byte* data_end = data_ + static_cast<std::size_t>(shape_.size()) * size_of(dtype_);
  for (const std::byte* p = buffer_.data(); p < data_; ++p) {
    if (*p != kCanary) return false;
  }
  for (const std::byte* p = data_end; p < end; ++p) {
    if (*p != kCanary) return false;
  }
  return true;
}

HostArray HostArray::to(DType dtype) const {
  HostArray result(dtype, shape_);
  if (dtype == dtype_) {
    std::memcpy(result.data_, data_, static_cast<std::size_t>(size()) * size_of(dtype));
  } else {
    for (std::int64_t i = 0; i < size(); ++i) result.set(i, at(i));
  }
  return result;
}

HostArray random_normal(DType dtype, const Shape& shape, std::uint64_t seed, double scale, double mean, int misalign) {
  HostArray result(dtype, shape, misalign);
  Random random(seed, RandomStream::test);
  for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, mean + scale * random.normal());
  return result;
}

HostArray from_values(DType dtype, const Shape& shape, const std::vector<double>& values) {
  HostArray result(dtype, shape);
  REQUIRE(static_cast<std::int64_t>(values.size()) == shape.size());
  for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, values[static_cast<std::size_t>(i)]);
  return result;
}

HostArray from_integers(const std::vector<std::int32_t>& values) {
  HostArray result(DType::int32, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), result.as<std::int32_t>());
  return result;
}

Difference difference(const ConstArray& a, const ConstArray& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return {kInfinity, kInfinity, 0};
  double square = 0;
  double norm = 0;
  Difference result;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double x = load_double(a, i);
    const double y = load_double(b, i);
    if (!std::isfinite(x) || !std::isfinite(y)) return {kInfinity, kInfinity, i};
    square += (x - y) * (x - y);
    norm += y * y;
    if (std::abs(x - y) > result.largest) {
      result.largest = std::abs(x - y);
      result.where = i;
    }
  }
  result.relative_norm = std::sqrt(square) / (norm > 0 ? std::sqrt(norm) : 1.0);
  return result;
}

void check_close(const ConstArray& got, const ConstArray& expected, double tolerance, std::string_view what) {
  INFO(what << ": got " << got.shape().to_string() << ", expected " << expected.shape().to_string());
  REQUIRE(got.size() == expected.size());
  REQUIRE(got.size() > 0);
  const Difference d = difference(got, expected);
  INFO("largest difference " << d.largest << " at " << d.where << ": got " << load_double(got, d.where) << ", expected "
                             << load_double(expected, d.where));
  CHECK(d.relative_norm <= tolerance);
}

void check_gradient(const std::function<double()>& function, const HostArray& x, const ConstArray& dx, double tolerance,
                    std::string_view what, int samples, double step) {
  REQUIRE(x.dtype() == DType::float64);
  REQUIRE(dx.size() == x.size());
  double* values = x.as<double>();
  Random random(stable_hash(what), RandomStream::test);
  std::vector<double> numeric;
  std::vector<double> analytic;
  for (int s = 0; s < samples; ++s) {
    const auto i = static_cast<std::int64_t>(random.below(static_cast<std::uint32_t>(x.size())));
    const double original = values[i];
    values[i] = original + step;
    const double above = function();
    values[i] = original - step;
    const double below = function();
    values[i] = original;
    numeric.push_back((above - below) / (2 * step));
    analytic.push_back(load_double(dx, i));
  }
  const Shape shape{samples};
  check_close(ConstArray(analytic.data(), shape), ConstArray(numeric.data(), shape), tolerance, what);
}

}  // namespace dino::test
