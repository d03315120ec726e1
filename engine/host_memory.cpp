#include "engine/host_memory.h"

#include "engine/communicators/socket.h"
#include "engine/random.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace dino {
namespace {

namespace fs = std::filesystem;

/// The number behind `key` in lines of `key value`; `Name:` counts as a key, and kB are understood.
std::optional<std::size_t> entry(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, unit;
    std::size_t value = 0;
    if (!(words >> name >> value) || name != key) continue;
    words >> unit;
    return unit == "kB" ? value << 10 : value;
  }
  return std::nullopt;
}

/// The one number of a file; nothing where it says `max`, or is not there.
std::optional<std::size_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::size_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::size_t minus(std::size_t a, std::size_t b) { return a > b ? a - b : 0; }

/// Room in one cgroup. What can be dropped from its page cache counts as free.
std::optional<std::size_t> room_in(const fs::path& folder, const char* limit_name, const char* usage_name,
                                   const char* cache_key) {
  const auto limit = number_in(folder / limit_name);
  const auto usage = number_in(folder / usage_name);
  if (!limit || !usage) return std::nullopt;
  return minus(*limit, minus(*usage, entry(folder / "memory.stat", cache_key).value_or(0)));
}

/// The smallest room in the process's cgroup and those above it.
std::optional<std::size_t> cgroup_room(const fs::path& root) {
  std::optional<std::size_t> least;
  const auto walk = [&](const fs::path& mount, std::string below, const char* limit, const char* usage,
                        const char* cache) {
    for (;;) {
      const auto room = room_in(mount / below.substr(std::min<std::size_t>(1, below.size())), limit, usage, cache);
      if (room && (!least || *room < *least)) least = room;
      if (below.size() <= 1) return;
      below.resize(below.find_last_of('/'));
    }
  };
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string path = line.substr(second + 1);
    if (!path.starts_with('/')) continue;
    if (controllers == ",,") {
      walk(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file");
    } else if (controllers.find(",memory,") != std::string::npos) {
      walk(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes",
           "total_inactive_file");
    }
  }
  return least;
}

std::optional<std::size_t> resource_room(const fs::path& root, int resource, const char* used_key) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return std::nullopt;
  }
  return minus(limit.rlim_cur, entry(root / "proc/self/status", used_key).value_or(0));
}

}  // namespace

std::string HostMemory::to_string() const {
  const bool addresses = address_bytes < available_bytes;
  return fmt::format("{} free ({})", format_bytes(static_cast<double>(std::min(address_bytes, available_bytes))),
                     addresses ? "ulimit -v" : limit);
}

HostMemory HostMemory::part_of(int processes) const {
  HostMemory part = *this;
  if (processes <= 1 || shared_bytes == SIZE_MAX) return part;
  part.shared_bytes = shared_bytes / static_cast<std::size_t>(processes);
  if (part.shared_bytes < available_bytes) {
    part.available_bytes = part.shared_bytes;
    part.limit = fmt::format("{}, of which each of {} ranks on this machine gets a part", shared_limit, processes);
  }
  return part;
}

HostMemory host_memory(const fs::path& root) {
  HostMemory memory;
  memory.limit = "no limit that is known";
  const auto consider = [&](const std::optional<std::size_t>& room, const char* what) {
    if (!room || *room >= memory.available_bytes) return;
    memory.available_bytes = *room;
    memory.limit = what;
  };
  consider(entry(root / "proc/meminfo", "MemAvailable:"), "free memory");
  consider(cgroup_room(root), "the memory limit of its cgroup");
  memory.shared_bytes = memory.available_bytes;
  memory.shared_limit = memory.limit;
  memory.address_bytes = resource_room(root, RLIMIT_AS, "VmSize:").value_or(SIZE_MAX);
  consider(resource_room(root, RLIMIT_DATA, "VmData:"), "ulimit -d");
  return memory;
}

std::uint64_t machine_number() {
  std::string start;
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::getline(file, start);
  return stable_hash(start + host_name());
}

std::string format_bytes(double bytes) {
  if (bytes >= 0x1p30) return fmt::format("{:.2f} GiB", bytes * 0x1p-30);
  if (bytes >= 0x1p20) return fmt::format("{:.0f} MiB", bytes * 0x1p-20);
  return fmt::format("{:.0f} KiB", bytes * 0x1p-10);
}

}  // namespace dino
