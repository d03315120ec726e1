// The memory that is planned is what a run takes: to the byte in the arena.
#include "train/memory_plan.h"

#include "data/dataset.h"
#include "data/png.h"
#include "engine/communicators/threads.h"
#include "engine/rehearsal.h"
#include "evaluate/feature_monitor.h"
#include "evaluate/knn_monitor.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "train/precision.h"
#include "train/trainer.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <span>
#include <thread>
#include <utility>

namespace dino {
namespace {

using test::contains;
using test::DrawnPictures;
using test::error_of;
using test::tiny_config;

RunFacts facts_of(const TrainConfig& config) {
  return {.device = Device::cpu,
          .compute_type = compute_type_for(config.precision, Device::cpu),
          .picture_height_px = 20,
          .picture_width_px = 24};
}

void check_planned(const char* name, const std::function<void(TrainConfig&)>& change) {
  INFO(name);
  const test::TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.output_dir = (folder.path() / "run").string();
  config.epochs = 1;
  change(config);
  const auto context = make_cpu_context();
  SingleProcess communicator;
  train(*context, communicator, config, DrawnPictures(13), StartMode::fresh);
  const MemoryPlan plan = plan_memory(config, facts_of(config));
  CHECK(plan.arena_peak == context->arena().peak_bytes());
  CHECK(plan.device_bytes() == context->arena().reach_bytes());
  CHECK(plan.weights + plan.teacher + plan.gradient + plan.optimizer + plan.tables + plan.crops + plan.activations ==
        plan.arena_peak);
}

TEST_CASE("The planned memory of a device is that of a run, to the byte") {
  check_planned("fp32", [](TrainConfig&) {});
  check_planned("bf16", [](TrainConfig& c) { c.precision = "bf16"; });
  check_planned("drop path, odd batch", [](TrainConfig& c) {
    c.drop_path_rate = 0.3;
    c.batch_size_per_gpu = 3;
  });
  check_planned("three micro-batches", [](TrainConfig& c) { c.accumulation = 3; });
  check_planned("global crops only", [](TrainConfig& c) { c.local_crops_number = 0; });
  check_planned("batch norm, two layers, LARS", [](TrainConfig& c) {
    c.use_bn_in_head = true;
    c.head_layers = 2;
    c.optimizer = "lars";
  });
  check_planned("free last layer, SGD, deeper", [](TrainConfig& c) {
    c.norm_last_layer = false;
    c.optimizer = "sgd";
    c.depth = 4;
  });
  check_planned("crops made on the device", [](TrainConfig& c) { c.augment = "device"; });
}

TEST_CASE("The planned memory counts the evaluations") {
  const test::TemporaryFolder folder;
  Image picture;
  for (int i = 0; i < 200; ++i) {
    DrawnPictures(200).decode(i, picture);
    const std::vector<std::byte> png = encode_png(picture.rgb, picture.height, picture.width, 3);
    folder.write(fmt::format("images/class{}/{}.png", i % 2, i), std::span(png));
  }
  TrainConfig config = tiny_config();
  config.data_path = (folder.path() / "images").string();
  config.output_dir = (folder.path() / "run").string();
  config.epochs = 2;
  config.knn_every = 1;
  config.knn_k = {3, 7};
  const auto context = make_cpu_context();
  SingleProcess communicator;
  const auto images = open_dataset(config.data_path);
  train(*context, communicator, config, *images, StartMode::fresh, make_knn_monitor(*context, communicator, config));

  const KnnPictures pictures = count_knn_pictures(config);
  CHECK(pictures.known == 180);
  CHECK(pictures.asked == 20);
  RunFacts facts = facts_of(config);
  const MemoryPlan without = plan_memory(config, facts);
  facts.evaluation = [&](Context& rehearsal, StudentTeacher& networks) {
    rehearse_features(rehearsal, networks, config);
    rehearse_search(rehearsal, networks, config, pictures);
  };
  const MemoryPlan of_networks = plan_memory(config, facts);
  // 32 pictures at once against two with their crops.
  CHECK(of_networks.evaluation > 0);
  CHECK(of_networks.arena_peak == without.arena_peak + of_networks.evaluation);
  // The pixels of 200 pictures are more than what networks as small as these take. A run that is not resumed looks at
  // them before its first step.
  facts.evaluation = [&, networks_only = facts.evaluation, first = true](Context& rehearsal,
                                                                         StudentTeacher& networks) mutable {
    networks_only(rehearsal, networks);
    if (std::exchange(first, false)) rehearse_pixel_search(rehearsal, config, pictures);
  };
  const MemoryPlan plan = plan_memory(config, facts);
  CHECK(plan.arena_peak > of_networks.arena_peak);
  CHECK(plan.arena_peak == context->arena().peak_bytes());
  CHECK(plan.device_bytes() == context->arena().reach_bytes());
}

TEST_CASE("The planned memory counts the features that are watched without k-NN") {
  const test::TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.output_dir = (folder.path() / "run").string();
  config.epochs = 1;
  const DrawnPictures images(70);
  const auto context = make_cpu_context();
  SingleProcess communicator;
  train(*context, communicator, config, images, StartMode::fresh,
        make_feature_monitor(*context, communicator, config, images));
  RunFacts facts = facts_of(config);
  facts.evaluation = [&](Context& rehearsal, StudentTeacher& networks) {
    rehearse_features(rehearsal, networks, config);
  };
  const MemoryPlan plan = plan_memory(config, facts);
  CHECK(plan.evaluation > 0);
  CHECK(plan.arena_peak == context->arena().peak_bytes());
  CHECK(plan.device_bytes() == context->arena().reach_bytes());
}

TEST_CASE("The planned memory of a rank counts what it needs for the others") {
  constexpr int kRanks = 2;
  const DrawnPictures images(26);
  for (const char* sums : {"fp32", "bf16"}) {
    const test::TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.output_dir = (folder.path() / "run").string();
    config.epochs = 1;
    config.use_bn_in_head = true;
    config.gradient_sums = sums;
    ThreadGroup group(kRanks, 60);
    std::vector<std::size_t> peaks(kRanks), reaches(kRanks);
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < kRanks; ++r) {
      threads.emplace_back([&, r] {
        const auto context = make_cpu_context();
        ThreadCommunicator communicator(group, static_cast<int>(r));
        train(*context, communicator, config, images, StartMode::fresh);
        peaks[r] = context->arena().peak_bytes();
        reaches[r] = context->arena().reach_bytes();
      });
    }
    for (std::thread& thread : threads) thread.join();
    RunFacts facts = facts_of(config);
    const MemoryPlan alone = plan_memory(config, facts);
    facts.ranks = kRanks;
    const MemoryPlan plan = plan_memory(config, facts);
    for (std::size_t r = 0; r < kRanks; ++r) {
      CHECK(peaks[r] == plan.arena_peak);
      CHECK(reaches[r] == plan.device_bytes());
    }
    // Each gradient once more in two bytes; from the other rank all of them, which are one bucket here.
    const std::size_t parameters = alone.gradient / sizeof(float);
    CHECK(plan.arena_peak - alone.arena_peak == (std::string(sums) == "bf16" ? 2 * parameters : 0));
    CHECK(alone.sums == 0);
    CHECK(plan.sums == (std::string(sums) == "bf16" ? 2 : 4) * parameters);
    facts.device = Device::cuda;
    CHECK(plan_memory(config, facts).sums == 0);
    config.communicator = "tcp";
    CHECK(plan_memory(config, facts).sums == plan.sums + 4 * parameters);
  }
}

TEST_CASE("A rehearsal on a GPU needs none, and kernels see no memory") {
  TrainConfig config = tiny_config();
  const MemoryPlan cpu = plan_memory(config, facts_of(config));
  RunFacts facts = facts_of(config);
  facts.device = Device::cuda;
  config.augment = "host";
  const MemoryPlan gpu = plan_memory(config, facts);
  CHECK(gpu.arena_peak == cpu.arena_peak);
  CHECK(gpu.program > cpu.program);
  // Decoded pictures go to the device, where large ones take more than what a small step does.
  config.augment = "auto";
  facts.picture_height_px = facts.picture_width_px = 2000;
  CHECK(plan_memory(config, facts).device_bytes() >= 2 * 3 * 2000 * 2000);

  const auto context = make_rehearsal_context(Device::cpu);
  CHECK(contains(error_of([&] { context->stream().scratch(1); }), "a kernel runs where none should"));
}

TEST_CASE("Small tables that go to a rehearsing device come back, all else is zero") {
  const auto context = make_rehearsal_context(Device::cpu);
  const std::vector<std::int32_t> table{3, 1, 4};
  const Tensor tensor = context->from_host(ConstArray(table.data(), {3}));
  std::vector<std::int32_t> back(3, -1);
  context->copy_to_host(tensor, Array(back.data(), {3}));
  CHECK(back == table);
  context->copy_to_host(context->empty({3}, DType::int32), Array(back.data(), {3}));
  CHECK(back == std::vector<std::int32_t>{0, 0, 0});
}

TEST_CASE("The largest batch that fits is the largest") {
  const TrainConfig config = tiny_config();
  const RunFacts facts = facts_of(config);
  TrainConfig other = config;
  for (const int batch : {1, 2, 3, 7, 64, 100}) {
    other.batch_size_per_gpu = batch;
    const MemoryPlan plan = plan_memory(other, facts);
    const MemoryLimits limits{.host_bytes = plan.device_bytes() + plan.host_bytes()};
    CHECK(fits(plan, Device::cpu, limits));
    CHECK(largest_batch(config, facts, limits) == batch);
    CHECK(largest_batch(config, facts, limits, 5) == std::min(batch, 5));
  }
  CHECK(largest_batch(config, facts, {.host_bytes = 1000}) == 0);
}

TEST_CASE("A proposal keeps the global batch and fits") {
  TrainConfig config = tiny_config();
  config.batch_size_per_gpu = 24;
  config.accumulation = 2;
  const RunFacts facts = facts_of(config);
  TrainConfig smaller = config;
  smaller.batch_size_per_gpu = 10;  // 48 has no divisor of 10 nor 9
  smaller.accumulation = 2;
  const MemoryPlan plan = plan_memory(smaller, facts);
  const auto proposal = same_global_batch(config, facts, {.host_bytes = plan.device_bytes() + plan.host_bytes()});
  REQUIRE(proposal.has_value());
  CHECK(*proposal == std::pair{8, 6});
  CHECK_FALSE(same_global_batch(config, facts, {.host_bytes = 1000}).has_value());
}

TEST_CASE("A run that does not fit is refused with what it needs and what would do") {
  TrainConfig config = tiny_config();
  config.batch_size_per_gpu = 1 << 20;
  const auto context = make_cpu_context();
  SingleProcess alone;
  const std::string message = error_of([&] { require_memory(config, facts_of(config), *context, alone); });
  INFO(message);
  CHECK(contains(message, "[memory] the run does not fit; got "));
  CHECK(contains(message, "activations "));
  CHECK(contains(message, "--batch_size_per_gpu "));
  CHECK(contains(message, "--ignore_memory"));
  config.batch_size_per_gpu = 2;
  CHECK_NOTHROW(require_memory(config, facts_of(config), *context, alone));
}

TEST_CASE("Ranks on one machine get equal parts of its memory, and are refused what takes more") {
  const auto context = make_cpu_context();
  SingleProcess alone;
  const MemoryLimits whole = memory_limits(*context, alone);
  // The largest batch that fits into 3/4 of the memory: it fits for one, not for two. Other programs may take and give
  // back a sixth of the memory meanwhile.
  TrainConfig config;
  const RunFacts facts = facts_of(config);
  MemoryLimits most = whole;
  most.host_bytes = whole.host_bytes / 4 * 3;
  config.batch_size_per_gpu = largest_batch(config, facts, most);
  REQUIRE(config.batch_size_per_gpu > 1);
  CHECK_NOTHROW(require_memory(config, facts, *context, alone));

  constexpr int kRanks = 2;
  ThreadGroup group(kRanks, 60);
  std::vector<MemoryLimits> parts(kRanks);
  std::vector<std::string> errors(kRanks);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      const auto own = make_cpu_context();
      ThreadCommunicator communicator(group, static_cast<int>(r));
      parts[r] = memory_limits(*own, communicator);
      errors[r] = error_of([&] { require_memory(config, facts, *own, communicator); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t r = 0; r < kRanks; ++r) {
    CHECK(parts[r].host_bytes == parts[0].host_bytes);
    CHECK(static_cast<double>(parts[r].host_bytes) <= 0.6 * static_cast<double>(whole.host_bytes));
    CHECK(static_cast<double>(parts[r].host_bytes) >= 0.4 * static_cast<double>(whole.host_bytes));
    INFO(errors[r]);
    CHECK(contains(errors[r], "[memory] the run does not fit; got "));
    CHECK(contains(errors[r], ", of which each of 2 ranks on this machine gets a part), expected about "));
    CHECK(contains(errors[r], "--batch_size_per_gpu "));
  }
}

// Sanitizers take memory of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("A whole process takes what is planned, within 15 %") {
  const test::TemporaryFolder folder;
  Image picture;
  for (int i = 0; i < 4; ++i) {
    DrawnPictures(100).decode(i, picture);
    const std::vector<std::byte> png = encode_png(picture.rgb, picture.height, picture.width, 3);
    folder.write(fmt::format("images/{}.png", i), std::span(png));
  }
  const std::string data = (folder.path() / "images").string();
  // 30 million parameters, a few hundred MB of activations.
  const std::vector<std::string> keys{"--data_path",
                                      data,
                                      "--arch",
                                      "vit_tiny",
                                      "--depth",
                                      "2",
                                      "--out_dim",
                                      "65536",
                                      "--epochs",
                                      "1",
                                      "--warmup_epochs",
                                      "0",
                                      "--saveckp_freq",
                                      "0",
                                      "--num_workers",
                                      "1",
                                      "--threads",
                                      "1",
                                      "--precision",
                                      "fp32",
                                      "--device",
                                      "cpu",
                                      "--batch_size_per_gpu",
                                      "4"};
  std::vector<std::string> plan_words{"plan", "--no_speed", "--json"};
  plan_words.insert(plan_words.end(), keys.begin(), keys.end());
  const test::Outcome planned = test::run_program(plan_words);
  INFO(planned.errors);
  REQUIRE(planned.status == 0);
  const auto json = nlohmann::json::parse(planned.output);
  const double expected = json.at("device_bytes").get<double>() + json.at("host_bytes").get<double>();

  std::vector<std::string> train_words{"train", "--output_dir", (folder.path() / "run").string()};
  train_words.insert(train_words.end(), keys.begin(), keys.end());
  const test::Outcome trained = test::run_program(train_words);
  INFO(trained.errors);
  REQUIRE(trained.status == 0);
  const auto taken = static_cast<double>(trained.peak_bytes);
  INFO("planned " << expected << ", taken " << taken);
  CHECK(taken <= 1.15 * expected);
  CHECK(expected <= 1.15 * taken);
}

TEST_CASE("A run that is resumed takes no more memory than it did before") {
  const test::TemporaryFolder folder;
  Image picture;
  DrawnPictures(1).decode(0, picture);
  const std::vector<std::byte> png = encode_png(picture.rgb, picture.height, picture.width, 3);
  folder.write("images/0.png", std::span(png));
  TrainConfig config = tiny_config();
  config.data_path = (folder.path() / "images").string();
  config.output_dir = (folder.path() / "run").string();
  config.device = "cpu";
  config.threads = 1;
  config.num_workers = 1;
  config.batch_size_per_gpu = 1;
  config.health_images = config.report_every = 0;
  config.out_dim = 1 << 17;  // 8 million parameters, and next to no activations
  config.head_bottleneck_dim = 64;
  const std::string file = folder.write("config.toml", write_config(config)).string();
  const auto train = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"train", file};
    words.insert(words.end(), more.begin(), more.end());
    test::Outcome trained = test::run_program(words);
    INFO(trained.errors);
    REQUIRE(trained.status == 0);
    return static_cast<double>(trained.peak_bytes);
  };
  const double fresh = train({"--epochs", "1"});
  const double resumed = train({"--epochs", "2", "--resume"});
  INFO("fresh " << fresh << ", resumed " << resumed);
  CHECK(fresh >= 20.0 * 8e6);
  CHECK(resumed <= 1.05 * fresh);
}
#endif

}  // namespace
}  // namespace dino
