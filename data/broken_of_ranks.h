#pragma once

#include "data/broken_image_list.h"
#include "data/loader.h"
#include "engine/communicator.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

namespace dino {

/// The broken pictures of a data set that several ranks read, each a part of it: what the loader of one finds, all get
/// to know, and the first rank lists. A picture that several find counts once.
class BrokenOfRanks {
 public:
  /// `list`, which must outlive it, takes each picture once; of the first rank only, else null.
  BrokenOfRanks(Communicator& communicator, std::int64_t pictures, double max_broken_share, BrokenImageList* list);

  /// What the loader of this rank is to be told: it judges its broken pictures alone where there is one rank.
  double max_broken_share_of_loader() const { return communicator_.size() == 1 ? max_broken_share_ : 1; }
  /// For LoaderOptions::on_broken, so from the loader's threads, one at a time.
  void add(const BrokenImage& image);

  /// Whether this rank has found any that the others do not know.
  bool has_news() const { return has_news_; }
  /// Every rank calls it, at the same place: from then on all know what all have found until now.
  void exchange();
  /// Those of all ranks, as of the last exchange; with one rank, until now. The same on every rank.
  BrokenImages found() const;
  /// The error that ends the run where too many are broken: the same on every rank. With one rank, none: its loader
  /// throws it, in the place of the batch that has one too many.
  std::optional<TooManyBroken> too_many() const;

 private:
  void note(const BrokenImage& image);

  Communicator& communicator_;
  std::int64_t pictures_;
  double max_broken_share_;
  BrokenImageList* list_;
  mutable std::mutex mutex_;
  std::vector<BrokenImage> news_;
  std::atomic<bool> has_news_ = false;
  std::set<std::int64_t> indices_;
  BrokenImages found_;
};

}  // namespace dino
