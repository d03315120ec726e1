#include "models/weights_file.h"

#include "engine/files.h"
#include "models/safetensors.h"
#include "models/torch_writer.h"
#include "models/vit.h"
#include "models/weights_export.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <tuple>

using namespace dino;
using namespace dino::test;

namespace {

void check_same(const WeightsFile& file, const std::string& name, const ConstArray& expected, double tolerance) {
  REQUIRE(file.contains(name));
  CHECK(file.shape(name) == expected.shape());
  const std::vector<float> values = file.read(name);
  check_close(ConstArray(values.data(), file.shape(name)), expected, tolerance, name);
}

/// The golden backbone's tensors under other names.
std::vector<NamedArray> renamed(const SafetensorsFile& file,
                                const std::function<std::string(const std::string&)>& name) {
  std::vector<NamedArray> arrays;
  for (const std::string& old : file.names()) arrays.push_back({name(old), file[old]});
  return arrays;
}

void replace(std::string& text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("golden backbone reads alike from safetensors, pth and half-precision pth") {
  const SafetensorsFile expected = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const auto metadata = [&](const char* key) { return std::stoi(expected.metadata(key)); };
  for (const char* name : {"backbone.safetensors", "backbone.pth", "backbone_half.pth"}) {
    INFO(name);
    const bool half = std::string(name) == "backbone_half.pth";
    const WeightsFile file = read_weights(golden_dir() / name, {.heads = metadata("num_heads")});
    const VitConfig& config = file.config();
    CHECK(config.embed_dim == metadata("embed_dim"));
    CHECK(config.depth == metadata("depth"));
    CHECK(config.heads == metadata("num_heads"));
    CHECK(config.patch_px == metadata("patch_size"));
    CHECK(config.image_px == metadata("img_size"));
    CHECK(config.qkv_bias);
    CHECK_FALSE(file.has_head());
    CHECK(file.names().size() == expected.names().size());
    // Rounding to fp16 moves a value by at most 2^-11 of itself.
    for (const std::string& tensor : expected.names())
      check_same(file, "backbone." + tensor, expected[tensor], half ? 0x1p-11 : 0.0);
  }
}

TEST_CASE("golden full checkpoints hold student and teacher, alike in the zip and the legacy format") {
  for (const Network network : {Network::teacher, Network::student}) {
    const WeightsFile zip = read_weights(golden_dir() / "checkpoint_full.pth", {.network = network, .heads = 1});
    const WeightsFile legacy =
        read_weights(golden_dir() / "checkpoint_full_legacy.pth", {.network = network, .heads = 1});
    CHECK(zip.has_head());
    CHECK(zip.names() == legacy.names());
    CHECK(zip.config() == legacy.config());
    CHECK(zip.contains("backbone.cls_token"));
    CHECK(zip.contains("head.last_layer.weight_g"));
    for (const std::string& name : zip.names()) {
      const std::vector<float> values = zip.read(name);
      check_same(legacy, name, ConstArray(values.data(), zip.shape(name)), 0.0);
    }
    CHECK(zip.metadata().contains("epoch"));
    CHECK(zip.metadata() == legacy.metadata());
  }
  const WeightsFile teacher = read_weights(golden_dir() / "checkpoint_full.pth");
  const WeightsFile student = read_weights(golden_dir() / "checkpoint_full.pth", {.network = Network::student});
  CHECK(teacher.read("backbone.blocks.0.attn.qkv.weight") != student.read("backbone.blocks.0.attn.qkv.weight"));
}

TEST_CASE("golden backbone reads from Hugging Face names") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const TemporaryFolder folder;
  using Names = std::vector<std::pair<std::string, std::string>>;
  const Names outside{{"cls_token", "embeddings.cls_token"},
                      {"pos_embed", "embeddings.position_embeddings"},
                      {"patch_embed.proj", "embeddings.patch_embeddings.projection"},
                      {"norm1", "layernorm_before"},
                      {"norm2", "layernorm_after"}};
  // What transformers writes, and what version 5 calls the same in memory.
  const Names written{{"blocks.", "encoder.layer."},
                      {"attn.proj", "attention.output.dense"},
                      {"mlp.fc1", "intermediate.dense"},
                      {"mlp.fc2", "output.dense"}};
  const Names version_5{{"blocks.", "layers."}, {"attn.proj", "attention.o_proj"}};
  const std::vector<std::string> written_parts{"attention.attention.query", "attention.attention.key",
                                               "attention.attention.value"};
  const std::vector<std::string> version_5_parts{"attention.q_proj", "attention.k_proj", "attention.v_proj"};
  for (const auto& [prefix, inside, parts] : {std::tuple{"", written, written_parts},
                                              {"vit.", written, written_parts},
                                              {"", version_5, version_5_parts},
                                              {"vit.", version_5, version_5_parts}}) {
    std::vector<NamedArray> arrays;
    for (const std::string& name : golden.names()) {
      std::string other = name;
      for (const Names& names : {outside, inside}) {
        for (const auto& [from, to] : names) replace(other, from, to);
      }
      if (name.starts_with("norm.")) other = "layernorm" + name.substr(4);
      if (!contains(name, "attn.qkv")) {
        arrays.push_back({prefix + other, golden[name]});
        continue;
      }
      const ConstArray all = golden[name];
      std::vector<std::int64_t> extents(all.shape().extents().begin(), all.shape().extents().end());
      extents[0] /= 3;
      const Shape shape{std::span<const std::int64_t>(extents)};
      for (std::size_t i = 0; i < 3; ++i) {
        std::string part = other;
        replace(part, "attn.qkv", parts[i]);
        arrays.push_back(
            {prefix + part, ConstArray(all.as<float>() + static_cast<std::int64_t>(i) * shape.size(), shape)});
      }
    }
    write_safetensors(folder.path() / "hf.safetensors", arrays);
    const WeightsFile file = read_weights(folder.path() / "hf.safetensors", {.heads = 1});
    CHECK(file.names().size() == golden.names().size());
    for (const std::string& name : golden.names()) check_same(file, "backbone." + name, golden[name], 0.0);

    arrays.erase(std::find_if(arrays.begin(), arrays.end(),
                              [&](const NamedArray& a) { return contains(a.name, parts[1] + ".weight"); }));
    write_safetensors(folder.path() / "part.safetensors", arrays);
    CHECK(contains(error_of([&] { read_weights(folder.path() / "part.safetensors"); }),
                   "only a part of backbone.blocks.0.attn.qkv.weight"));
  }
}

TEST_CASE("golden backbone reads behind the prefixes of trainers") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const TemporaryFolder folder;
  const auto path = folder.path() / "weights.safetensors";
  for (const std::string prefix :
       {"backbone.", "module.backbone.", "teacher.backbone.", "teacher.module.", "state_dict.module.", "model."}) {
    INFO(prefix);
    write_safetensors(path, renamed(golden, [&](const std::string& name) { return prefix + name; }));
    check_same(read_weights(path, {.heads = 1}), "backbone.cls_token", golden["cls_token"], 0.0);
  }
  write_safetensors(path, renamed(golden, [&](const std::string& name) { return "student." + name; }));
  CHECK(contains(error_of([&] { read_weights(path); }), "no teacher network"));
}

