#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/stream.h"

#include <initializer_list>
#include <string>
#include <string_view>

namespace dino {

/// What one operation has to do, as its header states. Sizes of what it has in cache, and of small tables, are left
/// out.
struct OperationCost {
  std::string_view group;  // under which tables sum it up: one of operation_cost.h's names, or another
  std::string work{};      // operation, types and options: two of the same work differ in size only
  std::string size{};      // the extents; with `work`, what determines how long it takes
  double bytes = 0;        // moved to and from memory, each array once
  double flops = 0;
  DType type = DType::float32;  // of the operands
};

/// The cost of an operation that an observer of `stream` hears of. Reads tables of sequences back from the stream's
/// memory.
OperationCost cost_of(const Operation& operation, Stream& stream);

/// For the NAME_cost.cpp of the kernels' folders.
namespace cost {

inline constexpr std::string_view kGemm = "GEMM", kAttention = "attention", kNorm = "layer norm", kGelu = "GELU",
                                  kTokens = "patches and tokens", kHead = "head's norms", kLoss = "loss",
                                  kOptimizer = "optimiser", kSums = "bias gradients", kCrops = "crops", kKnn = "k-NN";

/// Of arrays that are read or written once.
double bytes_of(std::initializer_list<ConstArray> arrays);
/// What writing a gradient moves: adding reads it first.
double written(const Array& array, GradientMode mode);
/// Of elements.
double count(const ConstArray& array);
/// `bf16, accumulate`
std::string options(DType type, GradientMode mode = GradientMode::overwrite);
std::string size_of_array(const ConstArray& array);

}  // namespace cost
}  // namespace dino
