#include "train/trainer.h"

#include "data/loader.h"
#include "data/upload.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "train/initial_weights.h"
#include "train/precision.h"
#include "train/run_log.h"
#include "train/schedules.h"
#include "train/stop_signal.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <deque>
#include <limits>
#include <utility>

namespace dino {
namespace {

namespace fs = std::filesystem;

MultiCropOptions crop_options(const TrainConfig& c) {
  MultiCropOptions options;
  options.global_size_px = c.global_crops_size;
  options.global_scale_min = c.global_crops_scale[0];
  options.global_scale_max = c.global_crops_scale[1];
  options.local_crops = c.local_crops_number;
  options.local_size_px = c.local_crops_size;
  options.local_scale_min = c.local_crops_scale[0];
  options.local_scale_max = c.local_crops_scale[1];
  options.flip_probability = c.flip_prob;
  options.jitter_probability = c.jitter_prob;
  options.brightness = c.jitter_brightness;
  options.contrast = c.jitter_contrast;
  options.saturation = c.jitter_saturation;
  options.hue = c.jitter_hue;
  options.grey_probability = c.gray_prob;
  options.blur_probability_global_1 = c.blur_prob_global1;
  options.blur_probability_global_2 = c.blur_prob_global2;
  options.blur_probability_local = c.blur_prob_local;
  options.blur_radius_min = c.blur_radius[0];
  options.blur_radius_max = c.blur_radius[1];
  options.solarize_probability_global_2 = c.solarize_prob_global2;
  return options;
}

void require_output_dir(const TrainConfig& config, StartMode start) {
  const fs::path dir = config.output_dir;
  // A run that failed before its first step left an empty log and no checkpoint: nothing that is worth keeping.
  std::error_code none;
  const auto log_bytes = fs::file_size(dir / "log.jsonl", none);
  const bool has_run = find_checkpoint(dir).has_value() || (!none && log_bytes > 0);
  if (start == StartMode::fresh) {
    require(!has_run, "train", "{} holds a run already; try --resume to continue it, or another --output_dir",
            dir.string());
  } else {
    require(find_checkpoint(dir).has_value(), "train", "nothing to resume: no {} in {}; try without --resume",
            kLastCheckpoint, dir.string());
  }
  make_output_folder(dir);
  remove_abandoned_parts(dir);
}

TrainingCrops upload(Context& context, const Batch& batch) {
  TrainingCrops crops;
  crops.groups = upload_crops(context, batch);
  for (const std::int64_t sample : batch.samples) crops.samples.push_back(static_cast<std::uint64_t>(sample));
  return crops;
}

AugmentOn augment_on(const TrainConfig& config, Device device) {
  if (config.augment == "auto") return device == Device::cuda ? AugmentOn::device : AugmentOn::host;
  return config.augment == "device" ? AugmentOn::device : AugmentOn::host;
}

/// One run from its first (or next) step to its last.
class Trainer {
 public:
  Trainer(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator)
      : context_(context),
        communicator_(communicator),
        config_(config),
        evaluator_(evaluator),
        dir_(config.output_dir),
        networks_(context, communicator, config, compute_type_for(config.precision, context.device())) {
    if (start == StartMode::resume) {
      position_ = read_checkpoint(*find_checkpoint(dir_), networks_, config_);
    } else if (!config.init.empty()) {
      start_notes_ = load_initial_weights(networks_, config_);
    }
    const SamplerOptions sampler{.size = images.size(),
                                 .batch = config.batch_size_per_gpu,
                                 .rank = communicator.rank(),
                                 .ranks = communicator.size(),
                                 .seed = static_cast<std::uint64_t>(config.seed)};
    batches_per_epoch_ = Sampler(sampler).batches_per_epoch();
    steps_per_epoch_ = batches_per_epoch_ / config.accumulation;
    require(steps_per_epoch_ > 0, "train",
            "an epoch holds no whole step; got {} images, expected at least {} × {} × {}; try a smaller batch",
            images.size(), config.batch_size_per_gpu, config.accumulation, communicator.size());
    global_batch_ = std::int64_t{config.batch_size_per_gpu} * config.accumulation * communicator.size();
    schedules_ = make_schedules(config, steps_per_epoch_, global_batch_);
    require_position_fits();
    // A run that was stopped after the last batch of an epoch has yet to finish that epoch.
    const bool epoch_read = position_.batch == batches_per_epoch_;
    const std::uint64_t seed = static_cast<std::uint64_t>(config.seed);
    loader_ = std::make_unique<Loader>(images, sampler, multi_crop_views(crop_options(config), seed),
                                       LoaderOptions{.threads = config.num_workers,
                                                     .epoch = position_.epoch + (epoch_read ? 1 : 0),
                                                     .batch = epoch_read ? 0 : position_.batch,
                                                     .end_epoch = config.epochs,
                                                     .augment = augment_on(config, context.device())});
  }

