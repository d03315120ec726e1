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
/// Called before the first epoch and after every knn_every-th; after each where knn_every is 0. Every rank calls it,
/// and it ends in the same way on all of them.
using Evaluator = std::function<Evaluation(StudentTeacher&)>;

/// Trains as the configuration says and keeps in config.output_dir:
///   last.safetensors (every epoch, every save_minutes, and when interrupted), previous.safetensors (what `last` was
///   before), best.safetensors, epoch_NNNN.safetensors (every saveckp_freq epochs), healthy.safetensors (where
///   config.rollbacks allows to go back to it), config.toml, log.jsonl (a line per step), knn.jsonl (a line per
///   evaluation; that of the untrained networks has epoch -1), health.jsonl.
/// A step whose loss or gradient is not finite is skipped; the data go on. More than config.max_skipped_steps of any
/// 100 end the run, and so does nothing else that Health finds; with config.rollbacks both that and a severe finding
/// take the run back to healthy.safetensors. Either happens before the step kMaxPending steps later, or earlier at the
/// end of an epoch, so that ranks act alike, and equals what a run does that was stopped and resumed. Returns 0, or
/// StopSignal::exit_status() when a signal ended the run after a step or in an evaluation; the state is then saved.
/// With several ranks every rank calls it; rank 0 writes, and reads checkpoints and first weights for all. A run may be
/// resumed with another number of ranks, where a step has as many images.
/// `observers` are told of every step, evaluation and epoch, after the logs are written. Throws Error when a fresh run
/// finds another run in output_dir, or a resumed one finds none, or training diverges; nothing is overwritten then.
/// Throws Error as well where the disk does not take the last state at the end.
int train(Context& context, Communicator& communicator, const TrainConfig& config, const ImageSource& images,
          StartMode start, const Evaluator& evaluator = {}, RunObservers observers = {});

}  // namespace dino
