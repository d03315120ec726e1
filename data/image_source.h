#pragma once

#include "data/image.h"

#include <cstdint>
#include <string>

namespace dino {

/// Pictures by number: a folder of files, a packed data set, drawn scenes. Every function may be called by several
/// threads at once and gives the same answer each time.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  /// Number of pictures.
  virtual std::int64_t size() const = 0;
  /// Decodes picture `index` into `image`, whose memory is reused. Throws Error when the picture is broken or cannot be
  /// read; `image` is then unspecified.
  virtual void decode(std::int64_t index, Image& image) const = 0;
  /// Class of picture `index`, from 0; -1 where there are no classes.
  virtual std::int32_t label(std::int64_t index) const = 0;
  /// What a message calls picture `index`: its path, for a file.
  virtual std::string name(std::int64_t index) const = 0;

 protected:
  ImageSource() = default;
  ImageSource(const ImageSource&) = default;
  ImageSource& operator=(const ImageSource&) = default;
};

}  // namespace dino
