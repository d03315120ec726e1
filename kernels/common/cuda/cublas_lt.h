#pragma once

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace dino::cuda {

struct CublasLtApi;  // cublas_lt_api.h

/// One product as cuBLASLt does it in one call: y = op(a)·op(b) [+ bias], or y += the same; matrices row-major and
/// dense, as in kernels/matmul/matmul.h.
struct CublasLtProduct {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType operands, result;
  bool bias;  // (N) of y's type: cuBLASLt has no other
  /// In bytes, what the addresses are multiples of, at most CublasLt::kAlignment: more would let the address decide
  /// which kernel runs, and so the last bits of the result.
  unsigned a_alignment, b_alignment, y_alignment;
  auto operator<=>(const CublasLtProduct&) const = default;
};

struct CublasLtPointers {
  const void* a;
  const void* b;
  const void* bias;  // a multiple of CublasLt::kAlignment
  void* y;
};

/// A handle of cuBLASLt for one device, its workspace, and what it was told of every product so far: the choice of a
/// kernel costs as much as a small product, so it is made once.
class CublasLt {
 public:
  static constexpr unsigned kAlignment = 16;
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // NVIDIA's advice for Hopper

  /// `workspace` has kWorkspaceBytes, is a multiple of 256, belongs to the current device and to the one stream that
  /// the products are put on. Throws Error when the library cannot be initialised.
  CublasLt(const CublasLtApi& api, void* workspace);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Whether cuBLASLt has a kernel for this product.
  bool supports(const CublasLtProduct& product);
  /// Puts a supported product on a stream (cudaStream_t).
  void run(const CublasLtProduct& product, const CublasLtPointers& pointers, bool accumulate, void* stream);

 private:
  class Plan;
  struct State;
  Plan& plan(const CublasLtProduct& product);
  std::unique_ptr<State> state_;
};

/// A stream that carries a handle. Every stream whose kernels run on a GPU does, so that a kernel which is given a
/// `Stream&` finds the handle of its device, and no global state is needed.
class CublasLtOwner {
 public:
  virtual CublasLt& cublas_lt() = 0;

 protected:
  ~CublasLtOwner() = default;
};

/// The stream's handle. Throws Error for a stream that has none.
CublasLt& cublas_lt_of(Stream& stream);

}  // namespace dino::cuda
