#include "train/run_recorder.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace dino {
namespace {

/// What was seen of the features goes with their evaluation, the rest with its step.
RunLog::Keep findings_before(std::int64_t first_step, std::int64_t first_epoch) {
  const auto before_epoch = lines_before("epoch", first_epoch), before_step = lines_before("step", first_step);
  return [=](const nlohmann::json& line) {
    return line.contains("kind") && line["kind"] == kFeatureFinding ? before_epoch(line) : before_step(line);
  };
}

/// Evaluations go by epochs: the one after an epoch's last step is made again where its checkpoint was not written yet.
std::int64_t first_epoch(const TrainingPosition& start) { return start.step == 0 ? -1 : start.epoch; }

/// In a folder that is there, or whose absence RunLog finds.
std::filesystem::path log_of_rank(const std::filesystem::path& folder, int rank) {
  std::error_code found_later;
  std::filesystem::create_directories(folder, found_later);
  return folder / fmt::format("log.rank{}.jsonl", rank);
}

}  // namespace

RunRecorder::RunRecorder(const std::filesystem::path& folder, const TrainConfig& config, const TrainingPosition& start,
                         const Report& report)
    : student_temp_(config.student_temp),
      log_(folder / "log.jsonl", lines_before("step", start.step), report),
      knn_log_(folder / "knn.jsonl", lines_before("epoch", first_epoch(start)), report),
      health_log_(folder / "health.jsonl", findings_before(start.step, first_epoch(start)), report) {}

bool RunRecorder::sync() {
  bool synced = true;
  for (RunLog* log : {&log_, &knn_log_, &health_log_}) synced = log->sync() && synced;
  return synced;
}

std::string RunRecorder::trouble() const {
  for (const RunLog* log : {&log_, &knn_log_, &health_log_}) {
    if (!log->trouble().empty()) return log->trouble();
  }
  return {};
}

void RunRecorder::step_done(const StepReport& report) {
  nlohmann::ordered_json line{{"step", report.position.step},
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
                              {"data_wait_share", report.data_wait_share},
                              {"center_norm", report.result.center_norm}};
  if (report.result.not_finite) line["skipped"] = *report.result.not_finite;
  log_.append(line);
}

void RunRecorder::evaluated(const PauseReport& pause, const Evaluation& evaluation) {
  // The number of the step before.
  nlohmann::ordered_json line{{"step", pause.position.step - 1}, {"epoch", pause.epoch}};
  line.update(*evaluation.numbers);
  knn_log_.append(line);
}

void RunRecorder::found(const Finding& finding) { health_log_.append(finding.to_json()); }

void RunRecorder::rolled_back(const TrainingPosition& position) {
  // As a resumed run does, which knows of no later steps either. The evaluation of the untrained networks stays.
  log_.keep_only(lines_before("step", position.step));
  knn_log_.keep_only(lines_before("epoch", position.epoch));
  health_log_.keep_only(findings_before(position.step, position.epoch));
}

RankRecorder::RankRecorder(const std::filesystem::path& folder, int rank, std::int64_t first_step)
    : log_(log_of_rank(folder, rank), lines_before("step", first_step), [](const std::string&) {}) {}

void RankRecorder::step_done(const StepReport& report) {
  log_.append({{"step", report.position.step},
               {"epoch", report.position.epoch},
               {"loss", report.result.loss},
               {"images_per_second", report.images_per_second},
               {"data_wait_share", report.data_wait_share}});
}

void RankRecorder::rolled_back(const TrainingPosition& position) {
  log_.keep_only(lines_before("step", position.step));
}

}  // namespace dino
