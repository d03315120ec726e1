#include "engine/ops/dino_loss.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "train/schedules.h"
#include "train/student_teacher.h"

#include <cmath>
#include <filesystem>
#include <sstream>

namespace dino {
namespace {

using test::check_close;
using test::every_context;
using test::HostArray;
using test::to_host;

/// A recorded run of the official implementation, and the configuration that repeats it.
struct Recording {
  explicit Recording(const std::filesystem::path& path) : file(SafetensorsFile::read(path)) {
    const auto text = [&](const std::string& key, const std::string& otherwise) {
      const auto at = file.metadata().find(key);
      return at == file.metadata().end() ? otherwise : at->second;
    };
    const auto integer = [&](const std::string& key) { return std::stoi(file.metadata(key)); };
    const auto number = [&](const std::string& key) { return std::stod(file.metadata(key)); };
    config.embed_dim = integer("embed");
    config.depth = integer("depth");
    config.num_heads = integer("heads");
    config.patch_size = integer("patch_size");
    config.global_crops_size = integer("img_size");
    config.drop_path_rate = 0;
    config.out_dim = integer("out_dim");
    config.head_hidden_dim = integer("hidden");
    config.head_bottleneck_dim = integer("bottleneck");
    config.head_layers = std::stoi(text("nlayers", "3"));
    config.use_bn_in_head = text("use_bn", "False") == "True";
    config.norm_last_layer = text("norm_last_layer", "True") == "True";
    config.batch_size_per_gpu = integer("batch");
    config.local_crops_number = std::stoi(text("local", "0"));
    config.epochs = integer("epochs");
    config.lr = number("lr");
    config.min_lr = number("min_lr");
    config.weight_decay = number("wd");
    config.weight_decay_end = number("wd_end");
    config.momentum_teacher = number("momentum");
    config.warmup_epochs = integer("warmup_epochs");
    config.warmup_teacher_temp = number("warmup_teacher_temp");
    config.teacher_temp = number("teacher_temp");
    config.warmup_teacher_temp_epochs = integer("warmup_teacher_temp_epochs");
    config.clip_grad = number("clip");
    config.freeze_last_layer = integer("freeze");
    config.optimizer = file.metadata("optimizer");
    config.student_temp = number("student_temp");
    config.center_momentum = number("center_momentum");
    steps_per_epoch = integer("iters");
    schedules = make_schedules(config, steps_per_epoch, config.batch_size_per_gpu);
  }

  int steps() const { return config.epochs * steps_per_epoch; }

  StepValues values(int step) const {
    const auto s = static_cast<std::size_t>(step);
    const int epoch = step / steps_per_epoch;
    return {.lr = schedules.lr[s],
            .weight_decay = schedules.weight_decay[s],
            .teacher_momentum = schedules.momentum[s],
            .teacher_temp = schedules.teacher_temp[static_cast<std::size_t>(epoch)],
            .freeze_last_layer = epoch < config.freeze_last_layer,
            .step = static_cast<std::uint64_t>(step)};
  }

  TrainingCrops crops(Context& context, int step) const {
    TrainingCrops crops;
    for (const char* name : {"global_crops", "local_crops"}) {
      const std::string key = fmt::format("step{}.{}", step, name);
      if (!file.contains(key) || file[key].size() == 0) continue;
      const ConstArray array = file[key];  // (views, B, 3, S, S)
      const Shape shape{array.extent(0) * array.extent(1), array.extent(2), array.extent(3), array.extent(4)};
      crops.groups.push_back({context.from_host(array.reshaped(shape))});
    }
    for (int b = 0; b < config.batch_size_per_gpu; ++b) crops.samples.push_back(static_cast<std::uint64_t>(b));
    return crops;
  }

  void load_initial(StudentTeacher& networks) const {
    ParameterStore& store = networks.store();
    for (const ParameterId id : networks.layout().ids()) {
      const ParameterInfo& info = networks.layout()[id];
      const ConstArray recorded = file["initial.student." + info.name];
      REQUIRE(recorded.shape() == info.shape);
      Tensor student = store.window(store.student, id);
      Tensor teacher = store.window(store.teacher, id);
      store.context.copy_from_host(recorded, student);
      store.context.copy_from_host(recorded, teacher);
    }
    store.refresh_working_copies();
  }

