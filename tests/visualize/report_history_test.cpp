// Curves of any length in bounded memory, and what is read from a run's files, sound or not.
#include "engine/progress.h"
#include "engine/text.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "train/config.h"
#include "visualize/report/run_comparison.h"
#include "visualize/report/run_history.h"
#include "visualize/report/run_summary.h"
#include "visualize/report/verdict.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

using namespace dino;
using namespace dino::test;

namespace {

/// A wave with noise, the same in every run of the test.
double wave(std::int64_t i) {
  return std::sin(0.001 * static_cast<double>(i)) + 0.1 * static_cast<double>(i * 37 % 101) / 101;
}

std::string log_line(int step, int epoch, double loss, double entropy = 3) {
  return fmt::format("{{\"step\":{},\"epoch\":{},\"loss\":{},\"lr\":0.001,\"entropy\":{},\"kl\":{}}}\n", step, epoch,
                     loss, entropy, loss - entropy);
}

/// A run of three epochs of ten steps, whose loss falls from 6 by 0.1 a step.
void write_small_run(const TemporaryFolder& folder, const std::string& name = "run") {
  std::string log;
  for (int step = 0; step < 30; ++step) log += log_line(step, step / 10, 6 - 0.1 * step);
  folder.write(name + "/log.jsonl", log);
  TrainConfig config;
  config.out_dim = 1024;
  config.epochs = 3;
  config.data_path = "my \"images\"";
  folder.write(name + "/config.toml", write_config(config));
}

void write_knn(const TemporaryFolder& folder, double untrained, double first, double second,
               const std::string& name = "run") {
  const auto line = [](int epoch, double teacher) {
    return fmt::format(
        "{{\"step\":{},\"epoch\":{},\"teacher\":[{{\"k\":10,\"top1\":{},\"top5\":90}},{{\"k\":20,\"top1\":{},\"top5\":"
        "91}}],"
        "\"student\":[{{\"k\":10,\"top1\":{},\"top5\":80}}],\"pictures\":1000,"
        "\"features\":{{\"images\":500,\"width\":192,\"teacher\":{{\"rank\":60.5,\"spread\":0.8}}}}}}\n",
        10 * epoch + 9, epoch, teacher - 1, teacher, teacher - 2);
  };
  folder.write(name + "/knn.jsonl", line(-1, untrained) + line(0, first) + line(1, second));
}

}  // namespace

TEST_CASE("A series keeps the extremes and the sum of a long curve in few points", "[report]") {
  Series series;
  constexpr std::int64_t kCount = 123457;
  double sum = 0;
  for (std::int64_t i = 0; i < kCount; ++i) {
    const double y = i == 77777 ? 50 : wave(i);
    series.add(static_cast<double>(i), y);
    sum += y;
  }
  const std::vector<SeriesPoint> points = series.points();
  CHECK(series.count() == kCount);
  REQUIRE(points.size() <= Series::kMaxPoints);
  REQUIRE(points.size() >= Series::kMaxPoints / 2);
  // The spike of one step is still there, in its place.
  const auto highest = std::max_element(points.begin(), points.end(),
                                        [](const SeriesPoint& a, const SeriesPoint& b) { return a.high < b.high; });
  CHECK(highest->high == 50);
  CHECK(std::abs(highest->x - 77777) <= 1024);
  CHECK(series.largest() == 50);
  for (std::size_t i = 1; i < points.size(); ++i) CHECK(points[i].x > points[i - 1].x);
  // All but the last stand for equally many values, so their means add up to the whole.
  const double each = points[1].x - points[0].x;
  double whole = 0;
  for (std::size_t i = 0; i + 1 < points.size(); ++i) whole += points[i].mean * each;
  whole += points.back().mean * (kCount - each * static_cast<double>(points.size() - 1));
  CHECK(std::abs(whole - sum) <= 1e-6 * std::abs(sum));
}

TEST_CASE("A series of few values is exact", "[report]") {
  Series series;
  for (int i = 0; i < 300; ++i) series.add(i, i * i);
  const std::vector<SeriesPoint> points = series.points();
  REQUIRE(points.size() == 300);
  for (int i = 0; i < 300; ++i) {
    const SeriesPoint& point = points[static_cast<std::size_t>(i)];
    CHECK((point.x == i && point.low == i * i && point.mean == i * i && point.high == i * i));
  }
  CHECK(series.first() == 0);
  CHECK(series.last() == 299 * 299);
}

TEST_CASE("A series counts what is not finite and goes on", "[report]") {
  Series series;
  series.add(0, 1);
  series.add(1, std::numeric_limits<double>::quiet_NaN());
  series.add(2, std::numeric_limits<double>::infinity());
  series.add(3, 3);
  CHECK(series.count() == 2);
  CHECK(series.not_finite() == 2);
  CHECK(series.points().size() == 2);
  CHECK(series.recent() == 3);
}

