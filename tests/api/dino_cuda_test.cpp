// The C API as a program meets it: through libdino_cuda, whose insides are out of reach here.
#include "api/include/dino_cuda.h"

#include "data/decode.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kGoldenTolerance = 2e-5;
// The same network on the same pixels, in another batch or on other threads: sums in another order.
constexpr double kRounding = 2e-6;

std::string golden(const std::string& name) { return (golden_dir() / name).string(); }

int golden_heads() {
  return std::stoi(SafetensorsFile::read(golden_dir() / "backbone.safetensors").metadata("num_heads"));
}

template <typename Options>
Options sized(Options options = {}) {
  options.struct_size = sizeof options;
  return options;
}

dino_model_options on_cpu() {
  auto options = sized<dino_model_options>();
  options.device = "cpu";
  options.threads = 1;
  options.heads = golden_heads();
  return options;
}

dino_view view_of(std::int32_t kind, std::int32_t crop_px = 0, std::int32_t short_side_px = 0) {
  auto view = sized<dino_view>();
  view.kind = kind;
  view.crop_px = crop_px;
  view.short_side_px = short_side_px;
  return view;
}

class Model {
 public:
  explicit Model(const std::string& file = "backbone.safetensors", const dino_model_options& options = on_cpu()) {
    dino_error error;
    const dino_status status = dino_model_open(golden(file).c_str(), &options, &model_, &error);
    INFO(error.message);
    REQUIRE(status == DINO_OK);
    REQUIRE(std::string(error.message).empty());
  }
  ~Model() { dino_model_close(model_); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  operator dino_model*() const { return model_; }

  dino_model_info info() const {
    auto info = sized<dino_model_info>();
    REQUIRE(dino_model_describe(model_, &info, nullptr) == DINO_OK);
    return info;
  }
  std::vector<float> features(const std::vector<dino_image>& images, const dino_view& view,
                              const dino_feature_options& options = sized<dino_feature_options>()) const {
    dino_error error;
    std::size_t width = 0;
    REQUIRE(dino_feature_width(model_, &options, &width, &error) == DINO_OK);
    return filled(images.size() * width, error, [&](float* to, std::size_t room) {
      return dino_features(model_, images.data(), images.size(), &view, &options, to, room, &error);
    });
  }
  std::vector<float> patch_tokens(const std::vector<dino_image>& images, const dino_view& view) const {
    dino_error error;
    const std::size_t size = patches(images, view) * static_cast<std::size_t>(info().embed_dim);
    return filled(size, error, [&](float* to, std::size_t room) {
      return dino_patch_tokens(model_, images.data(), images.size(), &view, to, room, &error);
    });
  }
  std::vector<float> attention(const std::vector<dino_image>& images, const dino_view& view, int layer = -1) const {
    dino_error error;
    const std::size_t size = patches(images, view) * static_cast<std::size_t>(info().heads);
    return filled(size, error, [&](float* to, std::size_t room) {
      return dino_attention(model_, images.data(), images.size(), &view, layer, to, room, &error);
    });
  }

 private:
  std::size_t patches(const std::vector<dino_image>& images, const dino_view& view) const {
    std::size_t sum = 0;
    for (const dino_image& image : images) {
      std::int32_t rows = -1, columns = -1;
      REQUIRE(dino_patch_grid(model_, &image, &view, &rows, &columns, nullptr) == DINO_OK);
      sum += static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
    }
    return sum;
  }
  /// What `call` writes where there is exactly so much room; nothing beyond it is touched.
  template <typename Call>
  static std::vector<float> filled(std::size_t size, const dino_error& error, const Call& call) {
    constexpr float kCanary = -12345.0F;
    std::vector<float> values(size, std::numeric_limits<float>::quiet_NaN());
    values.push_back(kCanary);
    const dino_status status = call(values.data(), size);
    INFO(error.message);
    REQUIRE(status == DINO_OK);
    REQUIRE(values.back() == kCanary);
    values.pop_back();
    return values;
  }

  dino_model* model_ = nullptr;
};

ConstArray flat(const std::vector<float>& values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}
ConstArray flat(const ConstArray& array) { return array.reshaped({array.size()}); }

/// The pictures of a golden (B, 3, H, W) array.
std::vector<dino_image> normalized_images(const ConstArray& array) {
  std::vector<dino_image> images;
  for (std::int64_t i = 0; i < array.extent(0); ++i) {
    images.push_back({.pixels = array.as<float>() + i * (array.size() / array.extent(0)),
                      .height = array.extent(2),
                      .width = array.extent(3),
                      .row_stride_bytes = 0,
                      .format = DINO_NORMALIZED_F32,
                      .reserved = 0});
  }
  return images;
}

dino_image image_of(const Image& picture) {
  return {.pixels = picture.rgb.data(),
          .height = picture.height,
          .width = picture.width,
          .row_stride_bytes = 0,
          .format = DINO_RGB8,
          .reserved = 0};
}

Image photo() {
  Image picture;
  decode_image_file(golden_dir() / "photo.png", {}, picture);
  return picture;
}

/// Checks that a call fails so, and with one line that has `part` in it.
template <typename Call>
void check_refused(dino_status expected, const std::string& part, const Call& call) {
  dino_error error;
  std::memset(error.message, 'x', sizeof error.message);
  const dino_status status = call(&error);
  REQUIRE(std::find(std::begin(error.message), std::end(error.message), '\0') != std::end(error.message));
  const std::string message = error.message;
  INFO(dino_status_name(status) << ": " << message);
  CHECK(status == expected);
  CHECK(message.starts_with("["));
  CHECK(message.find('\n') == std::string::npos);
  CHECK(message.find(part) != std::string::npos);
  CHECK(call(nullptr) == expected);
}

}  // namespace

