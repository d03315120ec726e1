#include "kernels/common/operation_cost.h"

#include <fmt/format.h>

namespace dino {

OperationCost cost_of(const Operation& operation, Stream& stream) {
  OperationCost cost = operation.cost(operation.args, stream);
  cost.work = fmt::format("{} {}", operation.name, cost.work);
  return cost;
}

namespace cost {

double bytes_of(std::initializer_list<ConstArray> arrays) {
  double bytes = 0;
  for (const ConstArray& array : arrays) bytes += static_cast<double>(array.size_bytes());
  return bytes;
}

double written(const Array& array, GradientMode mode) {
  const auto bytes = static_cast<double>(array.size_bytes());
  return mode == GradientMode::ignore ? 0 : mode == GradientMode::accumulate ? 2 * bytes : bytes;
}

double count(const ConstArray& array) { return static_cast<double>(array.size()); }

std::string options(DType type, GradientMode mode) {
  return fmt::format("{}{}", name_of(type), mode == GradientMode::accumulate ? ", accumulate" : "");
}

std::string size_of_array(const ConstArray& array) { return array.shape().to_string(); }

}  // namespace cost
}  // namespace dino
