// dino_cuda convert, run as users run it.
#include "engine/files.h"
#include "models/safetensors.h"
#include "models/weights_export.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

class Bench {
 public:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string write(const std::string& name, std::string_view content) const {
    return folder_.write(name, content).string();
  }
  Outcome convert(const std::string& in, const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> words{"convert", in, path(out)};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  }
  void check_refused(const Outcome& outcome, const std::string& part) const {
    INFO("status " << outcome.status << ": " << outcome.errors);
    CHECK((outcome.status == 1 || outcome.status == 2));
    CHECK(is_one_line_error(outcome.errors));
    CHECK(contains(outcome.errors, part));
  }

 private:
  TemporaryFolder folder_;
};

std::string golden(const std::string& name) { return (golden_dir() / name).string(); }

}  // namespace

TEST_CASE("golden weights of every form are converted, verified and left alone afterwards") {
  const Bench bench;
  // PyTorch's files do not say how many heads the recorded network has.
  const std::string heads = SafetensorsFile::read(golden("backbone.safetensors")).metadata("num_heads");
  for (const char* in : {"backbone.pth", "backbone.safetensors", "backbone_half.pth", "checkpoint_full.pth",
                         "checkpoint_full_legacy.pth"}) {
    for (const auto& [out, form] :
         {std::pair{"o.pth", "official"}, {"t.safetensors", "timm"}, {"h", "hf"}, {"d.bin", "dino_cuda"}}) {
      INFO(in << " to " << form);
      std::vector<std::string> options{"--to", form, "--verify"};
      if (std::string(in) == "backbone_half.pth") options.insert(options.end(), {"--heads", heads});
      const std::string name = std::string(in) + out;
      const Outcome done = bench.convert(golden(in), name, options);
      INFO(done.errors);
      REQUIRE(done.status == 0);
      CHECK(contains(done.output, "verified: every tensor as it was"));
      CHECK(contains(done.output, "differ by 0.0e+00"));
      // A second time only when asked.
      bench.check_refused(bench.convert(golden(in), name, options), "exists already; try --force");
      options.emplace_back("--force");
      CHECK(bench.convert(golden(in), name, options).status == 0);
    }
  }
  const Outcome narrow =
      bench.convert(golden("backbone.pth"), "n.pth", {"--to", "official", "--dtype", "bf16", "--verify"});
  CHECK(narrow.status == 0);
  CHECK(contains(narrow.output, "rounded to bfloat16"));
  // Numbers that float32 does not have.
  const SafetensorsFile wide = SafetensorsFile::read(golden("backbone.safetensors"));
  std::vector<std::vector<double>> values;
  std::vector<NamedArray> arrays;
  for (const std::string& name : wide.names()) {
    std::vector<double>& all = values.emplace_back();
    for (std::int64_t i = 0; i < wide[name].size(); ++i) all.push_back(load_double(wide[name], i) * (1 + 1e-12));
    arrays.push_back({name, ConstArray(all.data(), DType::float64, wide[name].shape())});
  }
  write_safetensors(bench.path("double.safetensors"), arrays);
  const Outcome rounded =
      bench.convert(bench.path("double.safetensors"), "w.safetensors", {"--to", "official", "--verify"});
  INFO(rounded.errors);
  CHECK(rounded.status == 0);
  CHECK(contains(rounded.output, "rounded to float32"));
  const Outcome onnx = bench.convert(golden("backbone.pth"), "v.onnx", {"--to", "onnx"});
  INFO(onnx.errors);
  CHECK(onnx.status == 0);
}

TEST_CASE("golden checkpoints give their teacher or student, and say what is left out") {
  const Bench bench;
  for (const auto& [which, other] : {std::pair{"teacher", "student"}, {"student", "teacher"}}) {
    const Outcome done = bench.convert(golden("checkpoint_full.pth"), std::string(which) + ".safetensors",
                                       {"--to", "official", "--which", which});
    INFO(done.errors);
    REQUIRE(done.status == 0);
    CHECK(contains(done.output, std::string("left out: dino_loss.*, ") + other + ".* ("));
    CHECK(contains(done.output, "left out: head"));
  }
  CHECK(read_text_file(bench.path("teacher.safetensors")) != read_text_file(bench.path("student.safetensors")));
}

