#include "tests/cublas/host_stream.h"

#include "tests/cublas/fake_cublas_lt.h"
#include "tests/simt/device.h"
#include "tests/support/every_stream.h"

#include <cstring>

namespace dino::simt {

/// Kernels run at once: nothing is recorded here.
void submit(Stream&, std::function<void()> work) { work(); }

}  // namespace dino::simt

namespace dino::test {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;

void* aligned(std::byte* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return memory + (kWorkspaceAlignment - address % kWorkspaceAlignment) % kWorkspaceAlignment;
}

}  // namespace

CublasHostStream::CublasHostStream()
    : HostMemoryStream(Device::cuda, 0, nullptr),
      workspace_(cuda::CublasLt::kWorkspaceBytes + kWorkspaceAlignment),
      cublas_lt_(fake_cublas_lt(), aligned(workspace_.data())) {}

CublasHostStream::~CublasHostStream() { simt::remove_reach(scratch_.data()); }

void* CublasHostStream::scratch(std::size_t size_bytes) {
  // Of the exact size, for the address sanitizer, and poisoned each time.
  simt::remove_reach(scratch_.data());
  scratch_ = AlignedBuffer(size_bytes);
  simt::add_reach(scratch_.data(), size_bytes);
  std::memset(scratch_.data(), 0xff, size_bytes);
  return scratch_.data();
}

void every_stream(const std::function<void(Stream&)>& body) {
  CublasHostStream stream;
  body(stream);
}

}  // namespace dino::test
