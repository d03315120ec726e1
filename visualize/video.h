#pragma once

#include "data/image.h"

#include <filesystem>
#include <memory>
#include <string>

namespace dino {

/// Frames one after the other; one is in memory at a time.
class FrameReader {
 public:
  virtual ~FrameReader() = default;
  /// The next frame, in memory that is reused; false after the last. Throws Error where one cannot be read.
  virtual bool next(Image& frame) = 0;
  /// Number of frames; 0 where it is not known.
  virtual std::int64_t count() const { return 0; }
};

class FrameWriter {
 public:
  virtual ~FrameWriter() = default;
  /// Throws Error where the frame cannot be written, or is to be one of a video and has not the size of the first.
  virtual void write(const Image& frame) = 0;
  /// Completes the result under its name. Without it, what was written of a video goes away.
  virtual void finish() = 0;
};

/// A folder: its pictures in the order of their names. Anything else is a video, decoded by ffmpeg and resampled to
/// `fps` frames a second. Throws Error where there is nothing, or ffmpeg is not installed.
std::unique_ptr<FrameReader> open_frames(const std::filesystem::path& path, double fps);

/// A name with the extension .mp4, .webm, .mkv, .mov or .gif, in any case, becomes a video, encoded by ffmpeg; sides
/// are cut to even numbers. Other extensions of videos are refused. Any other name becomes a folder of
/// frame_000001.png, …
std::unique_ptr<FrameWriter> create_frames(const std::filesystem::path& path, double fps);

}  // namespace dino
