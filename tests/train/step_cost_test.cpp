#include "train/step_cost.h"

#include "engine/rehearsal.h"
#include "kernels/matmul/matmul.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_training.h"

#include <algorithm>

namespace dino {
namespace {

using test::tiny_config;

double flops_of(const std::vector<CountedOperation>& operations, std::string_view group) {
  double flops = 0;
  for (const CountedOperation& operation : operations) {
    if (operation.cost.group == group) flops += static_cast<double>(operation.calls) * operation.cost.flops;
  }
  return flops;
}

double flops_of(const std::vector<CountedOperation>& operations, StepPhase phase) {
  double flops = 0;
  for (const CountedOperation& operation : operations) {
    if (operation.phase == phase) flops += static_cast<double>(operation.calls) * operation.cost.flops;
  }
  return flops;
}

/// Flops of all products in a forward pass, as one counts them on paper: two for each multiply-add.
double products_on_paper(const VitConfig& vit, const DinoHeadConfig& head, double images,
                         const std::vector<std::pair<double, double>>& crops_and_sides) {
  const double c = vit.embed_dim, mlp = 4 * c, patch_values = 3.0 * vit.patch_px * vit.patch_px;
  double tokens = 0, patches = 0, sequences = 0;
  for (const auto& [crops, side] : crops_and_sides) {
    const double each = (side / vit.patch_px) * (side / vit.patch_px);
    patches += images * crops * each;
    tokens += images * crops * (each + 1);
    sequences += images * crops;
  }
  const double whole_block = tokens * (3 * c * c + c * c + 2 * c * mlp);
  const double last_block = tokens * 2 * c * c + sequences * (c * c + c * c + 2 * c * mlp);
  const double hidden = head.hidden_dim;
  const double head_products = sequences * (c * hidden + (head.layers - 2) * hidden * hidden +
                                            hidden * head.bottleneck_dim + 1.0 * head.bottleneck_dim * head.out_dim);
  return 2 * (patches * patch_values * c + (vit.depth - 1) * whole_block + last_block + head_products);
}

TEST_CASE("The products of a step are those that one counts on paper") {
  TrainConfig config;  // ViT-S/16 with the official crops and head
  config.batch_size_per_gpu = 3;
  config.accumulation = 2;
  const auto operations = step_operations(config, Device::cuda, DType::bfloat16);
  const VitConfig vit = vit_config(config);
  const DinoHeadConfig head = head_config(config);
  const double images = 6;
  const double teacher = products_on_paper(vit, head, images, {{2, 224}});
  const double student = products_on_paper(vit, head, images, {{2, 224}, {8, 96}});
  // The gradient of a product is two products; that of the pixels is not wanted.
  const double patches = 2 * images * (2 * 196 + 8 * 36) * 768.0 * 384;
  CHECK(flops_of(operations, "GEMM") == Approx(teacher + 3 * student - patches).epsilon(1e-12));
  // Attention of eleven blocks, forward (4 N² C) and, for the student, backward (10 N² C).
  const double global = 2 * 197.0 * 197, local = 8 * 37.0 * 37;
  const double attention = 11 * images * 384 * (4 * global + 14 * (global + local));
  CHECK(flops_of(operations, "attention") == Approx(attention).epsilon(0.01));  // and the last block's, for CLS
  // About 112 GFLOP an image altogether.
  const double an_image = total_work(operations).flops / images;
  CHECK(an_image > 100e9);
  CHECK(an_image < 120e9);
}

TEST_CASE("Operations are counted in the phase that they belong to") {
  TrainConfig config = tiny_config();
  config.accumulation = 2;
  const auto operations = step_operations(config, Device::cpu, DType::float32);
  const auto phase_of = [&](std::string_view name) {
    std::vector<StepPhase> phases;
    for (const CountedOperation& operation : operations) {
      if (operation.name == name && std::find(phases.begin(), phases.end(), operation.phase) == phases.end()) {
        phases.push_back(operation.phase);
      }
    }
    return phases;
  };
  CHECK(phase_of("patchify") == std::vector{StepPhase::teacher, StepPhase::student});
  CHECK(phase_of("dino_loss_with_gradient") == std::vector{StepPhase::loss});
  CHECK(phase_of("center_update") == std::vector{StepPhase::loss, StepPhase::update});
  CHECK(phase_of("attention_backward") == std::vector{StepPhase::backward});
  CHECK(phase_of("layer_norm_backward") == std::vector{StepPhase::backward});
  CHECK(phase_of("optimizer_step") == std::vector{StepPhase::update});
  CHECK(flops_of(operations, StepPhase::backward) > 1.5 * flops_of(operations, StepPhase::student));
  CHECK(flops_of(operations, StepPhase::student) > flops_of(operations, StepPhase::teacher));
}

TEST_CASE("What is counted in a rehearsal is what a step does") {
  TrainConfig config = tiny_config();
  config.drop_path_rate = 0.2;
  config.accumulation = 2;
  const auto rehearsed = step_operations(config, Device::cpu, DType::float32);
  const auto context = make_cpu_context();
  SingleProcess communicator;
  StudentTeacher networks(*context, communicator, config, DType::float32);
  const TrainingCrops crops = noise_crops(*context, config);
  OperationCounter counter(context->stream(), OperationCounter::Timing::wall);
  const StepValues values{.lr = 1e-4, .weight_decay = 0.04, .teacher_momentum = 0.99, .teacher_temp = 0.04};
  for (int i = 0; i < 2; ++i) networks.run_micro_batch(crops, values);
  networks.update(values);
  networks.wait();
  const auto& real = counter.operations();
  REQUIRE(real.size() == rehearsed.size());
  for (std::size_t i = 0; i < real.size(); ++i) {
    INFO(real[i].cost.work << " " << real[i].cost.size);
    CHECK(real[i].name == rehearsed[i].name);
    CHECK(real[i].cost.work == rehearsed[i].cost.work);
    CHECK(real[i].cost.size == rehearsed[i].cost.size);
    CHECK(real[i].calls == rehearsed[i].calls);
    CHECK(real[i].cost.flops == rehearsed[i].cost.flops);
    CHECK(real[i].cost.bytes == rehearsed[i].cost.bytes);
    CHECK(real[i].ms.size() == static_cast<std::size_t>(real[i].calls));
  }
  CHECK(counter.timed_ms() > 0);
}

TEST_CASE("An operation within another one is counted with it, and none after the counter has gone") {
  const auto context = make_cpu_context();
  const Tensor a = context->zeros({8, 16}, DType::float32), b = context->zeros({4, 16}, DType::float32);
  const Tensor y = context->empty({8, 4}, DType::float32);
  const Matmul product{.a = a.array(), .b = b.array(), .y = y.array(), .transpose_b = true};
  {
    OperationCounter counter(context->stream(), OperationCounter::Timing::none);
    const ObservedOperation whole(context->stream(), {"matmul", &product, [](const void*, Stream&) {
                                                        return OperationCost{.group = "whole", .flops = 5};
                                                      }});
    matmul(product, context->stream());
    REQUIRE(counter.operations().size() == 1);
    CHECK(counter.operations()[0].calls == 1);
    CHECK(counter.operations()[0].cost.flops == 5);
  }
  CHECK(context->stream().observer() == nullptr);
  matmul(product, context->stream());
}

CountedOperation product(const std::string& size, double flops, double bytes, std::vector<double> ms = {}) {
  CountedOperation operation;
  operation.name = "matmul";
  operation.cost = {.group = "GEMM", .work = "matmul NT", .size = size, .bytes = bytes, .flops = flops};
  operation.calls = static_cast<std::int64_t>(std::max<std::size_t>(1, ms.size()));
  operation.ms = std::move(ms);
  return operation;
}

CountedOperation copy(const std::string& work, double bytes, std::vector<double> ms = {}) {
  CountedOperation operation = product(fmt::format("{}", bytes), 0, bytes, std::move(ms));
  operation.cost.work = work;
  operation.cost.group = "other";
  return operation;
}

TEST_CASE("Measured times serve the same size, and the nearest one in proportion") {
  const MeasuredSpeeds speeds({product("a", 1e9, 1e6, {5, 1, 2}), product("b", 8e9, 4e6, {10, 12}),
                               copy("copy", 1e6, {0.5}), copy("other", 1e6, {1.5})},
                              0.25);
  CHECK(speeds.ms_of(product("a", 1e9, 1e6)) == 2);
  CHECK(speeds.ms_of(product("b", 8e9, 4e6)) == 11);
  CHECK(speeds.ms_of(product("c", 2e9, 1e6)) == Approx(4));    // from a
  CHECK(speeds.ms_of(product("d", 16e9, 1e6)) == Approx(22));  // from b
  CHECK(speeds.ms_of(copy("copy", 3e6)) == Approx(1.5));
  CHECK(speeds.ms_of(copy("copy", 0)) == 0);
  // Not measured: at the rates of all others.
  CHECK(speeds.ms_of(copy("unknown", 4e6)) == Approx(4));
  CountedOperation unknown = product("e", 9e9, 1);
  unknown.cost.work = "matmul TN";
  CHECK(speeds.ms_of(unknown) == Approx(13));
  CHECK(speeds.rest_ms_per_image() == 0.25);
}

TEST_CASE("A predicted step is the sum of its operations and of the rest") {
  TrainConfig config = tiny_config();
  config.batch_size_per_gpu = 3;
  config.accumulation = 2;
  CountedOperation first = product("a", 1e9, 1e6), second = copy("copy", 1e6);
  first.calls = 4;
  first.phase = StepPhase::backward;
  second.calls = 10;
  const MeasuredSpeeds speeds({product("a", 1e9, 1e6, {2}), copy("copy", 1e6, {0.5})}, 0.25);
  const StepTime time = predict_step({first, second}, speeds, config);
  CHECK(time.total_ms == Approx(4 * 2 + 10 * 0.5 + 6 * 0.25));
  CHECK(time.phase_ms[static_cast<std::size_t>(StepPhase::backward)] == Approx(8));
  CHECK(time.phase_ms[static_cast<std::size_t>(StepPhase::teacher)] == Approx(5));
  CHECK(time.group_ms.front() == std::pair<std::string, double>{"GEMM", 8});
  CHECK(time.rest_ms == Approx(1.5));
  const RooflineSpeeds roofline(1e9, 1e12, 4e12);
  CHECK(roofline.ms_of(product("", 1e9, 1e3)) == Approx(1));
  CHECK(roofline.ms_of(product("", 1e9, 5e6)) == Approx(5));
}

TEST_CASE("Of a large step a smaller one is measured, that has all of its operations") {
  TrainConfig config = tiny_config();
  config.depth = 5;
  config.batch_size_per_gpu = 64;
  config.accumulation = 3;
  const RunFacts facts{.device = Device::cpu, .compute_type = DType::float32};
  const double flops = total_work(step_operations(config, Device::cpu, DType::float32)).flops;
  ProfileOptions options{.steps = 1, .most_flops = flops / 20, .memory = {}};
  options.memory.host_bytes = std::size_t{1} << 40;
  const TrainConfig measured = measured_config(config, facts, options);
  CHECK(measured.depth == 2);
  CHECK(measured.accumulation == 2);
  CHECK(measured.batch_size_per_gpu < 64);
  CHECK(measured.batch_size_per_gpu >= 1);
  const auto context = make_cpu_context();
  const MeasuredSpeeds speeds = measure_speeds(*context, config, facts, options);
  const StepTime time = predict_step(step_operations(config, Device::cpu, DType::float32), speeds, config);
  CHECK(time.total_ms > 0);
  double phases = time.rest_ms;
  for (const double ms : time.phase_ms) {
    CHECK(ms > 0);
    phases += ms;
  }
  CHECK(phases == Approx(time.total_ms));
}

}  // namespace
}  // namespace dino