TEST_CASE("The C API gives the golden features, tokens and attention") {
  const SafetensorsFile recorded = SafetensorsFile::read(golden_dir() / "forward.safetensors");
  const dino_view as_is = view_of(DINO_VIEW_AS_IS);
  auto raw = sized<dino_feature_options>();
  raw.raw = 1;
  for (const std::string file : {"backbone.safetensors", "backbone.pth"}) {
    const Model model(file);
    for (const std::string name : {"native", "local", "wide", "large"}) {
      INFO(file << " " << name);
      const auto images = normalized_images(recorded[name + ".images"]);
      check_close(flat(model.features(images, as_is, raw)), flat(recorded[name + ".cls"]), kGoldenTolerance, "cls");

      const ConstArray tokens = recorded[name + ".tokens_last"], attention = recorded[name + ".last_attention"];
      const std::int64_t n = tokens.extent(1), c = tokens.extent(2), heads = attention.extent(1);
      std::vector<float> expected;
      for (std::int64_t b = 0; b < tokens.extent(0); ++b) {
        const float* of_image = tokens.as<float>() + b * n * c;
        expected.insert(expected.end(), of_image + c, of_image + n * c);
      }
      check_close(flat(model.patch_tokens(images, as_is)), flat(expected), kGoldenTolerance, "patch tokens");
      expected.clear();
      for (std::int64_t row = 0; row < tokens.extent(0) * heads; ++row) {
        const float* of_cls = attention.as<float>() + row * n * n;
        expected.insert(expected.end(), of_cls + 1, of_cls + n);
      }
      check_close(flat(model.attention(images, as_is)), flat(expected), kGoldenTolerance, "attention");
    }
    // The last two blocks' CLS tokens, the last one behind; and CLS with the mean of the patches, interleaved.
    const auto images = normalized_images(recorded["native.images"]);
    auto two = raw;
    two.blocks = 2;
    auto average = raw;
    average.average_patches = 1;
    const ConstArray before = recorded["native.tokens_last_but_one"], last = recorded["native.tokens_last"];
    const std::int64_t n = last.extent(1), c = last.extent(2);
    std::vector<float> of_blocks, interleaved;
    for (std::int64_t b = 0; b < last.extent(0); ++b) {
      for (const ConstArray* tokens : {&before, &last})
        of_blocks.insert(of_blocks.end(), tokens->as<float>() + b * n * c, tokens->as<float>() + b * n * c + c);
      for (std::int64_t i = 0; i < c; ++i) {
        double sum = 0;
        for (std::int64_t token = 1; token < n; ++token)
          sum += static_cast<double>(last.as<float>()[(b * n + token) * c + i]);
        interleaved.push_back(last.as<float>()[b * n * c + i]);
        interleaved.push_back(static_cast<float>(sum / static_cast<double>(n - 1)));
      }
    }
    check_close(flat(model.features(images, as_is, two)), flat(of_blocks), kGoldenTolerance, "two blocks");
    check_close(flat(model.features(images, as_is, average)), flat(interleaved), kGoldenTolerance, "average");
  }
}

