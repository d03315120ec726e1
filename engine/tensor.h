#pragma once

#include "kernels/common/array.h"

#include <cstddef>
#include <memory>

namespace dino {

class Arena;

/// Memory that tensors share: a block of an arena, given back when the last tensor lets go.
class Storage {
 public:
  Storage(std::shared_ptr<Arena> arena, std::size_t size_bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }

 private:
  std::shared_ptr<Arena> arena_;
  std::byte* data_;
};

/// Identifies a variable of a Tape; kNoVariable for a tensor that needs no gradient.
using VariableId = int;
inline constexpr VariableId kNoVariable = -1;

/// A dense row-major array on a device. Copying the handle shares the elements. A default-constructed Tensor is empty
/// and stands for "none".
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Storage> storage, std::byte* data, DType dtype, const Shape& shape)
      : storage_(std::move(storage)), data_(data), dtype_(dtype), shape_(shape) {}

  explicit operator bool() const { return data_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t extent(int i) const { return shape_[i]; }
  std::int64_t size() const { return shape_.size(); }
  std::size_t size_bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return array().as<T>();
  }

  /// What kernels take.
  Array array() const { return {data_, dtype_, shape_}; }
  ConstArray const_array() const { return array(); }

  /// The same elements with other extents; their number must agree. Still the same variable.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of the first dimension, sharing the elements. Not a variable.
  Tensor rows(std::int64_t begin, std::int64_t end) const;

  VariableId variable() const { return variable_; }
  bool requires_gradient() const { return variable_ != kNoVariable; }
  /// The same variable without its elements, whose memory is let go: for backward, where only the gradient matters.
  Tensor variable_only() const;
  /// This tensor as a plain value, through which no gradient flows.
  Tensor detach() const;

 private:
  friend class Tape;
  std::shared_ptr<Storage> storage_;
  std::byte* data_ = nullptr;
  DType dtype_ = DType::float32;
  Shape shape_;
  VariableId variable_ = kNoVariable;
};

}  // namespace dino