TEST_CASE("A run is read with its epochs, configuration and accuracies", "[report]") {
  const TemporaryFolder folder;
  write_small_run(folder);
  write_knn(folder, 30, 35, 41);
  RunReader reader(folder.path() / "run");
  const RunHistory& run = reader.read();
  CHECK(run.name == "run");
  CHECK(run.last_step == 29);
  CHECK(run.last_epoch == 2);
  CHECK(run.steps_per_epoch == 10);
  CHECK(run.unreadable_lines == 0);
  CHECK(run.series("loss").count() == 30);
  CHECK(run.series("loss").first() == 6);
  CHECK(run.series("nothing").empty());
  REQUIRE(run.knn.size() == 3);
  CHECK(run.untrained() == &run.knn[0]);
  CHECK(RunHistory::best(run.knn[2].teacher)->top1 == 41);
  CHECK(RunHistory::best(run.knn[2].teacher)->k == 20);
  CHECK(run.knn[2].rank == 60.5);
  CHECK(run.knn[2].spread == 0.8);
  CHECK(run.config_number("out_dim") == 1024);
  CHECK_FALSE(run.config_number("arch").has_value());
  CHECK(run.config_text("arch") == "vit_small");
  std::vector<std::string> changed;
  for (const ConfigEntry& entry : run.config) {
    if (entry.changed()) changed.push_back(entry.key);
  }
  CHECK(changed == std::vector<std::string>{"out_dim", "epochs", "data_path"});

  const RunSummary summary = summarize(run);
  CHECK(summary.steps == 30);
  CHECK(summary.epochs == 3);
  CHECK(std::abs(*summary.lowest_loss - 3.1) <= 1e-12);
  CHECK(summary.untrained == 30.0);
  CHECK(summary.best_teacher->top1 == 41);
}

TEST_CASE("Torn, foreign and repeated lines are counted and left out", "[report]") {
  const TemporaryFolder folder;
  folder.write("run/log.jsonl", log_line(0, 0, 6) + "{\"step\":1,\"epoch\":0,\"lo\n" + "[1,2]\n" + "{\"loss\":3}\n" +
                                    "{\"step\":2,\"epoch\":0,\"loss\":null,\"note\":\"x\"}\n" + log_line(2, 0, 9) +
                                    "{\"step\":3,\"epoch\":0,\"loss\":5");
  RunReader reader(folder.path() / "run");
  const RunHistory& run = reader.read();
  CHECK(run.unreadable_lines == 4);  // torn, no object, no step, a step that was there; the last may still be written
  CHECK(run.series("loss").count() == 1);
  CHECK(run.series("loss").not_finite() == 1);
  CHECK(run.last_step == 2);
  // No configuration: the keys are known, their values are not.
  CHECK_FALSE(run.config_number("out_dim").has_value());
}

TEST_CASE("Lines without end take little memory and are counted, ended or not", "[report]") {
  const TemporaryFolder folder;
  const auto log = folder.write("run/log.jsonl", log_line(0, 0, 6));
  const auto grow = [&](std::uintmax_t bytes, const std::string& then) {  // by zeros that take no room
    std::filesystem::resize_file(log, std::filesystem::file_size(log) + bytes);
    std::ofstream(log, std::ios::app) << then;
  };
  RunReader reader(folder.path() / "run");
  grow(std::uintmax_t{3} << 20, "\n" + log_line(1, 0, 5));
  CHECK(reader.read().last_step == 1);
  CHECK(reader.read().unreadable_lines == 1);
  grow(std::uintmax_t{2} << 30, "");
  const std::size_t before = peak_resident_bytes();
  CHECK(reader.read().unreadable_lines == 2);
  CHECK(reader.read().unreadable_lines == 2);
  CHECK(peak_resident_bytes() - before < (std::size_t{64} << 20));
}

TEST_CASE("A log that cannot be read is no empty run", "[report]") {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() / "run" / "log.jsonl");
  RunReader reader(folder.path() / "run");
  CHECK(contains(error_of([&] { reader.read(); }), "log.jsonl: it is a folder"));
}

TEST_CASE("A reader takes in what is appended", "[report]") {
  const TemporaryFolder folder;
  const std::string first = log_line(0, 0, 6), second = log_line(1, 0, 5), third = log_line(2, 1, 4);
  folder.write("run/log.jsonl", first + second.substr(0, 20));
  RunReader reader(folder.path() / "run");
  CHECK(reader.read().series("loss").count() == 1);
  folder.write("run/log.jsonl", first + second + third);
  const RunHistory& run = reader.read();
  CHECK(run.series("loss").count() == 3);
  CHECK(run.unreadable_lines == 0);
  CHECK(run.steps_per_epoch == 2);
}

