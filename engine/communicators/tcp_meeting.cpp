// How the ranks of a TcpCommunicator find each other: all others come to rank 0, which tells them where the rest are;
// then every rank connects to those before it.
#include "engine/communicators/tcp.h"
#include "engine/communicators/tcp_wire.h"
#include "engine/random.h"
#include "kernels/common/error.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>

namespace dino {
namespace {

using namespace tcp_wire;
using Clock = std::chrono::steady_clock;

std::string describe(std::uint32_t rank, std::uint32_t process, std::string_view host) {
  return fmt::format("rank {} (process {} on {})", rank, process, host);
}

/// Takes connections until one has said a whole and valid Hello. Those that say something else, or nothing for a while,
/// are closed.
class Reception {
 public:
  Reception(const Socket& listener, std::uint64_t key) : listener_(listener), key_(key) {}

  struct Guest {
    Hello hello;
    Socket socket;
  };

  std::optional<Guest> next(Deadline deadline) {
    while (true) {
      std::vector<pollfd> wanted{{listener_.get(), POLLIN, 0}};
      for (const Waiting& waiting : waiting_) wanted.push_back({waiting.socket.get(), POLLIN, 0});
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0) return std::nullopt;
      poll(wanted.data(), wanted.size(), static_cast<int>(std::min<std::int64_t>(left, 500)));
      for (std::size_t i = 0; i < waiting_.size();) {
        const auto outcome = read(waiting_[i]);
        if (outcome == Outcome::more && Clock::now() < waiting_[i].deadline) {
          ++i;
          continue;
        }
        Guest guest{waiting_[i].hello, std::move(waiting_[i].socket)};
        waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
        if (outcome == Outcome::whole) return guest;
        ++strays_;
      }
      while (Socket socket = accept_from(listener_)) {
        if (waiting_.size() == kMostWaiting) waiting_.pop_front();
        waiting_.push_back({std::move(socket), {}, 0, seconds_from_now(kPatience_s)});
      }
    }
  }

  int strays() const { return strays_; }

 private:
  static constexpr double kPatience_s = 10;
  static constexpr std::size_t kMostWaiting = 1024;
  struct Waiting {
    Socket socket;
    Hello hello;
    std::size_t got;
    Deadline deadline;
  };
  enum class Outcome { more, whole, stray };

