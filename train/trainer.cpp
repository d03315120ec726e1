#include "train/trainer.h"

#include "data/broken_image_list.h"
#include "data/broken_of_ranks.h"
#include "data/loader.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "train/initial_weights.h"
#include "train/precision.h"
#include "train/ranks.h"
#include "train/run_folder.h"
#include "train/run_recorder.h"
#include "train/schedules.h"
#include "train/stop_signal.h"
#include "train/training_data.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>
#include <utility>

namespace dino {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBrokenList = "broken_images.jsonl";

/// One run from its first (or next) step to its last.
class Trainer {
 public:
  Trainer(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator, RunObservers observers)
      : context_(context),
        communicator_(communicator),
        config_(config),
        evaluator_(evaluator),
        observers_(std::move(observers)),
        networks_(context, communicator, config, compute_type_for(config.precision, context.device())) {
    steps_per_epoch_ = images.size() / config.batch_size_per_gpu / communicator.size() / config.accumulation;
    require(steps_per_epoch_ > 0, "train",
            "an epoch holds no whole step; got {} images, expected at least {} × {} × {} (batch_size_per_gpu × "
            "accumulation × ranks); try smaller ones, or more images",
            images.size(), config.batch_size_per_gpu, config.accumulation, communicator.size());
    if (writes()) {
      folder_.emplace(config, start);
      if (start == StartMode::resume) {
        position_ = folder_->resume(networks_, start_notes_);
      } else if (!config.init.empty()) {
        start_notes_ = load_initial_weights(networks_, config_);
      }
    }
    if (start == StartMode::resume || !config.init.empty()) share_state(communicator, networks_, position_);
    require_same_state(communicator, networks_, position_);
    if (writes()) broken_list_.emplace(fs::path(config.output_dir) / kBrokenList, start == StartMode::resume);
    broken_ = std::make_unique<BrokenOfRanks>(communicator, images.size(), config.max_broken_share,
                                              broken_list_ ? &*broken_list_ : nullptr);
    const SamplerOptions sampler{.size = images.size(),
                                 .batch = config.batch_size_per_gpu,
                                 .rank = communicator.rank(),
                                 .ranks = communicator.size(),
                                 .seed = static_cast<std::uint64_t>(config.seed)};
    batches_per_epoch_ = Sampler(sampler).batches_per_epoch();
    global_batch_ = std::int64_t{config.batch_size_per_gpu} * config.accumulation * communicator.size();
    schedules_ = make_schedules(config, steps_per_epoch_, global_batch_);
    require_position_fits();
    health_ = std::make_unique<Health>(config, steps_per_epoch_);
    open_loader_ = [this, &images, sampler] {
      // A run that was stopped after the last batch of an epoch has yet to finish that epoch.
      const bool epoch_read = position_.batch == batches_per_epoch_;
      loader_ =
          std::make_unique<Loader>(images, sampler, training_views(config_),
                                   LoaderOptions{.threads = config_.num_workers,
                                                 .epoch = position_.epoch + (epoch_read ? 1 : 0),
                                                 .batch = epoch_read ? 0 : position_.batch,
                                                 .end_epoch = config_.epochs,
                                                 .max_broken_share = broken_->max_broken_share_of_loader(),
                                                 .on_broken = [this](const BrokenImage& image) { broken_->add(image); },
                                                 .augment = augment_on(config_, context_.device())});
    };
    go_on();
  }

