#pragma once

#include "engine/random.h"
#include "kernels/common/array.h"
#include "tests/support/test_memory.h"

#include <functional>
#include <string_view>
#include <vector>

namespace dino::test {

/// A host array for a kernel test. It starts poisoned (NaN, or -1 for integers), so that an unwritten output shows, and
/// lies between canaries; `misalign` elements away from a cache line. The destructor fails the test if a canary was
/// overwritten.
class HostArray {
 public:
  HostArray(DType dtype, const Shape& shape, int misalign = 0);
  ~HostArray();
  HostArray(HostArray&&) = default;
  HostArray& operator=(HostArray&&) = delete;

  Array array() const { return {data_, dtype_, shape_}; }
  operator Array() const { return array(); }
  operator ConstArray() const { return array(); }
  const Shape& shape() const { return shape_; }
  std::int64_t size() const { return shape_.size(); }
  DType dtype() const { return dtype_; }
  double at(std::int64_t i) const { return load_double(array(), i); }
  void set(std::int64_t i, double value) { store_double(array(), i, value); }
  template <typename T>
  T* as() const {
    return array().as<T>();
  }

  /// The same values in another floating-point type.
  HostArray to(DType dtype) const;
  HostArray copy() const { return to(dtype_); }
  bool canaries_intact() const;

 private:
  TestMemory buffer_;
  std::byte* data_ = nullptr;
  DType dtype_;
  Shape shape_;
};

/// Normally distributed values, a function of the seed only.
HostArray random_normal(DType dtype, const Shape& shape, std::uint64_t seed, double scale = 1.0, double mean = 0.0,
                        int misalign = 0);
HostArray from_values(DType dtype, const Shape& shape, const std::vector<double>& values);
HostArray from_integers(const std::vector<std::int32_t>& values);

/// How far two arrays are apart. Any value that is not finite in either makes every number infinite.
struct Difference {
  double relative_norm = 0;  // ‖a − b‖ / ‖b‖; ‖a‖ when b is zero
  double largest = 0;        // max |a − b|
  std::int64_t where = 0;    // index of the largest
};
Difference difference(const ConstArray& a, const ConstArray& b);

/// Checks ‖got − expected‖ <= tolerance·‖expected‖ and reports the place of the largest difference. NaN fails.
void check_close(const ConstArray& got, const ConstArray& expected, double tolerance, std::string_view what);

/// Checks an analytic gradient of a scalar function against central differences in double. `x` is float64 and is
/// restored; `samples` places are tried.
void check_gradient(const std::function<double()>& function, const HostArray& x, const ConstArray& dx, double tolerance,
                    std::string_view what, int samples = 24, double step = 1e-5);

}  // namespace dino::test
