#include "engine/communicators/nccl.h"

#include "kernels/common/error.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>

namespace dino {
namespace {

ncclDataType_t nccl_type(DType dtype) {
  require(dtype == DType::float32 || dtype == DType::bfloat16, "communicator",
          "sums over ranks are of float32 or bfloat16; got {}", name_of(dtype));
  return dtype == DType::float32 ? ncclFloat32 : ncclBfloat16;
}

cudaStream_t handle_of(Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

void print_and_exit(const std::string& message) {
  std::fprintf(stderr, "dino_cuda: %s\n", message.c_str());
  _exit(1);
}

}  // namespace

NcclCommunicator::NcclCommunicator(const NcclApi& api, std::unique_ptr<HostCommunicator> host,
                                   std::unique_ptr<ProgressMarks> marks, NcclOptions options)
    : api_(api),
      host_(std::move(host)),
      marks_(std::move(marks)),
      options_(std::move(options)),
      exceptions_(std::uncaught_exceptions()),
      progress_at_(Clock::now()) {
  if (!options_.give_up) options_.give_up = print_and_exit;
  ncclUniqueId id{};
  if (rank() == 0) check(api_.get_unique_id(&id), "ncclGetUniqueId", "the start");
  host_->broadcast_host(std::as_writable_bytes(std::span(&id, 1)), 0, "NCCL's id");
  // It waits for all ranks, and cannot be aborted before it returns; a rank that dies is noticed by the host's ranks.
  check(api_.init_rank(&comm_, size(), id, rank()), "ncclCommInitRank", "the start");
  watch_ = std::thread([this] { watch(); });
}

NcclCommunicator::~NcclCommunicator() {
  const bool failing = std::uncaught_exceptions() > exceptions_;
  ncclComm_t comm = nullptr;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    comm = std::exchange(comm_, nullptr);
    changed_.notify_all();
  }
  if (watch_.joinable()) watch_.join();
  if (comm == nullptr) return;
  // To destroy it properly takes all ranks.
  const ncclResult_t status = failing ? api_.abort(comm) : api_.destroy(comm);
  if (status != ncclSuccess)
    std::fprintf(stderr, "dino_cuda: [communicator] NCCL ends with: %s\n", api_.error_string(status));
}

std::string NcclCommunicator::when() const {
  const std::lock_guard lock(mutex_);
  return step_ < 0 ? "before the first step" : fmt::format("at step {}", step_);
}

void NcclCommunicator::check(ncclResult_t status, const char* call, std::string_view name) {
  if (status == ncclSuccess) [[likely]]
    return;
  require_sound();
  const char* details = api_.last_error(comm_);
  fail("communicator", "{} failed at \"{}\" on rank {}, {}: {}{}{}; try NCCL_DEBUG=INFO, which tells more", call, name,
       rank(), when(), api_.error_string(status), details == nullptr || *details == '\0' ? "" : ": ",
       details == nullptr ? "" : details);
}

void NcclCommunicator::require_sound() {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) return;
  thrown_ = true;
  changed_.notify_all();
  fail("communicator", "{}", failure_);
}

void NcclCommunicator::mark(std::string_view name, Stream& stream) {
  int index = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto at = std::find(names_.begin(), names_.end(), name);
    index = static_cast<int>(at - names_.begin());
    if (at == names_.end()) {
      if (index == ProgressMarks::kMost) return;
      names_.emplace_back(name);
    }
  }
  marks_->put(index, stream);
}

void NcclCommunicator::all_reduce_sum(const Array& values, Stream& stream, std::string_view name) {
  require_sound();
  check(api_.all_reduce(values.data(), values.data(), static_cast<std::size_t>(values.size()),
                        nccl_type(values.dtype()), ncclSum, comm_, handle_of(stream)),
        "ncclAllReduce", name);
  mark(name, stream);
}