  int run() {
    if (!writes()) observers_.clear();
    if (config_.rank_logs && communicator_.size() > 1)
      observers_.push_back(std::make_shared<RankRecorder>(config_.output_dir, communicator_.rank(), position_.step));
    const StopSignal stop;
    const IgnoreClosedPipes pipes;
    Progress progress("step", config_.epochs * steps_per_epoch_, position_.step, writes() ? stderr : nullptr);
    progress.message(describe());
    for (const std::string& note : start_notes_) progress.message(note);
    if (position_.epoch >= config_.epochs)
      progress.message("all epochs of this run are done; it goes on with more --epochs");
    if (writes()) {
      observers_.insert(observers_.begin(),
                        folder_->start(position_, [&](const std::string& line) { progress.message(line); }));
      // So that a run can be resumed from the first step on.
      if (position_.step == 0) save_last_and_healthy();
      // Where the run before was not meant to go back.
      const bool none_healthy = config_.rollbacks > 0 && !folder_->has_way_back(position_);
      if (none_healthy && position_.batch == 0 && position_.healthy) save(kHealthyCheckpoint);
    }
    communicator_.barrier("the run's folder");
    try {
      if (evaluator_ && position_.step == 0) {
        evaluate("before training", -1, progress);
      }
      tell_observers(&RunObserver::started, pause(position_.epoch - 1, progress));
      progress.update(position_.step);  // from here on the steps count for the time that is left
    } catch (const Interrupted&) {
      return stopped(progress);
    }
    while (position_.epoch < config_.epochs) {
      while (position_.batch < steps_per_epoch_ * config_.accumulation) {
        read_or_save(progress, [&] { run_step(progress); });
        const Next next = decide();
        if (const auto too_many = broken_->too_many()) {
          finish_steps(progress);
          save(kLastCheckpoint);
          communicator_.barrier("the last checkpoint");
          throw *too_many;
        }
        if (next != Next::step) {
          finish_steps(progress);
          if (trouble_) settle(progress);
          save(kLastCheckpoint);
          if (next == Next::stop) return stopped(progress);
        }
        if (config_.checksum_every > 0 && position_.step % config_.checksum_every == 0) {
          finish_steps(progress);
          require_same_state(communicator_, networks_, position_);
        }
      }
      finish_steps(progress);
      if (trouble_ && settle(progress)) continue;
      // What is left of the epoch makes no whole step.
      read_or_save(progress, [&] {
        for (; position_.batch < batches_per_epoch_; ++position_.batch) loader_->next(batch_);
      });
      try {
        finish_epoch(progress);
      } catch (const Interrupted&) {
        return stopped(progress);
      }
    }
    if (writes()) folder_->save_the_rest(networks_);
    communicator_.barrier("the end");
    return 0;
  }

 private:
  bool writes() const { return communicator_.rank() == 0; }
  /// Writes a checkpoint on rank 0. Returns false where the disk does not take it.
  bool save(const std::string& name) {
    position_.healthy = health_->sound();
    position_.health = health_->state();
    return !writes() || folder_->save(name, networks_, position_);
  }

  /// Does what reads batches. Where too many pictures are broken, the steps until here are saved before that is thrown.
  template <typename Work>
  void read_or_save(Progress& progress, const Work& work) {
    const std::int64_t batch = position_.batch;
    try {
      work();
    } catch (const TooManyBroken&) {
      finish_steps(progress);
      position_.batch = batch;
      save(kLastCheckpoint);
      throw;
    }
  }

  /// Takes up the position: what was seen before it, and the data after it.
  void go_on() {
    *health_ = Health(config_, steps_per_epoch_);
    if (!position_.health.empty()) health_->restore(position_.health);
    open_loader_();
  }

  /// Saves the state as `last`, and where it is healthy for roll-backs as well: only at the ends of epochs, where also
  /// a run that was stopped and resumed comes by.
  void save_last_and_healthy() {
    if (save(kLastCheckpoint) && writes() && config_.rollbacks > 0 && position_.healthy)
      folder_->keep(kLastCheckpoint, kHealthyCheckpoint);
  }

  /// What comes after a step: the next one, that one after saving, or saving and the end. The same on every rank: a
  /// signal may reach them in different steps, or only one of them. Also tells of broken pictures, where there are new
  /// ones.
  enum class Next { step, save, stop };
  Next decide() {
    // After the last step of an epoch it is saved anyway.
    const bool epoch_ends = position_.batch >= steps_per_epoch_ * config_.accumulation;
    const bool save_is_due = writes() && !epoch_ends && folder_->save_is_due();
    constexpr int kSave = 1, kStop = 1000;
    const int mine = StopSignal::received() != 0 ? kStop + StopSignal::received() : save_is_due ? kSave : 0;
    const int news = broken_->has_news() ? 1 : 0;
    const auto [most, any_news] = largest_of_ranks(communicator_, {mine, news}, "signals");
    if (any_news != 0) broken_->exchange();
    if (most >= kStop) signal_ = most - kStop;
    return most >= kStop ? Next::stop : most == kSave ? Next::save : Next::step;
  }

  int stopped(Progress& progress) {
    if (signal_ == 0) signal_ = largest_of_ranks(communicator_, StopSignal::received(), "signals");
    if (writes()) folder_->save_the_rest(networks_);
    progress.message(fmt::format("interrupted after step {}; go on with --resume", position_.step));
    communicator_.barrier("the end");
    return StopSignal::exit_status(signal_);
  }

