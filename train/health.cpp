#include "train/health.h"

#include "kernels/common/error.h"
#include "models/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace dino {
namespace {

using Severity = Finding::Severity;
using State = Finding::State;
using Numbers = std::vector<Finding::Number>;

const char* name_of(Severity severity) {
  constexpr std::array kNames{"note", "warning", "severe"};
  return kNames.at(static_cast<std::size_t>(severity));
}

const char* name_of(State state) {
  constexpr std::array kNames{"begins", "ends", "once"};
  return kNames.at(static_cast<std::size_t>(state));
}

}  // namespace

/// What the rules go by.
struct HealthMeasures {
  const TrainConfig& config;
  std::int64_t steps_per_epoch;
  double ln_k;
  // Of the window: means, and the median of the gradients' norms.
  double loss = 0, entropy = 0, kl = 0, gradient = 0, center = 0;
  double first_center = 0, largest_gradient = 0;
  // Of this step.
  double step_gradient = 0, gradient_before = 0;  // the second: median of the window before it
  std::int64_t since_spike = 0;
  // Since the start.
  std::int64_t blocks = 0;
  double loss_ratio = 0, kl_ratio = 0;
  int skips = 0;
  FeatureSpread features = {};
};

/// One line of the table in health.h.
struct HealthRule {
  const char* kind;
  Finding::Severity severity;
  bool (*begins)(const HealthMeasures&);
  bool (*ends)(const HealthMeasures&);
  std::int64_t (*patience)(const HealthMeasures&);  // in how many steps in a row it has to begin
  std::string (*seen)(const HealthMeasures&);
  std::string (*over)(const HealthMeasures&);
  std::string (*advice)(const TrainConfig&);
  std::vector<Finding::Number> (*evidence)(const HealthMeasures&);
};

