#pragma once

#include "evaluate/features.h"
#include "evaluate/linear_probe.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace dino {

/// Which pictures decide on the learning rate and the epoch that are reported.
enum class ChosenOn {
  test,     // the test pictures themselves, as the official script's best accuracy; flatters a little
  held_out  // every tenth training picture of each class, which then is not trained on
};

struct LinearEvaluationOptions {
  LinearProbeOptions probe;
  /// Centre crop and resize of the pictures to classify, and what stands for a picture. `normalized` is not used: the
  /// classifiers see the features as they are.
  FeatureOptions features;
  /// Features of the training pictures are computed once, from centre crops, instead of anew in every epoch from random
  /// crops and flips: `epochs` times faster, and a little less accurate.
  bool cached = false;
  ChosenOn chosen_on = ChosenOn::test;
  std::filesystem::path state = {};  // .safetensors, written after each epoch; empty: none
  bool resume = false;               // go on from `state`
};

/// What stood after an epoch, for each learning rate.
struct LinearEpoch {
  std::vector<double> loss = {};  // mean over the epoch's batches
  std::vector<LinearScore> test = {};
  std::vector<LinearScore> held_out = {};  // empty where the choice is made on the test pictures
};

struct LinearEvaluation {
  std::vector<LinearEpoch> epochs;  // fewer than asked for where a signal ended the work
  std::size_t best_epoch = 0;       // from 0
  std::size_t best_rate = 0;        // number of the learning rate
  std::int64_t train_images = 0, held_out_images = 0, test_images = 0, broken_images = 0;
  int classes = 0;
  std::int64_t width = 0;

  const LinearScore& best() const { return epochs.at(best_epoch).test.at(best_rate); }
};

/// Called now and then with what is being done, how far it is, and something to add.
using LinearProgress =
    std::function<void(const std::string& stage, std::int64_t done, std::int64_t total, const std::string& details)>;

/// Trains linear classifiers on frozen features of `train` and classifies `test` (official eval_linear.py). Labels
/// start at 0. Work, unless cached: `epochs` passes of the network over all training pictures.
///
/// With several ranks, each computes the features of its part of every batch, of N·B pictures; all return the same, as
/// one rank with a batch of N·B to rounding, and the state of any number of ranks is one of another with the same N·B.
/// Rank 0 alone reads and writes it. Every rank gives up the same epoch, wherever a signal arrives.
///
/// When a signal arrives (see StopSignal) the epoch under way is given up and what stood before it is returned; throws
/// Interrupted where no epoch is complete. A resumed run ends in the same numbers as one that was never stopped. Throws
/// Error where the state belongs to other weights, pictures or options, or stands in the way of a new run, and where
/// these differ between ranks.
LinearEvaluation evaluate_linear(Context& context, Communicator& communicator, const Vit& vit,
                                 const ParameterStore& store, Network network, const ImageSource& train,
                                 const ImageSource& test, const LinearEvaluationOptions& options,
                                 const LinearProgress& progress = {});

}  // namespace dino
