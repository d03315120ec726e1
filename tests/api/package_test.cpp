// Installs the build, moves it, builds examples/embed against it as a user would, and compares what the examples
// compute with what the installed program does.
#include "engine/files.h"
#include "evaluate/feature_file.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

using namespace dino;
using namespace dino::test;

namespace fs = std::filesystem;

namespace {

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

/// Runs a command of the shell, which must succeed, and returns what it prints.
std::string run(const TemporaryFolder& folder, const std::string& command) {
  const fs::path log = folder.path() / "log";
  const int status = std::system((command + " >" + quoted(log) + " 2>&1").c_str());
  const std::string output = read_text_file(log);
  INFO(command << "\n" << output);
  REQUIRE(status == 0);
  return output;
}

std::set<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// The functions that the header declares.
std::set<std::string> declared_functions(const std::string& header) {
  std::set<std::string> names;
  for (std::size_t at = header.find("DINO_API "); at != std::string::npos; at = header.find("DINO_API ", at + 1)) {
    const std::size_t end = header.find('(', at), begin = header.rfind("dino_", end);
    if (header[at - 1] == '\n' && begin != std::string::npos) names.insert(header.substr(begin, end - begin));
  }
  return names;
}

std::string without(std::string text, char unwanted) {
  std::replace(text.begin(), text.end(), unwanted, ' ');
  return text;
}

}  // namespace

TEST_CASE("The documentation quotes the examples as they are") {
  const fs::path source = DINO_SOURCE_DIR;
  const std::string page = read_text_file(source / "docs/embedding.md");
  const auto check_quotes = [&](const std::string& fence, const fs::path& example) {
    const std::string code = read_text_file(source / "examples/embed" / example);
    int count = 0;
    for (std::size_t at = page.find(fence); at != std::string::npos; at = page.find(fence, at + 1), ++count) {
      const std::size_t begin = at + fence.size();
      CHECK(contains(code, page.substr(begin, page.find("```", begin) - begin)));
    }
    CHECK(count >= 1);
  };
  check_quotes("```c\n", "similarity.c");
  check_quotes("```cpp\n", "attention_map.cpp");
}

TEST_CASE("What is installed serves a project of its own") {
  const TemporaryFolder folder;
  const fs::path first = folder.path() / "first", prefix = folder.path() / "moved", build = folder.path() / "build";
  run(folder, quoted(DINO_CMAKE) + " --install " + quoted(DINO_BUILD_DIR) + " --prefix " + quoted(first));
  fs::rename(first, prefix);  // an installed folder may be moved
  const fs::path libraries = prefix / DINO_LIBRARY_DIR, library = libraries / "libdino_cuda.so.0";
  for (const fs::path& file :
       {prefix / "bin/dino_cuda", prefix / "include/dino_cuda.h", prefix / "include/dino_cuda.hpp", library,
        libraries / "cmake/dino_cuda/dino_cudaConfigVersion.cmake"}) {
    INFO(file);
    CHECK(fs::exists(file));
  }

  // The library shows what the header declares, and nothing else.
  std::set<std::string> exported =
      words_of(run(folder, "nm -D --defined-only --format=just-symbols " + quoted(library)));
  CHECK(exported.erase("DINO_CUDA_0@@DINO_CUDA_0") + exported.erase("DINO_CUDA_0") == 1);  // the version's own name
  std::set<std::string> names;
  for (const std::string& name : exported) names.insert(name.substr(0, name.find('@')));
  const auto declared = declared_functions(read_text_file(prefix / "include/dino_cuda.h"));
  CHECK(declared.size() >= 14);
  CHECK(names == declared);

#ifdef DINO_MPIEXEC
  // Under mpirun the program opens the module that was installed and moved with it, not that of the build.
  const fs::path module = libraries / "dino_cuda/libdino_mpi.so";
  REQUIRE(fs::exists(module));
  const fs::path ranks = folder.path() / "ranks", few = folder.path() / "few";
  fs::create_directory(few);
  for (int i = 0; i < 8; ++i) fs::copy_file(golden_dir() / "photo.png", few / (std::to_string(i) + ".png"));
  const std::string said =
      run(folder, std::string(kNoLeakCheck) + " LD_DEBUG=files LD_DEBUG_OUTPUT=" + quoted(folder.path() / "opened") +
                      " " + quoted(DINO_MPIEXEC) + " --allow-run-as-root --oversubscribe -n 2 " +
                      quoted(prefix / "bin/dino_cuda") + " train --data_path " + quoted(few) +
                      " --arch vit_tiny --embed_dim 24 --depth 1 --num_heads 2 --out_dim 48 --head_hidden_dim 32"
                      " --head_bottleneck_dim 16 --global_crops_size 32 --local_crops_size 16 --batch_size_per_gpu 4"
                      " --epochs 1 --warmup_epochs 0 --threads 1 --output_dir " +
                      quoted(ranks));
  int opened = 0, built_opened = 0;  // by processes
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    if (!entry.path().filename().string().starts_with("opened.")) continue;
    const std::string log = read_text_file(entry.path());
    opened += contains(log, "calling init: " + module.string()) ? 1 : 0;
    built_opened += contains(log, (fs::path(DINO_BUILD_DIR) / "lib/libdino_mpi.so").string()) ? 1 : 0;
  }
  CHECK(opened == 2);
  CHECK(built_opened == 0);
  CHECK(contains(said, "2 ranks"));
  CHECK(SafetensorsFile::read(ranks / "last.safetensors").metadata("ranks") == "2");
