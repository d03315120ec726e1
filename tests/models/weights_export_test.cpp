#include "models/weights_export.h"

#include "engine/files.h"
#include "engine/random.h"
#include "models/backbone.h"
#include "models/safetensors.h"
#include "models/torch_writer.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kGoldenTolerance = 2e-5;
constexpr WeightsForm kForms[] = {WeightsForm::official, WeightsForm::timm, WeightsForm::hugging_face,
                                  WeightsForm::dino_cuda};

WeightsFile golden_weights() { return read_weights(golden_dir() / "backbone.safetensors"); }

std::string half_of(float value) {
  std::string bytes(2, '\0');
  convert_from_float(&value, 1, DType::float16, reinterpret_cast<std::byte*>(bytes.data()));
  return bytes;
}
float as_float(std::uint16_t half) {
  float value = 0;
  convert_to_float(reinterpret_cast<const std::byte*>(&half), DType::float16, 1, &value);
  return value;
}
std::uint16_t bits_of(float value) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, half_of(value).data(), 2);
  return bits;
}

std::uint32_t little_endian(const std::string& bytes, std::size_t at, int size) {
  std::uint32_t value = 0;
  for (int i = 0; i < size; ++i) {
    value |= std::uint32_t{static_cast<unsigned char>(bytes.at(at + static_cast<std::size_t>(i)))} << (8 * i);
  }
  return value;
}

}  // namespace

TEST_CASE("numbers are rounded to fp16 as IEEE 754 says, every one of them") {
  // All halves come back as they are, and what lies between two goes to the nearer one, a tie to the even one.
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double low = as_float(half);
    REQUIRE(bits_of(static_cast<float>(low)) == half);
    REQUIRE(bits_of(static_cast<float>(-low)) == (half | 0x8000));
    if (bits == 0x7bff) break;
    const double high = as_float(static_cast<std::uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);  // exact in fp32
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    REQUIRE(bits_of(middle) == even);
    REQUIRE(bits_of(std::nextafter(middle, 0.0F)) == bits);
    REQUIRE(bits_of(std::nextafter(middle, 1e9F)) == bits + 1);
  }
  CHECK(bits_of(65504.0F) == 0x7bff);
  CHECK(bits_of(std::nextafter(65520.0F, 0.0F)) == 0x7bff);
  CHECK(bits_of(65520.0F) == 0x7c00);
  CHECK(bits_of(-1e30F) == 0xfc00);
  CHECK(bits_of(std::numeric_limits<float>::infinity()) == 0x7c00);
  CHECK(std::isnan(as_float(bits_of(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(bits_of(std::bit_cast<float>(1U)) == 0);
}

TEST_CASE("golden weights go through every form and come back bit for bit") {
  const TemporaryFolder folder;
  const auto at = [&](const std::string& name) { return folder.path() / name; };
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    INFO(name_of(dtype));
    const WeightsFile start = golden_weights();
    write_weights(start, at("1.pth"), WeightsForm::official, dtype);
    const auto next = [&](const std::string& from, const std::string& to, WeightsForm form) {
      // A .pth does not say how many heads there are.
      const WeightsFile file = read_weights(at(from), {.heads = start.config().heads});
      CHECK(natural_dtype(file) == dtype);
      write_weights(file, at(to), form, natural_dtype(file));
      const WeightsFile written = read_weights(at(to), {.heads = start.config().heads});
      CHECK(written.config() == start.config());
      require_same_weights(start, written, dtype);
    };
    next("1.pth", "2", WeightsForm::hugging_face);
    next("2", "3.safetensors", WeightsForm::timm);
    next("3.safetensors", "4.bin", WeightsForm::dino_cuda);
    next("4.bin", "5.pth", WeightsForm::official);
    CHECK(read_text_file(at("1.pth")) == read_text_file(at("5.pth")));
  }
}

TEST_CASE("golden weights written in any form give the golden features and attention") {
  const auto context = make_cpu_context();
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "forward.safetensors");
  const TemporaryFolder folder;
  for (const WeightsForm form : kForms) {
    for (const char* name : {"w.safetensors", "w.pth", "hf"}) {
      if ((form == WeightsForm::hugging_face) != (std::string(name) == "hf")) continue;
      INFO(static_cast<int>(form) << " " << name);
      const WeightsFile start = golden_weights();
      write_weights(start, folder.path() / name, form, DType::float32);
      Backbone backbone(*context, folder.path() / name, DType::float32, {.heads = start.config().heads});
      CropPacker packer(*context, backbone.vit.config().patch_px);
      const PackedCrops crops = packer.pack({{context->from_host(golden["wide.images"])}});
      Tape tape(*context, Tape::Mode::inference);
      Weights weights = Weights::student(tape, backbone.store);
      check_close(backbone.vit.cls_features(tape, weights, crops).const_array(), golden["wide.cls"], kGoldenTolerance,
                  "cls");
      // (H, B·N) against the CLS rows of (B, H, N, N).
      const Tensor attention = backbone.vit.cls_attention(tape, weights, crops);
      const ConstArray expected = golden["wide.last_attention"];
      const std::int64_t images = expected.extent(0), heads = expected.extent(1), length = expected.extent(2);
      std::vector<float> got, wanted;
      for (std::int64_t b = 0; b < images; ++b) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const float* row = attention.as<float>() + h * images * length + b * length;
          got.insert(got.end(), row, row + length);
          const float* first = expected.as<float>() + (b * heads + h) * length * length;
          wanted.insert(wanted.end(), first, first + length);
        }
      }
      const Shape flat{static_cast<std::int64_t>(got.size())};
      check_close(ConstArray(got.data(), flat), ConstArray(wanted.data(), flat), kGoldenTolerance, "attention");
    }
  }
}

