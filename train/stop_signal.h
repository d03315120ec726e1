#pragma once

namespace dino {

/// Thrown where work is given up because a signal arrived.
struct Interrupted {};

/// While it lives, SIGINT (Ctrl-C) and SIGTERM only ask the loop to stop; a second signal ends the process at once.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that arrived; 0 for none.
  static int received();
  /// Throws Interrupted when one arrived.
  static void check() {
    if (received() != 0) throw Interrupted();
  }
};

}  // namespace dino
