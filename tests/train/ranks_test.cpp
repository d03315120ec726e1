// Runs of several ranks, which are threads here: they compute what one rank computes, agree on everything, and say who
// does not.
#include "train/ranks.h"

#include "engine/communicators/threads.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "train/stop_signal.h"
#include "train/trainer.h"

#include <nlohmann/json.hpp>

#include <bit>
#include <csignal>
#include <cstdint>
#include <set>
#include <sstream>
#include <thread>

namespace dino {
namespace {

using test::check_close;
using test::contains;
using test::DrawnPictures;
using test::TemporaryFolder;

/// The smallest change there is.
void flip_last_bit(float& value) { value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ 1u); }

/// What a rank is given, where it is not the same for all.
struct RankSetup {
  TrainConfig config;
  const ImageSource* images = nullptr;
  StartMode start = StartMode::fresh;
  Evaluator evaluator = {};
  RunObservers observers = {};
};

struct RankOutcome {
  int status = -1;
  std::string error;
};

/// Trains with so many ranks; `setup` makes each one's.
std::vector<RankOutcome> train_on(int ranks, const std::function<RankSetup(int rank)>& setup) {
  ThreadGroup group(ranks, 60);
  std::vector<RankOutcome> outcomes(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      RankOutcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      const RankSetup mine = setup(rank);
      ThreadCommunicator communicator(group, rank);
      try {
        const auto context = make_cpu_context();
        outcome.status =
            train(*context, communicator, mine.config, *mine.images, mine.start, mine.evaluator, mine.observers);
      } catch (const std::exception& error) {
        outcome.error = error.what();
        communicator.abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

void require_status(const std::vector<RankOutcome>& outcomes, int status) {
  for (const RankOutcome& outcome : outcomes) {
    REQUIRE(outcome.error == "");
    REQUIRE(outcome.status == status);
  }
}

std::vector<nlohmann::json> log_lines(const std::filesystem::path& folder, const char* name = "log.jsonl") {
  std::vector<nlohmann::json> lines;
  std::stringstream text(read_text_file(folder / name));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::shared_ptr<nlohmann::ordered_json> no_numbers() {
  return std::make_shared<nlohmann::ordered_json>(nlohmann::ordered_json::object());
}

/// A run whose every step has 12 pictures.
TrainConfig config_for(int ranks, int accumulation, const std::filesystem::path& folder) {
  TrainConfig config = test::tiny_config();
  config.optimizer = "sgd";  // the step is in proportion to the gradient; Adam's first steps are its sign
  config.drop_path_rate = 0.5;
  config.freeze_last_layer = 0;
  config.norm_last_layer = false;
  config.epochs = 2;
  config.warmup_epochs = 0;
  config.batch_size_per_gpu = 12 / ranks / accumulation;
  config.accumulation = accumulation;
  config.checksum_every = 1;
  config.output_dir = folder.string();
  return config;
}

/// The same losses and weights up to the order of sums: each is some thousand roundings of 2^-24 at random, as in the
/// test of micro-batches in trainer_test.cpp.
void check_same_run(const std::filesystem::path& got_folder, const std::filesystem::path& expected_folder,
                    double tolerance = 5e-5, bool batch_norm = false) {
  const auto got = log_lines(got_folder), expected = log_lines(expected_folder);
  REQUIRE(got.size() == expected.size());
  REQUIRE(!got.empty());
  for (std::size_t i = 0; i < got.size(); ++i) {
    for (const char* key : {"loss", "grad_norm", "entropy", "kl", "lr"}) {
      const double value = expected[i].at(key).get<double>();
      INFO("step " << i << ", " << key << ": got " << got[i].at(key) << ", expected " << value);
      CHECK(std::abs(got[i].at(key).get<double>() - value) <= tolerance * std::abs(value));
    }
  }
  const SafetensorsFile a = SafetensorsFile::read(got_folder / kLastCheckpoint);
  const SafetensorsFile b = SafetensorsFile::read(expected_folder / kLastCheckpoint);
  for (const char* key : {"epoch", "step"}) CHECK(a.metadata(key) == b.metadata(key));
  for (const std::string& name : b.names()) {
    if (name == "optimizer.update_counts" || name.starts_with("optimizer.second_moment")) continue;
    if (batch_norm &&
        (name.ends_with("backbone.norm.bias") || name.ends_with("mlp.0.bias") || name.ends_with("mlp.3.bias"))) {
      // Batch norm takes away what these add: they have no true gradient and hold rounding, in either run.
      CHECK(test::difference(a[name], b[name]).largest <= 1e-4);
      continue;
    }
    // The key third of this bias has no true gradient, so its momentum is rounding.
    const bool rounding = name.starts_with("optimizer.") && name.ends_with("qkv.bias");
    check_close(a[name], b[name], rounding ? 1e-1 : tolerance, name);
  }
}

TEST_CASE("N ranks with batch B train as one rank with batch N·B") {
  const DrawnPictures images(30);  // an epoch has two steps and six pictures left over
  for (const bool batch_norm : {false, true}) {
    const TemporaryFolder folder;
    const auto run = [&](int ranks, int accumulation, const std::string& sums = "fp32") {
      const std::filesystem::path output = folder.path() / fmt::format("{}x{}{}", ranks, accumulation, sums);
      require_status(train_on(ranks,
                              [&](int) {
                                TrainConfig config = config_for(ranks, accumulation, output);
                                config.use_bn_in_head = batch_norm;
                                config.gradient_sums = sums;
                                return RankSetup{.config = config, .images = &images};
                              }),
                     0);
      return output;
    };
    const std::filesystem::path one = run(1, 1);
    REQUIRE(log_lines(one).size() == 4);
    for (const int ranks : {2, 3, 4}) {
      INFO(ranks << " ranks" << (batch_norm ? ", batch norm" : ""));
      // Batch norm divides by standard deviations of few rows, which enlarges what sums differ by.
      check_same_run(run(ranks, 1), one, batch_norm ? 5e-4 : 5e-5, batch_norm);
    }
    if (batch_norm) continue;
    check_same_run(run(2, 3), one);
    // Each of three gradients, and their sum, is rounded to 8 bits.
    check_same_run(run(3, 1, "bf16"), one, 2e-2);
  }
}

TEST_CASE("a run of several ranks is the same every time, bit for bit, and every rank logs when asked") {
  const DrawnPictures images(24);
  const TemporaryFolder folder;
  std::vector<std::string> files;
  for (const char* name : {"first", "second"}) {
    const auto setup = [&](int) {
      TrainConfig config = config_for(3, 1, folder.path() / name);
      config.rank_logs = true;
      config.gradient_sums = "bf16";
      return RankSetup{.config = config, .images = &images};
    };
    require_status(train_on(3, setup), 0);
    const SafetensorsFile file = SafetensorsFile::read(folder.path() / name / kLastCheckpoint);
    std::string bytes;
    for (const std::string& tensor : file.names())
      bytes.append(static_cast<const char*>(file[tensor].data()), file[tensor].size_bytes());
    files.push_back(bytes);
    for (int rank = 0; rank < 3; ++rank) {
      const auto lines = log_lines(folder.path() / name, fmt::format("log.rank{}.jsonl", rank).c_str());
      REQUIRE(lines.size() == 4);
      CHECK(lines.back().at("loss") == log_lines(folder.path() / name).back().at("loss"));
    }
  }
  CHECK(files[0] == files[1]);
}

/// Sends this process a signal after a step, on the rank that it is given to.
class SignalAfter final : public RunObserver {
 public:
  explicit SignalAfter(std::int64_t step) : step_(step) {}
  void step_done(const StepReport& report) override {
    if (report.position.step == step_) std::raise(SIGTERM);
  }

 private:
  std::int64_t step_;
};

TEST_CASE("a run of N ranks that was stopped goes on with M ranks") {
  const DrawnPictures images(30);
  const TemporaryFolder folder;
  const auto setup = [&](int ranks, int accumulation, const std::filesystem::path& output, StartMode start, int stop) {
    return [=, &images](int) {
      RankSetup mine{.config = config_for(ranks, accumulation, output), .images = &images, .start = start};
      if (stop >= 0) mine.observers.push_back(std::make_shared<SignalAfter>(stop));
      return mine;
    };
  };
  const std::filesystem::path whole = folder.path() / "whole";
  require_status(train_on(1, setup(1, 1, whole, StartMode::fresh, -1)), 0);
  struct Change {
    int ranks, accumulation, then_ranks, then_accumulation;
  };
  for (const Change& change : {Change{3, 2, 2, 1}, Change{2, 1, 4, 3}, Change{4, 1, 1, 6}}) {
    for (const int stop : {0, 1}) {  // within an epoch and after its last step
      INFO(change.ranks << " ranks, then " << change.then_ranks << ", stopped after step " << stop);
      const std::filesystem::path output =
          folder.path() / fmt::format("{}to{}at{}", change.ranks, change.then_ranks, stop);
      require_status(train_on(change.ranks, setup(change.ranks, change.accumulation, output, StartMode::fresh, stop)),
                     128 + SIGTERM);
      REQUIRE(log_lines(output).size() == static_cast<std::size_t>(stop + 1));
      require_status(train_on(change.then_ranks,
                              setup(change.then_ranks, change.then_accumulation, output, StartMode::resume, -1)),
                     0);
      check_same_run(output, whole);
    }
  }
}

/// Is interrupted at the end of the first epoch, which ranks without it do not notice by themselves.
class GivesUp final : public RunObserver {
 public:
  void epoch_done(const PauseReport& report) override {
    if (report.epoch > 0) return;
    std::raise(SIGTERM);
    throw Interrupted();
  }
};

TEST_CASE("ranks stop where the first one's observers are interrupted, and finish that epoch when they go on") {
  const DrawnPictures images(30);
  const TemporaryFolder folder;
  const auto setup = [&](int ranks, const std::filesystem::path& output, StartMode start, bool stops) {
    return [=, &images](int rank) {
      RankSetup mine{.config = config_for(ranks, 1, output), .images = &images, .start = start};
      if (stops && rank == 0) mine.observers.push_back(std::make_shared<GivesUp>());
      return mine;
    };
  };
  const std::filesystem::path whole = folder.path() / "whole", stopped = folder.path() / "stopped";
  require_status(train_on(1, setup(1, whole, StartMode::fresh, false)), 0);
  require_status(train_on(3, setup(3, stopped, StartMode::fresh, true)), 128 + SIGTERM);
  REQUIRE(SafetensorsFile::read(stopped / kLastCheckpoint).metadata("epoch") == "0");
  require_status(train_on(2, setup(2, stopped, StartMode::resume, false)), 0);
  check_same_run(stopped, whole);
}

/// Three of 24 cannot be read.
class SomeDamaged final : public ImageSource {
 public:
  std::int64_t size() const override { return drawn_.size(); }
  void decode(std::int64_t index, Image& image) const override {
    require(index % 7 != 3 || index > 17, "test", "damaged\n{}", index);
    drawn_.decode(index, image);
  }
  std::int32_t label(std::int64_t index) const override { return drawn_.label(index); }
  std::string name(std::int64_t index) const override { return drawn_.name(index); }

 private:
  DrawnPictures drawn_{24};
};

/// Remembers how many broken pictures a run told of last.
class CountsBroken final : public RunObserver {
 public:
  explicit CountsBroken(std::int64_t& count) : count_(count) {}
  void epoch_done(const PauseReport& report) override { count_ = report.broken.count; }

 private:
  std::int64_t& count_;
};

TEST_CASE("broken pictures that any rank finds are listed and counted by the first") {
  const SomeDamaged images;
  const TemporaryFolder folder;
  for (const int ranks : {1, 3}) {
    const std::filesystem::path output = folder.path() / fmt::format("{}", ranks);
    std::int64_t told = 0;
    const auto setup = [&](StartMode start, double share) {
      return [&, start, share](int rank) {
        RankSetup mine{.config = config_for(ranks, 1, output), .images = &images, .start = start};
        mine.config.max_broken_share = share;
        if (rank == 0) mine.observers.push_back(std::make_shared<CountsBroken>(told));
        return mine;
      };
    };
    // 3 of 24 are 12.5 %; a rank of three that reads a third of them is not meant to judge by its own.
    for (const RankOutcome& outcome : train_on(ranks, setup(StartMode::fresh, 0.124)))
      CHECK(contains(outcome.error, "too many broken pictures; got 3 of 24, expected at most 12.4 %"));
    require_status(train_on(ranks, setup(StartMode::resume, 0.125)), 0);
    CHECK(told == 3);
    std::set<std::int64_t> listed;
    for (const nlohmann::json& line : log_lines(output, "broken_images.jsonl")) {
      const auto picture = line.at("picture").get<std::int64_t>();
      CHECK(listed.insert(picture).second);
      CHECK(line.at("name") == images.name(picture));
      CHECK(line.at("reason") == fmt::format("[test] damaged\\x0a{}", picture));
    }
    CHECK(listed == std::set<std::int64_t>{3, 10, 17});
    for (const auto& file : std::filesystem::directory_iterator(output)) {
      const std::string name = file.path().filename().string();
      CHECK((name == "broken_images.jsonl" || !name.starts_with("broken_images")));
    }
  }
}

TEST_CASE("a run is not resumed with steps of another size") {
  const DrawnPictures images(24);
  const TemporaryFolder folder;
  const auto setup = [&](StartMode start, int batch, int accumulation, bool batch_norm) {
    return [=, &images, &folder](int) {
      TrainConfig config = config_for(2, 1, folder.path() / (batch_norm ? "bn" : "plain"));
      config.batch_size_per_gpu = batch;
      config.accumulation = accumulation;
      config.use_bn_in_head = batch_norm;
      return RankSetup{.config = config, .images = &images, .start = start};
    };
  };
  require_status(train_on(2, setup(StartMode::fresh, 6, 1, false)), 0);
  require_status(train_on(2, setup(StartMode::fresh, 6, 1, true)), 0);
  for (const RankOutcome& outcome : train_on(3, setup(StartMode::resume, 6, 1, false))) {
    CHECK(contains(outcome.error, "steps of 12 = 6 a rank × 1 micro-batches × 2 ranks pictures"));
    CHECK(contains(outcome.error, "got 18 = 6 a rank × 1 micro-batches × 3 ranks; try --batch_size_per_gpu 4"));
  }
  for (const RankOutcome& outcome : train_on(2, setup(StartMode::resume, 3, 2, true)))
    CHECK(contains(outcome.error, "batch norm sees 12 pictures at a time; got 6; try --accumulation 1"));
  require_status(train_on(3, setup(StartMode::resume, 4, 1, false)), 0);
}

/// The same pictures, save that two of a class have changed places.
class OtherOrder final : public ImageSource {
 public:
  explicit OtherOrder(std::int64_t count) : drawn_(count) {}
  std::int64_t size() const override { return drawn_.size(); }
  void decode(std::int64_t index, Image& image) const override { drawn_.decode(moved(index), image); }
  std::int32_t label(std::int64_t index) const override { return drawn_.label(moved(index)); }
  std::string name(std::int64_t index) const override { return drawn_.name(moved(index)); }

 private:
  static std::int64_t moved(std::int64_t index) { return index == 3 ? 5 : index == 5 ? 3 : index; }
  DrawnPictures drawn_;
};

TEST_CASE("ranks with different configurations or data do not start, and are told the first difference") {
  const DrawnPictures images(24), fewer(23);
  const OtherOrder other(24);
  struct Difference {
    std::function<void(TrainConfig&)> set;
    const char* message;
    const ImageSource* images = nullptr;
  };
  const Difference differences[] = {
      {[](TrainConfig& c) { c.lr = 0.5; }, "rank 1 has lr = 0.5, rank 0 has lr = 0.02"},
      {[](TrainConfig& c) { c.seed = 3; }, "rank 1 has seed = 3, rank 0 has seed = 0"},
      {[](TrainConfig& c) { c.out_dim = 4096; }, "rank 1 has out_dim = 4096, rank 0 has out_dim = 48"},
      {[](TrainConfig& c) { c.precision = "bf16"; }, "rank 1 has precision = \"bf16\""},
      {[](TrainConfig& c) { c.init = "some/w.safetensors"; }, "rank 1 has init = …/w.safetensors, rank 0 has no init"},
      {[](TrainConfig& c) { c.init = "a/hf/"; }, "rank 1 has init = …/hf, rank 0 has no init"},
      {{}, "rank 1 has number of pictures = 23, rank 0 has number of pictures = 24", &fewer},
      {{}, "rank 1 has checksum of their names and classes in order = ", &other},
  };
  for (const Difference& difference : differences) {
    INFO(difference.message);
    const TemporaryFolder folder;
    const auto outcomes = train_on(3, [&](int rank) {
      RankSetup mine{.config = config_for(3, 1, folder.path() / "run"), .images = &images};
      if (rank == 1 && difference.set) difference.set(mine.config);
      if (rank == 1 && difference.images != nullptr) mine.images = difference.images;
      return mine;
    });
    for (const RankOutcome& outcome : outcomes) {
      CHECK(outcome.error.starts_with("[train] the ranks have different configurations: "));
      CHECK(contains(outcome.error, difference.message));
    }
    CHECK_FALSE(std::filesystem::exists(folder.path() / "run"));
  }
  // What is a matter of the machine may differ.
  const TemporaryFolder folder;
  for (const RankOutcome& outcome : train_on(2, [&](int rank) {
         return RankSetup{.config = config_for(2, 1, folder.path() / "run"),
                          .images = &images,
                          .start = rank == 1 ? StartMode::resume : StartMode::fresh};
       }))
    CHECK(contains(outcome.error, "rank 1 has --resume, rank 0 has a new run"));
  require_status(train_on(2,
                          [&](int rank) {
                            RankSetup mine{.config = config_for(2, 1, folder.path() / "run"), .images = &images};
                            mine.config.num_workers = 1 + rank;
                            if (rank == 1) mine.config.output_dir = (folder.path() / "elsewhere").string();
                            return mine;
                          }),
                 0);
  CHECK_FALSE(std::filesystem::exists(folder.path() / "elsewhere"));  // only rank 0 writes
  // The weights of one name, in the folders of two machines; rank 0 reads them for both.
  const auto from = [&](const std::filesystem::path& first, const std::filesystem::path& second) {
    return train_on(2, [&, first, second](int rank) {
      RankSetup mine{.config = config_for(2, 1, folder.path() / "second run"), .images = &images};
      mine.config.init = (rank == 0 ? first : second).string();
      return mine;
    });
  };
  const auto weights = folder.path() / "run" / kLastCheckpoint;
  for (const RankOutcome& outcome : from(weights, folder.path() / "run" / "best.safetensors"))
    CHECK(contains(outcome.error, "rank 1 has init = …/best.safetensors, rank 0 has init = …/last.safetensors"));
  require_status(from(weights, std::filesystem::path("elsewhere") / kLastCheckpoint), 0);
}

TEST_CASE("weights that part on the way are caught with the parameter's name") {
  const DrawnPictures images(24);
  const TemporaryFolder folder;
  const auto outcomes = train_on(3, [&](int rank) {
    RankSetup mine{.config = config_for(3, 1, folder.path() / "run"), .images = &images};
    mine.config.knn_every = 1;
    mine.evaluator = [rank](StudentTeacher& networks) {
      if (rank == 2) {  // one bit
        const ParameterStore& store = networks.store();
        const ParameterInfo& info = networks.layout()[*networks.layout().find("backbone.blocks.1.mlp.fc1.weight")];
        flip_last_bit(store.student.as<float>()[info.offset + 7]);
      }
      return Evaluation{.score = 1, .summary = "none", .numbers = no_numbers()};
    };
    return mine;
  });
  for (const RankOutcome& outcome : outcomes) {
    CHECK(contains(outcome.error, "[train] rank 2 has other weights in the student's backbone."));
    CHECK(contains(outcome.error, "than rank 0, before step 1"));
  }
}

TEST_CASE("different weights at the start are caught") {
  std::vector<std::string> errors(2);
  ThreadGroup group(2, 60);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto context = make_cpu_context();
      ThreadCommunicator communicator(group, rank);
      StudentTeacher networks(*context, communicator, test::tiny_config(), DType::float32);
      require_same_state(communicator, networks, {});
      if (rank == 1) {
        const ParameterInfo& info = networks.layout()[*networks.layout().find("backbone.blocks.1.mlp.fc1.weight")];
        flip_last_bit(networks.store().teacher.as<float>()[info.offset + info.size() - 1]);
      }
      errors[static_cast<std::size_t>(rank)] = test::error_of([&] { require_same_state(communicator, networks, {}); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors)
    CHECK(contains(error, "rank 1 has other weights in the teacher's backbone.blocks.1.mlp.fc1.weight than rank 0"));
}

TEST_CASE("a rank that fails ends the run on all, and the run can be resumed") {
  const DrawnPictures images(24);
  const TemporaryFolder folder;
  const auto setup = [&](StartMode start, bool fails) {
    return [=, &images, &folder](int rank) {
      RankSetup mine{.config = config_for(3, 1, folder.path()), .images = &images, .start = start};
      mine.config.knn_every = fails ? 1 : 0;
      mine.evaluator = [rank, fails, calls = 0](StudentTeacher&) mutable {
        if (fails && ++calls == 2 && rank == 1) throw std::runtime_error("no more memory");  // after the first epoch
        return Evaluation{.score = 1, .summary = "none", .numbers = no_numbers()};
      };
      return mine;
    };
  };
  const auto outcomes = train_on(3, setup(StartMode::fresh, true));
  CHECK(outcomes[1].error == "no more memory");
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}})
    CHECK(contains(outcomes[rank].error, "rank 1 failed: no more memory"));
  CHECK(log_lines(folder.path()).size() == 2);
  require_status(train_on(3, setup(StartMode::resume, false)), 0);
  CHECK(log_lines(folder.path()).size() == 4);
}

}  // namespace
}  // namespace dino