TEST_CASE("A folder without a run is refused in one line", "[report]") {
  const TemporaryFolder folder;
  const std::string message = error_of([&] { RunReader reader(folder.path()); });
  CHECK(contains(message, "no log.jsonl"));
  CHECK(contains(message, "; try "));
  // Where runs are in it, one is named.
  write_small_run(folder, "runs/b");
  write_small_run(folder, "runs/a");
  const std::string inside = error_of([&] { RunReader reader(folder.path() / "runs"); });
  INFO(inside);
  CHECK(inside.ends_with("; try " + (folder.path() / "runs" / "a").string()));
}

TEST_CASE("The verdict goes by the accuracy where there is one", "[report]") {
  using Answer = Verdict::Answer;
  const TemporaryFolder folder;
  write_small_run(folder);
  const auto verdict = [&] {
    RunReader reader(folder.path() / "run");
    return judge(reader.read());
  };
  CHECK(verdict().answer == Answer::unsure);
  write_knn(folder, 30, 35, 41);
  CHECK(verdict().answer == Answer::yes);
  CHECK(verdict().evidence[0].find("+11 points") != std::string::npos);
  // Of 1000 pictures, 2 points are within what chance gives: 1.96 · √(2 · 0.3 · 0.7 / 1000) is 4.0 points.
  write_knn(folder, 30, 31, 32);
  CHECK(verdict().answer == Answer::unsure);
  write_knn(folder, 30, 32, 34.6);
  CHECK(verdict().answer == Answer::yes);
  // A student that is ahead of its teacher counts as well.
  folder.write("run/knn.jsonl",
               R"({"step":-1,"epoch":-1,"teacher":[{"k":10,"top1":30}],"student":[{"k":10,"top1":30}],"pictures":1000})"
               "\n"
               R"({"step":9,"epoch":0,"teacher":[{"k":10,"top1":31}],"student":[{"k":10,"top1":37}],"pictures":1000})"
               "\n");
  CHECK(verdict().answer == Answer::yes);
  CHECK(contains(verdict().evidence[0], "the student names 37.0 %"));
}

TEST_CASE("The verdict names a collapse, whatever the accuracy", "[report]") {
  const TemporaryFolder folder;
  write_small_run(folder);
  write_knn(folder, 30, 35, 41);
  const auto headline = [&](double loss, double entropy) {
    std::string log;
    for (int step = 0; step < 60; ++step) log += log_line(step, step / 10, loss, entropy);
    folder.write("run/log.jsonl", log);
    RunReader reader(folder.path() / "run");
    const Verdict verdict = judge(reader.read());
    return (verdict.answer == Verdict::Answer::no ? "no: " : "other: ") + verdict.headline;
  };
  const double most = std::log(1024.0);
  CHECK(headline(most, most - 1e-4) == "no: No: it has collapsed to uniform outputs");
  CHECK(headline(1e-4, 1e-5) == "no: No: it has collapsed to one output");
  CHECK(headline(0.8 * most, 0.6 * most) == "other: Yes, it is learning");
}

TEST_CASE("A finding that goes on counts, one that has ended does not", "[report]") {
  const TemporaryFolder folder;
  write_small_run(folder);
  write_knn(folder, 30, 35, 41);
  const std::string begins =
      R"({"step":9,"epoch":0,"kind":"uniform_outputs","severity":"severe","state":"begins","message":"all alike","advice":"cool the teacher"})"
      "\n";
  const auto answer = [&] {
    RunReader reader(folder.path() / "run");
    return judge(reader.read()).answer;
  };
  folder.write("run/health.jsonl", begins);
  CHECK(answer() == Verdict::Answer::no);
  folder.write("run/health.jsonl",
               begins + R"({"step":19,"epoch":1,"kind":"uniform_outputs","severity":"severe","state":"ends"})"
                        "\n");
  CHECK(answer() == Verdict::Answer::yes);
  // It comes again; what happened once is no state.
  folder.write("run/health.jsonl", begins +
                                       R"({"step":19,"kind":"uniform_outputs","severity":"severe","state":"ends"})"
                                       "\n" +
                                       begins);
  CHECK(answer() == Verdict::Answer::no);
  folder.write("run/health.jsonl", R"({"step":19,"kind":"skipped_step","severity":"severe","state":"once"})"
                                   "\n");
  CHECK(answer() == Verdict::Answer::yes);
  // A collapse that the run has found is named as one, and nothing on the page denies it.
  for (const auto& [kind, headline] : {std::pair{"uniform_outputs", "No: it has collapsed to uniform outputs"},
                                       {"one_output", "No: it has collapsed to one output"},
                                       {"center_growing", "No: something is wrong"}}) {
    INFO(kind);
    folder.write(
        "run/health.jsonl",
        fmt::format(R"({{"step":9,"kind":"{}","severity":"severe","state":"begins","message":"all alike"}})", kind) +
            "\n");
    RunReader reader(folder.path() / "run");
    const Verdict verdict = judge(reader.read());
    CHECK(verdict.headline == headline);
    const bool denied = std::any_of(verdict.evidence.begin(), verdict.evidence.end(), [](const std::string& line) {
      return contains(line, "neither uniform nor all one");
    });
    CHECK(denied == (std::string(kind) == "center_growing"));
  }
}

