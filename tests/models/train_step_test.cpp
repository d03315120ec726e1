#include "engine/ops/dino_loss.h"
#include "models/dino_head.h"
#include "models/safetensors.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <filesystem>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kTolerance = 2e-5;

/// (views, B, …) as (views·B, …).
CropGroup crops_of(Context& context, const ConstArray& recorded) {
  const Shape& s = recorded.shape();
  return {context.from_host(recorded.reshaped({s[0] * s[1], s[2], s[3], s[4]}))};
}

void check_recording(Context& context, const std::filesystem::path& path) {
  INFO(path.filename().string());
  const SafetensorsFile golden = SafetensorsFile::read(path);
  const auto number = [&](const char* key) { return std::stoi(golden.metadata(key)); };
  const auto real = [&](const char* key) { return std::stod(golden.metadata(key)); };
  const VitConfig vit_config{.embed_dim = number("embed"),
                             .depth = number("depth"),
                             .heads = number("heads"),
                             .patch_px = number("patch_size"),
                             .image_px = number("img_size")};
  const DinoHeadConfig head_config{.in_dim = number("embed"),
                                   .out_dim = number("out_dim"),
                                   .hidden_dim = number("hidden"),
                                   .bottleneck_dim = number("bottleneck"),
                                   .norm_last_layer = golden.metadata("norm_last_layer") == "True"};

  ParameterLayout layout;
  const Vit vit(layout, vit_config);
  const DinoHead head(layout, head_config);
  std::string order;
  for (const ParameterInfo& info : layout.infos()) order += (order.empty() ? "" : ",") + info.name;
  CHECK(order == golden.metadata("parameter_order"));

  ParameterStore store(context, layout, DType::float32, ParameterStore::Role::training);
  for (const ParameterId id : layout.ids()) {
    for (const Tensor& flat : {store.student, store.teacher}) {
      Tensor window = store.window(flat, id);
      context.copy_from_host(golden["initial.student." + layout[id].name], window);
    }
  }

  CropPacker packer(context, vit_config.patch_px);
  const CropGroup global = crops_of(context, golden["step0.global_crops"]);
  std::vector<CropGroup> all{global};
  if (golden.contains("step0.local_crops")) all.push_back(crops_of(context, golden["step0.local_crops"]));

  Tape teacher_tape(context, Tape::Mode::inference);
  Weights teacher = Weights::teacher(teacher_tape, store);
  const Tensor teacher_features = vit.cls_features(teacher_tape, teacher, packer.pack({global}));
  const Tensor teacher_logits = head(teacher_tape, teacher, teacher_features);
  check_close(to_host(context, teacher_logits), golden["step0.teacher_logits"], kTolerance, "teacher logits");

  Tape tape(context);
  Weights student = Weights::student(tape, store);
  const Tensor student_logits = head(tape, student, vit.cls_features(tape, student, packer.pack(all)));
  check_close(to_host(context, student_logits), golden["step0.student_logits"], kTolerance, "student logits");

  const Tensor center = context.zeros({head_config.out_dim}, DType::float32);
  const DinoLoss loss = dino_loss(tape, student_logits, teacher_logits, center,
                                  {.images = number("batch"),
                                   .student_views = 2 + number("local"),
                                   .student_temperature = real("student_temp"),
                                   .teacher_temperature = load_double(golden["teacher_temp"], 0)});
  const double expected = load_double(golden["losses"], 0);
  CHECK(std::abs(to_host(context, loss.result.loss).at(0) - expected) <= 1e-5 * expected);

  tape.backward(student_logits, loss.student_gradient);
  std::size_t checked = 0;
  for (const ParameterId id : layout.ids()) {
    const std::string recorded = "step0.grad." + layout[id].name;
    REQUIRE(golden.contains(recorded) == layout[id].trainable);
    if (!layout[id].trainable) continue;
    check_close(to_host(context, store.window(store.gradient, id)), golden[recorded], kTolerance, recorded);
    ++checked;
  }
  CHECK(checked >= layout.infos().size() - 1);
}

}  // namespace

static void check_recordings(Context& context);
TEST_CASE("golden first training step: logits, loss and every gradient", "[device]") {
  every_context(check_recordings);
}
static void check_recordings(Context& context) {
  int recordings = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir())) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("train_") || entry.path().extension() != ".safetensors") continue;
    check_recording(context, entry.path());
    ++recordings;
  }
  CHECK(recordings >= 1);
}
