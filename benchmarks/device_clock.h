#pragma once

#include "kernels/common/stream.h"

#include <memory>

namespace dino::bench {

/// Measures what the device of a stream is busy with, by events on the stream: neither the host's part of a call nor
/// the wait for it. The host should be ahead of the device when it begins.
class DeviceClock {
 public:
  DeviceClock() = default;
  virtual ~DeviceClock() = default;
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;

  virtual void begin() = 0;
  virtual void end() = 0;
  /// Waits for the end. Milliseconds.
  virtual double elapsed_ms() = 0;
};

/// Weak: part of programs with CUDA.
[[gnu::weak]] std::unique_ptr<DeviceClock> make_device_clock(Stream& stream);

}  // namespace dino::bench
