// The largest JPEGs: headers that claim more than there is, files at the edge of what is read, and small files that are
// long in decoding. Memory is measured in a process of its own for each.
#include "data/decode.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

constexpr std::int64_t kMaxPixels = 178956970;  // Pillow's

std::string marker(int code, const std::string& content) {
  const std::size_t length = content.size() + 2;
  return std::string{'\xff', static_cast<char>(code), static_cast<char>(length >> 8), static_cast<char>(length)} +
         content;
}

std::string u16(int value) { return {static_cast<char>(value >> 8), static_cast<char>(value)}; }

/// Bits of a scan: after each byte of ones comes one of zeros.
class Bits {
 public:
  void put(unsigned value, int count) {
    for (int bit = count - 1; bit >= 0; --bit) {
      byte_ = byte_ << 1 | (value >> bit & 1);
      if (++used_ == 8) flush();
    }
  }
  std::string finish() {
    while (used_ > 0) put(1, 1);
    return std::move(bytes_);
  }

 private:
  void flush() {
    bytes_ += static_cast<char>(byte_);
    if (byte_ == 0xff) bytes_ += '\0';
    byte_ = 0;
    used_ = 0;
  }
  std::string bytes_;
  unsigned byte_ = 0;
  int used_ = 0;
};

/// A sound progressive JPEG, grey in all its pixels, of so many scans (ITU T.81, annex G): one for the mean of each
/// block, then for one coefficient after the other its highest bits and each of its others. Blocks without coefficients
/// are counted, not listed, so that a scan of a large picture takes some ten bytes.
std::string many_scans(int side_px, int scans) {
  const int blocks = (side_px + 7) / 8 * ((side_px + 7) / 8);
  const std::string one_code("\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);  // of one bit, for one symbol
  const auto scan = [](int first, int last, int high, int low) {
    return marker(0xda, std::string{1, 1, 0, static_cast<char>(first), static_cast<char>(last),
                                    static_cast<char>(high << 4 | low)});
  };
  std::string file = "\xff\xd8" + marker(0xdb, std::string(1, '\0') + std::string(64, '\1')) +
                     marker(0xc2, "\x08" + u16(side_px) + u16(side_px) + std::string("\1\1\x11\0", 4)) +
                     marker(0xc4, std::string(1, '\0') + one_code + std::string(1, '\0')) +
                     marker(0xc4, "\x10" + one_code + "\xe0");
  Bits means;
  for (int i = 0; i < blocks; ++i) means.put(0, 1);
  file += scan(0, 0, 0, 0) + means.finish();
  // Symbol e0: 16384 blocks without more, and as many again as the 14 bits behind it say.
  const int runs = (blocks + 32766) / 32767;
  Bits counts;
  for (int run = 0; run < runs; ++run) {
    const int length = blocks / runs + (run < blocks % runs ? 1 : 0);
    REQUIRE(length >= 16384);
    counts.put(0, 1);
    counts.put(static_cast<unsigned>(length - 16384), 14);
  }
  const std::string nothing = counts.finish();
  for (int i = 1; i < scans; ++i) {
    const int coefficient = 1 + (i - 1) / 14, bit = 13 - (i - 1) % 14;
    REQUIRE(coefficient < 64);
    file += scan(coefficient, coefficient, bit == 13 ? 0 : bit + 1, bit) + nothing;
  }
  return file + "\xff\xd9";
}

/// A small picture whose header claims another size.
std::string claiming(int height, int width, const JpegOptions& options = {}) {
  const std::vector<std::byte> bytes = encode_jpeg(gradient_image(16, 16), options);
  std::string file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t frame = file.find(options.progressive ? "\xff\xc2" : "\xff\xc0");
  REQUIRE(frame != std::string::npos);
  file.replace(frame + 5, 4, u16(height) + u16(width));
  return file;
}

/// How a decoding ends, and what it takes.
struct Decoded {
  std::string error;  // empty: it succeeded
  double mib = 0;     // the most memory that was in use beside what was before
};

/// The peak of a process's memory in MiB.
double peak_of(const std::function<std::string()>& work, std::string& error) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string said = work();
    (void)!write(ends[1], said.data(), said.size());
    _exit(0);
  }
  REQUIRE(child > 0);
  close(ends[1]);
  std::array<char, 512> buffer{};
  for (ssize_t size = 0; (size = read(ends[0], buffer.data(), buffer.size())) > 0;)
    error.append(buffer.data(), static_cast<std::size_t>(size));
  close(ends[0]);
  int status = 0;
  rusage usage{};
  REQUIRE(wait4(child, &status, 0, &usage) == child);
  REQUIRE(status == 0);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

