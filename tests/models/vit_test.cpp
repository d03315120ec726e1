#include "models/vit.h"

#include "models/backbone.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <cmath>
#include <numeric>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kGoldenTolerance = 2e-5;
const std::vector<std::string> kCases = {"native", "local", "wide", "large"};

int golden_heads() {
  return std::stoi(SafetensorsFile::read(golden_dir() / "backbone.safetensors").metadata("num_heads"));
}

/// Row 0 of the last but one dimension: (B, H, N, N) gives (B, H, N), (B, N, C) gives (B, C).
std::vector<float> first_rows(const ConstArray& array) {
  const Shape& shape = array.shape();
  const std::int64_t columns = shape[-1];
  const std::int64_t block = shape[-2] * columns;
  std::vector<float> rows;
  for (std::int64_t i = 0; i < shape.size(); i += block) {
    rows.insert(rows.end(), array.as<float>() + i, array.as<float>() + i + columns);
  }
  return rows;
}

/// Attention (H, T) of one group's sequences as (B, H, N), the order of the recordings.
std::vector<float> by_image(const Tensor& probabilities, std::int64_t first_row, std::int64_t images,
                            std::int64_t length) {
  std::vector<float> values;
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t h = 0; h < probabilities.extent(0); ++h) {
      const float* row = probabilities.as<float>() + h * probabilities.extent(1) + first_row + b * length;
      values.insert(values.end(), row, row + length);
    }
  }
  return values;
}

ConstArray flat(const std::vector<float>& values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}

}  // namespace

TEST_CASE("golden forward passes, each size on its own and all in one pass") {
  const auto context = make_cpu_context();
  Backbone backbone(*context, golden_dir() / "backbone.safetensors", DType::float32);
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "forward.safetensors");
  CropPacker packer(*context, backbone.vit.config().patch_px);
  std::vector<std::vector<std::string>> batches;
  for (const std::string& name : kCases) batches.push_back({name});
  batches.push_back(kCases);
  for (const std::vector<std::string>& batch : batches) {
    std::vector<CropGroup> groups;
    for (const std::string& name : batch) groups.push_back({context->from_host(golden[name + ".images"])});
    const PackedCrops crops = packer.pack(groups);
    const auto run = [&](auto&& function) {
      Tape tape(*context, Tape::Mode::inference);
      Weights weights = Weights::student(tape, backbone.store);
      return function(tape, weights);
    };
    const Tensor cls = run([&](Tape& t, Weights& w) { return backbone.vit.cls_features(t, w, crops); });
    const auto tokens = run([&](Tape& t, Weights& w) { return backbone.vit.last_tokens(t, w, crops, 2); });
    const auto last_cls = run([&](Tape& t, Weights& w) { return backbone.vit.last_cls(t, w, crops, 2); });
    const Tensor attention = run([&](Tape& t, Weights& w) { return backbone.vit.cls_attention(t, w, crops); });
    REQUIRE(tokens.size() == 2);
    REQUIRE(last_cls.size() == 2);
    std::int64_t row = 0;
    std::int64_t sequence = 0;
    for (const std::string& name : batch) {
      INFO(name << " of " << batch.size());
      const std::int64_t images = golden[name + ".cls"].extent(0);
      const std::int64_t length = golden[name + ".tokens_last"].extent(1);
      const std::int64_t rows = row + images * length;
      check_close(cls.rows(sequence, sequence + images).const_array(), golden[name + ".cls"], kGoldenTolerance, "cls");
      const char* kNames[] = {".tokens_last_but_one", ".tokens_last"};
      for (std::size_t i = 0; i < 2; ++i) {
        const ConstArray expected = golden[name + kNames[i]];
        check_close(tokens[i].rows(row, rows).const_array(), expected, kGoldenTolerance, kNames[i]);
        check_close(last_cls[i].rows(sequence, sequence + images).const_array(), flat(first_rows(expected)),
                    kGoldenTolerance, "CLS rows");
      }
      check_close(flat(by_image(attention, row, images, length)), flat(first_rows(golden[name + ".last_attention"])),
                  kGoldenTolerance, "attention");
      row = rows;
      sequence += images;
    }
  }
}

