#pragma once

#include "engine/communicator.h"
#include "engine/parameters.h"
#include "kernels/optimizer_step/optimizer_step.h"
#include "models/dino_head.h"
#include "models/packing.h"
#include "models/vit.h"
#include "train/config.h"

#include <cstdint>
#include <span>
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

struct PhaseTimes {
  double teacher_ms = 0;
  double student_ms = 0;
  double loss_ms = 0;
  double backward_ms = 0;
  double update_ms = 0;
};

/// Means over the micro-batches and ranks of a step.
struct StepResult {
  double loss = 0;
  double teacher_entropy = 0;  // nats
  double kl = 0;               // nats
  double gradient_norm = 0;    // of all parameters together, before clipping
  PhaseTimes phases;
};

/// Student, teacher and center, and the step that trains them (arXiv 2104.14294, algorithm 1; official main_dino.py,
/// train_one_epoch):
///   for every micro-batch: teacher on the global crops, student on all crops, loss, gradients added up;
///   then clip, freeze, optimiser, teacher EMA, center.
class StudentTeacher {
 public:
  /// Starts from the configuration's seed.
  StudentTeacher(Context& context, Communicator& communicator, const TrainConfig& config, DType compute_type);
  StudentTeacher(const StudentTeacher&) = delete;
  StudentTeacher& operator=(const StudentTeacher&) = delete;

  /// Runs one of the step's micro-batches forward and backward.
  void run_micro_batch(const TrainingCrops& crops, const StepValues& values);
  /// Finishes the step after its micro-batches (config.accumulation of them). Throws Error when the loss or a gradient
  /// is not finite; weights, moments and center are then as they were before the step.
  StepResult update(const StepValues& values);

  const Vit& vit() const { return vit_; }
  const DinoHead& head() const { return head_; }
  const ParameterLayout& layout() const { return layout_; }
  ParameterStore& store() { return store_; }
  Tensor& center() { return center_; }  // (K) fp32
  /// Per parameter: how many updates it has had, which AdamW's bias correction needs.
  std::vector<std::int64_t>& update_counts() { return update_counts_; }
  /// Per parameter: norm of the last step's gradient before clipping (0 for those that are not trained).
  const Tensor& gradient_norms() const { return norms_; }

  /// Logits as a step computes them, for tests: (2·B, K) and (V·B, K).
  Tensor teacher_logits(const TrainingCrops& crops);
  Tensor student_logits(Tape& tape, const TrainingCrops& crops, const StepValues& values);

 private:
  Tensor drop_path_scales(const TrainingCrops& crops, std::uint64_t step);
  /// Sums over ranks what only makes sense for all of them: gradients, teacher logits, losses.
  void reduce_over_ranks();
  void make_segments(const StepValues& values);
  void require_finite(const StepValues& values);

  Context& context_;
  Communicator& communicator_;
  TrainConfig config_;
  ParameterLayout layout_;
  Vit vit_;
  DinoHead head_;
  ParameterStore store_;
  CropPacker packer_;
  Tensor center_;
  std::vector<std::int64_t> update_counts_;
  std::vector<OptimizerSegment> segments_;  // one per parameter, in the layout's order
  Tensor norms_, parameter_norms_, update_norms_, non_finite_;
  std::vector<float> drop_path_host_;

  // The step in progress.
  int micro_batches_ = 0;
  std::int64_t teacher_rows_ = 0;  // per micro-batch
  Tensor teacher_sum_;             // (K) fp32: mean over micro-batches of the sums of teacher logits
  Tensor totals_;                  // (3) fp32: sums of loss, entropy, KL over micro-batches and then ranks
  PhaseTimes phases_;
};

}  // namespace dino