  Outcome read(Waiting& waiting) {
    const auto rest = bytes_of(waiting.hello).subspan(waiting.got);
    const ssize_t got = recv(waiting.socket.get(), rest.data(), rest.size(), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? Outcome::more : Outcome::stray;
    if (got == 0) return Outcome::stray;
    waiting.got += static_cast<std::size_t>(got);
    if (waiting.got < sizeof(Hello)) return Outcome::more;
    return waiting.hello.magic == kMagic && waiting.hello.key == key_ ? Outcome::whole : Outcome::stray;
  }

  const Socket& listener_;
  std::uint64_t key_;
  std::deque<Waiting> waiting_;
  int strays_ = 0;
};

Hello make_hello(const TcpOptions& options, HelloKind kind, int port, const std::string& host) {
  Hello hello;
  hello.key = stable_hash(options.key);
  hello.kind = kind;
  hello.rank = static_cast<std::uint32_t>(options.rank);
  hello.size = static_cast<std::uint32_t>(options.size);
  hello.port = static_cast<std::uint32_t>(port);
  hello.process = static_cast<std::uint32_t>(getpid());
  set_text(hello.host, host);
  return hello;
}

bool is_this_machine(const std::string& address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

}  // namespace

void TcpCommunicator::meet_as_first(const std::string& host) {
  if (!options_.listener) options_.listener = listen_on(options_.port, is_this_machine(options_.address));
  const Deadline deadline = seconds_from_now(options_.timeout_s);
  Reception reception(options_.listener, stable_hash(options_.key));
  std::vector<TableEntry> table(peers_.size());
  set_text(table[0].host, host);
  table[0].process = static_cast<std::uint32_t>(getpid());
  int missing = size() - 1;
  const auto refuse = [&](Peer& guest, const std::string& reason) {
    send_control(guest, kAbort, reason);
    for (Peer& peer : peers_) send_control(peer, kAbort, reason);
    fail("communicator", "{}", reason);
  };
  while (missing > 0) {
    auto guest = reception.next(deadline);
    if (!guest) {
      std::vector<int> absent;
      for (int r = 1; r < size(); ++r) {
        if (!peers_[static_cast<std::size_t>(r)].control) absent.push_back(r);
      }
      const std::string reason = fmt::format(
          "{} of {} did not come to port {} of {} within {} s{}; try their logs, MASTER_ADDR and MASTER_PORT, and the "
          "firewall",
          list_of_ranks(absent), size(), port_of(options_.listener), host, options_.timeout_s,
          reception.strays() > 0 ? fmt::format(" ({} other connections were turned away)", reception.strays()) : "");
      for (Peer& peer : peers_) send_control(peer, kAbort, reason);
      fail("communicator", "{}", reason);
    }
    const Hello& hello = guest->hello;
    if (hello.kind != HelloKind::control) continue;
    Peer peer;
    peer.name = describe(hello.rank, hello.process, text_of(hello.host));
    peer.control = std::move(guest->socket);
    if (hello.size != static_cast<std::uint32_t>(size())) {
      refuse(peer, fmt::format("{} was started as one of {} ranks, rank 0 as one of {}; try the same number everywhere",
                               peer.name, hello.size, size()));
    }
    Peer* place = hello.rank >= 1 && hello.rank < peers_.size() ? &peers_[hello.rank] : nullptr;
    if (place == nullptr || place->control) {
      refuse(peer, fmt::format("{} came {}; try a different rank for every process", peer.name,
                               place == nullptr ? fmt::format("to a run of ranks 0 to {}", size() - 1)
                                                : fmt::format("after {}", place->name)));
    }
    TableEntry& entry = table[hello.rank];
    set_text(entry.address, peer_address(peer.control));
    set_text(entry.host, text_of(hello.host));
    entry.port = hello.port;
    entry.process = hello.process;
    *place = std::move(peer);
    --missing;
  }
  const std::string_view text(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(TableEntry));
  for (Peer& peer : peers_) send_control(peer, kTable, text);
  // All others connect to rank 0, which connects to nobody.
  connect_peers(options_.listener, deadline);
  options_.listener.close();
}

void TcpCommunicator::meet_as_other(const std::string& host) {
  const Deadline deadline = seconds_from_now(options_.timeout_s);
  const Deadline answer = deadline + std::chrono::seconds(5);  // rank 0 says who is missing when its own time is over
  Socket listener = listen_on(0, is_this_machine(options_.address));
  const Hello hello = make_hello(options_, HelloKind::control, port_of(listener), host);
  Peer& first = peers_.front();
  first.name = fmt::format("rank 0 at {}:{}", options_.address, options_.port);
  first.control = connect_to(options_.address, options_.port, "rank 0", deadline);
  ControlHeader header;
  std::vector<std::byte> body;
  const bool heard = send_all(first.control, std::as_bytes(std::span(&hello, 1)), answer) &&
                     receive_all(first.control, bytes_of(header), answer) && header.bytes <= kMostControlBytes;
  if (heard) body.resize(header.bytes);
  require(heard && receive_all(first.control, body, answer), "communicator",
          "{} {}; try its log, and whether another program listens on that port", first.name,
          Clock::now() < answer ? "closed the connection"
                                : fmt::format("did not start the run within {} s", options_.timeout_s));
  if (header.kind == kAbort) {
    fail("communicator", "{}", std::string_view(reinterpret_cast<const char*>(body.data()), body.size()));
  }
  require(header.kind == kTable && body.size() == peers_.size() * sizeof(TableEntry), "communicator",
          "{} does not speak this program's language; try the same version everywhere", first.name);
  std::vector<TableEntry> table(peers_.size());
  std::memcpy(table.data(), body.data(), body.size());
  const Hello data = make_hello(options_, HelloKind::data, 0, host);
  for (int r = 0; r < size(); ++r) {
    const TableEntry& entry = table[static_cast<std::size_t>(r)];
    Peer& peer = peers_[static_cast<std::size_t>(r)];
    peer.name = describe(static_cast<std::uint32_t>(r), entry.process, text_of(entry.host));
    if (r >= rank()) continue;
    peer.data = connect_to(r == 0 ? options_.address : std::string(text_of(entry.address)),
                           r == 0 ? options_.port : static_cast<int>(entry.port), peer.name, deadline);
    require(send_all(peer.data, std::as_bytes(std::span(&data, 1)), deadline), "communicator",
            "{} closed the connection; try its log", peer.name);
  }
  connect_peers(listener, deadline);
}

void TcpCommunicator::connect_peers(const Socket& listener, Deadline deadline) {
  Reception reception(listener, stable_hash(options_.key));
  int missing = size() - 1 - rank();
  while (missing > 0) {
    auto guest = reception.next(deadline);
    require(
        guest.has_value(), "communicator",
        "{} of the other ranks did not connect to rank {} within {} s; try the firewall between the machines, which "
        "must let every port through",
        missing, rank(), options_.timeout_s);
    const Hello& hello = guest->hello;
    if (hello.kind != HelloKind::data || static_cast<int>(hello.rank) <= rank() || hello.rank >= peers_.size() ||
        peers_[hello.rank].data) {
      continue;
    }
    peers_[hello.rank].data = std::move(guest->socket);
    --missing;
  }
}

}  // namespace dino