TEST_CASE("what cannot be converted is refused on one line, and nothing is left behind") {
  const Bench bench;
  const std::string in = golden("backbone.pth");
  bench.check_refused(bench.convert(in, "x", {"--to", "official"}), "expected NAME.safetensors or NAME.pth");
  bench.check_refused(bench.convert(in, "x.onnx", {"--to", "timm"}), "expected NAME.safetensors or NAME.pth");
  bench.check_refused(bench.convert(in, "x.pth", {"--to", "onnx"}), "NAME.onnx");
  bench.check_refused(bench.convert(in, "x.pth", {"--to", "hf"}), "hf is a folder");
  bench.check_refused(bench.convert(in, "x.pth", {"--to", "keras"}), "keras");
  bench.check_refused(bench.convert(in, "x.pth", {}), "--to");
  bench.check_refused(bench.convert(in, "x.onnx", {"--to", "onnx", "--verify"}), "verify_interop.py");
  bench.check_refused(bench.convert(in, "missing/x.pth", {"--to", "official"}), "missing/x.pth");
  bench.check_refused(bench.convert(golden("checkpoint_full.pth"), "x.pth", {"--to", "official", "--heads", "7"}),
                      "do not divide");
  bench.check_refused(bench.convert(golden("photo.png"), "x.pth", {"--to", "official"}), "no weights file");
  bench.check_refused(bench.convert(golden("knn.safetensors"), "x.pth", {"--to", "official"}), "no tensor cls_token");

  // Damaged in every way that files get damaged, or made to do harm.
  const std::string sound = read_text_file(golden("backbone.safetensors"));
  const std::string torch = read_text_file(in);
  const std::string legacy = read_text_file(golden("checkpoint_full_legacy.pth"));
  std::string header = sound;
  header.replace(0, 8, std::string("\0\0\0\0\0\0\0\x80", 8));
  std::string nested = std::string("\0\0\0\x02\0\0\0\0", 8) + "{\"a\":" + std::string((2 << 24) - 5, '[');
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"empty", ""},
      {"short.pth", "PK\3\4"},
      {"half.safetensors", sound.substr(0, sound.size() / 2)},
      {"half.pth", torch.substr(0, torch.size() / 2)},
      {"half_legacy.pth", legacy.substr(0, legacy.size() / 2)},
      {"header.safetensors", header},
      {"nested.safetensors", nested},
      {"json.safetensors", "{\"weight_map\": {}}"},
      {"x.index.json", "{\"weight_map\": {}}"}};
  for (const auto& [name, content] : broken) {
    INFO(name);
    const std::string file = bench.write(name, content);
    bench.check_refused(bench.convert(file, "x.pth", {"--to", "official"}), name);
  }
  // Names say nothing: a file is what its bytes are.
  const std::string renamed = bench.write("renamed.safetensors", torch);
  CHECK(bench.convert(renamed, "renamed.pth", {"--to", "official"}).status == 0);

  for (const auto& entry : std::filesystem::directory_iterator(bench.path(""))) {
    const std::string name = entry.path().filename().string();
    CHECK_FALSE(name.starts_with("x.pth"));
    CHECK_FALSE(contains(name, ".part"));
  }
}

TEST_CASE("golden weights in several files are not replaced by what is made of them") {
  const Bench bench;
  REQUIRE(bench.convert(golden("backbone.pth"), "hf", {"--to", "hf"}).status == 0);
  // The folder's weights in two files, behind an index.
  const SafetensorsFile whole = SafetensorsFile::read(bench.path("hf/model.safetensors"));
  std::vector<NamedArray> parts[2];
  nlohmann::json weight_map;
  for (const std::string& name : whole.names()) {
    const std::size_t part = name.starts_with("encoder") ? 1 : 0;
    parts[part].push_back({name, whole[name]});
    weight_map[name] = fmt::format("part-{}.safetensors", part);
  }
  for (const int part : {0, 1}) write_safetensors(bench.path(fmt::format("hf/part-{}.safetensors", part)), parts[part]);
  bench.write("hf/all.index.json", nlohmann::json{{"weight_map", weight_map}}.dump());
  std::filesystem::remove(bench.path("hf/model.safetensors"));

  const std::string index = bench.path("hf/all.index.json");
  for (const char* name : {"hf/part-0.safetensors", "hf/part-1.safetensors"}) {
    const std::string before = read_text_file(bench.path(name));
    bench.check_refused(bench.convert(index, name, {"--to", "official", "--force"}), "which is read");
    CHECK(read_text_file(bench.path(name)) == before);
  }
  // Its config.json says how many heads there are.
  const std::string config = read_text_file(bench.path("hf/config.json"));
  bench.check_refused(bench.convert(index, "hf", {"--to", "hf", "--force"}), "which is read");
  CHECK(read_text_file(bench.path("hf/config.json")) == config);
  CHECK(bench.convert(index, "hf/other.safetensors", {"--to", "official", "--force", "--verify"}).status == 0);
}

TEST_CASE("tensors that do not fit are listed one a line, up to a limit, and allowed when asked") {
  const Bench bench;
  const SafetensorsFile file = SafetensorsFile::read(golden("backbone.safetensors"));
  const float value = 1;
  std::vector<NamedArray> arrays;
  for (const std::string& name : file.names()) arrays.push_back({name, file[name]});
  // Names come from elsewhere: this one would turn the terminal red.
  arrays.push_back({"extra.\x1b[31m", ConstArray(&value, {1})});
  for (int i = 1; i < 60; ++i) arrays.push_back({fmt::format("extra.{:02}", i), ConstArray(&value, {1})});
  write_safetensors(bench.path("in.safetensors"), arrays, file.metadata());
  const Outcome refused = bench.convert(bench.path("in.safetensors"), "o.pth", {"--to", "official"});
  CHECK(refused.status == 1);
  const std::string first = refused.errors.substr(0, refused.errors.find('\n') + 1);
  CHECK(is_one_line_error(first));
  CHECK(contains(
      first,
      "unexpected: backbone.extra.\\x1b[31m (1), backbone.extra.01 (1), backbone.extra.02 (1) and 57 more; try "
      "--allow-unexpected, or dino_cuda convert with it"));
  CHECK(contains(refused.errors, "\n  unexpected        backbone.extra.39 (1)\n  unexpected        … and 20 more\n"));
  CHECK_FALSE(contains(refused.errors, "backbone.extra.40"));
  const Outcome allowed =
      bench.convert(bench.path("in.safetensors"), "o.pth", {"--to", "official", "--allow-unexpected", "--verify"});
  INFO(allowed.errors);
  CHECK(allowed.status == 0);
}
