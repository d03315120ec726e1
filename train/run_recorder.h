#pragma once

#include "train/run_log.h"
#include "train/run_observer.h"

#include <filesystem>
#include <string>

namespace dino {

/// Writes log.jsonl, a line per step, and knn.jsonl, a line per evaluation.
class RunRecorder final : public RunObserver {
 public:
  /// Of a resumed run, keeps the lines of the steps and evaluations before `start`.
  RunRecorder(const std::filesystem::path& folder, const TrainConfig& config, const TrainingPosition& start,
              const Report& report);

  void step_done(const StepReport& report) override;
  void evaluated(const PauseReport& pause, const Evaluation& evaluation) override;

  /// Puts all lines on the disk. Returns false where it does not take them.
  bool sync();
  /// Why lines wait in memory; empty where none do.
  std::string trouble() const { return log_.trouble().empty() ? knn_log_.trouble() : log_.trouble(); }

 private:
  double student_temp_;
  RunLog log_, knn_log_;
};

}  // namespace dino
