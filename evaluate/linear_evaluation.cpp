#include "evaluate/linear_evaluation.h"

#include "data/broken_of_ranks.h"
#include "data/fingerprint.h"
#include "evaluate/held_out.h"
#include "kernels/common/parallel.h"
#include "train/ranks.h"
#include "train/stop_signal.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

namespace dino {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kWhere = "linear";

Json to_json(const std::vector<LinearScore>& scores) {
  Json rows = Json::array();
  for (const LinearScore& score : scores) rows.push_back({score.top1, score.top5});
  return rows;
}

std::vector<LinearScore> scores_from(const Json& rows) {
  std::vector<LinearScore> scores;
  for (const Json& row : rows) scores.push_back({row.at(0).get<double>(), row.at(1).get<double>()});
  return scores;
}

Json to_json(const std::vector<LinearEpoch>& epochs) {
  Json rows = Json::array();
  for (const LinearEpoch& epoch : epochs) {
    Json loss = Json::array();
    // JSON knows no infinity; null stands for a loss that is none.
    for (const double value : epoch.loss) loss.push_back(std::isfinite(value) ? Json(value) : Json());
    rows.push_back({{"loss", loss}, {"test", to_json(epoch.test)}, {"held_out", to_json(epoch.held_out)}});
  }
  return rows;
}

std::vector<LinearEpoch> epochs_from(const Json& rows) {
  std::vector<LinearEpoch> epochs;
  for (const Json& row : rows) {
    LinearEpoch epoch{.test = scores_from(row.at("test")), .held_out = scores_from(row.at("held_out"))};
    for (const Json& value : row.at("loss"))
      epoch.loss.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
    epochs.push_back(std::move(epoch));
  }
  return epochs;
}

std::int32_t largest_label(const ImageSource& images, const char* what) {
  std::int32_t largest = -1;
  for (std::int64_t i = 0; i < images.size(); ++i) {
    require(images.label(i) >= 0, kWhere, "the {} picture {} has no class", what, images.name(i));
    largest = std::max(largest, images.label(i));
  }
  return largest;
}

/// One run: the pictures, the classifiers and what they have reached.
class LinearRun {
 public:
  LinearRun(Context& context, Communicator& communicator, const Vit& vit, const ParameterStore& store, Network network,
            const ImageSource& train, const ImageSource& test, const LinearEvaluationOptions& options,
            const LinearProgress& progress)
      : context_(context),
        communicator_(communicator),
        vit_(vit),
        store_(store),
        network_(network),
        test_(test),
        options_(options),
        progress_(progress) {
    options.probe.check();
    options.features.kind.check(vit.config());
    const HeldOut split = options.chosen_on == ChosenOn::held_out ? hold_out_tenth(train) : HeldOut{};
    if (options.chosen_on == ChosenOn::held_out) {
      known_ = std::make_unique<Subset>(train, split.known);
      asked_ = std::make_unique<Subset>(train, split.asked);
    }
    train_ = known_ ? known_.get() : &train;
    result_.classes = 1 + std::max(largest_label(train, "training"), largest_label(test, "test"));
    result_.width = options.features.kind.width(vit.config());
    probe_.emplace(context, communicator, result_.width, result_.classes, options.probe);
  }

  LinearEvaluation run() {
    if (!options_.state.empty() || communicator_.size() > 1) identity_ = make_identity();
    require_same_on_ranks();
    if (writes()) open_state();
    share_state();
    const FeatureTable test = extract(test_, "test images");
    result_.test_images = test.rows();
    const FeatureTable asked = asked_ ? extract(*asked_, "held-out images") : FeatureTable{};
    result_.held_out_images = asked.rows();
    try {
      const auto after_epoch = [&](std::vector<double> loss) {
        LinearEpoch epoch{.loss = std::move(loss), .test = probe_->evaluate(test.values, test.labels)};
        if (asked_) epoch.held_out = probe_->evaluate(asked.values, asked.labels);
        result_.epochs.push_back(std::move(epoch));
        save_state();
      };
      if (static_cast<int>(result_.epochs.size()) < options_.probe.epochs) {
        options_.cached ? train_cached(after_epoch) : train_augmented(after_epoch);
      }
    } catch (const Interrupted&) {
      if (result_.epochs.empty()) throw;
    }
    choose_best();
    return std::move(result_);
  }

