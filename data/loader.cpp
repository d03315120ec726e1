#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>

namespace dino {
namespace {

/// A folder that is not there at all should not be tried a million times.
constexpr std::int64_t kMaxBrokenInARow = 1000;

/// Memory of one thread.
struct Workspace {
  std::unique_ptr<Stream> stream = make_cpu_stream();
  Image image;
};

}  // namespace

ConstArray Batch::crops(std::size_t group) const {
  const HostCrops& g = groups.at(group);
  require(g.plans.empty(), "loader", "the crops of this batch are made on the device; try upload_crops");
  return {g.pixels.data(), DType::uint8, {g.views, size(), g.size_px, g.size_px, 3}};
}

ViewSet multi_crop_views(const MultiCropOptions& options, std::uint64_t seed) {
  check_options(options);
  ViewSet views;
  views.groups.push_back({options.global_crops, options.global_size_px});
  if (options.local_crops > 0) views.groups.push_back({options.local_crops, options.local_size_px});
  views.plan = [options, seed](int height, int width, int view, std::uint64_t epoch, std::uint64_t sample) {
    return plan_crop(height, width, view, options, seed, epoch, sample);
  };
  return views;
}

ViewSet center_crop_views(int short_side_px, int size_px) {
  return {.groups = {{1, size_px}}, .plan = [=](int height, int width, int, std::uint64_t, std::uint64_t) {
            return plan_center_crop(height, width, short_side_px, size_px, ResizeFilter::bicubic);
          }};
}

ViewSet linear_probe_views(int size_px, std::uint64_t seed) {
  return {.groups = {{1, size_px}}, .plan = [=](int height, int width, int, std::uint64_t epoch, std::uint64_t sample) {
            return plan_linear_probe_crop(height, width, size_px, seed, epoch, sample);
          }};
}

std::optional<TooManyBroken> too_many_broken(const BrokenImages& broken, std::int64_t pictures,
                                             double max_broken_share) {
  if (static_cast<double>(broken.count) <= max_broken_share * static_cast<double>(pictures)) return std::nullopt;
  return TooManyBroken("loader",
                       fmt::format("too many broken pictures; got {} of {}, expected at most {:g} % "
                                   "(max_broken_share); the first is {}: {}; try mending or removing them, or a larger "
                                   "max_broken_share",
                                   broken.count, pictures, 100 * max_broken_share, broken.entries.front().name,
                                   broken.entries.front().reason));
}

/// Batches under way form a queue in the order of delivery. Threads take single pictures from the first batch that
/// has any left, so that batches are finished in order and the last pictures of one do not hold up the next.
struct Loader::State {
  struct Pending {
    Batch batch;
    std::vector<std::int64_t> wanted;  // pictures as the sampler has them
    std::size_t taken = 0;
    std::size_t finished = 0;
    std::size_t failed_item = 0;
    std::exception_ptr error;  // of the first item that failed
  };

  const ImageSource& source;
  Sampler sampler;
  const ViewSet views;
  const LoaderOptions options;

  mutable std::mutex mutex;
  std::condition_variable work;   // for threads: a picture may be taken, or stop
  std::condition_variable ready;  // for next(): the front batch may be complete
  bool stop = false;
  std::exception_ptr error;  // delivered
  std::deque<std::unique_ptr<Pending>> pending;
  std::vector<std::unique_ptr<Pending>> spare;
  std::int64_t next_epoch, next_batch;  // to be put into the queue
  std::set<std::int64_t> broken_indices;
  BrokenImages broken;
  double total_wait_ms = 0;
  std::vector<std::thread> threads;

  State(const ImageSource& the_source, const SamplerOptions& sampler_options, ViewSet the_views,
        const LoaderOptions& the_options)
      : source(the_source),
        sampler(sampler_options),
        views(std::move(the_views)),
        options(the_options),
        next_epoch(the_options.epoch),
        next_batch(the_options.batch) {}

  bool at_end() const { return options.end_epoch >= 0 && next_epoch >= options.end_epoch; }

