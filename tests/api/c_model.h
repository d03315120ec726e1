#pragma once

#include "api/include/dino_cuda.h"

#include "data/decode.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/paths.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace dino::test {

inline constexpr double kGoldenTolerance = 2e-5;
// The same network on the same pixels, in another batch or on other threads: sums in another order.
inline constexpr double kRounding = 2e-6;

inline std::string golden(const std::string& name) { return (golden_dir() / name).string(); }

inline int golden_heads() {
  return std::stoi(SafetensorsFile::read(golden_dir() / "backbone.safetensors").metadata("num_heads"));
}

template <typename Options>
Options sized(Options options = {}) {
  options.struct_size = sizeof options;
  return options;
}

inline dino_model_options on_cpu() {
  auto options = sized<dino_model_options>();
  options.device = "cpu";
  options.threads = 1;
  options.heads = golden_heads();
  return options;
}

inline dino_view view_of(std::int32_t kind, std::int32_t crop_px = 0, std::int32_t short_side_px = 0) {
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

inline ConstArray flat(const std::vector<float>& values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}
inline ConstArray flat(const ConstArray& array) { return array.reshaped({array.size()}); }

/// The pictures of a golden (B, 3, H, W) array.
inline std::vector<dino_image> normalized_images(const ConstArray& array) {
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

inline dino_image image_of(const Image& picture) {
  return {.pixels = picture.rgb.data(),
          .height = picture.height,
          .width = picture.width,
          .row_stride_bytes = 0,
          .format = DINO_RGB8,
          .reserved = 0};
}

inline Image photo() {
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

}  // namespace dino::test
