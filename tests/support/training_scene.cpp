#include "tests/support/training_scene.h"

#include "data/png.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_training.h"
#include "train/checkpoint.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <sstream>
#include <thread>

namespace dino::test {

TrainingScene::TrainingScene(const std::function<void(TrainConfig&)>& set) {
  const DrawnPictures drawn(8);
  Image picture;
  for (int i = 0; i < 8; ++i) {
    const std::filesystem::path class_folder = folder() / "images" / (i % 2 == 0 ? "even" : "odd");
    std::filesystem::create_directories(class_folder);
    drawn.decode(i, picture);
    write_png(class_folder / (std::to_string(i) + ".png"), picture.rgb, picture.height, picture.width, 3);
  }
  TrainConfig config = tiny_config();
  config.data_path = (folder() / "images").string();
  config.threads = 1;
  set(config);
  config_file_ = folder_.write("config.toml", write_config(config));
}

std::vector<std::string> TrainingScene::command(const std::string& name, bool resume) const {
  std::vector<std::string> words{"train", config_file_.string(), "--output_dir", run(name).string()};
  if (resume) words.emplace_back("--resume");
  return words;
}

std::vector<std::string> TrainingScene::next_command(const std::string& name) const {
  return command(name, !find_checkpoints(run(name)).empty());
}

std::ptrdiff_t lines_of(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return 0;
  const std::string text = read_text_file(file);
  return std::count(text.begin(), text.end(), '\n');
}

std::vector<std::string> log_lines(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  std::stringstream text(read_text_file(file));
  for (std::string line; std::getline(text, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    json.erase("images_per_second");
    json.erase("data_wait_share");
    lines.push_back(json.dump());
  }
  return lines;
}

void check_same_checkpoint(const std::filesystem::path& got, const std::filesystem::path& expected, Best best) {
  const SafetensorsFile a = SafetensorsFile::read(got);
  const SafetensorsFile b = SafetensorsFile::read(expected);
  REQUIRE(a.names() == b.names());
  int compared = 0;
  for (const std::string& name : a.names()) {
    INFO(name);
    REQUIRE(a[name].size_bytes() == b[name].size_bytes());
    CHECK(std::memcmp(a[name].data(), b[name].data(), a[name].size_bytes()) == 0);
    ++compared;
  }
  CHECK(compared > 100);
  for (const char* key : {"epoch", "batch", "step", "rollbacks", "healthy", "health"})
    CHECK(a.metadata(key) == b.metadata(key));
  if (best == Best::compared) CHECK(a.metadata("best_score") == b.metadata("best_score"));
}

void check_same_run(const std::filesystem::path& got, const std::filesystem::path& expected, Best best) {
  INFO(got.string());
  check_same_checkpoint(got / kLastCheckpoint, expected / kLastCheckpoint, best);
  if (best == Best::compared) check_same_checkpoint(got / kBestCheckpoint, expected / kBestCheckpoint);
  for (const char* log : {"log.jsonl", "knn.jsonl"}) CHECK(log_lines(got / log) == log_lines(expected / log));
}

std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    names.push_back(entry.path().lexically_relative(folder).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> files_besides_film(const std::filesystem::path& run) {
  std::vector<std::string> names = files_in(run);
  std::erase_if(names, [](const std::string& name) { return name.starts_with("film/"); });
  return names;
}

void await_steps(Program& program, const std::filesystem::path& run, std::ptrdiff_t steps) {
  while (program.is_running() && lines_of(run / "log.jsonl") < steps)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace dino::test
