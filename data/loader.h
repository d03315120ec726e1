#pragma once

#include "data/crop_plan.h"
#include "data/image_source.h"
#include "data/sampler.h"
#include "kernels/common/error.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dino {

/// What is made of each picture: groups of square crops of one size, views numbered through all groups, and the plan
/// of each view. `plan` is called by several threads and must depend on its arguments only.
struct ViewSet {
  struct Group {
    int views = 0;
    int size_px = 0;
  };
  std::vector<Group> groups;
  std::function<CropPlan(int image_height, int image_width, int view, std::uint64_t epoch, std::uint64_t sample)> plan;
};

/// Training: the global crops, then (if any) the local crops.
ViewSet multi_crop_views(const MultiCropOptions& options, std::uint64_t seed);
/// Evaluation: the centre of each picture.
ViewSet center_crop_views(int short_side_px, int size_px);
/// Training a linear classifier: one random resized crop.
ViewSet linear_probe_views(int size_px, std::uint64_t seed);

/// Where crops are made from the decoded pictures: by the loader's threads, or later on the device that trains
/// (upload_crops), from the pictures and the plans that the batch then holds. The crops are the same to the last bit.
enum class AugmentOn : std::uint8_t { host, device };

struct HostCrops {
  int views = 0;
  int size_px = 0;
  std::vector<std::uint8_t> pixels;  // (views, B, size_px, size_px, 3), RGB; empty with AugmentOn::device
  std::vector<CropPlan> plans;       // (views, B); empty with AugmentOn::host
};

struct Batch {
  std::int64_t epoch = 0;
  std::int64_t index = 0;             // within the epoch
  std::vector<HostCrops> groups;      // as in ViewSet
  std::vector<Image> images;          // (B) decoded pictures; empty with AugmentOn::host
  std::vector<std::int64_t> samples;  // (B) numbers of the pictures, after replacement of broken ones; -1: left out
  std::vector<std::int32_t> labels;   // (B), -1 where unknown or left out
  double wait_ms = 0;                 // how long next() had to wait for this batch

  int size() const { return static_cast<int>(samples.size()); }
  /// (views, B, size_px, size_px, 3) uint8. Throws Error where they are still to be made.
  ConstArray crops(std::size_t group) const;
};

/// A picture that could not be decoded: damaged, changed or removed meanwhile, or larger than the memory.
struct BrokenImage {
  std::int64_t index = 0;
  std::string name, reason;
};

struct BrokenImages {
  std::int64_t count = 0;            // different pictures found broken so far
  std::vector<BrokenImage> entries;  // the first of them, at most kMaxEntries
  static constexpr std::size_t kMaxEntries = 100;
};

/// So many pictures are broken that what is left is not the data set that was meant.
class TooManyBroken : public Error {
 public:
  using Error::Error;
};

/// The error where more than `max_broken_share` of so many pictures are broken, by name and reason of the first.
std::optional<TooManyBroken> too_many_broken(const BrokenImages& broken, std::int64_t pictures,
                                             double max_broken_share);

/// What becomes of a picture that cannot be decoded: the next good one (number + 1, …, around the end) takes its place,
/// with the crops drawn for the picture that was asked for; its place stays empty, with black crops; or it is an Error.
enum class BrokenPictures : std::uint8_t { replaced, left_out, refused };

struct LoaderOptions {
  int threads = 0;                    // 0: one per processor
  int prefetch_batches = 4;           // batches that are complete or in work ahead of the consumer
  std::int64_t epoch = 0, batch = 0;  // the first to deliver
  std::int64_t end_epoch = -1;        // no batch of this epoch or after; -1: goes on for ever
  BrokenPictures broken_pictures = BrokenPictures::replaced;  // left_out: with AugmentOn::host only
  double max_broken_share = 1;                                // more broken ones among all pictures are a TooManyBroken
  /// Called for each picture when it is first found broken, by several threads, one at a time.
  std::function<void(const BrokenImage&)> on_broken = {};
  /// device: batches hold decoded pictures, three bytes a pixel of their full size.
  AugmentOn augment = AugmentOn::host;
};

/// Decodes pictures and makes their crops on threads of its own, ahead of the consumer, and delivers batches in the
/// sampler's order, epoch after epoch. Each picture is decoded once for all its crops. What a batch holds depends on
/// seed, epoch and sample only, not on the number of threads or ranks.
class Loader {
 public:
  /// `source` must outlive the loader.
  Loader(const ImageSource& source, const SamplerOptions& sampler, ViewSet views, const LoaderOptions& options);
  /// Stops at the next picture; batches under way are lost.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Fills `batch` with the next one, whose former memory is used again; false after the last. Throws what a thread
  /// met (always again from then on), in the place of the batch that it belongs to. One thread at a time may call it.
  bool next(Batch& batch);

  std::int64_t batches_per_epoch() const;
  BrokenImages broken() const;
  /// Sum of all waits in next().
  double total_wait_ms() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dino
