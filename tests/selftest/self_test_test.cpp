#include "selftest/self_test.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <regex>
#include <set>

using namespace dino;
using namespace dino::test;

namespace {

std::string describe(const SelfCheck& check) {
  return fmt::format("{} {} {} {}: error {}, bound {}, {}", check.group, check.name, check.dtype, check.target,
                     check.error, check.bound, check.worst);
}

/// Names of the checks that failed.
std::set<std::string> failures(const SelfChecks& checks) {
  std::set<std::string> names;
  for (const SelfCheck& check : checks) {
    if (!check.passed()) names.insert(check.name + (check.dtype.empty() ? "" : " " + check.dtype));
  }
  return names;
}

/// Blocks of the heap, as a CPU's arena has addresses.
class HeapArena final : public Arena {
 public:
  HeapArena() { set_range(memory_.data(), memory_.size()); }

 private:
  void commit(std::size_t) override {}
  AlignedBuffer memory_{std::size_t{256} << 20};
};

/// A CPU whose memory hands back other bits than it holds: the first four bytes of each copy to the host are inverted.
class FaultyStream final : public Stream {
 public:
  FaultyStream() : Stream(Device::cpu, 0, nullptr), sound_(make_cpu_stream()) {}
  void* scratch(std::size_t size_bytes) override { return sound_->scratch(size_bytes); }
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) override {
    sound_->copy_from_host(to, host, size_bytes);
  }
  void copy_to_host(void* host, const void* from, std::size_t size_bytes) override {
    sound_->copy_to_host(host, from, size_bytes);
    auto* bytes = static_cast<std::byte*>(host);
    for (std::size_t i = 0; i < std::min<std::size_t>(4, size_bytes); ++i) bytes[i] = ~bytes[i];
  }
  void copy(void* to, const void* from, std::size_t size_bytes) override { sound_->copy(to, from, size_bytes); }
  void zero(void* to, std::size_t size_bytes) override { sound_->zero(to, size_bytes); }
  void synchronize() override { sound_->synchronize(); }

 private:
  std::unique_ptr<Stream> sound_;
};

/// The built-in recording with one tensor, or one element of it, multiplied by `factor`.
TrainingRecording spoiled(const std::string& name, double factor = 1.03, std::int64_t element = -1) {
  const SafetensorsFile file = SafetensorsFile::read(golden_dir() / "train_adamw.safetensors");
  std::vector<NamedArray> arrays;
  std::vector<float> values;
  for (const std::string& other : file.names()) {
    const ConstArray array = file[other];
    if (other != name) {
      arrays.push_back({other, array});
      continue;
    }
    for (std::int64_t i = 0; i < array.size(); ++i)
      values.push_back(static_cast<float>((element < 0 || element == i ? factor : 1) * load_double(array, i)));
    arrays.push_back({other, ConstArray(values.data(), array.shape())});
  }
  REQUIRE_FALSE(values.empty());
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "spoiled.safetensors", arrays, file.metadata());
  return TrainingRecording(SafetensorsFile::read(folder.path() / "spoiled.safetensors"));
}

}  // namespace

static void check_everything(Context& context);
TEST_CASE("self test: everything passes, on every device and with every instruction set", "[device]") {
  every_context(check_everything);
}
static void check_everything(Context& context) {
  std::int64_t told = 0;
  const SelfChecks checks =
      run_self_test(context, built_in_recordings(), [&](std::int64_t, std::int64_t, std::string_view) { ++told; });
  CHECK(told > 20);
  for (const SelfCheck& check : checks) {
    INFO(describe(check));
    CHECK(check.passed());
    // A bound that nothing comes near would pass what is wrong.
    CHECK(std::isfinite(check.bound));
    CHECK(check.bound <= 0.05);
  }
  CHECK(std::count_if(checks.begin(), checks.end(), [](const SelfCheck& c) { return c.group == "training"; }) >= 9);
}

TEST_CASE("self test: no operation is left out") {
  // Every DINO_OPERATION of the headers; batch norm's steps are one check.
  std::set<std::string> checked;
  const auto context = make_cpu_context();
  for (const SelfCheck& check : check_kernels(*context)) checked.insert(check.name);
  const std::filesystem::path kernels = config_dir().parent_path() / "kernels";
  int operations = 0;
  const std::regex declaration("^DINO_OPERATION\\((\\w+),");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kernels)) {
    if (entry.path().extension() != ".h") continue;
    std::ifstream file(entry.path());
    std::smatch match;
    for (std::string line; std::getline(file, line);) {
      if (!std::regex_search(line, match, declaration)) continue;
      ++operations;
      const std::string name = match[1].str().starts_with("batch_norm") ? "batch_norm" : match[1].str();
      INFO(name);
      CHECK(checked.contains(name));
    }
  }
  CHECK(operations > 30);
}

TEST_CASE("self test: a memory that hands back wrong bits fails every check of the kernels") {
  Context faulty(std::make_unique<FaultyStream>(), std::make_shared<HeapArena>());
  for (const SelfCheck& check : check_kernels(faulty)) {
    INFO(describe(check));
    CHECK_FALSE(check.passed());
  }
  for (const SelfChecks& checks :
       {check_forward(faulty, built_in_recordings()), check_training(faulty, built_in_recordings().training)}) {
    REQUIRE_FALSE(checks.empty());
    CHECK_FALSE(failures(checks).empty());
  }
}

