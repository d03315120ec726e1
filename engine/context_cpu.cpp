#include "engine/context.h"
#include "kernels/common/error.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace dino {
namespace {

/// Addresses are reserved once; the kernel backs them with pages when they are first touched.
class CpuArena final : public Arena {
 public:
  CpuArena() {
    const auto pages = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES));
    const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    reserved_ = std::max<std::size_t>(pages * page_bytes, kGrowth) / kGrowth * kGrowth;
    void* base = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(base != MAP_FAILED, "arena", "cannot reserve {} MiB of addresses: {}", reserved_ >> 20,
            std::strerror(errno));
    base_ = static_cast<std::byte*>(base);
    madvise(base_, reserved_, MADV_HUGEPAGE);  // fewer TLB misses; only a hint
    set_range(base_, reserved_);
  }
  ~CpuArena() override { munmap(base_, reserved_); }

 private:
  static constexpr std::size_t kGrowth = std::size_t{64} << 20;

  void commit(std::size_t end) override {
    if (end <= committed_) return;
    const std::size_t wanted = std::min(reserved_, (end + kGrowth - 1) / kGrowth * kGrowth);
    require(mprotect(base_ + committed_, wanted - committed_, PROT_READ | PROT_WRITE) == 0, "arena",
            "out of memory: cannot grow from {} to {} MiB: {}; try a smaller batch with more accumulation",
            committed_ >> 20, wanted >> 20, std::strerror(errno));
    committed_ = wanted;
  }

  std::byte* base_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t committed_ = 0;
};

}  // namespace

std::unique_ptr<Context> make_cpu_context() {
  return std::make_unique<Context>(make_cpu_stream(), std::make_shared<CpuArena>());
}

}  // namespace dino
