#include "engine/communicators/threads.h"

#include "kernels/common/error.h"
#include "kernels/common/parallel.h"

#include <chrono>
#include <cstring>
#include <exception>

namespace dino {

ThreadGroup::ThreadGroup(int ranks, double timeout_s) : timeout_s_(timeout_s) {
  require(ranks >= 1, "communicator", "a run has at least one rank; got {}", ranks);
  for (std::vector<Slot>& slots : slots_) slots.resize(static_cast<std::size_t>(ranks));
}

ThreadCommunicator::ThreadCommunicator(ThreadGroup& group, int rank)
    : group_(group), rank_(rank), exceptions_(std::uncaught_exceptions()) {
  require(rank >= 0 && rank < group.size(), "communicator", "the rank must lie in [0, {}); got {}", group.size(), rank);
}

ThreadCommunicator::~ThreadCommunicator() {
  if (std::uncaught_exceptions() > exceptions_) abort("it ended by an error");
}

void ThreadCommunicator::abort(std::string_view reason) noexcept {
  const std::lock_guard lock(group_.mutex_);
  if (group_.failure_.empty()) group_.failure_ = fmt::format("rank {} failed: {}", rank_, reason);
  group_.changed_.notify_all();
}

const std::vector<ThreadGroup::Slot>& ThreadCommunicator::meet(std::byte* data, std::size_t size_bytes,
                                                               std::string_view name) {
  std::unique_lock lock(group_.mutex_);
  const auto fail_if_failed = [&] {
    if (!group_.failure_.empty()) fail("communicator", "{}, {}", group_.failure_, when());
  };
  fail_if_failed();
  const std::uint64_t generation = group_.generation_;
  std::vector<ThreadGroup::Slot>& slots = group_.slots_[generation % 2];
  slots[static_cast<std::size_t>(rank_)] = {std::string(name), data, size_bytes, true};
  if (++group_.arrived_ == size()) {
    for (int r = 0; r < size(); ++r) {
      const ThreadGroup::Slot& slot = slots[static_cast<std::size_t>(r)];
      if (slot.name == name && slot.size_bytes == size_bytes) continue;
      group_.failure_ = fmt::format("rank {} does \"{}\" with {} bytes, rank {} \"{}\" with {}", r, slot.name,
                                    slot.size_bytes, rank_, name, size_bytes);
    }
    group_.arrived_ = 0;
    for (ThreadGroup::Slot& slot : slots) slot.arrived = false;
    if (group_.failure_.empty()) ++group_.generation_;
    group_.changed_.notify_all();
  } else {
    const auto limit = std::chrono::duration<double>(group_.timeout_s_);
    group_.changed_.wait_for(lock, limit, [&] { return group_.generation_ != generation || !group_.failure_.empty(); });
    if (group_.generation_ == generation && group_.failure_.empty()) {
      std::vector<int> missing;
      for (int r = 0; r < size(); ++r) {
        if (!slots[static_cast<std::size_t>(r)].arrived) missing.push_back(r);
      }
      group_.failure_ = fmt::format("\"{}\" timed out after {} s: {} did not arrive", name, group_.timeout_s_,
                                    list_of_ranks(missing));
      group_.changed_.notify_all();
    }
  }
  // What failed after all had met concerns the next meeting.
  if (group_.generation_ == generation) fail_if_failed();
  return slots;
}

void ThreadCommunicator::all_reduce_sum_host(const Array& values, std::string_view name) {
  const auto& slots = meet(static_cast<std::byte*>(values.data()), values.size_bytes(), name);
  const std::size_t element = size_of(values.dtype());
  {
    const std::lock_guard lock(group_.mutex_);
    if (group_.sums_.size() < values.size_bytes()) group_.sums_ = AlignedBuffer(values.size_bytes());
  }
  // Each rank sums its part of the elements.
  const auto [begin, end] = thread_range(values.size(), rank_, size());
  const std::size_t offset = static_cast<std::size_t>(begin) * element;
  std::vector<const std::byte*> parts;
  for (const ThreadGroup::Slot& slot : slots) parts.push_back(slot.data + offset);
  sum_in_order(parts, Array(group_.sums_.data() + offset, values.dtype(), Shape{end - begin}));
  meet(nullptr, 0, name);
  std::memcpy(values.data(), group_.sums_.data(), values.size_bytes());
  meet(nullptr, 0, name);
}

void ThreadCommunicator::all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all,
                                         std::string_view name) {
  require(all.size() == mine.size() * static_cast<std::size_t>(size()), "communicator",
          "\"{}\" gathers {} bytes from each of {} ranks; got room for {}", name, mine.size(), size(), all.size());
  const auto& slots = meet(const_cast<std::byte*>(mine.data()), mine.size(), name);  // only read
  for (std::size_t r = 0; r < slots.size(); ++r) {
    std::byte* to = all.data() + r * mine.size();
    if (!mine.empty() && to != slots[r].data) std::memcpy(to, slots[r].data, mine.size());
  }
  meet(nullptr, 0, name);
}

void ThreadCommunicator::broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) {
  const auto& slots = meet(bytes.data(), bytes.size(), name);
  if (rank_ != root && !bytes.empty())
    std::memcpy(bytes.data(), slots[static_cast<std::size_t>(root)].data, bytes.size());
  meet(nullptr, 0, name);
}

void ThreadCommunicator::barrier(std::string_view name) { meet(nullptr, 0, name); }

}  // namespace dino
