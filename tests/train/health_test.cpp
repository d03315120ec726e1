// The watch over a run's numbers: made-up curves for every rule, and excerpts of real runs.
#include "train/health.h"

#include "engine/files.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <sstream>

namespace dino {
namespace {

using test::error_of;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kEpoch = 50;  // steps
const double kLnK = std::log(1024.0);

TrainConfig config_of_1024() {
  TrainConfig config;
  config.out_dim = 1024;
  return config;
}

/// A step as of a healthy run some way on, with its usual noise.
Health::Step healthy(std::int64_t step, std::mt19937& random) {
  std::normal_distribution<double> normal;
  // The loss falls and rises again, as it does.
  const double entropy = 5 - 2 * std::exp(-static_cast<double>(step) / 100) + 0.2 * normal(random);
  const double kl = 0.5 + std::exp(-static_cast<double>(step) / 60) + 0.05 * normal(random);
  return {.step = step,
          .epoch = step / kEpoch,
          .loss = entropy + kl,
          .teacher_entropy = entropy,
          .kl = kl,
          .gradient_norm = 1 + 0.2 * std::abs(normal(random)),
          .center_norm = 2 + 0.1 * normal(random),
          .not_finite = {}};
}

using Change = std::function<void(Health::Step&)>;

/// `kind begins@step`, in order, of `steps` steps that begin as healthy ones and are then changed.
std::vector<std::string> watch(Health& health, std::int64_t from, std::int64_t to, const Change& change = {}) {
  std::vector<std::string> found;
  std::mt19937 random(7);
  for (std::int64_t step = 0; step < to; ++step) {
    Health::Step numbers = healthy(step, random);
    if (step < from) continue;
    if (change) change(numbers);
    for (const Finding& f : health.step(numbers)) {
      CHECK(f.step == step);
      CHECK(f.epoch == step / kEpoch);
      CHECK_FALSE(f.message.empty());
      for (const Finding::Number& number : f.evidence) CHECK(std::isfinite(number.value));
      const auto line = f.to_json();
      found.push_back(fmt::format("{} {}@{}", f.kind, line.at("state").get<std::string>(), step));
    }
  }
  return found;
}

TEST_CASE("Health finds nothing in healthy numbers") {
  Health health(config_of_1024(), kEpoch);
  CHECK(watch(health, 0, 2000).empty());
  CHECK(health.sound());
}

TEST_CASE("Health finds each thing once when it begins and once when it ends") {
  // Each changes steps 200 to 399; a window is 32 steps, an epoch 50.
  struct Case {
    const char* name;
    Change change;
    std::vector<std::string> expected;
  };
  const auto between = [](const Change& change) {
    return [change](Health::Step& s) {
      if (s.step >= 200 && s.step < 400) change(s);
    };
  };
  const Case cases[] = {
      // The window is full of such steps after step 231, but for its threshold a little before; then for an epoch.
      {"uniform",
       between([](Health::Step& s) {
         s.teacher_entropy = kLnK - 0.001;
         s.kl = 0.002;
         s.loss = s.teacher_entropy + s.kl;
       }),
       {"uniform_outputs begins@280", "uniform_outputs ends@402"}},
      {"one output",
       between([](Health::Step& s) {
         s.teacher_entropy = 0.1;
         s.kl = 0.05;
         s.loss = 0.15;
       }),
       {"one_output begins@230", "sharp_teacher begins@262", "sharp_teacher ends@401", "one_output ends@403"}},
      {"sharp",
       between([](Health::Step& s) {
         s.teacher_entropy = 0.1;
         s.loss = 0.1 + s.kl;
       }),
       {"sharp_teacher begins@262", "sharp_teacher ends@402"}},
      {"center",
       between([](Health::Step& s) { s.center_norm = 100; }),
       {"center_growing begins@212", "center_growing ends@426"}},
      {"spike",
       [](Health::Step& s) {
         if (s.step == 200 || s.step == 210) s.gradient_norm = 30;
       },
       {"gradient_spike begins@200", "gradient_spike ends@242"}},
      {"vanishing",
       between([](Health::Step& s) { s.gradient_norm = 1e-4; }),
       // Half of the window decides the median; what comes back is a spike against it.
       {"gradient_vanishing begins@216", "gradient_spike begins@400", "gradient_vanishing ends@415",
        "gradient_spike ends@447"}}};
  for (const Case& c : cases) {
    INFO(c.name);
    Health health(config_of_1024(), kEpoch);
    const auto found = watch(health, 0, 600, c.change);
    std::vector<std::string> kinds, expected_kinds;
    REQUIRE(found.size() == c.expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO("got " << found[i] << ", expected " << c.expected[i]);
      const auto at = [](const std::string& text) { return std::stoi(text.substr(text.find('@') + 1)); };
      CHECK(found[i].substr(0, found[i].find('@')) == c.expected[i].substr(0, c.expected[i].find('@')));
      // The noise of the healthy steps that are still in the window decides about a step or two.
      CHECK(std::abs(at(found[i]) - at(c.expected[i])) <= 3);
    }
    CHECK(health.sound());
  }
}

TEST_CASE("Health is not sound while something severe is the matter") {
  Health health(config_of_1024(), kEpoch);
  watch(health, 0, 300, [](Health::Step& s) { s.loss = s.teacher_entropy = s.step < 200 ? s.loss : 0.01; });
  CHECK_FALSE(health.sound());
}

TEST_CASE("Health finds a loss that has not moved since the start, and only that") {
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  const auto noisy = [&](std::int64_t step, double level) {
    Health::Step s = healthy(step, random);
    s.loss = level + 0.3 * normal(random);
    s.kl = 1 + 0.1 * normal(random);
    s.teacher_entropy = s.loss - s.kl;
    return s;
  };
  // Steps differ much, blocks of them do not: the ratio is 1 give or take a third, whatever the seed.
  Health still(config_of_1024(), kEpoch);
  std::vector<std::string> found;
  const auto feed = [&](Health& health, std::int64_t from, std::int64_t to, double level, double slope) {
    for (std::int64_t step = from; step < to; ++step) {
      for (const Finding& f : health.step(noisy(step, level + slope * static_cast<double>(step - from))))
        found.push_back(fmt::format("{}@{}", f.to_json().at("state").get<std::string>(), step) + f.kind);
    }
  };
  feed(still, 0, 700, 5, 0);
  CHECK(found == std::vector<std::string>{"begins@575loss_stuck"});
  found.clear();
  feed(still, 700, 1500, 5, -0.002);
  REQUIRE(found.size() == 1);
  CHECK(found[0].starts_with("ends@"));
  found.clear();
  // A loss that moves by less in 500 steps than it differs from step to step.
  Health slow(config_of_1024(), kEpoch);
  feed(slow, 0, 2000, 5, -0.001);
  CHECK(found.empty());
  // Not before an epoch has passed.
  Health long_epoch(config_of_1024(), 3000);
  feed(long_epoch, 0, 2000, 5, 0);
  CHECK(found.empty());
}

TEST_CASE("Health counts skipped steps, and leaves their numbers out") {
  Health health(config_of_1024(), kEpoch);
  const auto found = watch(health, 0, 400, [](Health::Step& s) {
    if (s.step != 100 && s.step != 150 && s.step != 160) return;
    s.not_finite = "the student's logits";
    s.loss = s.kl = s.gradient_norm = kNan;
  });
  CHECK(found == std::vector<std::string>{"skipped_step once@100", "skipped_step once@150", "not_finite begins@150",
                                          "skipped_step once@160", "not_finite ends@260"});
  CHECK(health.recent_skips() == 0);

  std::mt19937 random(7);
  Health::Step step = healthy(400, random);
  step.not_finite = "the loss";
  const auto findings = health.step(step);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].to_string() ==
        "note: step 400, epoch 8: the step was skipped (not finite: the loss); weights, teacher, center and counts are "
        "as before it");
  CHECK(health.recent_skips() == 1);
  CHECK_FALSE(health.sound());
  Finding back;  // of a run that went back to its start
  back.step = -1;
  back.message = "back";
  CHECK(back.to_string() == "note: before the first step: back");

