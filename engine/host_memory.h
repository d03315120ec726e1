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
  std::size_t shared_bytes = SIZE_MAX;  // of it, what the processes of the machine, or of the cgroup, have in common
  std::string shared_limit;
  std::size_t address_bytes = SIZE_MAX;

  /// `66 MiB free (ulimit -v)`: the tighter of both.
  std::string to_string() const;
  /// For one of so many processes like this one, each with the same part of what they share.
  HostMemory part_of(int processes) const;
};

/// The tightest of: MemAvailable of /proc/meminfo; the limits of the process's cgroup (v2, or v1) and of those above
/// it, less what they hold that cannot be given back; RLIMIT_DATA, less what the process has mapped of it. And
/// RLIMIT_AS, less all that it has mapped. `root` stands for / in tests.
HostMemory host_memory(const std::filesystem::path& root = "/");

/// A number for this machine, to find those among several processes that share its memory: of its name, which each
/// container has of its own, and what the kernel drew when it started.
std::uint64_t machine_number();

/// `1.43 GiB`, `212 MiB`.
std::string format_bytes(double bytes);

}  // namespace dino
