#include "kernels/common/aligned_buffer.h"
#include "kernels/common/error.h"
#include "tests/simt/device.h"
#include "tests/support/test_memory.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define DINO_SIMT_ASAN 1
#endif

namespace dino::simt {
namespace {

namespace context = boost::context::detail;

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kFirstFrameBytes = 1024;  // more than Block::enter has
constexpr unsigned kWarp = 32;

enum class State : std::uint8_t { ready, at_barrier, in_warp, finished };

/// Stacks of fibres, used again from block to block. Below each lies a page that must not be touched.
class Stacks {
 public:
  static constexpr std::size_t kGuardBytes = 4096;

  std::byte* bottom(std::size_t i) {
    while (stacks_.size() <= i) {
      void* memory =
          mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      require(memory != MAP_FAILED && mprotect(memory, kGuardBytes, PROT_NONE) == 0, "simt", "no memory for a stack");
      stacks_.push_back(static_cast<std::byte*>(memory) + kGuardBytes);
    }
    return stacks_[i];
  }
  /// After fibres were given up in the middle: they leave their frames' guards behind.
  void clean() {
#ifdef DINO_SIMT_ASAN
    for (std::byte* stack : stacks_) __asan_unpoison_memory_region(stack, kStackBytes);
#endif
  }

 private:
  std::vector<std::byte*> stacks_;  // for the life of the process
};

/// An asynchronous copy that has not happened yet.
struct Copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::size_t bytes = 0;  // copied; zeros follow
  std::size_t size = 0;
  std::size_t group = 0;

  void perform() const {
    if (bytes > 0) std::memcpy(to, from, bytes);
    std::memset(to + bytes, 0, size - bytes);
  }
};

struct Thread {
  ThreadView view;
  context::fcontext_t place = nullptr;  // where it goes on
  std::byte* stack = nullptr;
  State state = State::ready;
  unsigned mask = 0;                            // of the warp operation it waits in
  std::uint64_t value = 0;                      // that it gives to it
  std::array<std::uint64_t, kWarp> received{};  // that the lanes gave to the last one
  std::vector<Copy> copies;                     // in the order of their groups
  std::size_t groups = 0;                       // of copies, that are complete
  void* fake_stack = nullptr;                   // the address sanitizer's
};

/// One block, from its first thread to the last.
class Block {
 public:
  Block(const dim3& grid, const dim3& size, uint3 index, std::size_t shared_bytes, const std::function<void()>& kernel,
        Stacks& stacks, Schedule schedule, std::uint32_t seed);

  void run();

  void barrier();
  const std::uint64_t* exchange(unsigned mask, std::uint64_t value);
  const ThreadView& current_view() const { return threads_[current_].view; }
  Thread& current_thread() { return threads_[current_]; }

 private:
  static void enter(context::transfer_t from);
  /// Runs the threads of a warp until each has ended or waits for another warp. False: none could run.
  bool run_warp(std::size_t warp);
  void resume(std::size_t index);
  void yield();
  [[noreturn]] void report_deadlock() const;