TEST_CASE("Runs of one name are told apart, and their configurations compared", "[report]") {
  const TemporaryFolder folder;
  write_small_run(folder, "a/run");
  write_small_run(folder, "b/run");
  TrainConfig config;
  config.out_dim = 1024;
  config.lr = 0.004;
  config.epochs = 3;
  config.output_dir = "elsewhere";
  config.data_path = "my \"images\"";
  folder.write("b/run/config.toml", write_config(config));
  RunReader a(folder.path() / "a/run"), b(folder.path() / "b/run/");
  const std::vector<const RunHistory*> runs{&a.read(), &b.read()};
  CHECK(run_names(runs) == std::vector<std::string>{"a/run", "b/run"});
  const auto differences = config_differences(runs);
  REQUIRE(differences.size() == 1);
  CHECK(differences[0].key == "lr");
  CHECK(differences[0].values == std::vector<std::string>{"0.0005", "0.004"});
}

TEST_CASE("A curve of blocks spans its range", "[report]") {
  std::vector<SeriesPoint> points;
  for (int i = 0; i < 16; ++i) points.push_back({static_cast<double>(i), 0, static_cast<double>(i), 0});
  CHECK(block_curve(points, 8, 0, 15) == "▁▂▃▄▅▆▇█");
  CHECK(block_curve(points, 100, 0, 15) == "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██");
  CHECK(block_curve({}, 8, 0, 1).empty());
  CHECK(block_curve({{0, 1, 1, 1}}, 8, 1, 1) == "▅");
}

TEST_CASE("The columns of a comparison stand below each other, in any script", "[report]") {
  const TemporaryFolder folder;
  const std::vector<std::string> names{"日本語",
                                       "u\xcc\x88"
                                       "ber",
                                       "M\xfcller\x1b[2J", "日本語日本語日本語日本語日本語"};
  std::vector<RunReader> readers;
  std::vector<const RunHistory*> runs;
  for (const std::string& name : names) {
    write_small_run(folder, name);
    readers.emplace_back(folder.path() / name);
  }
  for (RunReader& reader : readers) runs.push_back(&reader.read());
  std::istringstream text(compare_runs(runs, {.columns = 100}));
  std::string line;
  REQUIRE(std::getline(text, line));
  INFO(line);
  // 20 for the label, then two blanks and 18 columns for each.
  CHECK(line == "run" + std::string(19, ' ') + "日本語" + std::string(14, ' ') +
                    "u\xcc\x88"
                    "ber" +
                    std::string(16, ' ') +
                    "M\\xfcller\\x1b[2J  "
                    "  日本語日本語日本…");
  for (; std::getline(text, line);) CHECK(columns_of(line) <= 100);
}

TEST_CASE("A comparison fits the terminal, and colours only when asked", "[report]") {
  const TemporaryFolder folder;
  std::vector<RunReader> readers;
  std::vector<const RunHistory*> runs;
  for (const char* name : {"one", "two", "three", "four", "a run of a very long name indeed"}) {
    write_small_run(folder, name);
    write_knn(folder, 30, 35, 41 + static_cast<double>(readers.size()), name);
    readers.emplace_back(folder.path() / name);
  }
  for (RunReader& reader : readers) runs.push_back(&reader.read());
  for (const int columns : {40, 80, 133}) {
    const std::string text = compare_runs(runs, {.columns = columns});
    CHECK(text.find('\x1b') == std::string::npos);
    CHECK(text.find("41 %") != std::string::npos);
    CHECK(text.find("45 %") != std::string::npos);
    std::size_t widest = 0, width = 0;
    for (const char c : text) {
      width = c == '\n' ? 0 : width + ((c & 0xC0) != 0x80 ? 1 : 0);
      widest = std::max(widest, width);
    }
    CHECK(widest <= static_cast<std::size_t>(columns));
  }
  CHECK(compare_runs(runs, {.columns = 133, .color = true}).find("\x1b[1;32m45 %") != std::string::npos);
  const auto json = comparison_json(runs);
  CHECK(json["runs"].size() == 5);
  CHECK(json["runs"][4]["teacher"][1]["top1"] == 45.0);
  CHECK(json["differences"].empty());
}
