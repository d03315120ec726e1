#pragma once

#include "engine/arena.h"
#include "engine/tensor.h"
#include "kernels/common/stream.h"

#include <memory>

namespace dino {

/// One device as the engine uses it: its stream, its memory, and the element type of activations. Passed explicitly;
/// there is no global device state. Tensors keep the arena alive.
class Context {
 public:
  Context(std::unique_ptr<Stream> stream, std::shared_ptr<Arena> arena)
      : stream_(std::move(stream)), arena_(std::move(arena)) {}

  Device device() const { return stream_->device(); }
  Stream& stream() { return *stream_; }
  Arena& arena() { return *arena_; }

  /// A tensor with uninitialised elements.
  Tensor empty(const Shape& shape, DType dtype);
  /// A tensor filled with zero bytes.
  Tensor zeros(const Shape& shape, DType dtype);
  /// A tensor on this device with the elements of a host array. Returns after the copy.
  Tensor from_host(const ConstArray& host);
  /// Copies the elements between arrays of one size and type, either of which may be on the host or the device.
  void copy_to_host(const Tensor& from, const Array& host);
  void copy_from_host(const ConstArray& host, Tensor& to);
  void copy(const Tensor& from, Tensor& to);

 private:
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<Arena> arena_;
};

/// The CPU as a device. Reserves addresses, not memory; pages are taken from the system as they are first used.
std::unique_ptr<Context> make_cpu_context();

}  // namespace dino
