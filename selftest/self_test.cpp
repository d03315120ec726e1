#include "selftest/self_test.h"

#include "models/vit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dino {
namespace {

// What repeating the recordings in double showed, with a margin (tests/golden/README.md).
constexpr double kFp32Features = 2e-5, kFp32Gradients = 2e-5, kFp32Loss = 1e-5, kCenter = 2e-4, kGradientNorms = 5e-4,
                 kMovement = 1e-3;
/// The key third of this bias has no true gradient, and Adam divides rounding by rounding there.
constexpr double kMovementOfQkvBias = 1e-2;
// bf16 rounds to 2^-9 at every step, and the student's temperature multiplies what the logits lost by ten.
constexpr double kBf16Features = 2e-2, kBf16Gradients = 0.045, kBf16Loss = 0.01;

/// Memory of the host with the elements of a tensor.
class HostCopyOf {
 public:
  HostCopyOf(Context& context, const Tensor& tensor)
      : bytes_(tensor.size_bytes()), array_(bytes_.data(), tensor.dtype(), tensor.shape()) {
    context.copy_to_host(tensor, array_);
  }
  operator ConstArray() const { return array_; }
  const Array& array() const { return array_; }

 private:
  std::vector<std::byte> bytes_;
  Array array_;
};

/// ‖ours − recorded‖ / ‖recorded − initial‖: the error against how far training moved the tensor. What it left alone
/// may be off by the rounding of the teacher's average.
double error_of_movement(const ConstArray& ours, const ConstArray& recorded, const ConstArray& initial) {
  double error = 0, movement = 0;
  for (std::int64_t i = 0; i < recorded.size(); ++i) {
    const double expected = load_double(recorded, i);
    error += std::pow(load_double(ours, i) - expected, 2);
    movement += std::pow(expected - load_double(initial, i), 2);
  }
  if (movement > 0) return std::sqrt(error / movement);
  const double rounding = 1e-6 * std::sqrt(static_cast<double>(recorded.size()));
  return std::sqrt(error) <= rounding ? 0 : std::sqrt(error) / rounding;
}

SelfCheck training_check(std::string name, bool is_bf16) {
  return {.group = "training", .name = std::move(name), .dtype = is_bf16 ? "bf16" : "fp32"};
}

/// Networks as the recorded run's were before its first step.
struct Networks {
  Networks(Context& device, const TrainingRecording& recording, DType type)
      : context(device), networks(device, communicator, recording.config, type) {
    recording.load_initial(networks);
  }
  HostCopyOf copy(const Tensor& tensor) const { return {context, tensor}; }