 private:
  template <typename AfterEpoch>
  void train_augmented(const AfterEpoch& after_epoch) {
    const LinearProbeOptions& probe = options_.probe;
    BrokenOfRanks broken(communicator_, train_->size(), 1, nullptr);
    Loader loader(*train_,
                  {.size = train_->size(),
                   .batch = probe.batch,
                   .rank = communicator_.rank(),
                   .ranks = communicator_.size(),
                   .shuffle = true,
                   .drop_last = false,
                   .seed = probe.seed},
                  linear_probe_views(options_.features.crop_px, probe.seed),
                  {.threads = options_.features.threads,
                   .epoch = static_cast<std::int64_t>(result_.epochs.size()),
                   .end_epoch = probe.epochs,
                   .on_broken = [&](const BrokenImage& image) { broken.add(image); }});
    result_.train_images = train_->size();
    Batch batch;
    std::vector<float> rows;
    EpochLoss loss(probe_->count());
    std::int64_t done = static_cast<std::int64_t>(result_.epochs.size()) * train_->size();
    const std::int64_t extracted_broken = result_.broken_images;
    while (loader.next(batch)) {
      check_signals();
      const std::int64_t pictures = std::min(global_batch(), train_->size() - batch.index * global_batch());
      rows.clear();
      if (batch.size() > 0) {
        const int side = options_.features.crop_px;
        const ConstArray pixels = batch.crops(0).reshaped({batch.size(), side, side, 3});
        compute_features(context_, vit_, store_, network_, pixels, options_.features.kind, rows);
      }
      loss.add(probe_->step(rows, batch.labels, pictures, batch.epoch), pictures);
      done += pictures;
      if (batch.index + 1 == loader.batches_per_epoch()) {
        broken.exchange();
        result_.broken_images = extracted_broken + broken.found().count;
        after_epoch(loss.take(communicator_));
      }
      report(done, train_->size());
    }
  }

  template <typename AfterEpoch>
  void train_cached(const AfterEpoch& after_epoch) {
    const LinearProbeOptions& probe = options_.probe;
    const FeatureTable table = extract(*train_, "training images");
    result_.train_images = table.rows();
    const auto width = static_cast<std::size_t>(table.width);
    std::vector<float> rows;
    std::vector<std::int32_t> labels;
    EpochLoss loss(probe_->count());
    for (auto epoch = static_cast<std::int64_t>(result_.epochs.size()); epoch < probe.epochs; ++epoch) {
      const std::vector<std::int64_t> order = epoch_order(table.rows(), probe.seed, static_cast<std::uint64_t>(epoch));
      for (std::int64_t begin = 0; begin < table.rows(); begin += global_batch()) {
        check_signals();
        const std::int64_t pictures = std::min(global_batch(), table.rows() - begin);
        const auto [first_mine, end_mine] = thread_range(pictures, communicator_.rank(), communicator_.size());
        rows.clear();
        labels.clear();
        for (auto i = static_cast<std::size_t>(begin + first_mine); i < static_cast<std::size_t>(begin + end_mine);
             ++i) {
          const auto row = static_cast<std::size_t>(order[i]);
          const auto first = table.values.begin() + static_cast<std::ptrdiff_t>(row * width);
          rows.insert(rows.end(), first, first + static_cast<std::ptrdiff_t>(width));
          labels.push_back(table.labels[row]);
        }
        loss.add(probe_->step(rows, labels, pictures, epoch), pictures);
      }
      after_epoch(loss.take(communicator_));
      report((epoch + 1) * table.rows(), table.rows());
    }
  }

  bool writes() const { return communicator_.rank() == 0; }
  /// Pictures of a step on all ranks.
  std::int64_t global_batch() const { return std::int64_t{options_.probe.batch} * communicator_.size(); }
  /// Throws Interrupted on every rank when a signal has reached any.
  void check_signals() const {
    if (largest_of_ranks(communicator_, StopSignal::received(), "signals") != 0) throw Interrupted();
  }

