#include "engine/files.h"

#include "kernels/common/error.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

using namespace dino;
using namespace dino::test;

namespace {

std::ptrdiff_t entries(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

/// While it lives, no file grows beyond a size.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("a file appears under its name when it is whole, and not before") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "result.txt";
  AtomicFile file(path);
  file.write("one ");
  const std::string two("tw\0o", 4);
  file.write(std::as_bytes(std::span(two.data(), two.size())));
  CHECK_FALSE(std::filesystem::exists(path));
  file.commit();
  CHECK(read_text_file(path) == "one " + two);
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a file that is not finished leaves nothing behind, and the old one in place") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "result.txt";
  std::ofstream(path) << "old";
  {
    AtomicFile file(path);
    file.write("half of the new");
  }
  CHECK(read_text_file(path) == "old");
  CHECK(entries(folder.path()) == 1);
  AtomicFile file(path);
  file.write("new");
  file.commit();
  CHECK(read_text_file(path) == "new");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("files that cannot be written or read are errors that name them") {
  const TemporaryFolder folder;
  const auto missing = folder.path() / "no such folder" / "file";
  CHECK(contains(error_of([&] { const AtomicFile file(missing); }), "no such folder"));
  CHECK(contains(error_of([&] { read_text_file(missing); }), "no such folder"));
  // A folder in the place of the file is refused at once; where it comes later the rename fails, and the part goes
  // away.
  const auto taken = folder.path() / "taken";
  AtomicFile file(taken);
  file.write("x");
  std::filesystem::create_directories(taken / "inside");
  CHECK(contains(error_of([&] { const AtomicFile second(taken); }), "a folder"));
  CHECK_THROWS_AS(file.commit(), Error);
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a pipe or a device is not replaced by a file") {
  const TemporaryFolder folder;
  const auto pipe = folder.path() / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  std::filesystem::create_symlink(pipe, folder.path() / "link");
  CHECK(contains(error_of([&] { const AtomicFile file(pipe); }), "not a regular file"));
  CHECK(contains(error_of([&] { const AtomicFile file(folder.path() / "link"); }), "not a regular file"));
  CHECK(std::filesystem::is_fifo(pipe));
  CHECK(entries(folder.path()) == 2);
}

TEST_CASE("what stands under the name of a part is not followed and not written to") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "result", part = folder.path() / fmt::format("result.part{}", getpid());
  const auto elsewhere = folder.path() / "elsewhere", missing = folder.path() / "missing";
  std::ofstream(elsewhere) << "of somebody else";
  const auto leave_link = [&](const std::filesystem::path& target) { std::filesystem::create_symlink(target, part); };
  const auto leave_second_name = [&] { std::filesystem::create_hard_link(elsewhere, part); };
  const auto leave_file = [&] { std::ofstream(part) << "left by a process with this number, and longer"; };
  const std::function<void()> traps[] = {[&] { leave_link(elsewhere); }, [&] { leave_link(missing); },
                                         leave_second_name, leave_file};
  for (const auto& leave_trap : traps) {
    leave_trap();
    AtomicFile file(path);
    file.write("new");
    file.commit();
    CHECK(read_text_file(path) == "new");
    CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(path)));
    CHECK(read_text_file(elsewhere) == "of somebody else");
    CHECK_FALSE(std::filesystem::exists(missing));
    CHECK(entries(folder.path()) == 2);
  }
  // Not even a folder there is touched.
  std::filesystem::create_directory(part);
  CHECK(contains(error_of([&] { const AtomicFile file(path); }), "cannot write " + path.string()));
  CHECK(std::filesystem::is_directory(part));
  CHECK(read_text_file(path) == "new");
}

TEST_CASE("a full disk is an error, not a short file") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "result";
  const SizeLimit limit(4);
  AtomicFile file(path);
  file.write("half");
  CHECK_THROWS_AS(file.write("x"), WriteError);
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("an empty file reads as an empty text") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "empty").flush();
  CHECK(read_text_file(folder.path() / "empty").empty());
  CHECK(contains(error_of([&] { read_text_file(folder.path()); }), "folder"));
}

