#pragma once

#include "data/image_source.h"

#include <vector>

namespace dino {

/// Some pictures of another source, in the order of `indices`.
class Subset final : public ImageSource {
 public:
  /// `source` must outlive the subset.
  Subset(const ImageSource& source, std::vector<std::int64_t> indices)
      : source_(source), indices_(std::move(indices)) {}

  std::int64_t size() const override { return static_cast<std::int64_t>(indices_.size()); }
  void decode(std::int64_t index, Image& image) const override { source_.decode(at(index), image); }
  std::int32_t label(std::int64_t index) const override { return source_.label(at(index)); }
  std::string name(std::int64_t index) const override { return source_.name(at(index)); }

 private:
  std::int64_t at(std::int64_t index) const { return indices_.at(static_cast<std::size_t>(index)); }
  const ImageSource& source_;
  std::vector<std::int64_t> indices_;
};

/// Do both hold the same pictures? Judged by their number and the names of the first and the last.
bool same_pictures(const ImageSource& a, const ImageSource& b);

/// Numbers of the pictures to compare with and of those to classify.
struct HeldOut {
  std::vector<std::int64_t> known, asked;
};

/// Holds out every tenth picture of each class (at least one where it has two or more), so that no picture is compared
/// with itself. The same for every call. Throws Error where no class has two pictures.
HeldOut hold_out_tenth(const ImageSource& images);

/// At most `limit` of the entries (0: all), evenly spread over them and in their order: where a data set lies in the
/// order of its classes, all classes keep their shares.
std::vector<std::int64_t> evenly_chosen(const std::vector<std::int64_t>& entries, std::int64_t limit);

}  // namespace dino
