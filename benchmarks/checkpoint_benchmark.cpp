// The whole state of a run, written to the folder for temporary files and read again.
#include "benchmarks/benchmark.h"
#include "train/checkpoint.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

namespace dino::bench {
namespace {

struct Run {
  explicit Run(Bench& bench)
      : config(config_of(bench.workload())),
        networks(bench.context(), communicator, config, bench.dtype()),
        path(std::filesystem::temp_directory_path() / fmt::format("dino_cuda_bench_{}.safetensors", getpid())) {
    write_checkpoint(path, networks, config, {});
  }
  ~Run() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  static TrainConfig config_of(const Workload& w) {
    TrainConfig config;
    config.patch_size = static_cast<int>(w.patch_px);
    config.embed_dim = static_cast<int>(w.width);
    config.depth = static_cast<int>(w.depth);
    config.num_heads = static_cast<int>(w.heads);
    config.out_dim = static_cast<int>(w.prototypes);
    config.head_hidden_dim = static_cast<int>(w.head_hidden);
    config.head_bottleneck_dim = static_cast<int>(w.bottleneck);
    config.global_crops_size = static_cast<int>(w.global_px);
    config.local_crops_size = static_cast<int>(w.local_px);
    return config;
  }
  double size_bytes() const { return static_cast<double>(std::filesystem::file_size(path)); }

  TrainConfig config;
  SingleProcess communicator;
  StudentTeacher networks;
  std::filesystem::path path;
};

Prepared prepare(Bench& bench, bool write) {
  const auto run = std::make_shared<Run>(bench);
  Prepared prepared{.size = fmt::format("{:.0f} MB", 1e-6 * run->size_bytes()), .run = {}};
  prepared.items = 1e-6 * run->size_bytes();
  prepared.item = "MB";
  if (write) {
    prepared.run = [run] { write_checkpoint(run->path, run->networks, run->config, {}); };
  } else {
    prepared.run = [run] { read_checkpoint(run->path, run->networks, run->config); };
  }
  return prepared;
}

Prepared prepare_write(Bench& bench) { return prepare(bench, true); }
Prepared prepare_read(Bench& bench) { return prepare(bench, false); }

const Registered kWrite{{"checkpoint", "write", prepare_write, {DType::float32}, true}};
const Registered kRead{{"checkpoint", "read", prepare_read, {DType::float32}, true}};

}  // namespace
}  // namespace dino::bench
