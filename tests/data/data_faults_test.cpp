// What happens to the pictures of a run: they change, go away, have names of any kind, and there are strange files
// among them.
#include "data/broken_image_list.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/png.h"
#include "engine/files.h"
#include "engine/text.h"
#include "models/json.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <map>
#include <sstream>

using namespace dino;
using namespace dino::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::byte> dot(std::uint8_t red) { return encode_png(std::vector<std::uint8_t>{red, 0, 0}, 1, 1, 3); }

/// A folder with pictures 0.png to 9.png.
class Pictures {
 public:
  Pictures() {
    for (int i = 0; i < 10; ++i) folder_.write(file(i), dot(static_cast<std::uint8_t>(i)));
  }
  static std::string file(int i) { return std::to_string(i) + ".png"; }
  fs::path path(int i) const { return folder_.path() / file(i); }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
};

std::vector<std::string> lines_of(const fs::path& path) {
  std::stringstream text(read_text_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("Pictures that change or go away during a run are replaced and reported") {
  const Pictures pictures;
  const auto dataset = open_dataset(pictures.folder().path());
  std::vector<BrokenImage> reported;
  Loader loader(*dataset, {.size = 10, .batch = 10, .shuffle = false}, center_crop_views(12, 8),
                {.threads = 2,
                 .prefetch_batches = 1,
                 .end_epoch = 4,
                 .max_broken_share = 0.5,
                 .on_broken = [&](const BrokenImage& image) { reported.push_back(image); }});
  Batch batch;
  REQUIRE(loader.next(batch));
  CHECK(loader.broken().count == 0);
  fs::remove(pictures.path(1));
  fs::resize_file(pictures.path(3), 20);
  // Opening a pipe to read would wait for a writer.
  const fs::path pipe = pictures.folder().path() / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  fs::rename(pipe, pictures.path(5));
  fs::remove(pictures.path(7));
  fs::create_directory(pictures.path(7));
  // Another picture is a picture. At once: half written, the loader would take it for a broken one.
  fs::rename(pictures.folder().write("another", encode_jpeg(gradient_image(40, 30))), pictures.path(8));
  REQUIRE(loader.next(batch));  // may have been read before
  REQUIRE(loader.next(batch));
  CHECK(batch.samples == std::vector<std::int64_t>{0, 2, 2, 4, 4, 6, 6, 8, 8, 9});
  REQUIRE(loader.next(batch));
  CHECK_FALSE(loader.next(batch));
  CHECK(loader.broken().count == 4);
  REQUIRE(reported.size() == 4);  // each once
  std::map<std::int64_t, std::string> reasons;
  for (const BrokenImage& image : reported) {
    CHECK(image.name == dataset->name(image.index));
    reasons[image.index] = image.reason;
  }
  CHECK(contains(reasons[1], "No such file"));
  CHECK(contains(reasons[3], "broken PNG") != contains(reasons[3], "truncated PNG"));
  CHECK(contains(reasons[5], "not a regular file"));
  // It was nothing for a moment.
  CHECK((reasons[7].find("it is a folder") != std::string::npos || contains(reasons[7], "No such file")));
}

TEST_CASE("A run stops when more than the allowed share of its pictures are broken") {
  const Pictures pictures;
  for (const int i : {2, 4, 6}) pictures.folder().write(Pictures::file(i), "no picture");
  const auto dataset = open_dataset(pictures.folder().path());
  const auto read_all = [&](double share) {
    Loader loader(*dataset, {.size = 10, .batch = 2, .shuffle = false}, center_crop_views(12, 8),
                  {.threads = 2, .end_epoch = 2, .max_broken_share = share});
    Batch batch;
    int batches = 0;
    while (loader.next(batch)) ++batches;
    return batches;
  };
  CHECK(read_all(1) == 10);
  CHECK(read_all(0.3) == 10);  // exactly that share
  CHECK_THROWS_AS(read_all(0.2), TooManyBroken);
  const std::string message = error_of([&] { read_all(0.2); });
  CHECK(contains(message, "[loader] too many broken pictures; got 3 of 10, expected at most 20 %"));
  CHECK(contains(message, "not a picture"));  // the reason of the first
  CHECK(contains(error_of([&] { read_all(0); }), "of 10, expected at most 0 %"));
  CHECK(contains(error_of([&] { read_all(1.5); }), "max_broken_share must be from 0 to 1"));
  CHECK(contains(error_of([&] { read_all(std::numeric_limits<double>::quiet_NaN()); }), "max_broken_share must be"));
}

TEST_CASE("Broken pictures are listed once each, over the parts of a run") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "broken_images.jsonl";
  folder.write("broken_images.jsonl", "of an older run\n");
  {
    BrokenImageList list(path, false);
    CHECK_FALSE(fs::exists(path));
    list.add({3, "b\xff\n.jpg", "[decode] b\xff\n.jpg: truncated"});
    list.add({4, "c.jpg", "gone"});
    list.add({3, "b\xff\n.jpg", "again"});
  }
  REQUIRE(lines_of(path).size() == 2);
  const nlohmann::json first = nlohmann::json::parse(lines_of(path)[0]);
  CHECK(first.at("picture") == 3);
  CHECK(first.at("name") == "b\\xff\\x0a.jpg");
  CHECK(first.at("reason") == "[decode] b\\xff\\x0a.jpg: truncated");
  std::ofstream(path, std::ios::app) << R"({"picture": 5, "na)";  // a crash
  {
    BrokenImageList list(path, true);
    list.add({4, "c.jpg", "gone"});
    list.add({5, "d.jpg", "gone"});
  }
  REQUIRE(lines_of(path).size() == 3);
  CHECK(nlohmann::json::parse(lines_of(path)[2]).at("name") == "d.jpg");
  // Where it cannot be written, what goes on does.
  BrokenImageList nowhere(folder.path() / "missing" / "list", false);
  nowhere.add({1, "a", "b"});
}

