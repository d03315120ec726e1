#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dino {

/// Relative paths with a class each, in little memory: 16 bytes beside the name, and every folder once. Ten million
/// pictures named as those of ImageNet take 0.4 GB.
class PathList {
 public:
  /// `label` -1: no class. Throws Error for a path longer than the system takes.
  void add(std::string_view path, std::int32_t label = -1);

  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }
  bool empty() const { return entries_.empty(); }
  std::string operator[](std::int64_t index) const;
  std::int32_t label(std::int64_t index) const { return entries_[static_cast<std::size_t>(index)].label; }
  void set_label(std::int64_t index, std::int32_t label) { entries_[static_cast<std::size_t>(index)].label = label; }

  /// Gives every path the class that `label_of` says for its folder, which ends with a slash, or is empty.
  template <typename Function>
  void label_by_folder(Function&& label_of) {
    std::vector<std::int32_t> labels;
    for (const std::string& folder : folders_) labels.push_back(label_of(folder));
    for (Entry& entry : entries_) entry.label = labels[entry.folder];
  }
  /// Leaves those of class `label` out.
  void erase(std::int32_t label);
  /// By class, and by path within a class.
  void sort();

 private:
  struct Entry {
    std::uint64_t name;  // chunk and place in it
    std::uint32_t folder;
    std::int32_t label;
  };

  std::string_view name(const Entry& entry) const;
  bool before(const Entry& a, const Entry& b) const;

  std::vector<Entry> entries_;
  std::vector<std::string> folders_;  // with their slash
  std::unordered_map<std::string, std::uint32_t> folder_numbers_;
  std::uint32_t last_folder_ = 0;
  std::vector<std::unique_ptr<char[]>> chunks_;  // of names, each ending with a zero
  std::size_t chunk_used_ = 0;
};

}  // namespace dino
