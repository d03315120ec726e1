#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace dino {

/// How much more memory this process can take, and what says so: `free memory`, `the memory limit of its cgroup`,
/// `ulimit -v`, `ulimit -d`.
struct HostMemory {
  std::size_t available_bytes = 0;
  std::string limit;
};

/// The tightest of: MemAvailable of /proc/meminfo; the limits of the process's cgroup (v2, or v1) and of those above
/// it, less what they hold that cannot be given back; RLIMIT_AS and RLIMIT_DATA, less what the process has mapped.
/// `root` stands for / in tests.
HostMemory host_memory(const std::filesystem::path& root = "/");

/// `1.43 GiB`, `212 MiB`.
std::string format_bytes(double bytes);

}  // namespace dino