namespace {

using Measures = HealthMeasures;

std::int64_t at_once(const Measures&) { return 1; }

std::string advise_flatter(const TrainConfig& c) {
  std::string advice;
  if (c.center_momentum > 0.99) {
    advice = fmt::format("lower center_momentum (now {}; 0.9 is usual), so that the center follows the teacher",
                         c.center_momentum);
  }
  if (c.teacher_temp < 0.02 || c.warmup_teacher_temp < 0.02 || advice.empty()) {
    advice += fmt::format("{}raise warmup_teacher_temp and teacher_temp (now {} and {}; 0.04 is usual)",
                          advice.empty() ? "" : ", ", c.warmup_teacher_temp, c.teacher_temp);
  }
  return advice + fmt::format(", or lower lr (now {})", c.lr);
}

std::string advise_sharper(const TrainConfig& c) {
  std::string advice =
      std::max(c.teacher_temp, c.warmup_teacher_temp) > 0.07
          ? fmt::format(
                "lower warmup_teacher_temp and teacher_temp (now {} and {}; 0.04 is usual, above 0.07 is unstable)",
                c.warmup_teacher_temp, c.teacher_temp)
          : fmt::format("lower warmup_teacher_temp (now {}; 0.03 for short runs)", c.warmup_teacher_temp);
  if (c.center_momentum < 0.8)
    advice += fmt::format(", raise center_momentum (now {}; 0.9 is usual)", c.center_momentum);
  return advice + fmt::format(
                      ", or take fewer prototypes (out_dim, now {}), smaller batches (more steps) or a lower "
                      "momentum_teacher (now {})",
                      c.out_dim, c.momentum_teacher);
}

std::string advise_smaller_steps(const TrainConfig& c) {
  return fmt::format("lower lr (now {}), lengthen warmup_epochs (now {}), {}{}", c.lr, c.warmup_epochs,
                     c.clip_grad > 0 ? fmt::format("lower clip_grad (now {})", c.clip_grad) : "set clip_grad to 3",
                     c.precision == "fp32" ? "" : ", or take precision = \"fp32\"");
}

std::string advise_movement(const TrainConfig& c) {
  return fmt::format(
      "check that lr (now {}) is not too low, lower warmup_teacher_temp (now {}), and look whether the "
      "images differ from each other",
      c.lr, c.warmup_teacher_temp);
}

std::string advise_center(const TrainConfig& c) {
  return fmt::format("{}lower lr (now {})", c.norm_last_layer ? "" : "set norm_last_layer to true, ", c.lr);
}

std::string advise_features(const TrainConfig& c) {
  return fmt::format("look at the other findings; without any, lower lr (now {}) or weight_decay_end (now {})", c.lr,
                     c.weight_decay_end);
}

std::string entropy_words(const Measures& m) {
  return fmt::format("mean entropy {:.3f} of at most {:.3f}, loss {:.3f}, KL {:.3f}", m.entropy, m.ln_k, m.loss, m.kl);
}

Numbers entropy_numbers(const Measures& m) {
  return {{"entropy", m.entropy}, {"ln_k", m.ln_k}, {"loss", m.loss}, {"kl", m.kl}};
}

Numbers gradient_numbers(const Measures& m) {
  return {{"grad_norm", m.step_gradient},
          {"median_before", m.gradient_before},
          {"median", m.gradient},
          {"largest_median", m.largest_gradient}};
}

const HealthRule kWindowRules[] = {
    {"uniform_outputs", Severity::severe, [](const Measures& m) { return m.ln_k - m.entropy <= 0.01 * m.ln_k; },
     [](const Measures& m) { return m.ln_k - m.entropy >= 0.02 * m.ln_k; },
     [](const Measures& m) { return std::clamp<std::int64_t>(m.steps_per_epoch, 32, 1000); },
     [](const Measures& m) {
       return "the outputs have collapsed to uniform: the teacher gives every image the same flat output, " +
              entropy_words(m);
     },
     [](const Measures& m) { return "the teacher's outputs are no longer uniform: " + entropy_words(m); },
     advise_sharper, entropy_numbers},
    {"one_output", Severity::severe, [](const Measures& m) { return m.loss <= 0.05 * m.ln_k; },
     [](const Measures& m) { return m.loss >= 0.1 * m.ln_k; }, at_once,
     [](const Measures& m) {
       return "the outputs have collapsed to one: the teacher gives every image the same prototype, " +
              entropy_words(m);
     },
     [](const Measures& m) { return "the outputs are no longer all the same: " + entropy_words(m); }, advise_flatter,
     entropy_numbers},
    {"sharp_teacher", Severity::warning, [](const Measures& m) { return m.entropy <= 0.03 * m.ln_k; },
     [](const Measures& m) { return m.entropy >= 0.06 * m.ln_k; }, [](const Measures&) { return std::int64_t{32}; },
     [](const Measures& m) {
       return "the teacher is all but certain of one prototype for each image, on the way to a collapse to one "
              "output: " +
              entropy_words(m);
     },
     [](const Measures& m) { return "the teacher is no longer that certain: " + entropy_words(m); }, advise_flatter,
     entropy_numbers},
    {"loss_stuck", Severity::warning,
     [](const Measures& m) {
       return m.blocks >= 16 && m.blocks * Health::kWindow >= m.steps_per_epoch && m.loss_ratio <= 2 && m.kl_ratio <= 2;
     },
     [](const Measures& m) { return m.loss_ratio > 4 || m.kl_ratio > 4; }, at_once,
     [](const Measures& m) {
       return fmt::format(
           "the loss has not moved in {} steps, beyond what it differs from step to step: loss {:.3f}, "
           "KL {:.3f}",
           m.blocks * Health::kWindow, m.loss, m.kl);
     },
     [](const Measures& m) { return fmt::format("the loss moves: loss {:.3f}, KL {:.3f}", m.loss, m.kl); },
     advise_movement,
     [](const Measures& m) {
       return Numbers{{"loss", m.loss}, {"kl", m.kl}, {"loss_ratio", m.loss_ratio}, {"kl_ratio", m.kl_ratio}};
     }},
    {"center_growing", Severity::warning,
     [](const Measures& m) { return m.first_center > 0 && m.center > 20 * m.first_center; },
     [](const Measures& m) { return m.center < 10 * m.first_center; }, at_once,
     [](const Measures& m) {
       return fmt::format("the center has grown to {:.3g}, {:.0f} times its first length", m.center,
                          m.center / m.first_center);
     },
     [](const Measures& m) { return fmt::format("the center has shrunk again, to {:.3g}", m.center); }, advise_center,
     [](const Measures& m) {
       return Numbers{{"center_norm", m.center}, {"first", m.first_center}};
     }},
    {"gradient_spike", Severity::note, [](const Measures& m) { return m.since_spike == 0; },
     [](const Measures& m) { return m.since_spike >= Health::kWindow; }, at_once,
     [](const Measures& m) {
       return fmt::format("a gradient of norm {:.3g}, {:.0f} times the median of those before it", m.step_gradient,
                          m.step_gradient / m.gradient_before);
     },
     [](const Measures& m) { return fmt::format("gradients are as before, with a median norm of {:.3g}", m.gradient); },
     advise_smaller_steps, gradient_numbers},
    {"gradient_vanishing", Severity::warning, [](const Measures& m) { return m.gradient <= m.largest_gradient / 1000; },
     [](const Measures& m) { return m.gradient > m.largest_gradient / 500; }, at_once,
     [](const Measures& m) {
       return fmt::format("the gradients have all but vanished: a median norm of {:.3g}, once {:.3g}", m.gradient,
                          m.largest_gradient);
     },
     [](const Measures& m) { return fmt::format("the gradients are back, with a median norm of {:.3g}", m.gradient); },
     advise_movement, gradient_numbers},
};

const HealthRule kSkipRule = {
    "not_finite",
    Severity::warning,
    [](const Measures& m) { return m.skips >= 2; },
    [](const Measures& m) { return m.skips == 0; },
    at_once,
    [](const Measures& m) {
      return fmt::format("{} of the last {} steps were skipped because something was not finite", m.skips,
                         Health::kSkipWindow);
    },
    [](const Measures&) { return fmt::format("no step was skipped in the last {}", Health::kSkipWindow); },
    advise_smaller_steps,
    [](const Measures& m) {
      return Numbers{{"skipped", static_cast<double>(m.skips)}};
    }};

const HealthRule kFeatureRule = {
    kFeatureFinding, Severity::warning,
    // Of so few pictures the rank says nothing: it is at most their number.
    [](const Measures& m) { return m.features.images >= 8 && (m.features.rank <= 2 || m.features.spread <= 0.05); },
    [](const Measures& m) { return m.features.rank > 3 && m.features.spread > 0.1; }, at_once,
    [](const Measures& m) {
      return fmt::format(
          "the features of different images are all but the same: effective rank {:.2f}, spread {:.3f} "
          "(1 where they point everywhere)",
          m.features.rank, m.features.spread);
    },
    [](const Measures& m) {
      return fmt::format("the features differ again: effective rank {:.2f}, spread {:.3f}", m.features.rank,
                         m.features.spread);
    },
    advise_features,
    [](const Measures& m) {
      return Numbers{{"rank", m.features.rank}, {"spread", m.features.spread}};
    }};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// A number of steps in a saved state. Larger ones than these are of no run, and sums with them would not fit.
std::int64_t count_of(const nlohmann::json& value, std::int64_t least = 0) {
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  const auto count = whole_number(value, least, kMost);
  require(count.has_value(), "health",
          "the saved state of the watch holds {} as a number of steps; expected a whole one from {}",
          value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 40), least);
  return *count;
}

}  // namespace

