#include "evaluate/linear_evaluation.h"

#include "engine/communicators/threads.h"
#include "evaluate/held_out.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_network.h"
#include "tests/support/tiny_training.h"
#include "train/stop_signal.h"

#include <atomic>
#include <cmath>
#include <csignal>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

struct EvaluatedNetwork : TinyNetwork {
  EvaluatedNetwork() : TinyNetwork(16, 5) {}

  LinearEvaluation evaluate(const LinearEvaluationOptions& options, const LinearProgress& progress = {}) const {
    SingleProcess communicator;
    return evaluate(communicator, DrawnPictures(60), options, progress);
  }
  /// Of 60 pictures, 40 train.
  LinearEvaluation evaluate(Communicator& communicator, const ImageSource& images,
                            const LinearEvaluationOptions& options, const LinearProgress& progress = {}) const {
    const Subset train(images, indices(0, 40)), test(images, indices(40, 60));
    return evaluate_linear(*context, communicator, vit, store, dino::Network::student, train, test, options, progress);
  }
  static std::vector<std::int64_t> indices(std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> result;
    for (std::int64_t i = begin; i < end; ++i) result.push_back(i);
    return result;
  }
};

LinearEvaluationOptions small_options() {
  LinearEvaluationOptions options;
  options.probe = {.learning_rates = {0.5, 5}, .epochs = 6, .batch = 16};
  options.features = {
      .crop_px = 16, .short_side_px = 18, .batch = 8, .threads = 2, .kind = {.blocks = 2, .average_patches = false}};
  return options;
}

void check_same(const LinearEvaluation& a, const LinearEvaluation& b) {
  REQUIRE(a.epochs.size() == b.epochs.size());
  for (std::size_t e = 0; e < a.epochs.size(); ++e) {
    CHECK(a.epochs[e].loss == b.epochs[e].loss);
    for (std::size_t l = 0; l < a.epochs[e].test.size(); ++l)
      CHECK(a.epochs[e].test[l].top1 == b.epochs[e].test[l].top1);
  }
}

}  // namespace

TEST_CASE("A linear evaluation learns, resumes to the same numbers, and refuses another run's state") {
  const EvaluatedNetwork net;
  const TemporaryFolder folder;
  for (const bool cached : {false, true}) {
    LinearEvaluationOptions options = small_options();
    options.cached = cached;
    const LinearEvaluation whole = net.evaluate(options);
    REQUIRE(whole.epochs.size() == 6);
    CHECK((whole.train_images == 40 && whole.test_images == 20 && whole.classes == 2 && whole.width == 48));
    CHECK(whole.epochs.back().loss[0] < whole.epochs.front().loss[0]);
    for (const LinearEpoch& epoch : whole.epochs) {
      for (const LinearScore& score : epoch.test) CHECK(score.top1 <= whole.best().top1);
    }

    options.state = folder.path() / (cached ? "cached.safetensors" : "augmented.safetensors");
    {
      // Stopped in the fourth epoch.
      const StopSignal stop;
      const LinearEvaluation part =
          net.evaluate(options, [&](const std::string& stage, std::int64_t done, std::int64_t, const std::string&) {
            if (stage == "linear classifiers" && done >= 3 * 40) std::raise(SIGINT);
          });
      CHECK(part.epochs.size() == 3);
    }
    const StopSignal none;                          // forgets the one that came
    CHECK_THROWS_AS(net.evaluate(options), Error);  // the state stands there
    options.resume = true;
    check_same(net.evaluate(options), whole);
    check_same(net.evaluate(options), whole);  // nothing is left to do
    LinearEvaluationOptions other = options;
    other.probe.learning_rates = {0.5, 4};
    CHECK(error_of([&] { net.evaluate(other); }).find("learning_rates") != std::string::npos);
    // As many pictures of other names.
    class Renamed final : public ImageSource {
     public:
      std::int64_t size() const override { return drawn_.size(); }
      void decode(std::int64_t index, Image& image) const override { drawn_.decode(index, image); }
      std::int32_t label(std::int64_t index) const override { return drawn_.label(index); }
      std::string name(std::int64_t index) const override { return "other " + drawn_.name(index); }

     private:
      DrawnPictures drawn_{60};
    };
    SingleProcess alone;
    CHECK(
        contains(error_of([&] { EvaluatedNetwork().evaluate(alone, Renamed(), options); }), "checksum_of_train_names"));
    other = options;
    other.state = folder.path() / "missing.safetensors";
    CHECK_THROWS_AS(net.evaluate(other), Error);
  }
}

