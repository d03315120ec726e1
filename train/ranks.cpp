#include "train/ranks.h"

#include "data/fingerprint.h"
#include "engine/random.h"
#include "kernels/common/error.h"
#include "train/config_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace dino {
namespace {

/// Keys that say where a rank finds things and what its machine is.
constexpr std::array<std::string_view, 8> kOfTheMachine = {"init",    "data_path",      "output_dir",    "num_workers",
                                                           "threads", "knn_train_path", "knn_test_path", "device"};

/// `key = value` lines of what must be the same.
std::string common_lines(const TrainConfig& config, DType compute_type, const ImageSource& images, StartMode start) {
  std::string text = start == StartMode::resume ? "--resume\n" : "a new run\n";
  // Rank 0 reads the weights for all. Each machine may have them in another folder.
  const auto init = std::filesystem::path(config.init + "/").lexically_normal().parent_path().filename();
  text += config.init.empty() ? "no init\n" : fmt::format("init = …/{}\n", init.string());
  for (const auto& [key, value] : config_values(config)) {
    if (std::find(kOfTheMachine.begin(), kOfTheMachine.end(), key) == kOfTheMachine.end())
      text += fmt::format("{} = {}\n", key, value);
  }
  return text +
         fmt::format("arithmetic = {}\nnumber of pictures = {}\nchecksum of their names and classes in order = {}\n",
                     name_of(compute_type), images.size(), fingerprint_of(images));
}

template <typename T>
std::vector<T> gather(Communicator& communicator, std::span<const T> mine, std::string_view name) {
  std::vector<T> all(mine.size() * static_cast<std::size_t>(communicator.size()));
  communicator.all_gather_host(std::as_bytes(mine), std::as_writable_bytes(std::span(all)), name);
  return all;
}

std::string_view line_of(std::string_view text, std::size_t& at) {
  const std::size_t end = std::min(text.find('\n', at), text.size());
  const std::string_view line = text.substr(at, end - at);
  at = std::min(end + 1, text.size());
  return line;
}

/// `host` is used again, so that one tensor at a time is there.
std::uint64_t hash_of(Context& context, const Tensor& tensor, std::vector<float>& host) {
  host.resize(static_cast<std::size_t>(tensor.size()));
  context.copy_to_host(tensor, Array(host.data(), tensor.shape()));
  return stable_hash({reinterpret_cast<const char*>(host.data()), host.size() * sizeof(float)});
}

}  // namespace

void require_same_configuration(Communicator& communicator, const TrainConfig& config, DType compute_type,
                                const ImageSource& images, StartMode start) {
  if (communicator.size() == 1) return;
  constexpr std::string_view kName = "configurations";
  const std::string mine = common_lines(config, compute_type, images, start);
  const std::uint64_t summary[] = {stable_hash(mine), mine.size()};
  const auto summaries = gather<std::uint64_t>(communicator, summary, kName);
  bool same = true;
  std::uint64_t longest = 0;
  for (std::size_t r = 0; r < summaries.size(); r += 2) {
    same &= summaries[r] == summaries[0];
    longest = std::max(longest, summaries[r + 1]);
  }
  if (same) return;
  std::string padded = mine;
  padded.resize(longest, '\n');
  const auto texts = gather<char>(communicator, std::span<const char>(padded), kName);
  const std::string_view first(texts.data(), longest);
  for (int rank = 1; rank < communicator.size(); ++rank) {
    const std::string_view other(texts.data() + static_cast<std::size_t>(rank) * longest, longest);
    for (std::size_t a = 0, b = 0; a < longest;) {
      const std::string_view line = line_of(first, a), theirs = line_of(other, b);
      require(line == theirs, "train",
              "the ranks have different configurations: rank {} has {}, rank 0 has {}; try the same file, options and "
              "data on every rank",
              rank, theirs, line);
    }
  }
}

void require_same_state(Communicator& communicator, StudentTeacher& networks, const TrainingPosition& position) {
  if (communicator.size() == 1) return;
  const ParameterStore& store = networks.store();
  const auto& infos = networks.layout().infos();
  std::vector<float> host;
  std::vector<std::uint64_t> sums{static_cast<std::uint64_t>(position.step),
                                  hash_of(store.context, networks.center(), host)};
  for (const ParameterId id : networks.layout().ids()) {
    sums.push_back(hash_of(store.context, store.window(store.student, id), host));
    sums.push_back(hash_of(store.context, store.window(store.teacher, id), host));
  }
  const auto all =
      gather<std::uint64_t>(communicator, std::span<const std::uint64_t>(sums), "checksums of the weights");
  for (int rank = 1; rank < communicator.size(); ++rank) {
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (all[static_cast<std::size_t>(rank) * sums.size() + i] == all[i]) continue;
      const std::string what = i == 0   ? "another step"
                               : i == 1 ? "another center"
                                        : fmt::format("other weights in the {}'s {}",
                                                      i % 2 == 0 ? "student" : "teacher", infos[(i - 2) / 2].name);
      fail("train",
           "rank {} has {} than rank 0, before step {}; try the same weights and the same program on every rank, and "
           "--resume from the last checkpoint if it happened on the way",
           rank, what, position.step);
    }
  }
}

void share_state(Communicator& communicator, StudentTeacher& networks, TrainingPosition& position) {
  if (communicator.size() == 1) return;
  constexpr std::string_view kName = "the state of rank 0";
  ParameterStore& store = networks.store();
  for (const Tensor& tensor :
       {store.student, store.teacher, store.first_moment, store.second_moment, networks.center()})
    communicator.broadcast(tensor.array(), 0, store.context.stream(), kName);
  communicator.broadcast_host(std::as_writable_bytes(std::span(networks.update_counts())), 0, kName);
  const auto share = [&]<typename T>(T* values, std::size_t count) {
    communicator.broadcast_host(std::as_writable_bytes(std::span(values, count)), 0, kName);
  };
  share(&position.epoch, 1);
  share(&position.batch, 1);
  share(&position.step, 1);
  share(&position.best_score, 1);
  share(&position.rollbacks, 1);
  share(&position.healthy, 1);
  std::uint64_t length = position.health.size();
  share(&length, 1);
  position.health.resize(length);
  share(position.health.data(), position.health.size());
  store.refresh_working_copies();
}

int largest_of_ranks(Communicator& communicator, int mine, std::string_view name) {
  return largest_of_ranks(communicator, std::array{mine, mine}, name)[0];
}

std::array<int, 2> largest_of_ranks(Communicator& communicator, std::array<int, 2> mine, std::string_view name) {
  if (communicator.size() == 1) return mine;
  const auto all = gather<int>(communicator, std::span<const int>(mine), name);
  for (std::size_t i = 0; i < all.size(); ++i) mine[i % 2] = std::max(mine[i % 2], all[i]);
  return mine;
}

}  // namespace dino