  /// Puts the next batch into the queue. Holds the mutex.
  void open_batch() {
    std::unique_ptr<Pending> opened;
    if (spare.empty()) {
      opened = std::make_unique<Pending>();
    } else {
      opened = std::move(spare.back());
      spare.pop_back();
    }
    opened->wanted = sampler.batch(next_epoch, next_batch);
    opened->taken = opened->finished = 0;
    opened->error = nullptr;
    Batch& batch = opened->batch;
    batch.epoch = next_epoch;
    batch.index = next_batch;
    const std::size_t size = opened->wanted.size();
    batch.samples.resize(size);
    batch.labels.resize(size);
    batch.groups.resize(views.groups.size());
    for (std::size_t g = 0; g < views.groups.size(); ++g) {
      const auto [crops, size_px] = views.groups[g];
      batch.groups[g].views = crops;
      batch.groups[g].size_px = size_px;
      const std::size_t count = static_cast<std::size_t>(crops) * size;
      if (options.augment == AugmentOn::device) {
        batch.groups[g].plans.resize(count);
        batch.groups[g].pixels.clear();
      } else {
        batch.groups[g].plans.clear();
        batch.groups[g].pixels.resize(count * static_cast<std::size_t>(size_px) * static_cast<std::size_t>(size_px) *
                                      3);
      }
    }
    batch.images.resize(options.augment == AugmentOn::device ? size : 0);
    pending.push_back(std::move(opened));
    if (++next_batch == sampler.batches_per_epoch()) {
      next_batch = 0;
      ++next_epoch;
    }
  }

  /// Waits for a picture to work on; nothing when the loader stops or has no more work. Holds the mutex.
  Pending* take(std::unique_lock<std::mutex>& lock, std::size_t& item) {
    while (!stop) {
      for (const auto& candidate : pending) {
        if (candidate->taken < candidate->wanted.size()) {
          item = candidate->taken++;
          return candidate.get();
        }
      }
      if (!at_end() && pending.size() < static_cast<std::size_t>(options.prefetch_batches)) {
        open_batch();
        ready.notify_one();  // an empty share of a batch is complete at once
        work.notify_all();
      } else {
        work.wait(lock);
      }
    }
    return nullptr;
  }

  void run() {
    Workspace workspace;
    std::unique_lock lock(mutex);
    std::size_t item = 0;
    try {
      while (Pending* task = take(lock, item)) {
        lock.unlock();
        std::exception_ptr failure;
        try {
          make_crops(*task, item, workspace);
        } catch (...) {
          failure = std::current_exception();
        }
        lock.lock();
        if (failure && (!task->error || item < task->failed_item)) {
          task->error = failure;
          task->failed_item = item;
        }
        if (++task->finished == task->wanted.size()) ready.notify_one();
      }
    } catch (...) {  // opening a batch failed, e.g. for want of memory
      if (!lock.owns_lock()) lock.lock();
      error = std::current_exception();
      stop = true;
      ready.notify_one();
      work.notify_all();
    }
  }

  void note_broken(const BrokenImage& image) {
    const std::lock_guard lock(mutex);
    if (!broken_indices.insert(image.index).second) return;
    ++broken.count;
    if (broken.entries.size() < BrokenImages::kMaxEntries) broken.entries.push_back(image);
    if (options.on_broken) options.on_broken(image);
    if (const auto error = too_many_broken(broken, source.size(), options.max_broken_share)) throw *error;
  }

  /// Decodes the picture that is asked for or, where that is broken, the next good one; returns its number. -1: it is
  /// broken and left out.
  std::int64_t decode(std::int64_t wanted, Image& image) {
    const bool left_out = options.broken_pictures == BrokenPictures::left_out;
    const std::int64_t tries = left_out ? 1 : std::min(source.size(), kMaxBrokenInARow);
    std::string reason;
    for (std::int64_t i = 0; i < tries; ++i) {
      const std::int64_t index = (wanted + i) % source.size();
      {
        const std::lock_guard lock(mutex);
        if (broken_indices.contains(index)) continue;
      }
      try {
        source.decode(index, image);
        require(image.height > 0 && image.width > 0, "loader", "the picture is empty");
        return index;
      } catch (const Error& failure) {
        if (options.broken_pictures == BrokenPictures::refused) throw;
        reason = failure.what();
      } catch (const std::bad_alloc&) {
        if (options.broken_pictures == BrokenPictures::refused) throw;
        reason = "there is no memory for it";
      }
      note_broken({index, source.name(index), reason});
    }
    if (left_out) return -1;
    const BrokenImages found = [&] {
      const std::lock_guard lock(mutex);
      return broken;
    }();
    const bool known = !found.entries.empty();
    fail("loader", "no picture can be decoded: {} in a row are broken; the first is {}: {}", tries,
         known ? found.entries.front().name : "unknown", known ? found.entries.front().reason : reason);
  }

