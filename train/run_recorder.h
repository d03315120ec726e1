#pragma once

#include "train/run_log.h"
#include "train/run_observer.h"

#include <filesystem>

namespace dino {

/// Writes log.jsonl, a line per step, and knn.jsonl, a line per evaluation.
class RunRecorder final : public RunObserver {
 public:
  /// Of a resumed run, keeps the lines of steps before `first_step`.
  RunRecorder(const std::filesystem::path& folder, const TrainConfig& config, std::int64_t first_step);

  void step_done(const StepReport& report) override;
  void evaluated(const PauseReport& pause, const Evaluation& evaluation) override;

 private:
  double student_temp_;
  RunLog log_, knn_log_;
};

}  // namespace dino