TEST_CASE("The C API sees a picture as the official attention pictures do") {
  const SafetensorsFile recorded = SafetensorsFile::read(golden_dir() / "attention.safetensors");
  const Model model(recorded.metadata("weights"));
  const Image picture = photo();
  const dino_view whole = view_of(DINO_VIEW_WHOLE, 0, std::stoi(recorded.metadata("short_side")));
  // An 8-bit level more or less is within rounding (tests/visualize/attention_test.cpp).
  check_close(flat(model.attention({image_of(picture)}, whole)), flat(recorded["attention"]), 1e-3, "attention");
  std::int32_t rows = 0, columns = 0;
  const dino_image image = image_of(picture);
  REQUIRE(dino_patch_grid(model, &image, &whole, &rows, &columns, nullptr) == DINO_OK);
  CHECK(Shape{golden_heads(), rows, columns} == recorded["attention"].shape());
  // Block 0 by both its names, and not the last one.
  const auto first = model.attention({image}, whole, 0);
  CHECK(first == model.attention({image}, whole, -model.info().depth));
  CHECK(difference(flat(first), flat(recorded["attention"])).relative_norm > 0.01);
  CHECK(model.attention({image}, whole, model.info().depth - 1) == model.attention({image}, whole));
}

TEST_CASE("Pixels mean the same in every format, with every stride") {
  const Model model;
  const Image picture = photo();
  const dino_view center = view_of(DINO_VIEW_CENTER);
  const std::vector<float> expected = model.features({image_of(picture)}, center);
  double square = 0;
  for (const float x : expected) square += static_cast<double>(x) * x;
  CHECK(std::abs(square - 1) <= 1e-6);

  struct Format {
    std::int32_t format;
    std::vector<int> channels;  // of RGB; -1: anything
  };
  for (const Format& f : {Format{DINO_RGB8, {0, 1, 2}}, Format{DINO_BGR8, {2, 1, 0}}, Format{DINO_RGBA8, {0, 1, 2, -1}},
                          Format{DINO_BGRA8, {2, 1, 0, -1}}}) {
    for (const std::size_t gap : {std::size_t{0}, std::size_t{13}}) {
      INFO("format " << f.format << ", gap " << gap);
      const auto width = static_cast<std::size_t>(picture.width);
      const std::size_t stride = width * f.channels.size() + gap;
      std::vector<std::uint8_t> pixels(stride * static_cast<std::size_t>(picture.height), 77);
      for (std::size_t y = 0; y < static_cast<std::size_t>(picture.height); ++y)
        for (std::size_t x = 0; x < width; ++x)
          for (std::size_t c = 0; c < f.channels.size(); ++c)
            if (f.channels[c] >= 0)
              pixels[y * stride + x * f.channels.size() + c] =
                  picture.rgb[(y * width + x) * 3 + static_cast<std::size_t>(f.channels[c])];
      pixels.resize(pixels.size() - gap);  // the last row has none
      pixels.shrink_to_fit();
      dino_image image = image_of(picture);
      image.pixels = pixels.data();
      image.format = f.format;
      image.row_stride_bytes = static_cast<std::int64_t>(stride);
      CHECK(model.features({image}, center) == expected);
    }
  }
  // Grey is that value three times.
  Image grey_picture = picture;
  std::vector<std::uint8_t> grey;
  for (std::size_t i = 0; i < picture.rgb.size(); i += 3) {
    grey.push_back(picture.rgb[i + 1]);
    grey_picture.rgb[i] = grey_picture.rgb[i + 2] = picture.rgb[i + 1];
  }
  dino_image image = image_of(picture);
  image.pixels = grey.data();
  image.format = DINO_GREY8;
  CHECK(model.features({image}, center) == model.features({image_of(grey_picture)}, center));
  CHECK(model.features({image}, center) != expected);
}

