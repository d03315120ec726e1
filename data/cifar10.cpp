// CIFAR-10's binary version: records of one label byte and 32×32 red, green and blue planes
// (https://www.cs.toronto.edu/~kriz/cifar.html).
#include "data/known_datasets.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr int kSide = 32;
constexpr std::size_t kPixelBytes = std::size_t{3} * kSide * kSide;
constexpr std::size_t kRecordBytes = 1 + kPixelBytes;
constexpr int kClasses = 10;

std::vector<fs::path> find_batches(const fs::path& folder, std::string_view prefix) {
  std::vector<fs::path> batches;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code ignored;  // a pipe of this name would be waited for
    if (name.starts_with(prefix) && name.ends_with(".bin") && entry->is_regular_file(ignored))
      batches.push_back(entry->path());
  }
  std::sort(batches.begin(), batches.end());
  return batches;
}

}  // namespace

std::unique_ptr<Dataset> open_cifar10(const fs::path& path, const DatasetOptions& options) {
  for (const fs::path& folder : {path, path / "cifar-10-batches-bin"}) {
    const std::vector<fs::path> train = find_batches(folder, "data_batch_");
    const std::vector<fs::path> test = find_batches(folder, "test_batch");
    if (train.empty() && test.empty()) continue;
    const std::vector<fs::path>& batches = options.split == "train" ? train : test;
    require(!batches.empty(), "data", "{} has no split \"{}\"; expected {}", folder.string(), options.split,
            options.split == "train" ? "data_batch_1.bin to data_batch_5.bin" : "test_batch.bin");
    MemoryDataset::Content content{.height = kSide, .width = kSide, .color = true, .name = folder.string()};
    content.class_names = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
    for (const fs::path& batch : batches) {
      const std::string bytes = read_text_file(batch);
      require(!bytes.empty() && bytes.size() % kRecordBytes == 0, "data",
              "{} is not a whole CIFAR-10 batch; got {} bytes, expected a multiple of {}; download it again",
              batch.string(), bytes.size(), kRecordBytes);
      for (std::size_t at = 0; at < bytes.size(); at += kRecordBytes) {
        const int label = static_cast<unsigned char>(bytes[at]);
        require(label < kClasses, "data", "{} record {}: got label {}, expected at most {}; is it CIFAR-100?",
                batch.string(), at / kRecordBytes, label, kClasses - 1);
        content.labels.push_back(label);
        const auto* pixels = reinterpret_cast<const std::uint8_t*>(bytes.data() + at + 1);
        content.pixels.insert(content.pixels.end(), pixels, pixels + kPixelBytes);
      }
    }
    return std::make_unique<MemoryDataset>(std::move(content));
  }
  return nullptr;
}

}  // namespace dino