  /// Mean of the batches' losses, weighted by their pictures. Each rank adds its share of a batch's loss.
  class EpochLoss {
   public:
    explicit EpochLoss(int count) : sum_(static_cast<std::size_t>(count), 0.0) {}
    void add(const std::vector<double>& batch_loss, std::int64_t pictures) {
      for (std::size_t l = 0; l < sum_.size(); ++l) sum_[l] += batch_loss[l] * static_cast<double>(pictures);
      pictures_ += pictures;
    }
    /// Over all ranks; every rank calls it.
    std::vector<double> take(Communicator& communicator) {
      std::vector<double> all(sum_.size() * static_cast<std::size_t>(communicator.size()));
      communicator.all_gather_host(std::as_bytes(std::span(sum_)), std::as_writable_bytes(std::span(all)),
                                   "losses of the linear classifiers");
      std::vector<double> mean(sum_.size(), 0.0);
      for (std::size_t i = 0; i < all.size(); ++i) mean[i % mean.size()] += all[i];
      for (double& value : mean) value /= static_cast<double>(pictures_);
      std::fill(sum_.begin(), sum_.end(), 0.0);
      pictures_ = 0;
      return mean;
    }

   private:
    std::vector<double> sum_;
    std::int64_t pictures_ = 0;
  };

  FeatureTable extract(const ImageSource& images, const std::string& what) {
    FeatureOptions options = options_.features;
    options.normalized = false;
    FeatureTable table =
        extract_features(context_, communicator_, vit_, store_, network_, images, options,
                         [&](std::int64_t done, std::int64_t total, double wait_s) {
                           StopSignal::check();
                           if (progress_)
                             progress_(what, done, total, fmt::format("| waited {:.1f} s for data", wait_s));
                         });
    result_.broken_images += table.broken.count;
    return table;
  }

  void report(std::int64_t done, std::int64_t each) {
    if (!progress_) return;
    std::string details;
    if (!result_.epochs.empty()) {
      double best = 0;
      for (const LinearScore& score : scores_of(result_.epochs.back())) best = std::max(best, score.top1);
      details = fmt::format("| epoch {} of {}, top-1 {:.2f} %", result_.epochs.size(), options_.probe.epochs, best);
    }
    progress_("linear classifiers", done, each * options_.probe.epochs, details);
  }

  static const std::vector<LinearScore>& scores_of(const LinearEpoch& epoch) {
    return epoch.held_out.empty() ? epoch.test : epoch.held_out;
  }

  void choose_best() {
    double best = -1;
    for (std::size_t e = 0; e < result_.epochs.size(); ++e) {
      const auto& scores = scores_of(result_.epochs[e]);
      for (std::size_t l = 0; l < scores.size(); ++l) {
        if (scores[l].top1 <= best) continue;
        best = scores[l].top1;
        result_.best_epoch = e;
        result_.best_rate = l;
      }
    }
  }

  /// Everything that must be the same for a run to go on.
  Json make_identity() const {
    const FeatureOptions& f = options_.features;
    const LinearProbeOptions& p = options_.probe;
    return {{"weights", weights_fingerprint(context_, store_, network_)},
            {"learning_rates", p.learning_rates},
            {"epochs", p.epochs},
            {"batch", global_batch()},
            {"momentum", p.momentum},
            {"seed", p.seed},
            {"blocks", f.kind.blocks},
            {"average_patches", f.kind.average_patches},
            {"crop_px", f.crop_px},
            {"short_side_px", f.short_side_px},
            {"cached", options_.cached},
            {"chosen_on", options_.chosen_on == ChosenOn::test ? "test" : "held_out"},
            {"train_images", train_->size()},
            {"test_images", test_.size()},
            {"checksum_of_train_names", fingerprint_of(*train_)},
            {"checksum_of_test_names", fingerprint_of(test_)},
            {"classes", result_.classes}};
  }