  // Numbers that are not finite in a step that was none the less done, as of a gradient that is not used.
  Health other(config_of_1024(), kEpoch);
  CHECK(watch(other, 0, 400, [](Health::Step& s) {
          if (s.step % 3 == 0) s.gradient_norm = kNan;
        }).empty());
}

TEST_CASE("Health says what features that are all alike mean, with hysteresis") {
  Health health(config_of_1024(), kEpoch);
  const auto at = [&](double rank, double spread) {
    std::vector<std::string> found;
    for (const Finding& f : health.features(99, 1, {.rank = rank, .spread = spread, .images = 8})) {
      CHECK(f.step == 99);
      found.push_back(f.kind + (f.state == Finding::State::begins ? " begins" : " ends"));
    }
    return found;
  };
  CHECK(at(20, 0.6).empty());
  CHECK(at(1.5, 0.3) == std::vector<std::string>{"feature_rank begins"});
  CHECK(at(2.5, 0.3).empty());
  CHECK(at(5, 0.3) == std::vector<std::string>{"feature_rank ends"});
  CHECK(at(5, 0.04) == std::vector<std::string>{"feature_rank begins"});
  CHECK(at(kNan, kNan).empty());
  CHECK(at(5, 0.2) == std::vector<std::string>{"feature_rank ends"});
  CHECK(health.sound());
  // Of few pictures the rank is at most their number, which says nothing about the network.
  CHECK(health.features(99, 1, {.rank = 1, .spread = 0, .images = 1}).empty());
  CHECK(health.features(99, 1, {.rank = 2, .spread = 0.04, .images = 7}).empty());
}

