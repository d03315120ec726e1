#pragma once

#include "engine/communicator.h"
#include "kernels/common/aligned_buffer.h"

#include <atomic>
#include <span>
#include <string>

namespace dino {

/// Collectives through host memory. Arrays of a GPU are copied to the host and back; that cannot be recorded.
class HostCommunicator : public Communicator {
 public:
  void all_reduce_sum(const Array& values, Stream& stream, std::string_view name) final;
  void all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view name) final;
  void broadcast(const Array& values, int root, Stream& stream, std::string_view name) final;
  void step_started(std::int64_t step) override { step_ = step; }

  /// The same as all_reduce_sum() for arrays in host memory.
  virtual void all_reduce_sum_host(const Array& values, std::string_view name) = 0;

 protected:
  /// `at step 17`, or `before the first step`: for messages.
  std::string when() const;

 private:
  /// Room on the host for an array of a device.
  Array staged(const ConstArray& array);

  AlignedBuffer staging_;
  std::atomic<std::int64_t> step_ = -1;
};

/// out = the sum of `parts` (each out.size() elements of its type), added up in fp32 in their order and rounded once.
/// `out` may be one of them.
void sum_in_order(std::span<const std::byte* const> parts, const Array& out);

/// `ranks 1, 2 and 5`, `rank 3`; of many, the first few and how many more.
std::string list_of_ranks(std::span<const int> ranks);

/// Throws Error: one rank is at another collective than this one.
[[noreturn]] void fail_mismatch(int rank, std::string_view theirs, std::string_view ours, std::string_view when);

}  // namespace dino
