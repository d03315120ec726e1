#pragma once

#include "engine/context.h"

#include <memory>

namespace dino {

inline constexpr std::size_t kKeptBytes = std::size_t{1} << 20;

/// A device that only plays one: its tensors have addresses, in an arena that hands out blocks as the true one does,
/// but no memory; its stream runs nothing; what is copied to the host is what was copied from there to the same address
/// if that was small (a table, at most kKeptBytes), else zero. What a network would take (Context::arena()) and do
/// (`observer`, if any) can so be counted with the code that does it, for any device, in milliseconds. Scratch memory
/// of kernels is not counted: they ask for it when they run. `observer` must outlive the context.
std::unique_ptr<Context> make_rehearsal_context(Device device, OperationObserver* observer = nullptr);

}  // namespace dino
