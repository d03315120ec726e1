#include "tests/device/test_stream.h"

#include "engine/context_cuda.h"
#include "kernels/common/cuda/check.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/test_memory.h"

#include <cstdio>

namespace dino::test {
namespace {

constexpr int kNotANumber = 0xff;

/// Managed memory lies on the GPU while a kernel uses it. Where the system does not migrate pages (containers, some
/// hypervisors), pinned host memory, which kernels reach over the bus, serves as well: slower.
bool has_managed_memory() {
  static const bool has = [] {
    int concurrent = 0;
    DINO_CUDA(cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, 0));
    void* trial = nullptr;
    const bool works = concurrent != 0 && cudaMallocManaged(&trial, 64) == cudaSuccess &&
                       cudaMemset(trial, 0, 64) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess;
    if (trial != nullptr) cudaFree(trial);
    cudaGetLastError();
    return works;
  }();
  return has;
}

}  // namespace

void* allocate_for_device(std::size_t size_bytes) {
  void* memory = nullptr;
  if (has_managed_memory()) {
    DINO_CUDA(cudaMallocManaged(&memory, size_bytes));
  } else {
    DINO_CUDA(cudaHostAlloc(&memory, size_bytes, cudaHostAllocDefault));
  }
  return memory;
}

void free_for_device(void* memory) noexcept { has_managed_memory() ? cudaFree(memory) : cudaFreeHost(memory); }

TestStream::TestStream(int ordinal) : CudaStream(ordinal) { observe(this); }

void TestStream::begin(const Operation& operation) { operations_.push_back(operation.name); }

void TestStream::end() noexcept {
  const std::string_view operation = operations_.back();
  operations_.pop_back();
  const cudaError_t status = cudaStreamSynchronize(static_cast<cudaStream_t>(handle()));
  if (status == cudaSuccess) return;
  // No exception comes out of here; the next call to CUDA meets the same.
  std::fprintf(stderr, "the GPU fails in %.*s: %s\n", static_cast<int>(operation.size()), operation.data(),
               cudaGetErrorString(status));
}

void* TestStream::scratch(std::size_t size_bytes) {
  void* memory = CudaStream::scratch(size_bytes);
  DINO_CUDA(cudaMemsetAsync(memory, kNotANumber, size_bytes, static_cast<cudaStream_t>(handle())));
  return memory;
}
void TestStream::copy_from_host(void* to, const void* host, std::size_t size_bytes) {
  CudaStream::copy_from_host(to, host, size_bytes);
  synchronize();
}
void TestStream::gather_from_host(void* to, std::span<const std::span<const std::byte>> parts) {
  CudaStream::gather_from_host(to, parts);
  synchronize();
}
void TestStream::copy(void* to, const void* from, std::size_t size_bytes) {
  CudaStream::copy(to, from, size_bytes);
  synchronize();
}
void TestStream::zero(void* to, std::size_t size_bytes) {
  CudaStream::zero(to, size_bytes);
  synchronize();
}

void every_stream(const std::function<void(Stream&)>& body) {
  INFO("on the GPU");
  TestStream stream(0);
  body(stream);
  stream.synchronize();
}

}  // namespace dino::test
