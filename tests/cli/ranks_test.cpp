// Ranks as the launchers start them: our own, Open MPI's, and by environment variables as torchrun does. They train
// what one process trains, and end with a word on what was wrong.
#include "data/png.h"
#include "engine/communicators/socket.h"
#include "engine/communicators/world.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Pictures in two classes, and a run on them whose steps have 12 pictures.
class Scene {
 public:
  explicit Scene(int epochs = 2) {
    const DrawnPictures drawn(30);
    Image picture;
    for (int i = 0; i < 30; ++i) {
      drawn.decode(i, picture);
      const auto name = images() / (i % 2 == 0 ? "even" : "odd");
      std::filesystem::create_directories(name);
      write_png(name / fmt::format("{:02}.png", i), picture.rgb, picture.height, picture.width, 3);
    }
    TrainConfig config = tiny_config();
    config.optimizer = "sgd";
    config.freeze_last_layer = 0;
    config.epochs = epochs;
    config.warmup_epochs = 0;
    config.data_path = images().string();
    config_file_ = folder_.write("config.toml", write_config(config)).string();
  }

  std::filesystem::path images() const { return folder_.path() / "images"; }
  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }
  /// Trains as one of so many ranks, which wait for each other for so long.
  Words train(const std::string& name, int ranks, int timeout_s = 60) const {
    return {"train",
            config_file_,
            "--output_dir",
            run(name).string(),
            "--batch_size_per_gpu",
            std::to_string(12 / ranks),
            "--collective_timeout_s",
            std::to_string(timeout_s),
            "--threads",
            "1"};
  }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    return folder_.write(name, text);
  }

 private:
  TemporaryFolder folder_;
  std::string config_file_;
};

std::vector<nlohmann::json> log_lines(const std::filesystem::path& run) {
  std::vector<nlohmann::json> lines;
  if (!std::filesystem::exists(run / "log.jsonl")) return lines;
  std::stringstream text(read_text_file(run / "log.jsonl"));
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_discarded()) lines.push_back(json);
  }
  return lines;
}

/// Up to the order of sums; see tests/train/ranks_test.cpp.
void check_same_run(const std::filesystem::path& got_run, const std::filesystem::path& expected_run) {
  const auto got = log_lines(got_run), expected = log_lines(expected_run);
  REQUIRE(!expected.empty());
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double a = got[i].at("loss").get<double>(), b = expected[i].at("loss").get<double>();
    CHECK(std::abs(a - b) <= 5e-5 * std::abs(b));
  }
  const SafetensorsFile a = SafetensorsFile::read(got_run / "last.safetensors");
  const SafetensorsFile b = SafetensorsFile::read(expected_run / "last.safetensors");
  for (const std::string& name : b.names()) {
    if (name.starts_with("student.") || name.starts_with("teacher.") || name == "center")
      check_close(a[name], b[name], 5e-5, name);
  }
}

Outcome run_well(const Words& words, const ProgramLimits& limits = {}) {
  const Outcome outcome = run_program(words, limits);
  INFO(outcome.errors);
  REQUIRE(outcome.status == 0);
  return outcome;
}

/// Waits until a running program has logged so many steps.
void await_steps(Program& program, const std::filesystem::path& run, std::size_t steps) {
  while (program.is_running() && log_lines(run).size() < steps)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

/// The processes that are ranks of a launcher, found by what the launcher has told them.
pid_t process_of_rank(const Program& launcher, const char* variable, int rank) {
  const std::string wanted = fmt::format("{}={}", variable, rank);
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) continue;
    std::ifstream status(entry.path() / "status");
    bool is_child = false;
    for (std::string line; std::getline(status, line);)
      is_child |= line == fmt::format("PPid:\t{}", launcher.process());
    if (!is_child) continue;
    std::ifstream file(entry.path() / "environ", std::ios::binary);
    for (std::string word; std::getline(file, word, '\0');) {
      if (word == wanted) return static_cast<pid_t>(std::stoi(name));
    }
  }
  return -1;
}

int free_port() { return port_of(listen_on(0, true)); }

/// The environment that torchrun gives a rank.
ProgramLimits as_rank(int rank, int size, int port, const std::string& address = "127.0.0.1") {
  return {.environment = {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", size),
                          fmt::format("LOCAL_RANK={}", rank), "MASTER_ADDR=" + address,
                          fmt::format("MASTER_PORT={}", port), "TORCHELASTIC_RUN_ID=a test"}};
}

}  // namespace