void NcclCommunicator::all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view name) {
  require_sound();
  require(all.size_bytes() == mine.size_bytes() * static_cast<std::size_t>(size()), "communicator",
          "\"{}\" gathers {} bytes from each of {} ranks; got room for {}", name, mine.size_bytes(), size(),
          all.size_bytes());
  check(api_.all_gather(mine.data(), all.data(), mine.size_bytes(), ncclUint8, comm_, handle_of(stream)),
        "ncclAllGather", name);
  mark(name, stream);
}

void NcclCommunicator::broadcast(const Array& values, int root, Stream& stream, std::string_view name) {
  require_sound();
  check(api_.broadcast(values.data(), values.data(), values.size_bytes(), ncclUint8, root, comm_, handle_of(stream)),
        "ncclBroadcast", name);
  mark(name, stream);
}

void NcclCommunicator::step_started(std::int64_t step) {
  require_sound();
  host_->step_started(step);
  const std::lock_guard lock(mutex_);
  if (under_way_++ == 0) progress_at_ = Clock::now();
  step_ = step;
}

void NcclCommunicator::step_finished(std::int64_t step) {
  require_sound();
  host_->step_finished(step);
  const std::lock_guard lock(mutex_);
  under_way_ = std::max(under_way_ - 1, 0);
  progress_at_ = Clock::now();
}

void NcclCommunicator::note_failure(const std::string& what) {
  // In this order: the others must not take the abort of NCCL for the cause.
  host_->abort(what);
  std::unique_lock lock(mutex_);
  failure_ = what;
  const ncclComm_t comm = std::exchange(comm_, nullptr);
  lock.unlock();
  // It frees the GPU at once, and comes back when no recorded step holds a collective any more: not before the thread
  // of the steps has noticed.
  std::thread aborting;
  if (comm != nullptr) aborting = std::thread([this, comm] { api_.abort(comm); });
  lock.lock();
  const auto noticed = [&] { return thrown_ || stop_; };
  const bool in_time = changed_.wait_for(lock, std::chrono::duration<double>(options_.grace_s), noticed);
  lock.unlock();
  if (!in_time) options_.give_up("[communicator] " + what);
  if (aborting.joinable()) aborting.join();
}

void NcclCommunicator::watch() {
  int seen = marks_->last();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    changed_.wait_for(lock, std::chrono::duration<double>(options_.poll_s), [&] { return stop_; });
    if (stop_) return;
    ncclResult_t status = ncclSuccess;
    const ncclResult_t asked = api_.async_error(comm_, &status);
    if (const int last = marks_->last(); last != seen) {
      seen = last;
      progress_at_ = Clock::now();
    }
    std::string what;
    const std::string step = step_ < 0 ? "before the first step" : fmt::format("at step {}", step_);
    if (asked != ncclSuccess || (status != ncclSuccess && status != ncclInProgress)) {
      const ncclResult_t cause = asked != ncclSuccess ? asked : status;
      const char* details = api_.last_error(comm_);
      what = fmt::format("NCCL failed on rank {}, {}: {}{}{}; try NCCL_DEBUG=INFO, which tells more, then --resume",
                         rank(), step, api_.error_string(cause), details == nullptr || *details == '\0' ? "" : ": ",
                         details == nullptr ? "" : details);
    } else if (under_way_ > 0 && Clock::now() - progress_at_ > std::chrono::duration<double>(options_.timeout_s)) {
      const auto count = static_cast<int>(names_.size());
      const std::string next =
          count == 0 ? "a collective" : fmt::format("\"{}\"", names_[static_cast<std::size_t>((seen + 1) % count)]);
      what = fmt::format(
          "{} timed out after {} s, {}: rank {} waited{}; try the logs of the other ranks, or a larger "
          "collective_timeout_s",
          next, options_.timeout_s, step, rank(),
          seen >= 0 && seen < count ? fmt::format(", having finished \"{}\"", names_[static_cast<std::size_t>(seen)])
                                    : "");
    }
    if (what.empty()) continue;
    lock.unlock();
    return note_failure(what);
  }
}

}  // namespace dino
