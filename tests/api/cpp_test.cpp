// The C++ header over the C API.
#include "api/include/dino_cuda.hpp"

#include "tests/support/catch.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <type_traits>
#include <utility>

using namespace dino::test;

namespace {

dino_cuda::Model open_golden() {
  dino_cuda::ModelOptions options;
  options.device = "cpu";
  options.threads = 1;
  return dino_cuda::Model((golden_dir() / "backbone.safetensors").string(), options);
}

}  // namespace

TEST_CASE("The C++ API gives what the C API gives") {
  const dino_cuda::Model model = open_golden();
  CHECK(model.device() == "CPU, 1 thread");
  CHECK(dino_cuda::version() == dino_version());
  const dino_cuda::Picture photo((golden_dir() / "photo.png").string());
  const dino_image image = photo.image();

  const std::vector<float> features = model.features(image);
  REQUIRE(features.size() == static_cast<std::size_t>(model.info().embed_dim));
  std::vector<float> expected(features.size());
  REQUIRE(dino_features(model.get(), &image, 1, nullptr, nullptr, expected.data(), expected.size(), nullptr) ==
          DINO_OK);
  CHECK(features == expected);

  dino_cuda::FeatureOptions raw;
  raw.raw = 1;
  raw.blocks = 2;
  const std::vector<float> two = model.features({image, image}, dino_cuda::View::center(), raw);
  REQUIRE(two.size() == 4 * features.size());
  const double length = std::sqrt(std::inner_product(two.begin() + static_cast<std::ptrdiff_t>(features.size()),
                                                     two.begin() + static_cast<std::ptrdiff_t>(2 * features.size()),
                                                     two.begin() + static_cast<std::ptrdiff_t>(features.size()), 0.0));
  for (std::size_t i = 0; i < features.size(); ++i)
    CHECK(std::abs(static_cast<double>(two[features.size() + i]) / length - static_cast<double>(features[i])) <= 1e-6);

  const dino_cuda::PatchTokens tokens = model.patch_tokens(image, dino_cuda::View::center(32));
  const std::int32_t side = 32 / model.info().patch_px;
  CHECK((tokens.rows == side && tokens.columns == side && tokens.width == model.info().embed_dim));
  CHECK(tokens.values.size() == static_cast<std::size_t>(side * side * tokens.width));

  const dino_cuda::Attention attention = model.attention(image, dino_cuda::View::whole(64), 0);
  CHECK((attention.heads == model.info().heads && attention.rows == 64 / model.info().patch_px));
  const std::vector<float> mean = attention.mean();
  REQUIRE(mean.size() * static_cast<std::size_t>(attention.heads) == attention.values.size());
  CHECK(std::abs(std::accumulate(mean.begin(), mean.end(), 0.0) * attention.heads -
                 std::accumulate(attention.values.begin(), attention.values.end(), 0.0)) <= 1e-5);
  CHECK(model.attention(image).rows == 480 / model.info().patch_px);
}

TEST_CASE("The C++ API decodes from memory and takes pixels of the caller's") {
  std::ifstream file(golden_dir() / "photo.png", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const dino_cuda::Picture photo(bytes.data(), bytes.size());
  const dino_image image = photo.image();
  const dino_cuda::Model model = open_golden();
  CHECK(model.features(image) == model.features(dino_cuda::image(image.pixels, image.height, image.width)));
  const std::int64_t shorter = image.height / 2;
  CHECK(model.features(dino_cuda::image(image.pixels, shorter, image.width, DINO_RGB8, 2 * image.row_stride_bytes)) !=
        model.features(image));
}

TEST_CASE("Failures of the C++ API are exceptions, and what is open is closed") {
  static_assert(!std::is_copy_constructible_v<dino_cuda::Model> && std::is_move_constructible_v<dino_cuda::Model>);
  static_assert(!std::is_copy_constructible_v<dino_cuda::Picture> && std::is_move_constructible_v<dino_cuda::Picture>);
  const auto status_of = [](auto&& function) {
    try {
      function();
    } catch (const dino_cuda::Error& error) {
      CHECK(std::string(error.what()).starts_with("["));
      return error.status();
    }
    return dino_status{DINO_OK};
  };
  CHECK(status_of([] { dino_cuda::Model("nowhere"); }) == DINO_BAD_WEIGHTS);
  CHECK(status_of([] { dino_cuda::Picture("nowhere"); }) == DINO_BAD_PICTURE);
  dino_cuda::Model model = open_golden();
  CHECK(status_of([&] { model.features(std::vector<dino_image>{}); }) == DINO_INVALID_ARGUMENT);
  CHECK(status_of([&] { model.features(dino_image{}); }) == DINO_INVALID_ARGUMENT);
  const dino_cuda::Model moved = std::move(model);
  CHECK(moved.info().depth > 0);
}
