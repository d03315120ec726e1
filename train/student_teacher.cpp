#include "train/student_teacher.h"

#include "engine/ops/dino_loss.h"
#include "kernels/column_sum/column_sum.h"
#include "kernels/dino_loss/dino_loss.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

namespace dino {
namespace {

constexpr int kTeacherViews = 2;

/// Adds the time since the last mark to a counter, once the device has got there. Does nothing unless `timed`.
class PhaseClock {
 public:
  PhaseClock(Stream& stream, bool timed) : stream_(stream), timed_(timed), last_(Clock::now()) {}
  void add_to(double& ms) {
    if (!timed_) return;
    stream_.synchronize();
    const auto now = Clock::now();
    ms += std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Stream& stream_;
  bool timed_;
  Clock::time_point last_;
};

std::span<const std::byte> bytes_of(const Tensor& tensor) { return {tensor.data(), tensor.size_bytes()}; }

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
      gradient_sums_(context, communicator, layout_, store_.gradient,
                     {.type = config.gradient_sums == "bf16" ? DType::bfloat16 : DType::float32,
                      .bucket_bytes = std::max(std::int64_t{1}, std::int64_t{config.bucket_mb} << 20)}),
      packer_(context, config.patch_size),
      center_(context.zeros({config.out_dim}, DType::float32)),
      update_counts_(layout_.infos().size(), 0),
      known_skips_(layout_.infos().size(), 0),
      graphs_(context),
      timed_(context.device() == Device::cpu),
      teacher_sum_(context.zeros({config.out_dim}, DType::float32)),
      totals_(context.zeros({3}, DType::float32)) {
  const Shape per_parameter{static_cast<std::int64_t>(layout_.infos().size())};
  segments_ = context.empty({per_parameter[0] * std::int64_t{sizeof(OptimizerSegment)}}, DType::uint8);
  norms_ = context.zeros(per_parameter, DType::float32);
  non_finite_ = context.zeros({1}, DType::int32);
  skipped_ = context.zeros(per_parameter, DType::int32);
  center_norm_ = context.zeros({1}, DType::float32);
  center_flag_ = context.zeros({1}, DType::int32);
  center_segment_ = context.empty({std::int64_t{sizeof(OptimizerSegment)}}, DType::uint8);
  const OptimizerSegment whole_center{.size = center_.size(), .active = false};
  context.stream().copy_from_host(center_segment_.data(), &whole_center, sizeof whole_center);
  if (optimizer_kind(config.optimizer) == OptimizerKind::lars) {
    parameter_norms_ = context.zeros(per_parameter, DType::float32);
    update_norms_ = context.zeros(per_parameter, DType::float32);
  }
  store_.initialize(static_cast<std::uint64_t>(config.seed));
}

void StudentTeacher::upload_drop_path(const TrainingCrops& crops, std::uint64_t step) {
  if (config_.drop_path_rate <= 0) return;
  std::int64_t sequences = 0;
  for (const CropGroup& group : crops.groups) sequences += group.pixels.extent(0);
  const Shape shape{2 * vit_.config().depth, sequences};
  host_drop_path_.resize(static_cast<std::size_t>(shape.size()));
  const auto images = static_cast<std::int64_t>(crops.samples.size());
  draw_drop_path(vit_.config(), static_cast<std::uint64_t>(config_.seed), step, crops.samples,
                 static_cast<int>(sequences / images), host_drop_path_);
  if (!drop_path_ || drop_path_.shape() != shape) drop_path_ = context_.empty(shape, DType::float32);
  context_.copy_from_host(ConstArray(host_drop_path_.data(), shape), drop_path_);
}

bool StudentTeacher::is_active(const ParameterInfo& info, const StepValues& values) const {
  return info.trainable && !(values.freeze_last_layer && in_last_layer(info));
}

void StudentTeacher::upload_segments(const StepValues& values) {
  host_segments_.clear();
  for (std::size_t i = 0; i < layout_.infos().size(); ++i) {
    const ParameterInfo& info = layout_.infos()[i];
    host_segments_.push_back({.offset = info.offset,
                              .size = info.size(),
                              .step = update_counts_[i] + known_skips_[i] + 1,
                              .learning_rate = values.lr,
                              .weight_decay = values.weight_decay,
                              .teacher_momentum = values.teacher_momentum,
                              .decayed = info.decayed(),
                              .adapted = info.shape.rank() > 1,
                              .active = is_active(info, values)});
  }
  static_assert(std::is_trivially_copyable_v<OptimizerSegment>);
  context_.stream().copy_from_host(segments_.data(), host_segments_.data(), segments_.size_bytes());
}

void StudentTeacher::count_update(const StepValues& values) {
  for (std::size_t i = 0; i < layout_.infos().size(); ++i) {
    if (is_active(layout_.infos()[i], values)) ++update_counts_[i];
  }
}

void StudentTeacher::count_skip(const StepValues& values) {
  for (std::size_t i = 0; i < layout_.infos().size(); ++i) {
    if (!is_active(layout_.infos()[i], values)) continue;
    --update_counts_[i];
    ++known_skips_[i];
  }
}

Tensor StudentTeacher::teacher_logits(const TrainingCrops& crops) {
  Tape tape(context_, Tape::Mode::inference);
  Weights weights = Weights::teacher(tape, store_);
  const Tensor features = vit_.cls_features(tape, weights, packer_.pack({crops.groups.front()}));
  return head_(tape, weights, features, communicator_);
}

Tensor StudentTeacher::forward_student(Tape& tape, const TrainingCrops& crops) {
  const GradientMode mode = micro_batches_ == 0 ? GradientMode::overwrite : GradientMode::accumulate;
  Weights weights = Weights::student(tape, store_, mode);
  const Tensor features = vit_.cls_features(tape, weights, packer_.pack(crops.groups), drop_path_);
  return head_(tape, weights, features, communicator_);
}

Tensor StudentTeacher::student_logits(Tape& tape, const TrainingCrops& crops, const StepValues& values) {
  upload_drop_path(crops, values.step);
  return forward_student(tape, crops);
}

void StudentTeacher::forward_and_backward(const TrainingCrops& crops, double teacher_temperature) {
  const auto images = static_cast<int>(crops.samples.size());
  PhaseClock clock(context_.stream(), timed_);
  Tensor teacher = teacher_logits(crops);
  clock.add_to(phases_.teacher_ms);

  Tape tape(context_);
  Tensor student = forward_student(tape, crops);
  clock.add_to(phases_.student_ms);

  const DinoLossOptions options{.images = images,
                                .student_views = static_cast<int>(student.extent(0) / images),
                                .teacher_views = kTeacherViews,
                                .student_temperature = config_.student_temp,
                                .teacher_temperature = teacher_temperature,
                                .gradient_scale = 1.0 / (config_.accumulation * communicator_.size())};
  DinoLoss loss = dino_loss(tape, student, teacher, center_, options);
  teacher = Tensor();
  // A running mean of the sums, as every micro-batch has as many rows.
  if (micro_batches_ == 0) {
    context_.copy(loss.result.teacher_sum, teacher_sum_);
  } else {
    center_update({.sum = loss.result.teacher_sum.array(),
                   .rows = 1,
                   .momentum = static_cast<double>(micro_batches_) / (micro_batches_ + 1),
                   .center = teacher_sum_.array()},
                  context_.stream());
  }
  column_sum({.x = loss.result.values.reshape({1, 3}).array(),
              .y = totals_.array(),
              .mode = micro_batches_ == 0 ? GradientMode::overwrite : GradientMode::accumulate},
             context_.stream());
  clock.add_to(phases_.loss_ms);

  const bool last = micro_batches_ + 1 == config_.accumulation;
  if (last) gradient_sums_.watch(tape);
  tape.backward(student, loss.student_gradient);
  if (last) gradient_sums_.finish();
  clock.add_to(phases_.backward_ms);
}

void StudentTeacher::run(const std::vector<std::uint64_t>& key, const std::function<void()>& body) {
  timed_ || !communicator_.recordable() ? body() : graphs_.run(key, body);
}

void StudentTeacher::run_micro_batch(const TrainingCrops& crops, const StepValues& values) {
  const std::size_t images = crops.samples.size();
  require(!crops.groups.empty() &&
              crops.groups.front().pixels.extent(0) == static_cast<std::int64_t>(kTeacherViews * images),
          "train", "the first group must hold two global crops of each of {} images", images);
  if (micro_batches_ == 0) communicator_.step_started(static_cast<std::int64_t>(values.step));
  upload_drop_path(crops, values.step);
  const auto address = [](const Tensor& tensor) { return reinterpret_cast<std::uint64_t>(tensor.data()); };
  std::vector<std::uint64_t> key = {0, static_cast<std::uint64_t>(micro_batches_),
                                    std::bit_cast<std::uint64_t>(values.teacher_temp), images, address(drop_path_)};
  for (const CropGroup& group : crops.groups) {
    key.push_back(address(group.pixels));
    key.push_back(static_cast<std::uint64_t>(group.pixels.dtype()));
    for (const std::int64_t extent : group.pixels.shape().extents()) key.push_back(static_cast<std::uint64_t>(extent));
  }
  run(key, [&] { forward_and_backward(crops, values.teacher_temp); });
  teacher_rows_ = kTeacherViews * static_cast<std::int64_t>(images);
  ++micro_batches_;
}

void StudentTeacher::reduce_over_ranks() {
  Stream& stream = context_.stream();
  communicator_.all_reduce_sum(teacher_sum_.array(), stream, "center");
  communicator_.all_reduce_sum(totals_.array(), stream, "losses");
}

void StudentTeacher::update_weights() {
  reduce_over_ranks();
  const OptimizerKind kind = optimizer_kind(config_.optimizer);
  const bool is_lars = kind == OptimizerKind::lars;
  context_.stream().zero(non_finite_.data(), non_finite_.size_bytes());
  const std::span segments(reinterpret_cast<const OptimizerSegment*>(segments_.data()), layout_.infos().size());
  dino::gradient_norms({.segments = segments,
                        .gradient = store_.gradient.array(),
                        .norms = norms_.array(),
                        .non_finite = non_finite_.array(),
                        .losses = totals_.rows(0, 1).array(),
                        .student = is_lars ? store_.student.const_array() : ConstArray(),
                        .parameter_norms = parameter_norms_.array(),
                        .update_norms = update_norms_.array(),
                        .clip = config_.clip_grad},
                       context_.stream());
  // From here on a gradient or loss that is not finite keeps this step from changing anything.
  optimizer_step({.segments = segments,
                  .kind = kind,
                  .clip = config_.clip_grad,
                  .gradient = store_.gradient.array(),
                  .norms = norms_.array(),
                  .parameter_norms = parameter_norms_.array(),
                  .update_norms = update_norms_.array(),
                  .non_finite = non_finite_.array(),
                  .skipped = skipped_.array(),
                  .student = store_.student.array(),
                  .first_moment = store_.first_moment.array(),
                  .second_moment = kind == OptimizerKind::adamw ? store_.second_moment.array() : Array(),
                  .student_working = store_.student_working.array(),
                  .teacher = store_.teacher.array(),
                  .teacher_working = store_.teacher_working.array()},
                 context_.stream());
  update_center(context_.stream(), center_, teacher_sum_, teacher_rows_ * communicator_.size(), config_.center_momentum,
                non_finite_);
  dino::gradient_norms({.segments = {reinterpret_cast<const OptimizerSegment*>(center_segment_.data()), 1},
                        .gradient = center_.array(),
                        .norms = center_norm_.array(),
                        .non_finite = center_flag_.array()},
                       context_.stream());
}

void StudentTeacher::update(const StepValues& values) {
  require(micro_batches_ == config_.accumulation, "train", "a step has {} micro-batches; got {}", config_.accumulation,
          micro_batches_);
  require(pending_.size() < kMaxPending, "train", "{} steps are without result; expected fewer than {}",
          pending_.size(), kMaxPending);
  PhaseClock clock(context_.stream(), timed_);
  upload_segments(values);
  run({1, static_cast<std::uint64_t>(teacher_rows_)}, [&] { update_weights(); });
  count_update(values);

  if (spare_copies_.empty()) {
    spare_copies_.push_back(context_.stream().make_host_copy(totals_.size_bytes() + non_finite_.size_bytes() +
                                                             norms_.size_bytes() + center_norm_.size_bytes()));
  }
  pending_.push_back({.copy = std::move(spare_copies_.back()),
                      .values = values,
                      .parts = std::int64_t{micro_batches_} * communicator_.size(),
                      .phases = {}});
  spare_copies_.pop_back();
  pending_.back().copy->start({bytes_of(totals_), bytes_of(non_finite_), bytes_of(norms_), bytes_of(center_norm_)});
  clock.add_to(phases_.update_ms);
  pending_.back().phases = std::exchange(phases_, {});
  micro_batches_ = 0;
}

std::optional<StepResult> StudentTeacher::poll() {
  if (pending_.empty() || !pending_.front().copy->ready()) return std::nullopt;
  return wait();
}

StepResult StudentTeacher::wait() {
  require(!pending_.empty(), "train", "no step is without result");
  Pending step = std::move(pending_.front());
  pending_.pop_front();
  return finish(std::move(step));
}

StepResult StudentTeacher::finish(Pending step) {
  const std::byte* bytes = step.copy->wait();
  communicator_.step_finished(static_cast<std::int64_t>(step.values.step));
  const auto take = [&bytes](void* to, std::size_t size_bytes) {
    std::memcpy(to, bytes, size_bytes);
    bytes += size_bytes;
  };
  std::array<float, 3> totals{};
  std::int32_t non_finite = 0;
  std::vector<float> norms(layout_.infos().size());
  float center_norm = 0;
  take(totals.data(), sizeof totals);
  take(&non_finite, sizeof non_finite);
  take(norms.data(), norms.size() * sizeof(float));
  take(&center_norm, sizeof center_norm);
  spare_copies_.push_back(std::move(step.copy));

  const auto parts = static_cast<double>(step.parts);
  double square = 0;
  for (std::size_t i = 0; i < norms.size(); ++i) {
    if (layout_.infos()[i].trainable) square += static_cast<double>(norms[i]) * norms[i];
  }
  StepResult result{.step = step.values.step,
                    .loss = totals[0] / parts,
                    .teacher_entropy = totals[1] / parts,
                    .kl = totals[2] / parts,
                    .gradient_norm = std::sqrt(square),
                    .center_norm = center_norm,
                    .not_finite = {},
                    .phases = step.phases};
  if (non_finite != 0) {
    count_skip(step.values);
    result.not_finite = name_not_finite(step.values, totals, norms);
  }
  return result;
}

std::string StudentTeacher::name_not_finite(const StepValues& values, std::span<const float> totals,
                                            std::span<const float> norms) const {
  if (!std::isfinite(totals[1])) return "the teacher's logits";
  if (!std::isfinite(totals[0])) return "the student's logits";
  for (std::size_t i = norms.size(); i-- > 0;) {
    const ParameterInfo& info = layout_.infos()[i];
    if (is_active(info, values) && !std::isfinite(norms[i])) return "the gradient of " + info.name;
  }
  return "the loss";
}

std::optional<std::string> StudentTeacher::weights_not_finite() {
  std::vector<float> host;
  for (const auto& [whose, flat] :
       {std::pair{"the teacher's ", &store_.teacher}, {"the student's ", &store_.student}}) {
    for (const ParameterId id : layout_.ids()) {
      const Tensor values = store_.window(*flat, id);
      host.resize(static_cast<std::size_t>(values.size()));
      context_.copy_to_host(values, Array(host.data(), values.shape()));
      if (!std::all_of(host.begin(), host.end(), [](float x) { return std::isfinite(x); }))
        return whose + layout_[id].name;
    }
  }
  return std::nullopt;
}

}  // namespace dino
