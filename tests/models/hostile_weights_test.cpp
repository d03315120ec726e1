// Files of weights that would take far more memory or time than they have bytes.
#include "models/hugging_face.h"
#include "models/tensor_source.h"
#include "tests/fuzz/zip.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

#include <sys/stat.h>

using namespace dino;
using namespace dino::test;

namespace {

/// What open_tensors() says of a sound zip file with this pickle.
std::string pickle_error(const std::string& pickle) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.pth", fuzz::stored_zip({{"archive/data.pkl", pickle}}));
  return error_of([&] { open_tensors(path); });
}

std::string length_of(std::size_t size) {
  std::string bytes(4, '\0');
  for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<char>(size >> (8 * i));
  return bytes;
}
std::string text(const std::string& value) { return "X" + length_of(value.size()) + value; }

const std::string kHead = "\x80\x02";
const std::string kLong = text(std::string(8192, 'n')) + "q" + '\0' + "0";  // remembered as 0
const std::string kRecall = std::string("h") + '\0';

}  // namespace

TEST_CASE("A text of a pickle cannot be multiplied by using it often") {
  std::string globals = kHead + kLong;
  globals += kRecall + kRecall + "\x93" + "0}.";
  CHECK(contains(pickle_error(globals), "the name of a global is too long"));

  // 12,000 entries in a dictionary with a long name: 100 MB of names from 100 kB.
  std::string names = kHead + kLong + "}" + kRecall + "}(";
  std::string texts = kHead + kLong + "}(";
  for (int i = 0; i < 12000; ++i) {
    names += text(std::to_string(i)) + "N";
    texts += text(std::to_string(i)) + kRecall;
  }
  CHECK(contains(pickle_error(names + "us."), "holds too much for a checkpoint"));
  CHECK(contains(pickle_error(texts + "u."), "holds too much for a checkpoint"));

  // One dictionary of 2000 entries in 2000 places: four million entries.
  std::string one = kHead + "}q" + '\1' + "(";
  std::string often = "0}(";
  for (int i = 0; i < 2000; ++i) {
    one += "K" + std::string(1, static_cast<char>(i)) + "N";
    often += text(std::to_string(i)) + "h" + '\1';
  }
  CHECK(contains(pickle_error(one + "u" + often + "u."), "holds too much for a checkpoint"));
  // As many as a checkpoint may have are fine.
  CHECK(pickle_error(kHead + kLong + "}(" + text("epoch") + "K" + '\3' + text("note") + kRecall + "u.").empty());
}

TEST_CASE("JSON nested without end is refused before it takes memory") {
  const TemporaryFolder folder;
  const std::string nested(1 << 20, '[');
  CHECK(contains(error_of([&] {
                   open_tensors(folder.write("a.safetensors",
                                             length_of(nested.size()) + length_of(0) + "{\"a\":" + nested.substr(5)));
                 }),
                 "not a JSON object"));
  CHECK(contains(error_of([&] { HuggingFaceConfig::read(folder.write("config.json", nested.substr(1))); }),
                 "no JSON object"));
  // Brackets in texts do not count, behind an escaped quote neither.
  const auto config =
      folder.write("config.json", "{\"hidden_size\": 8, \"note\": \"\\\"" + nested.substr(100000) + "\"}");
  CHECK(HuggingFaceConfig::read(config).hidden_size == 8);
}

TEST_CASE("A configuration of another network is named; what it leaves out is not looked at") {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& text) {
    return error_of([&] { HuggingFaceConfig::read(folder.write("config.json", text)); });
  };
  CHECK(error("{}").empty());
  CHECK(contains(error(R"({"model_type": "bert"})"), "model_type is \"bert\", expected \"vit\""));
  CHECK(contains(error(R"({"layer_norm_eps": "no"})"), "layer_norm_eps is \"no\""));
}

TEST_CASE("Pipes and devices are no weights, and are not waited for") {
  const TemporaryFolder folder;
  const auto pipe = folder.path() / "pipe.safetensors";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(contains(error_of([&] { open_tensors(pipe); }), "it is not a regular file"));
  CHECK(contains(error_of([&] { open_tensors("/dev/zero"); }), "it is not a regular file"));
}

TEST_CASE("Weights that cannot be looked up are refused with the system's reason") {
  const TemporaryFolder folder;
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  const std::string reason = ": Too many levels of symbolic links";
  CHECK(contains(error_of([&] { open_tensors(folder.path() / "loop"); }), reason));
  CHECK(contains(error_of([&] { open_tensors(folder.path() / "missing"); }), ": No such file or directory"));
  // A folder of a model that is there, though nobody can read it, and one that leads into itself.
  std::filesystem::create_directory(folder.path() / "model");
  std::filesystem::create_symlink("model.safetensors", folder.path() / "model" / "model.safetensors");
  CHECK(contains(error_of([&] { open_tensors(folder.path() / "model"); }), reason));
  std::filesystem::remove(folder.path() / "model" / "model.safetensors");
  std::filesystem::create_symlink(".", folder.path() / "model" / "model.safetensors");
  CHECK(contains(error_of([&] { open_tensors(folder.path() / "model"); }), "model.safetensors: it is a folder"));
}

TEST_CASE("Tensors without elements are read") {
  const TemporaryFolder folder;
  const std::string header = R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})";
  const auto source = open_tensors(folder.write("a.safetensors", length_of(header.size()) + length_of(0) + header));
  REQUIRE(source->tensors().size() == 1);
  source->read(0, {});
}
