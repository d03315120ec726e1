#include "engine/context.h"
#include "engine/host_memory.h"
#include "kernels/common/error.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>

namespace dino {
namespace {

/// Addresses are reserved once; the kernel backs them with pages when they are first touched.
class CpuArena final : public Arena {
 public:
  CpuArena() {
    const auto pages = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES));
    const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    reserved_ = std::max<std::size_t>(std::min(pages * page_bytes, share_of_addresses()), kGrowth) / kGrowth * kGrowth;
    void* base = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) fail_short("addresses", reserved_, std::strerror(errno));
    base_ = static_cast<std::byte*>(base);
    madvise(base_, reserved_, MADV_HUGEPAGE);  // fewer TLB misses; only a hint
    set_range(base_, reserved_);
  }
  ~CpuArena() override { munmap(base_, reserved_); }

 private:
  static constexpr std::size_t kGrowth = std::size_t{64} << 20;

  /// Where `ulimit -v` counts addresses, it counts those that are only reserved too: some must be left for the rest of
  /// the program.
  static std::size_t share_of_addresses() {
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
    std::size_t mapped_pages = 0;
    std::ifstream("/proc/self/statm") >> mapped_pages;
    const std::size_t mapped = mapped_pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t left = limit.rlim_cur > mapped ? limit.rlim_cur - mapped : 0;
    const std::size_t for_the_rest = std::max(left / 4, kGrowth * 5);
    return left > for_the_rest ? left - for_the_rest : 0;
  }

  [[noreturn]] void fail_short(const char* what, std::size_t size_bytes, const char* reason) const {
    fail("arena",
         "out of memory: {} MiB more of {} asked for, {} MiB in use, {}: {}; try a smaller batch with more "
         "accumulation",
         size_bytes >> 20, what, used_bytes() >> 20, host_memory().to_string(), reason);
  }

  void commit(std::size_t end) override {
    if (end <= committed_) return;
    const std::size_t wanted = std::min(reserved_, (end + kGrowth - 1) / kGrowth * kGrowth);
    if (mprotect(base_ + committed_, wanted - committed_, PROT_READ | PROT_WRITE) != 0) {
      fail_short("memory", wanted - committed_, std::strerror(errno));
    }
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
