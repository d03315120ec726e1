#pragma once

#include "engine/communicator.h"
#include "engine/gradient_sums.h"
#include "engine/graph.h"
#include "engine/parameters.h"
#include "kernels/optimizer_step/optimizer_step.h"
#include "models/dino_head.h"
#include "models/packing.h"
#include "models/vit.h"
#include "train/config.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dino {

/// The networks that a configuration asks for.
VitConfig vit_config(const TrainConfig& config);
DinoHeadConfig head_config(const TrainConfig& config);

/// The crops of one micro-batch on the device: the two global crops of B images, then (if any) the local crops.
struct TrainingCrops {
  std::vector<CropGroup> groups;       // view-major; the first holds 2·B crops
  std::vector<std::uint64_t> samples;  // (B) numbers of the images, which drop path draws by
};

/// Values of the schedules at one step.
struct StepValues {
  double lr = 0;
  double weight_decay = 0;
  double teacher_momentum = 0;
  double teacher_temp = 0;
  bool freeze_last_layer = false;
  std::uint64_t step = 0;  // since the start of the run; drop path draws by it
};

/// Where a device runs on while the host goes ahead, zero unless StudentTeacher::time_phases() asks for them.
struct PhaseTimes {
  double teacher_ms = 0;
  double student_ms = 0;
  double loss_ms = 0;
  double backward_ms = 0;
  double update_ms = 0;
};

/// Means over the micro-batches and ranks of a step.
struct StepResult {
  std::uint64_t step = 0;
  double loss = 0;
  double teacher_entropy = 0;  // nats
  double kl = 0;               // nats
  double gradient_norm = 0;    // of all parameters together, before clipping
  double center_norm = 0;      // of the center after the step
  /// Where the loss or a gradient was not finite: what was first, in the order in which a step computes. Such a step
  /// was skipped. Numbers above may then be NaN or infinite.
  std::optional<std::string> not_finite;
  PhaseTimes phases;
};

/// Student, teacher and center, and the step that trains them (arXiv 2104.14294, algorithm 1; official main_dino.py,
/// train_one_epoch):
///   for every micro-batch: teacher on the global crops, student on all crops, loss, gradients added up;
///   then clip, freeze, optimiser, teacher EMA, center.
/// On a GPU the host only puts a step on the stream, mostly by replaying what it has recorded (GraphCache), and hears
/// of its result some steps later. What differs from step to step is therefore read from the device's memory: the
/// crops, the factors of drop path, the table of segments. A step whose loss or gradient is not finite changes nothing:
/// not the weights, teacher, moments, center or counts of updates. The device decides that by itself, so that the steps
/// behind it, which may be on their way already, go on from the same state as if it had never been.
class StudentTeacher {
 public:
  /// How many steps may be without result.
  static constexpr std::size_t kMaxPending = 4;

  /// Starts from the configuration's seed.
  StudentTeacher(Context& context, Communicator& communicator, const TrainConfig& config, DType compute_type);
  StudentTeacher(const StudentTeacher&) = delete;
  StudentTeacher& operator=(const StudentTeacher&) = delete;

  /// Puts one of the step's micro-batches on the stream, forward and backward. Recorded steps are replayed where the
  /// crops are at the addresses of an earlier step.
  void run_micro_batch(const TrainingCrops& crops, const StepValues& values);
  /// Puts the rest of the step on the stream, after its micro-batches (config.accumulation of them).
  void update(const StepValues& values);

  /// Steps without result: fewer than kMaxPending when update() is called.
  std::size_t pending() const { return pending_.size(); }
  /// The result of the oldest of them, or none while the device has not got there, or where there is no such step; on
  /// the CPU always that of the last update().
  std::optional<StepResult> poll();
  /// The same after waiting for the device. There must be such a step.
  StepResult wait();

  /// Measures the phases of the following steps, also where the device has to be waited for after each, and does
  /// without recordings.
  void time_phases() { timed_ = true; }
  /// How often recorded work was replayed.
  std::int64_t replays() const { return graphs_.replays(); }

