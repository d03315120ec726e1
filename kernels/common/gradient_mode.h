#pragma once

#include <cstdint>

namespace dino {

/// What a backward kernel does with a gradient: nothing, `dx = …`, or `dx += …`. The tape decides: the first
/// use of a variable overwrites, later ones accumulate, so that no gradient is ever filled with zeros first.
enum class GradientMode : std::uint8_t { ignore, overwrite, accumulate };

}  // namespace dino
