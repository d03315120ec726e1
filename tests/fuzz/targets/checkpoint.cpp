// A checkpoint as --resume reads it. After a first byte of 0 the input is the file; after any other it is what the file
// says, so that mutations need not keep to the format: the texts of its metadata, each ended by a zero byte, then the
// counts of updates.
#include "train/checkpoint.h"
#include "models/safetensors.h"
#include "tests/fuzz/target.h"
#include "train/health.h"

#include <cstring>

using namespace dino;

namespace {

constexpr const char* kTexts[] = {"config", "epoch",      "batch",     "step",    "ranks",
                                  "health", "best_score", "rollbacks", "healthy", "num_heads"};

/// The parameters of a network of two.
ParameterLayout tiny_layout() {
  ParameterLayout layout;
  layout.add("backbone.cls_token", Shape{1, 1, 2}, {});
  layout.add("head.last_layer.weight_v", Shape{3, 2}, {}, true);
  return layout;
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::filesystem::path write_checkpoint_saying(std::span<const std::byte> input, const ParameterLayout& layout) {
  std::map<std::string, std::string> metadata;
  std::string_view rest = text_of(input);
  for (const char* key : kTexts) {
    const std::size_t end = rest.find('\0');
    if (end == std::string_view::npos) break;
    // JSON holds no other text.
    metadata[key] = rest.substr(0, end);
    rest.remove_prefix(end + 1);
  }
  std::vector<std::int64_t> counts(layout.infos().size(), 0);
  std::memcpy(counts.data(), rest.data(), std::min(rest.size(), counts.size() * sizeof(counts[0])));
  const std::vector<float> zeros(64, 0.0F);
  std::vector<NamedArray> arrays;
  for (const char* prefix : {"student.", "teacher.", "optimizer.first_moment.", "optimizer.second_moment."}) {
    for (const ParameterInfo& info : layout.infos())
      arrays.push_back({prefix + info.name, ConstArray(zeros.data(), info.shape)});
  }
  arrays.push_back({"center", ConstArray(zeros.data(), Shape{3})});
  arrays.push_back(
      {"optimizer.update_counts", ConstArray(counts.data(), Shape{static_cast<std::int64_t>(counts.size())})});
  const std::filesystem::path path = fuzz::folder().path() / "last.safetensors";
  write_safetensors(path, arrays, metadata);
  return path;
}

}  // namespace

void dino::fuzz::try_input(std::span<const std::byte> input) {
  static const ParameterLayout layout = tiny_layout();
  if (input.empty()) return;
  const auto path = input[0] == std::byte{0} ? folder().write("last.safetensors", input.subspan(1))
                                             : write_checkpoint_saying(input.subspan(1), layout);
  const TrainConfig config;
  const auto [file, position] = open_checkpoint(path, {.layout = layout, .center = Shape{3}, .ranks = 1}, config);
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  expect(position.epoch >= 0 && position.batch >= 0 && position.step >= 0 && position.rollbacks >= 0 &&
             position.epoch < kMost && position.batch < kMost && position.step < kMost,
         "the position is one");
  expect(std::isfinite(position.best_score), "the best score is a number");
  expect(file.contains("teacher.backbone.cls_token"), "all tensors are there");

  // What the watch over a run takes up it can go on from, and writes again.
  if (position.health.empty()) return;
  Health health(config, 10);
  health.restore(position.health);
  for (std::int64_t i = 0; i < 40; ++i) {
    health.step({.step = position.step + i,
                 .epoch = position.epoch,
                 .loss = 1,
                 .teacher_entropy = 1,
                 .kl = 0,
                 .gradient_norm = 1,
                 .center_norm = 1,
                 .not_finite = {}});
  }
  health.features(position.step, position.epoch, {.rank = 1, .spread = 1, .images = 2, .width = 2});
  health.restore(health.state());
}
