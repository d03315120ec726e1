#include "data/dataset.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <zlib.h>

using namespace dino;
using namespace dino::test;

namespace {

std::string open_error(const std::filesystem::path& path, const std::string& split = "train") {
  return error_of([&] { open_dataset(path, {.split = split}); });
}

std::vector<int> decoded(const Dataset& dataset, std::int64_t index) {
  Image image;
  dataset.decode(index, image);
  return {image.rgb.begin(), image.rgb.end()};
}

std::vector<int> box_of(const Dataset& dataset, std::int64_t index) {
  const Box box = dataset.box(index).value();
  return {box.left, box.top, box.right, box.bottom};
}

/// A CIFAR-10 record whose planes count up from the label.
std::string record(int label) {
  std::string bytes(1, static_cast<char>(label));
  for (int i = 0; i < 3072; ++i) bytes += static_cast<char>((label + i / 1024 * 50 + i % 1024) & 127);
  return bytes;
}

const std::string kImages("\0\0\x08\x03\0\0\0\2\0\0\0\1\0\0\0\3abcdef", 22);
const std::string kLabels("\0\0\x08\x01\0\0\0\2\7\2", 10);

/// gzip with one stored block and a file name.
std::string gzip(const std::string& content) {
  const auto size = static_cast<unsigned>(content.size());
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(content.data()), size);
  const auto u16 = [](unsigned value) {
    return std::string{static_cast<char>(value & 255), static_cast<char>(value >> 8 & 255)};
  };
  return std::string("\x1f\x8b\x08\x08\0\0\0\0\0\3name\0\1", 16) + u16(size) + u16(~size) + content +
         u16(static_cast<unsigned>(sum)) + u16(static_cast<unsigned>(sum >> 16)) + u16(size) + u16(0);
}

}  // namespace

TEST_CASE("Tiny ImageNet in its published layout") {
  const TemporaryFolder folder;
  const auto jpeg = encode_jpeg(gradient_image(64, 64), {.components = 1});
  folder.write("wnids.txt", "n02\nn01\n");
  folder.write("words.txt", "n01\tgoldfish\n");
  folder.write("train/n01/images/n01_0.JPEG", jpeg);
  folder.write("train/n01/images/n01_1.JPEG", jpeg);
  folder.write("train/n01/n01_boxes.txt", "n01_0.JPEG\t0\t10\t63\t58\nn01_1.JPEG\t1\t2\t3\t4\n");
  folder.write("train/n02/images/n02_0.JPEG", jpeg);
  folder.write("train/n02/n02_boxes.txt", "n02_0.JPEG\t5\t6\t7\t8\n");
  folder.write("val/images/val_0.JPEG", jpeg);
  folder.write("val/images/val_1.JPEG", jpeg);
  folder.write("val/val_annotations.txt", "val_1.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t3\t4\t5\t6\n");
  folder.write("test/images/test_0.JPEG", jpeg);
  const auto train = open_dataset(folder.path());
  REQUIRE(train->size() == 3);
  CHECK(train->class_names() == std::vector<std::string>{"n01", "n02"});
  CHECK((train->label(0) == 0 && train->label(1) == 0 && train->label(2) == 1));
  CHECK(box_of(*train, 0) == std::vector<int>{0, 10, 64, 59});
  CHECK(box_of(*train, 2) == std::vector<int>{5, 6, 8, 9});
  CHECK(decoded(*train, 2).size() == 64 * 64 * 3);
  const auto val = open_dataset(folder.path(), {.split = "val"});
  REQUIRE(val->size() == 2);
  CHECK((val->label(0) == 1 && val->label(1) == 0));
  CHECK(contains(val->name(0), "val/images/val_1.JPEG"));
  CHECK(box_of(*val, 1) == std::vector<int>{3, 4, 6, 7});
  CHECK(decoded(*val, 0).size() == 64 * 64 * 3);
  const auto test = open_dataset(folder.path(), {.split = "test"});
  CHECK((test->size() == 1 && test->label(0) == -1 && !test->box(0).has_value()));

  folder.write("val/val_annotations.txt", "val_1.JPEG\tn03\t0\t0\t9\t9\n");
  CHECK(contains(open_error(folder.path(), "val"), "class n03 is not in wnids.txt"));
  folder.write("val/val_annotations.txt", "val_1.JPEG\tn01\t0\t0\t9\tx\n");
  CHECK(contains(open_error(folder.path(), "val"), "line 1: got \"x\""));
  // Rearranged into class folders.
  std::filesystem::remove_all(folder.path() / "val");
  folder.write("val/n02/a.JPEG", jpeg);
  const auto rearranged = open_dataset(folder.path(), {.split = "val"});
  CHECK((rearranged->size() == 1 && rearranged->label(0) == 1));
}