TEST_CASE("The advice goes by the configuration") {
  const auto advice = [](TrainConfig config, double entropy) {
    config.out_dim = 1024;
    Health health(config, 32);
    std::string said;
    for (std::int64_t step = 0; step < 200; ++step) {
      for (const Finding& f : health.step({.step = step,
                              .loss = entropy + 0.01,
                              .teacher_entropy = entropy,
                              .kl = 0.01,
                              .gradient_norm = 1,
                              .center_norm = 1,
                              .not_finite = {}})) {
        if (f.severity == Finding::Severity::severe) said = f.advice;
      }
    }
    return said;
  };
  TrainConfig config;
  config.center_momentum = 1;
  CHECK(advice(config, 0.1).starts_with("lower center_momentum (now 1; 0.9 is usual)"));
  config.center_momentum = 0.9;
  config.teacher_temp = 0.004;
  CHECK(advice(config, 0.1)
            .starts_with("raise warmup_teacher_temp and teacher_temp (now 0.04 and 0.004; 0.04 is usual)"));
  config.teacher_temp = 0.3;
  CHECK(advice(config, kLnK).starts_with("lower warmup_teacher_temp and teacher_temp (now 0.04 and 0.3"));
}

TEST_CASE("A watch that is saved and restored finds the same") {
  const auto broken = [](Health::Step& s) {
    if (s.step % 90 == 0) s.not_finite = "the loss";
    if (s.step >= 130) s.gradient_norm = s.step % 50 == 0 ? 20 : 0.0001;
    if (s.step >= 300) s.teacher_entropy = s.loss = s.kl = 0.01;
  };
  Health whole(config_of_1024(), kEpoch);
  const auto expected = watch(whole, 0, 700, broken);
  REQUIRE(expected.size() > 10);
  for (const std::int64_t stop : {1, 20, 32, 33, 131, 150, 320, 345}) {
    INFO("stopped after " << stop);
    Health before(config_of_1024(), kEpoch);
    auto found = watch(before, 0, stop, broken);
    Health after(config_of_1024(), kEpoch);
    after.restore(before.state());
    CHECK(after.state() == before.state());
    const auto rest = watch(after, stop, 700, broken);
    found.insert(found.end(), rest.begin(), rest.end());
    CHECK(found == expected);
    CHECK(after.state() == whole.state());
  }
  Health health(config_of_1024(), kEpoch);
  const std::string state = health.state();
  for (const char* damaged : {"", "{}", "[1, 2]", "{\"window\": 3}", "{\"window\": [[1]]}"})
    CHECK(
        error_of([&] { health.restore(damaged); }).starts_with("[health] the saved state of the watch cannot be read"));
  // Numbers of steps that no run has.
  for (const char* number : {"-2", "9223372036854775807", "18446744073709551615", "1e300", "0.5", "true"}) {
    std::string damaged = state;
    const std::string sound = R"("last_spike":-1)";
    damaged.replace(damaged.find(sound), sound.size(), fmt::format(R"("last_spike":{})", number));
    INFO(damaged);
    CHECK(test::contains(error_of([&] { health.restore(damaged); }),
                         "as a number of steps; expected a whole one from -1"));
  }
  CHECK(health.state() == state);
}

/// The first steps of a run (curves/README.md), as the watch sees them, and what it finds: `kind@step`.
std::vector<std::string> replay(const std::string& name) {
  std::stringstream text(read_text_file(test::config_dir() / ".." / "tests" / "train" / "curves" / (name + ".csv")));
  std::string line;
  std::getline(text, line);
  REQUIRE(line == "loss,entropy,kl,grad_norm,center_norm");
  constexpr std::int64_t kStepsPerEpoch = 312;
  Health health(config_of_1024(), kStepsPerEpoch);
  std::vector<std::string> found;
  std::int64_t step = 0;
  for (char comma = 0; std::getline(text, line); ++step) {
    std::stringstream row(line);
    Health::Step numbers;
    numbers.step = step;
    numbers.epoch = step / kStepsPerEpoch;
    row >> numbers.loss >> comma >> numbers.teacher_entropy >> comma >> numbers.kl >> comma >> numbers.gradient_norm >>
        comma >> numbers.center_norm;
    REQUIRE(!row.fail());
    for (const Finding& f : health.step(numbers)) found.push_back(fmt::format("{}@{}", f.kind, step));
  }
  REQUIRE(step >= 400);
  return found;
}

TEST_CASE(
    "Of recorded runs, those made to collapse are named within their first two epochs, and the healthy one never") {
  CHECK(replay("healthy") == std::vector<std::string>{});
  CHECK(replay("hot") == std::vector<std::string>{"uniform_outputs@342"});
  CHECK(replay("not_centered") == std::vector<std::string>{"sharp_teacher@161", "one_output@364"});
  CHECK(replay("cold") == std::vector<std::string>{"sharp_teacher@62"});
}

}  // namespace
}  // namespace dino
