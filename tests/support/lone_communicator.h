#pragma once

#include "engine/communicator.h"

namespace dino::test {

/// A communicator of one rank whose collectives do nothing, for tests to override what they want to see or spoil.
class LoneCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(const Array&, Stream&, std::string_view) override {}
  void all_gather(const ConstArray&, const Array&, Stream&, std::string_view) override {}
  void broadcast(const Array&, int, Stream&, std::string_view) override {}
  void all_gather_host(std::span<const std::byte>, std::span<std::byte>, std::string_view) override {}
  void broadcast_host(std::span<std::byte>, int, std::string_view) override {}
  void barrier(std::string_view) override {}
  bool recordable() const override { return true; }
};

}  // namespace dino::test
