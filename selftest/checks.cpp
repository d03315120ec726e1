#include "selftest/checks.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace dino {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool is_integer(DType dtype) { return dtype == DType::int32 || dtype == DType::uint8 || dtype == DType::int64; }

/// How much of its bound an error uses up; where that is 0, any error is infinitely much.
double share_of(double error, double bound) {
  if (!(error <= bound)) return kInfinity;
  return bound > 0 ? error / bound : 0;
}

}  // namespace

double error_between(const ConstArray& got, const ConstArray& expected) {
  if (got.size() != expected.size() || got.size() == 0) return kInfinity;
  if (is_integer(got.dtype())) {
    if (got.dtype() != expected.dtype()) return kInfinity;
    const std::size_t size = size_of(got.dtype());
    const auto* a = static_cast<const std::byte*>(got.data());
    const auto* b = static_cast<const std::byte*>(expected.data());
    double count = 0;
    for (std::size_t i = 0; i < got.size_bytes(); i += size) count += std::memcmp(a + i, b + i, size) != 0 ? 1 : 0;
    return count;
  }
  double square = 0, norm = 0;
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double x = load_double(got, i), y = load_double(expected, i);
    if (!std::isfinite(x) || !std::isfinite(y)) return kInfinity;
    square += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(square) / (norm > 0 ? std::sqrt(norm) : 1.0);
}

void fail_check(SelfCheck& check, const Error& error) {
  check.error = kInfinity;
  check.worst = error.what();
}

void WorstError::add(double error, double bound, std::string_view what) {
  if (any_ && share_of(error, bound) <= share_of(error_, bound_)) return;
  any_ = true;
  error_ = error;
  bound_ = bound;
  what_ = what;
}

void WorstError::finish(SelfCheck& check) const {
  check.error = any_ ? error_ : kInfinity;
  check.bound = bound_;
  check.worst = any_ ? what_ : "nothing was compared";
}

}  // namespace dino
