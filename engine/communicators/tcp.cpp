#include "engine/communicators/tcp.h"

#include "engine/random.h"
#include "kernels/common/error.h"
#include "kernels/common/parallel.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <optional>

namespace dino {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMagic = 0x316b6e61726f6e64;  // `dnorank1`, which no other protocol begins with
constexpr std::uint32_t kFrameMagic = 0x6d617266;

enum class HelloKind : std::uint32_t { control, data };

/// What every connection begins with. Both ends are this program, built for one kind of machine.
struct Hello {
  std::uint64_t magic = kMagic;
  std::uint64_t key = 0;
  HelloKind kind = HelloKind::control;
  std::uint32_t rank = 0, size = 0;
  std::uint32_t port = 0;  // where the rank takes data connections
  std::uint32_t process = 0;
  char host[64] = {};
};

/// A line of the table that rank 0 sends round.
struct TableEntry {
  char address[64] = {};
  std::uint32_t port = 0;
  std::uint32_t process = 0;
  char host[64] = {};
};

enum ControlKind : std::uint32_t { kTable, kAbort, kBye };
struct ControlHeader {
  std::uint32_t kind = 0;
  std::uint32_t bytes = 0;
};
constexpr std::uint32_t kMostControlBytes = 1u << 20;

/// In front of every piece of data.
struct Frame {
  std::uint32_t magic = kFrameMagic;
  std::uint32_t sequence = 0;
  std::uint64_t bytes = 0;
  char name[48] = {};
};

template <std::size_t size>
void set_text(char (&field)[size], std::string_view text) {
  const std::size_t count = std::min(size - 1, text.size());
  std::copy_n(text.data(), count, field);
}
template <std::size_t size>
std::string_view text_of(const char (&field)[size]) {
  return {field, strnlen(field, size)};
}

template <typename T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

Deadline seconds_from_now(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

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

std::string host_name() {
  char name[64] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

Socket make_event() { return Socket(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
void signal_event(const Socket& event) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof one);
}

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

// ------------------------------------------------------------------------------------------------------------ the
// watch

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

// ------------------------------------------------------------------------------------------------------ the
// collectives

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
