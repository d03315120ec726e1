#pragma once

#include "kernels/common/operation_cost.h"
#include "train/memory_plan.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino {

/// The parts of a training step in their order.
enum class StepPhase : std::uint8_t { teacher, student, loss, backward, update };
inline constexpr std::array<std::string_view, 5> kStepPhases = {"teacher", "student", "loss", "backward", "update"};

/// Equal operations of one phase: they agree in work and size.
struct CountedOperation {
  std::string_view name;  // as DINO_OPERATION gives it
  StepPhase phase = StepPhase::teacher;
  OperationCost cost;
  std::int64_t calls = 0;
  std::vector<double> ms;  // each call, where they were timed
};

/// Counts the operations on a stream, and times them where asked to, as long as it lives. Operations that a kernel uses
/// for parts of its work belong to it. Timing waits for the device after each, and takes the cost of counting out of
/// the step's time (overhead_ms).
class OperationCounter final : public OperationObserver {
 public:
  enum class Timing : std::uint8_t {
    none,
    wall,
    cpu,  // CPU time of the process over its threads: what a busy machine leaves steady
  };
  OperationCounter(Stream& stream, Timing timing);
  ~OperationCounter() override;

  void begin(const Operation& operation) override;
  void end() noexcept override;

  const std::vector<CountedOperation>& operations() const { return operations_; }
  /// Spent on counting so far.
  double overhead_ms() const { return overhead_ms_; }
  /// Of all operations so far.
  double timed_ms() const { return timed_ms_; }
  double now_ms() const;
  void clear();

 private:
  void enter_phase(const Operation& operation);

  Stream& stream_;
  Timing timing_;
  std::vector<CountedOperation> operations_;
  std::map<std::string, std::size_t> places_;
  StepPhase phase_ = StepPhase::update;
  int depth_ = 0;
  std::size_t current_ = 0;
  double begin_ms_ = 0, overhead_ms_ = 0, timed_ms_ = 0;
};

/// The operations of one whole step (all micro-batches), found by a rehearsal.
std::vector<CountedOperation> step_operations(const TrainConfig& config, Device device, DType compute_type);

/// Flops of the step's matrix products and attention, and of everything.
struct Work {
  double flops = 0, bytes = 0;
};
Work total_work(const std::vector<CountedOperation>& operations);

/// How long operations take on a device, and what says so.
class Speeds {
 public:
  virtual ~Speeds() = default;
  /// One call. Works for any size: takes what is known of the same work at another size where it must.
  virtual double ms_of(const CountedOperation& operation) const = 0;
  /// What a step takes beside its operations, per image of a micro-batch.
  virtual double rest_ms_per_image() const { return 0; }
};

/// What a device can do at most: every operation takes its flops or its bytes, whichever are slower.
class RooflineSpeeds : public Speeds {
 public:
  RooflineSpeeds(double bytes_per_s, double fp32_flops_per_s, double bf16_flops_per_s)
      : bytes_per_s_(bytes_per_s), fp32_flops_per_s_(fp32_flops_per_s), bf16_flops_per_s_(bf16_flops_per_s) {}
  double ms_of(const CountedOperation& operation) const override;

 private:
  double bytes_per_s_, fp32_flops_per_s_, bf16_flops_per_s_;
};

/// Times of operations that were measured one by one within steps.
class MeasuredSpeeds final : public Speeds {
 public:
  MeasuredSpeeds(std::vector<CountedOperation> operations, double rest_ms_per_image);
  /// The median of the same work at the same size; else that of the nearest size, by its flops or bytes; for work that
  /// was not measured, the time at the rates that products and all other operations had.
  double ms_of(const CountedOperation& operation) const override;
  double rest_ms_per_image() const override { return rest_ms_per_image_; }

 private:
  struct Point {
    std::string size;
    double bytes, flops;
    double ms;
  };
  std::map<std::string, std::vector<Point>> points_;
  double flops_per_ms_ = 0, bytes_per_ms_ = 0;
  double rest_ms_per_image_;
};

struct ProfileOptions {
  OperationCounter::Timing timing = OperationCounter::Timing::wall;
  int steps = 2;               // that are timed, after one that is not
  double most_flops = 1.5e12;  // of a step that is measured: larger ones are cut down
  MemoryLimits memory = {};    // that it may take
};

/// The configuration whose step is measured in the place of a larger one: two blocks, as all but the last are alike,
/// one or two micro-batches, and only so many images that a step has at most options.most_flops and fits.
TrainConfig measured_config(const TrainConfig& config, const RunFacts& facts, const ProfileOptions& options);

/// Runs a few steps of measured_config() on the context's device, each operation timed.
MeasuredSpeeds measure_speeds(Context& context, const TrainConfig& config, const RunFacts& facts,
                              const ProfileOptions& options);

/// The time of a step.
struct StepTime {
  std::array<double, kStepPhases.size()> phase_ms{};
  std::vector<std::pair<std::string, double>> group_ms;  // by kind of operation, the longest first
  double rest_ms = 0;
  double total_ms = 0;
};
StepTime predict_step(const std::vector<CountedOperation>& operations, const Speeds& speeds, const TrainConfig& config);

}  // namespace dino