  Context& context;
  SingleProcess communicator;
  StudentTeacher networks;
};

void check_gradients(Networks& n, const TrainingRecording& recording, SelfCheck check, double bound,
                     SelfChecks& checks) {
  StudentTeacher& networks = n.networks;
  WorstError worst;
  for (const ParameterId id : networks.layout().ids()) {
    const std::string& name = networks.layout()[id].name;
    if (!recording.file.contains("step0.grad." + name)) continue;
    worst.add(error_between(n.copy(networks.store().window(networks.store().gradient, id)),
                            recording.file["step0.grad." + name]),
              bound, name);
  }
  worst.finish(check);
  checks.push_back(std::move(check));
}

void check_first_step(Context& context, const TrainingRecording& recording, SelfChecks& checks) {
  Networks n(context, recording, DType::float32);
  const TrainingCrops crops = recording.crops(context, 0);
  const StepValues values = recording.values(0);
  WorstError logits;
  logits.add(error_between(n.copy(n.networks.teacher_logits(crops)), recording.file["step0.teacher_logits"]),
             kFp32Features, "teacher");
  {
    Tape tape(context);
    logits.add(
        error_between(n.copy(n.networks.student_logits(tape, crops, values)), recording.file["step0.student_logits"]),
        kFp32Features, "student");
  }
  SelfCheck check = training_check("logits of the first step", false);
  logits.finish(check);
  checks.push_back(std::move(check));
  n.networks.run_micro_batch(crops, values);
  check_gradients(n, recording, training_check("gradients of the first step", false), kFp32Gradients, checks);
}

double relative(double got, double expected) { return std::abs(got - expected) / std::abs(expected); }

double error_of_norms(Networks& n, const TrainingRecording& recording, int step) {
  const ConstArray recorded = recording.file[fmt::format("step{}.grad_norms", step)];
  const HostCopyOf norms = n.copy(n.networks.gradient_norms());
  const auto& infos = n.networks.layout().infos();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::int64_t i = 0;
  double error = 0;
  for (const std::string& name : recording.parameter_order()) {
    const auto at = std::find_if(infos.begin(), infos.end(),
                                 [&](const ParameterInfo& info) { return info.name == name && info.trainable; });
    if (at == infos.end()) continue;
    if (i == recorded.size()) return kInfinity;
    const double expected = load_double(recorded, i++);
    const double difference = std::abs(load_double(norms, at - infos.begin()) - expected);
    // std::max would take a zero for what is not a number.
    if (!std::isfinite(difference)) return kInfinity;
    // Norms that are zero are left with rounding.
    error = std::max(error, std::max(0.0, difference - 1e-7) / std::max(expected, 1e-30));
  }
  return i == recorded.size() ? error : kInfinity;
}

void check_run(Context& context, const TrainingRecording& recording, SelfChecks& checks) {
  Networks n(context, recording, DType::float32);
  const int steps = recording.steps();
  WorstError losses, centers, norms, student, teacher;
  for (int step = 0; step < steps; ++step) {
    n.networks.run_micro_batch(recording.crops(context, step), recording.values(step));
    n.networks.update(recording.values(step));
    const std::string which = fmt::format("step {}", step);
    losses.add(relative(n.networks.wait().loss, load_double(recording.file["losses"], step)), kFp32Loss, which);
    centers.add(error_between(n.copy(n.networks.center()), recording.file[fmt::format("step{}.center", step)]), kCenter,
                which);
    norms.add(error_of_norms(n, recording, step), kGradientNorms, which);
  }
  ParameterStore& store = n.networks.store();
  const bool adamw = recording.config.optimizer == "adamw";
  for (const ParameterId id : n.networks.layout().ids()) {
    const std::string& name = n.networks.layout()[id].name;
    const double bound = adamw && name.ends_with("qkv.bias") ? kMovementOfQkvBias : kMovement;
    const ConstArray initial = recording.file["initial.student." + name];
    student.add(
        error_of_movement(n.copy(store.window(store.student, id)), recording.file["final.student." + name], initial),
        bound, name);
    teacher.add(
        error_of_movement(n.copy(store.window(store.teacher, id)), recording.file["final.teacher." + name], initial),
        bound, name);
  }
  const std::pair<std::string, WorstError*> results[] = {{fmt::format("losses of {} steps", steps), &losses},
                                                         {"centers", &centers},
                                                         {"gradient norms", &norms},
                                                         {"student at the end", &student},
                                                         {"teacher (EMA) at the end", &teacher}};
  for (const auto& [name, worst] : results) {
    SelfCheck check = training_check(name, false);
    worst->finish(check);
    checks.push_back(std::move(check));
  }
  if (context.device() == Device::cpu) return;
  // The first two steps may make what later ones replay, at least once each.
  checks.push_back({.group = "training",
                    .name = "replays of a recorded graph",
                    .error = std::max(0.0, static_cast<double>(steps - n.networks.replays())),
                    .bound = 0,
                    .worst = fmt::format("{} replays in {} steps", n.networks.replays(), steps)});
}

void check_bf16_run(Context& context, const TrainingRecording& recording, SelfChecks& checks) {
  Networks n(context, recording, DType::bfloat16);
  WorstError losses;
  for (int step = 0; step < recording.steps(); ++step) {
    n.networks.run_micro_batch(recording.crops(context, step), recording.values(step));
    if (step == 0)
      check_gradients(n, recording, training_check("gradients of the first step", true), kBf16Gradients, checks);
    n.networks.update(recording.values(step));
    const double expected = load_double(recording.file["losses"], step);
    losses.add(relative(n.networks.wait().loss, expected), kBf16Loss, fmt::format("step {}", step));
  }
  SelfCheck check = training_check(fmt::format("losses of {} steps", recording.steps()), true);
  losses.finish(check);
  checks.push_back(std::move(check));
}

}  // namespace

SelfChecks check_forward(Context& context, const Recordings& recordings) {
  SelfChecks checks;
  const SafetensorsFile& weights = recordings.backbone;
  VitConfig config;
  config.embed_dim = whole_number(weights, "embed_dim");
  config.depth = whole_number(weights, "depth");
  config.heads = whole_number(weights, "num_heads");
  config.patch_px = whole_number(weights, "patch_size");
  config.image_px = whole_number(weights, "img_size");
  ParameterLayout layout;
  const Vit vit(layout, config, "");
  for (const DType type : {DType::float32, DType::bfloat16}) {
    ParameterStore store(context, layout, type, ParameterStore::Role::inference);
    for (const ParameterId id : layout.ids()) {
      Tensor window = store.window(store.student, id);
      context.copy_from_host(weights[layout[id].name], window);
    }
    store.refresh_working_copies();
    CropPacker packer(context, config.patch_px);
    WorstError worst;
    for (const std::string& name : recordings.forward.names()) {
      if (!name.ends_with(".images")) continue;
      const std::string picture = name.substr(0, name.size() - std::string_view(".images").size());
      Tape tape(context, Tape::Mode::inference);
      Weights student = Weights::student(tape, store);
      const Tensor cls = vit.cls_features(tape, student, packer.pack({{context.from_host(recordings.forward[name])}}));
      worst.add(error_between(HostCopyOf(context, cls), recordings.forward[picture + ".cls"]),
                type == DType::float32 ? kFp32Features : kBf16Features, picture);
    }
    SelfCheck check{
        .group = "forward", .name = "features of pictures", .dtype = type == DType::float32 ? "fp32" : "bf16"};
    worst.finish(check);
    checks.push_back(std::move(check));
  }
  return checks;
}

SelfChecks check_training(Context& context, const TrainingRecording& recording) {
  SelfChecks checks;
  for (const auto part : {check_first_step, check_run, check_bf16_run}) {
    try {
      part(context, recording, checks);
    } catch (const Error& error) {
      checks.push_back(training_check("as far as it went", part == check_bf16_run));
      fail_check(checks.back(), error);
    }
  }
  return checks;
}

SelfChecks run_self_test(Context& context, const Recordings& recordings, const SelfTestProgress& progress) {
  SelfChecks checks = check_kernels(context, progress);
  for (const SelfChecks& more : {check_forward(context, recordings), check_training(context, recordings.training)})
    checks.insert(checks.end(), more.begin(), more.end());
  return checks;
}

}  // namespace dino