  void make_crops(Pending& task, std::size_t item, Workspace& workspace) {
    Batch& batch = task.batch;
    const bool on_device = options.augment == AugmentOn::device;
    Image& image = on_device ? batch.images[item] : workspace.image;
    const std::int64_t index = decode(task.wanted[item], image);
    batch.samples[item] = index;
    batch.labels[item] = index < 0 ? -1 : source.label(index);
    int view = 0;
    for (HostCrops& group : batch.groups) {
      const std::size_t crop_size =
          static_cast<std::size_t>(group.size_px) * static_cast<std::size_t>(group.size_px) * 3;
      for (int v = 0; v < group.views; ++v, ++view) {
        const std::size_t crop = static_cast<std::size_t>(v) * task.wanted.size() + item;
        if (index < 0) {
          std::fill_n(group.pixels.data() + crop * crop_size, crop_size, std::uint8_t{0});
          continue;
        }
        const CropPlan plan = views.plan(image.height, image.width, view, static_cast<std::uint64_t>(batch.epoch),
                                         static_cast<std::uint64_t>(task.wanted[item]));
        if (on_device) {
          group.plans[crop] = plan;
          continue;
        }
        std::uint8_t* pixels = group.pixels.data() + crop * crop_size;
        augment_crop({.image = std::as_const(image).array(),
                      .plan = plan,
                      .output = {pixels, DType::uint8, {group.size_px, group.size_px, 3}}},
                     *workspace.stream);
      }
    }
  }

  void shut_down() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    work.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
};

Loader::Loader(const ImageSource& source, const SamplerOptions& sampler, ViewSet views, const LoaderOptions& options)
    : state_(std::make_unique<State>(source, sampler, std::move(views), options)) {
  require(sampler.size == source.size(), "loader", "the sampler counts {} pictures, the source has {}", sampler.size,
          source.size());
  require(!state_->views.groups.empty() && state_->views.plan, "loader", "no crops are asked for");
  for (const auto& [crops, size_px] : state_->views.groups) {
    require(crops >= 1 && size_px >= 1, "loader", "a group of crops needs views and a size; got {} and {}", crops,
            size_px);
  }
  require(options.max_broken_share >= 0 && options.max_broken_share <= 1, "loader",
          "max_broken_share must be from 0 to 1; got {}", options.max_broken_share);
  require(options.broken_pictures != BrokenPictures::left_out || options.augment == AugmentOn::host, "loader",
          "broken pictures can be left out only where crops are made on the host");
  require(options.threads >= 0 && options.prefetch_batches >= 1, "loader",
          "threads must not be negative and prefetch at least 1; got {} and {}", options.threads,
          options.prefetch_batches);
  require(options.epoch >= 0 && options.batch >= 0 && options.batch < state_->sampler.batches_per_epoch(), "loader",
          "there is no batch {} in epoch {}; an epoch has {}", options.batch, options.epoch,
          state_->sampler.batches_per_epoch());
  const unsigned processors = std::max(1U, std::thread::hardware_concurrency());
  const unsigned threads = options.threads > 0 ? static_cast<unsigned>(options.threads) : processors;
  try {
    for (unsigned i = 0; i < threads; ++i) state_->threads.emplace_back([state = state_.get()] { state->run(); });
  } catch (...) {
    state_->shut_down();
    throw;
  }
}

Loader::~Loader() { state_->shut_down(); }

bool Loader::next(Batch& batch) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  const auto start = std::chrono::steady_clock::now();
  const auto complete = [&] {
    return state.error ||
           (state.pending.empty() ? state.at_end()
                                  : state.pending.front()->finished == state.pending.front()->wanted.size());
  };
  state.ready.wait(lock, complete);
  const std::chrono::duration<double, std::milli> waited = std::chrono::steady_clock::now() - start;
  state.total_wait_ms += waited.count();
  if (state.error) std::rethrow_exception(state.error);
  if (state.pending.empty()) return false;
  std::unique_ptr<State::Pending> front = std::move(state.pending.front());
  state.pending.pop_front();
  if (front->error) {
    state.error = front->error;
    state.stop = true;
    state.work.notify_all();
    std::rethrow_exception(state.error);
  }
  std::swap(batch, front->batch);
  batch.wait_ms = waited.count();
  state.spare.push_back(std::move(front));
  state.work.notify_all();
  return true;
}

std::int64_t Loader::batches_per_epoch() const { return state_->sampler.batches_per_epoch(); }

BrokenImages Loader::broken() const {
  const std::lock_guard lock(state_->mutex);
  return state_->broken;
}

double Loader::total_wait_ms() const {
  const std::lock_guard lock(state_->mutex);
  return state_->total_wait_ms;
}

}  // namespace dino