TEST_CASE("golden checkpoints keep their head as dino_cuda, and lose it elsewhere") {
  const TemporaryFolder folder;
  for (const Network network : {Network::teacher, Network::student}) {
    const WeightsFile file = read_weights(golden_dir() / "checkpoint_full.pth", {.network = network});
    CHECK_FALSE(file.left_out().empty());
    const auto path = folder.path() / "w.safetensors";
    write_weights(file, path, WeightsForm::dino_cuda, DType::float32);
    const WeightsFile whole = read_weights(path);
    CHECK(whole.names() == file.names());
    require_same_weights(file, whole, DType::float32);
    write_weights(file, path, WeightsForm::official, DType::float32);
    const WeightsFile backbone = read_weights(path);
    CHECK_FALSE(backbone.has_head());
    require_same_weights(file, backbone, DType::float32);
  }
}

TEST_CASE("the check of written weights finds what is wrong with them") {
  const TemporaryFolder folder;
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const WeightsFile start = golden_weights();
  const auto path = folder.path() / "w.safetensors";
  const auto message = [&](const std::string& name, float change, DType dtype) {
    std::vector<NamedArray> arrays;
    std::vector<float> changed(golden[name].as<float>(), golden[name].as<float>() + golden[name].size());
    changed.back() += change;
    for (const std::string& other : golden.names())
      arrays.push_back({other, other == name ? ConstArray(changed.data(), golden[name].shape()) : golden[other]});
    write_safetensors(path, arrays, golden.metadata());
    return error_of([&] { require_same_weights(start, read_weights(path), dtype); });
  };
  CHECK(message("norm.bias", 0, DType::float32).empty());
  CHECK(contains(message("norm.bias", 1e-3F, DType::float32), "other values in backbone.norm.bias"));
  CHECK(contains(message("norm.bias", 0, DType::bfloat16), "other values"));  // stored as fp32
}

TEST_CASE("weights that are not finite, or too large for fp16, are not written") {
  const TemporaryFolder folder;
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const auto message = [&](float value, DType dtype) {
    std::vector<NamedArray> arrays;
    std::vector<float> bias(static_cast<std::size_t>(golden["norm.bias"].size()), value);
    for (const std::string& name : golden.names())
      arrays.push_back({name, name == "norm.bias" ? ConstArray(bias.data(), golden[name].shape()) : golden[name]});
    write_safetensors(folder.path() / "in.safetensors", arrays, golden.metadata());
    std::string all;
    for (const auto& [out, form] : {std::pair{"o.pth", WeightsForm::official}, {"o.onnx", WeightsForm::onnx}}) {
      const auto path = folder.path() / out;
      all += error_of([&] { write_weights(read_weights(folder.path() / "in.safetensors"), path, form, dtype); });
      CHECK(std::filesystem::exists(path) == all.empty());
      std::filesystem::remove(path);
    }
    return all;
  };
  CHECK(message(65504.0F, DType::float16).empty());
  CHECK(contains(message(7e4F, DType::float16),
                 "holds 70000 in backbone.norm.bias, which is not finite in float16; "
                 "try"));
  CHECK(message(7e4F, DType::bfloat16).empty());
  CHECK(contains(message(std::nanf(""), DType::float32), "not finite"));
  CHECK(contains(message(std::numeric_limits<float>::infinity(), DType::float32), "not finite"));
}

