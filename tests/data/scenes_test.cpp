#include "data/scenes.h"

#include "data/dataset.h"
#include "data/png.h"
#include "engine/files.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <map>

using namespace dino;
using namespace dino::test;

namespace {

/// A red disc on nothing, with a margin.
std::vector<std::byte> disc(int side, std::uint8_t red) {
  std::vector<std::uint8_t> rgba;
  for (int y = 0; y < side; ++y) {
    for (int x = 0; x < side; ++x) {
      const double dy = y + 0.5 - side / 2.0;
      const double dx = x + 0.5 - side / 2.0;
      const bool inside = dx * dx + dy * dy < side * side / 9.0;
      rgba.insert(rgba.end(), {red, 0, 0, static_cast<std::uint8_t>(inside ? 255 : 0)});
    }
  }
  return encode_png(rgba, side, side, 4);
}

/// Every file below a folder, by relative path.
std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file())
      files[std::filesystem::relative(entry.path(), folder).string()] = read_text_file(entry.path());
  }
  return files;
}

/// Stamps and backgrounds in a temporary folder, and options that use them.
struct Studio {
  TemporaryFolder folder;
  SceneOptions options;

  Studio() {
    folder.write("stamps/coins/us/penny.png", disc(60, 250));
    folder.write("stamps/coins/ca/penny.png", disc(90, 240));
    folder.write("stamps/round/ball.png", disc(31, 230));
    folder.write("backgrounds/sky.jpg", encode_jpeg(gradient_image(150, 120), {.progressive = true}));
    folder.write("backgrounds/drawing.png", encode_png(gradient_image(8, 8).rgb, 8, 8, 3));
    options.table =
        folder.write("table.tsv",
                     "file\tclass\ncoins/us/penny.png\tcoin\ncoins/ca/penny.png\tcoin\nround/ball.png\ttoy\n"
                     "gone.png\ttoy\n");
    options.stamps = folder.path() / "stamps";
    options.backgrounds = folder.path() / "backgrounds";
    options.out = folder.path() / "out";
    options.style.size_px = 32;
    options.train_per_stamp = 3;
    options.val_per_stamp = 2;
    options.test_per_stamp = 1;
    options.threads = 3;
  }
};

}  // namespace

TEST_CASE("Scenes form a data set with identities, classes and masks") {
  Studio studio;
  std::int64_t last = 0;
  const SceneSummary summary = make_scenes(studio.options, [&](std::int64_t done, std::int64_t total) {
    CHECK(done > last);
    CHECK(total == 18);
    last = done;
  });
  CHECK(last == 18);
  CHECK((summary.stamps == 3 && summary.missing_stamps == 1 && summary.classes == 2 && summary.photographs == 1 &&
         summary.scenes == 18));
  const auto train = open_dataset(studio.options.out);
  CHECK(train->class_names() == std::vector<std::string>{"coin__coins-ca-penny", "coin__coins-us-penny", "toy__ball"});
  CHECK(train->size() == 9);
  CHECK(open_dataset(studio.options.out, {.split = "val"})->size() == 6);
  CHECK(open_dataset(studio.options.out, {.split = "test"})->size() == 3);
  CHECK(read_text_file(studio.options.out / "classes.tsv") ==
        "coin__coins-us-penny\tcoin\ncoin__coins-ca-penny\tcoin\ntoy__ball\ttoy\n");
  CHECK(contents(studio.options.out).size() == 18 + 9 + 1);
  CHECK(!std::filesystem::exists(studio.folder.path() / "out.part"));

  Image image;
  Image mask;
  decode_image_file(studio.options.out / "val/toy__ball/001.png", {}, image);
  decode_image_file(studio.options.out / "masks/val/toy__ball/001.png", {}, mask);
  REQUIRE((image.height == 32 && image.width == 32 && mask.height == 32 && mask.width == 32));
  int covered = 0;
  int red = 0;
  int untouched = 0;
  for (std::size_t i = 0; i < mask.rgb.size(); i += 3) {
    if (mask.rgb[i] == 255) {
      ++covered;
      if (std::abs(image.rgb[i] - 230) <= 1 && image.rgb[i + 1] <= 1) ++red;
    } else if (mask.rgb[i] == 0 && image.rgb[i + 1] > 10) {
      ++untouched;  // the photograph has green everywhere
    }
  }
  CHECK(covered > 100);
  CHECK(red == covered);
  CHECK(untouched > 100);
}

TEST_CASE("Scenes depend on the seed, not on threads or other stamps") {
  Studio studio;
  make_scenes(studio.options);
  const auto first = contents(studio.options.out);
  studio.options.out = studio.folder.path() / "second" / "deeper/";
  studio.options.threads = 1;
  make_scenes(studio.options);
  CHECK(contents(studio.options.out) == first);
  studio.options.out = studio.folder.path() / "third";
  studio.options.max_stamps = 1;
  make_scenes(studio.options);
  const auto few = contents(studio.options.out);
  CHECK(few.size() == 3 + 2 + 1 + 2 + 1 + 1);
  CHECK(few.at("train/coin__coins-us-penny/002.png") == first.at("train/coin__coins-us-penny/002.png"));
  studio.options.out = studio.folder.path() / "fourth";
  studio.options.seed = 1;
  make_scenes(studio.options);
  CHECK(contents(studio.options.out).at("train/coin__coins-us-penny/002.png") !=
        few.at("train/coin__coins-us-penny/002.png"));
  CHECK(first.at("train/toy__ball/000.png") != first.at("train/toy__ball/001.png"));
  CHECK(first.at("train/toy__ball/000.png") != first.at("val/toy__ball/000.png"));
}

