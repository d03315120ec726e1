// `plan` by its output, and what a program does that has too little memory.
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include "data/png.h"

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <regex>
#include <span>

using namespace dino;
using namespace dino::test;

namespace {

constexpr std::int64_t kMiB = 1 << 20;

Outcome plan(std::vector<std::string> more) {
  std::vector<std::string> words{"plan"};
  words.insert(words.end(), more.begin(), more.end());
  return run_program(words);
}

nlohmann::json plan_json(std::vector<std::string> more) {
  more.emplace_back("--json");
  const Outcome outcome = plan(std::move(more));
  INFO(outcome.errors);
  REQUIRE(outcome.status == 0);
  return nlohmann::json::parse(outcome.output);
}

/// So many bytes of addresses. glibc gives each thread a heap of 64 MiB of them, as many as it likes; here all share
/// one.
[[maybe_unused]] ProgramLimits few_addresses(std::int64_t bytes) {
  return {.address_bytes = bytes, .environment = {"MALLOC_ARENA_MAX=1", "OMP_NUM_THREADS=1"}};
}

/// A folder of pictures and a configuration whose crops and logits need memory; a step takes a moment.
class Run {
 public:
  Run() {
    for (int i = 0; i < 64; ++i) {
      Image picture;
      DrawnPictures(100).decode(i, picture);
      const std::vector<std::byte> png = encode_png(picture.rgb, picture.height, picture.width, 3);
      folder_.write(fmt::format("images/class{}/{}.png", i % 2, i), std::span(png));
    }
    TrainConfig config = tiny_config();
    config.data_path = (folder_.path() / "images").string();
    config.output_dir = (folder_.path() / "run").string();
    config.device = "cpu";
    config.threads = 1;
    config.epochs = 1;
    config.batch_size_per_gpu = 64;
    config.local_crops_number = 8;
    config.out_dim = 131072;
    config.head_hidden_dim = 32;
    config.head_bottleneck_dim = 4;
    config_ = folder_.write("config.toml", write_config(config)).string();
  }
  const std::string& config() const { return config_; }
  Outcome train(std::vector<std::string> more, const ProgramLimits& limits = {}) const {
    std::vector<std::string> words{"train", config_};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words, limits);
  }

 private:
  TemporaryFolder folder_;
  std::string config_;
};

[[maybe_unused]] std::int64_t needed_bytes(const nlohmann::json& json) {
  return json.at("device_bytes").get<std::int64_t>() + json.at("host_bytes").get<std::int64_t>();
}

TEST_CASE("plan counts a run for a named GPU, with its published figures as a bound") {
  const auto json = plan_json({"--for", "h200", "--images", "1281167"});
  CHECK(json.at("device") == "cuda");
  CHECK(json.at("precision") == "bf16");
  CHECK(json.at("parameters").at("backbone") == 21665664);  // as the official ViT-S/16
  // Linear(384, 2048), Linear(2048, 2048), Linear(2048, 256), 65536 × 256 and their gains.
  CHECK(json.at("parameters").at("head") ==
        384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 65536 * 256 + 65536);
  CHECK(json.at("fits") == true);
  CHECK(json.at("largest_batch").get<int>() > 64);
  CHECK(json.at("speed").at("is_bound") == true);
  const double images_per_second = json.at("speed").at("images_per_second").get<double>();
  CHECK(images_per_second > 1000);
  CHECK(images_per_second < 989.5e12 / 100e9);  // the tensor cores' rate over an image's arithmetic
  CHECK(json.at("run").at("steps_per_epoch") == 1281167 / 64);
  const double seconds = 100.0 * (1281167 / 64) * 64 / images_per_second;
  CHECK(json.at("run").at("total_s").get<double>() == Approx(seconds).epsilon(1e-6));
  // student, teacher, two moments, in fp32
  CHECK(json.at("checkpoint_bytes").get<double>() == Approx(16.0 * (21665664 + 22592000)).epsilon(0.02));
}