  /// The position counts in epochs and batches of this many pictures.
  void require_position_fits() const {
    const TrainingPosition& p = position_;
    const bool fits = p.batch <= batches_per_epoch_ && p.batch % config_.accumulation == 0 &&
                      p.step == p.epoch * steps_per_epoch_ + p.batch / config_.accumulation;
    require(fits && p.epoch <= config_.epochs, "train",
            "the run in {} is at step {}, in batch {} of epoch {}, which is no place in {} epochs of {} batches; try "
            "the pictures "
            "and epochs of the run before, or another --output_dir",
            config_.output_dir, p.step, p.batch, p.epoch, config_.epochs, batches_per_epoch_);
  }

  std::string describe() const {
    return fmt::format("{} parameters, {} steps of {} images per epoch, {} epoch{}, {}{}{}",
                       networks_.layout().parameter_count(), steps_per_epoch_, global_batch_, config_.epochs,
                       config_.epochs == 1 ? "" : "s",
                       compute_type_for(config_.precision, context_.device()) == DType::bfloat16 ? "bf16" : "fp32",
                       communicator_.size() > 1 ? fmt::format(", {} ranks", communicator_.size()) : "",
                       position_.step > 0 ? fmt::format(", from step {}", position_.step) : "");
  }

  StepValues values() const {
    const auto step = static_cast<std::size_t>(position_.step);
    return {.lr = std::ldexp(schedules_.lr.at(step), -position_.rollbacks),
            .weight_decay = schedules_.weight_decay.at(step),
            .teacher_momentum = schedules_.momentum.at(step),
            .teacher_temp = schedules_.teacher_temp.at(static_cast<std::size_t>(position_.epoch)),
            .freeze_last_layer = position_.epoch < config_.freeze_last_layer,
            .step = static_cast<std::uint64_t>(position_.step)};
  }

  /// A step that was put on the device, and what is known of it before its result is.
  struct Sent {
    TrainingPosition position;
    StepValues values;
    double wait_ms = 0;  // for data
  };

  void run_step(Progress& progress) {
    if (sent_.empty()) mark_ = Clock::now();
    if (sent_.size() == StudentTeacher::kMaxPending) finish_step(networks_.wait(), progress);
    if (trouble_ && position_.step >= trouble_->settled_before) {
      finish_steps(progress);
      if (settle(progress)) return;
    }
    const StepValues now = values();
    double wait_ms = 0;
    for (int i = 0; i < config_.accumulation; ++i) {
      require(loader_->next(batch_), "train", "the data ended at epoch {}, batch {}", position_.epoch, position_.batch);
      wait_ms += batch_.wait_ms;
      networks_.run_micro_batch(upload_training_crops(context_, batch_), now);
      ++position_.batch;
    }
    networks_.update(now);
    sent_.push_back({position_, now, wait_ms});
    ++position_.step;
    while (const auto result = networks_.poll()) finish_step(*result, progress);
  }

  /// Waits for the results of all steps so far. Comes before all that reads the networks.
  void finish_steps(Progress& progress) {
    while (networks_.pending() > 0) finish_step(networks_.wait(), progress);
  }

  /// Takes the result of the oldest step in sent_.
  void finish_step(const StepResult& result, Progress& progress) {
    const Sent step = sent_.front();
    sent_.pop_front();
    // In a row of steps, results are as far apart as the steps take.
    const auto now = Clock::now();
    const double step_ms = std::chrono::duration<double, std::milli>(now - std::exchange(mark_, now)).count();
    const StepReport report{.position = step.position,
                            .values = step.values,
                            .result = result,
                            .images_per_second = static_cast<double>(global_batch_) / step_ms * 1e3,
                            .data_wait_share = step.wait_ms / step_ms};
    for (const auto& observer : observers_) observer->step_done(report);
    watch(report, progress);
    if (!result.not_finite) {
      epoch_loss_ += result.loss;
      ++epoch_steps_;
    }
    progress.update(
        step.position.step + 1,
        fmt::format("| epoch {} | loss {:.4f} | lr {:.2e} | {:.1f} images/s | data wait {:.0f}%", step.position.epoch,
                    result.loss, step.values.lr, report.images_per_second, 100 * report.data_wait_share));
  }

  void tell(const std::vector<Finding>& findings, Progress& progress) {
    if (!writes()) return;
    for (const Finding& finding : findings) {
      progress.message(finding.to_string());
      for (const auto& observer : observers_) observer->found(finding);
    }
  }

