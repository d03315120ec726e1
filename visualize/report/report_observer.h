#pragma once

#include "train/run_log.h"
#include "train/run_observer.h"
#include "visualize/report/film.h"
#include "visualize/report/run_history.h"

#include <map>
#include <memory>
#include <set>
#include <string>

namespace dino {

/// Keeps report.html in a run's folder up to date, with the film that it shows: before the first epoch, after every
/// config.report_every-th and after the last. Also writes environment.jsonl, a line for each start of the run, and
/// film/epochs.jsonl, a line for each time. Nothing that fails here costs the run: it is said once, and training goes
/// on.
class ReportObserver final : public RunObserver {
 public:
  /// `images` must outlive the observer. `facts` go to environment.jsonl: the machine, the version, …
  ReportObserver(Context& context, const TrainConfig& config, const ImageSource& images,
                 std::vector<std::string> class_names, std::map<std::string, std::string> facts);

  void started(const PauseReport& pause) override;
  void rolled_back(const TrainingPosition& position) override;
  void epoch_done(const PauseReport& pause) override;

 private:
  /// Forgets what an earlier part of the run wrote of later epochs.
  void go_on_after(std::int64_t epochs);
  void write(const PauseReport& pause);
  /// Runs `work`; what it throws becomes a message. Interrupted goes on to the run.
  template <typename Work>
  void try_to(const char* what, const PauseReport& pause, Work work);

  Context& context_;
  TrainConfig config_;
  std::map<std::string, std::string> facts_;
  Film film_;
  std::unique_ptr<RunReader> reader_;
  std::unique_ptr<RunLog> epochs_;
  std::set<std::string> said_;  // failures that were reported
  bool announced_ = false;
};

}  // namespace dino