std::string Finding::to_string() const {
  const std::string when = step < 0 ? "before the first step" : fmt::format("step {}, epoch {}", step, epoch);
  return fmt::format("{}: {}: {}{}{}", name_of(severity), when, message, advice.empty() ? "" : "; try: ", advice);
}

nlohmann::ordered_json Finding::to_json() const {
  nlohmann::ordered_json numbers = nlohmann::ordered_json::object();
  for (const Number& number : evidence) numbers[number.name] = number.value;
  return {{"step", step},
          {"epoch", epoch},
          {"kind", kind},
          {"severity", name_of(severity)},
          {"state", name_of(state)},
          {"message", message},
          {"advice", advice},
          {"evidence", numbers}};
}

Health::Health(const TrainConfig& config, std::int64_t steps_per_epoch)
    : config_(config), steps_per_epoch_(steps_per_epoch), ln_k_(std::log(config.out_dim)) {}

double Health::window_mean(double Step::*number) const {
  double sum = 0;
  for (const Step& step : window_) sum += step.*number;
  return sum / static_cast<double>(window_.size());
}

double Health::window_median(double Step::*number) const {
  std::vector<double> values;
  for (const Step& step : window_) values.push_back(step.*number);
  return median(std::move(values));
}

void Health::add_to_blocks() {
  for (const auto& [number, blocks] : {std::pair{&Step::loss, &loss_blocks_}, {&Step::kl, &kl_blocks_}}) {
    const double mean = window_mean(number);
    double square = 0;
    for (const Step& step : window_) square += (step.*number - mean) * (step.*number - mean);
    // From the first mean, so that the sums stay small.
    if (block_count_ == 0) blocks->origin = mean;
    blocks->sum += mean - blocks->origin;
    blocks->square += (mean - blocks->origin) * (mean - blocks->origin);
    blocks->within += square / (kWindow - 1);
  }
  ++block_count_;
}

