#pragma once

#include "engine/context.h"
#include "tests/support/host_array.h"

#include <functional>

namespace dino::test {

/// Runs `body` with a fresh Context for each device on which this program can run whole networks: the CPU; or, where it
/// is linked with tests/simt, the one that the host plays, whose memory `body` reaches through the Context only.
void every_context(const std::function<void(Context&)>& body);

/// The elements of a tensor, copied from its device.
HostArray to_host(Context& context, const Tensor& tensor);

}  // namespace dino::test
