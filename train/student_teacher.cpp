#include "train/student_teacher.h"

#include "engine/ops/dino_loss.h"
#include "kernels/dino_loss/dino_loss.h"

#include <chrono>
#include <cmath>

namespace dino {
namespace {

constexpr int kTeacherViews = 2;

/// Adds the time since the last mark to a counter, once the device has got there.
class PhaseClock {
 public:
  explicit PhaseClock(Stream& stream) : stream_(stream), last_(Clock::now()) {}
  void add_to(double& ms) {
    stream_.synchronize();
    const auto now = Clock::now();
    ms += std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Stream& stream_;
  Clock::time_point last_;
};

OptimizerKind optimizer_kind(const std::string& name) {
  if (name == "adamw") return OptimizerKind::adamw;
  if (name == "sgd") return OptimizerKind::sgd;
  require(name == "lars", "train", "unknown optimizer; got {}, expected adamw, sgd or lars", name);
  return OptimizerKind::lars;
}

/// The head's prototypes, which are not trained while they are frozen (official utils.py:144-149).
bool in_last_layer(const ParameterInfo& info) { return info.name.find("last_layer") != std::string::npos; }

}  // namespace

VitConfig vit_config(const TrainConfig& config) {
  VitConfig vit = VitConfig::preset(config.arch, config.patch_size);
  if (config.embed_dim > 0) vit.embed_dim = config.embed_dim;
  if (config.depth > 0) vit.depth = config.depth;
  if (config.num_heads > 0) vit.heads = config.num_heads;
  vit.image_px = config.global_crops_size;
  vit.drop_path_rate = config.drop_path_rate;
  vit.check();
  return vit;
}

DinoHeadConfig head_config(const TrainConfig& config) {
  DinoHeadConfig head{.in_dim = vit_config(config).embed_dim,
                      .out_dim = config.out_dim,
                      .layers = config.head_layers,
                      .hidden_dim = config.head_hidden_dim,
                      .bottleneck_dim = config.head_bottleneck_dim,
                      .use_bn = config.use_bn_in_head,
                      .norm_last_layer = config.norm_last_layer};
  head.check();
  return head;
}

StudentTeacher::StudentTeacher(Context& context, Communicator& communicator, const TrainConfig& config,
                               DType compute_type)
    : context_(context),
      communicator_(communicator),
      config_(config),
      vit_(layout_, vit_config(config)),
      head_(layout_, head_config(config)),
      store_(context, layout_, compute_type, ParameterStore::Role::training),
      packer_(context, config.patch_size),
      center_(context.zeros({config.out_dim}, DType::float32)),
      update_counts_(layout_.infos().size(), 0),
      totals_(context.zeros({3}, DType::float32)) {
  const Shape per_parameter{static_cast<std::int64_t>(layout_.infos().size())};
  norms_ = context.zeros(per_parameter, DType::float32);
  non_finite_ = context.zeros({1}, DType::int32);
  if (optimizer_kind(config.optimizer) == OptimizerKind::lars) {
    parameter_norms_ = context.zeros(per_parameter, DType::float32);
    update_norms_ = context.zeros(per_parameter, DType::float32);
  }
  store_.initialize(static_cast<std::uint64_t>(config.seed));
}

Tensor StudentTeacher::drop_path_scales(const TrainingCrops& crops, std::uint64_t step) {
  if (config_.drop_path_rate <= 0) return {};
  std::int64_t sequences = 0;
  for (const CropGroup& group : crops.groups) sequences += group.pixels.extent(0);
  const Shape shape{2 * vit_.config().depth, sequences};
  drop_path_host_.resize(static_cast<std::size_t>(shape.size()));
  const auto images = static_cast<std::int64_t>(crops.samples.size());
  draw_drop_path(vit_.config(), static_cast<std::uint64_t>(config_.seed), step, crops.samples,
                 static_cast<int>(sequences / images), drop_path_host_);
  return context_.from_host(ConstArray(drop_path_host_.data(), shape));
}

Tensor StudentTeacher::teacher_logits(const TrainingCrops& crops) {
  Tape tape(context_, Tape::Mode::inference);
  Weights weights = Weights::teacher(tape, store_);
  const Tensor features = vit_.cls_features(tape, weights, packer_.pack({crops.groups.front()}));
  return head_(tape, weights, features, communicator_);
}

Tensor StudentTeacher::student_logits(Tape& tape, const TrainingCrops& crops, const StepValues& values) {
  const GradientMode mode = micro_batches_ == 0 ? GradientMode::overwrite : GradientMode::accumulate;
  Weights weights = Weights::student(tape, store_, mode);
  const Tensor drop_path = drop_path_scales(crops, values.step);
  const Tensor features = vit_.cls_features(tape, weights, packer_.pack(crops.groups), drop_path);
  return head_(tape, weights, features, communicator_);
}

void StudentTeacher::run_micro_batch(const TrainingCrops& crops, const StepValues& values) {
  const auto images = static_cast<int>(crops.samples.size());
  require(!crops.groups.empty() && crops.groups.front().pixels.extent(0) == kTeacherViews * images, "train",
          "the first group must hold two global crops of each of {} images", images);
  PhaseClock clock(context_.stream());
  Tensor teacher = teacher_logits(crops);
  clock.add_to(phases_.teacher_ms);

  Tape tape(context_);
  Tensor student = student_logits(tape, crops, values);
  clock.add_to(phases_.student_ms);

  const DinoLossOptions options{.images = images,
                                .student_views = static_cast<int>(student.extent(0) / images),
                                .teacher_views = kTeacherViews,
                                .student_temperature = config_.student_temp,
                                .teacher_temperature = values.teacher_temp,
                                .gradient_scale = 1.0 / (config_.accumulation * communicator_.size())};
  DinoLoss loss = dino_loss(tape, student, teacher, center_, options);
  teacher = Tensor();
  // A running mean of the sums, as every micro-batch has as many rows.
  if (micro_batches_ == 0) {
    teacher_sum_ = loss.result.teacher_sum;
    totals_ = context_.zeros({3}, DType::float32);
  } else {
    center_update({.sum = loss.result.teacher_sum.array(),
                   .rows = 1,
                   .momentum = static_cast<double>(micro_batches_) / (micro_batches_ + 1),
                   .center = teacher_sum_.array()},
                  context_.stream());
  }
  float values_now[3];
  float sums[3];
  context_.copy_to_host(totals_, Array(sums, Shape{3}));
  const Tensor* parts[3] = {&loss.result.loss, &loss.result.teacher_entropy, &loss.result.kl};
  for (int i = 0; i < 3; ++i) {
    context_.copy_to_host(*parts[i], Array(&values_now[i], Shape{1}));
    sums[i] += values_now[i];
  }
  context_.copy_from_host(ConstArray(sums, Shape{3}), totals_);
  teacher_rows_ = kTeacherViews * images;
  clock.add_to(phases_.loss_ms);

  tape.backward(student, loss.student_gradient);
  ++micro_batches_;
  clock.add_to(phases_.backward_ms);
}

void StudentTeacher::reduce_over_ranks() {
  Stream& stream = context_.stream();
  communicator_.all_reduce_sum(store_.gradient.array(), stream);
  communicator_.all_reduce_sum(teacher_sum_.array(), stream);
  communicator_.all_reduce_sum(totals_.array(), stream);
}

void StudentTeacher::make_segments(const StepValues& values) {
  segments_.clear();
  for (std::size_t i = 0; i < layout_.infos().size(); ++i) {
    const ParameterInfo& info = layout_.infos()[i];
    const bool active = info.trainable && !(values.freeze_last_layer && in_last_layer(info));
    segments_.push_back({.offset = info.offset,
                         .size = info.size(),
                         .step = update_counts_[i] + 1,
                         .learning_rate = values.lr,
                         .weight_decay = values.weight_decay,
                         .decayed = info.decayed(),
                         .adapted = info.shape.rank() > 1,
                         .active = active});
  }
}

void StudentTeacher::require_finite(const StepValues& values) {
  float sums[3];
  std::int32_t bad_gradient = 0;
  context_.copy_to_host(totals_, Array(sums, Shape{3}));
  context_.copy_to_host(non_finite_, Array(&bad_gradient, Shape{1}));
  if (std::isfinite(sums[0]) && bad_gradient == 0) return;
  micro_batches_ = 0;
  phases_ = {};
  fail("train",
       "the {} is not finite at step {}; stopped before the weights changed; try a smaller lr, a smaller clip_grad, "
       "or precision = \"fp32\"",
       bad_gradient != 0 && std::isfinite(sums[0]) ? "gradient" : "loss", values.step);
}

StepResult StudentTeacher::update(const StepValues& values) {
  require(micro_batches_ == config_.accumulation, "train", "a step has {} micro-batches; got {}", config_.accumulation,
          micro_batches_);
  PhaseClock clock(context_.stream());
  reduce_over_ranks();
  make_segments(values);
  const OptimizerKind kind = optimizer_kind(config_.optimizer);
  const bool is_lars = kind == OptimizerKind::lars;
  dino::gradient_norms({.segments = segments_,
                        .gradient = store_.gradient.array(),
                        .norms = norms_.array(),
                        .non_finite = non_finite_.array(),
                        .student = is_lars ? store_.student.const_array() : ConstArray(),
                        .parameter_norms = parameter_norms_.array(),
                        .update_norms = update_norms_.array(),
                        .clip = config_.clip_grad},
                       context_.stream());
  require_finite(values);
  optimizer_step({.segments = segments_,
                  .kind = kind,
                  .clip = config_.clip_grad,
                  .teacher_momentum = values.teacher_momentum,
                  .gradient = store_.gradient.array(),
                  .norms = norms_.array(),
                  .parameter_norms = parameter_norms_.array(),
                  .update_norms = update_norms_.array(),
                  .student = store_.student.array(),
                  .first_moment = store_.first_moment.array(),
                  .second_moment = kind == OptimizerKind::adamw ? store_.second_moment.array() : Array(),
                  .student_working = store_.student_working.array(),
                  .teacher = store_.teacher.array(),
                  .teacher_working = store_.teacher_working.array()},
                 context_.stream());
  update_center(context_.stream(), center_, teacher_sum_, teacher_rows_ * communicator_.size(),
                config_.center_momentum);

  StepResult result;
  float sums[3];
  context_.copy_to_host(totals_, Array(sums, Shape{3}));
  const double parts = static_cast<double>(micro_batches_) * communicator_.size();
  result.loss = sums[0] / parts;
  result.teacher_entropy = sums[1] / parts;
  result.kl = sums[2] / parts;
  std::vector<float> norms(segments_.size());
  context_.copy_to_host(norms_, Array(norms.data(), norms_.shape()));
  double square = 0;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    if (!layout_.infos()[i].trainable) continue;
    square += static_cast<double>(norms[i]) * norms[i];
    update_counts_[i] += segments_[i].active ? 1 : 0;
  }
  result.gradient_norm = std::sqrt(square);
  clock.add_to(phases_.update_ms);
  result.phases = phases_;
  phases_ = {};
  micro_batches_ = 0;
  return result;
}

}  // namespace dino
