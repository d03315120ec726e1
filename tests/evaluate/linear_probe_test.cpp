#include "evaluate/linear_probe.h"

#include "data/sampler.h"
#include "engine/communicators/threads.h"
#include "evaluate/few_shot.h"
#include "evaluate/held_out.h"
#include "evaluate/linear_evaluation.h"
#include "kernels/common/parallel.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "train/stop_signal.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <set>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

struct Points {
  std::int64_t width;
  std::vector<float> rows;
  std::vector<std::int32_t> labels;
};

/// Normal clouds around a mean of each class.
Points clouds(int classes, int each, std::int64_t width, double spread, std::uint64_t seed) {
  Points points{.width = width, .rows = {}, .labels = {}};
  Random means(7, RandomStream::test);
  std::vector<double> mean(static_cast<std::size_t>(classes * width));
  for (double& value : mean) value = means.normal();
  Random random(seed, RandomStream::test);
  for (int i = 0; i < classes * each; ++i) {
    const int label = i % classes;
    points.labels.push_back(label);
    for (std::int64_t c = 0; c < width; ++c)
      points.rows.push_back(
          static_cast<float>(mean[static_cast<std::size_t>(label * width + c)] + spread * random.normal()));
  }
  return points;
}

/// One classifier the textbook's way, in double: p = softmax(W x + b), gradients from the definition.
struct Oracle {
  int classes;
  std::int64_t width;
  std::vector<double> w, b, vw, vb;  // (K, C), (K), and their momentum

  double step(const Points& batch, double rate, double momentum) {
    std::vector<double> gw(w.size(), 0), gb(b.size(), 0);
    const double n = static_cast<double>(batch.labels.size());
    double loss = 0;
    for (std::size_t i = 0; i < batch.labels.size(); ++i) {
      const std::vector<double> p = probabilities(batch.rows.data() + i * static_cast<std::size_t>(width));
      loss -= std::log(p[static_cast<std::size_t>(batch.labels[i])]) / n;
      for (std::size_t k = 0; k < p.size(); ++k) {
        const double d = (p[k] - (static_cast<int>(k) == batch.labels[i] ? 1 : 0)) / n;
        gb[k] += d;
        for (std::size_t c = 0; c < static_cast<std::size_t>(width); ++c)
          gw[k * static_cast<std::size_t>(width) + c] +=
              d * static_cast<double>(batch.rows[i * static_cast<std::size_t>(width) + c]);
      }
    }
    const auto move = [&](std::vector<double>& p, std::vector<double>& v, const std::vector<double>& g) {
      for (std::size_t i = 0; i < p.size(); ++i) {
        v[i] = momentum * v[i] + g[i];
        p[i] -= rate * v[i];
      }
    };
    move(w, vw, gw);
    move(b, vb, gb);
    return loss;
  }

  std::vector<double> probabilities(const float* x) const {
    std::vector<double> p(static_cast<std::size_t>(classes));
    double sum = 0;
    for (std::size_t k = 0; k < p.size(); ++k) {
      double logit = b[k];
      for (std::size_t c = 0; c < static_cast<std::size_t>(width); ++c)
        logit += w[k * static_cast<std::size_t>(width) + c] * static_cast<double>(x[c]);
      sum += p[k] = std::exp(logit);
    }
    for (double& value : p) value /= sum;
    return p;
  }
};

ConstArray flat(const std::vector<double>& values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}
ConstArray flat(std::span<const float> values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}

