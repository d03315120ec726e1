#include "models/dino_head.h"

#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

#include <cmath>
#include <functional>

using namespace dino;
using namespace dino::test;

namespace {

std::vector<std::string> names_of(const DinoHeadConfig& config) {
  ParameterLayout layout;
  const DinoHead head(layout, config);
  std::vector<std::string> names;
  for (const ParameterInfo& info : layout.infos()) {
    if (info.name.ends_with("weight") || !info.name.starts_with("head.mlp")) names.push_back(info.name);
  }
  return names;
}

/// Compares the gradient of Σ output ∘ r with central differences along a random direction through all parameters.
void check_direction(Context& context, ParameterStore& store, const std::function<Tensor(Tape&, Weights&)>& forward,
                     double tolerance) {
  Tape tape(context);
  Weights weights = Weights::student(tape, store);
  const Tensor y = forward(tape, weights);
  const HostArray r = random_normal(DType::float32, y.shape(), 11);
  tape.backward(y, context.from_host(r));

  const std::int64_t n = store.layout.flat_size();
  HostArray direction(DType::float32, {n});
  std::fill_n(direction.as<float>(), n, 0.0F);
  double analytic = 0;
  for (const ParameterInfo& info : store.layout.infos()) {
    if (!info.trainable) continue;
    const HostArray draw = random_normal(DType::float32, {info.size()}, stable_hash(info.name), 0.02);
    for (std::int64_t i = 0; i < info.size(); ++i) {
      direction.set(info.offset + i, draw.at(i));
      analytic += draw.at(i) * load_double(store.gradient.const_array(), info.offset + i);
    }
  }
  const auto value_at = [&](double step) {
    const HostArray original = [&] {
      HostArray copy(DType::float32, {n});
      context.copy_to_host(store.student, copy);
      return copy;
    }();
    float* student = store.student.as<float>();
    for (std::int64_t i = 0; i < n; ++i) student[i] = static_cast<float>(original.at(i) + step * direction.at(i));
    Tape inference(context, Tape::Mode::inference);
    Weights moved = Weights::student(inference, store);
    const Tensor z = forward(inference, moved);
    double sum = 0;
    for (std::int64_t i = 0; i < z.size(); ++i) sum += load_double(z.const_array(), i) * r.at(i);
    context.copy_from_host(original, store.student);
    return sum;
  };
  const double step = 0.02;
  const double numeric =
      (8 * (value_at(step) - value_at(-step)) - (value_at(2 * step) - value_at(-2 * step))) / (12 * step);
  INFO("gradient along the direction " << analytic << ", by differences " << numeric);
  CHECK(std::abs(analytic - numeric) <= tolerance * std::abs(numeric));
  CHECK(std::abs(numeric) > 0);
}

}  // namespace

TEST_CASE("the head numbers its layers as nn.Sequential does") {
  using Names = std::vector<std::string>;
  const std::string g = "head.last_layer.weight_g";
  const std::string v = "head.last_layer.weight_v";
  CHECK(names_of({}) == Names{"head.mlp.0.weight", "head.mlp.2.weight", "head.mlp.4.weight", g, v});
  CHECK(names_of({.use_bn = true}) == Names{"head.mlp.0.weight", "head.mlp.1.weight", "head.mlp.3.weight",
                                            "head.mlp.4.weight", "head.mlp.6.weight", g, v});
  CHECK(names_of({.layers = 1}) == Names{"head.mlp.weight", g, v});
  CHECK(names_of({.layers = 2}) == Names{"head.mlp.0.weight", "head.mlp.2.weight", g, v});
  CHECK_THROWS_AS(names_of({.layers = 0}), Error);

  ParameterLayout layout;
  const DinoHead head(layout, {.out_dim = 4096});
  CHECK_FALSE(layout[*layout.find(g)].trainable);
  CHECK(layout[*layout.find(g)].initializer.kind == Initializer::Kind::ones);
  CHECK(layout[*layout.find(v)].initializer.kind == Initializer::Kind::uniform);
  CHECK(layout[*layout.find(v)].initializer.scale == 1.0 / 16);
  CHECK_FALSE(layout[*layout.find(v)].gemm_weight);
  ParameterLayout free_layout;
  const DinoHead free_head(free_layout, {.norm_last_layer = false});
  CHECK(free_layout[*free_layout.find(g)].trainable);
}

