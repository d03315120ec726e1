#pragma once

#include "engine/folder_lock.h"
#include "train/checkpoint.h"
#include "train/run_recorder.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dino {

enum class StartMode { fresh, resume };

/// Throws Error, with the process where the system says which it is, when a run is at work in the folder: for saying so
/// before anything is prepared.
void require_no_run_at_work(const std::filesystem::path& folder);

/// The folder in which a run keeps its checkpoints and logs. Once the run has begun, a disk that takes no more is no
/// reason to end it: the former checkpoint stays, log lines wait in memory, and saving is tried again.
class RunFolder {
 public:
  /// Makes the folder, keeps other runs out of it from now on, and removes what a killed process left half-written.
  /// Throws Error, and changes nothing, when another process trains into it, when a fresh run finds another run in it,
  /// or a resumed one finds none.
  RunFolder(const TrainConfig& config, StartMode start);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }

  /// Puts the newest sound checkpoint's state into `networks`; `notes` get lines that say which it is, and which are
  /// damaged. Throws Error where none is sound, or it belongs to another run.
  TrainingPosition resume(StudentTeacher& networks, std::vector<std::string>& notes);

  /// Writes config.toml and opens the logs, which the observer that is returned writes. `report` hears of trouble with
  /// the disk from now on.
  std::shared_ptr<RunObserver> start(const TrainingPosition& position, Report report);

  /// Writes a checkpoint of this name in the place of an older one; the former `last` stays as `previous`. Returns
  /// false, and reports it, where the disk does not take it. Throws WriteError where there is no checkpoint at all yet.
  bool save(const std::string& name, StudentTeacher& networks, const TrainingPosition& position);
  /// Puts the state of the checkpoint of this name into `networks`. Throws Error where there is none.
  TrainingPosition load(const std::string& name, StudentTeacher& networks) const;
  /// Is there a healthy checkpoint to go back to? One of a later step is of a way that the run has left: it was resumed
  /// from an older checkpoint, which somebody has put in the place of `last`. A damaged one is reported.
  bool has_way_back(const TrainingPosition& now) const;
  /// Keeps the checkpoint `name` under another name as well, in the place of an older one there; later ones named
  /// `name` leave it alone. Costs no space where the file system has links, until then. Returns false, and reports it,
  /// where the disk does not take it.
  bool keep(const std::string& name, const std::string& as) const;
  /// Is it time to write `last`, as save_minutes have gone by or the disk did not take it some time ago?
  bool save_is_due() const;
  /// Before the run ends, with nothing changed in the networks since save(): tries for a minute to write what the disk
  /// has not taken, then throws Error, which says what is lost.
  void save_the_rest(StudentTeacher& networks);

 private:
  using Clock = std::chrono::steady_clock;

  void lock();

  TrainConfig config_;
  std::filesystem::path path_;
  std::optional<FolderLock> lock_;
  Report report_;
  std::shared_ptr<RunRecorder> recorder_;
  bool has_checkpoint_;
  bool last_is_sound_ = true;  // and may become `previous`
  Clock::time_point last_try_ = Clock::now();
  std::optional<TrainingPosition> unsaved_;  // of the last try to write `last`, where it failed
  int reason_ = 0;                           // why, an error number
};

}  // namespace dino
