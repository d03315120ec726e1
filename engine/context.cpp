#include "engine/context.h"

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
  stream_->zero(result.data(), result.size_bytes());
  return result;
}

Tensor Context::from_host(const ConstArray& host) {
  Tensor result = empty(host.shape(), host.dtype());
  copy_from_host(host, result);
  return result;
}

void Context::copy_to_host(const Tensor& from, const Array& host) {
  require_same_elements(from.const_array(), host);
  stream_->copy_to_host(host.data(), from.data(), from.size_bytes());
}

void Context::copy_from_host(const ConstArray& host, Tensor& to) {
  require_same_elements(host, to.const_array());
  stream_->copy_from_host(to.data(), host.data(), to.size_bytes());
}

void Context::copy(const Tensor& from, Tensor& to) {
  require_same_elements(from.const_array(), to.const_array());
  stream_->copy(to.data(), from.data(), to.size_bytes());
}

}  // namespace dino