  /// Looks at the numbers of a step, on every rank: they are the same everywhere.
  void watch(const StepReport& report, Progress& progress) {
    const StepResult& result = report.result;
    const std::vector<Finding> findings = health_->step({.step = report.position.step,
                                                         .epoch = report.position.epoch,
                                                         .loss = result.loss,
                                                         .teacher_entropy = result.teacher_entropy,
                                                         .kl = result.kl,
                                                         .gradient_norm = result.gradient_norm,
                                                         .center_norm = result.center_norm,
                                                         .not_finite = result.not_finite});
    tell(findings, progress);
    if (trouble_) return;
    // On every device and rank the steps that may be on their way by now run before anything is done about it, so that
    // all act between the same two.
    const std::int64_t settled_before = report.position.step + std::int64_t{StudentTeacher::kMaxPending};
    for (const Finding& finding : findings) {
      if (finding.severity == Finding::Severity::severe && finding.state == Finding::State::begins)
        trouble_ = {settled_before, false, finding.message};
    }
    if (result.not_finite && health_->recent_skips() > config_.max_skipped_steps) {
      trouble_ = {settled_before, true,
                  fmt::format("{} of the last {} steps were skipped, step {} too (not finite: {})",
                              health_->recent_skips(), Health::kSkipWindow, report.position.step, *result.not_finite)};
    }
  }

  /// Does what is to be done about trouble, between two steps: goes back to the last healthy checkpoint and returns
  /// true, or leaves the run as it is, or ends it.
  bool settle(Progress& progress) {
    const Trouble trouble = *std::exchange(trouble_, std::nullopt);
    const int way_back = writes() && folder_->has_way_back(position_) ? 1 : 0;
    if (position_.rollbacks < config_.rollbacks && largest_of_ranks(communicator_, way_back, "ways back") > 0) {
      roll_back(trouble.what, progress);
      return true;
    }
    if (!trouble.ends_run) return false;
    const auto weight = networks_.weights_not_finite();
    fail("train",
         "{}{}; {} is the last good checkpoint; try a smaller lr, longer warmup_epochs, a smaller clip_grad, a "
         "lower warmup_teacher_temp, or precision = \"fp32\"",
         trouble.what, weight ? fmt::format(", and {} itself is not finite", *weight) : "",
         (fs::path(config_.output_dir) / kLastCheckpoint).string());
  }

  void roll_back(const std::string& why, Progress& progress) {
    const TrainingPosition before = position_;
    if (writes()) position_ = folder_->load(kHealthyCheckpoint, networks_);
    share_state(communicator_, networks_, position_);
    position_.best_score = before.best_score;  // that file stays as it is
    position_.rollbacks = before.rollbacks + 1;
    require_position_fits();
    go_on();
    epoch_loss_ = 0;
    epoch_steps_ = 0;
    save(kLastCheckpoint);
    for (const auto& observer : observers_) observer->rolled_back(position_);
    const double factor = std::ldexp(1.0, -position_.rollbacks);
    Finding finding;
    finding.kind = "rolled_back";
    finding.severity = Finding::Severity::warning;
    finding.step = position_.step - 1;
    finding.epoch = position_.epoch;
    finding.message = fmt::format(
        "back from step {} to the healthy state before step {}, for the {}. of {} times, and on with {} times "
        "the lr of the schedule; the reason: {}",
        before.step, position_.step, position_.rollbacks, config_.rollbacks, factor, why);
    finding.evidence = {{"from_step", static_cast<double>(before.step)},
                        {"rollbacks", static_cast<double>(position_.rollbacks)},
                        {"lr_factor", factor}};
    tell({finding}, progress);
  }

  /// `epoch` is the one that has just ended, -1 before the first.
  void evaluate(const std::string& when, std::int64_t epoch, Progress& progress) {
    Evaluation evaluation;
    try {
      evaluation = evaluator_(networks_);
    } catch (const Error& error) {
      // A measurement that fails must not cost the run; its cause is for the user to judge.
      progress.message(fmt::format("{}: no evaluation, training goes on: {}", when, error.what()));
      return;
    }
    progress.message(fmt::format("{}: {}", when, evaluation.summary));
    for (const auto& observer : observers_) observer->evaluated(pause(epoch, progress), evaluation);
    if (evaluation.features) tell(health_->features(position_.step - 1, epoch, *evaluation.features), progress);
    if (epoch >= 0 && evaluation.score > position_.best_score) {
      const double before = std::exchange(position_.best_score, evaluation.score);
      if (!save(kBestCheckpoint)) position_.best_score = before;  // that of the file that stays
    }
  }

