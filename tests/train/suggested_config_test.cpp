#include "train/suggested_config.h"

#include "tests/support/catch.h"
#include "train/memory_plan.h"
#include "train/schedules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

using namespace dino;

namespace {

constexpr std::size_t kGiB = std::size_t{1} << 30;
const MachineSummary kLaptop{.has_gpu = false, .memory_bytes = 16 * kGiB, .cores = 2};
const MachineSummary kH200{.has_gpu = true, .memory_bytes = 139 * kGiB, .cores = 16};
/// What a run on a GPU of so much memory would find there.
const RunFacts kGpuFacts{.device = Device::cuda, .compute_type = DType::bfloat16, .loader_threads = 8};
MachineSummary gpu_of(std::size_t bytes) {
  return {.has_gpu = true,
          .memory_bytes = bytes,
          .cores = 8,
          .largest_batch = [bytes](const TrainConfig& config, int most) {
            return largest_batch(config, kGpuFacts, {.device_bytes = bytes}, most);
          }};
}

DataSummary pictures(std::int64_t count, int side_px, std::int64_t classes, std::int64_t test = 0) {
  DataSummary s;
  s.pictures = count;
  s.test_pictures = test;
  s.classes = classes;
  if (classes > 0) s.smallest_class = s.largest_class = count / classes;
  s.looked_at = std::min<std::int64_t>(count, 2000);
  s.short_side_px = s.long_side_px = {side_px, side_px, side_px, side_px, side_px};
  return s;
}

bool has_reason(const SuggestedConfig& s, const std::string& key) {
  return std::any_of(s.reasons.begin(), s.reasons.end(), [&](const ConfigReason& r) { return r.key == key; });
}

/// What must hold of every suggestion, whatever the data.
void check_sound(const DataSummary& data, const MachineSummary& machine) {
  const SuggestedConfig s = suggest_config(data, machine);
  const TrainConfig& c = s.config;
  INFO(data.pictures << " pictures of " << data.short_side_px.median << " px, " << data.classes << " classes, "
                     << (machine.has_gpu ? "GPU" : "CPU") << "\n"
                     << write_suggested_config(s, "test"));
  check_config(c);
  // train() wants a whole step in an epoch, and schedules of that length.
  REQUIRE(c.batch_size_per_gpu >= 1);
  CHECK(c.batch_size_per_gpu <= data.pictures);
  if (data.pictures <= 1000) {
    const auto steps = static_cast<int>(data.pictures / c.batch_size_per_gpu);
    const Schedules schedules = make_schedules(c, steps, c.batch_size_per_gpu);
    CHECK(*std::max_element(schedules.lr.begin(), schedules.lr.end()) == Approx(0.0005).epsilon(0.01));
  }
  CHECK(c.lr * c.batch_size_per_gpu / 256 <= 0.0005 * 1.001);
  // Crops are made of whole patches, several a side, and no larger than the pictures.
  CHECK(c.global_crops_size / c.patch_size >= 2);
  CHECK(c.global_crops_size <= std::max(data.short_side_px.median, 2));
  CHECK(c.local_crops_size < c.global_crops_size + 1);
  CHECK(c.global_crops_size % c.patch_size == 0);
  CHECK(c.local_crops_size % c.patch_size == 0);
  CHECK(c.momentum_teacher >= 0.99);
  CHECK(c.momentum_teacher <= 0.9995);
  CHECK((c.knn_every == 0) == (data.classes < 2));
  // What was written says the same, and nothing that differs from the defaults has no reason.
  const TrainConfig read = parse_config(write_suggested_config(s, "test"), "suggested");
  CHECK(read == c);
  const TrainConfig defaults;
  for (const ConfigKey& key : config_keys()) {
    INFO(key.name);
    const std::string name(key.name);
    const bool differs = config_value(c, name) != config_value(defaults, name);
    const bool explained = !differs || has_reason(s, name);
    CHECK(explained);
  }
  for (const ConfigReason& reason : s.reasons) CHECK_FALSE(reason.reason.empty());
}

}  // namespace

