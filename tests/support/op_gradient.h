#pragma once

#include "engine/tape.h"
#include "tests/support/host_array.h"

#include <functional>
#include <string_view>

namespace dino::test {

/// Checks the gradient `dx` that a tape left for the fp32 tensor `x` on the CPU against central differences of Σ dy ·
/// y, where `forward` computes y anew from x. Products and their sum are taken in double, so the step may be large: 1
/// for functions that are linear in x.
inline void check_op_gradient(const std::function<Tensor()>& forward, const Tensor& dy, const Tensor& x,
                              const Tensor& dx, double step, double tolerance, std::string_view what,
                              int samples = 24) {
  const auto loss = [&] {
    const Tensor y = forward();
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i)
      sum += load_double(y.const_array(), i) * load_double(dy.const_array(), i);
    return sum;
  };
  HostArray numeric(DType::float64, {samples});
  HostArray analytic(DType::float64, {samples});
  Random random(stable_hash(what), RandomStream::test);
  for (int s = 0; s < samples; ++s) {
    const auto i = static_cast<std::int64_t>(random.below(static_cast<std::uint32_t>(x.size())));
    float& value = x.as<float>()[i];
    const float original = value;
    value = static_cast<float>(original + step);
    const double high = static_cast<double>(value);
    const double above = loss();
    value = static_cast<float>(original - step);
    const double low = static_cast<double>(value);
    const double below = loss();
    value = original;
    numeric.set(s, (above - below) / (high - low));
    analytic.set(s, load_double(dx.const_array(), i));
  }
  check_close(analytic, numeric, tolerance, what);
}

}  // namespace dino::test
