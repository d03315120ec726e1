#include "data/dataset.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

using namespace dino;
using namespace dino::test;

namespace {

/// A PNG of one pixel whose red is `red`.
std::vector<std::byte> dot(std::uint8_t red) { return encode_png(std::vector<std::uint8_t>{red, 0, 0}, 1, 1, 3); }

int red_of(const Dataset& dataset, std::int64_t index) {
  Image image;
  dataset.decode(index, image);
  return image.rgb.at(0);
}

std::vector<std::pair<int, int>> reds_and_labels(const Dataset& dataset) {
  std::vector<std::pair<int, int>> result;
  for (std::int64_t i = 0; i < dataset.size(); ++i) result.emplace_back(red_of(dataset, i), dataset.label(i));
  return result;
}

using Expected = std::vector<std::pair<int, int>>;

std::string open_error(const std::filesystem::path& path, const std::string& split = "train") {
  const std::string message = error_of([&] { open_dataset(path, {.split = split}); });
  CHECK(message.find('\n') == std::string::npos);
  return message;
}

}  // namespace

TEST_CASE("Class folders: labels by sorted name, pictures by sorted path, nested ones too") {
  const TemporaryFolder folder;
  folder.write("dog/2.PNG", dot(4));
  folder.write("dog/1.png", dot(3));
  folder.write("cat/deep/er/b.png", dot(2));
  folder.write("cat/a.png", dot(1));
  folder.write("cat x/a.png", dot(9));
  folder.write("cat/.hidden.png", dot(99));
  folder.write("cat/readme.txt", "no picture");
  folder.write(".git/a.png", dot(98));
  folder.write("loose.png", dot(97));
  const auto dataset = open_dataset(folder.path());
  CHECK(dataset->class_names() == std::vector<std::string>{"cat", "cat x", "dog"});
  CHECK(reds_and_labels(*dataset) == Expected{{1, 0}, {2, 0}, {9, 1}, {3, 2}, {4, 2}});
  CHECK(contains(dataset->name(1), "cat/deep/er/b.png"));
  CHECK(contains(dataset->summary(), "5 pictures in 3 class folders; 2 other files skipped; 1 pictures outside"));
  CHECK(!dataset->box(0).has_value());
  Image image;
  CHECK(contains(error_of([&] { dataset->decode(5, image); }), "no picture 5"));
}

TEST_CASE("A flat folder has no classes") {
  const TemporaryFolder folder;
  folder.write("b.png", dot(2));
  folder.write("a.png", dot(1));
  folder.write("notes/empty.txt", "");
  const auto dataset = open_dataset(folder.path());
  CHECK(dataset->class_names().empty());
  CHECK(reds_and_labels(*dataset) == Expected{{1, -1}, {2, -1}});
}

TEST_CASE("Splits share one numbering of classes") {
  const TemporaryFolder folder;
  folder.write("train/ant/1.png", dot(1));
  folder.write("train/cow/1.png", dot(2));
  folder.write("train/bee/1.png", dot(3));
  folder.write("test/cow/1.png", dot(4));
  const auto train = open_dataset(folder.path());
  const auto test = open_dataset(folder.path(), {.split = "test"});
  CHECK(reds_and_labels(*train) == Expected{{1, 0}, {3, 1}, {2, 2}});
  CHECK(reds_and_labels(*test) == Expected{{4, 2}});
  CHECK(test->class_names() == train->class_names());
  CHECK(reds_and_labels(*open_dataset(folder.path(), {.split = "val"})) == Expected{{4, 2}});
  folder.write("val/bee/1.png", dot(5));
  CHECK(reds_and_labels(*open_dataset(folder.path(), {.split = "val"})) == Expected{{5, 1}});
  std::filesystem::remove_all(folder.path() / "test");
  CHECK(contains(open_error(folder.path(), "test"), "no split \"test\"; found train, val"));
  CHECK(contains(open_error(folder.path(), "all"), "unknown split"));
  CHECK(contains(open_error(folder.path() / "train", "val"), "no split \"val\""));
}