TEST_CASE("Views are those of the options") {
  const Model model;
  const std::int32_t side = model.info().image_px;
  // A picture of the native side is seen as it is, whatever the view that asks for this side.
  const Image native = gradient_image(side, side);
  const auto as_is = model.features({image_of(native)}, view_of(DINO_VIEW_AS_IS));
  CHECK(model.features({image_of(native)}, view_of(DINO_VIEW_WHOLE, 0, side)) == as_is);
  CHECK(model.features({image_of(native)}, view_of(DINO_VIEW_CENTER, side, side)) == as_is);
  CHECK(model.features({image_of(native)}, view_of(DINO_VIEW_CENTER)) != as_is);
  // The defaults.
  const auto expected = model.features(
      {image_of(native)}, view_of(DINO_VIEW_CENTER, side, static_cast<int>(std::lround(side * 256.0 / 224.0))));
  CHECK(model.features({image_of(native)}, view_of(DINO_VIEW_CENTER)) == expected);
  std::vector<float> null_view(expected.size());
  const dino_image image = image_of(native);
  REQUIRE(dino_features(model, &image, 1, nullptr, nullptr, null_view.data(), null_view.size(), nullptr) == DINO_OK);
  CHECK(null_view == expected);

  // Cut to whole patches; the sides need not be alike.
  const std::int32_t patch = model.info().patch_px;
  const Image wide = gradient_image(3 * patch + 1, 7 * patch + 5);
  const dino_image wide_image = image_of(wide);
  std::int32_t rows = 0, columns = 0;
  const dino_view whole = view_of(DINO_VIEW_WHOLE, 0, 3 * patch + 1);
  REQUIRE(dino_patch_grid(model, &wide_image, &whole, &rows, &columns, nullptr) == DINO_OK);
  CHECK((rows == 3 && columns == 7));
  const dino_view standard = view_of(DINO_VIEW_WHOLE);
  REQUIRE(dino_patch_grid(model, &wide_image, &standard, &rows, &columns, nullptr) == DINO_OK);
  CHECK((rows == 480 / patch && columns == 480LL * wide.width / wide.height / patch));
}

TEST_CASE("Many pictures of several sizes give what each gives alone") {
  auto options = on_cpu();
  options.batch = 3;
  const Model batched("backbone.safetensors", options);
  const Model alone;
  const std::int32_t patch = alone.info().patch_px;
  std::vector<Image> pictures;
  for (const int side : {4, 4, 4, 4, 4, 2, 5, 5, 8, 16, 16, 4})
    pictures.push_back(gradient_image(side * patch, 4 * patch));
  for (std::size_t i = 0; i < pictures.size(); ++i)
    for (std::uint8_t& x : pictures[i].rgb) x = static_cast<std::uint8_t>(x + 11 * i);
  std::vector<dino_image> images;
  for (const Image& picture : pictures) images.push_back(image_of(picture));
  for (const std::int32_t kind : {DINO_VIEW_AS_IS, DINO_VIEW_CENTER}) {
    const dino_view view = view_of(kind);
    std::vector<float> features, tokens, attention;
    for (const dino_image& image : images) {
      const auto append = [](std::vector<float>& to, const std::vector<float>& more) {
        to.insert(to.end(), more.begin(), more.end());
      };
      append(features, alone.features({image}, view));
      append(tokens, alone.patch_tokens({image}, view));
      append(attention, alone.attention({image}, view));
    }
    check_close(flat(batched.features(images, view)), flat(features), kRounding, "features");
    check_close(flat(batched.patch_tokens(images, view)), flat(tokens), kRounding, "tokens");
    check_close(flat(batched.attention(images, view)), flat(attention), kRounding, "attention");
  }
}

TEST_CASE("A model tells its architecture and its device") {
  const Model model;
  const SafetensorsFile file = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const dino_model_info info = model.info();
  CHECK(info.embed_dim == std::stoi(file.metadata("embed_dim")));
  CHECK(info.depth == std::stoi(file.metadata("depth")));
  CHECK(info.heads == std::stoi(file.metadata("num_heads")));
  CHECK(info.patch_px == std::stoi(file.metadata("patch_size")));
  CHECK(info.image_px == std::stoi(file.metadata("img_size")));
  CHECK(info.parameters > 0);
  CHECK(std::string(dino_model_device(model)) == "CPU, 1 threads");
  CHECK(std::string(dino_model_device(nullptr)).empty());
  CHECK(std::string(dino_version()) == DINO_VERSION);
  for (dino_status status = DINO_OK; status <= DINO_FAILED; ++status)
    CHECK(std::string(dino_status_name(status)).starts_with("DINO_"));
  CHECK(std::string(dino_status_name(-1)) == "unknown status");

  // An older program's structure is filled as far as it goes, a newer one's with zeros behind.
  struct Newer {
    dino_model_info known;
    std::int64_t added;
  } newer{};
  newer.known.struct_size = sizeof newer;
  newer.added = 5;
  REQUIRE(dino_model_describe(model, &newer.known, nullptr) == DINO_OK);
  CHECK((newer.known.parameters == info.parameters && newer.added == 0 && newer.known.struct_size == sizeof newer));
  auto older = sized<dino_model_info>();
  older.struct_size = offsetof(dino_model_info, heads);
  older.heads = 99;
  REQUIRE(dino_model_describe(model, &older, nullptr) == DINO_OK);
  CHECK((older.depth == info.depth && older.heads == 99));
}

