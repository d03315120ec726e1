#pragma once

#include "kernels/common/array.h"
#ifdef __CUDACC__
#include "kernels/common/cuda/check.h"
#endif
#include "kernels/common/cuda/device.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/stream.h"

#include <cstdint>
#include <type_traits>

namespace dino::cuda {

/// The widest pack of at most 16 bytes in which rows of `width` elements can be read at these addresses; absent arrays
/// do not matter.
template <typename T, typename... Arrays>
int pack_size(std::int64_t width, const Arrays&... arrays) {
  const auto fits = [&](int n) {
    const auto bytes = static_cast<std::uintptr_t>(n) * sizeof(T);
    return width % n == 0 && (... && (reinterpret_cast<std::uintptr_t>(arrays.data()) % bytes == 0));
  };
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  return fits(kWidest) ? kWidest : 1;
}

/// Calls function(N) with a pack size as a constant.
template <typename T, typename Function>
void with_pack(int pack, const Function& function) {
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  pack == kWidest ? function(std::integral_constant<int, kWidest>{}) : function(std::integral_constant<int, 1>{});
}

/// The address of a gradient; null where it is to be ignored.
template <typename T>
T* wanted(const Array& gradient, GradientMode mode) {
  return mode == GradientMode::ignore ? nullptr : gradient.as<T>();
}

/// Blocks that hold `items` when each takes `per_block`.
inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
};

#ifdef __CUDACC__

/// Puts a kernel on a stream. Throws Error when it cannot be started; what fails later shows in the next call that
/// waits.
template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream& stream, const Args&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  use_device(stream.ordinal());
  constexpr std::size_t kWithoutAsking = 48 << 10;
  // An attribute of the kernel, not work for the stream: allowed while the stream is captured.
  if (shape.shared_bytes > kWithoutAsking) {
    DINO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shape.shared_bytes)));
  }
  kernel<<<shape.grid, shape.block, shape.shared_bytes, static_cast<cudaStream_t>(stream.handle())>>>(
      static_cast<Parameters>(args)...);
  check(cudaGetLastError(), "kernel launch", __FILE__, __LINE__);
}

#else

/// Runs a kernel on the host, to its end.
template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream& stream, const Args&... args) {
  simt::submit(stream, [kernel, shape, ... values = static_cast<Parameters>(args)] {
    simt::run_grid(shape.grid, shape.block, shape.shared_bytes, [&] { kernel(values...); });
  });
}

#endif

}  // namespace dino::cuda
