#include "tests/support/catch.h"

#include <sys/wait.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

namespace dino {
namespace {

/// Standard output and exit status of the program.
std::pair<std::string, int> run(const std::string& arguments) {
  const std::string command = "\"" DINO_PROGRAM "\" " + arguments;
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  for (int c; (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
  const int status = pclose(pipe);
  return {output, WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

const std::string kSmall =
    "bench step --arch vit_tiny --depth 1 --patch-size 8 --global_crops_size 16 --local_crops_size 8 "
    "--local_crops_number 2 --out_dim 64 --head_hidden_dim 32 --head_bottleneck_dim 16 --batch 2 --steps 2 --warmup 1 "
    "--threads 1 ";

TEST_CASE("bench step prints exactly one JSON object with what was measured") {
  const auto [output, status] = run(kSmall + "--precision fp32 --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output);
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
  const auto [output, status] = run(kSmall + "--precision bf16 --accumulation 3 --json");
  CHECK(status == 0);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  INFO(output);
  REQUIRE(json.is_object());
  CHECK(json.at("precision") == "bf16");
  CHECK(json.at("accumulation") == 3);
  REQUIRE(json.at("loss").is_number());
}

TEST_CASE("bench step refuses options that it does not know") {
  const auto [output, status] = run("bench step --out_dmi 3 2>&1");
  CHECK(status == 2);
  CHECK(output.find("out_dim") != std::string::npos);
}

}  // namespace
}  // namespace dino
