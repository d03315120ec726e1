#pragma once

#include "kernels/common/error.h"
#include "kernels/common/stream.h"

/// Declares one operation of a kernel folder: `name(args, stream)` runs it on the stream's device.
///   cpu::name        name_cpu.cpp, tuned
///   cuda::name       name_cuda.cu, tuned; present when the build has CUDA (DINO_WITH_CUDA)
///   reference::name  name_reference.cpp, the double-precision oracle; host arrays, also of float64
/// Use it inside `namespace dino`, after the argument struct.
#if DINO_WITH_CUDA
#define DINO_OPERATION(name, Args)                                                        \
  namespace reference {                                                                   \
  void name(const Args& args);                                                            \
  }                                                                                       \
  namespace cpu {                                                                         \
  void name(const Args& args, Stream& stream);                                            \
  }                                                                                       \
  namespace cuda {                                                                        \
  void name(const Args& args, Stream& stream);                                            \
  }                                                                                       \
  inline void name(const Args& args, Stream& stream) {                                    \
    stream.device() == Device::cuda ? cuda::name(args, stream) : cpu::name(args, stream); \
  }
#else
#define DINO_OPERATION(name, Args)             \
  namespace reference {                        \
  void name(const Args& args);                 \
  }                                            \
  namespace cpu {                              \
  void name(const Args& args, Stream& stream); \
  }                                            \
  inline void name(const Args& args, Stream& stream) { cpu::name(args, stream); }
#endif
