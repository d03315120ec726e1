#pragma once

#include "engine/context.h"
#include "selftest/checks.h"

#include <functional>

namespace dino {

/// Told of each operation before it is checked: how many are done, of how many.
using SelfTestProgress = std::function<void(std::int64_t done, std::int64_t total, std::string_view what)>;

/// Every operation of kernels/, at an odd size and at one of DINO's, in fp32 and bf16 where it takes both, on the
/// context's device against its double-precision oracle; on the CPU with each instruction set that the kernels are
/// compiled for and the machine has. Bounds are those of the kernels' contracts: a few roundings of the element type.
SelfChecks check_kernels(Context& context, const SelfTestProgress& progress = {});

}  // namespace dino