TEST_CASE("golden weights of every form give the same features") {
  const auto context = make_cpu_context();
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "forward.safetensors");
  const auto features = [&](const std::string& file, DType compute_type, const WeightsOptions& options,
                            const Tensor& images) {
    Backbone backbone(*context, golden_dir() / file, compute_type, options);
    CropPacker packer(*context, backbone.vit.config().patch_px);
    Tape tape(*context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, backbone.store);
    return backbone.vit.cls_features(tape, weights, packer.pack({{images}}));
  };
  const Tensor images = context->from_host(golden["native.images"]);
  const ConstArray expected = golden["native.cls"];
  const WeightsOptions options{.heads = golden_heads()};
  const auto check = [&](const char* file, DType type, double tolerance) {
    check_close(features(file, type, options, images).const_array(), expected, tolerance, file);
  };
  check("backbone.pth", DType::float32, kGoldenTolerance);
  // fp16 weights are off by 2^-12 of their size on average, bf16 computation by 2^-9 at every step.
  check("backbone_half.pth", DType::float32, 2e-3);
  check("backbone.safetensors", DType::bfloat16, 3e-2);

  const WeightsFile full = read_weights(golden_dir() / "checkpoint_full.pth");
  const std::int64_t side = full.config().image_px;
  const HostArray random = random_normal(DType::float32, {2, 3, side, side}, 1);
  const Tensor noise = context->from_host(random);
  for (const Network network : {Network::teacher, Network::student}) {
    const Tensor zip = features("checkpoint_full.pth", DType::float32, {.network = network}, noise);
    const Tensor legacy = features("checkpoint_full_legacy.pth", DType::float32, {.network = network}, noise);
    check_close(legacy.const_array(), zip.const_array(), 0.0, "legacy");
  }
}

TEST_CASE("vit has the official parameters in the official order") {
  struct Case {
    VitConfig config;
    std::int64_t parameters;
  };
  for (const Case& c :
       {Case{VitConfig::preset("vit_tiny", 16), 5524416}, Case{VitConfig::preset("small", 16), 21665664},
        Case{VitConfig::preset("vit_small", 8), 21670272}, Case{VitConfig::preset("vit_base", 16), 85798656}}) {
    ParameterLayout layout;
    const Vit vit(layout, c.config);
    CHECK(layout.parameter_count() == c.parameters);
    CHECK(layout.infos().front().name == "backbone.cls_token");
    CHECK(layout.infos()[1].name == "backbone.pos_embed");
    CHECK(layout.infos()[4].name == "backbone.blocks.0.norm1.weight");
    CHECK(layout.infos().back().name == "backbone.norm.bias");
    const ParameterInfo& kernel = layout.infos()[2];
    CHECK(kernel.gemm_weight);
    CHECK(kernel.initializer.kind == Initializer::Kind::uniform);
    CHECK(std::abs(kernel.initializer.scale - 1 / std::sqrt(3.0 * c.config.patch_px * c.config.patch_px)) <= 1e-12);
    for (const ParameterInfo& info : layout.infos()) {
      CHECK(info.gemm_weight == (info.name.ends_with("weight") && info.shape.rank() > 1));
      CHECK(info.trainable);
    }
  }
  CHECK_THROWS_AS(VitConfig::preset("vit_giant"), Error);
  ParameterLayout layout;
  CHECK_THROWS_AS(Vit(layout, {.embed_dim = 100, .heads = 3}), Error);
}

