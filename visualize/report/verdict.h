#pragma once

#include "visualize/report/run_history.h"

#include <string>
#include <vector>

namespace dino {

/// Is a run learning? Said from what it logged, in plain words, with the numbers that say so.
struct Verdict {
  enum class Answer { yes, no, unsure };
  Answer answer = Answer::unsure;
  std::string headline;
  std::vector<std::string> evidence;
};

/// The k-NN accuracy decides where it is measured: against the untrained networks and the bare pixels, with the error
/// that the number of pictures leaves. Outputs that are uniform or all alike are a collapse, and so is what
/// health.jsonl says has not ended. Without any of these the answer is open.
Verdict judge(const RunHistory& run);

}  // namespace dino
