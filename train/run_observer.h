#pragma once

#include "data/loader.h"
#include "engine/progress.h"
#include "train/checkpoint.h"
#include "train/health.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dino {

/// One training step and its result, which is known some steps after the step was put on the device.
struct StepReport {
  TrainingPosition position;  // before the step
  StepValues values;
  StepResult result;
  double images_per_second = 0;  // of all ranks together
  double data_wait_share = 0;    // of the step's time, 0 to 1
};

/// What an evaluation of the networks between epochs found.
struct Evaluation {
  double score = 0;  // higher is better: decides which checkpoint is `best`; negative: none
  std::string summary;
  std::optional<FeatureSpread> features = {};       // the teacher's, for Health
  std::shared_ptr<nlohmann::ordered_json> numbers;  // goes to knn.jsonl
};

/// Between two steps, with nothing on its way to or from the device.
struct PauseReport {
  std::int64_t epoch = 0;     // the one that has just ended; -1 before the first
  TrainingPosition position;  // of the next step
  StudentTeacher& networks;
  Progress& progress;        // for messages
  BrokenImages broken = {};  // so far, since the program was started
};

/// Follows a run. It is told what happens in the order of the steps, on rank 0 only. What it throws ends the run.
/// Interrupted, from started or epoch_done, stops it: it comes there once more when it is resumed.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  /// Before the first step, of the run or since it was resumed, and after the evaluation of untrained networks.
  virtual void started(const PauseReport&) {}
  virtual void step_done(const StepReport&) {}
  virtual void evaluated(const PauseReport&, const Evaluation&) {}
  /// After the step or evaluation in which it was found.
  virtual void found(const Finding&) {}
  /// The run went back to an earlier checkpoint, and goes on from this position once more.
  virtual void rolled_back(const TrainingPosition&) {}
  /// After the evaluation of the epoch, where there is one, and before `last` is saved: a run that is killed in between
  /// comes here once more.
  virtual void epoch_done(const PauseReport&) {}
};

using RunObservers = std::vector<std::shared_ptr<RunObserver>>;

}  // namespace dino