TEST_CASE("golden weights fill a store, and what does not fit is listed") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const WeightsFile file = read_weights(golden_dir() / "backbone.safetensors");
  const auto context = make_cpu_context();
  ParameterLayout layout;
  const auto fill = [&](ParameterLayout& layout, const std::function<void(const std::string&, Shape&)>& change) {
    for (const std::string& name : golden.names()) {
      Shape shape = golden[name].shape();
      change(name, shape);
      layout.add("backbone." + name, shape, {}, name.ends_with("qkv.weight"));
    }
  };
  fill(layout, [](const std::string&, Shape&) {});
  ParameterStore store(*context, layout, DType::bfloat16, ParameterStore::Role::training);
  file.load(store);
  for (const ParameterInfo& info : layout.infos()) {
    const ParameterId id = *layout.find(info.name);
    const ConstArray expected = golden[info.name.substr(9)];
    check_close(store.window(store.student, id).const_array(), expected, 0.0, info.name);
    check_close(store.window(store.teacher, id).const_array(), expected, 0.0, info.name);
    check_close(store.window(store.student_working, id).const_array(), expected, 0x1p-8, info.name);
  }

  ParameterLayout other;
  fill(other, [](const std::string& name, Shape& shape) {
    if (name == "norm.bias") shape = Shape{3};
  });
  other.add("backbone.blocks.7.norm1.weight", {4}, {});
  ParameterStore wrong(*context, other, DType::float32, ParameterStore::Role::inference);
  std::string message = error_of([&] { file.load(wrong); });
  CHECK(contains(message, "missing: backbone.blocks.7.norm1.weight"));
  CHECK(contains(message, "norm.bias (got (" + golden.metadata("embed_dim") + "), expected (3))"));

  ParameterLayout few;
  few.add("backbone.norm.bias", golden["norm.bias"].shape(), {});
  ParameterStore small(*context, few, DType::float32, ParameterStore::Role::inference);
  message = error_of([&] { file.load(small); });
  CHECK(contains(message, "unexpected: backbone.blocks.0.attn.proj.bias"));
  CHECK(contains(message, "more"));
  CHECK(contains(message, "try --allow-unexpected"));
  try {
    file.load(small);
    FAIL("nothing was thrown");
  } catch (const WeightsMismatch& error) {
    // All but the one that fits.
    REQUIRE(error.tensors().size() == std::min<std::size_t>(golden.names().size() - 1, 41));
    for (const std::string& line : error.tensors()) CHECK(contains(line, "unexpected"));
  }
  const WeightsFile lenient = read_weights(golden_dir() / "backbone.safetensors", {.allow_unexpected = true});
  lenient.load(small);
  check_close(small.window(small.student, *few.find("backbone.norm.bias")).const_array(), golden["norm.bias"], 0.0,
              "norm.bias");
  // What is missing is never allowed.
  CHECK(contains(error_of([&] {
                   read_weights(golden_dir() / "backbone.safetensors", {.allow_unexpected = true}).require_fit(other);
                 }),
                 "missing"));
}

