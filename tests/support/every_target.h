#pragma once

#include "tests/support/catch.h"

#include <hwy/targets.h>

namespace dino::test {

/// Runs `body` once for each instruction set that the CPU kernels are compiled for and this machine has, plain C++
/// included. What a failing check prints names the set.
template <typename Body>
void every_target(const Body& body) {
  const std::int64_t supported = (hwy::SupportedTargets() & HWY_TARGETS) | HWY_SCALAR;
  for (std::int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const std::int64_t target = rest & -rest;
    INFO("instruction set " << hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::GetChosenTarget().Update(supported);
}

}  // namespace dino::test