TEST_CASE("ranks that are processes train what one process trains") {
  const Scene scene;
  run_well(scene.train("one", 1));
  const Outcome outcome = run_well(scene.train("two", 2) + Words{"--ranks", "2"});
  CHECK(contains(outcome.errors, "2 steps of 12 images per epoch, 2 epochs, fp32, 2 ranks"));
  check_same_run(scene.run("two"), scene.run("one"));
  run_well(scene.train("three", 3) + Words{"--ranks", "3", "--gradient_sums", "fp32", "--checksum_every", "1"});
  check_same_run(scene.run("three"), scene.run("one"));

  // As torchrun --no-python starts them: its store listens at the port.
  const Socket store = listen_on(0, true);
  const auto by_torchrun = [&](int rank) {
    ProgramLimits limits = as_rank(rank, 2, port_of(store));
    limits.environment.push_back("TORCHELASTIC_USE_AGENT_STORE=True");
    return limits;
  };
  Program other(scene.train("torchrun", 2), by_torchrun(1));
  run_well(scene.train("torchrun", 2), by_torchrun(0));
  CHECK(other.wait().status == 0);
  check_same_run(scene.run("torchrun"), scene.run("one"));
}

#ifdef DINO_MPIEXEC
namespace {
ProgramLimits mpirun(int ranks, const Words& more = {}) {
  return {.launcher =
              Words{DINO_MPIEXEC, "--allow-run-as-root", "--oversubscribe"} + more + Words{"-n", std::to_string(ranks)},
          .environment = {kNoLeakCheck}};
}
}  // namespace

TEST_CASE("ranks under mpirun train what one process trains") {
  const Scene scene;
  run_well(scene.train("one", 1));
  for (const int ranks : {2, 4}) {
    const std::string name = fmt::format("mpi{}", ranks);
    const Outcome outcome = run_well(scene.train(name, ranks), mpirun(ranks));
    CHECK(contains(outcome.errors, fmt::format("fp32, {} ranks", ranks)));
    check_same_run(scene.run(name), scene.run("one"));
  }
  // What MPI starts can speak TCP as well.
  ProgramLimits limits = mpirun(2);
  limits.environment = {kNoLeakCheck, "MASTER_ADDR=127.0.0.1", fmt::format("MASTER_PORT={}", free_port())};
  run_well(scene.train("tcp", 2) + Words{"--communicator", "tcp"}, limits);
  check_same_run(scene.run("tcp"), scene.run("one"));
}

TEST_CASE("a rank that is killed under mpirun ends the run, which can be resumed") {
  const Scene scene(2000);
  Program program(scene.train("run", 2), mpirun(2));
  await_steps(program, scene.run("run"), 3);
  REQUIRE(program.is_running());
  const pid_t victim = process_of_rank(program, "OMPI_COMM_WORLD_RANK", 1);
  REQUIRE(victim > 0);
  const auto start = std::chrono::steady_clock::now();
  kill(victim, SIGKILL);
  const Outcome outcome = program.wait();
  INFO(outcome.errors);
  CHECK(outcome.status != 0);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
  // mpirun's words; how it names the process depends on whether it still knows its number.
  CHECK(contains(outcome.errors + outcome.output, "process rank 1 "));
  CHECK(contains(outcome.errors + outcome.output, "signal 9"));

  Program rest(scene.train("run", 2) + Words{"--ranks", "2", "--resume"});
  await_steps(rest, scene.run("run"), log_lines(scene.run("run")).size() + 2);
  CHECK(rest.is_running());
  rest.send(SIGINT);
  CHECK(rest.wait().status == 128 + SIGINT);
}

TEST_CASE("mpirun's ranks with different configurations are told the first difference") {
  const Scene scene;
  const Words other = Words{":", "-n", "1", program_path().string()} + scene.train("run", 2) + Words{"--lr", "0.5"};
  const Outcome outcome = run_program(scene.train("run", 2) + other, mpirun(1));
  CHECK(outcome.status != 0);
  CHECK(contains(outcome.errors, "rank 1 has lr = 0.5, rank 0 has lr = 0.02"));
  CHECK_FALSE(std::filesystem::exists(scene.run("run")));
}

TEST_CASE("a wrong hostfile ends the run before it has begun") {
  const Scene scene;
  const auto hosts = scene.write("hosts", "no-such-host.invalid slots=2\n");
  const Outcome outcome = run_program(scene.train("run", 2), mpirun(2, {"--hostfile", hosts.string()}));
  INFO(outcome.errors);
  CHECK(outcome.status != 0);
  CHECK(!outcome.errors.empty());  // mpirun's words
  CHECK_FALSE(std::filesystem::exists(scene.run("run")));
}
#endif