TEST_CASE("torch zips have their data at multiples of 64 bytes, uncompressed, and the same bytes every time") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "w.pth";
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::uint16_t halves[] = {0x3c00, 0xc000, 0x7bff};
  const BFloat16 wide[] = {BFloat16(1.5F)};
  const std::vector<NamedArray> arrays = {{"matrix", ConstArray(values.data(), {2, 3})},
                                          {"half", ConstArray(halves, DType::float16, {3})},
                                          {"bf16", ConstArray(wide, {1, 1, 1, 1})},
                                          {"scalar", ConstArray(values.data() + 4, Shape{})}};
  write_torch(path, arrays);
  const std::string file = read_text_file(path);
  write_torch(path, arrays);
  CHECK(file == read_text_file(path));

  // The local headers, one after the other (APPNOTE.TXT 4.3.7).
  std::vector<std::string> names;
  std::size_t at = 0;
  while (file.substr(at, 4) == "PK\3\4") {
    CHECK(little_endian(file, at + 6, 2) % 16 / 8 == 0);  // sizes stand in front, not behind
    CHECK(little_endian(file, at + 8, 2) == 0);           // stored
    const std::uint32_t size = little_endian(file, at + 18, 4);
    CHECK(size == little_endian(file, at + 22, 4));
    const std::uint32_t name = little_endian(file, at + 26, 2);
    names.push_back(file.substr(at + 30, name));
    at += 30 + name + little_endian(file, at + 28, 2);
    CHECK(at % 64 == 0);
    at += size;
  }
  CHECK(names == std::vector<std::string>{"archive/data.pkl", "archive/byteorder", "archive/data/0", "archive/data/1",
                                          "archive/data/2", "archive/data/3", "archive/version"});

  const auto source = open_tensors(path);
  REQUIRE(source->tensors().size() == arrays.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const StoredTensor& tensor = source->tensors()[i];
    CHECK(tensor.name == arrays[i].name);
    CHECK(tensor.shape == arrays[i].array.shape());
    CHECK(tensor.dtype == arrays[i].array.dtype());
    std::vector<float> got(static_cast<std::size_t>(tensor.shape.size())), expected(got.size());
    source->read(i, got);
    convert_to_float(static_cast<const std::byte*>(arrays[i].array.data()), tensor.dtype, got.size(), expected.data());
    CHECK(got == expected);
  }
  CHECK(contains(error_of([&] { write_torch(path, {arrays[0], arrays[0]}); }), "given twice"));
  const std::int32_t number = 1;
  CHECK(contains(error_of([&] { write_torch(path, {{"i", ConstArray(&number, {1})}}); }), "int32"));
  CHECK(file == read_text_file(path));  // what failed has changed nothing
}

TEST_CASE("golden Hugging Face folders say what transformers asks for") {
  const TemporaryFolder folder;
  const WeightsFile file = golden_weights();
  write_weights(file, folder.path() / "hf", WeightsForm::hugging_face, DType::bfloat16);
  const auto json = nlohmann::json::parse(read_text_file(folder.path() / "hf/config.json"));
  const VitConfig& c = file.config();
  CHECK(json["architectures"] == nlohmann::json{"ViTModel"});
  CHECK(json["model_type"] == "vit");
  CHECK(json["hidden_size"] == c.embed_dim);
  CHECK(json["num_hidden_layers"] == c.depth);
  CHECK(json["num_attention_heads"] == c.heads);
  CHECK(json["intermediate_size"] == c.hidden_dim());
  CHECK(json["image_size"] == c.image_px);
  CHECK(json["patch_size"] == c.patch_px);
  CHECK(json["qkv_bias"] == true);
  CHECK(json["layer_norm_eps"] == 1e-6);
  CHECK(json["torch_dtype"] == "bfloat16");
  const auto pictures = nlohmann::json::parse(read_text_file(folder.path() / "hf/preprocessor_config.json"));
  CHECK(pictures["size"]["height"] == c.image_px);
  CHECK(pictures["image_mean"] == nlohmann::json{0.485, 0.456, 0.406});
  CHECK(pictures["image_std"] == nlohmann::json{0.229, 0.224, 0.225});
  // A model in several files would be read in the place of the new one.
  folder.write("hf/model.safetensors.index.json", "{}");
  CHECK(
      contains(error_of([&] { write_weights(file, folder.path() / "hf", WeightsForm::hugging_face, DType::float32); }),
               "several files"));
}