namespace {

/// What each of so many ranks, which are threads, returned or threw.
struct OnRanks {
  std::vector<LinearEvaluation> results;
  std::vector<std::string> errors;

  OnRanks(int ranks, const ImageSource& images, const std::function<LinearEvaluationOptions(int rank)>& options,
          const LinearProgress& progress = {})
      : results(static_cast<std::size_t>(ranks)), errors(results.size()) {
    ThreadGroup group(ranks, 60);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        ThreadCommunicator communicator(group, rank);
        const auto at = static_cast<std::size_t>(rank);
        try {
          results[at] = EvaluatedNetwork().evaluate(communicator, images, options(rank), progress);
        } catch (const Interrupted&) {
          errors[at] = "interrupted";
        } catch (const std::exception& error) {
          errors[at] = error.what();
          communicator.abort(error.what());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

/// Steps of 12 pictures in all; 40 make three of them and one of 4.
LinearEvaluationOptions options_for(int ranks) {
  LinearEvaluationOptions options = small_options();
  options.probe.batch = 12 / ranks;
  options.features.threads = 1;
  return options;
}

/// The same on every rank to the last bit, and up to the order of sums that of one rank: losses are about 0.7 from
/// logits of 48 products, and 24 steps pass their roundings of 2^-24 on.
void check_on_ranks(const OnRanks& got, const LinearEvaluation& expected) {
  for (const std::string& error : got.errors) REQUIRE(error == "");
  for (const LinearEvaluation& result : got.results) {
    check_same(result, got.results[0]);
    REQUIRE(result.epochs.size() == expected.epochs.size());
    for (std::size_t e = 0; e < expected.epochs.size(); ++e) {
      for (std::size_t l = 0; l < expected.epochs[e].loss.size(); ++l) {
        CHECK(std::abs(result.epochs[e].loss[l] - expected.epochs[e].loss[l]) <= 1e-4);
        CHECK(result.epochs[e].test[l].top1 == expected.epochs[e].test[l].top1);
        CHECK(result.epochs[e].test[l].top5 == expected.epochs[e].test[l].top5);
      }
      REQUIRE(result.epochs[e].held_out.size() == expected.epochs[e].held_out.size());
      for (std::size_t l = 0; l < expected.epochs[e].held_out.size(); ++l)
        CHECK(result.epochs[e].held_out[l].top1 == expected.epochs[e].held_out[l].top1);
    }
    CHECK((result.best_epoch == expected.best_epoch && result.best_rate == expected.best_rate));
    CHECK(result.train_images == expected.train_images);
    CHECK(result.held_out_images == expected.held_out_images);
    CHECK(result.test_images == expected.test_images);
    CHECK(result.broken_images == expected.broken_images);
  }
}

/// Some pictures cannot be read.
class SomeDamaged final : public ImageSource {
 public:
  std::int64_t size() const override { return drawn_.size(); }
  void decode(std::int64_t index, Image& image) const override {
    require(index % 13 != 7, "test", "damaged");
    drawn_.decode(index, image);
  }
  std::int32_t label(std::int64_t index) const override { return drawn_.label(index); }
  std::string name(std::int64_t index) const override { return drawn_.name(index); }

 private:
  DrawnPictures drawn_{60};
};

}  // namespace

TEST_CASE("A linear evaluation on N ranks with batch B is that of one with N·B, and goes on on M") {
  const StopSignal none;
  const TemporaryFolder folder;
  const DrawnPictures good(60);
  const SomeDamaged damaged;
  for (const bool cached : {false, true}) {
    for (const ImageSource* images :
         {static_cast<const ImageSource*>(&good), static_cast<const ImageSource*>(&damaged)}) {
      const auto options = [&](int ranks) {
        LinearEvaluationOptions result = options_for(ranks);
        result.cached = cached;
        result.chosen_on = images == &good ? ChosenOn::test : ChosenOn::held_out;
        return result;
      };
      SingleProcess alone;
      const LinearEvaluation expected = EvaluatedNetwork().evaluate(alone, *images, options(1));
      CHECK(expected.broken_images == (images == &good ? 0 : 5));
      for (const int ranks : {2, 3, 4})
        check_on_ranks(OnRanks(ranks, *images, [&](int) { return options(ranks); }), expected);
    }

    const LinearEvaluation whole = [&] {
      SingleProcess alone;
      LinearEvaluationOptions options = options_for(1);
      options.cached = cached;
      return EvaluatedNetwork().evaluate(alone, good, options);
    }();
    const auto with_state = [&](int ranks, bool resume) {
      LinearEvaluationOptions options = options_for(ranks);
      options.cached = cached;
      options.state = folder.path() / fmt::format("{}.safetensors", cached);
      options.resume = resume;
      return options;
    };
    {
      // One rank raises it; all give up the same epoch.
      const StopSignal stop;
      std::atomic_flag raised;
      const OnRanks part(
          3, good, [&](int) { return with_state(3, false); },
          [&](const std::string& stage, std::int64_t done, std::int64_t, const std::string&) {
            if (stage == "linear classifiers" && done >= 3 * 40 && !raised.test_and_set()) std::raise(SIGINT);
          });
      for (const std::string& error : part.errors) CHECK(error == "");
      for (const LinearEvaluation& result : part.results) CHECK(result.epochs.size() == 3);
    }
    const StopSignal forget;
    const OnRanks other(2, good, [&](int rank) {
      LinearEvaluationOptions options = with_state(2, true);
      options.probe.batch = 5;
      if (rank > 0) options.state = "a folder that only rank 0 has/state";
      return options;
    });
    for (const std::string& error : other.errors) CHECK(error.find("its batch is 12, not 10") != std::string::npos);
    check_on_ranks(OnRanks(2, good, [&](int) { return with_state(2, true); }), whole);
  }
}

TEST_CASE("A linear evaluation whose ranks are given different things is refused on all") {
  const StopSignal none;
  const DrawnPictures images(60);
  const OnRanks seeds(3, images, [](int rank) {
    LinearEvaluationOptions options = options_for(3);
    if (rank == 2) options.probe.seed = 5;
    return options;
  });
  for (const std::string& error : seeds.errors)
    CHECK(error.find("rank 2 has seed 5, rank 0 has 0") != std::string::npos);
}

TEST_CASE("What is held out decides, and is not trained on") {
  const EvaluatedNetwork net;
  const StopSignal none;
  LinearEvaluationOptions options = small_options();
  options.cached = true;
  options.chosen_on = ChosenOn::held_out;
  const LinearEvaluation result = net.evaluate(options);
  CHECK(result.train_images == 36);
  CHECK(result.held_out_images == 4);
  for (const LinearEpoch& epoch : result.epochs) {
    REQUIRE(epoch.held_out.size() == 2);
    for (const LinearScore& score : epoch.held_out)
      CHECK(score.top1 <= result.epochs[result.best_epoch].held_out[result.best_rate].top1);
  }
}

TEST_CASE("A linear evaluation that is stopped before its first epoch says so") {
  const EvaluatedNetwork net;
  const StopSignal stop;
  CHECK_THROWS_AS(net.evaluate(small_options(), [](const std::string&, std::int64_t, std::int64_t,
                                                   const std::string&) { std::raise(SIGTERM); }),
                  Interrupted);
}
