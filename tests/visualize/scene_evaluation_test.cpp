// The comparison of networks on scenes, against numbers worked out here from the pictures and their masks.
#include "visualize/scene_evaluation.h"

#include "data/png.h"
#include "models/backbone.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"
#include "visualize/attention.h"

#include <algorithm>
#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kThreshold = 0.6;
const std::vector<std::string> kObjects = {"bird__owl", "bird__wren", "fish__cod"};

/// An object on a background that is another one in each picture; its sides lie on the borders of patches.
struct Scene {
  std::size_t object = 0;
  Image image;
  std::vector<std::uint8_t> mask;
  std::vector<double> shares;  // of each patch

  Scene(std::size_t the_object, int number, int side_px, int patch_px) : object(the_object) {
    const int top = 1 + number % 3, left = 1 + static_cast<int>(object), grid = side_px / patch_px;
    image.resize(side_px, side_px);
    shares.resize(static_cast<std::size_t>(grid * grid));
    for (int y = 0; y < side_px; ++y) {
      for (int x = 0; x < side_px; ++x) {
        const int row = y / patch_px - top, column = x / patch_px - left;
        const bool inside = row >= 0 && row < 3 && column >= 0 && column < 4;
        const int noise = (7 * x + 13 * y + 29 * number) % 24;
        for (int c = 0; c < 3; ++c) {
          const int object_level = c == static_cast<int>(object) ? 220 : 60;
          image.rgb[static_cast<std::size_t>((y * side_px + x) * 3 + c)] =
              static_cast<std::uint8_t>((inside ? object_level : 90 + 5 * (number % 5)) + noise);
        }
        mask.push_back(inside ? 255 : 0);
        shares[static_cast<std::size_t>(y / patch_px * grid + x / patch_px)] = inside ? 1 : 0;
      }
    }
  }
};

/// The folder of a data set of scenes, and what is in it.
struct Studio {
  TemporaryFolder folder;
  std::vector<Scene> train, val, test;

  explicit Studio(const VitConfig& config) {
    const auto draw = [&](const std::string& split, int first, int count) {
      std::vector<Scene> scenes;
      for (std::size_t object = 0; object < kObjects.size(); ++object) {
        for (int n = first; n < first + count; ++n) {
          const Scene& scene = scenes.emplace_back(object, n, config.image_px, config.patch_px);
          const std::string name = fmt::format("{}/{}/{:03}.png", split, kObjects[object], n);
          folder.write(name, encode_png(scene.image.rgb, config.image_px, config.image_px, 3));
          if (split != "train")
            folder.write("masks/" + name, encode_png(scene.mask, config.image_px, config.image_px, 1));
        }
      }
      return scenes;
    };
    train = draw("train", 0, 4);
    val = draw("val", 10, 2);
    test = draw("test", 20, 3);
  }
};

std::vector<double> features_of(Context& context, const Vit& vit, const ParameterStore& store, const Scene& scene) {
  std::vector<float> row;
  const ConstArray pixels = scene.image.array().reshaped({1, scene.image.height, scene.image.width, 3});
  compute_features(context, vit, store, Network::student, pixels, {}, row);
  std::vector<double> features(row.begin(), row.end());
  double square = 0;
  for (const double x : features) square += x * x;
  for (double& x : features) x /= std::sqrt(square);
  return features;
}

/// Percent of the scenes whose nearest one among `known` shows the same object, and one of the same class.
std::pair<double, double> nearest_percent(Context& context, const Vit& vit, const ParameterStore& store,
                                          const std::vector<Scene>& known, const std::vector<Scene>& asked) {
  std::vector<std::vector<double>> bank;
  for (const Scene& scene : known) bank.push_back(features_of(context, vit, store, scene));
  double objects = 0, classes = 0;
  for (const Scene& scene : asked) {
    const std::vector<double> query = features_of(context, vit, store, scene);
    double best = -2;
    std::size_t object = 0;
    for (std::size_t i = 0; i < bank.size(); ++i) {
      double cosine = 0;
      for (std::size_t c = 0; c < query.size(); ++c) cosine += query[c] * bank[i][c];
      if (cosine > best) object = known[i].object;
      best = std::max(best, cosine);
    }
    objects += object == scene.object ? 1 : 0;
    classes += kObjects[object].substr(0, 4) == kObjects[scene.object].substr(0, 4) ? 1 : 0;
  }
  return {100 * objects / static_cast<double>(asked.size()), 100 * classes / static_cast<double>(asked.size())};
}

/// For each head, means over the scenes: mass on the object, and overlap of the mask with it.
struct Coverage {
  std::vector<double> mass, iou;
  double share = 0;
};

