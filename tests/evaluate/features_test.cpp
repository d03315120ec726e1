#include "evaluate/features.h"

#include "data/png.h"
#include "engine/communicators/threads.h"
#include "evaluate/held_out.h"
#include "evaluate/knn_monitor.h"
#include "tests/evaluate/flat.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_network.h"
#include "tests/support/tiny_training.h"
#include "train/stop_signal.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

/// Drawn pictures of which some cannot be read.
class SomeBroken final : public ImageSource {
 public:
  SomeBroken(std::int64_t count, std::set<std::int64_t> broken) : good_(count), broken_(std::move(broken)) {}
  std::int64_t size() const override { return good_.size(); }
  void decode(std::int64_t index, Image& image) const override {
    require(!broken_.contains(index), "decode", "{} is broken", name(index));
    good_.decode(index, image);
  }
  std::int32_t label(std::int64_t index) const override { return static_cast<std::int32_t>(index); }
  std::string name(std::int64_t index) const override { return good_.name(index); }

 private:
  DrawnPictures good_;
  std::set<std::int64_t> broken_;
};

FeatureTable pixels(const ImageSource& images) { return pixel_features(images, 8, 2); }

FeatureTable features_of_kind(const ImageSource& images, const FeatureKind& kind) {
  const auto context = make_cpu_context();
  ParameterLayout layout;
  const Vit vit(layout, {.embed_dim = 24, .depth = 1, .heads = 2, .patch_px = 8, .image_px = 16});
  ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
  store.initialize(3);
  return extract_features(*context, vit, store, Network::student, images,
                          {.crop_px = 16, .short_side_px = 18, .batch = 4, .threads = 2, .kind = kind});
}

FeatureTable network_features(const ImageSource& images) { return features_of_kind(images, {}); }

}  // namespace

TEST_CASE("Features of a set with broken pictures are those of its good ones") {
  const SomeBroken all(11, {});
  const SomeBroken some(11, {0, 4, 5, 10});
  for (const auto& features : {pixels, network_features}) {
    const FeatureTable expected = features(all);
    const FeatureTable got = features(some);
    REQUIRE(expected.rows() == 11);
    CHECK(describe_broken(expected).empty());
    CHECK(got.labels == std::vector<std::int32_t>{1, 2, 3, 6, 7, 8, 9});
    REQUIRE(got.values.size() == static_cast<std::size_t>(7 * got.width));
    CHECK(got.broken.count == 4);
    CHECK(describe_broken(got).find("left out 4 of 11 images") == 0);
    for (std::int64_t row = 0; row < got.rows(); ++row) {
      const auto* reference = expected.values.data() + got.labels[static_cast<std::size_t>(row)] * got.width;
      CHECK(std::equal(reference, reference + got.width, got.values.data() + row * got.width));
    }
  }
}

TEST_CASE("Features of a set without any good picture are an error") {
  const SomeBroken none(3, {0, 1, 2});
  CHECK_THROWS_AS(pixels(none), Error);
  CHECK_THROWS_AS(network_features(none), Error);
}

TEST_CASE("Linear features are the CLS tokens of the last blocks, or CLS and patch average interleaved") {
  const TinyNetwork net(16, 5);
  const Vit& vit = net.vit;
  CHECK(FeatureKind::linear_probe(VitConfig::small()) == FeatureKind{.blocks = 4, .average_patches = false});
  CHECK(FeatureKind::linear_probe(VitConfig::base()) == FeatureKind{.blocks = 1, .average_patches = true});
  CHECK(FeatureKind{.blocks = 4, .average_patches = false}.width(VitConfig::small()) == 1536);
  CHECK_THROWS_AS((FeatureKind{.blocks = 2, .average_patches = true}.check(vit.config())), Error);
  CHECK_THROWS_AS((FeatureKind{.blocks = 4, .average_patches = false}.check(vit.config())), Error);

  std::vector<std::uint8_t> pixels(2 * 16 * 16 * 3);
  Random random(1, RandomStream::test);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random.below(256));
  const ConstArray batch(pixels.data(), Shape{2, 16, 16, 3});
  std::vector<float> three, average;
  compute_features(*net.context, vit, net.store, Network::student, batch, {.blocks = 3, .average_patches = false},
                   three);
  compute_features(*net.context, vit, net.store, Network::student, batch, {.blocks = 1, .average_patches = true},
                   average);
  REQUIRE(three.size() == 2 * 3 * 24);
  REQUIRE(average.size() == 2 * 2 * 24);

  Tape tape(*net.context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, net.store);
  CropPacker packer(*net.context, 8);
  const std::vector<Tensor> tokens = vit.last_tokens(tape, weights, packer.pack({{net.context->from_host(batch)}}), 3);
  std::vector<double> expected_three, expected_average;
  for (std::int64_t i = 0; i < 2; ++i) {
    for (const Tensor& block : tokens) {
      for (std::int64_t c = 0; c < 24; ++c) expected_three.push_back(load_double(block.const_array(), i * 5 * 24 + c));
    }
    for (std::int64_t c = 0; c < 24; ++c) {
      double sum = 0;
      for (std::int64_t n = 1; n < 5; ++n) sum += load_double(tokens[2].const_array(), (i * 5 + n) * 24 + c);
      expected_average.push_back(load_double(tokens[2].const_array(), i * 5 * 24 + c));
      expected_average.push_back(sum / 4);
    }
  }
  check_close(flat(three), flat(expected_three), 1e-6, "CLS of three blocks");
  check_close(flat(average), flat(expected_average), 1e-6, "CLS and average");
}

