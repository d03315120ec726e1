#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of some bytes.
std::uint32_t crc32c(std::string_view bytes);

/// One record as TFRecord frames it: length (8 bytes, little-endian), its masked CRC-32C, the bytes, their masked
/// CRC-32C. Source: tensorflow.org/tutorials/load_data/tfrecord.
std::string tf_record(std::string_view bytes);

/// An encoded picture for TensorBoard.
struct EventPicture {
  std::string tag;
  int height = 0, width = 0;
  std::string_view bytes;  // JPEG or PNG
};

/// Writes a TensorBoard event file: events.out.tfevents.SECONDS.HOST.PROCESS in a folder, a new one for each start.
/// Source: tensorflow/core/util/event.proto and framework/summary.proto; field numbers stand in the source.
class EventFile {
 public:
  /// Makes the folder where it is missing. A run that goes on at `first_step` makes TensorBoard forget the steps from
  /// there on that older files hold. Throws Error where nothing can be written.
  EventFile(const std::filesystem::path& folder, std::int64_t first_step);

  /// Named numbers of one step.
  void scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values);
  void picture(std::int64_t step, const EventPicture& picture);
  void flush();
  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace dino
