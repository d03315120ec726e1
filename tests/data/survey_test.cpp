#include "data/survey.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <fmt/format.h>

#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

/// A picture of one colour with a darker square in a corner that depends on `n`.
Image picture_of(int height, int width, std::array<int, 3> color, int n = 0) {
  Image image;
  image.resize(height, width);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const bool inside = (y * 8 / height + n) % 5 == 0 || (x * 9 / width * (n + 3)) % 7 == 1;
      for (int c = 0; c < 3; ++c)
        image.rgb[static_cast<std::size_t>((y * width + x) * 3 + c)] = static_cast<std::uint8_t>(
            inside ? color[static_cast<std::size_t>(c)] / 2 : color[static_cast<std::size_t>(c)]);
    }
  }
  return image;
}

std::vector<std::byte> png_of(const Image& image) { return encode_png(image.rgb, image.height, image.width, 3); }

DataSummary survey_of(const TemporaryFolder& folder, const SurveyOptions& options = {}) {
  const auto images = open_dataset(folder.path());
  return survey(*images, nullptr, options);
}

}  // namespace

TEST_CASE("a survey counts sizes, classes, broken pictures and near copies") {
  const TemporaryFolder folder;
  for (int i = 0; i < 20; ++i)
    folder.write(fmt::format("{}/{}.png", i < 15 ? "cats" : "dogs", i),
                 png_of(picture_of(20 + i, 40, {200, 100, 50}, i)));
  folder.write("cats/broken.png", std::string_view("no picture"));
  // The same picture at another size.
  folder.write("dogs/copy.png", png_of(picture_of(80, 90, {200, 100, 50}, 3)));
  folder.write("dogs/original.png", png_of(picture_of(160, 180, {200, 100, 50}, 3)));
  const DataSummary s = survey_of(folder);
  CHECK(s.pictures == 23);
  CHECK(s.looked_at == 23);
  CHECK(s.classes == 2);
  CHECK(s.smallest_class == 7);
  CHECK(s.largest_class == 16);
  CHECK(s.broken == 1);
  CHECK(contains(s.broken_example, "broken.png"));
  CHECK(s.short_side_px.least == 20);
  CHECK(s.short_side_px.most == 160);
  CHECK(s.long_side_px.median == 40);
  CHECK(s.grey_share == 0);
  CHECK(s.near_copies >= 1);
}

TEST_CASE("a survey counts pictures that are larger than the memory, and names no file as it is") {
  class TooLarge final : public Dataset {
   public:
    std::int64_t size() const override { return 3; }
    void decode(std::int64_t index, Image& image) const override {
      if (index == 1) throw std::bad_alloc();
      image = picture_of(20, 20, {1, 2, 3}, 1);
    }
    std::int32_t label(std::int64_t) const override { return -1; }
    std::string name(std::int64_t index) const override { return fmt::format("\x1b[31m{}\xff", index); }
  };
  const DataSummary s = survey(TooLarge(), nullptr);
  CHECK(s.looked_at == 3);
  CHECK(s.broken == 1);
  CHECK(contains(s.broken_example, "\\x1b[31m1\\xff: there is no memory"));
  CHECK(s.near_copy_example == "\\x1b[31m0\\xff and \\x1b[31m2\\xff");
}

TEST_CASE("a survey's mean and deviation are those of the pixels") {
  const TemporaryFolder folder;
  // Half of the pixels at 51 and half at 153 in red; green constant; blue black.
  Image image;
  image.resize(10, 10);
  for (std::size_t i = 0; i < 100; ++i) {
    image.rgb[3 * i] = i % 2 == 0 ? 51 : 153;
    image.rgb[3 * i + 1] = 255;
    image.rgb[3 * i + 2] = 0;
  }
  folder.write("a.png", png_of(image));
  folder.write("b.png", png_of(image));
  const DataSummary s = survey_of(folder);
  CHECK(s.mean[0] == Approx(0.4));
  CHECK(s.deviation[0] == Approx(0.2));
  CHECK(s.mean[1] == Approx(1));
  CHECK(std::abs(s.deviation[1]) < 1e-7);
  CHECK(s.mean[2] == 0);
  CHECK(s.classes == 0);
}

TEST_CASE("a survey sees that pictures are grey, and that blank ones are no copies") {
  const TemporaryFolder folder;
  for (int i = 0; i < 4; ++i) folder.write(fmt::format("{}.png", i), png_of(picture_of(30, 30, {90, 90, 90}, i)));
  Image blank;
  blank.resize(30, 30);
  std::fill(blank.rgb.begin(), blank.rgb.end(), std::uint8_t{255});
  folder.write("white1.png", png_of(blank));
  folder.write("white2.png", png_of(blank));
  const DataSummary s = survey_of(folder);
  CHECK(s.grey_share == 1);
  CHECK(s.near_copies == 0);
}

TEST_CASE("a survey of a part is spread over the set, and stops when the time is up") {
  const TemporaryFolder folder;
  // The first half is small, the second large.
  for (int i = 0; i < 100; ++i)
    folder.write(fmt::format("{:03}.png", i), png_of(picture_of(i < 50 ? 10 : 30, 40, {1, 2, 3}, i)));
  const DataSummary part = survey_of(folder, {.most_pictures = 10});
  CHECK(part.pictures == 100);
  CHECK(part.looked_at == 10);
  CHECK(part.short_side_px.least == 10);
  CHECK(part.short_side_px.most == 30);
  const DataSummary hurried = survey_of(folder, {.most_seconds = 0, .threads = 2});
  CHECK(hurried.looked_at >= 64);  // the least
  CHECK(hurried.looked_at < 100);
  CHECK(hurried.short_side_px.most == 30);
  const auto images = open_dataset(folder.path());
  struct Stop {};
  CHECK_THROWS_AS(survey(*images, nullptr, {}, [](std::int64_t, std::int64_t) { throw Stop(); }), Stop);
}
