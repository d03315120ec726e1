#include "engine/files.h"

#include "tests/support/catch.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace dino {
namespace {

/// Runs the program with arguments that hold no spaces.
test::Outcome run(const std::string& arguments) {
  std::istringstream words(arguments);
  return test::run_program({std::istream_iterator<std::string>(words), {}});
}

const std::string kSmall =
    "bench step --arch vit_tiny --depth 1 --patch-size 8 --global_crops_size 16 --local_crops_size 8 "
    "--local_crops_number 2 --out_dim 64 --head_hidden_dim 32 --head_bottleneck_dim 16 --batch 2 --steps 2 --warmup 1 "
    "--threads 1 ";

TEST_CASE("bench step prints exactly one JSON object with what was measured") {
  const auto [status, output, errors, peak_bytes] = run(kSmall + "--precision fp32 --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output << errors);
  REQUIRE(json.is_object());
  CHECK(json.at("images_per_second").get<double>() > 0);
  CHECK(json.at("cpu_seconds_per_image").get<double>() > 0);
  CHECK(json.at("peak_memory_bytes").get<double>() >= json.at("arena_peak_bytes").get<double>());
  CHECK(json.at("batch") == 2);
  CHECK(json.at("arch") == "vit_tiny");
  CHECK(json.at("patch_size") == 8);
  CHECK(json.at("out_dim") == 64);
  CHECK(json.at("precision") == "fp32");
  CHECK(json.at("threads") == 1);
  CHECK(json.at("phases_ms").size() == 5);
  // Below ln K: the teacher's and the student's outputs are still alike. NaN would come as null.
  REQUIRE(json.at("loss").is_number());
  CHECK(json.at("loss").get<double>() > 0);
  CHECK(json.at("loss").get<double>() < std::log(64.0) + 0.5);
}

TEST_CASE("bench step does not take the CPU for GPUs that NCCL could connect") {
  const auto [status, output, errors, peak_bytes] = run(kSmall + "--device cpu --communicator nccl");
  INFO(errors);
  CHECK(status == 1);
  CHECK(output.empty());
  CHECK(test::is_one_line_error(errors));
  CHECK(errors.find("NCCL is for GPUs") != std::string::npos);
}

TEST_CASE("bench step measures bf16 and accumulation") {
  const auto [status, output, errors, peak_bytes] = run(kSmall + "--precision bf16 --accumulation 3 --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output << errors);
  REQUIRE(json.is_object());
  CHECK(json.at("precision") == "bf16");
  CHECK(json.at("accumulation") == 3);
  REQUIRE(json.at("loss").is_number());
}

TEST_CASE("bench step tells what each operation took, and that they make up the step") {
  const auto [status, output, errors, peak_bytes] = run(kSmall + "--precision fp32 --operations --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output << errors);
  REQUIRE(json.is_object());
  double sum_ms = json.at("rest_ms").get<double>();
  double norm_calls = 0;
  for (const auto& row : json.at("operations")) {
    CHECK(row.at("ms").get<double>() > 0);
    sum_ms += row.at("ms").get<double>();
    if (row.at("work").get<std::string>().starts_with("layer_norm_forward"))
      norm_calls += row.at("calls").get<double>();
  }
  CHECK(norm_calls == 6);  // three of the student and three of the teacher, of one block
  CHECK(sum_ms <= 1e3 * json.at("cpu_seconds_per_image").get<double>() * 2 * 1.5);

  const auto table = run(kSmall + "--operations");
  CHECK(table.status == 0);
  CHECK(table.output.find("GEMM") != std::string::npos);
  CHECK(table.output.find("beside the operations") != std::string::npos);
}

const std::string kGelu = "bench gelu --shape tiny --images 1 --threads 1 --repetitions 3 --seconds 0.1 ";

TEST_CASE("bench reports every pass and type of an operation with its references") {
  const auto [status, output, errors, peak_bytes] = run(kGelu + "--json -");
  INFO(output << errors);
  REQUIRE(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  REQUIRE(json.is_object());
  CHECK(json.at("threads") == 1);
  CHECK(json.at("roofline").at("copy_gb_per_s").get<double>() > 0);
  REQUIRE(json.at("results").size() == 4);
  for (const auto& row : json.at("results")) {
    CHECK(row.at("operation") == "gelu");
    CHECK(row.at("median_ms").get<double>() > 0);
    CHECK(row.at("quartiles_ms").at(0).get<double>() <= row.at("median_ms").get<double>());
    CHECK(row.at("median_ms").get<double>() <= row.at("quartiles_ms").at(1).get<double>());
    CHECK(row.at("roofline_share").get<double>() > 0);
    CHECK(row.at("references").size() == 2);
  }
}

TEST_CASE("bench says what got slower than a baseline, and refuses one from other conditions") {
  const test::TemporaryFolder folder;
  const std::string path = (folder.path() / "report.json").string();
  REQUIRE(run(kGelu + "--json " + path).status == 0);
  auto json = nlohmann::json::parse(read_text_file(path));
  const auto compare = [&](double factor) {
    auto changed = json;
    for (auto& row : changed.at("results")) {
      row.at("median_ms") = row.at("median_ms").get<double>() * factor;
      for (auto& ms : row.at("quartiles_ms")) ms = ms.get<double>() * factor;
    }
    std::ofstream(path) << changed;
    return run(kGelu + "--baseline " + path);
  };
  // A thousandth and a thousand times as long: no busy machine makes up for that.
  const auto slower = compare(1e-3);
  INFO(slower.output << slower.errors);
  CHECK(slower.status == 3);
  CHECK(slower.output.find("SLOW") != std::string::npos);
  CHECK(slower.errors.find("4 of 4") != std::string::npos);
  CHECK(slower.output.find('\033') == std::string::npos);  // no colours outside a terminal
  CHECK(compare(1e3).status == 0);

  json["threads"] = 77;
  std::ofstream(path) << json;
  const auto refused = run(kGelu + "--baseline " + path);
  CHECK(refused.status == 1);
  CHECK(refused.errors.find("threads") != std::string::npos);
}

TEST_CASE("bench refuses operations that it does not know") {
  const test::Outcome outcome = run("bench layer_nrom");
  CHECK(outcome.status == 2);
  CHECK(outcome.errors.find("layer_norm") != std::string::npos);
}

TEST_CASE("bench step refuses options that it does not know") {
  const test::Outcome outcome = run("bench step --out_dmi 3");
  CHECK(outcome.status == 2);
  CHECK(outcome.errors.find("out_dim") != std::string::npos);
}

}  // namespace
}  // namespace dino