  int run() {
    if (writes()) {
      AtomicFile file(dir_ / "config.toml");
      file.write(write_config(config_));
      file.commit();
      log_ = std::make_unique<RunLog>(dir_ / "log.jsonl", position_.step);
      knn_log_ = std::make_unique<RunLog>(dir_ / "knn.jsonl", position_.step);
      // So that a run can be resumed from the first step on.
      if (position_.step == 0) save(kLastCheckpoint);
    }
    const StopSignal stop;
    Progress progress("step", config_.epochs * steps_per_epoch_, position_.step);
    progress.message(describe());
    for (const std::string& note : start_notes_) progress.message(note);
    try {
      if (evaluator_ && config_.knn_every > 0 && position_.step == 0 && writes()) {
        evaluate("before training", -1, progress);
      }
    } catch (const Interrupted&) {
      return stopped(progress);
    }
    while (position_.epoch < config_.epochs) {
      while (position_.batch < steps_per_epoch_ * config_.accumulation) {
        run_step(progress);
        if (StopSignal::received() != 0) {
          finish_steps(progress);
          if (writes()) save(kLastCheckpoint);
          return stopped(progress);
        }
      }
      finish_steps(progress);
      // What is left of the epoch makes no whole step.
      for (; position_.batch < batches_per_epoch_; ++position_.batch) loader_->next(batch_);
      try {
        finish_epoch(progress);
      } catch (const Interrupted&) {
        return stopped(progress);
      }
    }
    return 0;
  }

 private:
  bool writes() const { return communicator_.rank() == 0; }
  void save(const std::string& name) { write_checkpoint(dir_ / name, networks_, config_, position_); }

  int stopped(Progress& progress) const {
    progress.message(fmt::format("interrupted after step {}; go on with --resume", position_.step));
    return 128 + StopSignal::received();
  }

  /// The position counts in epochs and batches of this many pictures.
  void require_position_fits() const {
    const TrainingPosition& p = position_;
    const bool fits = p.batch <= batches_per_epoch_ && p.batch % config_.accumulation == 0 &&
                      p.step == p.epoch * steps_per_epoch_ + p.batch / config_.accumulation;
    require(fits && p.epoch <= config_.epochs, "train",
            "{} is at step {}, in batch {} of epoch {}, which is no place in {} epochs of {} batches; try the pictures "
            "and epochs of the run before, or another --output_dir",
            (dir_ / kLastCheckpoint).string(), p.step, p.batch, p.epoch, config_.epochs, batches_per_epoch_);
  }

  std::string describe() const {
    return fmt::format("{} parameters, {} steps of {} images per epoch, {} epochs, {}{}",
                       networks_.layout().parameter_count(), steps_per_epoch_, global_batch_, config_.epochs,
                       compute_type_for(config_.precision, context_.device()) == DType::bfloat16 ? "bf16" : "fp32",
                       position_.step > 0 ? fmt::format(", from step {}", position_.step) : "");
  }