TEST_CASE("suggestions are sound for every kind of data and machine") {
  MachineSummary tight = kH200;  // one that holds three images at most
  tight.memory_bytes = kGiB;
  tight.largest_batch = [](const TrainConfig&, int most) { return std::min(most, 3); };
  MachineSummary hopeless = kLaptop;
  hopeless.largest_batch = [](const TrainConfig&, int) { return 0; };
  for (const MachineSummary& machine : {kLaptop, kH200, tight, hopeless, MachineSummary{}}) {
    for (const std::int64_t count : {1, 2, 7, 9, 40, 200, 1000, 9469, 50'000, 100'000, 1'281'167, 14'000'000}) {
      for (const int side : {2, 8, 20, 28, 32, 64, 96, 100, 224, 375, 4000}) {
        for (const std::int64_t classes : {0, 1, 10}) {
          if (classes > count / 2) continue;
          check_sound(pictures(count, side, classes), machine);
        }
      }
    }
  }
}

TEST_CASE("suggestion for pictures like CIFAR-10's on a laptop") {
  const TrainConfig c = suggest_config(pictures(50'000, 32, 10, 10'000), kLaptop).config;
  CHECK(c.global_crops_size == 32);
  CHECK(c.patch_size == 4);
  CHECK(c.local_crops_size == 16);
  CHECK(c.out_dim == 1024);
  CHECK(c.arch == "vit_tiny");
  CHECK(c.depth == 6);
  CHECK_FALSE(c.norm_last_layer);
  CHECK(c.batch_size_per_gpu == 32);
  CHECK(c.lr == Approx(0.004));
  CHECK(c.momentum_teacher == Approx(0.9968));
  CHECK(c.local_crops_scale == std::array<double, 2>{0.1, 0.4});
  CHECK(c.blur_radius[1] == Approx(0.8));
  CHECK(c.knn_every >= 1);
}

TEST_CASE("suggestion for pictures like Tiny ImageNet's on a GPU") {
  const TrainConfig c = suggest_config(pictures(100'000, 64, 200, 10'000), kH200).config;
  CHECK(c.global_crops_size == 64);
  CHECK(c.patch_size == 8);
  CHECK(c.local_crops_size == 32);
  CHECK(c.arch == "vit_small");
  CHECK(c.out_dim == 2048);
  CHECK(c.local_crops_number == 8);
  CHECK(c.batch_size_per_gpu == 256);
  CHECK(c.epochs == 100);
}

