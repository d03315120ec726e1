#pragma once

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"

#include <string>
#include <string_view>

namespace dino {

/// What one operation has to do, as its header states. Sizes of what it has in cache, and of small tables, are left
/// out.
struct OperationCost {
  std::string_view group;  // `GEMM`, `attention`, …: for tables
  std::string work{};      // operation, types and options: two of the same work differ in size only
  std::string size{};      // the extents; with `work`, what determines how long it takes
  double bytes = 0;        // moved to and from memory, each array once
  double flops = 0;
  DType type = DType::float32;  // of the operands
};

/// The cost of an operation that an observer of `stream` hears of. Reads tables of sequences back from the stream's
/// memory. Throws Error for an operation that it does not know.
OperationCost cost_of(const Operation& operation, Stream& stream);

}  // namespace dino
