#pragma once

#include "engine/communicators/host_communicator.h"
#include "engine/communicators/mpi_module.h"

#include <functional>
#include <string>
#include <vector>

namespace dino {

/// Opens lib/libdino_mpi.so beside the program, or where it was built. Throws Error where there is none, or no MPI.
const DinoMpi& load_mpi_module();

/// Ranks that are processes of Open MPI, which brings the data over its network and ends all when one has died. Sums
/// are made here, in the order of the ranks, each rank its part of the elements.
class MpiCommunicator final : public HostCommunicator {
 public:
  MpiCommunicator(const DinoMpi& mpi, double timeout_s);
  /// MPI is finished properly unless an exception flies or a collective has failed: then its launcher ends the others
  /// when this process ends.
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_reduce_sum_host(const Array& values, std::string_view name) override;
  void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view name) override;
  void broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) override;
  void barrier(std::string_view name) override;
  void abort(std::string_view) noexcept override { failed_ = true; }

 private:
  /// Calls a function of the module and waits until what it has begun is done.
  void run(const std::function<const char*()>& begin, std::string_view name);
  void sum_piece(const Array& values, std::string_view name);

  const DinoMpi& mpi_;
  double timeout_s_;
  int exceptions_;
  int rank_ = 0, size_ = 1;
  bool failed_ = false;
  AlignedBuffer received_;
};

}  // namespace dino
