// The C API as a program meets it: through libdino_cuda, whose insides are out of reach here.
#include "tests/api/c_model.h"
#include "tests/support/host_array.h"
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
  CHECK(std::string(dino_model_device(model)) == "CPU, 1 thread");
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