  std::vector<Thread> threads_;
  std::unique_ptr<std::byte, void (*)(void*)> shared_{nullptr, std::free};
  const std::function<void()>& kernel_;
  Schedule schedule_;
  std::mt19937 random_;
  std::size_t current_ = 0;
  std::size_t at_barrier_ = 0;
  std::size_t finished_ = 0;
  std::exception_ptr failure_;
  context::fcontext_t scheduler_ = nullptr;
#ifdef DINO_SIMT_ASAN
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
#endif
};

/// Memory that kernels may be given, by its address.
std::map<std::uintptr_t, std::size_t>& reaches() {
  static std::map<std::uintptr_t, std::size_t> the_reaches;
  return the_reaches;
}

Block* current_block = nullptr;
Schedule current_schedule = Schedule::ascending;
std::size_t shared_limit = std::size_t{227} << 10;

Block::Block(const dim3& grid, const dim3& size, uint3 index, std::size_t shared_bytes,
             const std::function<void()>& kernel, Stacks& stacks, Schedule schedule, std::uint32_t seed)
    : threads_(std::size_t{size.x} * size.y * size.z), kernel_(kernel), schedule_(schedule), random_(seed) {
  // Allocated in its exact size, so that the address sanitizer sees what lies outside; NaN until it is written.
  constexpr std::size_t kAlignment = 128;
  if (shared_bytes > 0) {
    void* memory = nullptr;
    require(posix_memalign(&memory, kAlignment, shared_bytes) == 0, "simt", "out of memory");
    std::memset(memory, 0xff, shared_bytes);
    shared_.reset(static_cast<std::byte*>(memory));
  }
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    const auto n = static_cast<unsigned>(i);
    Thread& thread = threads_[i];
    thread.view = {.thread_index = {n % size.x, n / size.x % size.y, n / size.x / size.y},
                   .block_index = index,
                   .block_size = size,
                   .grid_size = grid,
                   .shared = shared_.get(),
                   .shared_bytes = shared_bytes};
    thread.stack = stacks.bottom(i);
#ifdef DINO_SIMT_ASAN
    // The first function is never returned from, and leaves its frame's guards behind.
    __asan_unpoison_memory_region(thread.stack + kStackBytes - kFirstFrameBytes, kFirstFrameBytes);
#endif
    thread.place = context::make_fcontext(thread.stack + kStackBytes, kStackBytes, &Block::enter);
  }
}

/// The first function of a fibre. It is left for good by a jump, so nothing in it may need a destructor.
void Block::enter(context::transfer_t from) {
  auto* block = static_cast<Block*>(from.data);
  block->scheduler_ = from.fctx;
#ifdef DINO_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_stack_, &block->scheduler_stack_bytes_);
#endif
  try {
    block->kernel_();
  } catch (...) {
    block->failure_ = std::current_exception();
  }
  block->threads_[block->current_].state = State::finished;
  ++block->finished_;
#ifdef DINO_SIMT_ASAN
  __sanitizer_start_switch_fiber(nullptr, block->scheduler_stack_, block->scheduler_stack_bytes_);
#endif
  context::jump_fcontext(block->scheduler_, nullptr);
  std::abort();
}

