// An archive of a data set: .zip, .tar, .tar.gz. Whatever it holds, it is unpacked into its folder or not at all.
#include "data/unpack.h"
#include "tests/fuzz/target.h"

namespace fs = std::filesystem;

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const fs::path archive = folder().write("archive", input);
  const fs::path inside = folder().path() / "inside" / "deeper";
  fs::create_directories(inside.parent_path());
  struct Check {
    const fs::path& inside;
    ~Check() {
      for (const auto& entry : fs::recursive_directory_iterator(folder().path())) {
        const bool below = entry.path().native().starts_with(inside.native());
        expect(below || entry.path() == inside.parent_path() || entry.path().filename() == "archive",
               "an archive stays in its folder");
        expect(!entry.is_symlink() && (entry.is_regular_file() || entry.is_directory()), "only files and folders");
      }
      fs::remove_all(inside);
    }
  } const check{inside};
  unpack_archive(archive, inside, {}, {.bytes = 4 << 20, .entries = 200});
}
