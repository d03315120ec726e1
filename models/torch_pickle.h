#pragma once

#include "models/pickle.h"
#include "models/tensor_source.h"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace dino {

/// What the pickle of torch.save says, whatever container it lies in, and reading a tensor once its storage is in
/// memory.
class TorchSource : public TensorSource {
 public:
  void read(std::size_t index, std::span<float> to) override;

 protected:
  struct StorageInfo {
    std::optional<DType> dtype;  // empty for types that no network of ours has, of which only the size is known
    std::uint64_t element_bytes = 0;
    std::uint64_t elements = 0;

    std::uint64_t bytes() const { return elements * element_bytes; }
    bool operator==(const StorageInfo&) const = default;
  };

  explicit TorchSource(const std::filesystem::path& path) : path_(path) { files_ = {path}; }

  /// Fills `bytes`, which has info.bytes() bytes.
  virtual void read_storage(const std::string& key, const StorageInfo& info, std::span<std::byte> bytes) = 0;

  /// Finds the storages, tensors and plain values of a checkpoint.
  void interpret(const Pickle& pickle);

  std::filesystem::path path_;
  std::map<std::string, StorageInfo> storages_;

 private:
  /// Where a tensor lies in its storage, in elements. Checked: every index is inside.
  struct View {
    std::string storage;
    std::uint64_t offset = 0;
    std::vector<std::uint64_t> extents, strides;
  };

  void spend(std::size_t entries, std::size_t text_bytes);
  void note_storage(const Pickle& pickle, const PickleValue& persistent);
  void interpret_entry(const Pickle& pickle, const std::string& name, const PickleValue& value);
  void add_tensor(const Pickle& pickle, const std::string& name, const PickleValue& object);
  std::vector<std::uint64_t> sizes(const Pickle& pickle, const std::vector<PickleValue::Id>& ids,
                                   const std::string& name) const;
  static bool lies_inside(const View& view, std::uint64_t elements);
  static bool is_bounded(const View& view, std::uint64_t limit);
  void copy_strided(const View& view, DType dtype, std::span<float> to) const;

  std::vector<View> views_;       // of tensors_
  std::size_t entries_ = 0;       // interpreted so far
  std::size_t text_bytes_ = 0;    // of their names and texts
  std::string cached_;            // key of the storage in cache_
  std::vector<std::byte> cache_;  // one storage
};

}  // namespace dino
