#pragma once

namespace dino {

/// Has the threads of a computation wait for each other without holding the processors for long: starts the program
/// again, as the same process, with GOMP_SPINCOUNT in its environment, unless that or OMP_WAIT_POLICY is there already.
/// To be called before anything else; comes back where nothing is to be done or could be.
///
/// GCC's OpenMP reads it before main() only. By default a thread that waits spins for 300,000 turns, which are some ten
/// milliseconds on new processors. Where another program runs as well, it keeps the thread that it waits for from
/// running, and a step takes two to twenty times as long.
void wait_without_long_spins(char** arguments);

}  // namespace dino