TEST_CASE("CIFAR-10 as binary batches") {
  const TemporaryFolder folder;
  const std::string where = "cifar-10-batches-bin/";
  folder.write(where + "data_batch_2.bin", record(9));
  folder.write(where + "data_batch_1.bin", record(3) + record(0));
  folder.write(where + "test_batch.bin", record(5));
  folder.write(where + "readme.html", "<html>");
  for (const auto& path : {folder.path(), folder.path() / "cifar-10-batches-bin"}) {
    const auto train = open_dataset(path);
    REQUIRE(train->size() == 3);
    CHECK((train->label(0) == 3 && train->label(1) == 0 && train->label(2) == 9));
    CHECK(train->class_names().at(9) == "truck");
    const auto values = decoded(*train, 0);
    CHECK(std::vector<int>(values.begin(), values.begin() + 6) == std::vector<int>{3, 53, 103, 4, 54, 104});
    CHECK(values.size() == 3072);
    CHECK(open_dataset(path, {.split = "val"})->label(0) == 5);
  }
  folder.write(where + "test_batch.bin", record(5).substr(1));
  CHECK(contains(open_error(folder.path(), "test"), "not a whole CIFAR-10 batch; got 3072 bytes"));
  folder.write(where + "test_batch.bin", record(10));
  CHECK(contains(open_error(folder.path(), "test"), "got label 10"));
  std::filesystem::remove(folder.path() / where / "test_batch.bin");
  CHECK(contains(open_error(folder.path(), "test"), "expected test_batch.bin"));
}

TEST_CASE("IDX files, plain and compressed, with and without labels") {
  for (const bool compressed : {false, true}) {
    const TemporaryFolder folder;
    const std::string ending = compressed ? ".gz" : "";
    const auto pack = [&](const std::string& content) { return compressed ? gzip(content) : content; };
    const auto images = folder.write("train-images-idx3-ubyte" + ending, pack(kImages));
    CHECK(open_dataset(folder.path())->label(1) == -1);
    folder.write("train-labels-idx1-ubyte" + ending, pack(kLabels));
    folder.write("t10k-images.idx3-ubyte" + ending, pack(kImages));
    for (const auto& path : {folder.path(), images}) {
      const auto dataset = open_dataset(path);
      REQUIRE(dataset->size() == 2);
      CHECK((dataset->label(0) == 7 && dataset->label(1) == 2 && dataset->class_names().size() == 8));
      CHECK(decoded(*dataset, 1) == std::vector<int>{'d', 'd', 'd', 'e', 'e', 'e', 'f', 'f', 'f'});
    }
    CHECK(open_dataset(folder.path(), {.split = "test"})->size() == 2);

    const std::string whole = pack(kImages);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      folder.write("train-images-idx3-ubyte" + ending, whole.substr(0, size));
      REQUIRE(contains(open_error(folder.path()), "[data] "));
    }
    if (compressed) {
      // A pixel that is another one than its checksum is of.
      std::string damaged = whole;
      damaged[damaged.find("abcdef")] ^= 1;
      folder.write("train-images-idx3-ubyte.gz", damaged);
      CHECK(contains(open_error(folder.path()), "damaged"));
    }
    folder.write("train-images-idx3-ubyte" + ending,
                 pack(std::string("\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16) + "x"));
    CHECK(contains(open_error(folder.path()), "disagree"));
    folder.write("train-images-idx3-ubyte" + ending, whole);
    folder.write("train-labels-idx1-ubyte" + ending, pack(std::string("\0\0\x08\x01\0\0\0\1\7", 9)));
    CHECK(contains(open_error(folder.path()), "1 labels for 2 pictures"));
  }
}
