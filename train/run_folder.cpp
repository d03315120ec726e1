#include "train/run_folder.h"

#include "engine/files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>
#include <thread>
#include <utility>

#include <unistd.h>

namespace dino {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Seconds kRetryInterval{30};
constexpr int kFinalTries = 12;
constexpr std::chrono::seconds kFinalInterval{5};

/// `step 120 (epoch 3)`
std::string describe(const TrainingPosition& position) {
  return fmt::format("step {} (epoch {})", position.step, position.epoch);
}

void require_not_taken(const FolderLock& lock, const std::filesystem::path& folder) {
  require(lock.state() != FolderLock::State::taken, "train",
          "{} trains into {} already; try another --output_dir, or --resume when it has ended", lock.holder(),
          folder.string());
}

/// Where the file system has no links: a copy that outlives a power cut, as what is written does.
void copy_synced(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::ifstream in(from, std::ios::binary);
  require(in.is_open(), "file", "cannot read {}: {}", from.string(), std::strerror(errno));
  AtomicFile out(to);
  std::vector<char> piece(std::size_t{1} << 20);
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())) || in.gcount() > 0)
    out.write(std::string_view(piece.data(), static_cast<std::size_t>(in.gcount())));
  require(in.eof(), "file", "cannot read {}: {}", from.string(), std::strerror(errno));
  out.commit();
}

}  // namespace

void require_no_run_at_work(const std::filesystem::path& folder) { require_not_taken(FolderLock(folder), folder); }

RunFolder::RunFolder(const TrainConfig& config, StartMode start) : config_(config), path_(config.output_dir) {
  // Before looking: a run at work may be about to save.
  if (file_exists(path_)) lock();
  // A run that failed before its first step left an empty log and no checkpoint: nothing that is worth keeping.
  std::error_code none;
  const auto log_bytes = std::filesystem::file_size(file("log.jsonl"), none);
  has_checkpoint_ = !find_checkpoints(path_).empty();
  if (start == StartMode::fresh) {
    require(!has_checkpoint_ && (none || log_bytes == 0), "train",
            "{} holds a run already; try --resume to continue it, or another --output_dir", path_.string());
    // Of a run whose last one is gone. They would be replaced, and the run might go back to them.
    const std::filesystem::path left = any_checkpoint(path_);
    require(left.empty(), "train", "{} holds {} of another run; try another --output_dir, or moving it away",
            path_.string(), left.filename().string());
  } else {
    require(has_checkpoint_, "train", "nothing to resume: no {} in {}; try without --resume", kLastCheckpoint,
            path_.string());
  }
  make_output_folder(path_);
  if (!lock_) lock();
  remove_abandoned_parts(path_);
}

