#include "engine/communicators/mpi.h"

#include "kernels/common/error.h"
#include "kernels/common/parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <thread>

namespace dino {
namespace {

using Clock = std::chrono::steady_clock;

/// MPI counts in int.
constexpr std::size_t kPieceBytes = std::size_t{256} << 20;

void* open_module() {
  constexpr const char* kName = "libdino_mpi.so";
  std::error_code none;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", none);
  std::string reason = "it was not built, as there was no MPI (package libopenmpi-dev), or was not installed";
  // As installed, in a bundle (scripts/bundle.sh), as built.
  for (const auto& folder : {(program.parent_path() / DINO_MPI_FROM_PROGRAM).lexically_normal(),
                             program.parent_path() / "lib", std::filesystem::path(DINO_MPI_MODULE_FOLDER)}) {
    if (!std::filesystem::exists(folder / kName, none)) continue;
    // MPI opens plug-ins of its own, which look for its symbols.
    if (void* module = dlopen((folder / kName).c_str(), RTLD_NOW | RTLD_GLOBAL)) return module;
    reason = dlerror();
  }
  fail("communicator",
       "cannot use MPI, whose launcher has started this program: {}: {}; try a build where there is Open MPI, or "
       "--communicator tcp with MASTER_ADDR and MASTER_PORT set",
       kName, reason);
}

/// Counts and offsets of each rank's part of `n` elements, in bytes.
struct Parts {
  std::vector<int> counts, offsets;
  Parts(std::int64_t n, int ranks, std::size_t element) {
    for (int r = 0; r < ranks; ++r) {
      const auto [begin, end] = thread_range(n, r, ranks);
      counts.push_back(static_cast<int>(static_cast<std::size_t>(end - begin) * element));
      offsets.push_back(static_cast<int>(static_cast<std::size_t>(begin) * element));
    }
  }
};

}  // namespace

const DinoMpi& load_mpi_module() {
  static void* module = open_module();
  const auto find = reinterpret_cast<decltype(&dino_mpi_module)>(dlsym(module, DINO_MPI_MODULE_SYMBOL));
  require(find != nullptr, "communicator", "libdino_mpi.so is of another version; try a new build");
  return *find();
}

MpiCommunicator::MpiCommunicator(const DinoMpi& mpi, double timeout_s)
    : mpi_(mpi), timeout_s_(timeout_s), exceptions_(std::uncaught_exceptions()) {
  const char* error = mpi_.open(&rank_, &size_);
  require(error == nullptr, "communicator", "MPI does not start: {}", error);
}

MpiCommunicator::~MpiCommunicator() {
  if (!failed_ && std::uncaught_exceptions() <= exceptions_) mpi_.close();
}

void MpiCommunicator::run(const std::function<const char*()>& begin, std::string_view name) {
  const auto check = [&](const char* error) {
    if (error == nullptr) return;
    failed_ = true;
    fail("communicator", "\"{}\" failed in MPI, {}: {}; try the logs of the other ranks, then --resume", name, when(),
         error);
  };
  check(begin());
  const auto start = Clock::now();
  while (true) {
    int done = 0;
    check(mpi_.test(&done));
    if (done != 0) return;
    const double waited_s = std::chrono::duration<double>(Clock::now() - start).count();
    if (waited_s > timeout_s_) {
      failed_ = true;
      fail("communicator",
           "\"{}\" timed out after {} s, {}: rank {} waited, and MPI does not tell for whom; try the logs of the other "
           "ranks, or a larger collective_timeout_s",
           name, timeout_s_, when(), rank_);
    }
    // Others may need the core, not least a rank that is waited for.
    if (waited_s > 1e-4) std::this_thread::sleep_for(std::chrono::microseconds(waited_s > 0.1 ? 1000 : 20));
  }
}

void MpiCommunicator::sum_piece(const Array& values, std::string_view name) {
  const std::size_t element = size_of(values.dtype());
  const Parts parts(values.size(), size_, element);
  const auto me = static_cast<std::size_t>(rank_);
  auto* bytes = static_cast<std::byte*>(values.data());
  const int mine = parts.counts[me];
  std::vector<int> counts(static_cast<std::size_t>(size_), mine), offsets;
  for (int r = 0; r < size_; ++r) offsets.push_back(r * mine);
  const std::size_t room = static_cast<std::size_t>(mine) * static_cast<std::size_t>(size_);
  if (received_.size() < room) received_ = AlignedBuffer(room);
  run(
      [&] {
        return mpi_.all_to_all(bytes, parts.counts.data(), parts.offsets.data(), received_.data(), counts.data(),
                               offsets.data());
      },
      name);
  std::vector<const std::byte*> summands;
  for (const int offset : offsets) summands.push_back(received_.data() + offset);
  // Into the buffer's own part: MPI must not send from where it receives.
  const Array sum(received_.data() + offsets[me], values.dtype(), Shape{mine / static_cast<std::int64_t>(element)});
  sum_in_order(summands, sum);
  run([&] { return mpi_.all_gather(sum.data(), mine, bytes, parts.counts.data(), parts.offsets.data()); }, name);
}

void MpiCommunicator::all_reduce_sum_host(const Array& values, std::string_view name) {
  const std::size_t element = size_of(values.dtype());
  const auto piece = static_cast<std::int64_t>(kPieceBytes / element);
  auto* bytes = static_cast<std::byte*>(values.data());
  for (std::int64_t begin = 0; begin < values.size(); begin += piece) {
    const std::int64_t count = std::min(piece, values.size() - begin);
    sum_piece(Array(bytes + static_cast<std::size_t>(begin) * element, values.dtype(), Shape{count}), name);
  }
}

void MpiCommunicator::all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all,
                                      std::string_view name) {
  require(all.size() == mine.size() * static_cast<std::size_t>(size_), "communicator",
          "\"{}\" gathers {} bytes from each of {} ranks; got room for {}", name, mine.size(), size_, all.size());
  // In pieces whose place in the whole an int can tell; `mine` may lie in `all`.
  const std::vector<std::byte> own(mine.begin(), mine.end());
  const std::size_t piece = kPieceBytes / static_cast<std::size_t>(size_);
  std::vector<std::byte> part;
  for (std::size_t begin = 0; begin < std::max<std::size_t>(own.size(), 1); begin += piece) {
    const std::size_t count = std::min(piece, own.size() - begin);
    std::vector<int> counts(static_cast<std::size_t>(size_), static_cast<int>(count)), offsets;
    for (int r = 0; r < size_; ++r) offsets.push_back(r * static_cast<int>(count));
    part.resize(count * static_cast<std::size_t>(size_));
    run(
        [&] {
          return mpi_.all_gather(own.data() + begin, static_cast<int>(count), part.data(), counts.data(),
                                 offsets.data());
        },
        name);
    for (std::size_t r = 0; r < static_cast<std::size_t>(size_) && count > 0; ++r)
      std::memcpy(all.data() + r * own.size() + begin, part.data() + r * count, count);
  }
}

void MpiCommunicator::broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) {
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(kPieceBytes, bytes.size()));
    run([&] { return mpi_.broadcast(piece.data(), static_cast<int>(piece.size()), root); }, name);
    bytes = bytes.subspan(piece.size());
  }
}

void MpiCommunicator::barrier(std::string_view name) {
  run([&] { return mpi_.barrier(); }, name);
}

}  // namespace dino