TEST_CASE("Weights are the network's that the options name") {
  auto options = on_cpu();
  options.heads = 0;
  const Image picture = photo();
  const auto features_of = [&](std::int32_t network) {
    options.network = network;
    return Model("checkpoint_full.pth", options).features({image_of(picture)}, view_of(DINO_VIEW_CENTER));
  };
  CHECK(features_of(DINO_TEACHER) != features_of(DINO_STUDENT));
  // bf16 products, at most 2^-8 off each.
  auto half = on_cpu();
  half.precision = DINO_BF16;
  const auto exact = Model().features({image_of(picture)}, view_of(DINO_VIEW_CENTER));
  const auto rounded = Model("backbone.safetensors", half).features({image_of(picture)}, view_of(DINO_VIEW_CENTER));
  check_close(flat(rounded), flat(exact), 3e-2, "bf16");
  CHECK(rounded != exact);
}

TEST_CASE("Pictures are decoded from files and from memory") {
  const Image expected = photo();
  dino_picture* picture = nullptr;
  dino_image image{};
  REQUIRE(dino_picture_open(golden("photo.png").c_str(), &picture, nullptr) == DINO_OK);
  REQUIRE(dino_picture_image(picture, &image, nullptr) == DINO_OK);
  CHECK((image.height == expected.height && image.width == expected.width && image.format == DINO_RGB8));
  CHECK(std::memcmp(image.pixels, expected.rgb.data(), expected.rgb.size()) == 0);
  dino_picture_close(picture);

  const auto jpeg = encode_jpeg(expected, {.orientation = 6});
  REQUIRE(dino_picture_decode(jpeg.data(), jpeg.size(), &picture, nullptr) == DINO_OK);
  REQUIRE(dino_picture_image(picture, &image, nullptr) == DINO_OK);
  CHECK((image.height == expected.width && image.width == expected.height));
  dino_picture_close(picture);

  const auto decode = [&](const void* bytes, std::size_t size) {
    return [&, bytes, size](dino_error* error) { return dino_picture_decode(bytes, size, &picture, error); };
  };
  check_refused(DINO_BAD_PICTURE, "", decode(jpeg.data(), jpeg.size() / 2));
  CHECK(picture == nullptr);
  check_refused(DINO_BAD_PICTURE, "", decode("no picture", 10));
  check_refused(DINO_BAD_PICTURE, "", decode("", 0));
  check_refused(DINO_INVALID_ARGUMENT, "null", decode(nullptr, 10));
  check_refused(DINO_INVALID_ARGUMENT, "null",
                [&](dino_error* error) { return dino_picture_decode(jpeg.data(), jpeg.size(), nullptr, error); });
  const auto open = [&](const char* path) {
    return [&, path](dino_error* error) { return dino_picture_open(path, &picture, error); };
  };
  check_refused(DINO_BAD_PICTURE, "nowhere", open("nowhere.png"));
  check_refused(DINO_BAD_PICTURE, "no?w here", open("no\x1bw\nhere.png"));
  check_refused(DINO_BAD_PICTURE, "folder", open("/"));
  check_refused(DINO_INVALID_ARGUMENT, "null", open(nullptr));
  // A message is cut where it is too long, between two letters.
  std::string path = "a";
  while (path.size() < 2000) path += "é";
  dino_error error;
  CHECK(dino_picture_open(path.c_str(), &picture, &error) == DINO_BAD_PICTURE);
  const std::string message = error.message;
  CHECK(message.size() >= sizeof error.message - 3);
  CHECK(message.ends_with("é"));
  check_refused(DINO_INVALID_ARGUMENT, "null", [&](dino_error* e) { return dino_picture_image(nullptr, &image, e); });
  dino_picture_close(nullptr);
  dino_model_close(nullptr);
}

