#pragma once

#include "data/image_source.h"
#include "engine/communicator.h"
#include "engine/context.h"
#include "train/checkpoint.h"
#include "train/config.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <memory>
#include <string>

namespace dino {

/// What an evaluation of the networks between epochs found.
struct Evaluation {
  double score = 0;  // higher is better: decides which checkpoint is `best`
  std::string summary;
  std::shared_ptr<nlohmann::ordered_json> numbers;  // goes to knn.jsonl
};
/// Throws Interrupted when a signal asks the run to stop, and Error when it cannot measure: the run goes on without.
using Evaluator = std::function<Evaluation(StudentTeacher&)>;

enum class StartMode { fresh, resume };

/// Trains as the configuration says and keeps in config.output_dir:
///   last.safetensors (every epoch, and when interrupted), best.safetensors, epoch_NNNN.safetensors (every
///   saveckp_freq epochs), config.toml, log.jsonl (a line per step), knn.jsonl (a line per evaluation; that of the
///   untrained networks has epoch -1).
/// Returns 0, or 128 + the signal when SIGINT or SIGTERM ended the run after a step or in an evaluation; the state is
/// then saved. Throws Error when a fresh run finds another run in output_dir, or a resumed one finds none, or training
/// diverges; nothing is overwritten then.
int train(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator = {});

}  // namespace dino
