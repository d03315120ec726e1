#include "tests/support/catch.h"
#include "tests/support/program.h"
#include "tests/support/training_scene.h"

namespace dino {
namespace {

test::Outcome bench_on(const std::string& device) {
  return test::run_program({"bench",
                            "step",
                            "--arch",
                            "vit_tiny",
                            "--depth",
                            "1",
                            "--patch_size",
                            "8",
                            "--global_crops_size",
                            "16",
                            "--local_crops_size",
                            "8",
                            "--local_crops_number",
                            "2",
                            "--out_dim",
                            "64",
                            "--batch",
                            "1",
                            "--steps",
                            "1",
                            "--warmup",
                            "0",
                            "--device",
                            device});
}

TEST_CASE("a GPU that cannot be used is refused with what was found and what to try") {
  const test::Outcome outcome = bench_on("cuda:77");  // no machine has so many
  INFO(outcome.errors);
  CHECK(outcome.status == 1);
  CHECK(test::is_one_line_error(outcome.errors));
  CHECK(outcome.errors.find("cuda:77") != std::string::npos);
  // Without a toolkit, a driver or a card: the reason and the way out. With cards: which there are.
  const bool says_what_to_do = outcome.errors.find("; try ") != std::string::npos;
  const bool lists_cards = outcome.errors.find("expected one of cuda:0") != std::string::npos;
  CHECK((says_what_to_do || lists_cards));
}

TEST_CASE("a device that is none is refused") {
  const test::Outcome outcome = bench_on("gpu");
  INFO(outcome.errors);
  CHECK(outcome.status != 0);
  CHECK(test::is_one_line_error(outcome.errors));
  CHECK(outcome.errors.find("expected auto, cpu, cuda or cuda:N") != std::string::npos);
}

TEST_CASE("init configures for a GPU that is elsewhere, and says so") {
  const test::TrainingScene scene([](TrainConfig&) {});
  const std::filesystem::path out = scene.folder() / "gpu.toml";
  const test::Outcome outcome =
      test::run_program({"init", (scene.folder() / "images").string(), "--device", "cuda:77", "--out", out.string()});
  INFO(outcome.errors);
  CHECK(outcome.status == 0);
  CHECK(std::filesystem::exists(out));
  CHECK((outcome.output + outcome.errors).find("note: the GPU is not in this machine") != std::string::npos);
}

}  // namespace
}  // namespace dino