void Block::resume(std::size_t index) {
  current_ = index;
  Thread& thread = threads_[index];
#ifdef DINO_SIMT_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, thread.stack, kStackBytes);
#endif
  thread.place = context::jump_fcontext(thread.place, this).fctx;
#ifdef DINO_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Block::yield() {
#ifdef DINO_SIMT_ASAN
  Thread& thread = threads_[current_];
  __sanitizer_start_switch_fiber(&thread.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
  scheduler_ = context::jump_fcontext(scheduler_, nullptr).fctx;
#ifdef DINO_SIMT_ASAN
  __sanitizer_finish_switch_fiber(thread.fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

bool Block::run_warp(std::size_t warp) {
  bool ran = false;
  std::array<std::size_t, kWarp> lanes;
  for (std::size_t i = 0; i < kWarp; ++i) lanes[i] = schedule_ == Schedule::descending ? kWarp - 1 - i : i;
  for (bool again = true; again;) {
    again = false;
    if (schedule_ == Schedule::shuffled) std::shuffle(lanes.begin(), lanes.end(), random_);
    for (const std::size_t lane : lanes) {
      const std::size_t i = warp * kWarp + lane;
      if (i >= threads_.size() || threads_[i].state != State::ready) continue;
      resume(i);
      if (failure_) std::rethrow_exception(failure_);
      ran = again = true;
    }
  }
  return ran;
}

void Block::run() {
  const std::size_t warps = (threads_.size() + kWarp - 1) / kWarp;
  std::vector<std::size_t> order(warps);
  for (std::size_t i = 0; i < warps; ++i) order[i] = schedule_ == Schedule::descending ? warps - 1 - i : i;
  while (finished_ < threads_.size()) {
    if (schedule_ == Schedule::shuffled) std::shuffle(order.begin(), order.end(), random_);
    // The first warp that can go on does, as far as it gets: a missing barrier lets it run ahead of the others.
    if (std::none_of(order.begin(), order.end(), [&](std::size_t warp) { return run_warp(warp); })) report_deadlock();
  }
}

void Block::barrier() {
  threads_[current_].state = State::at_barrier;
  if (++at_barrier_ < threads_.size()) {
    yield();
    return;
  }
  at_barrier_ = 0;
  for (Thread& thread : threads_) thread.state = State::ready;
}

const std::uint64_t* Block::exchange(unsigned mask, std::uint64_t value) {
  const std::size_t first = current_ / kWarp * kWarp;
  Thread& thread = threads_[current_];
  require((mask >> (current_ - first) & 1U) != 0, "simt", "lane {} is not in its own mask {:#010x}", current_ - first,
          mask);
  thread.value = value;
  thread.mask = mask;
  thread.state = State::in_warp;
  const auto each_lane = [&](auto&& body) {
    for (unsigned i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1U) != 0) body(i);
    }
  };
  std::array<std::uint64_t, kWarp> values{};
  bool complete = true;
  each_lane([&](unsigned i) {
    const bool arrived =
        first + i < threads_.size() && threads_[first + i].state == State::in_warp && threads_[first + i].mask == mask;
    complete = complete && arrived;
    if (arrived) values[i] = threads_[first + i].value;
  });
  if (complete) {
    each_lane([&](unsigned i) {
      threads_[first + i].received = values;
      threads_[first + i].state = State::ready;
    });
  } else {
    yield();
  }
  return thread.received.data();
}

void Block::report_deadlock() const {
  std::string text;
  int shown = 0;
  const auto count = [&](State state) {
    std::size_t n = 0;
    for (const Thread& thread : threads_) n += thread.state == state ? 1 : 0;
    return n;
  };
  for (std::size_t i = 0; i < threads_.size() && shown < 4; ++i) {
    if (threads_[i].state == State::finished) continue;
    text += fmt::format(" thread {} {};", i, threads_[i].state == State::at_barrier ? "at a barrier" : "in its warp");
    ++shown;
  }
  fail("simt",
       "divergent: {} threads wait at a barrier and {} in their warps for threads that do not come, {} have ended;{}",
       count(State::at_barrier), count(State::in_warp), count(State::finished), text);
}

/// Makes a block the one that this_thread() speaks of.
class CurrentBlock {
 public:
  explicit CurrentBlock(Block& block) : before_(current_block) { current_block = &block; }
  ~CurrentBlock() { current_block = before_; }
  CurrentBlock(const CurrentBlock&) = delete;
  CurrentBlock& operator=(const CurrentBlock&) = delete;

 private:
  Block* before_;
};

}  // namespace

const ThreadView& this_thread() { return current_block->current_view(); }

void set_schedule(Schedule schedule) { current_schedule = schedule; }

std::size_t most_shared_bytes() { return shared_limit; }
void set_most_shared_bytes(std::size_t size_bytes) { shared_limit = size_bytes; }

void check_launch(const dim3& grid, const dim3& block, std::size_t shared_bytes) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  constexpr std::size_t kMaxThreads = 1024;
  constexpr unsigned kMaxDepth = 64;    // of a block, along z
  constexpr unsigned kMaxGrid = 65535;  // along y and z
  require(threads >= 1 && threads <= kMaxThreads, "simt", "a block has 1 to {} threads; got {}", kMaxThreads, threads);
  require(block.z <= kMaxDepth, "simt", "a block has at most {} layers of threads; got {}", kMaxDepth, block.z);
  require(grid.x <= 0x7fffffffU && grid.y <= kMaxGrid && grid.z <= kMaxGrid, "simt",
          "a grid has at most 2^31 - 1 by {} by {} blocks; got {} by {} by {}", kMaxGrid, kMaxGrid, grid.x, grid.y,
          grid.z);
  require(shared_bytes <= shared_limit, "simt", "a block has at most {} bytes of shared memory; got {}", shared_limit,
          shared_bytes);
}

