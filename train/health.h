#pragma once

#include "train/config.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace dino {

/// What the watch over a run says: that something begins, ends, or happened once.
struct Finding {
  enum class Severity : std::uint8_t { note, warning, severe };
  enum class State : std::uint8_t { begins, ends, once };
  struct Number {
    std::string name;
    double value;
  };

  std::string kind;  // `one_output`; docs/logs.md lists them
  Severity severity = Severity::note;
  State state = State::once;
  std::int64_t step = 0, epoch = 0;  // whose numbers decided it
  std::string message;               // what is seen, in words and numbers
  std::string advice;                // what to change; empty where there is nothing to do
  std::vector<Number> evidence;

  /// `step 412, epoch 1: the teacher gives …; try …`
  std::string to_string() const;
  /// As a line of health.jsonl.
  nlohmann::ordered_json to_json() const;
};

/// The kind of the one finding that an evaluation makes; all others are of a step.
inline constexpr const char* kFeatureFinding = "feature_rank";

/// How the features of many pictures lie, one row of length 1 for each.
struct FeatureSpread {
  double rank = 0;    // exp of the entropy of the singular values: 1 where all rows are alike
  double spread = 0;  // sqrt(1 - ‖mean row‖²): 0 where all rows are alike, 1 where they point everywhere
  std::int64_t images = 0, width = 0;  // rows and columns
};

struct HealthRule;
struct HealthMeasures;

/// Watches a run by its numbers, and says in plain words when it collapses, stands still or breaks, once when that
/// begins and once when it ends. Nothing here knows networks: the same numbers give the same findings, in a run, after
/// a resume and from a log.
///
/// Numbers of steps are judged by their means over the last kWindow steps that were not skipped. K is out_dim:
///   uniform_outputs     ln K - entropy <= 0.01 ln K, for as many steps as an epoch has (32 to 1000): the teacher says
///                       nothing about any image. A healthy run may begin that flat, but leaves it within its first
///                       epoch. Ends above 0.02 ln K.
///   one_output          loss <= 0.05 ln K. The loss is the entropy plus KL, so both are near 0: the student foretells
///                       from a small crop what the teacher says of another, which is only possible when that is always
///                       the same. Ends above 0.1 ln K.
///   sharp_teacher       entropy <= 0.03 ln K for 32 steps more: one prototype has all the weight. The way into
///                       one_output, or a teacher_temp that is too low. Ends above 0.06 ln K.
///   loss_stuck          Over all blocks of 32 steps but the first two, in which the center settles, 16 at least and an
///                       epoch: 32 times the variance of the blocks' means is at most twice the mean variance within
///                       blocks, for loss and KL alike: the ratio of an analysis of variance, 1 for a loss that merely
///                       fluctuates. Ends above 4.
///   center_growing      norm of the center > 20 times that of the first window that was full. Ends below 10 times.
///   gradient_spike      norm of the gradient > 10 times the median of the window before. Ends 32 steps after the last.
///   gradient_vanishing  median norm of the window <= 1/1000 of the largest median so far. Ends above 1/500.
///   not_finite          two of the last 100 steps were skipped. Ends when none were.
///   feature_rank        rank <= 2 or spread <= 0.05 of the teacher's features, of 8 pictures at least. Ends above 3
///                       and 0.1.
/// docs/training.md has the runs by which these were tried.
class Health {
 public:
  static constexpr int kWindow = 32;
  static constexpr int kSkipWindow = 100;

  struct Step {
    std::int64_t step = 0, epoch = 0;
    double loss = 0, teacher_entropy = 0, kl = 0, gradient_norm = 0, center_norm = 0;
    std::optional<std::string> not_finite;  // what was: the step was skipped
  };

  /// The configuration gives K, and what the advice can say about it.
  Health(const TrainConfig& config, std::int64_t steps_per_epoch);

  /// Steps come in order.
  std::vector<Finding> step(const Step& step);
  /// The teacher's features, between the step `step` and the next.
  std::vector<Finding> features(std::int64_t step, std::int64_t epoch, const FeatureSpread& teacher);

  /// How many of the last kSkipWindow steps were skipped.
  int recent_skips() const { return static_cast<int>(skips_.size()); }
  /// Nothing severe is the matter and no step of the last kSkipWindow was skipped.
  bool sound() const;

  /// All that was seen, as JSON, and back, so that a resumed run finds what one that was not stopped finds. Throws
  /// Error where the text is not a state.
  std::string state() const;
  void restore(const std::string& state);

 private:
  /// One thing that may be the matter.
  struct Condition {
    bool active = false;
    std::int64_t held = 0;  // steps in a row in which it could begin
  };
  /// Sums over blocks of kWindow steps.
  struct Blocks {
    double origin = 0;           // mean of the first block
    double sum = 0, square = 0;  // of the blocks' means, from there
    double within = 0;           // of the variances within blocks
  };

  double window_mean(double Step::*number) const;
  double window_median(double Step::*number) const;
  void add_to_blocks();
  double block_ratio(const Blocks& blocks) const;
  HealthMeasures measures() const;
  void judge(const HealthRule& rule, const HealthMeasures& measures, std::int64_t step, std::int64_t epoch,
             std::vector<Finding>& findings);

  TrainConfig config_;
  std::int64_t steps_per_epoch_;
  double ln_k_;
  std::deque<Step> window_;         // steps that were not skipped
  std::deque<std::int64_t> skips_;  // of the last kSkipWindow steps
  std::int64_t good_steps_ = 0;     // not skipped, of the run
  std::int64_t block_count_ = 0;
  Blocks loss_blocks_, kl_blocks_;
  double first_center_norm_ = 0, largest_gradient_ = 0;
  std::int64_t last_spike_ = -1;
  std::map<std::string, Condition> conditions_;
};

}  // namespace dino