TEST_CASE("The cut-out fills the share of the frame that was asked for, all of it inside") {
  RgbaImage square;
  square.height = 40;
  square.width = 20;
  square.rgba.assign(40 * 20 * 4, 255);
  const CutOut cut_out = prepare_cut_out(square, 100);
  CHECK((cut_out.height == 40 && cut_out.width == 20));
  const std::vector<Image> photographs{gradient_image(64, 64)};
  for (const double rotation : {0.0, 40.0}) {
    for (std::uint64_t n = 0; n < 20; ++n) {
      SceneStyle style;
      style.size_px = 64;
      style.fill_min = style.fill_max = 0.75;
      style.rotation_deg = rotation;
      const Scene scene = draw_scene(cut_out, photographs, style, Random(5, RandomStream::test, 0, n));
      int top = 64;
      int bottom = -1;
      int left = 64;
      int right = -1;
      for (int i = 0; i < 64 * 64; ++i) {
        if (scene.mask[static_cast<std::size_t>(i)] < 128) continue;
        top = std::min(top, i / 64);
        bottom = std::max(bottom, i / 64);
        left = std::min(left, i % 64);
        right = std::max(right, i % 64);
      }
      const int larger = std::max(bottom - top, right - left) + 1;
      CHECK(larger >= 44);
      CHECK(larger <= 49);
      if (rotation == 0.0) CHECK(std::abs(right - left + 1 - 24) <= 1);
    }
  }
}

TEST_CASE("Shrinking a cut-out keeps its mean, and cuts the margin") {
  Image unused;
  const TemporaryFolder folder;
  folder.write("d.png", disc(90, 200));
  const RgbaImage image = decode_rgba_file(folder.path() / "d.png");
  const CutOut full = prepare_cut_out(image, 1000);
  const CutOut small = prepare_cut_out(image, 17);
  CHECK((full.height == 60 && full.width == 60 && small.height == 17 && small.width == 17));
  const auto mean_alpha = [](const CutOut& cut_out) {
    double sum = 0;
    for (std::size_t i = 3; i < cut_out.rgba.size(); i += 4) sum += static_cast<double>(cut_out.rgba[i]);
    return sum / (cut_out.height * cut_out.width);
  };
  CHECK(std::abs(mean_alpha(full) - mean_alpha(small)) <= 1e-5);
  CHECK(mean_alpha(full) > 0.75);
  RgbaImage nothing;
  nothing.height = nothing.width = 2;
  nothing.rgba.assign(16, 0);
  CHECK(prepare_cut_out(nothing, 10).height == 0);
}

TEST_CASE("Scenes: what is missing is named, with the command that brings it") {
  Studio studio;
  const auto error = [&](auto&& change) {
    SceneOptions options = studio.options;
    change(options);
    const std::string message = error_of([&] { make_scenes(options); });
    CHECK(!std::filesystem::exists(studio.folder.path() / "out.part"));
    return message;
  };
  CHECK(contains(error([&](SceneOptions& o) { o.stamps = studio.folder.path() / "no"; }),
                 "apt-get install tuxpaint-stamps-default"));
  CHECK(contains(error([&](SceneOptions& o) { o.backgrounds = studio.folder.path() / "no"; }),
                 "apt-get install mate-backgrounds"));
  CHECK(contains(error([&](SceneOptions& o) { o.backgrounds = studio.folder.path() / "stamps"; }),
                 "apt-get install mate-backgrounds"));
  CHECK(contains(error([&](SceneOptions& o) { o.out = studio.folder.path(); }), "exists"));
  CHECK(contains(error([&](SceneOptions& o) { o.style.fill_max = 1.5; }), "fill"));
  CHECK(contains(error([&](SceneOptions& o) { o.style.fill_min = o.style.fill_max = std::nan(""); }), "fill"));
  CHECK(contains(error([&](SceneOptions& o) { o.table = studio.folder.write("bad.tsv", "file\tclass\nx.png\n"); }),
                 "line 2"));
  studio.folder.write("stamps/round/ball.png", "not a picture");
  CHECK(contains(error([&](SceneOptions& o) { o.threads = 2; }), "ball.png: not a picture"));
}

TEST_CASE("The built-in table names 247 cut-outs") {
  const std::string_view table = built_in_stamps();
  CHECK(std::count(table.begin(), table.end(), '\n') == 248);
  CHECK(contains(std::string(table), "animals/birds/blackbird.png\tbird\n"));
}
