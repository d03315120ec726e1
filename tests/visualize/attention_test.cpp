#include "visualize/attention.h"

#include "data/decode.h"
#include "models/backbone.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"
#include "visualize/attention_pictures.h"
#include "visualize/drawing.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

ConstArray flat(std::span<const float> values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}

/// Share of places at which two masks differ.
double disagreement(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return static_cast<double>(count) / static_cast<double>(a.size());
}

AttentionMaps example_maps() {
  AttentionMaps maps;
  maps.heads = 2;
  maps.rows = 2;
  maps.columns = 3;
  maps.patch_px = 4;
  maps.attention = {0.1F, 0.2F, 0.3F, 0.1F, 0.1F, 0.1F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.5F};
  for (std::size_t i = 0; i < 6; ++i) maps.mean.push_back((maps.attention[i] + maps.attention[6 + i]) / 2);
  return maps;
}

}  // namespace

static void check_golden(Context& context);
TEST_CASE("golden attention of a picture", "[device]") { every_context(check_golden); }
static void check_golden(Context& context) {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "attention.safetensors");
  const double threshold = std::stod(golden.metadata("threshold"));
  const int heads = static_cast<int>(golden["attention"].extent(0));
  const Backbone backbone(context, golden_dir() / golden.metadata("weights"), DType::float32, {.heads = heads});
  CHECK(backbone.vit.config().patch_px == std::stoi(golden.metadata("patch_size")));
  const auto expected = golden["attention"];
  const std::span<const float> expected_mask(golden["mask"].as<float>(),
                                             static_cast<std::size_t>(golden["mask"].size()));

  // From the recorded pixels.
  const Tensor pixels = context.from_host(golden["image"]);
  Tape tape(context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, backbone.store);
  const AttentionMaps maps = compute_attention(backbone.vit, weights, pixels, {.threshold = threshold});
  CHECK(Shape{maps.heads, maps.rows, maps.columns} == expected.shape());
  check_close(flat(maps.attention), expected, 2e-5, "attention");
  // A patch on the edge of the mask may fall to either side by rounding.
  CHECK(disagreement(maps.mask, expected_mask) <= 0.01);
  CropPacker packer(context, backbone.vit.config().patch_px);
  check_close(to_host(context, backbone.vit.cls_features(tape, weights, packer.pack({{pixels}}))), golden["cls"], 2e-5,
              "cls");

  // The mask of the recorded attention is the recorded mask.
  const std::size_t patches = maps.patches();
  for (int h = 0; h < heads; ++h) {
    const auto offset = static_cast<std::size_t>(h) * patches;
    const auto mask = threshold_mask(std::span(expected.as<float>() + offset, patches), threshold);
    CHECK(disagreement(mask, expected_mask.subspan(offset, patches)) == 0.0);
  }

  // From the picture itself. An 8-bit level more or less is within rounding.
  Image picture;
  decode_image_file(golden_dir() / golden.metadata("photo"), {}, picture);
  const Image prepared = prepare_attention_image(picture, std::stoi(golden.metadata("short_side")), maps.patch_px);
  REQUIRE(prepared.height == golden["image"].extent(2));
  REQUIRE(prepared.width == golden["image"].extent(3));
  const AttentionMaps from_picture = compute_attention(backbone.vit, weights, prepared, {.threshold = threshold});
  check_close(flat(from_picture.attention), expected, 1e-3, "attention of the picture");
  CHECK(disagreement(from_picture.mask, expected_mask) <= 0.02);
}

TEST_CASE("threshold masks keep the largest values that hold the mass") {
  const std::vector<float> values = {0.05F, 0.4F, 0.15F, 0.3F, 0.1F};
  CHECK(threshold_mask(values, 0.6) == std::vector<float>{0, 1, 0, 1, 0});
  CHECK(threshold_mask(values, 0.75) == std::vector<float>{0, 1, 1, 1, 0});
  CHECK(threshold_mask(values, 1.0) == std::vector<float>{1, 1, 1, 1, 1});
  CHECK(threshold_mask(values, 1e-6) == std::vector<float>{0, 1, 0, 0, 0});
  CHECK(threshold_mask(std::vector<float>{0, 2, 0}, 0.6) == std::vector<float>{0, 1, 0});
  CHECK_THROWS_AS(threshold_mask(std::vector<float>{0, 0}, 0.6), Error);
  CHECK_THROWS_AS(threshold_mask(std::vector<float>{1, -1}, 0.6), Error);
  CHECK_THROWS_AS(threshold_mask(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()}, 0.6), Error);
}

TEST_CASE("colours grow lighter with the value") {
  double last = -1;
  for (int i = 0; i <= 1000; ++i) {
    const Rgb color = heat_color(i / 1000.0);
    const double lightness = 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2];
    REQUIRE(lightness >= last - 0.8);  // rounding to 8 bits
    last = std::max(last, lightness);
  }
  CHECK(last > 220);
  CHECK(heat_color(-1) == heat_color(0));
  CHECK(heat_color(2) == heat_color(1));
  const std::vector<Rgb> colors = heat_colors(std::vector<float>{3, 5, 4});
  CHECK(colors[0] == heat_color(0));
  CHECK(colors[1] == heat_color(1));
  CHECK(colors[2] == heat_color(0.5));
  CHECK(heat_colors(std::vector<float>{2, 2})[1] == heat_color(0));
  CHECK_THROWS_AS(heat_colors(std::vector<float>{1, std::numeric_limits<float>::infinity()}), Error);
}

