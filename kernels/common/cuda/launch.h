#pragma once

#include "kernels/common/array.h"
#ifdef __CUDACC__
#include "kernels/common/cuda/check.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
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

/// The most shared memory that a block of the stream's device can have, in bytes: 227 KB of an H100, 163 KB of an A100,
/// 99 KB of the cards of compute capability 8.6, 8.9 and 12.0.
inline std::size_t most_shared_bytes([[maybe_unused]] const Stream& stream) {
#ifdef __CUDACC__
  int bytes = 0;
  DINO_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, stream.ordinal()));
  return static_cast<std::size_t>(bytes);
#else
  return simt::most_shared_bytes();
#endif
}

#ifdef __CUDACC__

/// Lets a kernel have so much shared memory. Never less than it was let before: a recording that holds a larger launch
/// may be made executable after a smaller one. An attribute of the kernel, not work for the stream: allowed while the
/// stream is captured.
inline void allow_shared_bytes(const void* kernel, std::size_t size_bytes) {
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (size_bytes <= kWithoutAsking) return;
  cudaFuncAttributes attributes{};
  DINO_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  if (static_cast<std::size_t>(attributes.maxDynamicSharedSizeBytes) >= size_bytes) return;
  DINO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(size_bytes)));
}

/// Throws Error that names the kernel.
[[noreturn]] inline void fail_launch(cudaError_t status, const void* kernel, const LaunchShape& shape) {
  const char* symbol = nullptr;
  if (cudaFuncGetName(&symbol, kernel) != cudaSuccess || symbol == nullptr) symbol = "a kernel";
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr), std::free);
  cudaGetLastError();
  fail("cuda", "the launch of {} failed: {} ({}); grid {}×{}×{}, block {}×{}×{}, {} bytes of shared memory",
       name ? name.get() : symbol, cudaGetErrorString(status), cudaGetErrorName(status), shape.grid.x, shape.grid.y,
       shape.grid.z, shape.block.x, shape.block.y, shape.block.z, shape.shared_bytes);
}

/// Puts a kernel on a stream. Throws Error when it cannot be started; what fails later shows in the next call that
/// waits.
template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream& stream, const Args&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  use_device(stream.ordinal());
  const void* address = reinterpret_cast<const void*>(kernel);
  allow_shared_bytes(address, shape.shared_bytes);
  kernel<<<shape.grid, shape.block, shape.shared_bytes, static_cast<cudaStream_t>(stream.handle())>>>(
      static_cast<Parameters>(args)...);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) [[unlikely]]
    fail_launch(status, address, shape);
}

#else

/// Runs a kernel on the host, to its end. Throws Error for a launch that a GPU refuses, and for an argument that points
/// to memory which a GPU does not reach.
template <typename... Parameters, typename... Args>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream& stream, const Args&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  simt::check_launch(shape.grid, shape.block, shape.shared_bytes);
  (simt::check_argument(static_cast<Parameters>(args)), ...);
  simt::submit(stream, [kernel, shape, ... values = static_cast<Parameters>(args)] {
    simt::run_grid(shape.grid, shape.block, shape.shared_bytes, [&] { kernel(values...); });
  });
}

#endif

}  // namespace dino::cuda