TEST_CASE("logits of a normalised last layer are cosines") {
  const auto context = make_cpu_context();
  ParameterLayout layout;
  const DinoHead head(layout, {.in_dim = 24, .out_dim = 50, .hidden_dim = 40, .bottleneck_dim = 8});
  ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
  store.initialize(3);
  Tape tape(*context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, store);
  const HostArray x = random_normal(DType::float32, {9, 24}, 4, 5.0);
  const Tensor logits = head(tape, weights, context->from_host(x));
  REQUIRE(logits.shape() == Shape{9, 50});
  double largest = 0;
  for (std::int64_t i = 0; i < logits.size(); ++i) {
    const double value = std::abs(load_double(logits.const_array(), i));
    REQUIRE(value <= 1 + 1e-5);
    largest = std::max(largest, value);
  }
  CHECK(largest > 0.5);
}

TEST_CASE("gradients of the head agree with differences") {
  const auto context = make_cpu_context();
  for (const bool use_bn : {false, true}) {
    for (const int layers : {1, 3}) {
      INFO("layers " << layers << ", batch norm " << use_bn);
      ParameterLayout layout;
      const DinoHead head(layout, {.in_dim = 24,
                                   .out_dim = 50,
                                   .layers = layers,
                                   .hidden_dim = 40,
                                   .bottleneck_dim = 8,
                                   .use_bn = use_bn,
                                   .norm_last_layer = false});
      ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::training);
      store.initialize(3);
      // The initial weights are so small that three layers leave hardly anything to normalise; differences need more.
      for (const ParameterId id : layout.ids()) {
        if (layout[id].shape.rank() != 2) continue;
        const double scale = 1 / std::sqrt(static_cast<double>(layout[id].shape[1]));
        Tensor window = store.window(store.student, id);
        context->copy_from_host(
            random_normal(DType::float32, layout[id].shape, stable_hash(layout[id].name) + 1, scale), window);
      }
      const HostArray x = random_normal(DType::float32, {16, 24}, 4);
      const Tensor features = context->from_host(x);
      check_direction(
          *context, store, [&](Tape& tape, Weights& weights) { return head(tape, weights, features); }, 1e-3);
    }
  }
}

TEST_CASE("gradients of the vision transformer agree with differences, with drop path and crops of several sizes") {
  const auto context = make_cpu_context();
  for (const bool qkv_bias : {true, false}) {
    ParameterLayout layout;
    const VitConfig config{.embed_dim = 24,
                           .depth = 3,
                           .heads = 2,
                           .patch_px = 4,
                           .image_px = 16,
                           .qkv_bias = qkv_bias,
                           .drop_path_rate = 0.4};
    const Vit vit(layout, config);
    ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::training);
    store.initialize(5);
    CropPacker packer(*context, config.patch_px);
    const PackedCrops crops = packer.pack({{context->from_host(random_normal(DType::float32, {4, 3, 16, 16}, 6))},
                                           {context->from_host(random_normal(DType::float32, {6, 3, 8, 12}, 7))}});
    std::vector<float> scales(6 * 10);
    const std::uint64_t samples[] = {3, 4};
    draw_drop_path(config, 1, 2, samples, 5, scales);
    const Tensor drop_path = context->from_host(ConstArray(scales.data(), {6, 10}));
    check_direction(
        *context, store,
        [&](Tape& tape, Weights& weights) { return vit.cls_features(tape, weights, crops, drop_path); }, 1e-3);
  }
}