Coverage coverage_of(Context& context, const Vit& vit, const ParameterStore& store, const std::vector<Scene>& scenes) {
  const auto heads = static_cast<std::size_t>(vit.config().heads);
  Coverage coverage{std::vector<double>(heads), std::vector<double>(heads)};
  const auto count = static_cast<double>(scenes.size());
  for (const Scene& scene : scenes) {
    Tape tape(context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, store);
    const AttentionMaps maps = compute_attention(vit, weights, scene.image, {.threshold = 0});
    const std::size_t patches = scene.shares.size();
    for (std::size_t h = 0; h < heads; ++h) {
      const auto map = maps.map_of(static_cast<int>(h));
      std::vector<std::pair<double, double>> sorted;  // attention, share
      double all = 0, on_object = 0, object = 0;
      for (std::size_t p = 0; p < patches; ++p) {
        sorted.emplace_back(map[p], scene.shares[p]);
        all += map[p];
        on_object += map[p] * scene.shares[p];
        object += scene.shares[p];
      }
      // From the strongest on, until they hold the mass.
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      double mass = 0, kept = 0, both = 0;
      for (std::size_t p = 0; p < patches && mass < kThreshold * all; ++p) {
        mass += sorted[p].first;
        kept += 1;
        both += sorted[p].second;
      }
      coverage.mass[h] += on_object / all / count;
      coverage.iou[h] += both / (kept + object - both) / count;
      if (h == 0) coverage.share += object / static_cast<double>(patches) / count;
    }
  }
  return coverage;
}

void check_coverage(const SceneScore& score, const Coverage& expected) {
  REQUIRE(score.coverage.has_value());
  REQUIRE(score.coverage->mass_on_object.size() == expected.mass.size());
  CHECK(std::abs(score.coverage->object_share - expected.share) <= 1e-6);
  for (std::size_t h = 0; h < expected.mass.size(); ++h) {
    // Sums of fp32 numbers in another order; a patch on the edge of a mask of a dozen may fall to either side.
    CHECK(std::abs(score.coverage->mass_on_object[h] - expected.mass[h]) <= 1e-5);
    CHECK(std::abs(score.coverage->mask_iou[h] - expected.iou[h]) <= 0.01);
  }
}

}  // namespace

TEST_CASE("Networks on scenes get the scores that their features and attention have") {
  const auto context = make_cpu_context();
  const auto weights = golden_dir() / "backbone.safetensors";
  const Backbone trained(*context, weights, DType::float32);
  const VitConfig config = trained.vit.config();
  ParameterLayout layout;
  const Vit vit(layout, config);
  ParameterStore untrained(*context, layout, DType::float32, ParameterStore::Role::inference);
  untrained.initialize(0);
  const Studio studio(config);
  const SceneEvaluationOptions options{
      .data = studio.folder.path(), .weights = weights, .k = 1, .threshold = kThreshold, .threads = 1};

  const SceneEvaluation result = evaluate_scenes(*context, options);
  CHECK(result.identities == 3);
  CHECK(result.classes == 2);
  CHECK(result.train_images == 12);
  CHECK(result.images == 9);
  REQUIRE(result.scores.size() == 3);
  // Each object has a colour of its own, which pixels tell.
  CHECK(result.scores[0].name == "raw pixels");
  CHECK(result.scores[0].identity_percent == 100);
  CHECK(result.scores[0].class_percent == 100);
  CHECK_FALSE(result.scores[0].coverage.has_value());
  const auto check = [&](const SceneScore& score, const Vit& of, const ParameterStore& store) {
    INFO(score.name);
    const auto [object, coarse] = nearest_percent(*context, of, store, studio.train, studio.test);
    CHECK(std::abs(score.identity_percent - object) <= 1e-9);
    CHECK(std::abs(score.class_percent - coarse) <= 1e-9);
    check_coverage(score, coverage_of(*context, of, store, studio.test));
    const std::vector<double> on_val = coverage_of(*context, of, store, studio.val).mass;
    CHECK(score.head == std::max_element(on_val.begin(), on_val.end()) - on_val.begin());
  };
  CHECK(result.scores[1].name == "untrained");
  check(result.scores[1], vit, untrained);
  CHECK(result.scores[2].name == "trained");
  check(result.scores[2], trained.vit, trained.store);

  SceneEvaluationOptions on_val = options;
  on_val.split = "val";
  const SceneEvaluation validated = evaluate_scenes(*context, on_val);
  CHECK(validated.images == 6);
  check_coverage(validated.scores.at(2), coverage_of(*context, trained.vit, trained.store, studio.val));
}

TEST_CASE("Scenes that cannot be evaluated are refused") {
  const auto context = make_cpu_context();
  const auto weights = golden_dir() / "backbone.safetensors";
  const Studio studio(read_weights(weights).config());
  SceneEvaluationOptions options{.data = studio.folder.path(), .weights = weights, .k = 1, .threads = 1};
  // Before the work.
  options.threshold = 0;
  bool begun = false;
  const std::string refused = error_of([&] {
    evaluate_scenes(*context, options, [&](const std::string&, std::int64_t, std::int64_t) { begun = true; });
  });
  CHECK(contains(refused, "threshold"));
  CHECK_FALSE(begun);
  options.threshold = kThreshold;
  const std::string mask = "masks/test/fish__cod/021.png";
  std::filesystem::remove(studio.folder.path() / mask);
  CHECK(contains(error_of([&] { evaluate_scenes(*context, options); }), mask));
  options.data = studio.folder.path() / "masks/test/fish__cod";
  CHECK_FALSE(error_of([&] { evaluate_scenes(*context, options); }).empty());
}
