#pragma once

#include "kernels/common/stream.h"

#include <functional>

namespace dino::test {

/// Runs `body` with a stream for each way in which this program can run kernels: on the CPU for each instruction set;
/// or, where it is linked with tests/simt, the CUDA kernels on the host, with the threads of a block in several orders.
/// What a failing check prints names the way.
void every_stream(const std::function<void(Stream&)>& body);

}  // namespace dino::test
