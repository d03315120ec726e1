#include "train/run_recorder.h"

#include <nlohmann/json.hpp>

namespace dino {

// Evaluations go by epochs: the one after an epoch's last step is made again where its checkpoint was not written yet.
RunRecorder::RunRecorder(const std::filesystem::path& folder, const TrainConfig& config, const TrainingPosition& start,
                         const Report& report)
    : student_temp_(config.student_temp),
      log_(folder / "log.jsonl", "step", start.step, report),
      knn_log_(folder / "knn.jsonl", "epoch", start.step == 0 ? -1 : start.epoch, report) {}

bool RunRecorder::sync() {
  const bool steps = log_.sync();
  return knn_log_.sync() && steps;
}

void RunRecorder::step_done(const StepReport& report) {
  log_.append({{"step", report.position.step},
               {"epoch", report.position.epoch},
               {"loss", report.result.loss},
               {"lr", report.values.lr},
               {"wd", report.values.weight_decay},
               {"momentum", report.values.teacher_momentum},
               {"teacher_temp", report.values.teacher_temp},
               {"student_temp", student_temp_},
               {"grad_norm", report.result.gradient_norm},
               {"entropy", report.result.teacher_entropy},
               {"kl", report.result.kl},
               {"images_per_second", report.images_per_second},
               {"data_wait_share", report.data_wait_share}});
}

void RunRecorder::evaluated(const PauseReport& pause, const Evaluation& evaluation) {
  // The number of the step before.
  nlohmann::ordered_json line{{"step", pause.position.step - 1}, {"epoch", pause.epoch}};
  line.update(*evaluation.numbers);
  knn_log_.append(line);
}

}  // namespace dino