TEST_CASE("drop path scales whole branches of single sequences") {
  VitConfig config{.embed_dim = 32, .depth = 5, .heads = 2, .patch_px = 4, .image_px = 16, .drop_path_rate = 0.5};
  constexpr int kViews = 3;
  std::vector<std::uint64_t> samples(200);
  std::iota(samples.begin(), samples.end(), 1000U);
  const std::size_t sequences = samples.size() * kViews;
  std::vector<float> scales(10 * sequences, -1.0F);
  draw_drop_path(config, 7, 3, samples, kViews, scales);
  for (std::size_t branch = 0; branch < 10; ++branch) {
    const double rate = 0.5 * static_cast<double>(branch / 2) / 4;
    double mean = 0;
    for (std::size_t s = 0; s < sequences; ++s) {
      const double scale = static_cast<double>(scales[branch * sequences + s]);
      CHECK((scale == 0.0 || std::abs(scale - 1 / (1 - rate)) <= 1e-6));
      mean += scale / static_cast<double>(sequences);
    }
    // Five standard deviations.
    CHECK(std::abs(mean - 1.0) <= 5 * std::sqrt(rate / (1 - rate) / static_cast<double>(sequences)) + 1e-9);
  }
  // The draw of one image does not depend on which others come with it.
  std::vector<float> one(10 * kViews);
  draw_drop_path(config, 7, 3, std::span(samples).subspan(17, 1), kViews, one);
  for (std::size_t branch = 0; branch < 10; ++branch) {
    for (std::size_t v = 0; v < kViews; ++v) {
      CHECK(one[branch * kViews + v] == scales[branch * sequences + v * samples.size() + 17]);
    }
  }

  // With every branch of the second sequence dropped, it leaves the network as it entered.
  const auto context = make_cpu_context();
  ParameterLayout layout;
  const Vit vit(layout, config);
  ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
  store.initialize(1);
  CropPacker packer(*context, config.patch_px);
  const HostArray images = random_normal(DType::float32, {2, 3, 16, 16}, 2);
  const PackedCrops crops = packer.pack({{context->from_host(images)}});
  std::vector<float> factors(20);
  for (std::size_t i = 0; i < 20; ++i) factors[i] = i % 2 == 0 ? 1.0F : 0.0F;
  const Tensor drop_path = context->from_host(ConstArray(factors.data(), {10, 2}));
  Tape tape(*context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, store);
  const Tensor dropped = vit.cls_features(tape, weights, crops, drop_path);
  const Tensor whole = vit.cls_features(tape, weights, crops);
  check_close(dropped.rows(0, 1).const_array(), whole.rows(0, 1).const_array(), 1e-6, "kept");
  const float* cls = store.window(store.student, *layout.find("backbone.cls_token")).as<float>();
  const float* position = store.window(store.student, *layout.find("backbone.pos_embed")).as<float>();
  std::vector<double> x(32);
  for (std::size_t i = 0; i < 32; ++i) x[i] = static_cast<double>(cls[i]) + static_cast<double>(position[i]);
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / 32;
  double variance = 0;
  for (const double v : x) variance += (v - mean) * (v - mean) / 32;
  for (double& v : x) v = (v - mean) / std::sqrt(variance + Vit::kNormEps);
  check_close(dropped.rows(1, 2).const_array(), ConstArray(x.data(), {1, 32}), 1e-5, "dropped");
  CHECK_THROWS_AS(vit.cls_features(tape, weights, crops, drop_path.rows(0, 9)), Error);
}

TEST_CASE("packing keeps its plan and refuses what it cannot cut") {
  const auto context = make_cpu_context();
  CropPacker packer(*context, 8);
  const auto pixels = [&](std::int64_t n, std::int64_t h, std::int64_t w) {
    return CropGroup{context->zeros({n, h, w, 3}, DType::uint8)};
  };
  const PackedCrops first = packer.pack({pixels(4, 32, 32), pixels(6, 16, 24)});
  const std::size_t used = context->arena().used_bytes();
  const PackedCrops second = packer.pack({{first.pixels[0]}, {first.pixels[1]}});
  CHECK(first.plan == second.plan);
  CHECK(context->arena().used_bytes() == used);
  CHECK(first.count() == 10);
  CHECK(first.sequences().rows() == 4 * 17 + 6 * 7);
  CHECK(first.plan->patches == 4 * 16 + 6 * 6);
  CHECK(first.plan->groups[1].first_patch == 64);
  CHECK(first.plan->groups[1].rows == 2);
  CHECK(first.plan->groups[1].columns == 3);
  CHECK(first.plan->cls_sequences.rows() == 10);
  CHECK(packer.pack({pixels(4, 32, 32)}).plan != first.plan);
  CHECK_THROWS_AS(packer.pack({}), Error);
  CHECK_THROWS_AS(packer.pack({pixels(4, 32, 30)}), Error);
  CHECK_THROWS_AS(packer.pack({{context->zeros({2, 1, 16, 16}, DType::float32)}}), Error);
}
