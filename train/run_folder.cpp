#include "train/run_folder.h"

#include "engine/files.h"
#include "kernels/common/error.h"

namespace dino {

RunFolder::RunFolder(const TrainConfig& config, StartMode start) : config_(config), path_(config.output_dir) {
  // A run that failed before its first step left an empty log and no checkpoint: nothing that is worth keeping.
  std::error_code none;
  const auto log_bytes = std::filesystem::file_size(file("log.jsonl"), none);
  const bool has_run = find_checkpoint(path_).has_value() || (!none && log_bytes > 0);
  if (start == StartMode::fresh) {
    require(!has_run, "train", "{} holds a run already; try --resume to continue it, or another --output_dir",
            path_.string());
  } else {
    require(find_checkpoint(path_).has_value(), "train", "nothing to resume: no {} in {}; try without --resume",
            kLastCheckpoint, path_.string());
  }
  make_output_folder(path_);
  remove_abandoned_parts(path_);
}

void RunFolder::save_config() const {
  AtomicFile out(file("config.toml"));
  out.write(write_config(config_));
  out.commit();
}

TrainingPosition RunFolder::resume(StudentTeacher& networks) const {
  return read_checkpoint(*find_checkpoint(path_), networks, config_);
}

void RunFolder::save(const std::string& name, StudentTeacher& networks, const TrainingPosition& position) const {
  write_checkpoint(file(name), networks, config_, position);
}

}  // namespace dino