struct TinyNetwork {
  std::unique_ptr<Context> context = make_cpu_context();
  ParameterLayout layout;
  Vit vit{layout, {.embed_dim = 24, .depth = 3, .heads = 2, .patch_px = 8, .image_px = 16}};
  ParameterStore store{*context, layout, DType::float32, ParameterStore::Role::inference};
  TinyNetwork() { store.initialize(5); }

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

TEST_CASE("Every classifier of a probe takes the textbook's steps, each at its own rate") {
  const int classes = 3;
  const std::int64_t width = 13;
  const LinearProbeOptions options{
      .learning_rates = {0.01, 0.7}, .epochs = 4, .batch = 128, .momentum = 0.9, .seed = 3};
  const auto context = make_cpu_context();
  SingleProcess communicator;
  LinearProbe probe(*context, communicator, width, classes, options);

  const LinearProbe::State start = probe.state();
  const std::size_t weights = static_cast<std::size_t>(classes * width);
  REQUIRE(start.parameters.size() == 2 * (weights + classes));
  CHECK(std::equal(start.parameters.begin(), start.parameters.begin() + weights, start.parameters.begin() + weights));
  CHECK(std::all_of(start.parameters.end() - 2 * classes, start.parameters.end(), [](float b) { return b == 0; }));
  std::vector<Oracle> oracles;
  for (int l = 0; l < 2; ++l)
    oracles.push_back({classes,
                       width,
                       {start.parameters.begin(), start.parameters.begin() + static_cast<std::ptrdiff_t>(weights)},
                       std::vector<double>(classes, 0.0),
                       std::vector<double>(weights, 0.0),
                       std::vector<double>(classes, 0.0)});

  for (int step = 0; step < 12; ++step) {
    const int epoch = step / 3;
    Points batch = clouds(classes, step % 3 == 2 ? 1 : 5, width, 1.0, static_cast<std::uint64_t>(step));
    const auto rows = static_cast<std::int64_t>(batch.labels.size());
    const std::vector<double> loss = probe.step(batch.rows, batch.labels, rows, epoch);
    for (std::size_t l = 0; l < 2; ++l) {
      const double cosine = std::vector<double>{1.0, (1 + std::sqrt(0.5)) / 2, 0.5,
                                                (1 - std::sqrt(0.5)) / 2}[static_cast<std::size_t>(epoch)];
      const double rate = options.learning_rates[l] * 0.5 * cosine;
      CHECK(probe.learning_rate(static_cast<int>(l), epoch) == Approx(rate).epsilon(1e-12));
      CHECK(loss[l] == Approx(oracles[l].step(batch, rate, 0.9)).epsilon(1e-5));
    }
  }
  const LinearProbe::State state = probe.state();
  for (std::size_t l = 0; l < 2; ++l) {
    check_close(flat(std::span(state.parameters).subspan(l * weights, weights)), flat(oracles[l].w), 1e-5, "weights");
    check_close(flat(std::span(state.parameters).subspan(2 * weights + l * classes, classes)), flat(oracles[l].b), 1e-5,
                "biases");
    check_close(flat(std::span(state.momentum).subspan(l * weights, weights)), flat(oracles[l].vw), 1e-4, "momentum");
  }
  // Initial weights are N(0, 0.01): 39 draws, so the deviation is known to about a ninth; the bound is four times that.
  double square = 0;
  for (std::size_t i = 0; i < weights; ++i) square += std::pow(static_cast<double>(start.parameters[i]), 2);
  CHECK(std::sqrt(square / static_cast<double>(weights)) == Approx(0.01).epsilon(0.46));
}

TEST_CASE("A probe's scores count ranks, and a classifier that has diverged gets nothing right") {
  const auto context = make_cpu_context();
  const Points train = clouds(7, 20, 9, 0.3, 1), test = clouds(7, 30, 9, 0.3, 2);
  SingleProcess communicator;
  LinearProbe probe(*context, communicator, 9, 7,
                    {.learning_rates = {0.5, 1e300}, .epochs = 1, .batch = 140, .momentum = 0.9});
  CHECK(probe.evaluate(test.rows, test.labels)[0].top1 < 60);
  for (int step = 0; step < 60; ++step) probe.step(train.rows, train.labels, 140, 0);
  const std::vector<LinearScore> scores = probe.evaluate(test.rows, test.labels);
  CHECK(scores[0].top1 > 97);
  CHECK(scores[1].top1 == 0);
  CHECK(scores[1].top5 == 0);

  // The score is that of the oracle's ranks.
  const LinearProbe::State state = probe.state();
  Oracle oracle{7,
                9,
                {state.parameters.begin(), state.parameters.begin() + 63},
                {state.parameters.begin() + 126, state.parameters.begin() + 133},
                {},
                {}};
  int hits1 = 0, hits5 = 0;
  const Points wide = clouds(7, 40, 9, 3.0, 4);
  for (std::size_t i = 0; i < wide.labels.size(); ++i) {
    const std::vector<double> p = oracle.probabilities(wide.rows.data() + 9 * i);
    const auto before =
        std::count_if(p.begin(), p.end(), [&](double x) { return x > p[static_cast<std::size_t>(wide.labels[i])]; });
    hits1 += before < 1;
    hits5 += before < 5;
  }
  const LinearScore score = probe.evaluate(wide.rows, wide.labels)[0];
  CHECK(hits1 < 250);
  CHECK(score.top1 == Approx(100.0 * hits1 / 280));
  CHECK(score.top5 == Approx(100.0 * hits5 / 280));
  // A class that the classifiers do not know is a miss.
  CHECK(probe.evaluate(std::span(test.rows).first(9), std::vector<std::int32_t>{9})[0].top5 == 0);
}

TEST_CASE("Probe options that make no sense are refused") {
  const auto context = make_cpu_context();
  SingleProcess communicator;
  const auto refused = [&](const LinearProbeOptions& options) {
    CHECK_THROWS_AS(LinearProbe(*context, communicator, 4, 3, options), Error);
  };
  refused({.learning_rates = {}});
  refused({.learning_rates = {0.1, -1}});
  refused({.learning_rates = {std::nan("")}});
  refused({.epochs = 0});
  refused({.batch = 0});
  refused({.momentum = 1});
  CHECK_THROWS_AS(LinearProbe(*context, communicator, 4, 1, {}), Error);
  LinearProbe probe(*context, communicator, 2, 3, {});
  CHECK_THROWS_AS(probe.step(std::vector<float>{1, 2}, std::vector<std::int32_t>{3}, 1, 0), Error);
  CHECK_THROWS_AS(probe.step(std::vector<float>{1, 2, 3}, std::vector<std::int32_t>{0}, 1, 0), Error);
  CHECK_THROWS_AS(probe.step(std::vector<float>{1, 2}, std::vector<std::int32_t>{0}, 0, 0), Error);
  CHECK_THROWS_AS(probe.step({}, {}, 0, 0), Error);
}

TEST_CASE("Linear features are the CLS tokens of the last blocks, or CLS and patch average interleaved") {
  const TinyNetwork net;
  const Vit& vit = net.vit;
  CHECK(FeatureKind::linear_probe(VitConfig::small()) == FeatureKind{.blocks = 4, .average_patches = false});
  CHECK(FeatureKind::linear_probe(VitConfig::base()) == FeatureKind{.blocks = 1, .average_patches = true});
  CHECK(FeatureKind{.blocks = 4, .average_patches = false}.width(VitConfig::small()) == 1536);
  CHECK_THROWS_AS((FeatureKind{.blocks = 2, .average_patches = true}.check(vit.config())), Error);
  CHECK_THROWS_AS((FeatureKind{.blocks = 4, .average_patches = false}.check(vit.config())), Error);

  std::vector<std::uint8_t> pixels(2 * 16 * 16 * 3);
  Random random(1, RandomStream::test);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random.below(256));
  const ConstArray batch(pixels.data(), Shape{2, 16, 16, 3});
  std::vector<float> three, average;
  compute_features(*net.context, vit, net.store, dino::Network::student, batch, {.blocks = 3, .average_patches = false},
                   three);
  compute_features(*net.context, vit, net.store, dino::Network::student, batch, {.blocks = 1, .average_patches = true},
                   average);
  REQUIRE(three.size() == 2 * 3 * 24);
  REQUIRE(average.size() == 2 * 2 * 24);

