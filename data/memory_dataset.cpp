#include "data/known_datasets.h"
#include "engine/text.h"
#include "kernels/common/error.h"

namespace dino {

MemoryDataset::MemoryDataset(Content content) : content_(std::move(content)) {
  const std::int64_t picture_bytes = std::int64_t{content_.height} * content_.width * (content_.color ? 3 : 1);
  require(picture_bytes > 0 && !content_.pixels.empty(), "data", "{} holds no pictures", content_.name);
  size_ = static_cast<std::int64_t>(content_.pixels.size()) / picture_bytes;
  class_names_ = content_.class_names;
  summary_ = fmt::format("{}: {} pictures of {}×{}, {} classes", printable(content_.name), size_, content_.width,
                         content_.height, class_names_.size());
}

void MemoryDataset::decode(std::int64_t index, Image& image) const {
  check(index);
  image.resize(content_.height, content_.width);
  const std::size_t plane = static_cast<std::size_t>(content_.height) * static_cast<std::size_t>(content_.width);
  const std::size_t step = content_.color ? plane : 0;  // from one colour to the next; grey serves as all three
  const std::uint8_t* in = content_.pixels.data() + static_cast<std::size_t>(index) * plane * (content_.color ? 3 : 1);
  std::uint8_t* out = image.rgb.data();
  for (std::size_t i = 0; i < plane; ++i) {
    for (std::size_t c = 0; c < 3; ++c) *out++ = in[c * step + i];
  }
}

std::int32_t MemoryDataset::label(std::int64_t index) const {
  check(index);
  return content_.labels.empty() ? -1 : content_.labels[static_cast<std::size_t>(index)];
}

std::string MemoryDataset::name(std::int64_t index) const {
  check(index);
  return fmt::format("{} picture {}", content_.name, index);
}

void MemoryDataset::check(std::int64_t index) const {
  require(index >= 0 && index < size_, "data", "no picture {}; there are {}", index, size_);
}

}  // namespace dino
