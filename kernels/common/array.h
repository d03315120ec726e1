#pragma once

#include "kernels/common/dtype.h"
#include "kernels/common/error.h"

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

namespace dino {

/// Extents of a dense row-major array, slowest dimension first; at most kMaxRank of them, none for a scalar.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents) {
    require(extents.size() <= kMaxRank, "shape", "an array has at most {} dimensions; got {}", kMaxRank,
            extents.size());
    for (const std::int64_t extent : extents) {
      require(extent >= 0, "shape", "extents must not be negative; got {}", extent);
      extents_[static_cast<std::size_t>(rank_++)] = extent;
    }
  }

  int rank() const { return rank_; }
  /// Extent of dimension `i`; negative `i` counts from the last dimension.
  std::int64_t operator[](int i) const {
    const int at = i < 0 ? rank_ + i : i;
    assert(at >= 0 && at < rank_);
    return extents_[static_cast<std::size_t>(at)];
  }
  /// Number of elements; 1 for a scalar.
  std::int64_t size() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extents_[static_cast<std::size_t>(i)];
    return n;
  }
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i) {
      if ((*this)[i] != other[i]) return false;
    }
    return true;
  }
  /// `(4, 197, 384)`
  std::string to_string() const {
    std::string text = "(";
    for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
    return text + ")";
  }

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// A view of a dense row-major array that somebody else owns: address, element type, shape. What kernels
/// work on. `BasicArray<void>` may be written, `BasicArray<const void>` may not. An empty view (no address)
/// stands for an optional argument that is not given.
template <typename Void>
class BasicArray {
  static constexpr bool kConst = std::is_const_v<Void>;
  template <typename T>
  using Element = std::conditional_t<kConst, const T, T>;

 public:
  BasicArray() = default;
  BasicArray(Void* data, DType dtype, Shape shape) : data_(data), dtype_(dtype), shape_(shape) {}
  template <typename T>
  requires(!std::is_void_v<T> && (kConst || !std::is_const_v<T>)) BasicArray(T* data, Shape shape)
      : BasicArray(data, dtype_of<std::remove_const_t<T>>, shape) {}
  /// A writable view serves where a read-only one is asked for. A template, because GCC 12 otherwise takes it for the
  /// copy constructor of the writable view.
  template <typename Other>
  requires(kConst&& std::is_same_v<Other, void>) BasicArray(const BasicArray<Other>& other)
      : data_(other.data()), dtype_(other.dtype()), shape_(other.shape()) {}

  Void* data() const { return data_; }
  /// Elements as T, which must be the array's element type.
  template <typename T>
  Element<T>* as() const {
    assert(dtype_ == dtype_of<T> || data_ == nullptr);
    return static_cast<Element<T>*>(data_);
  }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t extent(int i) const { return shape_[i]; }
  std::int64_t size() const { return data_ == nullptr ? 0 : shape_.size(); }
  std::size_t size_bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype_); }
  explicit operator bool() const { return data_ != nullptr; }
  /// The same elements with other extents; their number must agree.
  BasicArray reshaped(Shape shape) const {
    assert(shape.size() == shape_.size());
    return {data_, dtype_, shape};
  }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::float32;
  Shape shape_;
};

using Array = BasicArray<void>;
using ConstArray = BasicArray<const void>;

/// Throws unless `array` is present and has this element type and shape.
inline void require_array(const ConstArray& array, DType dtype, const Shape& shape, std::string_view where,
                          std::string_view name) {
  require(static_cast<bool>(array) || shape.size() == 0, where, "{} is missing; expected {} {}", name, name_of(dtype),
          shape.to_string());
  require(array.dtype() == dtype && array.shape() == shape, where,
          "{} has the wrong type or shape; got {} {}, expected {} {}", name, name_of(array.dtype()),
          array.shape().to_string(), name_of(dtype), shape.to_string());
}

/// Calls `function(T{})` with the C++ type of a compute element type (fp32 or bf16). Oracles also take double.
template <typename Function>
void visit_compute_type(DType dtype, std::string_view where, Function&& function) {
  switch (dtype) {
    case DType::float32: return function(float{});
    case DType::bfloat16: return function(BFloat16{});
    default: fail(where, "unsupported element type; got {}, expected float32 or bfloat16", name_of(dtype));
  }
}

/// Element `i` of a floating-point array as a double, whatever its type. For oracles, which favour clearness.
inline double load_double(const ConstArray& array, std::int64_t i) {
  assert(i >= 0 && i < array.size());
  switch (array.dtype()) {
    case DType::float32: return static_cast<double>(array.as<float>()[i]);
    case DType::bfloat16: return static_cast<double>(static_cast<float>(array.as<BFloat16>()[i]));
    case DType::float64: return array.as<double>()[i];
    default: fail("load_double", "unsupported element type; got {}", name_of(array.dtype()));
  }
}

/// Stores a double into a floating-point array of any type, rounding once.
inline void store_double(const Array& array, std::int64_t i, double value) {
  assert(i >= 0 && i < array.size());
  switch (array.dtype()) {
    case DType::float32: array.as<float>()[i] = static_cast<float>(value); return;
    case DType::bfloat16: array.as<BFloat16>()[i] = BFloat16(static_cast<float>(value)); return;
    case DType::float64: array.as<double>()[i] = value; return;
    default: fail("store_double", "unsupported element type; got {}", name_of(array.dtype()));
  }
}

}  // namespace dino
