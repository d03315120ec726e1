#include "selftest/recordings.h"

#include "kernels/common/error.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <sstream>

namespace dino {
namespace {

std::string text_of(const SafetensorsFile& file, const std::string& key, const std::string& otherwise) {
  const auto at = file.metadata().find(key);
  return at == file.metadata().end() ? otherwise : at->second;
}

double number_of(const std::string& text, const std::string& key) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), "recording",
          "metadata {} is no number; got {}, expected one", key, text);
  return value;
}

int whole_number_of(const std::string& text, const std::string& key) {
  constexpr double kLargest = 1e6;
  const double value = number_of(text, key);
  require(value >= 0 && value <= kLargest && value == std::floor(value), "recording",
          "metadata {} is no count; got {}, expected a whole number up to {}", key, text, kLargest);
  return static_cast<int>(value);
}

/// What is compared element by element must have as many.
void check_sizes(const SafetensorsFile& file, int steps) {
  const std::int64_t losses = file["losses"].size();
  require(losses == steps, "recording", "got {} losses, expected one for each of {} steps", losses, steps);
  constexpr std::string_view kInitial = "initial.student.";
  for (const std::string& name : file.names()) {
    if (!name.starts_with(kInitial)) continue;
    for (const char* final : {"final.student.", "final.teacher."}) {
      const std::string other = final + name.substr(kInitial.size());
      require(file[other].shape() == file[name].shape(), "recording", "{} has another shape; got {}, expected {}",
              other, file[other].shape().to_string(), file[name].shape().to_string());
    }
  }
}

}  // namespace

int whole_number(const SafetensorsFile& file, const std::string& key) {
  return whole_number_of(file.metadata(key), key);
}

TrainingRecording::TrainingRecording(SafetensorsFile recorded) : file(std::move(recorded)) {
  const auto number = [&](const std::string& key) { return number_of(file.metadata(key), key); };
  const auto integer = [&](const std::string& key) { return whole_number(file, key); };
  config.embed_dim = integer("embed");
  config.depth = integer("depth");
  config.num_heads = integer("heads");
  config.patch_size = integer("patch_size");
  config.global_crops_size = integer("img_size");
  config.drop_path_rate = 0;
  config.out_dim = integer("out_dim");
  config.head_hidden_dim = integer("hidden");
  config.head_bottleneck_dim = integer("bottleneck");
  config.head_layers = whole_number_of(text_of(file, "nlayers", "3"), "nlayers");
  config.use_bn_in_head = text_of(file, "use_bn", "False") == "True";
  config.norm_last_layer = text_of(file, "norm_last_layer", "True") == "True";
  config.batch_size_per_gpu = integer("batch");
  config.local_crops_number = whole_number_of(text_of(file, "local", "0"), "local");
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
  steps_per_epoch_ = integer("iters");
  require(steps() >= 1, "recording", "got a run of {} steps, expected one or more", steps());
  check_sizes(file, steps());
  schedules_ = make_schedules(config, steps_per_epoch_, config.batch_size_per_gpu);
}

StepValues TrainingRecording::values(int step) const {
  const auto s = static_cast<std::size_t>(step);
  const int epoch = step / steps_per_epoch_;
  return {.lr = schedules_.lr.at(s),
          .weight_decay = schedules_.weight_decay.at(s),
          .teacher_momentum = schedules_.momentum.at(s),
          .teacher_temp = schedules_.teacher_temp.at(static_cast<std::size_t>(epoch)),
          .freeze_last_layer = epoch < config.freeze_last_layer,
          .step = static_cast<std::uint64_t>(step)};
}

TrainingCrops TrainingRecording::crops(Context& context, int step) const {
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

void TrainingRecording::load_initial(StudentTeacher& networks) const {
  ParameterStore& store = networks.store();
  for (const ParameterId id : networks.layout().ids()) {
    const ParameterInfo& info = networks.layout()[id];
    const ConstArray recorded = file["initial.student." + info.name];
    require(recorded.shape() == info.shape, "recording", "{} has another shape; got {}, expected {}", info.name,
            recorded.shape().to_string(), info.shape.to_string());
    Tensor student = store.window(store.student, id);
    Tensor teacher = store.window(store.teacher, id);
    store.context.copy_from_host(recorded, student);
    store.context.copy_from_host(recorded, teacher);
  }
  store.refresh_working_copies();
}

std::vector<std::string> TrainingRecording::parameter_order() const {
  std::vector<std::string> names;
  std::stringstream text(file.metadata("parameter_order"));
  for (std::string name; std::getline(text, name, ',');) names.push_back(name);
  return names;
}

Recordings read_recordings(const std::filesystem::path& folder) {
  const auto read = [&](const char* name) { return SafetensorsFile::read(folder / name); };
  return {TrainingRecording(read("train_adamw.safetensors")), read("backbone.safetensors"),
          read("forward.safetensors")};
}

}  // namespace dino
