#pragma once

#include "kernels/common/array.h"

#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// One thing that was compared with what it should be.
struct SelfCheck {
  std::string group;     // `kernels`, `forward`, `training`
  std::string name;      // `layer_norm_forward`, `loss of 6 steps`
  std::string dtype{};   // `fp32`, `bf16`; empty where there is no choice
  std::string target{};  // instruction set of the CPU kernels; empty where there is no choice
  double error = 0;
  double bound = 0;
  std::string worst{};  // what was off most: an output, a tensor, a step

  /// An error that is not a number fails.
  bool passed() const { return error <= bound; }
};

using SelfChecks = std::vector<SelfCheck>;

/// ‖got − expected‖ / ‖expected‖ (‖got‖ where that is 0), in double. Infinite where a value of either is not finite, or
/// their numbers of elements differ, or there are none. Integers count instead: the number of elements that differ.
double error_between(const ConstArray& got, const ConstArray& expected);

/// The check could not be finished: it has failed, for this reason.
void fail_check(SelfCheck& check, const Error& error);

/// Of several errors with bounds of their own, the one nearest to its bound, or farthest beyond it.
class WorstError {
 public:
  void add(double error, double bound, std::string_view what);
  /// Writes error, bound and worst. Fails the check when nothing was added.
  void finish(SelfCheck& check) const;

 private:
  bool any_ = false;
  double error_ = 0, bound_ = 0;
  std::string what_;
};

}  // namespace dino
