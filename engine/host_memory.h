#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace dino {

/// How much more memory this process can take, and what says so: `free memory`, `the memory limit of its cgroup`,
/// `ulimit -d`. Addresses are counted apart (`ulimit -v`): those that are only reserved count, too.
struct HostMemory {
  std::size_t available_bytes = SIZE_MAX;
  std::string limit;
  std::size_t address_bytes = SIZE_MAX;

  /// `66 MiB free (ulimit -v)`: the tighter of both.
  std::string to_string() const;
};

/// The tightest of: MemAvailable of /proc/meminfo; the limits of the process's cgroup (v2, or v1) and of those above
/// it, less what they hold that cannot be given back; RLIMIT_DATA, less what the process has mapped of it. And
/// RLIMIT_AS, less all that it has mapped. `root` stands for / in tests.
HostMemory host_memory(const std::filesystem::path& root = "/");

/// `1.43 GiB`, `212 MiB`.
std::string format_bytes(double bytes);

}  // namespace dino