TEST_CASE("golden weights account for every tensor, also those of other heads and networks") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const TemporaryFolder folder;
  const auto path = folder.path() / "weights.safetensors";
  const std::vector<float> values(4);
  std::vector<NamedArray> arrays = renamed(golden, [](const std::string& name) { return name; });
  const std::vector<std::string> others = {"head.weight", "head.bias", "fc.weight", "classifier.bias",
                                           "pooler.dense.weight"};
  for (const std::string& name : others) arrays.push_back({name, ConstArray(values.data(), {4})});
  write_safetensors(path, arrays);
  const WeightsFile file = read_weights(path, {.heads = 1});
  CHECK(file.left_out() == others);
  CHECK(file.names().size() == golden.names().size());
  CHECK_FALSE(file.has_head());

  // The parts of other transformers change what is computed, and are not passed over.
  const auto context = make_cpu_context();
  for (const std::string name : {"blocks.0.ls1.gamma", "dist_token", "blocks.0.attn.q_norm.weight"}) {
    arrays.resize(golden.names().size());
    arrays.push_back({name, ConstArray(values.data(), {4})});
    write_safetensors(path, arrays);
    const WeightsFile changed = read_weights(path, {.heads = 1});
    ParameterLayout layout;
    const Vit vit(layout, changed.config());
    CHECK(contains(error_of([&] { changed.require_fit(layout); }), "unexpected: backbone." + name));
  }
}

