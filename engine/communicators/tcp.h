#pragma once

#include "engine/communicators/host_communicator.h"
#include "engine/communicators/socket.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace dino {

struct TcpOptions {
  int rank = 0, size = 1;
  std::string address = "127.0.0.1";  // of rank 0
  int port = 0;
  Socket listener = {};  // of rank 0, where it listens on `port` already
  std::string key = {};  // the same on all ranks of a run; who comes with another one is turned away
  double timeout_s = 600;
  /// Called where a rank is gone and this one does not get to a collective for `grace_s`: says so and ends the process.
  std::function<void(const std::string& message)> give_up = {};  // empty: prints it, and exit status 1
  double grace_s = 20;
};

/// Ranks that are processes on one or several machines, over TCP. Needs no library and no launcher: rank 0 listens, the
/// others know its address.
///
/// Every two ranks share a connection for data; sums are made in the order of the ranks, each rank its part of the
/// elements. A second connection of each rank with rank 0 is watched by a thread: it carries the reason why a rank
/// ends, and its end without one is the death of a process, or within 40 s of a machine. Whatever else connects is
/// turned away, and cannot hold up or end the run without its key. Data are neither encrypted nor signed: for networks
/// that one trusts.
class TcpCommunicator final : public HostCommunicator {
 public:
  /// Returns when all ranks have found each other. Throws Error at the time limit, naming those that did not come.
  explicit TcpCommunicator(TcpOptions options);
  /// While an exception flies, tells the others that this rank has failed.
  ~TcpCommunicator() override;

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  void all_reduce_sum_host(const Array& values, std::string_view name) override;
  void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view name) override;
  void broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) override;
  void barrier(std::string_view name) override;
  void abort(std::string_view reason) noexcept override;

 private:
  struct Peer {
    Socket data, control;  // control: with rank 0 only
    std::string name;      // `rank 2 (process 17 on node5)`
    bool finished = false;
  };
  /// What goes to and comes from a peer in one exchange.
  struct Transfer {
    int peer = 0;
    std::span<const std::byte> out = {};
    std::span<std::byte> in = {};
    bool sends = true, receives = true;
  };
  struct Moving;

  void meet_as_first(const std::string& host);
  void meet_as_other(const std::string& host);
  void connect_peers(const Socket& listener, Deadline deadline);

  void exchange(std::span<const Transfer> transfers, std::string_view name);
  void move(Moving& moving, std::string_view name);
  /// The same bytes from and to each peer.
  std::vector<Transfer> to_all(std::span<const std::byte> out, std::span<std::byte> in_all) const;

  void watch();
  void read_control(int from);
  void send_control(Peer& to, int kind, std::string_view text) noexcept;
  /// Notes the first failure, and passes it on. `from`: the rank that it is known from, -1 for this one.
  void note_failure(const std::string& what, int from) noexcept;
  [[noreturn]] void fail_with(const std::string& what);
  /// After the end of a peer's data: for the reason that the watch learns.
  [[noreturn]] void fail_for_lost(int peer, std::string_view name);

  TcpOptions options_;
  int exceptions_;
  std::vector<Peer> peers_;  // by rank; that of this rank is empty
  AlignedBuffer received_;
  std::uint32_t sequence_ = 0;

  std::mutex mutex_;  // of all below, and of sending on control connections
  std::condition_variable learnt_;
  std::string failure_;
  bool thrown_ = false;
  Deadline failed_at_;
  Socket wake_main_, wake_watch_;  // eventfds
  bool stop_ = false;
  std::thread watch_;
};

}  // namespace dino
