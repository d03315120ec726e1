#include "data/fingerprint.h"

#include "engine/random.h"

#include <fmt/format.h>

namespace dino {

std::string fingerprint_of(const ImageSource& images) {
  std::uint64_t hash = 0;
  std::string text;
  for (std::int64_t i = 0; i < images.size(); ++i) {
    const std::string name = images.name(i);
    text.clear();
    fmt::format_to(std::back_inserter(text), "{:x} {} {}", hash, images.label(i), name.substr(name.rfind('/') + 1));
    hash = stable_hash(text);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace dino