  std::vector<std::string> parameter_order() const {
    std::vector<std::string> names;
    std::stringstream text(file.metadata("parameter_order"));
    for (std::string name; std::getline(text, name, ',');) names.push_back(name);
    return names;
  }

  SafetensorsFile file;
  TrainConfig config;
  int steps_per_epoch = 0;
  Schedules schedules;
};

std::vector<std::filesystem::path> recordings() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(test::golden_dir())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("train_") && entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  REQUIRE_FALSE(paths.empty());
  return paths;
}

/// ‖ours − recorded‖ / ‖recorded − initial‖: the error relative to how far training moved the tensor.
void check_movement(const HostArray& ours, const ConstArray& recorded, const ConstArray& initial, double tolerance,
                    const std::string& name) {
  REQUIRE(ours.size() == recorded.size());
  double error = 0;
  double movement = 0;
  for (std::int64_t i = 0; i < recorded.size(); ++i) {
    const double expected = load_double(recorded, i);
    error += std::pow(ours.at(i) - expected, 2);
    movement += std::pow(expected - load_double(initial, i), 2);
  }
  INFO(name << ": error " << std::sqrt(error) << ", movement " << std::sqrt(movement));
  // What training leaves alone may differ by the rounding of the teacher's average only.
  const double rounding = 1e-7 * std::sqrt(static_cast<double>(recorded.size()));
  CHECK(std::sqrt(error) <= tolerance * std::sqrt(movement) + rounding * (movement == 0 ? 10 : 0));
}

void check_grad_norms(const Recording& recording, StudentTeacher& networks, int step) {
  const ConstArray recorded = recording.file[fmt::format("step{}.grad_norms", step)];
  const HostArray norms = to_host(networks.store().context, networks.gradient_norms());
  std::vector<double> ours;
  for (const std::string& name : recording.parameter_order()) {
    for (std::size_t i = 0; i < networks.layout().infos().size(); ++i) {
      const ParameterInfo& info = networks.layout().infos()[i];
      if (info.name == name && info.trainable) ours.push_back(norms.at(static_cast<std::int64_t>(i)));
    }
  }
  REQUIRE(static_cast<std::int64_t>(ours.size()) == recorded.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double expected = load_double(recorded, static_cast<std::int64_t>(i));
    INFO("step " << step << ", norm " << i << ": got " << ours[i] << ", expected " << expected);
    CHECK(std::abs(ours[i] - expected) <= 5e-4 * expected + 1e-7);
  }
}

void check_first_step(Context& context);
TEST_CASE("golden: logits and gradients of the first step", "[device]") { every_context(check_first_step); }
void check_first_step(Context& context) {
  for (const auto& path : recordings()) {
    INFO(path.filename().string());
    const Recording recording(path);
    SingleProcess communicator;
    StudentTeacher networks(context, communicator, recording.config, DType::float32);
    recording.load_initial(networks);
    const TrainingCrops crops = recording.crops(context, 0);
    const StepValues values = recording.values(0);
    check_close(to_host(context, networks.teacher_logits(crops)), recording.file["step0.teacher_logits"], 2e-5,
                "teacher");
    {
      Tape tape(context);
      check_close(to_host(context, networks.student_logits(tape, crops, values)),
                  recording.file["step0.student_logits"], 2e-5, "student");
    }
    networks.run_micro_batch(crops, values);
    int gradients = 0;
    for (const ParameterId id : networks.layout().ids()) {
      const std::string& name = networks.layout()[id].name;
      if (!recording.file.contains("step0.grad." + name)) continue;
      ++gradients;
      check_close(to_host(context, networks.store().window(networks.store().gradient, id)),
                  recording.file["step0.grad." + name], 2e-5, name);
    }
    CHECK(gradients > 0);
  }
}

void check_run(Context& context);
TEST_CASE("golden: a training run ends at the recorded weights", "[device]") { every_context(check_run); }
void check_run(Context& context) {
  for (const auto& path : recordings()) {
    INFO(path.filename().string());
    const Recording recording(path);
    SingleProcess communicator;
    StudentTeacher networks(context, communicator, recording.config, DType::float32);
    recording.load_initial(networks);
    for (int step = 0; step < recording.steps(); ++step) {
      networks.run_micro_batch(recording.crops(context, step), recording.values(step));
      networks.update(recording.values(step));
      const StepResult result = networks.wait();
      const double expected = load_double(recording.file["losses"], step);
      INFO("step " << step << ": loss " << result.loss << ", expected " << expected);
      CHECK_FALSE(result.not_finite);
      CHECK(std::abs(result.loss - expected) <= 1e-5 * expected);
      CHECK(std::abs(result.loss - result.teacher_entropy - result.kl) <= 1e-5 * expected);
      check_close(to_host(context, networks.center()), recording.file[fmt::format("step{}.center", step)], 2e-4,
                  "center");
      check_grad_norms(recording, networks, step);
    }
    // Most steps are replays of recorded ones, where the device records.
    CHECK((networks.replays() >= recording.steps()) == (context.device() != Device::cpu));
    const bool adamw = recording.config.optimizer == "adamw";
    ParameterStore& store = networks.store();
    for (const ParameterId id : networks.layout().ids()) {
      const std::string& name = networks.layout()[id].name;
      // The key third of this bias has no true gradient; Adam divides rounding by rounding there.
      const double tolerance = adamw && name.ends_with("qkv.bias") ? 1e-2 : 1e-3;
      const ConstArray initial = recording.file["initial.student." + name];
      check_movement(to_host(context, store.window(store.student, id)), recording.file["final.student." + name],
                     initial, tolerance, "student " + name);
      check_movement(to_host(context, store.window(store.teacher, id)), recording.file["final.teacher." + name],
                     initial, tolerance, "teacher " + name);
    }
  }
}

/// Of a whole gradient, relative. The student's temperature of 0.1 multiplies what the logits lost by ten. Seen: 3.4 %.
constexpr double kBf16GradientError = 0.045;

void check_bf16_gradients(Context& context);
TEST_CASE("golden: gradients of the first step in bf16", "[device]") { every_context(check_bf16_gradients); }
void check_bf16_gradients(Context& context) {
  for (const auto& path : recordings()) {
    INFO(path.filename().string());
    const Recording recording(path);
    SingleProcess communicator;
    StudentTeacher networks(context, communicator, recording.config, DType::bfloat16);
    recording.load_initial(networks);
    networks.run_micro_batch(recording.crops(context, 0), recording.values(0));
    int gradients = 0;
    for (const ParameterId id : networks.layout().ids()) {
      const std::string& name = networks.layout()[id].name;
      if (!recording.file.contains("step0.grad." + name)) continue;
      ++gradients;
      check_close(to_host(context, networks.store().window(networks.store().gradient, id)),
                  recording.file["step0.grad." + name], kBf16GradientError, name);
    }
    CHECK(gradients > 0);
  }
}

void check_bf16_run(Context& context);
TEST_CASE("golden: the losses of a bf16 run stay near the recorded ones", "[device]") { every_context(check_bf16_run); }
void check_bf16_run(Context& context) {
  for (const auto& path : recordings()) {
    INFO(path.filename().string());
    const Recording recording(path);
    SingleProcess communicator;
    StudentTeacher networks(context, communicator, recording.config, DType::bfloat16);
    recording.load_initial(networks);
    const double first = load_double(recording.file["losses"], 0);
    for (int step = 0; step < recording.steps(); ++step) {
      networks.run_micro_batch(recording.crops(context, step), recording.values(step));
      networks.update(recording.values(step));
      const double loss = networks.wait().loss;
      const double expected = load_double(recording.file["losses"], step);
      INFO("step " << step << ": loss " << loss << ", expected " << expected);
      // SGD moves the weights by the gradient itself, whose error in bf16 (below) is then that of the loss's movement;
      // this run's first two steps more than halve the loss. On the CPU, initial weights moved by up to 2^-9 of
      // themselves, as bf16 does, left losses 1 to 7 % off at step 4, and in fp32 up to 2 %.
      const double moved = recording.config.optimizer == "sgd" ? std::abs(expected - first) : 0;
      CHECK(std::abs(loss - expected) <= 0.01 * expected + kBf16GradientError * moved);
    }
  }
}

}  // namespace
}  // namespace dino
