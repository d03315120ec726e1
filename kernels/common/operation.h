#pragma once

#include "kernels/common/error.h"
#include "kernels/common/operation_cost.h"
#include "kernels/common/stream.h"

namespace dino {

/// Tells a stream's observer, if there is one, when an operation begins and ends.
class ObservedOperation {
 public:
  ObservedOperation(const Stream& stream, const Operation& operation) : observer_(stream.observer()) {
    if (observer_ != nullptr) observer_->begin(operation);
  }
  ~ObservedOperation() {
    if (observer_ != nullptr) observer_->end();
  }
  ObservedOperation(const ObservedOperation&) = delete;
  ObservedOperation& operator=(const ObservedOperation&) = delete;

 private:
  OperationObserver* observer_;
};

}  // namespace dino

/// Declares one operation of a kernel folder: `name(args, stream)` runs it on the stream's device.
///   cpu::name        name_cpu.cpp, tuned
///   cuda::name       name_cuda.cu, tuned. Weak: a program is linked with the CUDA kernels, with the same sources made
///   to
///                    run on the host (tests/simt), or without; only then is it missing, and no stream is on CUDA.
///   reference::name  name_reference.cpp, the double-precision oracle; host arrays, also of float64
///   cost_of          name_cost.cpp, the bytes and flops that its header states: for plans and benchmarks
/// Use it inside `namespace dino`, after the argument struct.
#define DINO_OPERATION(name, Args)                                                                           \
  namespace reference {                                                                                      \
  void name(const Args& args);                                                                               \
  }                                                                                                          \
  namespace cpu {                                                                                            \
  void name(const Args& args, Stream& stream);                                                               \
  }                                                                                                          \
  namespace cuda {                                                                                           \
  [[gnu::weak]] void name(const Args& args, Stream& stream);                                                 \
  }                                                                                                          \
  OperationCost cost_of(const Args& args, Stream& stream);                                                   \
  inline void name(const Args& args, Stream& stream) {                                                       \
    const auto cost = [](const void* of, Stream& on) { return cost_of(*static_cast<const Args*>(of), on); }; \
    const ObservedOperation observed(stream, {#name, &args, cost});                                          \
    if (!stream.executes()) return;                                                                          \
    if (stream.device() == Device::cpu) {                                                                    \
      cpu::name(args, stream);                                                                               \
      return;                                                                                                \
    }                                                                                                        \
    require(&cuda::name != nullptr, #name, "there is no CUDA kernel for it in this program");                \
    cuda::name(args, stream);                                                                                \
  }