TEST_CASE("suggestion for 1.2 million photographs on a GPU is the official recipe") {
  const SuggestedConfig s = suggest_config(pictures(1'281'167, 375, 1000, 50'000), kH200);
  TrainConfig expected;
  expected.batch_size_per_gpu = 256;
  expected.momentum_teacher = 0.999;  // for a batch a quarter of the official
  expected.knn_every = 5;
  expected.num_workers = 0;
  CHECK(s.config == expected);
  CHECK(s.notes.empty());
}

TEST_CASE("a suggested batch is the largest power of two that a run's own count of memory finds room for") {
  const DataSummary data = pictures(1'281'167, 375, 1000);
  const std::size_t bytes = 8 * kGiB;
  const SuggestedConfig s = suggest_config(data, gpu_of(bytes));
  const int batch = s.config.batch_size_per_gpu;
  CHECK(batch < 256);
  TrainConfig twice = s.config;
  twice.batch_size_per_gpu = 2 * batch;
  CHECK(fits(plan_memory(s.config, kGpuFacts), Device::cuda, {.device_bytes = bytes}));
  CHECK_FALSE(fits(plan_memory(twice, kGpuFacts), Device::cuda, {.device_bytes = bytes}));
  // Fewer pictures at once, and a slower teacher.
  CHECK(s.config.momentum_teacher > 0.999);
  CHECK(s.notes.empty());
  CHECK(write_suggested_config(s, "test").find("what 8.00 GiB of memory hold") != std::string::npos);
  // With room for all, it is what the data ask for.
  CHECK(suggest_config(data, gpu_of(139 * kGiB)).config.batch_size_per_gpu == 256);
  // With room for none, the user is told.
  const SuggestedConfig none = suggest_config(data, gpu_of(1 << 20));
  CHECK(none.config.batch_size_per_gpu == 1);
  REQUIRE(none.notes.size() == 1);
  CHECK(none.notes[0].find("not even a batch of 1 fits into 1 MiB") != std::string::npos);
}

TEST_CASE("reasons say what is so") {
  const auto reason = [](const SuggestedConfig& s, const std::string& key) {
    const auto at =
        std::find_if(s.reasons.begin(), s.reasons.end(), [&](const ConfigReason& r) { return r.key == key; });
    REQUIRE(at != s.reasons.end());
    return at->reason;
  };
  const auto starts = [](const std::string& text, const std::string& with) { return text.rfind(with, 0) == 0; };
  // 15 steps an epoch, 200 epochs: no fifth of an epoch, no tenth of the run, no hours.
  const SuggestedConfig few = suggest_config(pictures(120, 96, 10), kLaptop);
  CHECK(few.config.momentum_teacher == 0.99);
  CHECK(starts(reason(few, "momentum_teacher"), "averages over 100 steps, where an epoch has 15"));
  CHECK(few.config.warmup_epochs == 10);
  CHECK(reason(few, "warmup_epochs") == "as the official");
  CHECK(starts(reason(few, "epochs"), "few pictures: many passes"));
  CHECK(reason(few, "batch_size_per_gpu") == "at least eight steps an epoch");
  CHECK(reason(suggest_config(pictures(1, 96, 0), kLaptop), "batch_size_per_gpu") ==
        "a step for each of so few pictures");
  const SuggestedConfig many = suggest_config(pictures(50'000, 32, 10), kLaptop);
  CHECK(starts(reason(many, "momentum_teacher"), "averages over a fifth of an epoch's 1562 steps"));
  CHECK(starts(reason(many, "epochs"), "the least that is worth it"));
  CHECK(reason(many, "warmup_epochs") == "a tenth of the run");
  const SuggestedConfig most = suggest_config(pictures(14'000'000, 375, 10), kLaptop);
  CHECK(most.config.momentum_teacher == 0.9995);
  CHECK(starts(reason(most, "momentum_teacher"), "averages over 2000 of an epoch's 437500 steps"));
}

TEST_CASE("suggestion for 200 photographs in one folder") {
  const SuggestedConfig s = suggest_config(pictures(200, 3000, 0), kLaptop);
  CHECK(s.config.global_crops_size == 64);
  CHECK(s.config.patch_size == 8);
  CHECK(s.config.out_dim == 512);
  CHECK(s.config.batch_size_per_gpu == 16);  // twelve steps an epoch
  CHECK(s.config.epochs == 200);
  CHECK(s.config.momentum_teacher == Approx(0.99));
  CHECK(s.config.knn_every == 0);
  REQUIRE(s.notes.size() == 1);
  CHECK(s.notes[0].find("few pictures") != std::string::npos);
}

TEST_CASE("suggestions for grey pictures, uneven classes, broken pictures and copies") {
  DataSummary data = pictures(9469, 96, 10, 3925);
  data.grey_share = 1;
  data.smallest_class = 10;
  data.largest_class = 3000;
  data.broken = 3;
  data.broken_example = "a\nb.jpg is empty";
  data.near_copies = 500;
  data.near_copy_example = "x.jpg and y.jpg";
  const SuggestedConfig s = suggest_config(data, kH200);
  CHECK(s.config.gray_prob == 0);
  CHECK(s.config.jitter_hue == 0);
  CHECK(s.config.jitter_saturation == 0);
  CHECK(s.config.jitter_brightness == 0.4);
  CHECK(s.config.global_crops_size == 96);
  CHECK(s.config.patch_size == 8);
  CHECK(s.notes.size() == 3);
  // A line feed in a file's name must not end the comment, and TOML knows no Latin-1.
  CHECK(parse_config(write_suggested_config(s, "for\n M\xfcller"), "suggested") == s.config);
  data.classes = 1;
  CHECK(suggest_config(data, kLaptop).config.knn_every == 0);
}
