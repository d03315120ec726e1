#pragma once

#include "engine/communicator.h"

namespace dino {

/// The first of some ranks, which has nothing to say to the others: its collectives do nothing. For a rehearsal, which
/// needs no numbers, and for tests, which override what they want to see or spoil.
class SilentRank : public Communicator {
 public:
  explicit SilentRank(int ranks = 1) : ranks_(ranks) {}
  int rank() const override { return 0; }
  int size() const override { return ranks_; }
  void all_reduce_sum(const Array&, Stream&, std::string_view) override {}
  void all_gather(const ConstArray&, const Array&, Stream&, std::string_view) override {}
  void broadcast(const Array&, int, Stream&, std::string_view) override {}
  void all_gather_host(std::span<const std::byte>, std::span<std::byte>, std::string_view) override {}
  void broadcast_host(std::span<std::byte>, int, std::string_view) override {}
  void barrier(std::string_view) override {}
  bool recordable() const override { return true; }

 private:
  int ranks_;
};

}  // namespace dino