TEST_CASE("golden weights read from folders, from shards, and with the heads of a config.json") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const WeightsFile whole = read_weights(golden_dir() / "backbone.safetensors");
  const TemporaryFolder folder;
  const auto at = [&](const std::string& name) { return folder.path() / name; };
  write_weights(whole, at("hf"), WeightsForm::hugging_face, DType::float32);
  const auto check = [&](const std::filesystem::path& path) {
    INFO(path.string());
    const WeightsFile file = read_weights(path);
    CHECK(file.config() == whole.config());
    for (const std::string& name : golden.names()) check_same(file, "backbone." + name, golden[name], 0.0);
  };
  check(at("hf"));
  check(at("hf/model.safetensors"));

  // Two shards, one of each kind.
  const SafetensorsFile stored = SafetensorsFile::read(at("hf/model.safetensors"));
  std::vector<NamedArray> shards[2];
  nlohmann::json map;
  for (std::size_t i = 0; i < stored.names().size(); ++i) {
    const std::string& name = stored.names()[i];
    shards[i % 2].push_back({name, stored[name]});
    map[name] = i % 2 == 0 ? "a.safetensors" : "b.bin";
  }
  std::filesystem::create_directories(at("sharded"));
  write_safetensors(at("sharded/a.safetensors"), shards[0]);
  write_torch(at("sharded/b.bin"), shards[1]);
  const std::string config = read_text_file(at("hf/config.json"));
  folder.write("sharded/config.json", config);
  const auto index = [&](const nlohmann::json& weight_map) {
    return folder.write("sharded/model.safetensors.index.json", nlohmann::json{{"weight_map", weight_map}}.dump());
  };
  check(index(map));
  check(at("sharded"));

  const auto refused = [&](const nlohmann::json& weight_map, const std::string& part) {
    CHECK(contains(error_of([&] { read_weights(index(weight_map)); }), part));
  };
  const std::string first = stored.names()[0];
  const std::string second = stored.names()[1];
  for (const char* elsewhere : {"../hf/model.safetensors", "/etc/passwd", "..", "", "model.safetensors.index.json"}) {
    nlohmann::json changed = map;
    changed[first] = elsewhere;
    refused(changed, "not the name of a file beside it");
  }
  nlohmann::json changed = map;
  changed[first] = "c.safetensors";
  refused(changed, "names c.safetensors, which cannot be read: No such file or directory");
  changed[first] = "b.bin";
  refused(changed, first);
  changed = map;
  changed["another"] = "b.bin";
  refused(changed, "lacks another");
  changed = map;
  changed.erase(second);
  refused(changed, "does not expect there");
  refused(nlohmann::json::object(), "no weight_map");
  folder.write("sharded/model.safetensors.index.json", "{\"weight_map\": ");
  CHECK(contains(error_of([&] { read_weights(at("sharded")); }), "no weight_map"));

  const auto with_config = [&](const std::string& key, const nlohmann::json& value) {
    nlohmann::json json = nlohmann::json::parse(config);
    json[key] = value;
    folder.write("hf/config.json", json.dump());
    return error_of([&] { read_weights(at("hf")); });
  };
  CHECK(with_config("num_hidden_layers", whole.config().depth).empty());
  CHECK(with_config("layer_norm_eps", 1e-12).empty());
  CHECK(contains(with_config("layer_norm_eps", 1e-3), "layer_norm_eps"));
  CHECK(contains(with_config("model_type", "dinov2"), "model_type is \"dinov2\", expected \"vit\""));
  CHECK(contains(with_config("hidden_act", "relu"), "hidden_act"));
  CHECK(contains(with_config("hidden_size", 4096), "hidden_size is 4096, they have"));
  CHECK(contains(with_config("num_attention_heads", -1), "num_attention_heads is not a size; got -1"));
  CHECK(contains(with_config("num_attention_heads", 7), "do not divide"));
  folder.write("hf/config.json", "[1]");
  CHECK(contains(error_of([&] { read_weights(at("hf")); }), "no JSON object"));
  std::filesystem::remove(at("hf/config.json"));
  // Nothing says how many heads there are: 64 columns each. The option wins over all.
  const int width = whole.config().embed_dim;
  if (width % 64 == 0) CHECK(read_weights(at("hf")).config().heads == width / 64);
  CHECK(read_weights(at("hf"), {.heads = 1}).config().heads == 1);
}

TEST_CASE("files that hold no vision transformer are refused") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "weights.safetensors";
  const std::vector<float> values(64);
  const auto message = [&](const std::vector<NamedArray>& arrays,
                           const std::map<std::string, std::string>& metadata = {}) {
    write_safetensors(path, arrays, metadata);
    return error_of([&] { read_weights(path); });
  };
  CHECK(contains(message({{"other", ConstArray(values.data(), {4})}}), "no tensor cls_token"));
  const NamedArray cls{"cls_token", ConstArray(values.data(), {1, 1, 4})};
  const NamedArray kernel{"patch_embed.proj.weight", ConstArray(values.data(), {4, 3, 2, 2})};
  const NamedArray norm{"blocks.0.norm1.weight", ConstArray(values.data(), {4})};
  const NamedArray fc1{"blocks.0.mlp.fc1.weight", ConstArray(values.data(), {8, 4})};
  const auto positions = [&](std::int64_t n) { return NamedArray{"pos_embed", ConstArray(values.data(), {1, n, 4})}; };
  CHECK(contains(message({cls, kernel, positions(4), norm, fc1}), "no square"));
  CHECK(contains(message({cls, kernel, positions(5), fc1}), "no block"));
  CHECK(contains(message({cls, kernel, positions(5), norm, fc1}), "num_heads"));
  CHECK(contains(message({cls, kernel, positions(5), norm, fc1}, {{"num_heads", "3"}}), "do not divide"));
  CHECK(contains(message({cls, kernel, positions(5), norm, fc1}, {{"num_heads", "two"}}), "not a number"));
  CHECK(message({cls, kernel, positions(5), norm, fc1}, {{"num_heads", "2"}}).empty());
  CHECK(contains(error_of([&] { read_weights(folder.path() / "absent.pth"); }), "cannot read"));
}
