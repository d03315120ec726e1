#include "data/path_list.h"

#include "kernels/common/error.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <string>
#include <vector>

using namespace dino;

TEST_CASE("Paths come back as they were, also long ones and many") {
  PathList list;
  std::vector<std::string> paths{
      "a.png",        "dir/b.png", "", "dir/deep/c.png", "/absolute/d.png", "dir/e.png", std::string(255, 'x'),
      "caf\xe9\n.png"};
  for (int i = 0; i < 20000; ++i)  // more than one chunk of names
    paths.push_back("n" + std::to_string(i % 7) + "/" + std::string(100, 'n') + std::to_string(i));
  for (std::size_t i = 0; i < paths.size(); ++i) list.add(paths[i], static_cast<std::int32_t>(i % 3));
  REQUIRE(list.size() == static_cast<std::int64_t>(paths.size()));
  bool same = true;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    same = same && list[at] == paths[i] && list.label(at) == static_cast<std::int32_t>(i % 3);
  }
  CHECK(same);
  CHECK_THROWS_AS(list.add(std::string(5000, 'x')), Error);
}

TEST_CASE("Paths are sorted by class, then as whole texts") {
  // Every order of folders in and beside each other, with bytes below and above the slash, and above 127.
  std::vector<std::string> paths;
  for (const char* folder : {"", "a/", "a/b/", "a b/", "a-/", "a0/", "a/b/c/", "\xc3\xa4/", "b/"}) {
    for (const char* name : {"1", "a", "b", "b.png", "~", "\xff", "b c"}) paths.push_back(std::string(folder) + name);
  }
  std::vector<std::pair<std::int32_t, std::string>> expected;
  PathList list;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const std::size_t at = i * 29 % paths.size();  // 63 names: 29 visits all
    const auto label = static_cast<std::int32_t>(at % 2) - 1;
    list.add(paths[at], label);
    expected.emplace_back(label, paths[at]);
  }
  std::sort(expected.begin(), expected.end());
  list.sort();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(list[static_cast<std::int64_t>(i)] == expected[i].second);
    CHECK(list.label(static_cast<std::int64_t>(i)) == expected[i].first);
  }
  list.erase(-1);
  CHECK(list.size() == std::count_if(expected.begin(), expected.end(), [](const auto& e) { return e.first == 0; }));
  CHECK(list[0] == std::find_if(expected.begin(), expected.end(), [](const auto& e) { return e.first == 0; })->second);
  list.label_by_folder([](const std::string& folder) { return static_cast<std::int32_t>(folder.size()); });
  for (std::int64_t i = 0; i < list.size(); ++i)
    CHECK(list.label(i) == static_cast<std::int32_t>(list[i].rfind('/') + 1));
}
