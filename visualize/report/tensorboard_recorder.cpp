#include "visualize/report/tensorboard_recorder.h"

#include "data/decode.h"
#include "kernels/common/error.h"
#include "visualize/report/film_files.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>
#include <vector>

namespace dino {
namespace {

using Scalars = std::vector<std::pair<std::string, double>>;

constexpr std::chrono::seconds kFlushEvery{2};

void add_accuracies(Scalars& scalars, const std::string& network, const nlohmann::ordered_json& rows) {
  for (const auto& row : rows) {
    for (const char* top : {"top1", "top5"}) {
      if (row.is_object() && row.contains(top) && row[top].is_number())
        scalars.emplace_back(fmt::format("knn/{}_{}_k{}", network, top, row.value("k", 0)), row[top].get<double>());
    }
  }
}

}  // namespace

void TensorBoardRecorder::open(std::int64_t first_step) {
  if (file_ || !failure_.empty()) return;
  try {
    file_ = std::make_unique<EventFile>(folder_ / "tensorboard", first_step);
  } catch (const Error& error) {
    give_up(error);
  }
}

void TensorBoardRecorder::give_up(const Error& error) {
  failure_ = error.what();
  file_.reset();
}

void TensorBoardRecorder::say_failure(const PauseReport& pause) {
  if (failure_.empty() || std::exchange(said_, true)) return;
  pause.progress.message("no log for TensorBoard, training goes on: " + failure_);
}

void TensorBoardRecorder::started(const PauseReport& pause) {
  open(pause.position.step);
  if (pause.position.step == 0) add_pictures(0, 0);
  say_failure(pause);
}

void TensorBoardRecorder::step_done(const StepReport& report) {
  if (!file_) return;
  try {
    file_->scalars(report.position.step, Scalars{{"train/loss", report.result.loss},
                                                 {"train/teacher_entropy", report.result.teacher_entropy},
                                                 {"train/kl", report.result.kl},
                                                 {"train/grad_norm", report.result.gradient_norm},
                                                 {"train/epoch", static_cast<double>(report.position.epoch)},
                                                 {"schedule/lr", report.values.lr},
                                                 {"schedule/weight_decay", report.values.weight_decay},
                                                 {"schedule/teacher_momentum", report.values.teacher_momentum},
                                                 {"schedule/teacher_temp", report.values.teacher_temp},
                                                 {"speed/images_per_second", report.images_per_second},
                                                 {"speed/data_wait_share", report.data_wait_share}});
    const auto now = std::chrono::steady_clock::now();
    if (now - flushed_ < kFlushEvery) return;
    file_->flush();
    flushed_ = now;
  } catch (const Error& error) {
    give_up(error);
  }
}

void TensorBoardRecorder::evaluated(const PauseReport& pause, const Evaluation& evaluation) {
  open(pause.position.step);
  if (!file_ || !evaluation.numbers) return;
  Scalars scalars;
  for (const auto& [network, value] : evaluation.numbers->items()) {
    if (value.is_array()) add_accuracies(scalars, network, value);
    // Numbers of the features of each network.
    if (network != "features" || !value.is_object()) continue;
    for (const char* of : {"teacher", "student"}) {
      if (!value.contains(of) || !value[of].is_object()) continue;
      for (const auto& [name, number] : value[of].items()) {
        if (number.is_number()) scalars.emplace_back(fmt::format("features/{}_{}", of, name), number.get<double>());
      }
    }
  }
  try {
    // Of the step before, as in knn.jsonl; that of the untrained networks is at the first one's place.
    file_->scalars(std::max<std::int64_t>(0, pause.position.step - 1), scalars);
    file_->flush();
  } catch (const Error& error) {
    give_up(error);
  }
}

void TensorBoardRecorder::epoch_done(const PauseReport& pause) {
  add_pictures(pause.position.step - 1, pause.epoch + 1);
  say_failure(pause);
}

void TensorBoardRecorder::rolled_back(const TrainingPosition& position) {
  if (!failure_.empty()) return;
  file_.reset();
  // As --resume does; a start at step 0 would be that of a run on its own.
  open(std::max<std::int64_t>(1, position.step));
}

void TensorBoardRecorder::add_pictures(std::int64_t step, std::int64_t epochs) {
  constexpr const char* kKinds[][2] = {{"attention", "jpg"}, {"components", "png"}};
  for (const auto& [kind, extension] : kKinds) {
    const auto path = film_file(folder_ / "film", kind, epochs, extension);
    if (!file_ || !std::filesystem::exists(path)) continue;
    try {
      std::vector<std::byte> bytes;
      read_picture_file(path, bytes);
      Image image;
      decode_image(bytes, path.string(), {}, image);
      file_->picture(step, {.tag = std::string("film/") + kind,
                            .height = image.height,
                            .width = image.width,
                            .bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
      file_->flush();
    } catch (const Error& error) {
      give_up(error);
    }
  }
}

}  // namespace dino
