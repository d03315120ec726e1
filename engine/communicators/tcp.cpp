#include "engine/communicators/tcp.h"

#include "engine/communicators/tcp_wire.h"
#include "kernels/common/error.h"
#include "kernels/common/parallel.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

namespace dino {
namespace {

using namespace tcp_wire;
using Clock = std::chrono::steady_clock;

void print_and_exit(const std::string& message) {
  std::fprintf(stderr, "dino_cuda: %s\n", message.c_str());
  _exit(1);
}

}  // namespace

TcpCommunicator::TcpCommunicator(TcpOptions options)
    : options_(std::move(options)),
      exceptions_(std::uncaught_exceptions()),
      peers_(static_cast<std::size_t>(std::max(options_.size, 1))),
      wake_main_(make_event()),
      wake_watch_(make_event()) {
  require(options_.size >= 1 && options_.rank >= 0 && options_.rank < options_.size, "communicator",
          "the rank must lie in [0, {}); got {}", options_.size, options_.rank);
  require(wake_main_ && wake_watch_, "communicator", "cannot make an event: {}", std::strerror(errno));
  if (!options_.give_up) options_.give_up = print_and_exit;
  if (options_.size == 1) return;
  const std::string host = host_name();
  options_.rank == 0 ? meet_as_first(host) : meet_as_other(host);
  watch_ = std::thread([this] { watch(); });
}

TcpCommunicator::~TcpCommunicator() {
  if (!watch_.joinable()) return;
  if (std::uncaught_exceptions() > exceptions_) abort("it ended by an error");
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (Peer& peer : peers_) send_control(peer, kBye, {});
  }
  signal_event(wake_watch_);
  watch_.join();
}

/// The state of a transfer under way.
struct TcpCommunicator::Moving {
  const Transfer& transfer;
  Frame out_frame;
  Frame in_frame = {};
  std::size_t sent = 0, got = 0;  // bytes, frame included

  bool sending() const { return transfer.sends && sent < sizeof(Frame) + transfer.out.size(); }
  bool receiving() const { return transfer.receives && got < sizeof(Frame) + transfer.in.size(); }
};

void TcpCommunicator::move(Moving& moving, std::string_view name) {
  const Transfer& transfer = moving.transfer;
  const int socket = peers_[static_cast<std::size_t>(transfer.peer)].data.get();
  const auto lost = [&](ssize_t moved) {
    if (moved > 0) return false;
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return true;
    fail_for_lost(transfer.peer, name);
  };
  while (moving.receiving()) {
    const bool in_frame = moving.got < sizeof(Frame);
    const auto rest =
        in_frame ? bytes_of(moving.in_frame).subspan(moving.got) : transfer.in.subspan(moving.got - sizeof(Frame));
    const ssize_t got = recv(socket, rest.data(), rest.size(), 0);
    if (lost(got)) break;
    moving.got += static_cast<std::size_t>(got);
    if (in_frame && moving.got == sizeof(Frame)) {
      const Frame& frame = moving.in_frame;
      const std::string& peer = peers_[static_cast<std::size_t>(transfer.peer)].name;
      if (frame.magic != kFrameMagic) {
        fail_with(fmt::format("{} sends what is no data of this program, {}", peer, when()));
      }
      if (frame.sequence != moving.out_frame.sequence || text_of(frame.name) != text_of(moving.out_frame.name) ||
          frame.bytes != transfer.in.size()) {
        fail_with(
            fmt::format("the ranks do different things: {} is at \"{}\" ({} bytes), rank {} at \"{}\" ({}), {}; "
                        "try the same program, configuration and data on every rank",
                        peer, text_of(frame.name), frame.bytes, rank(), name, transfer.in.size(), when()));
      }
    }
  }
  while (moving.sending()) {
    const bool in_frame = moving.sent < sizeof(Frame);
    const auto rest = in_frame ? std::as_bytes(std::span(&moving.out_frame, 1)).subspan(moving.sent)
                               : transfer.out.subspan(moving.sent - sizeof(Frame));
    const ssize_t sent = send(socket, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (lost(sent)) break;
    moving.sent += static_cast<std::size_t>(sent);
  }
}

void TcpCommunicator::exchange(std::span<const Transfer> transfers, std::string_view name) {
  std::vector<Moving> all;
  ++sequence_;
  for (const Transfer& transfer : transfers) {
    Moving& moving = all.emplace_back(Moving{transfer, {}});
    moving.out_frame.sequence = sequence_;
    moving.out_frame.bytes = transfer.out.size();
    set_text(moving.out_frame.name, name);
  }
  const Deadline deadline = seconds_from_now(options_.timeout_s);
  std::vector<pollfd> wanted;
  while (true) {
    for (Moving& moving : all) move(moving, name);
    wanted.assign(1, {wake_main_.get(), POLLIN, 0});
    for (const Moving& moving : all) {
      const auto events = static_cast<short>((moving.sending() ? POLLOUT : 0) | (moving.receiving() ? POLLIN : 0));
      if (events != 0) {
        wanted.push_back({peers_[static_cast<std::size_t>(moving.transfer.peer)].data.get(), events, 0});
      }
    }
    if (wanted.size() == 1) return;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      std::vector<int> absent, stuck;
      for (const Moving& moving : all) {
        if (moving.transfer.receives && moving.got == 0) {
          absent.push_back(moving.transfer.peer);
        } else if (moving.sending() || moving.receiving()) {
          stuck.push_back(moving.transfer.peer);
        }
      }
      fail_with(
          fmt::format("\"{}\" timed out after {} s, {}: {} did not {}, rank {} waited; try the log of that rank, or a "
                      "larger collective_timeout_s",
                      name, options_.timeout_s, when(), list_of_ranks(absent.empty() ? stuck : absent),
                      absent.empty() ? "get through with it" : "arrive", rank()));
    }
    const int ready = poll(wanted.data(), wanted.size(), static_cast<int>(std::min<std::int64_t>(left, 60000)));
    if (ready > 0 && wanted[0].revents != 0) fail_with("another rank has failed");  // the watch knows which
  }
}

