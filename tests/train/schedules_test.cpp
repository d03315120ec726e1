#include "train/schedules.h"

#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

namespace dino {
namespace {

using test::golden_dir;

void check_schedule(const std::vector<double>& got, const ConstArray& expected, const std::string& what) {
  REQUIRE(static_cast<std::int64_t>(got.size()) == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO(what << " at " << i << ": got " << got[i] << ", expected " << expected.as<double>()[i]);
    CHECK(std::abs(got[i] - expected.as<double>()[i]) <= 1e-7);
  }
}

TEST_CASE("golden: schedules are the official ones") {
  int recordings = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir())) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("train_") || entry.path().extension() != ".safetensors") continue;
    ++recordings;
    INFO(name);
    const SafetensorsFile file = SafetensorsFile::read(entry.path());
    const auto integer = [&](const char* key) { return std::stoi(file.metadata(key)); };
    const auto number = [&](const char* key) { return std::stod(file.metadata(key)); };
    TrainConfig config;
    config.epochs = integer("epochs");
    config.lr = number("lr");
    config.min_lr = number("min_lr");
    config.warmup_epochs = integer("warmup_epochs");
    config.weight_decay = number("wd");
    config.weight_decay_end = number("wd_end");
    config.momentum_teacher = number("momentum");
    config.warmup_teacher_temp = number("warmup_teacher_temp");
    config.teacher_temp = number("teacher_temp");
    config.warmup_teacher_temp_epochs = integer("warmup_teacher_temp_epochs");
    const Schedules schedules = make_schedules(config, integer("iters"), integer("batch"));
    check_schedule(schedules.lr, file["lr"], "lr");
    check_schedule(schedules.weight_decay, file["weight_decay"], "weight_decay");
    check_schedule(schedules.momentum, file["teacher_momentum"], "teacher_momentum");
    check_schedule(schedules.teacher_temp, file["teacher_temp"], "teacher_temp");
  }
  CHECK(recordings >= 1);
}

TEST_CASE("the learning rate starts at 0, reaches its base at the end of the warm-up and never the final value") {
  const auto lr = cosine_schedule(0.5, 1e-6, 10, 4, 2);
  REQUIRE(lr.size() == 40);
  CHECK(lr[0] == 0.0);
  CHECK(lr[7] == 0.5);
  CHECK(lr[8] == 0.5);
  CHECK(lr[39] > 1e-6);
  CHECK(cosine_schedule(0.5, 0.1, 1, 1, 1) == std::vector<double>{0.0});
  CHECK_THROWS_AS(cosine_schedule(0.5, 0.1, 1, 1, 2), Error);
}

TEST_CASE("the teacher temperature warms up per epoch, both ends included") {
  const auto temp = temperature_schedule(0.04, 0.07, 4, 6);
  REQUIRE(temp.size() == 6);
  CHECK(temp[0] == 0.04);
  CHECK(temp[1] == Approx(0.05));
  CHECK(temp[3] == 0.07);
  CHECK(temp[5] == 0.07);
  CHECK_THROWS_AS(temperature_schedule(0.04, 0.07, 7, 6), Error);
}

}  // namespace
}  // namespace dino
