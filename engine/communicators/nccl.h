#pragma once

#include "engine/communicators/host_communicator.h"
#include "engine/communicators/nccl_api.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace dino {

/// Tells the host which collective a stream has finished last.
class ProgressMarks {
 public:
  static constexpr int kMost = 1024;
  virtual ~ProgressMarks() = default;
  /// Puts on the stream, as a recording may: `last()` is `mark` from then on. 0 <= mark < kMost.
  virtual void put(int mark, Stream& stream) = 0;
  /// -1 before the first.
  virtual int last() const = 0;
};

struct NcclOptions {
  double timeout_s = 600;
  double poll_s = 0.1;
  double grace_s = 20;
  /// Called where a collective has failed and this rank does not come to notice for `grace_s`; empty: prints it, and
  /// exit status 1.
  std::function<void(const std::string& message)> give_up = {};
};

/// NCCL between the GPUs of ranks that `host` has brought together. Collectives are put on the stream they are called
/// with and may be recorded.
///
/// A thread asks NCCL every `poll_s` whether something has gone wrong, and looks at the marks behind the collectives:
/// where neither a step nor a collective has finished for `timeout_s` although steps are under way, something hangs. It
/// then tells the other ranks, aborts NCCL, so that the GPU comes free, and ends the process if nothing else does.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const NcclApi& api, std::unique_ptr<HostCommunicator> host, std::unique_ptr<ProgressMarks> marks,
                   NcclOptions options);
  ~NcclCommunicator() override;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void all_reduce_sum(const Array& values, Stream& stream, std::string_view name) override;
  void all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view name) override;
  void broadcast(const Array& values, int root, Stream& stream, std::string_view name) override;
  void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view name) override {
    require_sound();
    host_->all_gather_host(mine, all, name);
  }
  void broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) override {
    require_sound();
    host_->broadcast_host(bytes, root, name);
  }
  void barrier(std::string_view name) override {
    require_sound();
    host_->barrier(name);
  }
  bool recordable() const override { return true; }
  void step_started(std::int64_t step) override;
  void step_finished(std::int64_t step) override;
  void abort(std::string_view reason) noexcept override { host_->abort(reason); }

 private:
  using Clock = std::chrono::steady_clock;

  /// Throws Error, naming the call, the collective and the step, unless NCCL is content.
  void check(ncclResult_t status, const char* call, std::string_view name);
  void require_sound();
  /// Puts the mark of a collective behind it.
  void mark(std::string_view name, Stream& stream);
  std::string when() const;
  void watch();
  void note_failure(const std::string& what);

  const NcclApi& api_;
  std::unique_ptr<HostCommunicator> host_;
  std::unique_ptr<ProgressMarks> marks_;
  NcclOptions options_;
  int exceptions_;
  ncclComm_t comm_ = nullptr;

  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::vector<std::string> names_;  // by mark, in the order in which they came first
  std::int64_t step_ = -1;
  int under_way_ = 0;              // steps
  Clock::time_point progress_at_;  // the last that was seen
  std::string failure_;
  bool thrown_ = false;
  bool stop_ = false;
  std::thread watch_;
};

}  // namespace dino
