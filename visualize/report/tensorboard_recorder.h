#pragma once

#include "kernels/common/error.h"
#include "train/event_file.h"
#include "train/run_observer.h"

#include <chrono>
#include <memory>

namespace dino {

/// Logs a run for TensorBoard, into `tensorboard/` in its folder: the numbers of log.jsonl under train/, speed/ and
/// schedule/, accuracies under knn/, and the newest pictures of the film. A log that cannot be written is given up with
/// a message; training goes on.
class TensorBoardRecorder final : public RunObserver {
 public:
  explicit TensorBoardRecorder(const TrainConfig& config) : folder_(config.output_dir) {}

  void started(const PauseReport& pause) override;
  void step_done(const StepReport& report) override;
  void evaluated(const PauseReport& pause, const Evaluation& evaluation) override;
  void epoch_done(const PauseReport& pause) override;
  void rolled_back(const TrainingPosition& position) override;

 private:
  void open(std::int64_t first_step);
  void add_pictures(std::int64_t step, std::int64_t epochs);
  void give_up(const Error& error);
  void say_failure(const PauseReport& pause);

  std::filesystem::path folder_;
  std::unique_ptr<EventFile> file_;  // none before the start, or when it was given up
  std::string failure_;              // why it was given up
  bool said_ = false;
  std::chrono::steady_clock::time_point flushed_;
};

}  // namespace dino
