#include "evaluate/feature_file.h"

#include "engine/files.h"
#include "engine/text.h"
#include "evaluate/near_copies.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>

using namespace dino;
using namespace dino::test;

namespace {

NamedFeatures example() {
  NamedFeatures features;
  features.table.width = 3;
  features.table.values = {0.1F, -2.5F, 1e-30F, 3.0F, 0.0F, 16777216.0F, 1.0F / 3, -0.0F, 7.0F};
  features.table.labels = {1, 0, 1};
  features.table.samples = {0, 1, 2};
  features.names = {"a/plain.jpg", "a/with, comma.jpg", "a/with \"quotes\" ü.jpg"};
  features.class_names = {"cat", "dog, large"};
  features.recipe = {.weights = "w.safetensors",
                     .network = "student",
                     .fingerprint = "0123456789abcdef",
                     .options = {.crop_px = 96, .short_side_px = 110, .kind = {.blocks = 4, .average_patches = false}}};
  return features;
}

/// Fields of a CSV line by RFC 4180.
std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields{""};
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') {
        fields.back() += line[++i];
      } else {
        quoted = !quoted;
      }
    } else if (line[i] == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += line[i];
    }
  }
  return fields;
}

std::vector<std::vector<std::string>> read_csv(const std::filesystem::path& path) {
  std::istringstream lines(read_text_file(path));
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(fields_of(line));
  return rows;
}

std::vector<float> unit_rows(const std::vector<double>& angles) {
  std::vector<float> rows;
  for (const double angle : angles) {
    rows.push_back(static_cast<float>(std::cos(angle)));
    rows.push_back(static_cast<float>(std::sin(angle)));
  }
  return rows;
}

}  // namespace

TEST_CASE("Features come back from a safetensors file as they were") {
  const TemporaryFolder folder;
  const NamedFeatures features = example();
  const auto path = folder.path() / "f.safetensors";
  CHECK((write_features(path, features) == std::vector<std::filesystem::path>{path}));
  const NamedFeatures back = read_features(path);
  CHECK(back.table.width == 3);
  CHECK(back.table.values == features.table.values);
  CHECK(back.table.labels == features.table.labels);
  CHECK(back.names == features.names);
  CHECK(back.class_names == features.class_names);
  CHECK(back.recipe.weights == "w.safetensors");
  CHECK(back.recipe.network == "student");
  CHECK(back.recipe.fingerprint == "0123456789abcdef");
  CHECK(back.recipe.options.crop_px == 96);
  CHECK(back.recipe.options.short_side_px == 110);
  CHECK(back.recipe.options.kind == features.recipe.options.kind);
  CHECK(back.recipe.options.normalized);

  NamedFeatures unlabelled = example();
  unlabelled.class_names = {};
  unlabelled.table.labels = {-1, -1, -1};
  write_features(path, unlabelled);
  CHECK(read_features(path).table.labels == unlabelled.table.labels);
}