TEST_CASE("What is no file is told with the true reason") {
  const TemporaryFolder folder;
  const auto file = folder.write("file", "text"), pipe = folder.path() / "pipe", loop = folder.path() / "loop";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  std::filesystem::create_symlink("loop", loop);
  std::filesystem::create_symlink("file", folder.path() / "link");
  std::filesystem::create_symlink("nowhere", folder.path() / "broken link");
  CHECK(why_no_file(file).empty());
  CHECK(why_no_file(folder.path() / "link").empty());
  CHECK(why_no_file(folder.path() / "broken link") == "No such file or directory");
  CHECK(why_no_file(folder.path() / "missing") == "No such file or directory");
  CHECK(why_no_file(file / "below") == "Not a directory");
  CHECK(why_no_file(folder.path()) == "it is a folder");
  CHECK(why_no_file(pipe) == "it is not a regular file");
  CHECK(why_no_file("/dev/null") == "it is not a regular file");
  CHECK(why_no_file(loop) == "Too many levels of symbolic links");

  CHECK((file_exists(file) && file_exists(folder.path()) && file_exists(pipe)));
  CHECK_FALSE((file_exists(folder.path() / "missing") || file_exists(folder.path() / "broken link") ||
               file_exists(file / "below")));
  CHECK(error_of([&] { file_exists(loop / "below"); }) ==
        "[file] cannot read " + (loop / "below").string() + ": Too many levels of symbolic links");
}

TEST_CASE("Lines come one by one, the first megabyte of those that are longer") {
  const TemporaryFolder folder;
  const std::string longest(LineReader::kMostBytes, 'x'), longer = longest + "y", nuls("a\0b", 3);
  const auto file = folder.write("file", "one\n\n" + longest + "\n" + longer + "\n" + nuls + "\n" + longer + longer);
  LineReader lines(file);
  struct Expected {
    std::string line;
    bool cut, end;
  };
  std::uintmax_t begin = 0;
  for (const Expected& expected :
       {Expected{"one", false, true}, Expected{"", false, true}, Expected{longest, false, true},
        Expected{longest, true, true}, Expected{nuls, false, true}, Expected{longest, true, false}}) {
    std::string line;
    REQUIRE(lines.next(line));
    CHECK(line == expected.line);
    CHECK(lines.is_cut() == expected.cut);
    CHECK(lines.has_end() == expected.end);
    std::string again;
    REQUIRE(LineReader(file, begin).next(again));
    CHECK(again == line);
    begin = lines.position();
  }
  std::string line;
  CHECK_FALSE(lines.next(line));
  CHECK_FALSE(lines.next(line));
  CHECK(begin == std::filesystem::file_size(file));

  LineReader torn(folder.write("torn", "one\ntwo"));
  REQUIRE(torn.next(line));
  REQUIRE(torn.next(line));
  CHECK((line == "two" && !torn.is_cut() && !torn.has_end()));
  LineReader exact(folder.write("exact", longest));
  REQUIRE(exact.next(line));
  CHECK((line == longest && !exact.is_cut() && !exact.has_end()));
  CHECK_FALSE(LineReader(folder.write("empty", "")).next(line));
  CHECK(contains(error_of([&] { LineReader(folder.path()); }), "it is a folder"));
  CHECK(contains(error_of([&] { LineReader(folder.path() / "missing"); }), "No such file"));
}

TEST_CASE("What has no end, and what fails half-way, is an error and not a short text") {
  const TemporaryFolder folder;
  CHECK(contains(error_of([&] { read_text_file("/dev/zero", 1000); }), "/dev/zero is too large; got more than 1000"));
  CHECK(read_text_file(folder.write("file", "1234"), 4) == "1234");
  CHECK(contains(error_of([&] { read_text_file(folder.write("file", "12345"), 4); }), "is too large"));
  // Its first page is nobody's.
  CHECK(error_of([&] { read_text_file("/proc/self/mem"); }) == "[file] cannot read /proc/self/mem: Input/output error");
  std::string line;
  CHECK(contains(error_of([&] { LineReader("/proc/self/mem").next(line); }), ": Input/output error"));
}