TEST_CASE("Weights that cannot be used are refused") {
  const TemporaryFolder folder;
  const auto open = [](const std::string& path, dino_model_options options = on_cpu()) {
    return [path, options](dino_error* error) {
      dino_model* model = reinterpret_cast<dino_model*>(&error);
      const dino_status status = dino_model_open(path.c_str(), &options, &model, error);
      CHECK(model == nullptr);
      return status;
    };
  };
  check_refused(DINO_BAD_WEIGHTS, "nowhere", open("nowhere.safetensors"));
  check_refused(DINO_BAD_WEIGHTS, "", open(""));
  check_refused(DINO_BAD_WEIGHTS, "bad.pth", open(folder.write("bad.pth", std::string_view("no weights")).string()));
  std::vector<std::byte> bytes;
  read_picture_file(golden_dir() / "backbone.safetensors", bytes);
  check_refused(
      DINO_BAD_WEIGHTS, "cut.safetensors",
      open(folder.write("cut.safetensors", std::span<const std::byte>(bytes).first(bytes.size() / 2)).string()));
  check_refused(DINO_BAD_WEIGHTS, "", open(golden("forward.safetensors")));

  const std::string good = golden("backbone.safetensors");
  const auto with = [&](auto change) {
    auto options = on_cpu();
    change(options);
    return open(good, options);
  };
  check_refused(DINO_BAD_WEIGHTS, "heads", with([](auto& o) { o.heads = 7; }));
  check_refused(DINO_NO_DEVICE, "device", with([](auto& o) { o.device = "gpu"; }));
  check_refused(DINO_NO_DEVICE, "device", with([](auto& o) { o.device = "cuda:99"; }));
  check_refused(DINO_INVALID_ARGUMENT, "threads", with([](auto& o) { o.threads = -1; }));
  check_refused(DINO_INVALID_ARGUMENT, "threads", with([](auto& o) { o.threads = 1 << 30; }));
  check_refused(DINO_INVALID_ARGUMENT, "network", with([](auto& o) { o.network = 2; }));
  check_refused(DINO_INVALID_ARGUMENT, "heads", with([](auto& o) { o.heads = -1; }));
  check_refused(DINO_INVALID_ARGUMENT, "precision", with([](auto& o) { o.precision = 9; }));
  check_refused(DINO_INVALID_ARGUMENT, "batch", with([](auto& o) { o.batch = -4; }));
  check_refused(DINO_INVALID_ARGUMENT, "gpu_memory_share", with([](auto& o) { o.gpu_memory_share = 1.5F; }));
  check_refused(DINO_INVALID_ARGUMENT, "gpu_memory_share",
                with([](auto& o) { o.gpu_memory_share = std::numeric_limits<float>::quiet_NaN(); }));
  check_refused(DINO_INVALID_ARGUMENT, "struct_size", with([](auto& o) { o.struct_size = 0; }));
  check_refused(DINO_INVALID_ARGUMENT, "struct_size", with([](auto& o) { o.struct_size = 0xffffffffU; }));
  dino_model* model = nullptr;
  const auto options = on_cpu();
  check_refused(DINO_INVALID_ARGUMENT, "null",
                [&](dino_error* error) { return dino_model_open(nullptr, &options, &model, error); });
  check_refused(DINO_INVALID_ARGUMENT, "null",
                [&](dino_error* error) { return dino_model_open(good.c_str(), &options, nullptr, error); });

  // Options of a newer version are refused where they are set, and only there.
  struct Newer {
    dino_model_options known;
    std::int64_t added;
  } newer{on_cpu(), 0};
  newer.known.struct_size = sizeof newer;
  REQUIRE(dino_model_open(good.c_str(), &newer.known, &model, nullptr) == DINO_OK);
  dino_model_close(model);
  newer.added = 1;
  check_refused(DINO_INVALID_ARGUMENT, "newer",
                [&](dino_error* error) { return dino_model_open(good.c_str(), &newer.known, &model, error); });
}