  void open_state() {
    if (options_.state.empty()) {
      require(!options_.resume, kWhere, "there is no state file to resume from; try --state FILE");
      return;
    }
    const std::string name = options_.state.string();
    const bool exists = std::filesystem::exists(options_.state);
    require(exists || !options_.resume, kWhere, "there is no {} to resume from; try without --resume", name);
    require(!exists || options_.resume, kWhere, "{} is there already; try --resume to go on, or another name", name);
    if (!exists) return save_state();  // finds out now whether it can be written
    const SafetensorsFile file = SafetensorsFile::read(options_.state);
    const Json stored = Json::parse(file.metadata("linear"), nullptr, false);
    require(stored.is_object(), kWhere, "{} holds no state of a linear evaluation", name);
    for (const auto& [key, value] : identity_.items()) {
      require(stored.contains(key) && stored[key] == value, kWhere,
              "{} belongs to another run: its {} is {}, not {}; try another --state", name, key,
              stored.contains(key) ? stored[key].dump() : "missing", value.dump());
    }
    probe_->set_state(probe_->state_of(file));
    result_.epochs = epochs_from(Json::parse(file.metadata("epochs")));
  }

  /// Throws Error on every rank, naming the first difference, where what is to be done is not the same on all.
  void require_same_on_ranks() {
    if (communicator_.size() == 1) return;
    std::string first = identity_.dump();
    share(first);
    const Json of_first = Json::parse(first);
    std::string difference;
    for (const auto& [key, value] : identity_.items()) {
      if (difference.empty() && of_first.at(key) != value)
        difference = fmt::format("rank {} has {} {}, rank 0 has {}", communicator_.rank(), key, value.dump(),
                                 of_first.at(key).dump());
    }
    difference.resize(512);
    std::vector<char> all(difference.size() * static_cast<std::size_t>(communicator_.size()));
    communicator_.all_gather_host(std::as_bytes(std::span(difference)), std::as_writable_bytes(std::span(all)),
                                  "what is to be done");
    for (std::size_t begin = 0; begin < all.size(); begin += difference.size()) {
      const std::string text(all.data() + begin);
      require(text.empty(), kWhere, "the ranks do not do the same: {}; try the same weights, images and options on all",
              text);
    }
  }

  /// Every rank gets the classifiers and scores of rank 0, which may have read them.
  void share_state() {
    if (communicator_.size() == 1) return;
    std::string epochs = to_json(result_.epochs).dump();
    share(epochs);
    LinearProbe::State state = probe_->state();
    for (std::vector<float>* values : {&state.parameters, &state.momentum})
      communicator_.broadcast_host(std::as_writable_bytes(std::span(*values)), 0, kState);
    probe_->set_state(state);
    if (!writes()) result_.epochs = epochs_from(Json::parse(epochs));
  }

  void share(std::string& text) {
    std::uint64_t size = text.size();
    communicator_.broadcast_host(std::as_writable_bytes(std::span(&size, 1)), 0, kState);
    text.resize(size);
    communicator_.broadcast_host(std::as_writable_bytes(std::span(text)), 0, kState);
  }

  void save_state() {
    if (options_.state.empty() || !writes()) return;
    const LinearProbe::State state = probe_->state();
    write_safetensors(options_.state, probe_->arrays_of(state),
                      {{"linear", identity_.dump()}, {"epochs", to_json(result_.epochs).dump()}});
  }

  static constexpr const char* kState = "the state of rank 0";

  Context& context_;
  Communicator& communicator_;
  const Vit& vit_;
  const ParameterStore& store_;
  Network network_;
  const ImageSource& test_;
  const LinearEvaluationOptions& options_;
  const LinearProgress& progress_;
  std::unique_ptr<Subset> known_, asked_;
  const ImageSource* train_ = nullptr;
  std::optional<LinearProbe> probe_;
  Json identity_;
  LinearEvaluation result_;
};

}  // namespace

LinearEvaluation evaluate_linear(Context& context, Communicator& communicator, const Vit& vit,
                                 const ParameterStore& store, Network network, const ImageSource& train,
                                 const ImageSource& test, const LinearEvaluationOptions& options,
                                 const LinearProgress& progress) {
  return LinearRun(context, communicator, vit, store, network, train, test, options, progress).run();
}

}  // namespace dino
