#pragma once

#include "engine/communicators/host_communicator.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

namespace dino {

/// What the ranks of a run share that are threads of this process.
class ThreadGroup {
 public:
  explicit ThreadGroup(int ranks, double timeout_s = 600);
  int size() const { return static_cast<int>(slots_[0].size()); }

 private:
  friend class ThreadCommunicator;
  struct Slot {
    std::string name;
    std::byte* data = nullptr;
    std::size_t size_bytes = 0;
    bool arrived = false;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Slot> slots_[2];  // of this meeting and the one before, which a slow rank still reads
  int arrived_ = 0;
  std::uint64_t generation_ = 0;
  std::string failure_;  // empty: none
  AlignedBuffer sums_;
  double timeout_s_;
};

/// A rank that is a thread: for tests. Sums are made in the order of the ranks. A rank whose communicator goes while an
/// exception flies has failed.
class ThreadCommunicator final : public HostCommunicator {
 public:
  /// The group must outlive it.
  ThreadCommunicator(ThreadGroup& group, int rank);
  ~ThreadCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  void all_reduce_sum_host(const Array& values, std::string_view name) override;
  void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view name) override;
  void broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) override;
  void barrier(std::string_view name) override;
  void abort(std::string_view reason) noexcept override;

 private:
  /// Shows the others where `data` is and waits until all have done so with as many bytes. What they show is valid
  /// until the next meeting has ended.
  const std::vector<ThreadGroup::Slot>& meet(std::byte* data, std::size_t size_bytes, std::string_view name);

  ThreadGroup& group_;
  int rank_;
  int exceptions_;  // that flew when it was made
};

}  // namespace dino
