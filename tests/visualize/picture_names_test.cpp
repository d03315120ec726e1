#include "visualize/picture_names.h"

#include "engine/text.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <random>
#include <set>

using namespace dino;

TEST_CASE("Pictures are named by their stems, and by more where these are alike") {
  using Names = std::vector<std::string>;
  CHECK(picture_names({"a.jpg", "/x/b.c.png", "../d"}) == Names{"a", "b.c", "d"});
  CHECK(picture_names({"x/a.jpg", "y/a.jpg", "y/a.png", "a.png"}) == Names{"x_a", "y_a", "y_a_2", "a"});
  CHECK(picture_names({"a.jpg", "a.jpg", "a_2.jpg"}) == Names{"a", "a_2", "a_2_2"});
  CHECK(picture_names({"a\nb\x1b[31m.png", "..", "/", "", ".png"}) == Names{"a_b_[31m", "..", "_", "__2", ".png"});
  CHECK(picture_names({}).empty());
}

TEST_CASE("Whatever pictures are called, their names differ, fit, and stay in their folder") {
  const std::string long_name(255, 'n');
  std::string umlauts;
  for (int i = 0; i < 120; ++i) umlauts += "ä";
  const std::vector<std::string> parts{"a", "..", ".",    "/",    "\\",    "\n",      "\x7f", " ",
                                       "-", "_2", ".png", "\xff", umlauts, long_name, "é",    std::string(1, '\0')};
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> pictures;
    for (int i = 0; i < 12; ++i) {
      std::string picture;
      for (auto n = random() % 5; n > 0; --n) picture += parts[random() % parts.size()];
      pictures.push_back(picture);
    }
    const std::vector<std::string> names = picture_names(pictures);
    REQUIRE(names.size() == pictures.size());
    CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
    for (std::size_t i = 0; i < names.size(); ++i) {
      const std::string& name = names[i];
      CHECK_FALSE(name.empty());
      CHECK(name.size() <= 210);
      CHECK(std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/'; }));
      // A name that was UTF-8 is not cut within a character.
      CHECK((is_utf8(name) || !is_utf8(pictures[i])));
    }
  }
}