  Tape tape(*net.context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, net.store);
  CropPacker packer(*net.context, 8);
  const std::vector<Tensor> tokens = vit.last_tokens(tape, weights, packer.pack({{net.context->from_host(batch)}}), 3);
  std::vector<double> expected_three, expected_average;
  for (std::int64_t i = 0; i < 2; ++i) {
    for (const Tensor& block : tokens) {
      for (std::int64_t c = 0; c < 24; ++c) expected_three.push_back(load_double(block.const_array(), i * 5 * 24 + c));
    }
    for (std::int64_t c = 0; c < 24; ++c) {
      double sum = 0;
      for (std::int64_t n = 1; n < 5; ++n) sum += load_double(tokens[2].const_array(), (i * 5 + n) * 24 + c);
      expected_average.push_back(load_double(tokens[2].const_array(), i * 5 * 24 + c));
      expected_average.push_back(sum / 4);
    }
  }
  check_close(flat(three), flat(expected_three), 1e-6, "CLS of three blocks");
  check_close(flat(average), flat(expected_average), 1e-6, "CLS and average");
}

TEST_CASE("A linear evaluation learns, resumes to the same numbers, and refuses another run's state") {
  const TinyNetwork net;
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
          results[at] = TinyNetwork().evaluate(communicator, images, options(rank), progress);
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

TEST_CASE("Ranks that share a probe's rows take the steps of one, also where some have none") {
  const int classes = 3;
  const std::int64_t width = 13;
  const auto train = [&](Communicator& communicator, LinearProbe::State& state, std::vector<double>& losses,
                         std::vector<LinearScore>& scores) {
    const auto context = make_cpu_context();
    LinearProbe probe(*context, communicator, width, classes,
                      {.learning_rates = {0.01, 0.7}, .epochs = 4, .batch = 12 / communicator.size(), .seed = 3});
    for (int step = 0; step < 12; ++step) {
      // 12 rows, and at every third step 3: fewer than 4 ranks.
      const Points batch = clouds(classes, step % 3 == 2 ? 1 : 4, width, 1.0, static_cast<std::uint64_t>(step));
      const auto rows = static_cast<std::int64_t>(batch.labels.size());
      const auto [begin, end] = thread_range(rows, communicator.rank(), communicator.size());
      const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
      for (const double loss : probe.step(std::span(batch.rows).subspan(at(begin * width), at((end - begin) * width)),
                                          std::span(batch.labels).subspan(at(begin), at(end - begin)), rows, step / 3))
        losses.push_back(loss);
    }
    state = probe.state();
    const Points test = clouds(classes, 30, width, 2.0, 99);
    scores = probe.evaluate(test.rows, test.labels);
  };
  SingleProcess alone;
  LinearProbe::State expected;
  std::vector<double> expected_losses;
  std::vector<LinearScore> expected_scores;
  train(alone, expected, expected_losses, expected_scores);
  CHECK(expected_scores[1].top1 > 50);
  for (const int ranks : {2, 3, 4}) {
    const auto count = static_cast<std::size_t>(ranks);
    ThreadGroup group(ranks, 60);
    std::vector<LinearProbe::State> states(count);
    std::vector<std::vector<double>> losses(count);
    std::vector<std::vector<LinearScore>> scores(count);
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < count; ++r) {
      threads.emplace_back([&, r] {
        ThreadCommunicator communicator(group, static_cast<int>(r));
        train(communicator, states[r], losses[r], scores[r]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t r = 0; r < count; ++r) {
      CHECK(states[r].parameters == states[0].parameters);
      CHECK(states[r].momentum == states[0].momentum);
      for (std::size_t l = 0; l < 2; ++l) {
        CHECK(scores[r][l].top1 == expected_scores[l].top1);
        CHECK(scores[r][l].top5 == expected_scores[l].top5);
      }
    }
    check_close(flat(states[0].parameters), flat(expected.parameters), 1e-5, "parameters");
    check_close(flat(states[0].momentum), flat(expected.momentum), 1e-4, "momentum");
    for (std::size_t i = 0; i < expected_losses.size(); ++i) {
      double sum = 0;
      for (const auto& of_rank : losses) sum += of_rank.at(i);
      CHECK(sum == Approx(expected_losses[i]).epsilon(1e-5));
    }
  }
}

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
      const LinearEvaluation expected = TinyNetwork().evaluate(alone, *images, options(1));
      CHECK(expected.broken_images == (images == &good ? 0 : 5));
      for (const int ranks : {2, 3, 4})
        check_on_ranks(OnRanks(ranks, *images, [&](int) { return options(ranks); }), expected);
    }

    const LinearEvaluation whole = [&] {
      SingleProcess alone;
      LinearEvaluationOptions options = options_for(1);
      options.cached = cached;
      return TinyNetwork().evaluate(alone, good, options);
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
  const TinyNetwork net;
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
  const TinyNetwork net;
  const StopSignal stop;
  CHECK_THROWS_AS(net.evaluate(small_options(), [](const std::string&, std::int64_t, std::int64_t,
                                                   const std::string&) { std::raise(SIGTERM); }),
                  Interrupted);
}

TEST_CASE("Few shots are drawn of each class, nested, and differ by seed") {
  std::vector<std::int32_t> labels;
  for (int i = 0; i < 300; ++i) labels.push_back(i % 3 == 0 ? 0 : 1);
  labels.push_back(2);
  labels.push_back(2);
  const FewShot five = draw_few_shot(labels, 5, 1), one = draw_few_shot(labels, 1, 1);
  CHECK(five.rows.size() == 5 + 5 + 2);
  CHECK(five.short_classes == 1);
  CHECK(one.rows.size() == 3);
  CHECK(one.short_classes == 0);
  CHECK(std::is_sorted(five.rows.begin(), five.rows.end()));
  CHECK(std::includes(five.rows.begin(), five.rows.end(), one.rows.begin(), one.rows.end()));
  CHECK(std::set<std::int64_t>(five.rows.begin(), five.rows.end()).size() == 12);
  CHECK(draw_few_shot(labels, 5, 1).rows == five.rows);
  CHECK(draw_few_shot(labels, 5, 2).rows != five.rows);
  // Every row of class 0 is drawn about as often: 4000 draws of 1 in 100, 40 ± 6.3 each.
  std::vector<int> drawn(300, 0);
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    for (const std::int64_t row : draw_few_shot(labels, 1, seed).rows)
      if (row < 300) ++drawn[static_cast<std::size_t>(row)];
  }
  int least = 4000, most = 0;
  for (std::size_t i = 0; i < 300; i += 3) {
    least = std::min(least, drawn[i]);
    most = std::max(most, drawn[i]);
  }
  CHECK(least >= 8);
  CHECK(most <= 80);
  CHECK_THROWS_AS(draw_few_shot(labels, 0, 1), Error);
  CHECK_THROWS_AS(draw_few_shot(std::vector<std::int32_t>{-1}, 1, 1), Error);

  const MeanDeviation m = mean_deviation(std::vector<double>{1, 2, 6});
  CHECK(m.mean == Approx(3));
  CHECK(m.deviation == Approx(std::sqrt(7.0)));
  CHECK(mean_deviation(std::vector<double>{4}).deviation == 0);
}
