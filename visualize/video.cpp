#include "visualize/video.h"

#include "data/decode.h"
#include "data/file_dataset.h"
#include "data/png.h"
#include "engine/files.h"
#include "engine/text.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace dino {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "video";
constexpr std::int64_t kMaxPixels = 64'000'000;

/// The full path of ffmpeg.
std::string find_ffmpeg() {
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable == nullptr ? "/usr/bin:/bin" : variable;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    const fs::path candidate = fs::path(rest.substr(0, end)) / "ffmpeg";
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (candidate.is_absolute() && access(candidate.c_str(), X_OK) == 0) return candidate.string();
  }
  fail(kWhere, "videos need ffmpeg, which is not installed; try `apt install ffmpeg`, or a folder of frames");
}

/// ffmpeg beside this process, with a pipe from its standard output or to its standard input.
class Ffmpeg {
 public:
  enum class Pipe { from, to };

  Ffmpeg(std::vector<std::string> arguments, Pipe pipe) : errors_(std::tmpfile()) {
    require(errors_ != nullptr, kWhere, "cannot make a temporary file: {}", std::strerror(errno));
    arguments.insert(arguments.begin(), {find_ffmpeg(), "-hide_banner", "-nostdin", "-loglevel", "error"});
    // Everything that needs memory comes before the fork: other threads may hold the heap's locks.
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::array<int, 2> ends{};
    const bool piped = pipe2(ends.data(), O_CLOEXEC) == 0;
    require(piped, kWhere, "cannot start ffmpeg: {}", std::strerror(errno));
    const int ours = pipe == Pipe::from ? 0 : 1;
    const int messages = fileno(errors_);
    const pid_t parent = getpid();
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      setpgid(0, 0);  // Ctrl-C is for us: what has been written shall be completed
      const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
      dup2(pipe == Pipe::to ? ends[0] : nothing, STDIN_FILENO);
      dup2(pipe == Pipe::from ? ends[1] : nothing, STDOUT_FILENO);
      dup2(messages, STDERR_FILENO);
      if (getppid() == parent) execv(argv[0], argv.data());
      _exit(127);
    }
    const int reason = errno;
    close(ends[static_cast<std::size_t>(1 - ours)]);
    pipe_ = ends[static_cast<std::size_t>(ours)];
    if (child_ < 0) {
      close(pipe_);
      std::fclose(errors_);
      fail(kWhere, "cannot start ffmpeg: {}", std::strerror(reason));
    }
  }

  ~Ffmpeg() {
    close_pipe();
    if (child_ > 0) {
      kill(child_, SIGKILL);  // also where it has not got as far as ffmpeg and still has our handlers
      wait();
    }
    std::fclose(errors_);
  }
  Ffmpeg(const Ffmpeg&) = delete;
  Ffmpeg& operator=(const Ffmpeg&) = delete;

  /// As many bytes as there are, up to `size`; fewer only at the end.
  std::size_t read(std::uint8_t* to, std::size_t size) {
    std::size_t got = 0;
    while (got < size) {
      const ssize_t bytes = ::read(pipe_, to + got, size - got);
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes <= 0) break;
      got += static_cast<std::size_t>(bytes);
    }
    return got;
  }

  void write(const std::uint8_t* from, std::size_t size) {
    // An ffmpeg that has ended must not end us.
    struct sigaction ignore {};
    struct sigaction before {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before);
    std::size_t done = 0;
    while (done < size) {
      const ssize_t bytes = ::write(pipe_, from + done, size - done);
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes <= 0) break;
      done += static_cast<std::size_t>(bytes);
    }
    sigaction(SIGPIPE, &before, nullptr);
    if (done == size) return;
    finish();
    fail(kWhere, "ffmpeg ended early");
  }

  /// Waits for its end; throws Error with its own words where it failed.
  void finish() {
    close_pipe();
    if (child_ <= 0) return;
    const int status = wait();
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0, kWhere, "ffmpeg failed: {}", last_message());
  }

 private:
  void close_pipe() {
    if (pipe_ >= 0) close(pipe_);
    pipe_ = -1;
  }
  int wait() {
    int status = 0;
    while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    child_ = -1;
    return status;
  }
  std::string last_message() {
    std::rewind(errors_);
    std::string last = "it did not say why";
    std::array<char, 1024> line{};
    while (std::fgets(line.data(), line.size(), errors_) != nullptr) {
      std::string text(line.data());
      while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
      if (!text.empty()) last = text;
    }
    return last;
  }

  std::FILE* errors_;
  pid_t child_ = -1;
  int pipe_ = -1;
};

class FolderReader final : public FrameReader {
 public:
  explicit FolderReader(const fs::path& folder) : folder_(folder) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with('.') && entry.is_regular_file() && has_picture_extension(entry.path()))
        names_.push_back(name);
    }
    std::sort(names_.begin(), names_.end());
    require(!names_.empty(), kWhere, "there are no pictures in {}", folder.string());
  }
  bool next(Image& frame) override {
    if (at_ == names_.size()) return false;
    decode_image_file(folder_ / names_[at_++], {}, frame);
    return true;
  }
  std::int64_t count() const override { return static_cast<std::int64_t>(names_.size()); }

 private:
  fs::path folder_;
  std::vector<std::string> names_;
  std::size_t at_ = 0;
};

/// Frames come as PPM files one after the other: each says its size.
class VideoReader final : public FrameReader {
 public:
  VideoReader(const fs::path& path, double fps)
      : ffmpeg_({"-i", "file:" + path.string(), "-map", "0:v:0", "-vf", fmt::format("fps={}", fps), "-f", "image2pipe",
                 "-c:v", "ppm", "-"},
                Ffmpeg::Pipe::from) {}