TEST_CASE("Names need not be UTF-8, and may hold any byte but two") {
  const TemporaryFolder folder;
  const std::vector<std::string> names{"M\xfcller.png", "line\nbreak.png",      "tab\t.png", "\x1b[31m.png", "-rf.png",
                                       " .png",         "\xf0\x9f\x98\x80.png", "..png"};
  for (std::size_t i = 0; i < names.size(); ++i)
    folder.write("cl\xe4ss\n/" + names[i], dot(static_cast<std::uint8_t>(i)));
  const auto dataset = open_dataset(folder.path());
  REQUIRE(dataset->size() == static_cast<std::int64_t>(names.size()) - 1);  // "..png" is hidden
  CHECK(dataset->class_names() == std::vector<std::string>{"cl\xe4ss\n"});
  Image image;
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    dataset->decode(i, image);
    CHECK(fs::path(dataset->name(i)).filename() == names.at(image.rgb[0]));
    CHECK(is_utf8(printable(dataset->name(i))));
  }
}

TEST_CASE("Lists may have a byte order mark, line ends of Windows and names of any encoding; UTF-16 is named") {
  const TemporaryFolder folder;
  folder.write("a.png", dot(1));
  folder.write("M\xfcller.png", dot(2));
  const auto dataset = open_dataset(folder.write("list.txt",
                                                 "\xef\xbb\xbf"
                                                 "a.png\tone\r\nM\xfcller.png\ttwo\r\n"));
  CHECK(dataset->size() == 2);
  CHECK(dataset->class_names() == std::vector<std::string>{"one", "two"});
  Image image;
  dataset->decode(1, image);
  CHECK(image.rgb[0] == 2);
  const std::string wide(
      "\xff\xfe"
      "a\0.\0p\0n\0g\0\n\0",
      14);
  CHECK(contains(error_of([&] { open_dataset(folder.write("wide.txt", wide)); }), "UTF-16"));
  CHECK(open_dataset(folder.write("large.txt", "a.png\t1048576\n"))->class_names().size() == 1);  // a name, no number
}

TEST_CASE("Pipes, devices, sockets and broken links among pictures are never opened") {
  const TemporaryFolder folder;
  folder.write("class/a.png", dot(1));
  REQUIRE(mkfifo((folder.path() / "class" / "pipe.png").c_str(), 0600) == 0);
  REQUIRE(mkfifo((folder.path() / "data_batch_1.bin").c_str(), 0600) == 0);
  REQUIRE(mkfifo((folder.path() / "train-images-idx3-ubyte").c_str(), 0600) == 0);
  REQUIRE(mkfifo((folder.path() / "wnids.txt").c_str(), 0600) == 0);
  fs::create_symlink("/dev/zero", folder.path() / "class" / "endless.png");
  fs::create_symlink("loop.png", folder.path() / "class" / "loop.png");
  const auto dataset = open_dataset(folder.path());
  CHECK(dataset->size() == 1);
  CHECK(contains(dataset->summary(), "6 other files skipped"));
  CHECK(contains(error_of([&] { open_dataset(folder.path() / "class" / "pipe.png"); }), "neither a folder nor a file"));
}

TEST_CASE("Folders that cannot be read are left out and named") {
  const TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::all);
  folder.write("class/a.png", dot(1));
  folder.write("secret/b.png", dot(2));
  fs::permissions(folder.path() / "secret", fs::perms::none);
  // Root may read everything.
  const bool root = geteuid() == 0;
  if (root) REQUIRE(seteuid(65534) == 0);
  std::string summary, refused;
  try {
    summary = open_dataset(folder.path())->summary();
  } catch (const Error& error) {
    summary = error.what();
  }
  refused = error_of([&] { open_dataset(folder.path() / "secret"); });
  if (root) REQUIRE(seteuid(0) == 0);
  fs::permissions(folder.path() / "secret", fs::perms::owner_all);
  CHECK(contains(summary, "1 pictures in 2 class folders; 1 folders left out, such as secret: Permission denied"));
  CHECK(contains(refused, "Permission denied"));
}
