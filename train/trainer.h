#pragma once

#include "data/image_source.h"
#include "engine/communicator.h"
#include "engine/context.h"
#include "train/config.h"
#include "train/run_folder.h"
#include "train/run_observer.h"

#include <functional>

namespace dino {

/// Throws Interrupted when a signal asks the run to stop, and Error when it cannot measure: the run goes on without.
using Evaluator = std::function<Evaluation(StudentTeacher&)>;

/// Trains as the configuration says and keeps in config.output_dir:
///   last.safetensors (every epoch, every save_minutes, and when interrupted), previous.safetensors (what `last` was
///   before), best.safetensors, epoch_NNNN.safetensors (every saveckp_freq epochs), config.toml, log.jsonl (a line per
///   step), knn.jsonl (a line per evaluation; that of the untrained networks has epoch -1).
/// Returns 0, or StopSignal::exit_status() when a signal ended the run after a step or in an evaluation; the state is
/// then saved. `observers` are told of every step, evaluation and epoch, after the logs are written. Throws Error when
/// a fresh run finds another run in output_dir, or a resumed one finds none, or training diverges; nothing is
/// overwritten then. Throws Error as well where the disk does not take the last state at the end.
int train(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator = {}, RunObservers observers = {});

}  // namespace dino