  bool next(Image& frame) override {
    std::string magic;
    if (!word(magic)) {
      ffmpeg_.finish();
      return false;
    }
    std::array<int, 3> numbers{};  // width, height, largest value
    for (int& number : numbers) {
      std::string digits;
      const bool there = word(digits);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
      require(there && magic == "P6" && error == std::errc() && end == digits.data() + digits.size() && number >= 1,
              kWhere, "ffmpeg sent something that is no frame");
    }
    require(numbers[2] == 255 && std::int64_t{numbers[0]} * numbers[1] <= kMaxPixels, kWhere,
            "got frames of {}×{} pixels, expected at most {} million; try a smaller video", numbers[0], numbers[1],
            kMaxPixels / 1'000'000);
    frame.resize(numbers[1], numbers[0]);
    if (ffmpeg_.read(frame.rgb.data(), frame.rgb.size()) == frame.rgb.size()) return true;
    ffmpeg_.finish();
    fail(kWhere, "the last frame from ffmpeg is cut short");
  }

 private:
  /// Reads up to the next white space, which is taken away too.
  bool word(std::string& text) {
    text.clear();
    std::uint8_t c = 0;
    while (text.size() < 16 && ffmpeg_.read(&c, 1) == 1) {
      if (c == '\n' || c == ' ') return !text.empty();
      text += static_cast<char>(c);
    }
    return false;
  }

  Ffmpeg ffmpeg_;
};

class FolderWriter final : public FrameWriter {
 public:
  explicit FolderWriter(fs::path folder) : folder_(std::move(folder)) { make_output_folder(folder_); }
  void write(const Image& frame) override {
    write_png(folder_ / fmt::format("frame_{:06}.png", ++count_), frame.rgb, frame.height, frame.width, 3);
  }
  void finish() override {}

 private:
  fs::path folder_;
  int count_ = 0;
};

class VideoWriter final : public FrameWriter {
 public:
  VideoWriter(fs::path path, double fps) : path_(std::move(path)), fps_(fps) {
    find_ffmpeg();
    { const AtomicFile trial(path_); }
    partial_ =
        path_.parent_path() / (path_.stem().string() + fmt::format(".part{}", getpid()) + path_.extension().string());
  }
  ~VideoWriter() override {
    ffmpeg_.reset();
    std::error_code ignored;
    if (!finished_) fs::remove(partial_, ignored);
  }

  void write(const Image& frame) override {
    const int height = frame.height / 2 * 2, width = frame.width / 2 * 2;
    if (!ffmpeg_) start(height, width);
    require(height == height_ && width == width_, kWhere, "got a frame of {}×{} pixels, expected {}×{} as the first",
            width, height, width_, height_);
    for (int y = 0; y < height; ++y)
      ffmpeg_->write(frame.rgb.data() + static_cast<std::size_t>(y) * static_cast<std::size_t>(frame.width) * 3,
                     static_cast<std::size_t>(width) * 3);
  }

  void finish() override {
    require(ffmpeg_ != nullptr, kWhere, "there are no frames to write to {}", path_.string());
    ffmpeg_->finish();
    std::error_code error;
    fs::rename(partial_, path_, error);
    require(!error, kWhere, "cannot write {}: {}", path_.string(), error.message());
    finished_ = true;
  }

 private:
  void start(int height, int width) {
    require(height >= 2 && width >= 2, kWhere, "frames of {}×{} pixels are too small for a video", width, height);
    height_ = height;
    width_ = width;
    std::vector<std::string> arguments{"-f",          "rawvideo",
                                       "-pix_fmt",    "rgb24",
                                       "-video_size", fmt::format("{}x{}", width, height),
                                       "-framerate",  fmt::format("{}", fps_),
                                       "-i",          "pipe:0",
                                       "-y"};
    // Players understand no other sampling of colours. A GIF has a palette instead.
    if (lower_case(path_.extension().string()) != ".gif") arguments.insert(arguments.end(), {"-pix_fmt", "yuv420p"});
    arguments.push_back("file:" + partial_.string());
    // ffmpeg would follow a link that somebody left there.
    std::error_code ignored;
    fs::remove(partial_, ignored);
    ffmpeg_ = std::make_unique<Ffmpeg>(std::move(arguments), Ffmpeg::Pipe::to);
  }

  fs::path path_, partial_;
  double fps_;
  std::unique_ptr<Ffmpeg> ffmpeg_;
  int height_ = 0, width_ = 0;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<FrameReader> open_frames(const fs::path& path, double fps) {
  require(fps > 0, kWhere, "the frame rate must be positive; got {}", fps);
  require(fs::exists(path), kWhere, "there is no {}", path.string());
  if (fs::is_directory(path)) return std::make_unique<FolderReader>(path);
  return std::make_unique<VideoReader>(path, fps);
}

std::unique_ptr<FrameWriter> create_frames(const fs::path& path, double fps) {
  constexpr std::array<std::string_view, 5> kVideos{".mp4", ".webm", ".mkv", ".mov", ".gif"};
  constexpr std::array<std::string_view, 8> kOthers{".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts"};
  const std::string extension = lower_case(path.extension().string());
  if (std::find(kVideos.begin(), kVideos.end(), extension) != kVideos.end())
    return std::make_unique<VideoWriter>(path, fps);
  require(std::find(kOthers.begin(), kOthers.end(), extension) == kOthers.end(), kWhere,
          "cannot write {}; got {}, expected .mp4, .webm, .mkv, .mov, .gif or a folder", path.string(), extension);
  return std::make_unique<FolderWriter>(path);
}

}  // namespace dino
