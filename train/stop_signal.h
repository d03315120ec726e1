#pragma once

#include <array>
#include <csignal>

namespace dino {

/// Thrown where work is given up because a signal arrived.
struct Interrupted {};

/// The exit status after SIGUSR1, by which a cluster's script knows that the job is to be queued again (EX_TEMPFAIL of
/// sysexits.h).
inline constexpr int kRequeueStatus = 75;

/// While it lives, these signals only ask the loop to stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed;
/// not where it is ignored, as under nohup) and SIGUSR1 (a cluster's warning that the time is up). A second SIGINT or
/// SIGTERM ends the process at once. One at a time may live.
class StopSignal {
 public:
  StopSignal();
  /// What the signals did before, they do again.
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The first signal that arrived; 0 for none.
  static int received();
  /// Throws Interrupted when one arrived.
  static void check() {
    if (received() != 0) throw Interrupted();
  }
  /// What a process that `signal` stopped, and that can go on later, ends with: kRequeueStatus after SIGUSR1, else
  /// 128 + the signal.
  static int exit_status(int signal);

 private:
  std::array<struct sigaction, 4> before_;
};

/// From now on SIGUSR1 ends the process with kRequeueStatus: for the time in which nothing is there to be saved.
void exit_on_requeue_signal();

/// While it lives, writing to a pipe whose reader is gone fails, and does not end the process.
class IgnoreClosedPipes {
 public:
  IgnoreClosedPipes();
  ~IgnoreClosedPipes();
  IgnoreClosedPipes(const IgnoreClosedPipes&) = delete;
  IgnoreClosedPipes& operator=(const IgnoreClosedPipes&) = delete;

 private:
  struct sigaction before_;
};

}  // namespace dino
