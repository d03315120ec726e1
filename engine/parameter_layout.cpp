// The part of parameters.h that knows no device.
#include "engine/parameters.h"

#include <algorithm>

namespace dino {
namespace {

constexpr std::int64_t kWindowAlignment = 16;

}  // namespace

ParameterId ParameterLayout::add(std::string name, const Shape& shape, Initializer initializer, bool gemm_weight,
                                 bool trainable) {
  require(!find(name), "parameters", "the name {} is given twice", name);
  infos_.push_back({std::move(name), shape, initializer, gemm_weight, trainable, flat_size_});
  flat_size_ += (shape.size() + kWindowAlignment - 1) / kWindowAlignment * kWindowAlignment;
  return ParameterId(infos_.size() - 1);
}

std::optional<ParameterId> ParameterLayout::find(std::string_view name) const {
  const auto at =
      std::find_if(infos_.begin(), infos_.end(), [&](const ParameterInfo& info) { return info.name == name; });
  if (at == infos_.end()) return std::nullopt;
  return ParameterId(static_cast<std::size_t>(at - infos_.begin()));
}

std::vector<ParameterId> ParameterLayout::ids() const {
  std::vector<ParameterId> ids;
  for (std::size_t i = 0; i < infos_.size(); ++i) ids.push_back(ParameterId(i));
  return ids;
}

std::int64_t ParameterLayout::parameter_count() const {
  std::int64_t count = 0;
  for (const ParameterInfo& info : infos_) count += info.size();
  return count;
}

}  // namespace dino