TEST_CASE("ranks that do not find rank 0, or are not alike, say so") {
  const Scene scene;
  const Outcome nowhere = run_program(scene.train("run", 2), as_rank(1, 2, 4000, "no-such-host.invalid"));
  CHECK(nowhere.status == 1);
  CHECK(contains(nowhere.errors, "dino_cuda: rank 1: [communicator] cannot "));
  CHECK(contains(nowhere.errors, "no-such-host.invalid"));
  const Outcome alone = run_program(scene.train("run", 2, 1), as_rank(0, 2, free_port()));
  CHECK(alone.status == 1);
  CHECK(contains(alone.errors, "dino_cuda: rank 0: [communicator] rank 1 of 2 did not come to port "));

  const int port = free_port();
  Program other(scene.train("run", 2) + Words{"--lr", "0.5"}, as_rank(1, 2, port));
  const Outcome first = run_program(scene.train("run", 2), as_rank(0, 2, port));
  const Outcome second = other.wait();
  for (const Outcome& outcome : {first, second}) {
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.errors, "rank 1 has lr = 0.5, rank 0 has lr = 0.02"));
  }
  // What a rank does with the count of the memory is its own; that it takes part in it is not.
  const int next_port = free_port();
  Program careless(scene.train("run", 2) + Words{"--ignore_memory"}, as_rank(1, 2, next_port));
  run_well(scene.train("run", 2), as_rank(0, 2, next_port));
  CHECK(careless.wait().status == 0);
  ProgramLimits half;
  half.environment = {"RANK=0"};
  const Outcome torn = run_program(scene.train("run", 2), half);
  CHECK(torn.status == 1);
  CHECK(contains(torn.errors, "WORLD_SIZE is missing"));
}

TEST_CASE("a rank that is killed ends the others within a minute with its name, and the run can be resumed") {
  const Scene scene(400);
  const Words command = scene.train("run", 3) + Words{"--ranks", "3"};
  Program program(command);
  await_steps(program, scene.run("run"), 3);
  REQUIRE(program.is_running());
  const pid_t victim = process_of_rank(program, "RANK", 2);
  REQUIRE(victim > 0);
  const auto start = std::chrono::steady_clock::now();
  kill(victim, SIGKILL);
  const Outcome outcome = program.wait();
  INFO(outcome.errors);
  CHECK(outcome.status != 0);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
  CHECK(contains(outcome.errors, fmt::format("rank 2 (process {}) was ended by signal 9", victim)));
  CHECK(contains(outcome.errors, fmt::format("dino_cuda: rank 0: [communicator] rank 2 (process {} on ", victim)));
  CHECK(contains(outcome.errors, fmt::format("dino_cuda: rank 1: [communicator] rank 2 (process {} on ", victim)));

  // It goes on with other ranks; a signal, a cluster's warning too, stops all after the same step.
  const std::pair<int, int> signals[] = {{SIGINT, 128 + SIGINT}, {SIGUSR1, 75}, {SIGHUP, 128 + SIGHUP}};
  for (const auto& [signal, status] : signals) {
    Program rest(scene.train("run", 2) + Words{"--ranks", "2", "--resume"});
    const std::size_t before = log_lines(scene.run("run")).size();
    await_steps(rest, scene.run("run"), before + 3);
    REQUIRE(rest.is_running());
    rest.send(signal);
    const Outcome stopped = rest.wait();
    INFO(stopped.errors);
    CHECK(stopped.status == status);
    CHECK(contains(stopped.errors, "go on with --resume"));
    const SafetensorsFile file = SafetensorsFile::read(scene.run("run") / "last.safetensors");
    CHECK(file.metadata("step") == std::to_string(log_lines(scene.run("run")).size()));
    CHECK(file.metadata("ranks") == "2");
  }
}

