#include "engine/tensor.h"

#include "engine/arena.h"

namespace dino {

Storage::Storage(std::shared_ptr<Arena> arena, std::size_t size_bytes)
    : arena_(std::move(arena)), data_(arena_->allocate(size_bytes)) {}

Storage::~Storage() { arena_->free(data_); }

Tensor Tensor::reshape(const Shape& shape) const {
  require(shape.size() == shape_.size(), "tensor", "cannot reshape {} to {}: the number of elements differs",
          shape_.to_string(), shape.to_string());
  Tensor result = *this;
  result.shape_ = shape;
  return result;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  require(shape_.rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0], "tensor", "no rows [{}, {}) in {}",
          begin, end, shape_.to_string());
  std::array<std::int64_t, Shape::kMaxRank> extents{};
  for (int i = 0; i < shape_.rank(); ++i) extents[static_cast<std::size_t>(i)] = shape_[i];
  const std::size_t row_bytes = shape_[0] > 0 ? size_bytes() / static_cast<std::size_t>(shape_[0]) : 0;
  extents[0] = end - begin;
  Tensor result = *this;
  result.data_ += static_cast<std::size_t>(begin) * row_bytes;
  result.shape_ = Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(shape_.rank())));
  result.variable_ = kNoVariable;
  return result;
}

Tensor Tensor::variable_only() const {
  Tensor result = *this;
  result.storage_.reset();
  result.data_ = nullptr;
  return result;
}

Tensor Tensor::detach() const {
  Tensor result = *this;
  result.variable_ = kNoVariable;
  return result;
}

}  // namespace dino
