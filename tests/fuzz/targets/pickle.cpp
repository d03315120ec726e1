// The pickle of a checkpoint, in a sound zip file: mutations of a whole zip rarely get past its checksums. Its storages
// `0` and `1` have 64 bytes each.
#include "models/tensor_source.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/zip.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const std::string storage(64, '\x3f');
  const auto path = folder().write(
      "checkpoint.pth", stored_zip({{"archive/data.pkl", {reinterpret_cast<const char*>(input.data()), input.size()}},
                                    {"archive/data/0", storage},
                                    {"archive/data/1", storage}}));
  const auto source = open_tensors(path);
  // Many tensors may share a storage.
  for (std::size_t i = 0; i < std::min<std::size_t>(source->tensors().size(), 100); ++i) {
    std::vector<float> values(static_cast<std::size_t>(source->tensors()[i].shape.size()));
    source->read(i, values);
  }
}