double Health::block_ratio(const Blocks& blocks) const {
  const auto n = static_cast<double>(block_count_);
  if (block_count_ < 2) return 0;
  const double between = std::max(0.0, blocks.square - blocks.sum * blocks.sum / n) / (n - 1);
  // Numbers that never change have not moved either.
  return between == 0 ? 0 : kWindow * between / (blocks.within / n);
}

void Health::judge(const HealthRule& rule, const HealthMeasures& measures, std::int64_t step, std::int64_t epoch,
                   std::vector<Finding>& findings) {
  Condition& condition = conditions_[rule.kind];
  Finding finding;
  finding.kind = rule.kind;
  finding.severity = rule.severity;
  finding.step = step;
  finding.epoch = epoch;
  if (condition.active) {
    if (!rule.ends(measures)) return;
    condition = {};
    finding.state = State::ends;
    finding.message = rule.over(measures);
  } else {
    condition.held = rule.begins(measures) ? condition.held + 1 : 0;
    if (condition.held < rule.patience(measures)) return;
    condition.active = true;
    finding.state = State::begins;
    finding.message = rule.seen(measures);
    finding.advice = rule.advice(config_);
  }
  finding.evidence = rule.evidence(measures);
  findings.push_back(std::move(finding));
}

HealthMeasures Health::measures() const {
  HealthMeasures m{.config = config_, .steps_per_epoch = steps_per_epoch_, .ln_k = ln_k_};
  m.skips = recent_skips();
  return m;
}

std::vector<Finding> Health::step(const Step& step) {
  std::vector<Finding> findings;
  while (!skips_.empty() && skips_.front() <= step.step - kSkipWindow) skips_.pop_front();
  if (step.not_finite) {
    skips_.push_back(step.step);
    findings.push_back({.kind = "skipped_step",
                        .severity = Severity::note,
                        .state = State::once,
                        .step = step.step,
                        .epoch = step.epoch,
                        .message = fmt::format("the step was skipped (not finite: {}); weights, teacher, center and "
                                               "counts are as before it",
                                               *step.not_finite),
                        .advice = {},
                        .evidence = {{"skipped", static_cast<double>(recent_skips())}}});
  }
  HealthMeasures m = measures();
  judge(kSkipRule, m, step.step, step.epoch, findings);
  const bool finite = std::isfinite(step.loss) && std::isfinite(step.teacher_entropy) && std::isfinite(step.kl) &&
                      std::isfinite(step.gradient_norm) && std::isfinite(step.center_norm);
  if (step.not_finite || !finite) return findings;

  const bool was_full = window_.size() == kWindow;
  m.step_gradient = step.gradient_norm;
  if (was_full) {
    m.gradient_before = window_median(&Step::gradient_norm);
    if (step.gradient_norm > 10 * m.gradient_before) last_spike_ = step.step;
    window_.pop_front();
  }
  window_.push_back(step);
  ++good_steps_;
  if (window_.size() < kWindow) return findings;
  if (good_steps_ % kWindow == 0 && good_steps_ > 2 * kWindow) add_to_blocks();

  m.loss = window_mean(&Step::loss);
  m.entropy = window_mean(&Step::teacher_entropy);
  m.kl = window_mean(&Step::kl);
  m.center = window_mean(&Step::center_norm);
  m.gradient = window_median(&Step::gradient_norm);
  if (!was_full) first_center_norm_ = m.center;
  largest_gradient_ = std::max(largest_gradient_, m.gradient);
  m.first_center = first_center_norm_;
  m.largest_gradient = largest_gradient_;
  m.since_spike = last_spike_ < 0 ? std::numeric_limits<std::int64_t>::max() : step.step - last_spike_;
  m.blocks = block_count_;
  m.loss_ratio = block_ratio(loss_blocks_);
  m.kl_ratio = block_ratio(kl_blocks_);
  for (const HealthRule& rule : kWindowRules) judge(rule, m, step.step, step.epoch, findings);
  return findings;
}

