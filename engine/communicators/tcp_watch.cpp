// How the ranks of a TcpCommunicator hear of each other's ends: a thread that watches the control connections.
#include "engine/communicators/tcp.h"
#include "engine/communicators/tcp_wire.h"
#include "kernels/common/error.h"

#include <poll.h>
#include <unistd.h>

namespace dino {

using namespace tcp_wire;
using Clock = std::chrono::steady_clock;

void TcpCommunicator::send_control(Peer& to, int kind, std::string_view text) noexcept {
  if (!to.control) return;
  const ControlHeader header{static_cast<std::uint32_t>(kind), static_cast<std::uint32_t>(text.size())};
  // Short enough for the socket's buffer; who does not take it is gone or stuck.
  const Deadline soon = seconds_from_now(5);
  if (send_all(to.control, std::as_bytes(std::span(&header, 1)), soon))
    send_all(to.control, std::as_bytes(std::span(text)), soon);
}

void TcpCommunicator::note_failure(const std::string& what, int from) noexcept {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty() || stop_) return;
  failure_ = what;
  failed_at_ = Clock::now();
  for (int r = 0; r < size(); ++r) {
    if (r != from) send_control(peers_[static_cast<std::size_t>(r)], kAbort, what);
  }
  learnt_.notify_all();
  signal_event(wake_main_);
  signal_event(wake_watch_);
}

void TcpCommunicator::abort(std::string_view reason) noexcept {
  note_failure(fmt::format("rank {} (process {} on {}) failed: {}", rank(), getpid(), host_name(), reason), -1);
}

void TcpCommunicator::read_control(int from) {
  Peer& peer = peers_[static_cast<std::size_t>(from)];
  ControlHeader header;
  std::string text;
  const Deadline soon = seconds_from_now(5);
  bool whole = receive_all(peer.control, bytes_of(header), soon) && header.bytes <= kMostControlBytes;
  if (whole) {
    text.resize(header.bytes);
    whole = receive_all(peer.control, std::as_writable_bytes(std::span(text)), soon);
  }
  if (whole && header.kind == kAbort) return note_failure(text, from);
  if (whole && header.kind == kBye) {
    const std::lock_guard lock(mutex_);
    peer.finished = true;
    peer.control.close();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    peer.control.close();
  }
  note_failure(fmt::format("{} has ended, {}; the other ranks stop; try its log, then --resume", peer.name, when()),
               from);
}

void TcpCommunicator::watch() {
  while (true) {
    std::vector<pollfd> wanted{{wake_watch_.get(), POLLIN, 0}};
    std::vector<int> ranks;
    int wait_ms = -1;
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      for (int r = 0; r < size(); ++r) {
        const Peer& peer = peers_[static_cast<std::size_t>(r)];
        if (!peer.control) continue;
        wanted.push_back({peer.control.get(), POLLIN, 0});
        ranks.push_back(r);
      }
      if (!failure_.empty() && !thrown_) {
        const auto left = failed_at_ + std::chrono::duration<double>(options_.grace_s) - Clock::now();
        wait_ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(left).count()) + 1;
        if (wait_ms <= 0) {
          thrown_ = true;
          options_.give_up("[communicator] " + failure_);
          continue;
        }
      }
    }
    if (poll(wanted.data(), wanted.size(), wait_ms) <= 0) continue;
    if (wanted[0].revents != 0) {
      std::uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(wake_watch_.get(), &count, sizeof count);
    }
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      if (wanted[i + 1].revents != 0) read_control(ranks[i]);
    }
  }
}

void TcpCommunicator::fail_with(const std::string& what) {
  note_failure(what, -1);
  std::string first;
  {
    const std::lock_guard lock(mutex_);
    thrown_ = true;
    first = failure_.empty() ? what : failure_;
  }
  fail("communicator", "{}", first);
}

void TcpCommunicator::fail_for_lost(int peer, std::string_view name) {
  const Peer& lost = peers_[static_cast<std::size_t>(peer)];
  {
    std::unique_lock lock(mutex_);
    learnt_.wait_for(lock, std::chrono::seconds(3), [&] { return !failure_.empty() || lost.finished; });
    if (failure_.empty() && lost.finished) {
      lock.unlock();
      fail_with(
          fmt::format("{} has finished, while rank {} is at \"{}\", {}; try the same program, configuration and "
                      "data on every rank",
                      lost.name, rank(), name, when()));
    }
  }
  fail_with(fmt::format("{} has closed its connection at \"{}\", {}; the other ranks stop; try its log, then --resume",
                        lost.name, name, when()));
}

}  // namespace dino
