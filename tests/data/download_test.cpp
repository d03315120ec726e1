#include "data/download.h"
#include "data/published.h"
#include "data/unpack.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

using namespace dino;
using namespace dino::test;

namespace fs = std::filesystem;

namespace {

struct Entry {
  std::string name;
  std::string content = {};
  unsigned type = AE_IFREG;
  std::string link = {};
  bool hard = false;
};

/// An archive of `entries`; a zip where the name says so, else a .tar.gz.
fs::path pack(const fs::path& path, const std::vector<Entry>& entries) {
  archive* a = archive_write_new();
  if (path.extension() == ".zip") {
    archive_write_set_format_zip(a);
  } else {
    archive_write_set_format_pax_restricted(a);
    archive_write_add_filter_gzip(a);
  }
  REQUIRE(archive_write_open_filename(a, path.c_str()) == ARCHIVE_OK);
  for (const Entry& each : entries) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, each.name.c_str());
    archive_entry_set_filetype(entry, each.type);
    archive_entry_set_perm(entry, 0755);
    archive_entry_set_size(entry, static_cast<la_int64_t>(each.content.size()));
    if (each.hard) archive_entry_set_hardlink(entry, each.link.c_str());
    if (!each.hard && !each.link.empty()) archive_entry_set_symlink(entry, each.link.c_str());
    REQUIRE(archive_write_header(a, entry) == ARCHIVE_OK);
    if (!each.content.empty()) {
      REQUIRE(archive_write_data(a, each.content.data(), each.content.size()) ==
              static_cast<la_ssize_t>(each.content.size()));
    }
    archive_entry_free(entry);
  }
  REQUIRE(archive_write_close(a) == ARCHIVE_OK);
  archive_write_free(a);
  return path;
}

/// A batch of CIFAR-10 whose pictures look like noise, so that no archive makes it small.
std::string batch(int pictures) {
  std::string bytes;
  std::uint32_t state = 1;
  for (int i = 0; i < pictures; ++i) {
    bytes += static_cast<char>(i % 10);
    for (int k = 0; k < 3072; ++k) bytes += static_cast<char>((state = state * 1664525U + 1013904223U) >> 24);
  }
  return bytes;
}

const std::vector<Entry> kCifar = {{"cifar-10-batches-bin/", "", AE_IFDIR},
                                   {"cifar-10-batches-bin/data_batch_1.bin", batch(40)},
                                   {"cifar-10-batches-bin/data_batch_2.bin", batch(20)},
                                   {"cifar-10-batches-bin/test_batch.bin", batch(10)}};

std::string content_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// Sets PATH while it lives.
class SearchPath {
 public:
  explicit SearchPath(const fs::path& path) : before_(std::getenv("PATH")) { setenv("PATH", path.c_str(), 1); }
  ~SearchPath() { setenv("PATH", before_.c_str(), 1); }
  SearchPath(const SearchPath&) = delete;
  SearchPath& operator=(const SearchPath&) = delete;

 private:
  std::string before_;
};

/// A data set published in a folder of its own, and a place to fetch it to.
struct Publication {
  TemporaryFolder folder;
  fs::path archive;
  PublishedDataset dataset;
  FetchOptions options;

  explicit Publication(const std::string& name = "cifar.tar.gz", const std::vector<Entry>& entries = kCifar) {
    archive = pack(folder.path() / name, entries);
    dataset.name = "small";
    dataset.url = "file://" + archive.string();
    dataset.md5 = md5_of_file(archive);
    dataset.bytes = static_cast<std::int64_t>(fs::file_size(archive));
    dataset.folder = "cifar-10-batches-bin";
    options.output = folder.path() / "out";
  }
  fs::path out(const std::string& name) const { return options.output / name; }
  FetchedDataset fetch() const { return fetch_dataset(dataset, options); }
  std::string error() const {
    return error_of([&] { fetch(); });
  }
};

fs::path executable(const TemporaryFolder& folder, const std::string& name, const std::string& script) {
  const fs::path path = folder.write("bin/" + name, "#!/bin/sh\n" + script);
  fs::permissions(path, fs::perms::owner_all);
  return path.parent_path();
}

}  // namespace