TEST_CASE("Folders beside the splits are named as left out, and splits in other words are no classes") {
  const TemporaryFolder folder;
  for (const char* name : {"train/car/1.png", "bus/2.png", "plane/3.png"}) folder.write(name, dot(1));
  CHECK(open_dataset(folder.path())->summary().ends_with("; 2 beside the splits left out, such as bus"));
  for (const auto& [first, second] : {std::pair{"Train", "Val"}, {"training", "validation"}, {"TEST", "TRAIN"}}) {
    const TemporaryFolder other;
    other.write(fmt::format("{}/a/1.png", first), dot(1));
    other.write(fmt::format("{}/a/1.png", second), dot(1));
    const std::string error = open_error(other.path());
    CHECK(contains(error, first));
    CHECK(contains(error, "expected train, val and test; try renaming them"));
    // Among others they are what they are called.
    other.write("Car/1.png", dot(1));
    CHECK(open_dataset(other.path())->class_names() == std::vector<std::string>{"Car", first, second});
  }
}

TEST_CASE("A summary steers no terminal") {
  const TemporaryFolder folder;
  folder.write("\x1b[31mred\xff/1.png", dot(1));
  CHECK(contains(open_dataset(folder.path() / "\x1b[31mred\xff")->summary(), "/\\x1b[31mred\\xff: 1 picture"));
}

TEST_CASE("Links may form loops") {
  const TemporaryFolder folder;
  folder.write("a/1.png", dot(1));
  folder.write("b/2.png", dot(2));
  std::filesystem::create_directory_symlink(folder.path(), folder.path() / "a" / "up");
  std::filesystem::create_directory_symlink(folder.path() / "b", folder.path() / "b" / "self");
  std::filesystem::create_symlink(folder.path() / "nowhere.png", folder.path() / "a" / "broken.png");
  std::filesystem::create_symlink(folder.path() / "b" / "2.png", folder.path() / "a" / "file.png");
  CHECK(reds_and_labels(*open_dataset(folder.path())) == Expected{{1, 0}, {2, 0}, {2, 1}});
}

TEST_CASE("List files: relative paths, names or numbers as classes") {
  const TemporaryFolder folder;
  folder.write("p/1.png", dot(1));
  folder.write("p/2 with space.png", dot(2));
  CHECK(reds_and_labels(*open_dataset(folder.write("plain.txt", "# list\np/2 with space.png\r\n\np/1.png"))) ==
        Expected{{2, -1}, {1, -1}});
  const auto named = open_dataset(folder.write("named.txt", "p/1.png\tzebra\np/2 with space.png\tape\n"));
  CHECK(named->class_names() == std::vector<std::string>{"ape", "zebra"});
  CHECK(reds_and_labels(*named) == Expected{{1, 1}, {2, 0}});
  const auto numbered = open_dataset(folder.write("numbered.txt", "p/1.png\t10\np/2 with space.png\t9\n"));
  CHECK(numbered->class_names().size() == 11);
  CHECK(reds_and_labels(*numbered) == Expected{{1, 10}, {2, 9}});
  CHECK(contains(open_error(folder.write("bad.txt", "p/1.png\np/3.png\n")), "line 2: cannot read"));
  const auto endless = folder.write("endless.txt", "p/1.png\n" + std::string(std::size_t{3} << 20, 'x'));
  CHECK(contains(open_error(endless), "line 2 is too long; got more than 1048576 bytes"));
  std::filesystem::create_symlink("loop.png", folder.path() / "p" / "loop.png");
  CHECK(contains(open_error(folder.write("loop.txt", "p/loop.png\n")),
                 (folder.path() / "p" / "loop.png").string() + ": Too many levels of symbolic links; expected"));
  CHECK(contains(open_error(folder.write("mixed.txt", "p/1.png\np/1.png\tx\n")), "expected all or none"));
  CHECK(contains(open_error(folder.write("none.txt", "# nothing\n")), "lists no picture"));
}

TEST_CASE("What is no data set is refused in one line that helps") {
  const TemporaryFolder folder;
  CHECK(contains(open_error(folder.path() / "missing"), "there is no "));
  CHECK(contains(open_error(folder.path()), "found nothing"));
  folder.write("sub/a.webp", "RIFF");
  CHECK(contains(open_error(folder.path()), "found 1 other files such as sub/a.webp"));
  CHECK(contains(open_error(folder.write("one.png", dot(1))), "is one picture"));
  CHECK(contains(open_error(folder.write("archive", std::string_view("PK\3\4\0\0", 6))), "is not text"));
}