TEST_CASE("The paths of millions of pictures do not make a header that nobody reads") {
  const TemporaryFolder folder;
  NamedFeatures features = example();
  // Few, but as long as those of a million: beyond the 100 MB that a header may have.
  features.names.clear();
  for (std::int64_t i = 0; i < 27'000; ++i) features.names.push_back(fmt::format("{:04000}", i));
  features.table.values.assign(3 * features.names.size(), 1);
  features.table.labels.assign(features.names.size(), 0);
  const auto path = folder.path() / "f.safetensors";
  write_features(path, features);
  CHECK(read_features(path).names == features.names);
}

TEST_CASE("Paths that are not UTF-8 are text in every file, and come back") {
  const TemporaryFolder folder;
  NamedFeatures features = example();
  features.names = {"a/M\xfcller.jpg", "a/M\\xfcller.jpg", "\xff\xfe, \"two\"\nlines\t.jpg"};
  features.class_names = {"K\xe4tzchen", "dog"};
  features.recipe.weights = "gewichte \xfc.safetensors";
  const auto path = folder.path() / "f.safetensors";
  write_features(path, features);
  const std::string bytes = read_text_file(path);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  CHECK(is_utf8(bytes.substr(8, header_bytes)));
  const NamedFeatures back = read_features(path);
  CHECK(back.names == features.names);
  CHECK(back.recipe.weights == features.recipe.weights);
  CHECK(back.class_names == std::vector<std::string>{"K\\xe4tzchen", "dog"});
  const SafetensorsFile file = SafetensorsFile::read(path);
  CHECK(file.metadata("escaped_paths") == "[0,2]");
  CHECK(file.metadata("paths") == R"(["a/M\\xfcller.jpg","a/M\\xfcller.jpg","\\xff\\xfe, \"two\"\nlines\t.jpg"])");
  // What is no row.
  std::map<std::string, std::string> metadata = file.metadata();
  for (const char* rows : {"[3]", "[-1]", "[1e300]", "{\"a\":[]}", "nothing"}) {
    metadata["escaped_paths"] = rows;
    write_safetensors(folder.path() / "odd", std::vector<NamedArray>{{"features", features.table.array()}}, metadata);
    CHECK(contains(error_of([&] { read_features(folder.path() / "odd"); }), "expected rows of its 3 paths"));
  }

  for (const char* name : {"f.csv", "g.npy"}) {
    const auto written = write_features(folder.path() / name, features);
    const std::string text = read_text_file(written.back());
    CHECK(is_utf8(text));
    CHECK(contains(text, "\na/M\\xfcller.jpg,1,dog"));
    CHECK(contains(text, "\n\"\\xff\\xfe, \"\"two\"\"\nlines\t.jpg\",1,dog"));
    CHECK(contains(text, ",0,K\\xe4tzchen"));
  }
}