#endif

  // find_package, as C99 and as C++17, without a warning.
  const std::string flags = std::string("'-Wall -Wextra -pedantic -Werror ") + DINO_FLAGS + "'";
  run(folder, quoted(DINO_CMAKE) + " -S " + quoted(fs::path(DINO_SOURCE_DIR) / "examples/embed") + " -B " +
                  quoted(build) + " -G " + quoted(DINO_GENERATOR) +
                  " -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_STANDARD=99 -DCMAKE_C_EXTENSIONS=OFF" +
                  " -DCMAKE_CXX_COMPILER=" + quoted(DINO_CXX_COMPILER) + " -DCMAKE_C_FLAGS=" + flags +
                  " -DCMAKE_CXX_FLAGS=" + flags + " -DCMAKE_PREFIX_PATH=" + quoted(prefix));
  run(folder, quoted(DINO_CMAKE) + " --build " + quoted(build));

  const std::string weights = quoted(golden_dir() / "backbone.safetensors");
  const fs::path pictures = folder.path() / "pictures";
  fs::create_directory(pictures);
  for (const char* name : {"photo.jpg", "photo.png"}) fs::copy_file(golden_dir() / name, pictures / name);
  const std::string both = quoted(pictures / "photo.jpg") + " " + quoted(pictures / "photo.png");
  const std::string program = quoted(prefix / "bin/dino_cuda");

  // Features.
  const fs::path csv = folder.path() / "features.csv", table = folder.path() / "features.safetensors";
  const std::string similarity =
      run(folder, quoted(build / "similarity") + " " + weights + " " + both + " " + quoted(csv));
  run(folder, program + " features " + quoted(pictures) + " --weights " + weights + " --out " + quoted(table));
  const NamedFeatures expected = read_features(table);
  std::vector<float> got;
  std::istringstream rows(without(read_text_file(csv), ','));
  for (float x = 0; rows >> x;) got.push_back(x);
  REQUIRE(expected.table.rows() == 2);
  REQUIRE(got.size() == expected.table.values.size());
  // The same computation; with other threads it may add in another order.
  check_close(ConstArray(got.data(), expected.table.array().shape()), expected.table.array(), 2e-6, "features");
  double cosine = 0;
  const auto width = static_cast<std::size_t>(expected.table.width);
  for (std::size_t i = 0; i < width; ++i)
    cosine += static_cast<double>(expected.table.values[i]) * static_cast<double>(expected.table.values[width + i]);
  CHECK(std::abs(std::stod(similarity.substr(similarity.find('\n') + 1)) - cosine) <= 2e-6);

  // Attention.
  const fs::path map = folder.path() / "map.pgm", raw = folder.path() / "raw.safetensors";
  run(folder,
      quoted(build / "attention_map") + " " + weights + " " + quoted(pictures / "photo.png") + " " + quoted(map));
  run(folder, program + " attention " + quoted(pictures / "photo.png") + " --weights " + weights + " --output " +
                  quoted(folder.path() / "drawn") + " --raw " + quoted(raw));
  const SafetensorsFile maps = SafetensorsFile::read(raw);
  const ConstArray mean = maps["mean"];
  std::ifstream file(map, std::ios::binary);
  std::string kind;
  std::int64_t columns = 0, lines = 0;
  int most = 0;
  file >> kind >> columns >> lines >> most;
  file.get();
  CHECK((kind == "P5" && most == 255));
  REQUIRE(Shape{lines, columns} == mean.shape());
  const float* shares = mean.as<float>();
  const float largest = *std::max_element(shares, shares + mean.size());
  std::int64_t close = 0;
  for (std::int64_t i = 0; i < mean.size(); ++i) {
    const double level = file.get();
    if (std::abs(level - 255.0 * static_cast<double>(shares[i]) / static_cast<double>(largest)) <= 0.501) ++close;
  }
  CHECK(close == mean.size());
  CHECK((file && file.get() == std::char_traits<char>::eof()));

  // pkg-config, for those who do not use CMake.
  run(folder, "cd " + quoted(folder.path()) + " && cc -std=c99 " + DINO_FLAGS + " " +
                  quoted(fs::path(DINO_SOURCE_DIR) / "examples/embed/similarity.c") +
                  " -o by_pkg_config $(PKG_CONFIG_PATH=" + quoted(libraries / "pkgconfig") +
                  " pkg-config --cflags --libs dino_cuda) -lm");
  CHECK(run(folder, "LD_LIBRARY_PATH=" + quoted(libraries) + "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} " +
                        quoted(folder.path() / "by_pkg_config") + " " + weights + " " + both) == similarity);
}