  PauseReport pause(std::int64_t epoch, Progress& progress) {
    return {
        .epoch = epoch, .position = position_, .networks = networks_, .progress = progress, .broken = broken_->found()};
  }

  /// Throws Interrupted on every rank where it reaches the observers, which are those of the first.
  void tell_observers(void (RunObserver::*what)(const PauseReport&), const PauseReport& pause) {
    int interrupted = 0;
    try {
      for (const auto& observer : observers_) (*observer.*what)(pause);
    } catch (const Interrupted&) {
      interrupted = 1;
    }
    if (largest_of_ranks(communicator_, interrupted, "interruptions") != 0) throw Interrupted();
  }

  /// What an epoch has after its last step. A run that is stopped in it begins with it when it is resumed.
  void finish_epoch(Progress& progress) {
    position_.batch = steps_per_epoch_ * config_.accumulation;
    const TrainingPosition after_steps = position_;
    const std::string health = health_->state();
    const bool evaluates = evaluator_ && config_.knn_every > 0 && evaluation_is_due();
    // Evaluations take long: the run may be killed as well.
    if (evaluates) save(kLastCheckpoint);
    try {
      leave_epoch(progress);
    } catch (const Interrupted&) {
      position_ = after_steps;
      health_->restore(health);
      if (!evaluates) save(kLastCheckpoint);
      throw;
    }
  }

  bool evaluation_is_due() const {
    const int every = std::max(1, config_.knn_every);  // without k-NN, the evaluator looks at features
    return (position_.epoch + 1) % every == 0 || position_.epoch + 1 == config_.epochs;
  }

  void leave_epoch(Progress& progress) {
    const std::int64_t epoch = position_.epoch;
    if (epoch_steps_ > 0) {
      progress.message(fmt::format("epoch {} done, mean loss {:.4f}", epoch, epoch_loss_ / epoch_steps_));
    }
    epoch_loss_ = 0;
    epoch_steps_ = 0;
    const bool evaluated = evaluator_ && evaluation_is_due();
    ++position_.epoch;
    position_.batch = 0;
    if (evaluated) evaluate(fmt::format("epoch {}", epoch), epoch, progress);
    // Whatever an epoch leaves comes before `last`: a process killed in between does it once more.
    if (config_.saveckp_freq > 0 && position_.epoch % config_.saveckp_freq == 0) {
      save(fmt::format("epoch_{:04}.safetensors", position_.epoch));
    }
    const BrokenImages broken = broken_->found();
    if (broken.count > broken_reported_) {
      progress.message(fmt::format("{} broken pictures so far were replaced by others and listed in {}, such as {}",
                                   broken.count, kBrokenList, printable(broken.entries.back().reason)));
      broken_reported_ = broken.count;
    }
    tell_observers(&RunObserver::epoch_done, pause(epoch, progress));
    save_last_and_healthy();
  }

  /// Something that the run is to go back for, or to end.
  struct Trouble {
    std::int64_t settled_before;  // this step
    bool ends_run;                // where the run cannot go back
    std::string what;
  };

  using Clock = std::chrono::steady_clock;

  Context& context_;
  Communicator& communicator_;
  TrainConfig config_;
  const Evaluator& evaluator_;
  RunObservers observers_;
  std::optional<RunFolder> folder_;             // of rank 0
  std::optional<BrokenImageList> broken_list_;  // of rank 0
  std::unique_ptr<BrokenOfRanks> broken_;
  StudentTeacher networks_;
  std::vector<std::string> start_notes_;  // about the weights that the run starts from
  TrainingPosition position_;
  std::int64_t batches_per_epoch_ = 0;
  std::int64_t steps_per_epoch_ = 0;
  std::int64_t global_batch_ = 0;
  Schedules schedules_;
  std::unique_ptr<Health> health_;
  std::optional<Trouble> trouble_;
  std::function<void()> open_loader_;
  std::unique_ptr<Loader> loader_;
  Batch batch_;
  std::deque<Sent> sent_;
  Clock::time_point mark_;  // when the last result came, or the first step of a row began
  double epoch_loss_ = 0;
  int epoch_steps_ = 0;
  std::int64_t broken_reported_ = 0;
  int signal_ = 0;  // that some rank was stopped by
};

}  // namespace

int train(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator, RunObservers observers) {
  check_config(config);
  require_same_configuration(communicator, config, compute_type_for(config.precision, context.device()), images, start);
  Trainer trainer(context, communicator, config, images, start, evaluator, std::move(observers));
  return trainer.run();
}

}  // namespace dino
