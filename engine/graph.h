#pragma once

#include "engine/context.h"

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <vector>

namespace dino {

/// Runs pieces of work that are the same each time, and on a device that can record (Stream::begin_recording) replays
/// them. A piece is told by its key, which holds all that it takes from the host: addresses and shapes of its inputs,
/// values. It runs as it is the first time, so that scratch memory grows, plans are made and libraries choose; it is
/// recorded the second time, and replayed from then on.
///
/// A recording uses the arena's blocks that were free before it. It is therefore only replayed while the same blocks
/// are in use as then, else recorded anew; and nothing that the work allocates may outlive it.
class GraphCache {
 public:
  explicit GraphCache(Context& context) : context_(context) {}

  /// Does what `body` does, by calling it or by a replay. Throws Error when recorded work leaves tensors behind, and
  /// what `body` throws.
  void run(const std::vector<std::uint64_t>& key, const std::function<void()>& body);

  /// How often run() has replayed, for tests and logs.
  std::int64_t replays() const { return replays_; }

 private:
  struct Entry {
    std::vector<std::uint64_t> key;
    std::unique_ptr<StreamGraph> graph;  // null: seen once
    std::uint64_t arena_state = 0;
  };
  static constexpr std::size_t kMaxEntries = 64;

  Context& context_;
  std::list<Entry> entries_;  // the one used last comes first
  std::int64_t replays_ = 0;
};

}  // namespace dino