void run_grid(const dim3& grid, const dim3& block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  check_launch(grid, block, shared_bytes);
  static Stacks stacks;
  // No order of blocks is promised: what needs one fails in at least one of the schedules.
  std::vector<std::size_t> order(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (current_schedule == Schedule::descending) std::reverse(order.begin(), order.end());
  if (current_schedule == Schedule::shuffled) std::shuffle(order.begin(), order.end(), std::mt19937());
  std::uint32_t seed = 0;
  for (const std::size_t i : order) {
    const uint3 index{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                      static_cast<unsigned>(i / grid.x / grid.y)};
    Block current(grid, block, index, shared_bytes, kernel, stacks, current_schedule, ++seed);
    const CurrentBlock guard(current);
    try {
      current.run();
    } catch (...) {
      stacks.clean();
      throw;
    }
  }
}

void add_reach(const void* begin, std::size_t size_bytes) {
  reaches()[reinterpret_cast<std::uintptr_t>(begin)] = size_bytes;
}

void remove_reach(const void* begin) { reaches().erase(reinterpret_cast<std::uintptr_t>(begin)); }

void require_within_reach(const void* argument, std::size_t size_bytes) {
  // Below lie numbers, two of them in a word, and the shadow of the address sanitizer.
  constexpr std::uintptr_t kLeast = std::uintptr_t{1} << 45, kMost = std::uintptr_t{1} << 47, kPage = 4096;
  for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= size_bytes; at += sizeof(std::uintptr_t)) {
    std::uintptr_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(argument) + at, sizeof word);
    if (word < kLeast || word >= kMost) continue;
    auto reach = reaches().upper_bound(word);
    if (reach != reaches().begin() && word <= std::prev(reach)->first + std::prev(reach)->second) continue;
    unsigned char resident = 0;
    const bool mapped = mincore(reinterpret_cast<void*>(word / kPage * kPage), 1, &resident) == 0;
    require(!mapped, "simt", "a kernel is given the address {:#x} of host memory, which a GPU does not reach", word);
  }
}

void block_barrier() { current_block->barrier(); }

const std::uint64_t* exchange_in_warp(unsigned mask, std::uint64_t value) {
  return current_block->exchange(mask, value);
}

void queue_copy(void* to, const void* from, std::size_t bytes, std::size_t size) {
  if (bytes > size) fail_in_kernel("an asynchronous copy reads more than it writes");
  Thread& thread = current_block->current_thread();
  const Copy copy{.to = static_cast<std::byte*>(to),
                  .from = static_cast<const std::byte*>(from),
                  .bytes = bytes,
                  .size = size,
                  .group = thread.groups};
  if (current_schedule == Schedule::descending) {
    copy.perform();
  } else {
    thread.copies.push_back(copy);
  }
}

void commit_copies() { ++current_block->current_thread().groups; }

void wait_for_copies(std::size_t pending) {
  Thread& thread = current_block->current_thread();
  const auto waited_for = [&](const Copy& copy) { return copy.group + pending < thread.groups; };
  for (const Copy& copy : thread.copies) {
    if (!waited_for(copy)) break;
    copy.perform();
  }
  std::erase_if(thread.copies, waited_for);
}

void require_aligned(const void* address, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    fail_in_kernel("an access to an address that is not a multiple of its size");
  }
}

void require_shared(const void* address, std::size_t size) {
  const ThreadView& thread = this_thread();
  const auto begin = reinterpret_cast<std::uintptr_t>(thread.shared);
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  if (at < begin || at + size > begin + thread.shared_bytes) {
    fail_in_kernel("an instruction for shared memory is given an address outside of it");
  }
}

unsigned lane() {
  const ThreadView& thread = this_thread();
  const unsigned index = thread.thread_index.x +
                         thread.block_size.x * (thread.thread_index.y + thread.block_size.y * thread.thread_index.z);
  return index % kWarp;
}

void fail_in_kernel(const char* what) { fail("simt", "{}", what); }

}  // namespace dino::simt

namespace dino::test {

// In place of memory that a GPU and the host share.
void* allocate_for_device(std::size_t size_bytes) {
  void* memory = std::aligned_alloc(64, size_bytes);
  if (memory != nullptr) simt::add_reach(memory, size_bytes);
  return memory;
}
void free_for_device(void* memory) noexcept {
  simt::remove_reach(memory);
  std::free(memory);
}

}  // namespace dino::test
