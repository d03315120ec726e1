#include "cli/launch.h"

#include "cli/machine.h"
#include "engine/communicators/connect.h"
#include "engine/communicators/socket.h"
#include "engine/context_cuda.h"
#include "engine/device_choice.h"
#include "kernels/common/error.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <thread>

namespace dino {
namespace {

constexpr const char* kLauncher = "dino_cuda";
constexpr const char* kRankDevice = "DINO_RANK_DEVICE";

volatile std::sig_atomic_t signal_to_pass = 0;
volatile std::sig_atomic_t signals_received = 0;
extern "C" void note_signal_to_pass(int signal) {
  signal_to_pass = signal;
  signals_received = signals_received + 1;
}

/// The ordinals of the GPUs. Asks CUDA in a process of its own: what has called CUDA must not start ranks.
std::vector<int> survey_in_child(std::string& obstacle) {
  int pipe_ends[2];
  const bool piped = pipe2(pipe_ends, O_CLOEXEC) == 0;
  require(piped, "launch", "cannot make a pipe: {}", std::strerror(errno));
  const pid_t child = fork();
  require(child >= 0, "launch", "cannot start a process: {}", std::strerror(errno));
  if (child == 0) {
    std::string text;
    if (&survey_cuda != nullptr) {
      const CudaSurvey survey = survey_cuda();
      for (const CudaDevice& device : survey.devices) text += fmt::format("{},", device.ordinal);
      text += ";" + survey.obstacle;
    } else {
      text = ";this program was built without the CUDA toolkit; try --ranks N, for ranks on the CPU";
    }
    [[maybe_unused]] const ssize_t written = write(pipe_ends[1], text.data(), text.size());
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string text;
  std::array<char, 256> part{};
  for (ssize_t got; (got = read(pipe_ends[0], part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<std::size_t>(got));
  close(pipe_ends[0]);
  waitpid(child, nullptr, 0);
  const std::size_t end = std::min(text.find(';'), text.size());
  obstacle = text.substr(std::min(end + 1, text.size()));
  std::vector<int> ordinals;
  for (std::size_t at = 0; at < end;) {
    int ordinal = 0;
    const auto [next, error] = std::from_chars(text.data() + at, text.data() + end, ordinal);
    if (error != std::errc()) break;
    ordinals.push_back(ordinal);
    at = static_cast<std::size_t>(next - text.data()) + 1;
  }
  return ordinals;
}

std::vector<int> chosen_gpus(const std::string& text) {
  std::vector<int> chosen;
  for (const char *at = text.data(), *end = at + text.size(); text != "all" && at < end;) {
    int ordinal = -1;
    const auto [next, error] = std::from_chars(at, end, ordinal);
    require(error == std::errc() && ordinal >= 0 && (next == end || (*next == ',' && next + 1 < end)), "launch",
            "--gpus takes numbers with commas between them, or all; got {}", text);
    require(std::find(chosen.begin(), chosen.end(), ordinal) == chosen.end(), "launch",
            "--gpus names GPU {} twice; got {}", ordinal, text);
    chosen.push_back(ordinal);
    at = next + 1;
  }
  std::string obstacle;
  const std::vector<int> found = survey_in_child(obstacle);
  require(!found.empty(), "launch", "--gpus {} is not to be had: {}", text, obstacle);
  for (const int ordinal : chosen) {
    require(std::find(found.begin(), found.end(), ordinal) != found.end(), "launch",
            "there is no GPU {}; expected some of {}", ordinal, fmt::join(found, ","));
  }
  return text == "all" ? found : chosen;
}

std::vector<std::string> own_command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  require(!words.empty(), "launch", "cannot read the command line from /proc/self/cmdline");
  return words;
}

/// A rank that runs.
struct Started {
  pid_t process = -1;  // -1: has ended
  int rank = 0;
};

int status_of(int raw) { return WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw); }

/// Starts the ranks as a group of their own: a terminal's Ctrl-C reaches this process only, which passes it on.
std::vector<Started> start(const std::vector<std::string>& devices) {
  Socket listener = listen_on(0, /*this_machine_only=*/true);
  fcntl(listener.get(), F_SETFD, 0);  // rank 0 inherits it
  const std::string port = std::to_string(port_of(listener));
  std::random_device random;
  const std::string key = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  const std::string threads =
      std::to_string(std::max<std::size_t>(1, std::thread::hardware_concurrency() / devices.size()));
  std::vector<std::string> words = own_command_line();
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::vector<Started> ranks;
  const pid_t parent = getpid();
  for (std::size_t r = 0; r < devices.size(); ++r) {
    const std::string rank = std::to_string(r), size = std::to_string(devices.size());
    const std::string descriptor = std::to_string(listener.get());
    const std::pair<const char*, const char*> variables[] = {
        {"DINO_LAUNCHER", kLauncher},          {"RANK", rank.c_str()},        {"WORLD_SIZE", size.c_str()},
        {"LOCAL_RANK", rank.c_str()},          {"MASTER_ADDR", "127.0.0.1"},  {"MASTER_PORT", port.c_str()},
        {"DINO_LISTENER", descriptor.c_str()}, {"DINO_RUN_KEY", key.c_str()}, {kRankDevice, devices[r].c_str()}};
    const pid_t child = fork();
    if (child < 0) {
      for (const Started& started : ranks) kill(started.process, SIGKILL);
      fail("launch", "cannot start rank {}: {}", r, std::strerror(errno));
    }
    if (child == 0) {
      setpgid(0, ranks.empty() ? 0 : ranks.front().process);
      prctl(PR_SET_PDEATHSIG, SIGTERM);  // nobody else would end it when the launcher is killed
      if (getppid() != parent) _exit(1);
      for (const auto& [name, value] : variables) setenv(name, value, 1);
      setenv("OMP_NUM_THREADS", threads.c_str(), 0);
      if (r > 0) close(listener.get());
      execv("/proc/self/exe", argv.data());
      _exit(127);
    }
    setpgid(child, ranks.empty() ? child : ranks.front().process);
    ranks.push_back({child, static_cast<int>(r)});
  }
  return ranks;
}

/// Waits for all ranks, passes signals on, and ends those that do not end by themselves after one has failed.
int wait_for(std::vector<Started>& ranks) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kGrace = std::chrono::seconds(30);
  int first_failure = 0;
  int stage = 0;  // signals sent after a failure
  std::set<int> passed;
  Clock::time_point next_stage;
  const auto send = [&](int signal) {
    for (const Started& started : ranks) {
      if (started.process > 0) kill(started.process, signal);
    }
  };
  std::size_t running = ranks.size();
  while (running > 0) {
    if (const int signal = signal_to_pass; signal != 0) {
      signal_to_pass = 0;
      passed.insert(signal);
      send(signal);
    }
    for (Started& started : ranks) {
      int raw = 0;
      if (started.process < 0 || waitpid(started.process, &raw, WNOHANG) != started.process) continue;
      const int status = status_of(raw);
      // A rank that a signal ends before it has come to where it asks to be stopped does what it was told.
      const bool as_told = WIFSIGNALED(raw) && passed.contains(WTERMSIG(raw));
      if (WIFSIGNALED(raw) && !as_told && (first_failure == 0 || WTERMSIG(raw) != SIGKILL || stage < 2)) {
        fmt::print(stderr,
                   "dino_cuda: [launch] rank {} (process {}) was ended by signal {} ({}); try its log, then "
                   "--resume\n",
                   started.rank, started.process, WTERMSIG(raw), strsignal(WTERMSIG(raw)));
      }
      started.process = -1;
      --running;
      if (status != 0 && first_failure == 0) {
        first_failure = status;
        next_stage = Clock::now() + kGrace;
      }
    }
    if (first_failure != 0 && running > 0 && Clock::now() >= next_stage && signals_received == 0) {
      send(++stage == 1 ? SIGTERM : SIGKILL);
      next_stage = Clock::now() + std::chrono::seconds(10);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return first_failure;
}

}  // namespace

void add_launch_options(Command command, LaunchOptions& options) {
  const Option gpus =
      command.add_option("--gpus", options.gpus, "start a process for each of these GPUs of this machine: 0,1,… or all")
          .type_name("LIST");
  command.add_option("--ranks", options.ranks, "start so many processes on the CPU of this machine")
      .in_range(1, 1024)
      .type_name("N")
      .excludes(gpus);
}

std::optional<int> launch_ranks(const LaunchOptions& options) {
  if (options.gpus.empty() && options.ranks == 0) return std::nullopt;
  if (environment_variable("DINO_LAUNCHER")) return std::nullopt;
  const World world = find_world();
  require(world.size == 1, "launch", "{} has started {} ranks already; try without --gpus and --ranks", world.launcher,
          world.size);
  std::vector<std::string> devices;
  if (!options.gpus.empty()) {
    for (const int ordinal : chosen_gpus(options.gpus)) devices.push_back(fmt::format("cuda:{}", ordinal));
  }
  devices.resize(std::max(devices.size(), static_cast<std::size_t>(options.ranks)), "cpu");

  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = note_signal_to_pass;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    sigaction(signal, &action, &before);
    if (signal == SIGHUP && before.sa_handler == SIG_IGN) sigaction(signal, &before, nullptr);  // under nohup
  }
  std::vector<Started> ranks = start(devices);
  return wait_for(ranks);
}

RankMachine open_ranks(const std::string& device, int threads, const std::string& communicator, double timeout_s) {
  RankMachine machine;
  machine.world = find_world();
  std::string chosen = device;
  if (machine.world.size > 1) {
    const auto given = environment_variable(kRankDevice);
    const DeviceChoice choice = DeviceChoice::parse(device);
    if (given && choice.kind == DeviceChoice::Kind::automatic) {
      chosen = *given;
    } else if (given && *given != device) {
      const bool cuda = given->starts_with("cuda") && device == "cuda";
      require(cuda, "launch", "device is {}, and this rank was started for {}; try without --device, or --device auto",
              device, *given);
      chosen = *given;
    } else if (device == "auto" || device == "cuda") {
      chosen = gpu_of_rank(device, machine.world.local_rank);
    }
  }
  machine.context = open_machine(chosen, threads);
  machine.communicator = connect_ranks(machine.world, communicator, timeout_s, *machine.context);
  return machine;
}

RankMachine open_alone(const std::string& device, int threads) {
  return {.world = {}, .context = open_machine(device, threads), .communicator = std::make_unique<SingleProcess>()};
}

}  // namespace dino