TEST_CASE("Features as NumPy's format and as CSV hold the same numbers, paths and labels") {
  const TemporaryFolder folder;
  const NamedFeatures features = example();
  const auto written = write_features(folder.path() / "f.npy", features);
  REQUIRE(written.size() == 2);
  const std::string npy = read_text_file(written[0]);
  REQUIRE(npy.size() > 10);
  CHECK(npy.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t header = static_cast<unsigned char>(npy[8]) + 256U * static_cast<unsigned char>(npy[9]);
  CHECK((10 + header) % 64 == 0);
  CHECK(npy.substr(10, header).find("'shape': (3, 3)") != std::string::npos);
  CHECK(npy[10 + header - 1] == '\n');
  REQUIRE(npy.size() == 10 + header + 36);
  std::vector<float> values(9);
  std::memcpy(values.data(), npy.data() + 10 + header, 36);
  CHECK(values == features.table.values);
  const auto beside = read_csv(written[1]);
  REQUIRE(beside.size() == 4);
  CHECK(beside[2] == std::vector<std::string>{"a/with, comma.jpg", "0", "cat"});

  const auto rows = read_csv(write_features(folder.path() / "g.csv", features)[0]);
  REQUIRE(rows.size() == 4);
  CHECK(rows[0] == std::vector<std::string>{"path", "label", "class", "f0", "f1", "f2"});
  for (std::size_t i = 0; i < 3; ++i) {
    REQUIRE(rows[i + 1].size() == 6);
    CHECK(rows[i + 1][0] == features.names[i]);
    CHECK(rows[i + 1][2] == features.class_names[static_cast<std::size_t>(features.table.labels[i])]);
    for (std::size_t c = 0; c < 3; ++c) CHECK(std::stof(rows[i + 1][3 + c]) == features.table.values[3 * i + c]);
  }
}

TEST_CASE("Feature files of other kinds are refused with what to do") {
  const TemporaryFolder folder;
  CHECK(error_of([&] { write_features(folder.path() / "f.txt", example()); }).find(".npy") != std::string::npos);
  CHECK_THROWS_AS(check_feature_path("features"), Error);
  for (const char* name : {"f.npy", "f.csv"}) {
    write_features(folder.path() / name, example());
    CHECK(contains(error_of([&] { read_features(folder.path() / name); }), "--out FILE.safetensors"));
  }
  const auto path = folder.path() / "f.safetensors";
  const std::vector<float> one{1};
  write_safetensors(path, {{"features", ConstArray(one.data(), Shape{1, 1})}});
  CHECK(error_of([&] { read_features(path); }).find("dino_cuda features") != std::string::npos);
  write_safetensors(path, {{"features", ConstArray(one.data(), Shape{1, 1})}},
                    {{"paths", "[\"a\", \"b\"]"}, {"class_names", "[]"}, {"recipe", "{}"}});
  CHECK_THROWS_AS(read_features(path), Error);
  // Sizes that are none, or that no conversion to an int would keep.
  for (const char* size : {"2e56", "-1", "4294967520", "18446744073709551615", "224.5", "\"224\"", "null"}) {
    CAPTURE(size);
    write_safetensors(
        path, {{"features", ConstArray(one.data(), Shape{1, 1})}},
        {{"paths", "[\"a\"]"},
         {"class_names", "[]"},
         {"recipe", fmt::format(R"({{"weights":"w","network":"teacher","fingerprint":"","crop_px":{},)"
                                R"("short_side_px":256,"blocks":1,"average_patches":false,"normalized":true}})",
                                size)}});
    CHECK(contains(error_of([&] { read_features(path); }), "crop_px is"));
  }
  NamedFeatures wrong = example();
  wrong.names.pop_back();
  CHECK_THROWS_AS(write_features(path, wrong), Error);
}

TEST_CASE("Near copies form chains, largest group first") {
  const auto context = make_cpu_context();
  const double step = 0.1;  // cos(0.1) = 0.995, cos(0.2) = 0.980
  const std::vector<float> rows = unit_rows({2.0, 0.0, 5.0, step, 2.0 + step / 2, 2 * step, 3.3});
  const auto groups = find_near_copies(*context, rows, 2, 0.99);
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].rows == std::vector<std::int64_t>{1, 3, 5});
  CHECK(groups[0].similarity[0] == Approx(1).epsilon(1e-6));
  CHECK(groups[0].similarity[1] == Approx(std::cos(step)).epsilon(1e-6));
  CHECK(groups[0].similarity[2] == Approx(std::cos(2 * step)).epsilon(1e-6));
  CHECK(groups[1].rows == std::vector<std::int64_t>{0, 4});
  CHECK(find_near_copies(*context, rows, 2, 0.9999).empty());
  CHECK(find_near_copies(*context, {}, 2, 0.9).empty());
  CHECK_THROWS_AS(find_near_copies(*context, rows, 2, 0), Error);
  CHECK_THROWS_AS(find_near_copies(*context, rows, 2, 1.5), Error);
  CHECK_THROWS_AS(find_near_copies(*context, rows, 3, 0.9), Error);
}

TEST_CASE("Near copies are found wherever they lie in the tiles") {
  // More rows than a tile, and copies within one, across two, and of the last row.
  const std::int64_t n = 2100, width = 16;
  const HostArray drawn = random_normal(DType::float32, {n, width}, 11);
  std::vector<float> rows(drawn.as<float>(), drawn.as<float>() + n * width);
  const auto copy = [&](std::int64_t from, std::int64_t to) {
    std::copy_n(rows.begin() + from * width, width, rows.begin() + to * width);
  };
  copy(3, 1000);
  copy(5, 2050);
  copy(1023, 1024);
  copy(7, 2099);
  for (std::int64_t i = 0; i < n; ++i) {
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c)
      square += std::pow(static_cast<double>(rows[static_cast<std::size_t>(i * width + c)]), 2);
    for (std::int64_t c = 0; c < width; ++c)
      rows[static_cast<std::size_t>(i * width + c)] /= static_cast<float>(std::sqrt(square));
  }
  std::int64_t seen = 0;
  const auto groups = find_near_copies(*make_cpu_context(), rows, width, 1.0, [&](std::int64_t done) { seen = done; });
  CHECK(seen == n);
  std::vector<std::vector<std::int64_t>> got;
  for (const CopyGroup& group : groups) got.push_back(group.rows);
  std::sort(got.begin(), got.end());
  CHECK(got == std::vector<std::vector<std::int64_t>>{{3, 1000}, {5, 2050}, {7, 2099}, {1023, 1024}});
}