std::vector<TcpCommunicator::Transfer> TcpCommunicator::to_all(std::span<const std::byte> out,
                                                               std::span<std::byte> in_all) const {
  const std::size_t each = in_all.size() / peers_.size();
  std::vector<Transfer> transfers;
  for (int r = 0; r < size(); ++r) {
    if (r != rank())
      transfers.push_back({.peer = r, .out = out, .in = in_all.subspan(static_cast<std::size_t>(r) * each, each)});
  }
  return transfers;
}

void TcpCommunicator::all_reduce_sum_host(const Array& values, std::string_view name) {
  const std::size_t element = size_of(values.dtype());
  const std::span bytes(static_cast<std::byte*>(values.data()), values.size_bytes());
  const auto ranks = static_cast<std::size_t>(size());
  const auto room = [&](std::size_t size_bytes) {
    if (received_.size() < size_bytes) received_ = AlignedBuffer(size_bytes);
    return std::span(received_.data(), size_bytes);
  };
  std::vector<const std::byte*> parts(ranks);
  constexpr std::size_t kShort = 4096;
  if (bytes.size() <= kShort) {  // one trip instead of two
    const auto all = room(bytes.size() * ranks);
    exchange(to_all(bytes, all), name);
    for (std::size_t r = 0; r < ranks; ++r) parts[r] = all.data() + r * bytes.size();
    parts[static_cast<std::size_t>(rank())] = bytes.data();
    return sum_in_order(parts, values);
  }
  // Rank r sums the r-th part of all ranks and sends it round.
  const auto part_of = [&](int r) {
    const auto [begin, end] = thread_range(values.size(), r, size());
    return bytes.subspan(static_cast<std::size_t>(begin) * element, static_cast<std::size_t>(end - begin) * element);
  };
  const auto mine = part_of(rank());
  const auto others = room(mine.size() * ranks);
  std::vector<Transfer> transfers;
  for (int r = 0; r < size(); ++r) {
    const auto here = others.subspan(static_cast<std::size_t>(r) * mine.size(), mine.size());
    parts[static_cast<std::size_t>(r)] = r == rank() ? mine.data() : here.data();
    if (r != rank()) transfers.push_back({.peer = r, .out = part_of(r), .in = here});
  }
  exchange(transfers, name);
  sum_in_order(parts, Array(mine.data(), values.dtype(), Shape{static_cast<std::int64_t>(mine.size() / element)}));
  for (Transfer& transfer : transfers) {
    transfer.out = mine;
    transfer.in = part_of(transfer.peer);
  }
  exchange(transfers, name);
}

void TcpCommunicator::all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all,
                                      std::string_view name) {
  require(all.size() == mine.size() * peers_.size(), "communicator",
          "\"{}\" gathers {} bytes from each of {} ranks; got room for {}", name, mine.size(), size(), all.size());
  std::byte* place = all.data() + static_cast<std::size_t>(rank()) * mine.size();
  if (!mine.empty() && place != mine.data()) std::memcpy(place, mine.data(), mine.size());
  exchange(to_all(mine, all), name);
}

void TcpCommunicator::broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) {
  // The root sends each rank a part, and the ranks send their parts round: no link carries everything twice.
  const auto part_of = [&](int r) {
    const auto [begin, end] = thread_range(static_cast<std::int64_t>(bytes.size()), r, size());
    return bytes.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  };
  std::vector<Transfer> transfers;
  if (rank() == root) {
    for (int r = 0; r < size(); ++r) {
      if (r != root) transfers.push_back({.peer = r, .out = part_of(r), .receives = false});
    }
  } else {
    transfers.push_back({.peer = root, .in = part_of(rank()), .sends = false});
  }
  exchange(transfers, name);
  transfers.clear();
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) transfers.push_back({.peer = r, .out = part_of(rank()), .in = part_of(r)});
  }
  exchange(transfers, name);
}

void TcpCommunicator::barrier(std::string_view name) { exchange(to_all({}, {}), name); }

}  // namespace dino