Decoded decoded(const std::string& file, const DecodeOptions& options = {}, int threads = 1) {
  const auto decode_once = [&] {
    return error_of([&] {
      Image image;
      decode_image(as_bytes(file), "picture", options, image);
      if (image.rgb.front() != 128 || image.rgb.back() != 128) fail("test", "not grey");
    });
  };
  std::string nothing;
  const double before = peak_of([] { return std::string(); }, nothing);
  Decoded result;
  result.mib = peak_of(
                   [&] {
                     std::vector<std::string> errors(static_cast<std::size_t>(threads));
                     std::vector<std::thread> others;
                     for (std::string& error : errors) others.emplace_back([&] { error = decode_once(); });
                     for (std::thread& other : others) other.join();
                     return errors.front();
                   },
                   result.error) -
               before;
  return result;
}

/// The sanitizers' own memory is not of interest.
bool is_within(const Decoded& result, double mib) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  mib = 1e9;
#endif
  UNSCOPED_INFO(result.mib << " MiB, expected at most " << mib);
  return result.mib <= mib;
}

}  // namespace

TEST_CASE("JPEG: the largest claims are refused before memory is taken") {
  for (const JpegOptions& options :
       {JpegOptions{}, JpegOptions{.progressive = true}, JpegOptions{.components = 4}, JpegOptions{.components = 1}}) {
    for (const int min_side_px : {0, 224}) {
      const Decoded result = decoded(claiming(65500, 65500, options), {.min_side_px = min_side_px});
      CHECK(contains(result.error,
                     "[decode] picture: picture too large; got 65500×65500 pixels, expected at most "
                     "178956970 in all"));
      CHECK(is_within(result, 8));
    }
    const Decoded beyond = decoded(claiming(65535, 65535, options));
    CHECK(contains(beyond.error, "[decode] picture: broken JPEG: "));
    CHECK(is_within(beyond, 8));
  }
}

TEST_CASE("JPEG: the limit of pixels holds to the pixel") {
  STATIC_REQUIRE(std::int64_t{14351} * 12470 == kMaxPixels);
  CHECK(DecodeOptions{}.max_pixels == kMaxPixels);
  const std::string one_row_more = decoded(claiming(14352, 12470)).error;
  CHECK(contains(one_row_more, "too large; got 12470×14352 pixels"));
  for (const bool progressive : {false, true}) {
    // Within the limit it is the rest of the file that is missing. What is read at an eighth, as a loader does, is not
    // decoded at its full size.
    const Decoded result = decoded(claiming(14351, 12470, {.progressive = progressive}), {.min_side_px = 224});
    CHECK(contains(result.error, "JPEG: "));
    CHECK(result.error.find("too large") == std::string::npos);
    CHECK(is_within(result, progressive ? 6.0 * kMaxPixels / (1 << 20) + 32 : 32));
  }
}

TEST_CASE("JPEG: scans end at four billion pixels, or at 500") {
  // 3300² pixels: 394 scans are below 2³² pixels, 395 are not.
  constexpr int kSide_px = 3300;
  STATIC_REQUIRE(std::int64_t{394} * kSide_px * kSide_px <= std::int64_t{1} << 32);
  STATIC_REQUIRE(std::int64_t{395} * kSide_px * kSide_px > std::int64_t{1} << 32);
  const std::string most = many_scans(kSide_px, 394), more = many_scans(kSide_px, 395);
  CHECK(most.size() < 40000);
  // Coefficients of 2 bytes, and the picture.
  const double mib = (2.0 + 3.0) * kSide_px * kSide_px / (1 << 20) + 16;
  const Decoded sound = decoded(most), refused = decoded(more);
  CHECK(sound.error.empty());
  CHECK(is_within(sound, mib));
  CHECK(refused.error == "[decode] picture: broken JPEG: it has too many scans");
  CHECK(is_within(refused, mib));
  // The number counts for pictures that are small.
  CHECK(decoded(many_scans(1025, 500)).error.empty());
  CHECK(decoded(many_scans(1025, 501)).error == "[decode] picture: broken JPEG: it has too many scans");
}

TEST_CASE("JPEG: threads decode one large picture at a time") {
  // 41 million pixels, whose coefficients take 78 MiB while an eighth of the picture is made of them.
  constexpr int kSide_px = 6400;
  const std::string file = many_scans(kSide_px, 2);
  const double one = 2.0 * kSide_px * kSide_px / (1 << 20);
  const Decoded alone = decoded(file, {.min_side_px = 224}), together = decoded(file, {.min_side_px = 224}, 4);
  CHECK(alone.error.empty());
  CHECK(together.error.empty());
  CHECK(is_within(alone, one + 32));
  CHECK(is_within(together, one + 48));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(alone.mib > one / 2);  // the measure sees what it is for
#endif
}
