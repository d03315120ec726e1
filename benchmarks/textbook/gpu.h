#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/common/cuda/launch.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace dino::bench::textbook {

/// A row and the block that has it, of a power of two threads.
class BlockRow {
 public:
  /// Ends with a barrier: what follows may read what it wrote.
  template <typename Body>
  __device__ void each(std::int64_t count, const Body& body) const {
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) body(i);
    __syncthreads();
  }
  template <typename Body>
  __device__ void each(std::int64_t count, std::int64_t of_each, const Body& body) const {
    each(count * of_each, [&](std::int64_t i) { body(i / of_each, i % of_each); });
  }
  template <typename Value>
  __device__ auto sum(std::int64_t count, const Value& value) const {
    decltype(value(count)) total{};
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) total += value(i);
    return reduce(total, [](auto a, auto b) { return a + b; });
  }
  template <typename Value>
  __device__ auto max(std::int64_t count, const Value& value) const {
    const auto larger = [](auto a, auto b) { return a < b ? b : a; };
    auto largest = value(0);
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) largest = larger(largest, value(i));
    return reduce(largest, larger);
  }

 private:
  /// The threads' values in one, by a tree in shared memory.
  template <typename T, typename Combine>
  __device__ static T reduce(T value, const Combine& combine) {
    T* values = &cuda::shared_memory<T>();
    values[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) values[threadIdx.x] = combine(values[threadIdx.x], values[threadIdx.x + half]);
      __syncthreads();
    }
    const T result = values[0];
    __syncthreads();  // before the next one
    return result;
  }
};

inline constexpr unsigned kElementThreads = 256;
inline constexpr unsigned kMaxRowThreads = 512;
inline constexpr unsigned kBlockColumns = 32, kColumnThreads = 8;  // threads of a column

template <typename Body>
__global__ void __launch_bounds__(kElementThreads) elements_kernel(std::int64_t count, const Body body) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i < count) body(i);
}

template <typename Body>
__global__ void __launch_bounds__(kMaxRowThreads) rows_kernel(const Body body) {
  body(BlockRow{}, std::int64_t{blockIdx.x});
}

template <typename Value, typename Finish>
__global__ void __launch_bounds__(kBlockColumns* kColumnThreads)
    columns_kernel(std::int64_t rows, std::int64_t columns, const Value value, const Finish finish) {
  using Sums = float[kColumnThreads][kBlockColumns];
  Sums& sums = cuda::shared_memory<Sums>();
  const std::int64_t c = std::int64_t{blockIdx.x} * kBlockColumns + threadIdx.x;
  float sum = 0;
  for (std::int64_t r = threadIdx.y; r < rows && c < columns; r += kColumnThreads) sum += value(r, c);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  float total = 0;
  for (unsigned y = 0; y < kColumnThreads; ++y) total += sums[y][threadIdx.x];
  finish(c, total);
}

/// Steps as plain kernels: a thread for each element, a block for each row, eight threads for each column.
class Gpu {
 public:
  using Row = BlockRow;

  explicit Gpu(Stream& stream) : stream_(&stream) {}

  template <typename Body>
  void for_each(std::int64_t count, const Body& body) const {
    cuda::launch(elements_kernel<Body>, {cuda::blocks_for(count, kElementThreads), kElementThreads}, *stream_, count,
                 body);
  }
  template <typename Body>
  void for_rows(std::int64_t rows, std::int64_t columns, const Body& body) const {
    const unsigned threads =
        std::bit_ceil(static_cast<unsigned>(std::clamp<std::int64_t>(columns, 32, kMaxRowThreads)));
    cuda::launch(rows_kernel<Body>, {static_cast<unsigned>(rows), threads, threads * sizeof(double)}, *stream_, body);
  }
  template <typename Value, typename Finish>
  void sum_columns(std::int64_t rows, std::int64_t columns, const Value& value, const Finish& finish) const {
    const dim3 block(kBlockColumns, kColumnThreads);
    cuda::launch(columns_kernel<Value, Finish>,
                 {cuda::blocks_for(columns, kBlockColumns), block, sizeof(float) * kBlockColumns * kColumnThreads},
                 *stream_, rows, columns, value, finish);
  }

 private:
  Stream* stream_;
};

}  // namespace dino::bench::textbook
