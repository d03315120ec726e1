#include "train/stop_signal.h"

#include <unistd.h>

#include <atomic>

namespace dino {
namespace {

constexpr std::array<int, 4> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

// Any thread may be the one that a signal interrupts.
std::atomic<int> received_signal = 0;
std::atomic<int> requests = 0;  // SIGINT and SIGTERM so far
static_assert(std::atomic<int>::is_always_lock_free, "the only atomics that are safe in a signal handler");

/// Reads and writes that a signal meets go on; no other of these signals comes while one is handled.
struct sigaction action(void (*handler)(int)) {
  struct sigaction result {};
  result.sa_handler = handler;
  result.sa_flags = SA_RESTART;
  sigemptyset(&result.sa_mask);
  for (const int signal : kSignals) sigaddset(&result.sa_mask, signal);
  return result;
}

extern "C" void note_signal(int signal) {
  int none = 0;
  received_signal.compare_exchange_strong(none, signal);
  if (signal != SIGINT && signal != SIGTERM) return;
  if (requests++ == 0) return;
  const struct sigaction end = action(SIG_DFL);
  sigaction(signal, &end, nullptr);
  raise(signal);
}

extern "C" void exit_for_requeue(int /*signal*/) { _exit(kRequeueStatus); }

}  // namespace

StopSignal::StopSignal() {
  received_signal = requests = 0;
  const struct sigaction note = action(note_signal);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &before_[i]);
    const bool is_ignored = kSignals[i] == SIGHUP && before_[i].sa_handler == SIG_IGN;
    if (!is_ignored) sigaction(kSignals[i], &note, nullptr);
  }
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

int StopSignal::received() { return received_signal; }

int StopSignal::exit_status(int signal) { return signal == SIGUSR1 ? kRequeueStatus : 128 + signal; }

void exit_on_requeue_signal() {
  const struct sigaction leave = action(exit_for_requeue);
  sigaction(SIGUSR1, &leave, nullptr);
}

IgnoreClosedPipes::IgnoreClosedPipes() {
  const struct sigaction ignore = action(SIG_IGN);
  sigaction(SIGPIPE, &ignore, &before_);
}

IgnoreClosedPipes::~IgnoreClosedPipes() { sigaction(SIGPIPE, &before_, nullptr); }

}  // namespace dino
