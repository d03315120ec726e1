// A trained network at work: CLS features of one picture and of 32, and the attention of one.
#include "benchmarks/benchmark.h"
#include "models/packing.h"
#include "models/vit.h"
#include "visualize/attention.h"

#include <fmt/format.h>

#include <memory>

namespace dino::bench {
namespace {

struct Model {
  Model(Bench& bench)
      : vit(layout, config_of(bench.workload())),
        store(bench.context(), layout, bench.dtype(), ParameterStore::Role::inference),
        packer(bench.context(), vit.config().patch_px) {
    store.initialize(0);
  }
  static VitConfig config_of(const Workload& w) {
    return {.embed_dim = static_cast<int>(w.width),
            .depth = static_cast<int>(w.depth),
            .heads = static_cast<int>(w.heads),
            .patch_px = static_cast<int>(w.patch_px),
            .image_px = static_cast<int>(w.global_px)};
  }
  ParameterLayout layout;
  Vit vit;
  ParameterStore store;
  CropPacker packer;
};

/// Of the linear layers of all blocks for so many pictures; patches of the last block need keys and values only.
double flops_of(const Workload& w, std::int64_t pictures) {
  const auto tokens = static_cast<double>(pictures * w.global_tokens());
  const auto width = static_cast<double>(w.width);
  const auto blocks = static_cast<double>(w.depth - 1);
  return 2 * tokens * width * width * (12 * blocks + 2) +
         4 * blocks * tokens * static_cast<double>(w.global_tokens()) * width;
}

Prepared prepare_features(Bench& bench, std::int64_t pictures) {
  const auto model = std::make_shared<Model>(bench);
  const std::int64_t px = bench.workload().global_px;
  const Array values = bench.values(DType::uint8, {pictures, px, px, 3});
  const Tensor pixels = bench.context().from_host(values);
  Context& context = bench.context();
  const auto run = [=, &context] {
    Tape tape(context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, model->store);
    model->vit.cls_features(tape, weights, model->packer.pack({{pixels}}));
  };
  return {.size = fmt::format("{} of {} px", pictures, px),
          .run = run,
          .flops = flops_of(bench.workload(), pictures),
          .items = static_cast<double>(pictures),
          .item = "images"};
}

Prepared prepare_one(Bench& bench) { return prepare_features(bench, 1); }
Prepared prepare_many(Bench& bench) { return prepare_features(bench, 32); }

Prepared prepare_attention(Bench& bench) {
  const auto model = std::make_shared<Model>(bench);
  // The official script's 480 pixels, to a whole number of patches.
  const std::int64_t px =
      (bench.workload().name == "tiny" ? 96 : 480) / bench.workload().patch_px * bench.workload().patch_px;
  const auto picture = std::make_shared<Image>();
  picture->resize(static_cast<int>(px), static_cast<int>(px));
  for (std::size_t i = 0; i < picture->rgb.size(); ++i) picture->rgb[i] = static_cast<std::uint8_t>(i * 37 / 5);
  Context& context = bench.context();
  const auto run = [=, &context] {
    Tape tape(context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, model->store);
    compute_attention(model->vit, weights, *picture);
  };
  return {.size = fmt::format("{} px", px), .run = run, .items = 1, .item = "images"};
}

const Registered kOne{{"inference", "batch 1", prepare_one, {DType::float32, DType::bfloat16}, true}};
const Registered kMany{{"inference", "batch 32", prepare_many, {DType::float32, DType::bfloat16}, true}};
const Registered kAttention{{"picture", "attention", prepare_attention, {DType::float32}, true}};

}  // namespace
}  // namespace dino::bench
