#include "engine/ops/dino_loss.h"

#include "kernels/dino_loss/dino_loss.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <cmath>
#include <filesystem>
#include <string>

using namespace dino;
using namespace dino::test;

namespace {

constexpr DinoLossOptions kOptions{.images = 2, .student_views = 4, .teacher_views = 2, .gradient_scale = 0.25};

}  // namespace

TEST_CASE("the dino_loss operation starts backward with the gradient in the logits' place") {
  const auto context = make_cpu_context();
  const HostArray student = random_normal(DType::float64, {8, 33}, 1, 0.3);
  const HostArray teacher = random_normal(DType::float32, {4, 33}, 2, 0.1);
  const HostArray center = random_normal(DType::float32, {33}, 3, 0.1);
  HostArray gradient(DType::float64, {8, 33});
  const HostArray loss(DType::float64, {1}), entropy(DType::float64, {1}), kl(DType::float64, {1}),
      sum(DType::float64, {33});
  const DinoLossWithGradient oracle{.student = student,
                                    .teacher = teacher,
                                    .center = center,
                                    .images = kOptions.images,
                                    .student_temperature = kOptions.student_temperature,
                                    .teacher_temperature = kOptions.teacher_temperature,
                                    .gradient_scale = kOptions.gradient_scale,
                                    .student_gradient = gradient,
                                    .loss = loss,
                                    .teacher_entropy = entropy,
                                    .kl = kl,
                                    .teacher_sum = sum};
  reference::dino_loss_with_gradient(oracle);

  Tape tape(*context);
  const Tensor logits = tape.variable(context->from_host(student.to(DType::float32)));
  const DinoLoss got = dino_loss(tape, logits, context->from_host(teacher), context->from_host(center), kOptions);
  check_close(got.result.loss.const_array(), loss, 1e-6, "loss");
  check_close(got.result.teacher_entropy.const_array(), entropy, 1e-6, "entropy");
  check_close(got.result.kl.const_array(), kl, 1e-5, "kl");
  check_close(got.result.teacher_sum.const_array(), sum, 1e-6, "sum");
  REQUIRE(got.student_gradient.data() == logits.data());
  tape.backward(logits, got.student_gradient);
  check_close(tape.gradient(logits).const_array(), gradient, 1e-5, "gradient");

  const auto differentiated = [&] {
    DinoLossWithGradient value = oracle;
    value.student_gradient = {};
    reference::dino_loss_with_gradient(value);
    return kOptions.gradient_scale * loss.at(0);
  };
  check_gradient(differentiated, student, got.student_gradient.const_array(), 2e-5, "dino_loss op");
}

TEST_CASE("the dino_loss operation leaves the logits alone when the tape does not record") {
  const auto context = make_cpu_context();
  Tape tape(*context, Tape::Mode::inference);
  const HostArray student = random_normal(DType::bfloat16, {8, 33}, 1);
  const Tensor logits = context->from_host(student);
  const Tensor teacher = context->from_host(random_normal(DType::bfloat16, {4, 33}, 2));
  const Tensor center = context->zeros({33}, DType::float32);
  const DinoLoss got = dino_loss(tape, logits, teacher, center, kOptions);
  CHECK_FALSE(static_cast<bool>(got.student_gradient));
  check_close(logits.const_array(), student, 0.0, "logits");
  update_center(context->stream(), center, got.result.teacher_sum, 4, 0.9);
  for (std::int64_t k = 0; k < 33; ++k) {
    CHECK(std::abs(load_double(center.const_array(), k) -
                   0.1 * load_double(got.result.teacher_sum.const_array(), k) / 4) <= 1e-7);
  }
}

TEST_CASE("golden: loss and center of the first step") {
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir())) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("train_") || !name.ends_with(".safetensors")) continue;
    INFO(name);
    ++runs;
    const SafetensorsFile file = SafetensorsFile::read(entry.path());
    const int images = std::stoi(file.metadata("batch"));
    const ConstArray student = file["step0.student_logits"];
    const ConstArray teacher = file["step0.teacher_logits"];
    const DinoLossOptions options{.images = images,
                                  .student_views = static_cast<int>(student.extent(0)) / images,
                                  .teacher_views = static_cast<int>(teacher.extent(0)) / images,
                                  .student_temperature = std::stod(file.metadata("student_temp")),
                                  .teacher_temperature = load_double(file["teacher_temp"], 0)};
    const auto context = make_cpu_context();
    Tape tape(*context);
    const Tensor logits = tape.variable(context->from_host(student));
    const Tensor center = context->zeros({student.extent(1)}, DType::float32);
    const DinoLoss loss = dino_loss(tape, logits, context->from_host(teacher), center, options);
    const double expected = load_double(file["losses"], 0);
    CHECK(std::abs(load_double(loss.result.loss.const_array(), 0) / expected - 1) <= 1e-5);
    update_center(context->stream(), center, loss.result.teacher_sum, teacher.extent(0),
                  std::stod(file.metadata("center_momentum")));
    check_close(center.const_array(), file["step0.center"], 2e-5, "center");
  }
  CHECK(runs >= 1);
}
