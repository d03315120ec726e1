#include "evaluate/held_out.h"

#include "kernels/common/error.h"

#include <map>

namespace dino {

bool same_pictures(const ImageSource& a, const ImageSource& b) {
  if (a.size() != b.size()) return false;
  return a.size() == 0 || (a.name(0) == b.name(0) && a.name(a.size() - 1) == b.name(b.size() - 1));
}

HeldOut hold_out_tenth(const ImageSource& images) {
  constexpr std::int64_t kEvery = 10;
  HeldOut split;
  std::map<std::int32_t, std::int64_t> seen;  // of each class
  for (std::int64_t i = 0; i < images.size(); ++i) {
    // The second, the twelfth, …: a class of two has one for each side.
    const bool held = seen[images.label(i)]++ % kEvery == 1;
    (held ? split.asked : split.known).push_back(i);
  }
  require(!split.asked.empty(), "knn", "no class has two pictures or more, so none can be compared with another");
  return split;
}

std::vector<std::int64_t> evenly_chosen(const std::vector<std::int64_t>& entries, std::int64_t limit) {
  const auto size = static_cast<std::int64_t>(entries.size());
  if (limit <= 0 || size <= limit) return entries;
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < limit; ++i) chosen.push_back(entries[static_cast<std::size_t>(i * size / limit)]);
  return chosen;
}

}  // namespace dino
