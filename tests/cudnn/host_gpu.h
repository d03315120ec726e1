#pragma once

#include "engine/context.h"
#include "kernels/common/aligned_buffer.h"

namespace dino::test {

/// A context that says it is on a GPU, whose memory is the host's, and whose kernels are the CPU's (host_gpu.cpp): what
/// the benchmarks prepare for a GPU can be run there.
std::unique_ptr<Context> make_host_gpu();

}  // namespace dino::test
