#include "engine/host_memory.h"

#include "tests/support/catch.h"
#include "tests/support/temporary_folder.h"

namespace dino {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// A file system with 8 GiB of free memory.
struct Machine : test::TemporaryFolder {
  Machine() {
    write("proc/meminfo", std::string_view("MemTotal:       16777216 kB\nMemFree:         1000 kB\n"
                                           "MemAvailable:    8388608 kB\n"));
  }
};

TEST_CASE("Without limits, what is free is to be had") {
  const Machine root;
  const HostMemory memory = host_memory(root.path());
  CHECK(memory.available_bytes == 8192 * kMiB);
  CHECK(memory.limit == "free memory");
}

TEST_CASE("A cgroup's limit counts, less what it holds for good") {
  const Machine root;
  root.write("proc/self/cgroup", "0::/pod/job\n");
  root.write("sys/fs/cgroup/pod/job/memory.max", "2147483648\n");
  root.write("sys/fs/cgroup/pod/job/memory.current", "1073741824\n");
  root.write("sys/fs/cgroup/pod/job/memory.stat", "anon 5\ninactive_file 536870912\nactive_file 7\n");
  const HostMemory memory = host_memory(root.path());
  CHECK(memory.available_bytes == 1536 * kMiB);
  CHECK(memory.limit == "the memory limit of its cgroup");
}

TEST_CASE("The limit of a cgroup above may be the tighter one") {
  const Machine root;
  root.write("proc/self/cgroup", "0::/pod/job\n");
  root.write("sys/fs/cgroup/pod/job/memory.max", "max\n");
  root.write("sys/fs/cgroup/pod/job/memory.current", "1073741824\n");
  root.write("sys/fs/cgroup/pod/memory.max", "4294967296\n");
  root.write("sys/fs/cgroup/pod/memory.current", "3221225472\n");
  CHECK(host_memory(root.path()).available_bytes == 1024 * kMiB);
  root.write("sys/fs/cgroup/pod/memory.current", "5000000000\n");
  CHECK(host_memory(root.path()).available_bytes == 0);
}

TEST_CASE("A container sees its limit at the root of the cgroups") {
  const Machine root;
  root.write("proc/self/cgroup", "0::/\n");
  root.write("sys/fs/cgroup/memory.max", "3221225472\n");
  root.write("sys/fs/cgroup/memory.current", "1073741824\n");
  CHECK(host_memory(root.path()).available_bytes == 2048 * kMiB);
}

TEST_CASE("Limits of the first kind of cgroups count as well") {
  const Machine root;
  root.write("proc/self/cgroup", "12:cpu,cpuacct:/x\n5:memory:/x/y\n0::/\n");
  root.write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1073741824\n");
  root.write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "805306368\n");
  root.write("sys/fs/cgroup/memory/x/memory.stat", "total_inactive_file 268435456\n");
  CHECK(host_memory(root.path()).available_bytes == 512 * kMiB);
}

TEST_CASE("Processes share what is the machine's, not what each may take") {
  HostMemory memory = host_memory(Machine().path());
  CHECK(memory.shared_bytes == 8192 * kMiB);
  CHECK(memory.part_of(1).available_bytes == 8192 * kMiB);
  CHECK(memory.part_of(4).available_bytes == 2048 * kMiB);
  CHECK(memory.part_of(4).to_string() ==
        "2.00 GiB free (free memory, of which each of 4 ranks on this machine gets a part)");
  memory.available_bytes = 3072 * kMiB;
  memory.limit = "ulimit -d";
  memory.address_bytes = 5000 * kMiB;
  CHECK(memory.part_of(2).to_string() == "3.00 GiB free (ulimit -d)");
  CHECK(memory.part_of(4).available_bytes == 2048 * kMiB);
  CHECK(memory.part_of(4).address_bytes == 5000 * kMiB);
  CHECK(HostMemory().part_of(4).available_bytes == SIZE_MAX);
  CHECK(machine_number() == machine_number());
}

TEST_CASE("Sizes are written with three digits that count, or none to spare") {
  CHECK(format_bytes(1.5 * 0x1p30) == "1.50 GiB");
  CHECK(format_bytes(85.4 * 0x1p20) == "85 MiB");
  CHECK(format_bytes(2048) == "2 KiB");
}

}  // namespace
}  // namespace dino