TEST_CASE("self test: a fault of 3 % in one tensor is found where it is, and nowhere else") {
  const auto context = make_cpu_context();
  using Names = std::set<std::string>;
  const auto failures_of = [&](const std::string& name) { return failures(check_training(*context, spoiled(name))); };
  CHECK(failures_of("step0.grad.backbone.blocks.1.mlp.fc2.weight") == Names{"gradients of the first step fp32"});
  CHECK(failures_of("step2.center") == Names{"centers fp32"});
  CHECK(failures_of("final.teacher.head.mlp.2.weight") == Names{"teacher (EMA) at the end fp32"});
  CHECK(failures_of("losses") == Names{"losses of 6 steps bf16", "losses of 6 steps fp32"});
  CHECK(failures_of("lr").empty());  // is computed, not read
}

TEST_CASE("self test: one norm that is not a number, recorded or computed, fails the norms") {
  const auto context = make_cpu_context();
  const double nan = std::nan("");
  const auto failures_of = [&](const TrainingRecording& recording) {
    return failures(check_training(*context, recording));
  };
  CHECK(failures_of(spoiled("step2.grad_norms", nan, 0)) == std::set<std::string>{"gradient norms fp32"});
  // Whatever is computed from such a weight is none either.
  CHECK(failures_of(spoiled("initial.student.backbone.blocks.0.norm1.weight", nan, 0)).contains("gradient norms fp32"));
}

TEST_CASE("self test: recordings whose tensors or numbers do not go together are refused") {
  const SafetensorsFile file = SafetensorsFile::read(golden_dir() / "train_adamw.safetensors");
  const TemporaryFolder folder;
  /// The recording with the first row only of one tensor, or with another number.
  const auto message = [&](const std::string& cut, const std::string& key = "", const std::string& value = "") {
    std::vector<NamedArray> arrays;
    for (const std::string& name : file.names()) {
      const ConstArray array = file[name];
      const auto extents = array.shape().extents();
      std::vector<std::int64_t> first(extents.begin(), extents.end());
      if (name == cut) first.back() = 1;
      arrays.push_back({name, ConstArray(array.data(), array.dtype(), Shape(std::span<const std::int64_t>(first)))});
    }
    std::map<std::string, std::string> metadata = file.metadata();
    if (!key.empty()) metadata[key] = value;
    const auto path = folder.path() / "changed.safetensors";
    write_safetensors(path, arrays, metadata);
    return error_of([&] { const TrainingRecording recording(SafetensorsFile::read(path)); });
  };
  CHECK(message("").empty());
  CHECK(contains(message("losses"), "got 1 losses, expected one for each of 6 steps"));
  CHECK(contains(message("final.teacher.head.mlp.2.weight"), "final.teacher.head.mlp.2.weight has another shape"));
  CHECK(contains(message("final.student.backbone.norm.bias"), "final.student.backbone.norm.bias has another shape"));
  CHECK(contains(message("", "iters", "0"), "a run of 0 steps"));
  for (const char* value : {"nan", "inf", "-3", "2.5", "1e9"})
    CHECK(contains(message("", "batch", value), "metadata batch is no count"));
  CHECK(contains(message("", "depth", "two"), "metadata depth is no number"));

  Recordings recordings = read_recordings(golden_dir());
  std::vector<NamedArray> arrays;
  for (const std::string& name : recordings.backbone.names()) arrays.push_back({name, recordings.backbone[name]});
  std::map<std::string, std::string> metadata = recordings.backbone.metadata();
  metadata["depth"] = "two";
  write_safetensors(folder.path() / "backbone.safetensors", arrays, metadata);
  recordings.backbone = SafetensorsFile::read(folder.path() / "backbone.safetensors");
  const auto context = make_cpu_context();
  CHECK(contains(error_of([&] { check_forward(*context, recordings); }), "metadata depth is no number"));
}

TEST_CASE("self test: what is not a number, of another size or not there fails") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> good{1, 2, 3}, bad{1, nan, 3};
  const std::vector<std::int32_t> whole{1, 2, 3}, other{1, 2, 4};
  const auto error = [](const auto& a, const auto& b) {
    return error_between(ConstArray(a.data(), {static_cast<std::int64_t>(a.size())}),
                         ConstArray(b.data(), {static_cast<std::int64_t>(b.size())}));
  };
  CHECK(error(good, good) == 0);
  CHECK(std::isinf(error(good, bad)));
  CHECK(std::isinf(error(bad, good)));
  CHECK(std::isinf(error(good, std::vector<float>{1, 2})));
  CHECK(std::isinf(error(std::vector<float>{}, std::vector<float>{})));
  CHECK(error(whole, whole) == 0);
  CHECK(error(whole, other) == 1);

  SelfCheck check;
  WorstError().finish(check);
  CHECK_FALSE(check.passed());
  WorstError worst;
  worst.add(0.5, 1, "within");
  worst.add(std::nan(""), 1, "not a number");
  worst.add(0.9, 1, "nearer");
  worst.finish(check);
  CHECK_FALSE(check.passed());
  CHECK(check.worst == "not a number");
  WorstError shares;
  shares.add(0.5, 1, "half");
  shares.add(0.02, 0.03, "two thirds");
  shares.finish(check);
  CHECK(check.passed());
  CHECK(check.worst == "two thirds");
}
