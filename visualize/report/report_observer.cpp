#include "visualize/report/report_observer.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "train/stop_signal.h"
#include "visualize/report/report.h"

#include <fmt/chrono.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <ctime>

namespace dino {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBrokenNames = 20;

std::string now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

/// Trouble with the disk is reported by the run's own logs.
void no_report(const std::string&) {}

}  // namespace

ReportObserver::ReportObserver(Context& context, const TrainConfig& config, const ImageSource& images,
                               std::vector<std::string> class_names, std::map<std::string, std::string> facts)
    : context_(context),
      config_(config),
      facts_(std::move(facts)),
      film_(images, std::move(class_names), config, fs::path(config.output_dir) / "film") {}

template <typename Work>
void ReportObserver::try_to(const char* what, const PauseReport& pause, Work work) {
  try {
    work();
  } catch (const Interrupted&) {
    throw;  // the run is stopped, and comes here once more when it is resumed
  } catch (const std::exception& error) {
    if (!said_.insert(error.what()).second) return;
    pause.progress.message(fmt::format("no {}, training goes on: {}", what, error.what()));
  }
}

void ReportObserver::started(const PauseReport& pause) {
  const fs::path folder = config_.output_dir;
  try_to("record of the environment", pause, [&] {
    nlohmann::ordered_json line{{"step", pause.position.step}, {"started", now()}};
    for (const auto& [key, value] : facts_) line[key] = value;
    RunLog(folder / "environment.jsonl", lines_before("step", pause.position.step), no_report).append(line);
  });
  try_to("film", pause, [&] {
    make_output_folder(folder / "film");
    remove_abandoned_parts(folder / "film");
    go_on_after(pause.position.step == 0 ? -1 : pause.position.epoch);
  });
  if (pause.position.step == 0) write(pause);
}

void ReportObserver::go_on_after(std::int64_t epochs) {
  film_.remove_frames_after(epochs);
  epochs_ = std::make_unique<RunLog>(fs::path(config_.output_dir) / "film/epochs.jsonl", lines_before("epoch", epochs),
                                     no_report);
  reader_.reset();
}

void ReportObserver::rolled_back(const TrainingPosition& position) {
  try {
    go_on_after(position.epoch);
  } catch (const Error&) {
    epochs_.reset();  // the run's own logs report the trouble with the disk
  }
}

void ReportObserver::epoch_done(const PauseReport& pause) {
  if ((pause.epoch + 1) % config_.report_every == 0 || pause.epoch + 1 == config_.epochs) write(pause);
}

void ReportObserver::write(const PauseReport& pause) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  try_to("film", pause, [&] { film_.draw(context_, pause.networks, pause.epoch + 1); });
  try_to("film", pause, [&] {
    // Of the step before, so that a resumed run does not write it again.
    nlohmann::ordered_json line{{"step", pause.position.step - 1},
                                {"epoch", pause.epoch},
                                {"film_seconds", seconds()},
                                {"broken", pause.broken.count}};
    for (const BrokenImage& entry : pause.broken.entries) {
      if (line["broken_names"].size() < kMaxBrokenNames)
        line["broken_names"].push_back(entry.name + ": " + entry.reason);
    }
    if (epochs_) epochs_->append(line);
  });
  try_to("report", pause, [&] {
    const fs::path folder = config_.output_dir;
    if (!reader_) reader_ = std::make_unique<RunReader>(folder);
    write_report({&reader_->read()}, folder / "report.html");
    if (announced_) return;
    pause.progress.message(fmt::format("report: {} ({:.1f} s)", (folder / "report.html").string(), seconds()));
    announced_ = true;
  });
}

}  // namespace dino
