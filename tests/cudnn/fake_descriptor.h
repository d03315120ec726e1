#pragma once

#include "benchmarks/cudnn_api.h"
#include "tests/cudnn/fake_cudnn.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

namespace dino::test {

using Extents = std::vector<std::int64_t>;

/// Thrown where something is not as it must be; the function of cuDNN's that was called returns it.
struct Refusal {
  cudnnStatus_t status;
};
template <typename... Args>
void demand(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (condition) return;
  fake_cudnn().last_error = fmt::format(format, std::forward<Args>(args)...);
  throw Refusal{CUDNN_STATUS_BAD_PARAM};
}

/// Any of cuDNN's descriptors: the attributes that it was given.
struct FakeDescriptor {
  cudnnBackendDescriptorType_t type{};
  bool final = false;
  std::map<cudnnBackendAttributeName_t, std::vector<std::byte>> values;
  // Of an engine's configuration, what the heuristics put there.
  const FakeDescriptor* graph = nullptr;
  int rank = -1;

  bool has(cudnnBackendAttributeName_t name) const { return values.count(name) > 0; }
  template <typename T>
  std::vector<T> all(cudnnBackendAttributeName_t name) const {
    const std::vector<std::byte>& bytes = values.at(name);
    std::vector<T> result(bytes.size() / sizeof(T));
    std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
  std::vector<bool> flags(cudnnBackendAttributeName_t name) const {
    std::vector<bool> result;
    for (const std::byte byte : values.at(name)) result.push_back(byte != std::byte{0});
    return result;
  }
  bool flag(cudnnBackendAttributeName_t name) const { return has(name) && flags(name).front(); }
  template <typename T>
  T one(cudnnBackendAttributeName_t name) const {
    return all<T>(name).front();
  }
  const FakeDescriptor& part(cudnnBackendAttributeName_t name) const { return *one<const FakeDescriptor*>(name); }

  // Of tensors
  Extents extents() const { return all<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS); }
  Extents strides() const { return all<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES); }
  std::int64_t id() const { return one<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }
  bool is_virtual() const { return flag(CUDNN_ATTR_TENSOR_IS_VIRTUAL); }
  bool is_number() const { return flag(CUDNN_ATTR_TENSOR_IS_BY_VALUE); }
  bool is_half() const { return one<int>(CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_BFLOAT16; }
};

inline std::int64_t size_of(const Extents& extents) {
  std::int64_t size = 1;
  for (const std::int64_t extent : extents) size *= extent;
  return size;
}

/// What an operation reads and what it writes.
struct Ends {
  std::vector<const FakeDescriptor*> in, out;
};
Ends ends_of(const FakeDescriptor& op);

/// Executes a finalised graph on the tensors at these addresses, by their ids.
void run_graph(const FakeDescriptor& graph, std::map<std::int64_t, void*> addresses);
/// Of each row of (n, c) fp32.
void softmax_of_rows(const float* x, float* y, int n, int c);

}  // namespace dino::test
