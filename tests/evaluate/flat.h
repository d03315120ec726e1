#pragma once

#include "kernels/common/array.h"

#include <span>
#include <vector>

namespace dino::test {

/// Values as an array of one dimension, for comparisons. They must outlive it.
inline ConstArray flat(std::span<const double> values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}
inline ConstArray flat(std::span<const float> values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}

}  // namespace dino::test