  /// How many ranks train them together.
  int ranks() const { return communicator_.size(); }
  const Vit& vit() const { return vit_; }
  const DinoHead& head() const { return head_; }
  const ParameterLayout& layout() const { return layout_; }
  ParameterStore& store() { return store_; }
  Tensor& center() { return center_; }  // (K) fp32
  /// Per parameter: how many updates it has had, which AdamW's bias correction needs. Right while no step is pending.
  std::vector<std::int64_t>& update_counts() { return update_counts_; }
  /// Per parameter: norm of the last step's gradient before clipping (0 for those that are not trained).
  const Tensor& gradient_norms() const { return norms_; }

  /// Name of a weight of student or teacher that is not finite, or none. Waits for the device and copies all weights.
  std::optional<std::string> weights_not_finite();

  /// Logits as a step computes them, for tests: (2·B, K) and (V·B, K).
  Tensor teacher_logits(const TrainingCrops& crops);
  Tensor student_logits(Tape& tape, const TrainingCrops& crops, const StepValues& values);

 private:
  /// A step on its way.
  struct Pending {
    std::unique_ptr<HostCopy> copy;  // of totals_, non_finite_, norms_, center_norm_
    StepValues values;
    std::int64_t parts = 0;  // that the totals are sums of
    PhaseTimes phases;
  };

  /// Draws the factors for drop_path_, which has its place for good.
  void upload_drop_path(const TrainingCrops& crops, std::uint64_t step);
  void upload_segments(const StepValues& values);
  bool is_active(const ParameterInfo& info, const StepValues& values) const;
  /// Counts a step as an update of the parameters that it has, or, later, takes it back as one that was skipped.
  void count_update(const StepValues& values);
  void count_skip(const StepValues& values);

  // What is recorded: nothing in these depends on more than their arguments, addresses and the configuration.
  Tensor forward_student(Tape& tape, const TrainingCrops& crops);
  void forward_and_backward(const TrainingCrops& crops, double teacher_temperature);
  void update_weights();
  /// Sums over ranks what only makes sense for all of them, besides the gradients: teacher logits, losses.
  void reduce_over_ranks();
  void run(const std::vector<std::uint64_t>& key, const std::function<void()>& body);

  StepResult finish(Pending step);
  /// What was not finite first, from what a step computes: teacher, then student, then gradients from the last layer to
  /// the first.
  std::string name_not_finite(const StepValues& values, std::span<const float> totals,
                              std::span<const float> norms) const;

  Context& context_;
  Communicator& communicator_;
  TrainConfig config_;
  ParameterLayout layout_;
  Vit vit_;
  DinoHead head_;
  ParameterStore store_;
  GradientSums gradient_sums_;
  CropPacker packer_;
  Tensor center_;
  std::vector<std::int64_t> update_counts_;      // of steps that were put on the device and are not known to be skipped
  std::vector<std::int64_t> known_skips_;        // of those in skipped_, the ones taken out of update_counts_
  std::vector<OptimizerSegment> host_segments_;  // one per parameter, in the layout's order
  Tensor segments_;                              // their bytes on the device
  Tensor norms_, parameter_norms_, update_norms_, non_finite_;
  Tensor skipped_;                                     // (parameters) int32, since the start of this process
  Tensor center_segment_, center_norm_, center_flag_;  // the center's norm goes the way of a gradient's
  std::vector<float> host_drop_path_;
  Tensor drop_path_;  // (2·depth, S) fp32, or empty
  GraphCache graphs_;
  bool timed_;

  // The step in progress.
  int micro_batches_ = 0;
  std::int64_t teacher_rows_ = 0;  // per micro-batch
  Tensor teacher_sum_;             // (K) fp32: mean over micro-batches of the sums of teacher logits
  Tensor totals_;                  // (3) fp32: sums of loss, entropy, KL over micro-batches and then ranks
  PhaseTimes phases_;

  std::deque<Pending> pending_;  // oldest first
  std::vector<std::unique_ptr<HostCopy>> spare_copies_;
};

}  // namespace dino
