#include "engine/graph.h"

#include "kernels/common/error.h"

#include <algorithm>

namespace dino {

void GraphCache::run(const std::vector<std::uint64_t>& key, const std::function<void()>& body) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    body();
    entries_.push_front({.key = key, .graph = nullptr});
    if (entries_.size() > kMaxEntries) entries_.pop_back();
    return;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  const std::uint64_t state = context_.arena().state();
  if (!entry.graph || entry.arena_state != state) {
    Stream& stream = context_.stream();
    entry.graph.reset();
    if (!stream.begin_recording()) return body();
    try {
      body();
      entry.graph = stream.end_recording();
    } catch (...) {
      stream.cancel_recording();
      throw;
    }
    entry.arena_state = state;
    if (context_.arena().state() != state) {
      entry.graph.reset();
      fail("graph", "recorded work has left tensors behind, or taken some away");
    }
  }
  entry.graph->replay();
  ++replays_;
}

}  // namespace dino
