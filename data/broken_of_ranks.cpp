#include "data/broken_of_ranks.h"

#include "engine/text.h"
#include "models/json.h"

#include <algorithm>
#include <string>

namespace dino {
namespace {

constexpr const char* kName = "broken pictures";

/// Lines of JSON, of text without control characters: names are any bytes.
std::string lines_of(const std::vector<BrokenImage>& images) {
  std::string text;
  for (const BrokenImage& image : images)
    text += json_text(nlohmann::ordered_json{image.index, printable(image.name), printable(image.reason)}) + "\n";
  return text;
}

}  // namespace

BrokenOfRanks::BrokenOfRanks(Communicator& communicator, std::int64_t pictures, double max_broken_share,
                             BrokenImageList* list)
    : communicator_(communicator), pictures_(pictures), max_broken_share_(max_broken_share), list_(list) {}

void BrokenOfRanks::note(const BrokenImage& image) {
  if (!indices_.insert(image.index).second) return;
  ++found_.count;
  if (found_.entries.size() < BrokenImages::kMaxEntries) found_.entries.push_back(image);
  if (list_ != nullptr) list_->add(image);
}

void BrokenOfRanks::add(const BrokenImage& image) {
  const std::lock_guard lock(mutex_);
  if (communicator_.size() == 1) return note(image);
  news_.push_back(image);
  has_news_ = true;
}

void BrokenOfRanks::exchange() {
  if (communicator_.size() == 1) return;
  std::string mine;
  {
    const std::lock_guard lock(mutex_);
    mine = lines_of(news_);
    news_.clear();
    has_news_ = false;
  }
  const auto ranks = static_cast<std::size_t>(communicator_.size());
  const std::uint64_t size = mine.size();
  std::vector<std::uint64_t> sizes(ranks);
  communicator_.all_gather_host(std::as_bytes(std::span(&size, 1)), std::as_writable_bytes(std::span(sizes)), kName);
  const std::uint64_t most = *std::max_element(sizes.begin(), sizes.end());
  if (most == 0) return;
  mine.resize(most, '\n');
  std::string all(most * ranks, '\n');
  communicator_.all_gather_host(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)), kName);
  const std::lock_guard lock(mutex_);
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    if (end > begin) {
      const nlohmann::json line = parse_json(all.substr(begin, end - begin));
      note({.index = line.at(0).get<std::int64_t>(), .name = line.at(1), .reason = line.at(2)});
    }
    begin = end + 1;
  }
}

BrokenImages BrokenOfRanks::found() const {
  const std::lock_guard lock(mutex_);
  return found_;
}

std::optional<TooManyBroken> BrokenOfRanks::too_many() const {
  if (communicator_.size() == 1) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return too_many_broken(found_, pictures_, max_broken_share_);
}

}  // namespace dino