TEST_CASE("MD5 sums of files") {
  const TemporaryFolder folder;
  CHECK(md5_of_file(folder.write("empty", "")) == "d41d8cd98f00b204e9800998ecf8427e");
  CHECK(md5_of_file(folder.write("abc", "abc")) == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(md5_of_file(folder.write("long", std::string((1 << 20) + 3, 'x'))) !=
        md5_of_file(folder.write("long2", std::string((1 << 20) + 2, 'x') + 'y')));
  CHECK(contains(error_of([&] { md5_of_file(folder.path() / "none"); }), "No such file"));
}

TEST_CASE("The published data sets are described in full") {
  std::set<std::string> names;
  for (const PublishedDataset& set : published_datasets()) {
    CAPTURE(set.name);
    names.insert(set.name);
    CHECK(set.md5.size() == 32);
    CHECK((set.bytes > 100'000'000 && set.pictures > 0 && set.val_pictures > 0));
    CHECK((is_url(set.url) && !set.folder.empty() && !contains(set.folder, "/")));
    CHECK(fs::is_regular_file(config_dir().parent_path() / set.config));
  }
  CHECK(names == std::set<std::string>{"cifar10", "tiny-imagenet"});
}

TEST_CASE("A data set is fetched, checked and unpacked") {
  for (const std::string name : {"cifar.tar.gz", "cifar.zip"}) {
    CAPTURE(name);
    const Publication publication(name);
    std::vector<std::string> steps;
    std::int64_t last = 0;
    bool in_order = true;
    const FetchedDataset found = fetch_dataset(publication.dataset, publication.options,
                                               [&](std::string_view step, std::int64_t done, std::int64_t total) {
                                                 if (steps.empty() || steps.back() != step) {
                                                   steps.emplace_back(step);
                                                   last = 0;
                                                 }
                                                 in_order &= last <= done && done <= total;
                                                 last = done;
                                               });
    CHECK(steps == std::vector<std::string>{"downloading", "checking", "unpacking"});
    CHECK(in_order);
    CHECK(last == publication.dataset.bytes);
    CHECK(found.folder == publication.out("cifar-10-batches-bin"));
    CHECK_FALSE(found.was_there);
    CHECK((found.pictures == 60 && found.val_pictures == 10 && found.classes == 10));
    CHECK(content_of(found.folder / "data_batch_2.bin") == batch(20));
    CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar-10-batches-bin"});
    CHECK(fs::exists(publication.archive));
  }
}

TEST_CASE("A kept archive is used the next time") {
  Publication publication;
  publication.options.keep_archive = true;
  publication.fetch();
  CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar-10-batches-bin", "cifar.tar.gz"});
  fs::remove_all(publication.out("cifar-10-batches-bin"));
  fs::remove(publication.archive);
  publication.options.keep_archive = false;
  CHECK(publication.fetch().pictures == 60);
  CHECK(fs::exists(publication.out("cifar.tar.gz")));  // this call did not download it
}

TEST_CASE("A local archive is read where it lies and stays") {
  Publication publication;
  publication.dataset.url = "http://nowhere.invalid/cifar.tar.gz";
  publication.options.from = publication.archive.string();
  CHECK(publication.fetch().pictures == 60);
  CHECK(fs::exists(publication.archive));
  CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar-10-batches-bin"});

  publication.options.output = publication.folder.path() / "other";
  publication.options.from = (publication.folder.path() / "none.zip").string();
  CHECK(contains(publication.error(), "none.zip: No such file or directory"));
  publication.options.from = publication.folder.path().string();
  CHECK(contains(publication.error(), ": it is a folder; expected an archive"));
}

TEST_CASE("A wrong checksum is never unpacked") {
  Publication publication;
  const std::string right = publication.dataset.md5;
  publication.dataset.md5 = "00000000000000000000000000000000";
  const std::string error = publication.error();
  CHECK(contains(error, right));
  CHECK(contains(error, publication.dataset.md5));
  CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar.tar.gz.bad"});

  publication.options.from = publication.archive.string();
  CHECK(contains(publication.error(), "wrong checksum"));
  CHECK(fs::exists(publication.archive));
  publication.dataset.md5 = "short";
  CHECK(contains(publication.error(), "32 hexadecimal digits"));
}

TEST_CASE("A truncated archive leaves nothing, even with its own checksum") {
  for (const std::string name : {"cifar.tar.gz", "cifar.zip"}) {
    CAPTURE(name);
    Publication publication(name);
    fs::resize_file(publication.archive, fs::file_size(publication.archive) / 2);
    publication.dataset.md5 = md5_of_file(publication.archive);
    publication.options.from = publication.archive.string();
    CHECK(contains(publication.error(), "[unpack] cannot unpack"));
    CHECK(names_in(publication.options.output).empty());
  }
}

TEST_CASE("What is no archive is refused") {
  const TemporaryFolder folder;
  for (const std::string content : {"", "<html>Please log in</html>"}) {
    const fs::path file = folder.write("page.zip", content);
    CHECK(contains(error_of([&] { unpack_archive(file, folder.path() / "out"); }), "expected a .zip or .tar.gz"));
    CHECK_FALSE(fs::exists(folder.path() / "out"));
  }
}

TEST_CASE("An archive that is not there, and a folder that cannot be made, are refused with the system's reason") {
  const TemporaryFolder folder;
  const fs::path none = folder.path() / "none.zip", page = folder.write("page.zip", "");
  CHECK(contains(error_of([&] { unpack_archive(none, folder.path() / "out"); }), "Failed to open"));
  CHECK(contains(error_of([&] { unpack_archive(page, folder.path() / "no/out"); }), "No such file or directory"));
  CHECK(contains(error_of([&] { unpack_archive(page, folder.path()); }), "it exists"));
}

TEST_CASE("Archives that reach outside are refused") {
  const std::vector<std::pair<Entry, std::string>> cases = {
      {{"../evil", "x"}, "leads out of its folder"},
      {{"cifar-10-batches-bin/../../evil", "x"}, "leads out of its folder"},
      {{"cifar-10-batches-bin/..", "", AE_IFDIR}, "leads out of its folder"},
      {{"/evil", "x"}, "absolute name"},
      {{"evil", "", AE_IFLNK, "/etc"}, "a link"},
      {{"evil", "", AE_IFREG, "cifar-10-batches-bin/test_batch.bin", true}, "a link"},
      {{"evil", "", AE_IFIFO}, "a device or pipe"},
      {{"evil", "", AE_IFCHR}, "a device or pipe"},
      {{"cifar-10-batches-bin/test_batch.bin", "again"}, "File exists"},
      {{"cifar-10-batches-bin/test_batch.bin/below", "x"}, "cannot unpack"},
  };
  for (const std::string archive : {"cifar.tar.gz", "cifar.zip"}) {
    for (const auto& [entry, message] : cases) {
      if (archive == "cifar.zip" && (entry.hard || entry.type == AE_IFIFO || entry.type == AE_IFCHR)) continue;
      CAPTURE(archive, entry.name, entry.type);
      std::vector<Entry> entries = kCifar;
      entries.push_back(entry);
      const Publication publication(archive, entries);
      const std::set<std::string> before = names_in(publication.folder.path());
      const std::string error = publication.error();
      CAPTURE(error);
      CHECK(contains(error, message));
      CHECK(names_in(publication.options.output) == std::set<std::string>{archive + ".part"});
      std::set<std::string> after = names_in(publication.folder.path());
      after.erase("out");
      CHECK(after == before);
    }
  }
}

TEST_CASE("Archives that grow too large are refused") {
  const TemporaryFolder folder;
  const fs::path archive = pack(folder.path() / "bomb.zip", {{"a", std::string(1 << 20, '0')}, {"b", "1"}});
  const fs::path out = folder.path() / "out";
  unpack_archive(archive, out, {}, {.bytes = (1 << 20) + 1, .entries = 2});
  CHECK(fs::file_size(out / "a") == 1 << 20);
  CHECK(contains(error_of([&] { unpack_archive(archive, out); }), "it exists"));
  fs::remove_all(out);
  CHECK(contains(error_of([&] { unpack_archive(archive, out, {}, {.bytes = 1 << 20}); }), "unpacks to more than"));
  CHECK_FALSE(fs::exists(out));
  CHECK(contains(error_of([&] { unpack_archive(archive, out, {}, {.entries = 1}); }), "more than 1 files"));
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("A folder that exists is never touched") {
  Publication publication;
  publication.fetch();
  fs::remove(publication.archive);
  const FetchedDataset found = publication.fetch();
  CHECK(found.was_there);
  CHECK((found.pictures == 60 && found.val_pictures == 10 && found.classes == 10));

  publication.dataset.pictures = 61;
  CHECK(contains(publication.error(), "got 60 pictures in the train split, expected 61"));
  publication.dataset.pictures = 60;
  CHECK(publication.fetch().was_there);
  fs::remove(publication.out("cifar-10-batches-bin/test_batch.bin"));
  CHECK(contains(publication.error(), "remove or rename it"));
  CHECK(fs::exists(publication.out("cifar-10-batches-bin/data_batch_1.bin")));
}

TEST_CASE("A whole archive of something else does not become the data set") {
  Publication publication("cifar.tar.gz", {{"other/data_batch_1.bin", batch(2)}, {"other/test_batch.bin", batch(2)}});
  CHECK(contains(publication.error(), "does not hold small in a folder cifar-10-batches-bin"));
  CHECK_FALSE(fs::exists(publication.out("cifar-10-batches-bin")));
  Publication short_set;
  short_set.dataset.pictures = 50'000;
  CHECK(contains(short_set.error(), "got 60 pictures in the train split, expected 50000"));
  CHECK(names_in(short_set.options.output) == std::set<std::string>{"cifar.tar.gz.part"});
}

TEST_CASE("A partial download is continued") {
  const Publication publication;
  const std::string whole = content_of(publication.archive);
  publication.folder.write("out/cifar.tar.gz.part", std::string_view(whole).substr(0, whole.size() / 2));
  std::int64_t first = -1;
  fetch_dataset(publication.dataset, publication.options, [&](std::string_view, std::int64_t done, std::int64_t) {
    if (first < 0) first = done;
  });
  CHECK(first == static_cast<std::int64_t>(whole.size() / 2));
  CHECK(fs::exists(publication.out("cifar-10-batches-bin")));

  SECTION("its beginning is kept, so a wrong one shows in the checksum") {
    const Publication other;
    other.folder.write("out/cifar.tar.gz.part", std::string(10, 'x'));
    CHECK(contains(other.error(), "wrong checksum"));
    CHECK(content_of(other.out("cifar.tar.gz.bad")) == std::string(10, 'x') + whole.substr(10));
    CHECK(other.fetch().pictures == 60);
  }
  SECTION("one that is too long is started anew") {
    const Publication other;
    other.folder.write("out/cifar.tar.gz.part", whole + "more");
    CHECK(other.fetch().pictures == 60);
  }
}

TEST_CASE("A broken connection is continued, a missing server is an error") {
  // The last argument but two is the file that curl writes.
  const std::string file = "while [ \"$1\" != --output ]; do shift; done; part=$2\n";
  Publication publication;
  const std::string archive = publication.archive.string();
  publication.dataset.url = "http://nowhere.invalid/cifar.tar.gz";
  SECTION("continued") {
    const SearchPath path(executable(publication.folder, "curl",
                                     file + "PATH=/usr/bin:/bin\nif [ -s \"$part\" ]; then tail -c +1001 '" + archive +
                                         "' >>\"$part\"; else head -c 1000 '" + archive +
                                         "' >\"$part\"; echo broken >&2; exit 56; fi\n"));
    CHECK(publication.fetch().pictures == 60);
  }
  SECTION("no server") {
    const SearchPath path(executable(publication.folder, "curl",
                                     "echo 'curl: (6) Could not resolve host: nowhere.invalid' >&2\nexit 6\n"));
    const std::string error = publication.error();
    CHECK(contains(error, "Could not resolve host"));
    CHECK(contains(error, "pass --from FILE"));
    CHECK_FALSE(contains(error, "\n"));
  }
  SECTION("wget where there is no curl") {
    const SearchPath path(
        executable(publication.folder, "wget",
                   "while [ \"$1\" != --output-document ]; do shift; done\n/bin/cp '" + archive + "' \"$2\"\n"));
    CHECK(publication.fetch().pictures == 60);
  }
  SECTION("neither") {
    const SearchPath path(publication.folder.path());
    const std::string error = publication.error();
    CHECK(contains(error, "no curl or wget"));
    CHECK(contains(error, "pass --from FILE"));
  }
}

TEST_CASE("An interrupted unpack leaves no half data set") {
  struct Interruption {};
  const Publication publication;
  const auto interrupted = [&](const std::function<void()>& interrupt) {
    fetch_dataset(publication.dataset, publication.options, [&](std::string_view step, std::int64_t, std::int64_t) {
      if (step == "unpacking" && fs::exists(publication.out(".cifar-10-batches-bin.unpacking/cifar-10-batches-bin"))) {
        interrupt();
      }
    });
  };
  CHECK_THROWS_AS(interrupted([] { throw Interruption(); }), Interruption);
  CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar.tar.gz.part"});

  // Killed, with no chance to clean up: the next call does.
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    interrupted([] { raise(SIGKILL); });
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK(names_in(publication.options.output) ==
        std::set<std::string>{".cifar-10-batches-bin.unpacking", "cifar.tar.gz.part"});
  fs::remove(publication.archive);  // the download is complete already
  CHECK(publication.fetch().pictures == 60);
  CHECK(names_in(publication.options.output) == std::set<std::string>{"cifar-10-batches-bin"});
}

TEST_CASE("An interrupted download ends the tool and keeps what has come") {
  struct Interruption {};
  Publication publication;
  publication.dataset.url = "http://nowhere.invalid/cifar.tar.gz";
  const SearchPath path(executable(publication.folder, "curl",
                                   "while [ \"$1\" != --output ]; do shift; done\necho begun >\"$2\"\nexec /bin/sleep "
                                   "600\n"));
  CHECK_THROWS_AS(fetch_dataset(publication.dataset, publication.options,
                                [](std::string_view, std::int64_t done, std::int64_t) {
                                  if (done > 0) throw Interruption();
                                }),
                  Interruption);
  CHECK(waitpid(-1, nullptr, WNOHANG) == -1);  // no child is left
  CHECK(content_of(publication.out("cifar.tar.gz.part")) == "begun\n");
}

TEST_CASE("Two processes do not fetch into one folder") {
  const Publication publication;
  std::string inner;
  fetch_dataset(publication.dataset, publication.options, [&](std::string_view, std::int64_t, std::int64_t) {
    if (inner.empty()) inner = publication.error();
  });
  CHECK(contains(inner, "another data get is at work"));
}
