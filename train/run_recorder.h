#pragma once

#include "train/run_log.h"
#include "train/run_observer.h"

#include <filesystem>
#include <string>

namespace dino {

/// Writes log.jsonl, a line per step, knn.jsonl, a line per evaluation, and health.jsonl, a line per finding. Each line
/// is a JSON object, whose keys are only ever added to, at the end; docs/logs.md says what they mean:
///   log.jsonl     step, epoch, loss, lr, wd, momentum, teacher_temp, student_temp, grad_norm, entropy, kl,
///                 images_per_second, data_wait_share, center_norm, and skipped in steps that were
///   knn.jsonl     step, epoch, and the numbers of the evaluation: teacher, student, features
///   health.jsonl  step, epoch, kind, severity, state, message, advice, evidence
class RunRecorder final : public RunObserver {
 public:
  /// Of a resumed run, keeps the lines of the steps and evaluations before `start`.
  RunRecorder(const std::filesystem::path& folder, const TrainConfig& config, const TrainingPosition& start,
              const Report& report);

  void step_done(const StepReport& report) override;
  void evaluated(const PauseReport& pause, const Evaluation& evaluation) override;
  void found(const Finding& finding) override;
  void rolled_back(const TrainingPosition& position) override;

  /// Puts all lines on the disk. Returns false where it does not take them.
  bool sync();
  /// Why lines wait in memory; empty where none do.
  std::string trouble() const;

 private:
  double student_temp_;
  RunLog log_, knn_log_, health_log_;
};

/// Writes what one of several ranks sees of each step: log.rankN.jsonl.
class RankRecorder final : public RunObserver {
 public:
  /// Makes the folder, which the first rank has made on its own machine only. A full disk costs lines, not the run.
  RankRecorder(const std::filesystem::path& folder, int rank, std::int64_t first_step);

  void step_done(const StepReport& report) override;
  void rolled_back(const TrainingPosition& position) override;

 private:
  RunLog log_;
};

}  // namespace dino