TEST_CASE("plan proposes a batch where it does not fit") {
  const auto json = plan_json(
      {"--for", "rtx4090", "--arch", "vit_base", "--patch-size", "8", "--batch_size_per_gpu", "64", "--no_speed"});
  CHECK(json.at("fits") == false);
  const int batch = json.at("proposal").at("batch_size_per_gpu").get<int>();
  CHECK(batch * json.at("proposal").at("accumulation").get<int>() == 64);
  CHECK(batch <= json.at("largest_batch").get<int>() + 1);
  const auto smaller = plan_json({"--for", "rtx4090", "--arch", "vit_base", "--patch-size", "8", "--batch_size_per_gpu",
                                  std::to_string(batch), "--accumulation", std::to_string(64 / batch), "--no_speed"});
  CHECK(smaller.at("fits") == true);
  CHECK_FALSE(smaller.contains("speed"));
}

TEST_CASE("plan prints tables for people, and says when the number of images is missing") {
  const Outcome outcome = plan({"--for", "a100", "--no-speed", "--knn_every", "5"});
  CHECK(outcome.status == 0);
  for (const char* part : {"NVIDIA A100 SXM 80 GB", "teacher", "GEMM", "activations", "largest batch",
                           "unknown number of images; try --data_path FOLDER, or --images N", "checkpoints of"}) {
    CHECK(contains(outcome.output, part));
  }
}

TEST_CASE("plan says where the pictures make no step") {
  const Outcome outcome =
      plan({"--for", "h200", "--images", "200", "--batch_size_per_gpu", "64", "--accumulation", "4"});
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.output, "200 images make no step of 64 × 4: train refuses them. Try a smaller batch\n"));
  CHECK_FALSE(contains(outcome.output, "epochs of 0 steps"));
  CHECK_FALSE(plan_json({"--for", "h200", "--images", "255", "--accumulation", "4"}).contains("run"));
  CHECK(plan_json({"--for", "h200", "--images", "256", "--accumulation", "4"}).at("run").at("steps_per_epoch") == 1);
}

TEST_CASE("plan counts the features that are watched, and k-NN in data sets of its own") {
  // One block and one picture a step: what looks at 32 pictures takes more.
  const std::vector<std::string> words{"--for",      "h200",
                                       "--no_speed", "--depth",
                                       "1",          "--batch_size_per_gpu",
                                       "1",          "--images",
                                       "100",        "--global_crops_size",
                                       "32",         "--augment",
                                       "host",       "--out_dim",
                                       "64",         "--local_crops_number",
                                       "0"};
  const auto evaluation_with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more.begin(), more.end());
    return plan_json(all).at("memory_bytes").at("evaluation").get<std::int64_t>();
  };
  CHECK(evaluation_with({"--health_images", "0", "--report_every", "0"}) == 0);
  const std::int64_t features = evaluation_with({"--report_every", "0"});
  CHECK(features > 0);
  CHECK(evaluation_with({"--health_images", "0"}) == features);
  // 100 pictures of the run, or 9000 of other data sets, whose pixels are 768 numbers each.
  CHECK(evaluation_with({"--knn_every", "1", "--knn_images", "9000"}) < 10 * kMiB);
  CHECK(evaluation_with({"--knn_every", "1", "--knn_images", "9000", "--knn_train_path", "a", "--knn_test_path",
                         "b"}) >= 50 * kMiB);
}

TEST_CASE("plan measures this machine and the loader") {
  const Run run;
  const auto json = plan_json({run.config(), "--batch_size_per_gpu", "4", "--out_dim", "64"});
  CHECK(json.at("device") == "cpu");
  CHECK(json.at("speed").at("is_bound") == false);
  CHECK(json.at("speed").at("loader_ms_per_image").get<double>() > 0);
  CHECK(json.at("run").at("images") == 64);
  CHECK(json.at("run").at("steps_per_epoch") == 16);
  const double step_ms = json.at("speed").at("step_ms").get<double>();
  double kinds_ms = json.at("speed").at("rest_ms").get<double>();
  for (const auto& [name, ms] : json.at("speed").at("kinds_ms").items()) kinds_ms += ms.get<double>();
  CHECK(kinds_ms == Approx(step_ms));
}