std::vector<Finding> Health::features(std::int64_t step, std::int64_t epoch, const FeatureSpread& teacher) {
  std::vector<Finding> findings;
  HealthMeasures m = measures();
  m.features = teacher;
  judge(kFeatureRule, m, step, epoch, findings);
  return findings;
}

bool Health::sound() const {
  const auto severe = [&](const HealthRule& rule) {
    const auto at = conditions_.find(rule.kind);
    return rule.severity == Severity::severe && at != conditions_.end() && at->second.active;
  };
  return skips_.empty() && std::none_of(std::begin(kWindowRules), std::end(kWindowRules), severe);
}

std::string Health::state() const {
  nlohmann::ordered_json window = nlohmann::ordered_json::array();
  for (const Step& s : window_) {
    window.push_back({s.step, s.epoch, s.loss, s.teacher_entropy, s.kl, s.gradient_norm, s.center_norm});
  }
  nlohmann::ordered_json conditions = nlohmann::ordered_json::object();
  for (const auto& [kind, condition] : conditions_) conditions[kind] = {condition.active, condition.held};
  const auto blocks = [](const Blocks& b) { return std::array{b.origin, b.sum, b.square, b.within}; };
  return nlohmann::ordered_json{{"window", window},
                                {"skips", skips_},
                                {"good_steps", good_steps_},
                                {"blocks", block_count_},
                                {"loss_blocks", blocks(loss_blocks_)},
                                {"kl_blocks", blocks(kl_blocks_)},
                                {"first_center_norm", first_center_norm_},
                                {"largest_gradient", largest_gradient_},
                                {"last_spike", last_spike_},
                                {"conditions", conditions}}
      .dump();
}

void Health::restore(const std::string& state) {
  const nlohmann::json json = parse_json(state);
  try {
    Health restored(config_, steps_per_epoch_);
    for (const auto& s : json.at("window")) {
      restored.window_.push_back({.step = count_of(s.at(0)),
                                  .epoch = count_of(s.at(1)),
                                  .loss = s.at(2),
                                  .teacher_entropy = s.at(3),
                                  .kl = s.at(4),
                                  .gradient_norm = s.at(5),
                                  .center_norm = s.at(6),
                                  .not_finite = {}});
    }
    const auto blocks = [](const nlohmann::json& b) { return Blocks{b.at(0), b.at(1), b.at(2), b.at(3)}; };
    for (const auto& skip : json.at("skips")) restored.skips_.push_back(count_of(skip));
    require(restored.window_.size() <= kWindow && restored.skips_.size() <= kSkipWindow, "health",
            "the saved state of the watch holds {} steps and {} skipped ones; expected at most {} and {}",
            restored.window_.size(), restored.skips_.size(), kWindow, kSkipWindow);
    restored.good_steps_ = count_of(json.at("good_steps"));
    restored.block_count_ = count_of(json.at("blocks"));
    restored.loss_blocks_ = blocks(json.at("loss_blocks"));
    restored.kl_blocks_ = blocks(json.at("kl_blocks"));
    restored.first_center_norm_ = json.at("first_center_norm");
    restored.largest_gradient_ = json.at("largest_gradient");
    restored.last_spike_ = count_of(json.at("last_spike"), -1);
    for (const auto& [kind, condition] : json.at("conditions").items()) {
      restored.conditions_[kind] = {.active = condition.at(0), .held = count_of(condition.at(1))};
    }
    *this = std::move(restored);
  } catch (const nlohmann::json::exception& error) {
    fail("health", "the saved state of the watch cannot be read: {}", error.what());
  }
}

}  // namespace dino
