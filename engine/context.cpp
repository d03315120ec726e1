#include "engine/context.h"

#include <cstring>

namespace dino {
namespace {

void require_same_elements(const ConstArray& from, const ConstArray& to) {
  require(from.dtype() == to.dtype() && from.size() == to.size(), "copy", "arrays differ; got {} {} and {} {}",
          name_of(from.dtype()), from.shape().to_string(), name_of(to.dtype()), to.shape().to_string());
}

}  // namespace

Tensor Context::empty(const Shape& shape, DType dtype) {
  auto storage = std::make_shared<Storage>(arena_, static_cast<std::size_t>(shape.size()) * size_of(dtype));
  std::byte* data = storage->data();
  return Tensor(std::move(storage), data, dtype, shape);
}

Tensor Context::zeros(const Shape& shape, DType dtype) {
  Tensor result = empty(shape, dtype);
  std::memset(result.data(), 0, result.size_bytes());
  return result;
}

Tensor Context::from_host(const ConstArray& host) {
  Tensor result = empty(host.shape(), host.dtype());
  copy_from_host(host, result);
  return result;
}

void Context::copy_to_host(const Tensor& from, const Array& host) {
  require_same_elements(from.const_array(), host);
  if (from.size_bytes() > 0) std::memcpy(host.data(), from.data(), from.size_bytes());
}

void Context::copy_from_host(const ConstArray& host, Tensor& to) {
  require_same_elements(host, to.const_array());
  if (to.size_bytes() > 0) std::memcpy(to.data(), host.data(), to.size_bytes());
}

void Context::copy(const Tensor& from, Tensor& to) {
  require_same_elements(from.const_array(), to.const_array());
  if (to.size_bytes() > 0) std::memmove(to.data(), from.data(), to.size_bytes());
}

}  // namespace dino