TEST_CASE("plan takes the rates that bench has measured on another machine") {
  const TemporaryFolder folder;
  const std::string report = (folder.path() / "bench.json").string();
  const std::string good = R"({"machine": "a card", "device": "cuda",
    "roofline": {"copy_gb_per_s": 4000, "fp32_gflop_per_s": 50000, "bf16_gflop_per_s": 700000}, "results": [
    {"operation": "matmul", "type": "bf16", "median_ms": 2, "roofline_share": 0.5},
    {"operation": "layer_norm", "type": "bf16", "median_ms": 1, "roofline_share": 0.8}]})";
  folder.write("bench.json", std::string_view(good));
  const auto json = plan_json({"--for", "h200", "--rates", report});
  const auto bound = plan_json({"--for", "h200"});
  CHECK(json.at("speed").at("is_bound") == false);
  const auto kind = [](const nlohmann::json& plan, const char* name) {
    return plan.at("speed").at("kinds_ms").at(name).get<double>();
  };
  const double flops = json.at("kinds").at("GEMM").at("flops").get<double>();
  CHECK(kind(json, "GEMM") >= 1e3 * flops / 700e12 / 0.5 * 0.999);
  CHECK(kind(json, "GEMM") > kind(bound, "GEMM"));
  CHECK(kind(json, "layer norm") ==
        Approx(1e3 * json.at("kinds").at("layer norm").at("bytes").get<double>() / 4e12 / 0.8));
  folder.write("bench.json", std::string_view("{}"));
  const Outcome refused = plan({"--for", "h200", "--rates", report});
  CHECK(refused.status == 1);
  CHECK(is_one_line_error(refused.errors));
  CHECK(contains(refused.errors, "this is no report of bench"));
}

TEST_CASE("plan refuses an unknown device with the names that it knows") {
  const Outcome outcome = plan({"--for", "h20"});
  CHECK(outcome.status == 1);
  CHECK(is_one_line_error(outcome.errors));
  CHECK(contains(outcome.errors, "expected cpu or one of h200, h100"));
}

// Sanitizers map terabytes of addresses.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("train refuses what does not fit into a limited address space, and its advice works") {
  const Run run;
  const std::int64_t needed = needed_bytes(plan_json({run.config(), "--no_speed"}));
  // Libraries and stacks map more addresses than they take memory: too little for the program comes first.
  bool refused = false;
  for (std::int64_t limit = needed / 2; limit <= 4 * needed && !refused; limit += 64 * kMiB) {
    const Outcome outcome = run.train({}, few_addresses(limit));
    if (outcome.status != 1 || outcome.errors.find("the run does not fit") == std::string::npos) continue;
    refused = true;
    INFO(outcome.errors);
    CHECK((contains(outcome.errors, "(ulimit -v)") || contains(outcome.errors, "(addresses of this process)")));
    std::smatch advice;
    const std::regex form("try --batch_size_per_gpu ([0-9]+) --accumulation ([0-9]+) \\(the same global batch\\)");
    // With next to no room there is nothing to advise.
    if (!std::regex_search(outcome.errors, advice, form)) {
      refused = false;
      continue;
    }
    CHECK(std::stoi(advice[1]) < 64);
    CHECK(std::stoi(advice[1]) * std::stoi(advice[2]) == 64);
    const Outcome followed =
        run.train({"--batch_size_per_gpu", advice[1], "--accumulation", advice[2]}, few_addresses(limit));
    INFO(followed.errors);
    CHECK(followed.status == 0);
  }
  CHECK(refused);
}

TEST_CASE("out of memory says how much was asked for, in use and left") {
  const Run run;
  const std::int64_t needed = needed_bytes(plan_json({run.config(), "--no_speed"}));
  int said = 0;
  Outcome outcome;
  for (std::int64_t limit = needed / 2; limit <= 4 * needed && said < 3; limit += 96 * kMiB) {
    outcome = run.train({"--ignore_memory"}, few_addresses(limit));
    if (outcome.status == 0) break;
    if (outcome.status == 127) continue;  // the libraries do not even load
    INFO(outcome.errors);
    CHECK(outcome.status == 1);
    const std::size_t begin = outcome.errors.rfind("dino_cuda: ");
    REQUIRE(begin != std::string::npos);
    const std::string last = outcome.errors.substr(begin);
    CHECK(is_one_line_error(last));
    if (last.find("out of memory: ") == std::string::npos) continue;  // as where no thread can be started
    CHECK(contains(last, "asked for, "));
    CHECK(contains(last, " in use, "));
    // Of the arena, or of the whole process.
    CHECK((contains(last, " MiB reserved") || contains(last, " free (ulimit -v)")));
    ++said;
  }
  CHECK(said > 0);
}
#endif

}  // namespace