TEST_CASE("An output folder is made and tried") {
  const TemporaryFolder folder;
  make_output_folder(folder.path() / "a" / "b");
  make_output_folder(folder.path() / "a" / "b");
  CHECK(entries(folder.path() / "a" / "b") == 0);
  const auto file = folder.write("file", "text");
  CHECK(contains(error_of([&] { make_output_folder(file); }), file.string()));
  CHECK(contains(error_of([&] { make_output_folder(file / "below"); }), (file / "below").string()));
}

TEST_CASE("Parts of processes that are gone are removed, and nothing else") {
  const TemporaryFolder folder;
  folder.write("last.part999999999", "of a process that cannot be");
  folder.write("last.part" + std::to_string(getpid()), "of this one");
  for (const char* name : {"last.part", "last.part1x", "last.partner", "last.part-3", "part7", "last.part0"})
    folder.write(name, "something else");
  remove_abandoned_parts(folder.path());
  CHECK(entries(folder.path()) == 7);
  CHECK_FALSE(std::filesystem::exists(folder.path() / "last.part999999999"));
  remove_abandoned_parts(folder.path() / "missing");
}

TEST_CASE("The file that stood there before stays under another name") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "last";
  const auto former = folder.path() / "previous";
  const auto put = [&](std::string_view text) {
    AtomicFile file(path);
    file.write(text);
    file.commit(former);
  };
  put("one");
  CHECK(entries(folder.path()) == 1);
  put("two");
  CHECK((read_text_file(path) == "two" && read_text_file(former) == "one"));
  put("three");
  CHECK((read_text_file(path) == "three" && read_text_file(former) == "two"));
  CHECK(entries(folder.path()) == 2);
  // As a kill leaves them that came between the two names.
  std::filesystem::remove(former);
  std::filesystem::create_hard_link(path, former);
  put("four");
  CHECK((read_text_file(path) == "four" && read_text_file(former) == "three"));
  std::filesystem::remove(path);
  put("five");
  CHECK((read_text_file(path) == "five" && read_text_file(former) == "three"));
  CHECK(entries(folder.path()) == 2);
}

TEST_CASE("What stands in a file that is being written can be written over") {
  const TemporaryFolder folder;
  AtomicFile file(folder.path() / "file");
  file.write("0123456789");
  file.overwrite(3, std::as_bytes(std::span("abc", 3)));
  file.write("!");
  file.commit();
  CHECK(read_text_file(folder.path() / "file") == "012abc6789!");
}

TEST_CASE("A failed write says why, and leaves nothing behind") {
  const TemporaryFolder folder;
  const SizeLimit limit(10);
  try {
    AtomicFile file(folder.path() / "file");
    file.write("12345678901");
    FAIL("the limit was passed over");
  } catch (const WriteError& error) {
    CHECK(error.reason() == EFBIG);
    CHECK(contains(error.what(), "File too large"));
  }
  CHECK(entries(folder.path()) == 0);
}

TEST_CASE("An appended file goes on at its end, and catches up with what the disk did not take") {
  const TemporaryFolder folder;
  const auto path = folder.write("log", "zero\n");
  AppendedFile file(path);
  CHECK(file.append("one\n"));
  CHECK(read_text_file(path) == "zero\none\n");
  CHECK(file.sync());
  {
    const SizeLimit limit(12);
    CHECK_FALSE(file.append("two two\n"));
    CHECK(contains(file.trouble(), path.string()));
    CHECK_FALSE(file.append("three\n"));
    CHECK_FALSE(file.sync());
    CHECK(read_text_file(path) == "zero\none\ntwo");
  }
  CHECK(file.append("four\n"));
  CHECK(file.trouble().empty());
  CHECK(file.sync());
  CHECK(read_text_file(path) == "zero\none\ntwo two\nthree\nfour\n");
  CHECK_THROWS_AS(AppendedFile(folder.path() / "missing" / "log"), WriteError);
}
