#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace dino {

using Deadline = std::chrono::steady_clock::time_point;

/// A file descriptor of a TCP connection or listener that it owns.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  explicit operator bool() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }
  void close();

 private:
  int descriptor_ = -1;
};

/// Listens on a port, of every interface or of the one that only this machine reaches; 0 takes a free one. Throws Error
/// where it is taken.
Socket listen_on(int port, bool this_machine_only = false);
int port_of(const Socket& listener);

/// A connection that waits at the listener, or none. Neither waits.
Socket accept_from(const Socket& listener);
/// The other end's address, as digits.
std::string peer_address(const Socket& socket);

/// Connects, trying again while nobody listens there. Throws Error, naming `what` is there, at the deadline, and at
/// once where the address has no meaning.
Socket connect_to(const std::string& address, int port, const std::string& what, Deadline deadline);

/// Sends or receives all bytes; false when the deadline or the end of the connection comes first.
bool send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline);
bool receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline);

/// An eventfd, which wakes a poll() on another thread.
Socket make_event();
void signal_event(const Socket& event) noexcept;

Deadline seconds_from_now(double seconds);
/// This machine's, for messages.
std::string host_name();

}  // namespace dino