TEST_CASE("drawing enlarges, blends, darkens, reduces and lays out") {
  const std::vector<Rgb> cells = {{10, 0, 0}, {20, 0, 0}};
  const Image cell_image = enlarge_cells(cells, 1, 2, 3);
  REQUIRE(cell_image.height == 3);
  REQUIRE(cell_image.width == 6);
  CHECK(cell_image.rgb[3 * 2] == 10);
  CHECK(cell_image.rgb[3 * 3] == 20);
  CHECK(cell_image.rgb[3 * (2 * 6 + 5)] == 20);

  Image white = cell_image;
  std::fill(white.rgb.begin(), white.rgb.end(), std::uint8_t{200});
  CHECK(blend(white, cell_image, 0.25).rgb[0] == 153);  // 152.5
  CHECK(blend(white, cell_image, 0.25).rgb[1] == 150);
  const Image dark = spotlight(white, std::vector<float>{1, 0}, 2, 3);
  CHECK(dark.rgb[0] == 200);
  CHECK(dark.rgb[3 * 3] == 50);
  CHECK_THROWS_AS(spotlight(white, std::vector<float>{1, 0, 1}, 2, 3), Error);

  const Image reduced = reduce_to(cell_image, 3);
  CHECK(reduced.height == 1);
  CHECK(reduced.width == 3);
  CHECK(reduced.rgb[0] == 10);
  CHECK(reduced.rgb[3] == 15);
  CHECK(reduced.rgb[6] == 20);

  const Image sheet = tile({cell_image, white, white}, 2, 1, {1, 2, 3});
  CHECK(sheet.height == 9);
  CHECK(sheet.width == 15);
  CHECK(sheet.rgb[0] == 1);
  CHECK(sheet.rgb[1] == 2);
  CHECK(sheet.rgb[3 * (15 + 1)] == 10);
  CHECK(sheet.rgb[3 * (15 + 8)] == 200);
  CHECK(sheet.rgb[3 * (15 * 5 + 8)] == 1);
}

TEST_CASE("pictures that are far longer than wide are reduced to the limit all the same") {
  for (const bool tall : {false, true}) {
    const int length = 403, breadth = 2, limit = 20;  // blocks of 21, of which 19 fit, 4 pixels being left
    Image picture;
    picture.resize(tall ? length : breadth, tall ? breadth : length);
    for (std::size_t i = 0; i < picture.rgb.size(); ++i)
      picture.rgb[i] = static_cast<std::uint8_t>((i * 7 + i / 11) % 251);
    const Image reduced = reduce_to(picture, limit);
    CHECK(reduced.height == (tall ? 19 : 1));
    CHECK(reduced.width == (tall ? 1 : 19));
    for (int block = 0; block < 19; ++block) {
      double sum = 0;
      for (int along = 21 * block; along < 21 * (block + 1); ++along) {
        for (int across = 0; across < breadth; ++across) {
          const int y = tall ? along : across, x = tall ? across : along;
          sum += picture.rgb[static_cast<std::size_t>(3 * (y * picture.width + x))];
        }
      }
      CHECK(std::abs(reduced.rgb[static_cast<std::size_t>(3 * block)] - sum / (21 * breadth)) <= 0.5);
    }
  }
}

TEST_CASE("attention pictures are written for the heads that are asked for") {
  CHECK(select_heads("all", 2) == std::vector<int>{0, 1, -1});
  CHECK(select_heads("mean", 2) == std::vector<int>{-1});
  CHECK(select_heads("1", 2) == std::vector<int>{1});
  for (const char* wrong : {"2", "-1", "", "1x", "none"}) CHECK_THROWS_AS(select_heads(wrong, 2), Error);

  AttentionMaps maps = example_maps();
  Image picture;
  picture.resize(8, 12);
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = static_cast<std::uint8_t>(i % 251);
  const TemporaryFolder folder;
  const auto names = [&](const AttentionPictureOptions& options) {
    std::vector<std::string> result;
    for (const auto& path : write_attention_pictures(maps, picture, folder.path() / "new" / "folder", "cat", options)) {
      CHECK(std::filesystem::file_size(path) > 60);
      result.push_back(path.filename().string());
    }
    return result;
  };
  CHECK(names({.heads = {1}}) ==
        std::vector<std::string>{"cat_input.png", "cat_head1.png", "cat_head1_overlay.png", "cat_sheet.png"});
  for (int h = 0; h < 2; ++h) {
    const auto mask = threshold_mask(maps.map_of(h), 0.6);
    maps.mask.insert(maps.mask.end(), mask.begin(), mask.end());
  }
  maps.mean_mask = threshold_mask(maps.mean, 0.6);
  CHECK(names({}).size() == 1 + 3 * 3 + 1);
  Image map;
  decode_image_file(folder.path() / "new" / "folder" / "cat_head1.png", {}, map);
  CHECK(map.rgb == enlarge_cells(heat_colors(maps.map_of(1)), 2, 3, 4).rgb);
  Image sheet;
  decode_image_file(folder.path() / "new" / "folder" / "cat_sheet.png", {}, sheet);
  CHECK(sheet.height == 3 * (8 + 4) + 4 + 12);  // 12 for the titles
  CHECK(sheet.width == 4 * (12 + 4) + 4);
  CHECK_THROWS_AS(names({.heads = {2}}), Error);

  const std::vector<NamedArray> arrays = attention_arrays(maps, "cat.");
  CHECK(arrays.size() == 4);
  CHECK(arrays[0].name == "cat.attention");
  CHECK(arrays[0].array.shape() == Shape{2, 2, 3});
}
