#include "visualize/report/verdict.h"

#include "visualize/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dino {
namespace {

/// Two accuracies in percent of so many pictures differ by chance by up to this, in 19 of 20 cases; with a number of
/// pictures that is not known, by 2 points.
double chance_points(double a, double b, std::int64_t pictures) {
  if (pictures <= 0) return 2;
  const auto variance = [&](double percent) { return percent * (100 - percent) / static_cast<double>(pictures); };
  return std::max(0.5, 1.96 * std::sqrt(variance(a) + variance(b)));
}

/// Findings that have begun and not ended.
std::vector<const HealthLine*> open_findings(const RunHistory& run) {
  std::vector<const HealthLine*> open;
  for (std::size_t i = 0; i < run.health.size(); ++i) {
    if (run.end_of(i) == nullptr) open.push_back(&run.health[i]);
  }
  return open;
}

struct Collapse {
  bool uniform = false, one_output = false;
};

Collapse collapse_of(const RunHistory& run) {
  const Series &entropy = run.series("entropy"), &kl = run.series("kl");
  const double prototypes = run.config_number("out_dim").value_or(0);
  // At first outputs may well be near to uniform.
  if (entropy.count() < 20 || prototypes < 2) return {};
  const double most = std::log(prototypes);
  return {.uniform = entropy.recent() > 0.999 * most && kl.recent() < 1e-3 * most,
          .one_output = entropy.recent() < 1e-3 * most && kl.recent() < 1e-2 * most};
}

}  // namespace

Verdict judge(const RunHistory& run) {
  using Answer = Verdict::Answer;
  Verdict verdict;
  const Series &loss = run.series("loss"), &entropy = run.series("entropy");
  const auto prototypes = run.config_number("out_dim");
  const double most = std::log(std::max(2.0, prototypes.value_or(2)));
  const auto say = [&](std::string text) { verdict.evidence.push_back(std::move(text)); };

  // The accuracy, against what no training gives. Early in a run the student is ahead of its teacher.
  const KnnLine* untrained = run.untrained();
  std::optional<KnnScore> first = untrained ? RunHistory::best(untrained->teacher) : std::nullopt, last, pixels;
  std::int64_t pictures = 0;
  const char* who = "teacher";
  double top = -1;
  for (const KnnLine& line : run.knn) {
    if (const auto score = RunHistory::best(line.pixels)) pixels = score;
    pictures = std::max(pictures, line.pictures);
    const auto teacher = RunHistory::best(line.teacher), student = RunHistory::best(line.student);
    if (line.epoch < 0 || !teacher) continue;
    const bool student_ahead = student && student->top1 > teacher->top1;
    who = student_ahead ? "student" : "teacher";
    last = student_ahead ? student : teacher;
    top = std::max(top, teacher->top1);
  }
  enum class Gain { unknown, none, some } gain = Gain::unknown;
  if (last && first) {
    const double chance = chance_points(last->top1, first->top1, pictures), points = last->top1 - first->top1;
    gain = points > chance ? Gain::some : Gain::none;
    say(fmt::format("k-NN: the {} names {:.1f} % of the pictures rightly, untrained it was {:.1f} %: {} points{}.", who,
                    last->top1, first->top1, (points > 0 ? "+" : "") + short_number(std::round(10 * points) / 10),
                    gain == Gain::some ? "" : fmt::format(", no more than chance may give (±{:.1f})", chance)));
  } else if (last) {
    say(fmt::format("k-NN: the {} names {:.1f} % of the pictures rightly; the untrained network was not measured.", who,
                    last->top1));
  }
  if (last && pixels) {
    const double chance = chance_points(last->top1, pixels->top1, pictures), points = last->top1 - pixels->top1;
    say(fmt::format("Bare pixels, compared directly, give {:.1f} %: the network is {} them.", pixels->top1,
                    points > chance    ? "ahead of"
                    : points < -chance ? "still behind"
                                       : "level with"));
  }
  if (last && top > last->top1 + chance_points(last->top1, top, pictures))
    say(fmt::format("It has been better: {:.1f} % at best. That state is in best.safetensors.", top));

  // What the run itself has found counts as well: it saw every step.
  const auto findings = open_findings(run);
  Collapse collapse = collapse_of(run);
  for (const HealthLine* line : findings) {
    collapse.uniform |= line->kind == "uniform_outputs";
    collapse.one_output |= line->kind == "one_output";
  }
  if (!entropy.empty() && prototypes) {
    say(fmt::format("Teacher entropy {} of at most {} nats{}.", short_number(entropy.recent()), short_number(most),
                    collapse.uniform      ? ": every picture gets the same, uniform output"
                    : collapse.one_output ? ": every picture gets the same single output"
                                          : ", so the outputs are neither uniform nor all one"));
  }
  if (!loss.empty())
    say(fmt::format("Loss from {} to {}{}.", short_number(loss.first()), short_number(loss.recent()),
                    prototypes ? fmt::format(" (uniform outputs: {})", short_number(most)) : ""));
  if (!run.knn.empty() && run.knn.back().rank)
    say(fmt::format(
        "The features fill about {:.1f} directions{}.", *run.knn.back().rank,
        run.knn.front().rank && run.knn.size() > 1 ? fmt::format(", at first {:.1f}", *run.knn.front().rank) : ""));
  if (run.skipped_steps > 0)
    say(fmt::format("{} steps were skipped: something in them was not finite.", run.skipped_steps));

  for (const HealthLine* line : findings) say("Warning: " + line->message);
  const bool severe =
      std::any_of(findings.begin(), findings.end(), [](const HealthLine* line) { return line->severity == "severe"; });

  if (collapse.uniform || collapse.one_output) {
    verdict.answer = Answer::no;
    verdict.headline =
        collapse.uniform ? "No: it has collapsed to uniform outputs" : "No: it has collapsed to one output";
  } else if (severe) {
    verdict.answer = Answer::no;
    verdict.headline = "No: something is wrong";
  } else if (gain == Gain::some) {
    verdict.answer = Answer::yes;
    verdict.headline = findings.empty() ? "Yes, it is learning" : "Yes, it is learning, with warnings";
  } else if (gain == Gain::none) {
    verdict.answer = Answer::unsure;
    verdict.headline = run.last_epoch < 2 ? "Too early to say" : "Not yet: no better than untrained";
  } else if (loss.count() < 20) {
    verdict.headline = "Too early to say";
  } else {
    verdict.headline = "It has not collapsed; whether it is learning was not measured";
    say("The loss cannot tell: it compares the student with a teacher that changes. Set knn_every, with labels for "
        "some "
        "pictures, to know.");
  }
  return verdict;
}

}  // namespace dino
