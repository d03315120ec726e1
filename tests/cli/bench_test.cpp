#include "tests/support/catch.h"
#include "tests/support/program.h"

#include <nlohmann/json.hpp>

#include <cmath>
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
  const auto [status, output, errors] = run(kSmall + "--precision fp32 --json");
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

TEST_CASE("bench step measures bf16 and accumulation") {
  const auto [status, output, errors] = run(kSmall + "--precision bf16 --accumulation 3 --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output << errors);
  REQUIRE(json.is_object());
  CHECK(json.at("precision") == "bf16");
  CHECK(json.at("accumulation") == 3);
  REQUIRE(json.at("loss").is_number());
}

TEST_CASE("bench step refuses options that it does not know") {
  const test::Outcome outcome = run("bench step --out_dmi 3");
  CHECK(outcome.status == 2);
  CHECK(outcome.errors.find("out_dim") != std::string::npos);
}

}  // namespace
}  // namespace dino
