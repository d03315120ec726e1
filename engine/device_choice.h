#pragma once

#include "kernels/common/error.h"

#include <charconv>
#include <string_view>

namespace dino {

/// What a user writes for `device`.
struct DeviceChoice {
  enum class Kind { automatic, cpu, cuda };
  Kind kind = Kind::automatic;
  int ordinal = 0;  // of a CUDA device

  /// `auto`, `cpu`, `cuda` or `cuda:N`. Throws Error.
  static DeviceChoice parse(std::string_view text) {
    if (text == "auto") return {};
    if (text == "cpu") return {.kind = Kind::cpu};
    if (text == "cuda") return {.kind = Kind::cuda};
    constexpr std::string_view kPrefix = "cuda:";
    DeviceChoice choice{.kind = Kind::cuda};
    const std::string_view number = text.substr(text.starts_with(kPrefix) ? kPrefix.size() : 0);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), choice.ordinal);
    require(text.starts_with(kPrefix) && error == std::errc() && end == number.data() + number.size() &&
                choice.ordinal >= 0,
            "device", "unknown device; got {}, expected auto, cpu, cuda or cuda:N", text);
    return choice;
  }
};

}  // namespace dino