TEST_CASE("ranks that are stopped before they have begun do as they are told, and nobody calls it a failure") {
  const Scene scene(400);
  for (const int delay_ms : {5, 15, 40}) {
    Program program(scene.train("run", 2) + Words{"--ranks", "2"});
    while (program.is_running() && process_of_rank(program, "RANK", 1) < 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    program.send(SIGINT);
    const Outcome outcome = program.wait();
    INFO(outcome.errors);
    CHECK(outcome.status != 0);
    CHECK_FALSE(contains(outcome.errors, "was ended by signal"));
    std::filesystem::remove_all(scene.run("run"));
  }
}

TEST_CASE("GPUs that there are not, and words that are none, are refused before anything starts") {
  const Scene scene;
  const auto error_with = [&](const Words& words) {
    const Outcome outcome = run_program(scene.train("run", 2) + words);
    CHECK(outcome.status != 0);
    CHECK(is_one_line_error(outcome.errors));
    CHECK_FALSE(std::filesystem::exists(scene.run("run")));
    return outcome.errors;
  };
  CHECK(contains(error_with({"--gpus", "0,0"}), "names GPU 0 twice"));
  CHECK(contains(error_with({"--gpus", "0;1"}), "takes numbers with commas between them, or all; got 0;1"));
  CHECK(contains(error_with({"--gpus", "0,"}), "takes numbers with commas between them, or all; got 0,"));
  const std::string missing = error_with({"--gpus", "977"});  // no machine has so many
  CHECK((contains(missing, "there is no GPU 977") || contains(missing, "--gpus 977 is not to be had: ")));
  CHECK(!error_with({"--ranks", "0"}).empty());
  CHECK(!error_with({"--ranks", "2", "--gpus", "0"}).empty());
}

TEST_CASE("one process does not touch MPI or NCCL") {
  const Scene scene(2000);
  Program program(scene.train("run", 1));
  await_steps(program, scene.run("run"), 2);
  REQUIRE(program.is_running());
  std::ifstream maps(fmt::format("/proc/{}/maps", program.process()));
  std::stringstream text;
  text << maps.rdbuf();
  CHECK(contains(text.str(), "dino_cuda"));
  CHECK(text.str().find("libmpi") == std::string::npos);
  CHECK(text.str().find("libnccl") == std::string::npos);
  program.send(SIGTERM);
  CHECK(program.wait().status == 128 + SIGTERM);
}

TEST_CASE("features and k-NN of several ranks are those of one") {
  const Scene scene;
  run_well(scene.train("run", 1));
  const std::string weights = (scene.run("run") / "last.safetensors").string(), images = scene.images().string();
  for (const char* name : {"one", "three"}) {
    Words words{"features", images,  "--weights",
                weights,    "--out", scene.run(std::string(name) + ".safetensors").string()};
    if (std::string(name) == "three") words = words + Words{"--ranks", "3"};
    run_well(words);
  }
  const SafetensorsFile one = SafetensorsFile::read(scene.run("one.safetensors"));
  const SafetensorsFile three = SafetensorsFile::read(scene.run("three.safetensors"));
  REQUIRE(one.names() == three.names());
  for (const std::string& name : one.names()) {
    if (one[name].dtype() == DType::float32) check_close(three[name], one[name], 1e-5, name);
    REQUIRE(one[name].size_bytes() == three[name].size_bytes());
  }
  const Words knn{"eval", "knn", "--weights", weights, "--train", images, "--test", images, "--k", "1,5", "--json"};
  const auto alone = nlohmann::json::parse(run_well(knn).output);
  const auto shared = nlohmann::json::parse(run_well(knn + Words{"--ranks", "2"}).output);
  CHECK(shared == alone);
  CHECK(alone.at("knn").at(0).at("top1") == 100);  // each finds itself
}

TEST_CASE("a linear evaluation on several ranks is that of one, and goes on with another number") {
  const Scene scene;
  run_well(scene.train("run", 1));
  const std::string weights = (scene.run("run") / "last.safetensors").string(), images = scene.images().string();
  // The same pictures with other names are other pictures.
  std::filesystem::copy(images, scene.run("test"), std::filesystem::copy_options::recursive);
  for (const bool cached : {false, true}) {
    const auto linear = [&](int ranks, int epochs, const std::string& state = "") {
      Words words{"eval",      "linear",
                  "--weights", weights,
                  "--train",   images,
                  "--test",    scene.run("test").string(),
                  "--lr",      "0.1,0.3",
                  "--epochs",  std::to_string(epochs),
                  "--batch",   std::to_string(12 / ranks),
                  "--threads", "1",
                  "--json"};
      if (cached) words.push_back("--cached");
      if (!state.empty()) words = words + Words{"--state", scene.run(state).string()};
      if (ranks > 1) words = words + Words{"--ranks", std::to_string(ranks)};
      return words;
    };
    const auto check_same = [&](const Words& words, const nlohmann::json& expected) {
      const Outcome outcome = run_well(words);
      auto got = nlohmann::json::parse(outcome.output);  // one document: the other ranks print nothing
      for (std::size_t l = 0; l < 2; ++l) {
        const double loss = got.at("classifiers").at(l).at("loss").get<double>();
        const double wanted = expected.at("classifiers").at(l).at("loss").get<double>();
        CHECK(std::abs(loss - wanted) <= 1e-4);  // about 0.7; as in tests/evaluate/linear_probe_test.cpp
        got["classifiers"][l]["loss"] = expected.at("classifiers").at(l).at("loss");
      }
      CHECK(got == expected);
    };
    const auto alone = nlohmann::json::parse(run_well(linear(1, 4)).output);
    CHECK(alone.at("batch") == 12);
    check_same(linear(3, 4), alone);

    // Stopped by Ctrl-C, wherever that is, it goes on with another number of ranks.
    const std::string state = cached ? "cached.safetensors" : "augmented.safetensors";
    const auto whole = nlohmann::json::parse(run_well(linear(1, 300)).output);
    Program program(linear(2, 300, state));
    const auto epochs_done = [&] {
      if (!std::filesystem::exists(scene.run(state))) return false;
      return nlohmann::json::parse(SafetensorsFile::read(scene.run(state)).metadata("epochs")).size() >= 2;
    };
    while (program.is_running() && !epochs_done()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    program.send(SIGINT);
    const Outcome stopped = program.wait();
    INFO(stopped.errors);
    CHECK(stopped.status == 128 + SIGINT);
    CHECK(contains(stopped.errors, "of 300 epochs; the same command with --resume goes on"));
    check_same(linear(3, 300, state) + Words{"--resume"}, whole);
  }
}

TEST_CASE("launchers are told by their environment") {
  const auto world = [](const std::map<std::string, std::string>& variables) {
    return find_world([&](const char* name) -> std::optional<std::string> {
      const auto at = variables.find(name);
      if (at == variables.end()) return std::nullopt;
      return at->second;
    });
  };
  CHECK(world({}).size == 1);
  CHECK(world({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "7"}}).size == 1);  // a batch script
  const World torch = world({{"RANK", "3"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"MASTER_ADDR", "node1"},
                             {"MASTER_PORT", "29500"},
                             {"SLURM_STEP_ID", "0"},
                             {"SLURM_STEP_NUM_TASKS", "1"}});
  CHECK(
      (torch.rank == 3 && torch.size == 8 && torch.local_rank == 1 && torch.address == "node1" && torch.port == 29500));
  CHECK(torch.launcher == "torchrun");
  // torchrun's store listens at the port that it names; another one follows from it.
  const auto torch_port = [&](int port, const std::string& shared) {
    return world({{"RANK", "1"},
                  {"WORLD_SIZE", "2"},
                  {"MASTER_ADDR", "node1"},
                  {"MASTER_PORT", std::to_string(port)},
                  {"TORCHELASTIC_USE_AGENT_STORE", shared}})
        .port;
  };
  CHECK(torch_port(29500, "False") == 29500);
  for (const int port : {1, 20000, 25000, 29500, 36319, 65535}) {
    CHECK(torch_port(port, "True") != port);
    CHECK((torch_port(port, "True") >= 20000 && torch_port(port, "True") < 30000));
  }
  CHECK_THROWS_AS(torch_port(65536, "True"), Error);
  // Our own launcher under it listens where it says.
  CHECK(world({{"RANK", "1"},
               {"WORLD_SIZE", "2"},
               {"MASTER_ADDR", "127.0.0.1"},
               {"MASTER_PORT", "36319"},
               {"DINO_LAUNCHER", "dino_cuda"},
               {"TORCHELASTIC_USE_AGENT_STORE", "True"}})
            .port == 36319);
  const World mpi =
      world({{"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "6"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}});
  CHECK((mpi.rank == 5 && mpi.size == 6 && mpi.local_rank == 2 && mpi.open_mpi));
  const World slurm = world({{"SLURM_PROCID", "9"},
                             {"SLURM_STEP_NUM_TASKS", "16"},
                             {"SLURM_LOCALID", "1"},
                             {"SLURM_STEP_ID", "0"},
                             {"SLURM_JOB_ID", "123456"},
                             {"SLURM_STEP_NODELIST", "gpu[007-010,12]"}});
  CHECK((slurm.rank == 9 && slurm.size == 16 && slurm.local_rank == 1 && slurm.address == "gpu007"));
  CHECK((slurm.port >= 20000 && slurm.port < 30000));
  const World intel = world({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}});
  CHECK((intel.rank == 1 && intel.size == 2 && !intel.open_mpi));
  CHECK(first_host("a,b") == "a");
  CHECK(first_host("a") == "a");
  CHECK(first_host("n[3,5]-ib,x") == "n3-ib");
  CHECK(first_host("x,n[3,5]") == "x");
  CHECK_THROWS_AS(world({{"RANK", "x"}, {"WORLD_SIZE", "2"}}), Error);
  CHECK_THROWS_AS(world({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), Error);
  CHECK_THROWS_AS(world({{"WORLD_SIZE", "2"}}), Error);
}