void RunFolder::lock() {
  // One that only asks, in require_no_run_at_work, has it for a moment.
  for (int tries = 20; tries > 0; --tries) {
    lock_.emplace(path_);
    if (lock_->state() != FolderLock::State::taken) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  require_not_taken(*lock_, path_);
}

TrainingPosition RunFolder::resume(StudentTeacher& networks, std::vector<std::string>& notes) {
  const std::vector<std::filesystem::path> candidates = find_checkpoints(path_);
  std::optional<DamagedCheckpoint> first;
  for (const std::filesystem::path& candidate : candidates) {
    try {
      const TrainingPosition position = read_checkpoint(candidate, networks, config_);
      notes.push_back(fmt::format("resumed from {}, {}", candidate.string(), describe(position)));
      return position;
    } catch (const DamagedCheckpoint& error) {
      // Nothing damaged may take the place of the sound one.
      last_is_sound_ = false;
      notes.push_back(fmt::format("warning: {}", error.what()));
      if (!first) first = error;
    }
  }
  throw *first;
}

std::shared_ptr<RunObserver> RunFolder::start(const TrainingPosition& position, Report report) {
  report_ = std::move(report);
  if (lock_->state() == FolderLock::State::unavailable) {
    report_(fmt::format("warning: {} cannot be locked: {}; see to it that no other run is started into it",
                        path_.string(), lock_->trouble()));
  }
  AtomicFile out(file("config.toml"));
  out.write(write_config(config_));
  out.commit();
  recorder_ = std::make_shared<RunRecorder>(path_, config_, position, report_);
  return recorder_;
}

bool RunFolder::save(const std::string& name, StudentTeacher& networks, const TrainingPosition& position) {
  const bool is_last = name == kLastCheckpoint;
  // The lines of the steps before a checkpoint are never written again. They must outlive a power cut as it does.
  recorder_->sync();
  try {
    write_checkpoint(file(name), networks, config_, position,
                     is_last && last_is_sound_ ? file(kPreviousCheckpoint) : std::filesystem::path());
  } catch (const WriteError& error) {
    if (!has_checkpoint_) throw;
    report_(fmt::format("warning: {} of {} is not saved: {}; {}", name, describe(position), error.what(),
                        is_last ? "the one before stays, and saving is tried again" : "it is left out"));
    if (is_last) {
      unsaved_ = position;
      reason_ = error.reason();
      last_try_ = Clock::now();
    }
    return false;
  }
  if (is_last) {
    if (unsaved_) report_(fmt::format("{} of {} is saved", name, describe(position)));
    unsaved_.reset();
    has_checkpoint_ = last_is_sound_ = true;
    last_try_ = Clock::now();
  }
  return true;
}

TrainingPosition RunFolder::load(const std::string& name, StudentTeacher& networks) const {
  return read_checkpoint(file(name), networks, config_);
}

bool RunFolder::has_way_back(const TrainingPosition& now) const {
  const std::filesystem::path healthy = file(kHealthyCheckpoint);
  if (!file_exists(healthy)) return false;
  try {
    return step_of_checkpoint(healthy) <= now.step;
  } catch (const DamagedCheckpoint& error) {
    report_(fmt::format("warning: {}", error.what()));
    return false;
  }
}

bool RunFolder::keep(const std::string& name, const std::string& as) const {
  // Beside it and renamed, so that there is a whole one at every instant; the name is that of AtomicFile's parts.
  const std::filesystem::path beside = file(fmt::format("{}.part{}", as, getpid()));
  std::error_code failed;
  std::filesystem::remove(beside, failed);
  std::filesystem::create_hard_link(file(name), beside, failed);
  std::string trouble;
  if (!failed) {
    std::filesystem::rename(beside, file(as), failed);
    if (failed) trouble = failed.message();
    // Renaming one name of a file to another of its names does nothing.
    std::filesystem::remove(beside, failed);
  } else {
    try {
      copy_synced(file(name), file(as));
    } catch (const Error& error) {
      trouble = error.what();
    }
  }
  if (!trouble.empty()) report_(fmt::format("warning: {} is not kept as {}: {}", name, as, trouble));
  return trouble.empty();
}

bool RunFolder::save_is_due() const {
  const Seconds interval{60 * config_.save_minutes};
  const Seconds passed = Clock::now() - last_try_;
  if (unsaved_) return passed >= (interval > Seconds{0} ? std::min(interval, kRetryInterval) : kRetryInterval);
  return interval > Seconds{0} && passed >= interval;
}

void RunFolder::save_the_rest(StudentTeacher& networks) {
  for (int tries = 0;; ++tries) {
    const bool logged = recorder_->sync();
    const bool saved = !unsaved_ || (tries > 0 && save(kLastCheckpoint, networks, *unsaved_));
    if (saved && logged) return;
    // Waiting does not lift a limit on the size of files.
    const bool hopeless = unsaved_ && reason_ == EFBIG;
    if (tries < kFinalTries && !hopeless) {
      report_(fmt::format("the run is not saved yet; next try in {} s, {} left", kFinalInterval.count(),
                          kFinalTries - tries));
      std::this_thread::sleep_for(kFinalInterval);
      continue;
    }
    if (unsaved_) {
      fail("train",
           "the run ends without its state of {} in {}; what it held before is kept; try to make room there, then "
           "--resume",
           describe(*unsaved_), file(kLastCheckpoint).string());
    }
    fail("train", "the run is saved, but not the last lines of its logs: {}; try to make room there",
         recorder_->trouble());
  }
}

}  // namespace dino