TEST_CASE("Features of more blocks than there are take no memory") {
  // As a file of features from elsewhere may ask for: a terabyte for these pictures.
  CHECK(
      contains(error_of([] { features_of_kind(SomeBroken(11, {}), {.blocks = 1'000'000'000}); }), "the network has 1"));
}

TEST_CASE("A tenth is held out, of each class") {
  // Classes 0 and 1 in turn.
  const DrawnPictures images(45);
  const HeldOut split = hold_out_tenth(images);
  CHECK(split.asked == std::vector<std::int64_t>{2, 3, 22, 23, 42, 43});
  CHECK(split.known.size() == 39);
  std::set<std::int64_t> both(split.known.begin(), split.known.end());
  both.insert(split.asked.begin(), split.asked.end());
  CHECK(both.size() == 45);
  const Subset asked(images, split.asked);
  CHECK((asked.size() == 6 && asked.label(1) == 1 && asked.name(1) == images.name(3)));

  const SomeBroken alone(4, {});  // a class each
  CHECK_THROWS_AS(hold_out_tenth(alone), Error);
}

TEST_CASE("Of many pictures some are chosen, evenly") {
  const std::vector<std::int64_t> entries{3, 5, 7, 11, 13, 17, 19};
  CHECK(evenly_chosen(entries, 0) == entries);
  CHECK(evenly_chosen(entries, 7) == entries);
  CHECK(evenly_chosen(entries, 100) == entries);
  CHECK(evenly_chosen(entries, 3) == std::vector<std::int64_t>{3, 7, 13});
  CHECK(evenly_chosen(entries, 1) == std::vector<std::int64_t>{3});
  CHECK(evenly_chosen({}, 5).empty());
  std::vector<std::int64_t> many(1000);  // ten classes of a hundred, one after the other
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int64_t>(i);
  std::vector<int> of_class(10);
  for (const std::int64_t i : evenly_chosen(many, 250)) ++of_class[static_cast<std::size_t>(i / 100)];
  CHECK(of_class == std::vector<int>(10, 25));
}

TEST_CASE("Sets are the same where their pictures are") {
  CHECK(same_pictures(DrawnPictures(3), DrawnPictures(3)));
  CHECK_FALSE(same_pictures(DrawnPictures(3), DrawnPictures(4)));
  const DrawnPictures images(4);
  CHECK_FALSE(same_pictures(Subset(images, {0, 1, 2}), Subset(images, {1, 2, 3})));
}

TEST_CASE("The monitor of a folder without splits does not compare pictures with themselves") {
  // Two pictures a class, not alike: the right class is only found where a picture finds itself.
  const TemporaryFolder folder;
  const DrawnPictures drawn(40);
  Image picture;
  for (int i = 0; i < 40; ++i) {
    drawn.decode(i, picture);
    const auto class_folder = folder.path() / ("class" + std::to_string(i * 7919 % 40 / 2));
    std::filesystem::create_directories(class_folder);
    write_png(class_folder / (std::to_string(i) + ".png"), picture.rgb, picture.height, picture.width, 3);
  }
  TrainConfig config = tiny_config();
  config.data_path = folder.path().string();
  config.knn_every = 1;
  config.knn_k = {1};
  const auto context = make_cpu_context();
  SingleProcess communicator;
  const Evaluator monitor = make_knn_monitor(*context, communicator, config);
  REQUIRE(monitor);
  StudentTeacher networks(*context, communicator, config, DType::float32);
  const Evaluation evaluation = monitor(networks);
  CHECK(evaluation.summary.find("a tenth of the training images") != std::string::npos);
  CHECK(evaluation.score < 60);  // 100 where each finds itself
  CHECK((*evaluation.numbers)["pictures"] == 20);
  REQUIRE(evaluation.numbers->contains("pixels"));
  CHECK((*evaluation.numbers)["pixels"][0]["k"] == 1);
  CHECK((*evaluation.numbers)["pixels"][0]["top1"] < 60);
  CHECK(*monitor(networks).numbers == *evaluation.numbers);
}

namespace {

/// Features by so many ranks, and what each one threw.
std::vector<std::string> features_on_ranks(int ranks, const ImageSource& images, std::vector<FeatureTable>& tables,
                                           const std::function<FeatureProgress(int rank)>& progress) {
  ThreadGroup group(ranks, 60);
  tables.resize(static_cast<std::size_t>(ranks));
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(group, rank);
      try {
        const auto context = make_cpu_context();
        ParameterLayout layout;
        const Vit vit(layout, {.embed_dim = 24, .depth = 1, .heads = 2, .patch_px = 8, .image_px = 16});
        ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
        store.initialize(3);
        tables[static_cast<std::size_t>(rank)] =
            extract_features(*context, communicator, vit, store, Network::student, images,
                             {.crop_px = 16, .short_side_px = 18, .batch = 4, .threads = 1}, progress(rank));
      } catch (const Interrupted&) {
        errors[static_cast<std::size_t>(rank)] = "interrupted";
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace

TEST_CASE("Ranks that share the pictures get the features of one") {
  const auto none = [](int) { return FeatureProgress(); };
  for (const std::set<std::int64_t>& broken : {std::set<std::int64_t>{}, std::set<std::int64_t>{0, 4, 5, 10}}) {
    const SomeBroken images(23, broken);
    const FeatureTable expected = network_features(images);
    for (const int ranks : {1, 2, 3, 4}) {
      std::vector<FeatureTable> tables;
      for (const std::string& error : features_on_ranks(ranks, images, tables, none)) REQUIRE(error == "");
      for (const FeatureTable& table : tables) {
        CHECK(table.labels == expected.labels);
        CHECK(table.samples == expected.samples);
        CHECK(table.broken.count == static_cast<std::int64_t>(broken.size()));
        REQUIRE(table.values.size() == expected.values.size());
        // Products of other numbers of rows may add up in another order.
        check_close(table.array(), expected.array(), 1e-5, "features");
        CHECK(table.values == tables[0].values);
      }
    }
  }
  const SomeBroken two(2, {});  // fewer pictures than ranks
  std::vector<FeatureTable> tables;
  for (const std::string& error : features_on_ranks(4, two, tables, none)) REQUIRE(error == "");
  for (const FeatureTable& table : tables) CHECK(table.samples == std::vector<std::int64_t>{0, 1});
}

TEST_CASE("A rank whose every picture is broken goes on with what the others have") {
  const auto none = [](int) { return FeatureProgress(); };
  std::vector<FeatureTable> tables;
  // Of three ranks, the second has 4 to 7.
  const SomeBroken some(11, {2, 4, 5, 6, 7});
  const FeatureTable expected = network_features(some);
  for (const std::string& error : features_on_ranks(3, some, tables, none)) REQUIRE(error == "");
  for (const FeatureTable& table : tables) {
    CHECK(table.samples == std::vector<std::int64_t>{0, 1, 3, 8, 9, 10});
    CHECK(table.labels == expected.labels);
    CHECK(table.broken.count == 5);
    CHECK(describe_broken(table) == describe_broken(expected));
    check_close(table.array(), expected.array(), 1e-5, "features");
  }
  const SomeBroken all(5, {0, 1, 2, 3, 4});
  const std::string alone = error_of([&] { network_features(all); });
  CHECK(alone ==
        "[features] no picture can be read: all 5 are broken; the first is drawn picture 0: [decode] drawn picture 0 "
        "is broken");
  for (const std::string& error : features_on_ranks(3, all, tables, none)) CHECK(error == alone);
}

TEST_CASE("Features of a class of which none can be read are those of the others") {
  // More in a row than a loader looks through for another one.
  std::set<std::int64_t> broken;
  for (std::int64_t i = 100; i < 1200; ++i) broken.insert(i);
  const FeatureTable table = pixels(SomeBroken(1300, broken));
  CHECK(table.rows() == 200);
  CHECK(table.samples[100] == 1200);
  CHECK(table.broken.count == 1100);
}

TEST_CASE("What one rank meets while features are made, all meet") {
  const SomeBroken images(23, {});
  std::vector<FeatureTable> tables;
  const auto failing = [](int rank) -> FeatureProgress {
    return [rank](std::int64_t, std::int64_t, double) { require(rank != 1, "features", "the disk went away"); };
  };
  for (const std::string& error : features_on_ranks(3, images, tables, failing))
    CHECK(error == "[features] rank 1 failed: [features] the disk went away");
  const auto stopped = [](int rank) -> FeatureProgress {
    return [rank](std::int64_t, std::int64_t, double) {
      if (rank == 2) throw Interrupted();
    };
  };
  for (const std::string& error : features_on_ranks(3, images, tables, stopped)) CHECK(error == "interrupted");
}
