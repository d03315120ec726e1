#include "evaluate/linear_probe.h"

#include "engine/communicators/threads.h"
#include "engine/random.h"
#include "kernels/common/parallel.h"
#include "tests/evaluate/flat.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

#include <algorithm>
#include <cmath>
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
