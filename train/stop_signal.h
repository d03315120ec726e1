#pragma once

namespace dino {

/// While it lives, SIGINT (Ctrl-C) and SIGTERM only ask the loop to stop; a second signal ends the process at once.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that arrived; 0 for none.
  static int received();
};

}  // namespace dino