  StepValues values() const {
    const auto step = static_cast<std::size_t>(position_.step);
    return {.lr = schedules_.lr.at(step),
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
    if (sent_.size() == StudentTeacher::kMaxPending) report(networks_.wait(), progress);
    const StepValues now = values();
    double wait_ms = 0;
    for (int i = 0; i < config_.accumulation; ++i) {
      require(loader_->next(batch_), "train", "the data ended at epoch {}, batch {}", position_.epoch, position_.batch);
      wait_ms += batch_.wait_ms;
      networks_.run_micro_batch(upload(context_, batch_), now);
      ++position_.batch;
    }
    networks_.update(now);
    sent_.push_back({position_, now, wait_ms});
    ++position_.step;
    while (const auto result = networks_.poll()) report(*result, progress);
  }

  /// Waits for the results of all steps so far. Comes before all that reads the networks.
  void finish_steps(Progress& progress) {
    while (networks_.pending() > 0) report(networks_.wait(), progress);
  }

  /// Takes the result of the oldest step in sent_.
  void report(const StepResult& result, Progress& progress) {
    const Sent step = sent_.front();
    sent_.pop_front();
    // In a row of steps, results are as far apart as the steps take.
    const auto now = Clock::now();
    const double step_ms = std::chrono::duration<double, std::milli>(now - std::exchange(mark_, now)).count();
    const double images_per_second = static_cast<double>(global_batch_) / step_ms * 1e3;
    const double wait_share = step.wait_ms / step_ms;
    if (writes()) {
      log_->append({{"step", step.position.step},
                    {"epoch", step.position.epoch},
                    {"loss", result.loss},
                    {"lr", step.values.lr},
                    {"wd", step.values.weight_decay},
                    {"momentum", step.values.teacher_momentum},
                    {"teacher_temp", step.values.teacher_temp},
                    {"student_temp", config_.student_temp},
                    {"grad_norm", result.gradient_norm},
                    {"entropy", result.teacher_entropy},
                    {"kl", result.kl},
                    {"images_per_second", images_per_second},
                    {"data_wait_share", wait_share}});
    }
    epoch_loss_ += result.loss;
    ++epoch_steps_;
    progress.update(step.position.step + 1,
                    fmt::format("| epoch {} | loss {:.4f} | lr {:.2e} | {:.1f} images/s | data wait {:.0f}%",
                                step.position.epoch, result.loss, step.values.lr, images_per_second, 100 * wait_share));
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
    // Of the step before, so that a resumed run does not write it again.
    nlohmann::ordered_json line{{"step", position_.step - 1}, {"epoch", epoch}};
    line.update(*evaluation.numbers);
    knn_log_->append(line);
    if (epoch >= 0 && evaluation.score > position_.best_score) {
      position_.best_score = evaluation.score;
      save(kBestCheckpoint);
    }
  }

  void finish_epoch(Progress& progress) {
    const std::int64_t epoch = position_.epoch;
    if (epoch_steps_ > 0) {
      progress.message(fmt::format("epoch {} done, mean loss {:.4f}", epoch, epoch_loss_ / epoch_steps_));
    }
    epoch_loss_ = 0;
    epoch_steps_ = 0;
    const bool last = epoch + 1 == config_.epochs;
    const bool evaluated =
        evaluator_ && config_.knn_every > 0 && ((epoch + 1) % config_.knn_every == 0 || last) && writes();
    if (evaluated) {
      // Evaluations take long. A run that is stopped in one begins with it when it is resumed: after the last step.
      position_.batch = steps_per_epoch_ * config_.accumulation;
      save(kLastCheckpoint);
    }
    ++position_.epoch;
    position_.batch = 0;
    if (evaluated) evaluate(fmt::format("epoch {}", epoch), epoch, progress);
    if (!writes()) return;
    save(kLastCheckpoint);
    if (config_.saveckp_freq > 0 && position_.epoch % config_.saveckp_freq == 0) {
      save(fmt::format("epoch_{:04}.safetensors", position_.epoch));
    }
    const BrokenImages broken = loader_->broken();
    if (broken.count > broken_reported_) {
      progress.message(fmt::format("{} broken pictures so far were replaced by others, such as {}: {}", broken.count,
                                   broken.entries.back().name, broken.entries.back().reason));
      broken_reported_ = broken.count;
    }
  }

  using Clock = std::chrono::steady_clock;

  Context& context_;
  Communicator& communicator_;
  TrainConfig config_;
  const Evaluator& evaluator_;
  fs::path dir_;
  StudentTeacher networks_;
  std::vector<std::string> start_notes_;  // about the weights that the run starts from
  TrainingPosition position_;
  std::int64_t batches_per_epoch_ = 0;
  std::int64_t steps_per_epoch_ = 0;
  std::int64_t global_batch_ = 0;
  Schedules schedules_;
  std::unique_ptr<Loader> loader_;
  Batch batch_;
  std::unique_ptr<RunLog> log_, knn_log_;
  std::deque<Sent> sent_;
  Clock::time_point mark_;  // when the last result came, or the first step of a row began
  double epoch_loss_ = 0;
  int epoch_steps_ = 0;
  std::int64_t broken_reported_ = 0;
};

}  // namespace

int train(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator) {
  check_config(config);
  require_output_dir(config, start);
  Trainer trainer(context, communicator, config, images, start, evaluator);
  return trainer.run();
}

}  // namespace dino