TEST_CASE("Pictures and options that make no sense are refused") {
  const Model model;
  const Image picture = photo();
  std::vector<float> room(1 << 16);
  const auto features = [&](dino_image image, dino_view view = view_of(DINO_VIEW_CENTER),
                            dino_feature_options options = sized<dino_feature_options>()) {
    return [&, image, view, options](dino_error* error) {
      return dino_features(model, &image, 1, &view, &options, room.data(), room.size(), error);
    };
  };
  const auto with = [&](auto change) {
    dino_image image = image_of(picture);
    change(image);
    return features(image);
  };
  const auto refuse = [&](const std::string& part, const auto& call) {
    check_refused(DINO_INVALID_ARGUMENT, part, call);
  };
  refuse("no pixels", with([](auto& i) { i.pixels = nullptr; }));
  refuse("0×", with([](auto& i) { i.width = 0; }));
  refuse("×-3", with([](auto& i) { i.height = -3; }));
  refuse("pixels in all", with([](auto& i) { i.height = std::numeric_limits<std::int64_t>::max(); }));
  refuse("pixels in all", with([](auto& i) { i.width = std::int64_t{1} << 40; }));
  refuse("pixels in all", with([](auto& i) { i.width = i.height = 20000; }));
  refuse("too long", with([](auto& i) {
           i.width = 100000000;
           i.height = 1;
         }));
  refuse("stride of 599", with([](auto& i) { i.row_stride_bytes = 599; }));
  refuse("stride of -600", with([](auto& i) { i.row_stride_bytes = -600; }));
  refuse("stride", with([](auto& i) { i.row_stride_bytes = std::numeric_limits<std::int64_t>::max(); }));
  refuse("format 6", with([](auto& i) { i.format = 6; }));
  refuse("format -1", with([](auto& i) { i.format = -1; }));
  refuse("reserved", with([](auto& i) { i.reserved = 1; }));
  refuse("normalised already", with([](auto& i) { i.format = DINO_NORMALIZED_F32; }));

  const auto viewed = [&](std::int32_t kind, std::int32_t crop_px, std::int32_t short_side_px) {
    return features(image_of(picture), view_of(kind, crop_px, short_side_px));
  };
  refuse("kind 3", viewed(3, 0, 0));
  refuse("crop_px -8", viewed(DINO_VIEW_CENTER, -8, 0));
  refuse("short_side_px -8", viewed(DINO_VIEW_CENTER, 0, -8));
  refuse("multiple", viewed(DINO_VIEW_CENTER, model.info().patch_px + 1, 0));
  refuse("larger", viewed(DINO_VIEW_CENTER, 64, 32));
  refuse("between 0", viewed(DINO_VIEW_CENTER, 1 << 30, 1 << 30));
  refuse("million", viewed(DINO_VIEW_CENTER, 1 << 14, 1 << 14));
  refuse("million", viewed(DINO_VIEW_WHOLE, 0, 60000));
  refuse("crop_px", viewed(DINO_VIEW_WHOLE, 8, 0));
  refuse("below the patch", viewed(DINO_VIEW_WHOLE, 0, 1));
  refuse("does not resize", viewed(DINO_VIEW_AS_IS, 0, 8));
  refuse("multiples of the patch", features({.pixels = picture.rgb.data(),
                                             .height = model.info().patch_px,
                                             .width = model.info().patch_px + 1,
                                             .row_stride_bytes = 0,
                                             .format = DINO_RGB8,
                                             .reserved = 0},
                                            view_of(DINO_VIEW_AS_IS)));
  auto unsized_view = view_of(DINO_VIEW_CENTER);
  unsized_view.struct_size = 3;
  refuse("struct_size", features(image_of(picture), unsized_view));

  const auto optioned = [&](auto change) {
    auto options = sized<dino_feature_options>();
    change(options);
    return features(image_of(picture), view_of(DINO_VIEW_CENTER), options);
  };
  refuse("blocks", optioned([](auto& o) { o.blocks = -1; }));
  refuse("blocks", optioned([](auto& o) { o.blocks = 99; }));
  refuse("average", optioned([](auto& o) {
           o.blocks = 2;
           o.average_patches = 1;
         }));
  refuse("struct_size", optioned([](auto& o) { o.struct_size = 0; }));
  std::size_t width = 0;
  auto many = sized<dino_feature_options>();
  many.blocks = 99;
  refuse("blocks", [&](dino_error* error) { return dino_feature_width(model, &many, &width, error); });

  // Null pointers and too little room, for each function.
  const dino_image image = image_of(picture);
  std::int32_t rows = 0, columns = 0;
  refuse("null", [&](dino_error* e) { return dino_feature_width(nullptr, nullptr, &width, e); });
  refuse("null", [&](dino_error* e) { return dino_feature_width(model, nullptr, nullptr, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(nullptr, &image, nullptr, &rows, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, nullptr, nullptr, &rows, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, &image, nullptr, nullptr, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, &image, nullptr, &rows, nullptr, e); });
  auto info = sized<dino_model_info>();
  refuse("null", [&](dino_error* e) { return dino_model_describe(nullptr, &info, e); });
  refuse("null", [&](dino_error* e) { return dino_model_describe(model, nullptr, e); });
  info.struct_size = 0;
  refuse("struct_size", [&](dino_error* e) { return dino_model_describe(model, &info, e); });
  using Function =
      std::function<dino_status(dino_model*, const dino_image*, std::size_t, float*, std::size_t, dino_error*)>;
  const std::vector<Function> functions{[](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_features(m, i, n, nullptr, nullptr, to, size, e);
                                        },
                                        [](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_patch_tokens(m, i, n, nullptr, to, size, e);
                                        },
                                        [](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_attention(m, i, n, nullptr, -1, to, size, e);
                                        }};
  const auto patches = static_cast<std::size_t>(model.info().image_px / model.info().patch_px) *
                       static_cast<std::size_t>(model.info().image_px / model.info().patch_px);
  const auto embed_dim = static_cast<std::size_t>(model.info().embed_dim);
  const std::size_t sizes[] = {embed_dim, patches * embed_dim, patches * static_cast<std::size_t>(model.info().heads)};
  for (std::size_t f = 0; f < functions.size(); ++f) {
    const auto call = [&](dino_model* m, const dino_image* i, std::size_t n, float* to, std::size_t size) {
      return [&, m, i, n, to, size](dino_error* error) { return functions[f](m, i, n, to, size, error); };
    };
    refuse("null", call(nullptr, &image, 1, room.data(), room.size()));
    refuse("null", call(model, nullptr, 1, room.data(), room.size()));
    refuse("at least one", call(model, &image, 0, room.data(), room.size()));
    refuse("null", call(model, &image, 1, nullptr, room.size()));
    check_refused(DINO_BUFFER_TOO_SMALL, std::to_string(sizes[f]), call(model, &image, 1, room.data(), sizes[f] - 1));
    CHECK(call(model, &image, 1, room.data(), sizes[f])(nullptr) == DINO_OK);
    // The second picture is the bad one.
    const dino_image two[] = {image, {}};
    refuse("picture 1", call(model, two, 2, room.data(), room.size()));
  }
  for (const std::int32_t layer : {model.info().depth, -model.info().depth - 1, 1 << 30})
    refuse("block", [&](dino_error* e) {
      return dino_attention(model, &image, 1, nullptr, layer, room.data(), room.size(), e);
    });

  // Numbers that are none.
  std::vector<float> normalized(3 * 64 * 64, 0.5F);
  const dino_image planes{.pixels = normalized.data(),
                          .height = 64,
                          .width = 64,
                          .row_stride_bytes = 0,
                          .format = DINO_NORMALIZED_F32,
                          .reserved = 0};
  CHECK(features(planes, view_of(DINO_VIEW_AS_IS))(nullptr) == DINO_OK);
  dino_image apart = planes;
  apart.row_stride_bytes = 64 * 4 + 4;
  refuse("stride", features(apart, view_of(DINO_VIEW_AS_IS)));
  normalized[100] = std::numeric_limits<float>::quiet_NaN();
  refuse("not finite", features(planes, view_of(DINO_VIEW_AS_IS)));
  // It goes on working afterwards.
  CHECK(features(image)(nullptr) == DINO_OK);
}

TEST_CASE("Models are used by several threads at once") {
  const Image picture = photo();
  const dino_view center = view_of(DINO_VIEW_CENTER);
  auto student = on_cpu();
  student.heads = 0;
  student.network = DINO_STUDENT;
  const Model a, b("checkpoint_full.pth", student);
  const dino_image image = image_of(picture);
  const auto expected_a = a.features({image}, center), expected_b = b.features({image}, center);
  REQUIRE(expected_a != expected_b);
  // Catch2 takes checks from one thread only.
  const auto wrong = [&](dino_model* model, const std::vector<float>& expected) {
    int count = 0;
    std::vector<float> got(expected.size());
    for (int i = 0; i < 8; ++i) {
      std::fill(got.begin(), got.end(), 0.0F);
      if (dino_features(model, &image, 1, &center, nullptr, got.data(), got.size(), nullptr) != DINO_OK ||
          got != expected)
        ++count;
    }
    return count;
  };
  int counts[4] = {-1, -1, -1, -1};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { counts[i] = i % 2 == 0 ? wrong(a, expected_a) : wrong(b, expected_b); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : counts) CHECK(count == 0);
}

TEST_CASE("A call leaves the caller's number of threads alone") {
  auto options = on_cpu();
  options.threads = 3;
  const int before = omp_get_max_threads();
  const Model model("backbone.safetensors", options);
  CHECK(std::string(dino_model_device(model)) == "CPU, 3 threads");
  const Image picture = photo();
  model.features({image_of(picture)}, view_of(DINO_VIEW_CENTER));
  CHECK(omp_get_max_threads() == before);
}
