// Rollout, principal components, colour maps, sheets, previews and videos.
#include "data/decode.h"
#include "data/png.h"
#include "engine/files.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_network.h"
#include "visualize/attention_pictures.h"
#include "visualize/attention_rollout.h"
#include "visualize/contact_sheet.h"
#include "visualize/drawing.h"
#include "visualize/lettering.h"
#include "visualize/patch_pca.h"
#include "visualize/terminal_preview.h"
#include "visualize/video.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

/// Rollout by whole matrices, in double.
std::vector<double> rollout_oracle(const std::vector<HostQkv>& layers, std::size_t n, std::size_t heads) {
  std::vector<double> product(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) product[i * n + i] = 1;
  for (const HostQkv& qkv : layers) {
    const std::size_t width = qkv.size() / n, c = width / 3, d = c / heads;
    std::vector<double> a(n * n, 0.0);
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t i = 0; i < n; ++i) {
        std::vector<double> p(n);
        double total = 0;
        for (std::size_t j = 0; j < n; ++j) {
          double score = 0;
          for (std::size_t k = 0; k < d; ++k)
            score +=
                static_cast<double>(qkv[i * width + h * d + k]) * static_cast<double>(qkv[j * width + c + h * d + k]);
          total += p[j] = std::exp(score / std::sqrt(static_cast<double>(d)));
        }
        for (std::size_t j = 0; j < n; ++j) a[i * n + j] += p[j] / total / static_cast<double>(heads) / 2;
      }
    }
    for (std::size_t i = 0; i < n; ++i) a[i * n + i] += 0.5;
    std::vector<double> next(n * n, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < n; ++k) {
        for (std::size_t j = 0; j < n; ++j) next[i * n + j] += a[i * n + k] * product[k * n + j];
      }
    }
    product = next;
  }
  return {product.begin(), product.begin() + static_cast<std::ptrdiff_t>(n)};
}

ConstArray flat(const std::vector<double>& values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}
ConstArray flat(std::span<const float> values) {
  return ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())});
}

Image plain(int height, int width, Rgb color) {
  Image image;
  image.resize(height, width);
  for (std::size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = color[i % 3];
  return image;
}

Rgb at(const Image& image, int y, int x) {
  const std::size_t i =
      3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x));
  return {image.rgb[i], image.rgb[i + 1], image.rgb[i + 2]};
}

}  // namespace

TEST_CASE("Rollout is the product of whole attention matrices") {
  const auto context = make_cpu_context();
  // More tokens than are asked at a time.
  for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{5}, std::int64_t{300}}) {
    std::vector<HostQkv> layers;
    for (std::uint64_t l = 0; l < 3; ++l) {
      const HostArray qkv = random_normal(DType::float32, {tokens, 3 * 16}, 20 + l, 1.5);
      layers.emplace_back(qkv.as<float>(), qkv.as<float>() + qkv.size());
    }
    const std::vector<double> got = rollout_from_cls(*context, layers, tokens, 4);
    check_close(flat(got), flat(rollout_oracle(layers, static_cast<std::size_t>(tokens), 4)), 1e-5, "rollout");
    double sum = 0;
    for (const double value : got) sum += value;
    CHECK(sum == Approx(1).epsilon(1e-9));
  }
  CHECK_THROWS_AS(rollout_from_cls(*context, {}, 4, 2), Error);
  const std::vector<HostQkv> wrong{HostQkv(7)};
  CHECK_THROWS_AS(rollout_from_cls(*context, wrong, 4, 2), Error);
}

TEST_CASE("Rollout of a picture uses the network's own attention") {
  const TinyNetwork net(24, 9);
  const Image picture = gradient_image(24, 32);
  Tape tape(*net.context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, net.store);
  const AttentionMaps maps = compute_rollout(net.vit, weights, picture, {.threshold = 0.5});
  CHECK((maps.heads == 0 && maps.rows == 3 && maps.columns == 4 && maps.patch_px == 8));
  REQUIRE(maps.mean.size() == 12);
  CHECK(maps.mean_mask == threshold_mask(maps.mean, 0.5));

  CropPacker packer(*net.context, 8);
  const PackedCrops crops = packer.pack({{net.context->from_host(picture.array().reshaped({1, 24, 32, 3}))}});
  const std::vector<Tensor> qkv = net.vit.block_qkv(tape, weights, crops);
  REQUIRE(qkv.size() == 3);
  std::vector<HostQkv> layers;
  for (const Tensor& layer : qkv) layers.emplace_back(layer.as<float>(), layer.as<float>() + layer.size());
  const std::vector<double> expected = rollout_oracle(layers, 13, 2);
  check_close(flat(maps.mean), flat(std::vector<double>(expected.begin() + 1, expected.end())), 1e-5, "patches");

  // The queries and keys are those that cls_attention() uses, in every layer.
  for (int layer = 0; layer < 3; ++layer) {
    Tape of_cls(*net.context, Tape::Mode::inference);
    Weights rows = Weights::student(of_cls, net.store);
    const Tensor cls = net.vit.cls_attention(of_cls, rows, crops, layer);
    const HostQkv& values = layers[static_cast<std::size_t>(layer)];
    for (std::size_t h = 0; h < 2; ++h) {
      std::vector<double> p(13);
      double total = 0;
      for (std::size_t j = 0; j < 13; ++j) {
        double score = 0;
        for (std::size_t k = 0; k < 12; ++k)
          score += static_cast<double>(values[h * 12 + k]) * static_cast<double>(values[j * 72 + 24 + h * 12 + k]);
        total += p[j] = std::exp(score / std::sqrt(12.0));
      }
      for (double& value : p) value /= total;
      check_close(ConstArray(cls.as<float>() + h * 13, Shape{13}), flat(p), 1e-5, "CLS attention");
    }
  }
  CHECK(attention_arrays(maps).size() == 2);
}

TEST_CASE("Principal axes are those that the rows were made with") {
  // Rows = mean + Σ s_i z_i u_i with orthonormal u: the axes of many rows are the u, up to the sampling of z, which is
  // taken out by making the columns of z orthonormal.
  const std::size_t n = 60, width = 20;
  const HostArray drawn =
      random_normal(DType::float64, {static_cast<std::int64_t>(width), static_cast<std::int64_t>(width)}, 3);
  const HostArray z_drawn =
      random_normal(DType::float64, {static_cast<std::int64_t>(width), static_cast<std::int64_t>(n)}, 4);
  const auto orthonormal = [](const HostArray& from, std::size_t count, std::size_t length, bool centered) {
    std::vector<std::vector<double>> rows;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<double> row(length);
      double mean = 0;
      for (std::size_t c = 0; c < length; ++c)
        mean += (row[c] = from.at(static_cast<std::int64_t>(i * length + c))) / static_cast<double>(length);
      for (double& value : row) value -= centered ? mean : 0;
      for (int pass = 0; pass < 2; ++pass) {
        for (const auto& other : rows) {
          double product = 0;
          for (std::size_t c = 0; c < length; ++c) product += row[c] * other[c];
          for (std::size_t c = 0; c < length; ++c) row[c] -= product * other[c];
        }
      }
      double square = 0;
      for (const double value : row) square += value * value;
      for (double& value : row) value /= std::sqrt(square);
      rows.push_back(row);
    }
    return rows;
  };
  const auto u = orthonormal(drawn, width, width, false), z = orthonormal(z_drawn, width, n, true);
  std::vector<double> scale(width);
  double total = 0;
  for (std::size_t i = 0; i < width; ++i) total += std::pow(scale[i] = 5.0 * std::pow(0.9, static_cast<double>(i)), 2);
  std::vector<float> rows;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t c = 0; c < width; ++c) {
      double value = static_cast<double>(c) - 3;
      for (std::size_t i = 0; i < width; ++i) value += scale[i] * z[i][r] * u[i][c];
      rows.push_back(static_cast<float>(value));
    }
  }
  const PrincipalAxes axes = principal_axes(rows, static_cast<std::int64_t>(width), 3);
  CHECK(axes.total_variance == Approx(total / static_cast<double>(n)).epsilon(1e-5));
  for (int a = 0; a < 3; ++a) {
    const auto i = static_cast<std::size_t>(a);
    CHECK(axes.variances[i] == Approx(scale[i] * scale[i] / static_cast<double>(n)).epsilon(1e-5));
    double product = 0;
    for (std::size_t c = 0; c < width; ++c) product += axes.axes[i * width + c] * u[i][c];
    CHECK(std::abs(product) == Approx(1).epsilon(1e-6));
    CHECK(std::abs(axes.coordinate(rows.data() + 7 * width, a)) == Approx(std::abs(scale[i] * z[i][7])).margin(1e-4));
    const auto first = axes.axes.begin() + a * static_cast<std::ptrdiff_t>(width);
    const auto [low, high] = std::minmax_element(first, first + static_cast<std::ptrdiff_t>(width));
    CHECK(*high >= -*low);
  }
  CHECK(axes.mean[5] == Approx(2).margin(1e-5));
  CHECK_THROWS_AS(principal_axes(std::vector<float>{1, 2}, 2, 1), Error);
  CHECK_THROWS_AS(principal_axes(std::vector<float>{1, 2, 1, 2}, 2, 1), Error);
  CHECK_THROWS_AS(principal_axes(std::vector<float>{1, 2, 3, 4}, 2, 3), Error);
  CHECK_THROWS_AS(principal_axes(std::vector<float>{1, 2, 3, std::numeric_limits<float>::quiet_NaN()}, 2, 1), Error);
}

TEST_CASE("Patch colours find the object in the middle and agree across pictures") {
  // Two pictures of 6×6 patches: the same object of two halves in the middle of one and beside the middle of the other.
  const HostArray noise = random_normal(DType::float32, {2 * 36, 8}, 5, 0.05);
  std::vector<PatchTokens> pictures(2);
  const auto part = [](int picture, int row, int column) {
    const int left = picture == 0 ? 2 : 1;
    if (row < 2 || row > 3 || column < left || column > left + 1) return 0;
    return column == left ? 1 : 2;
  };
  for (int p = 0; p < 2; ++p) {
    pictures[static_cast<std::size_t>(p)] = {6, 6, {}};
    for (int i = 0; i < 36; ++i) {
      std::vector<float> token(8);
      for (std::size_t c = 0; c < 8; ++c) token[c] = noise.as<float>()[static_cast<std::size_t>(p * 36 + i) * 8 + c];
      const int here = part(p, i / 6, i % 6);
      if (here > 0) token[0] += 10;
      if (here == 2) token[1] += 3;
      auto& values = pictures[static_cast<std::size_t>(p)].values;
      values.insert(values.end(), token.begin(), token.end());
    }
  }
  const PatchColors colors = color_patches(pictures, true);
  std::vector<Rgb> of_half[3];
  for (int p = 0; p < 2; ++p) {
    for (int i = 0; i < 36; ++i) {
      const int here = part(p, i / 6, i % 6);
      const auto picture = static_cast<std::size_t>(p), patch = static_cast<std::size_t>(i);
      CHECK((colors.foreground[picture][patch] == 1.0F) == (here > 0));
      if (here == 0) CHECK(colors.colors[picture][patch] == Rgb{0, 0, 0});
      of_half[here].push_back(colors.colors[picture][patch]);
    }
  }
  // Red is the halves' difference: one end for one half, in both pictures.
  REQUIRE(of_half[1].size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(of_half[1][i][0] - of_half[2][i][0]) > 200);
  CHECK(colors.explained[0] > 0.9);
  const PatchColors whole = color_patches(pictures, false);
  CHECK(std::all_of(whole.foreground[0].begin(), whole.foreground[0].end(), [](float f) { return f == 1.0F; }));
  CHECK_THROWS_AS(color_patches({}, true), Error);
}

TEST_CASE("Otsu's threshold lies between two groups") {
  const std::vector<double> values{1, 1.2, 0.9, 1.1, 5, 5.2, 4.9};
  const double threshold = otsu_threshold(values);
  CHECK(threshold > 1.2);
  CHECK(threshold < 4.9);
  CHECK(otsu_threshold(std::vector<double>{2, 2}) == 2);
}

TEST_CASE("Colour maps pass through the originals' colours") {
  // Colours of matplotlib 3 at these numbers of 255, which are no anchors of ours.
  struct Sample {
    ColorMap map;
    int at;
    Rgb color;
  };
  for (const Sample& sample :
       {Sample{ColorMap::viridis, 40, {69, 55, 129}}, Sample{ColorMap::viridis, 100, {42, 118, 142}},
        Sample{ColorMap::viridis, 200, {112, 207, 87}}, Sample{ColorMap::viridis, 248, {236, 229, 27}},
        Sample{ColorMap::inferno, 40, {47, 10, 91}}, Sample{ColorMap::inferno, 100, {144, 37, 104}},
        Sample{ColorMap::inferno, 200, {251, 157, 7}}, Sample{ColorMap::inferno, 248, {243, 246, 138}},
        Sample{ColorMap::turbo, 40, {70, 128, 246}}, Sample{ColorMap::turbo, 100, {63, 246, 138}},
        Sample{ColorMap::turbo, 200, {244, 102, 23}}, Sample{ColorMap::turbo, 248, {146, 11, 1}}}) {
    const Rgb got = map_color(sample.map, sample.at / 255.0);
    for (std::size_t c = 0; c < 3; ++c) {
      INFO(static_cast<int>(sample.map) << " at " << sample.at);
      CHECK(std::abs(got[c] - sample.color[c]) <= 3);
    }
  }
  for (const ColorMap map : {ColorMap::viridis, ColorMap::inferno}) {
    double last = -1;
    for (int i = 0; i <= 255; ++i) {
      const Rgb color = map_color(map, i / 255.0);
      const double lightness = 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2];
      CHECK(lightness >= last - 0.8);
      last = std::max(last, lightness);
    }
  }
  CHECK(color_map_named("turbo") == ColorMap::turbo);
  CHECK_THROWS_AS(color_map_named("jet"), Error);
  CHECK(map_colors(ColorMap::viridis, std::vector<float>{3, 5})[1] == map_color(ColorMap::viridis, 1));
}

TEST_CASE("Outlines run inside the mask, along its edge only") {
  // 3×4 cells of 4 pixels; the mask is an L.
  const Image picture = plain(12, 16, {9, 9, 9});
  const std::vector<float> mask{0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0};
  const Image drawn = outline(picture, mask, 4, 4, 1, {200, 0, 0});
  int lines = 0;
  for (int y = 0; y < 12; ++y) {
    for (int x = 0; x < 16; ++x) {
      const auto inside = [&](int v, int u) {
        return v >= 0 && u >= 0 && v < 12 && u < 16 && mask[static_cast<std::size_t>(v / 4 * 4 + u / 4)] != 0;
      };
      // A pixel of the line has one of its eight neighbours outside.
      bool edge = false;
      for (int v = -1; v <= 1; ++v) {
        for (int u = -1; u <= 1; ++u) edge = edge || !inside(y + v, x + u);
      }
      const bool expected = inside(y, x) && edge;
      INFO(y << ", " << x);
      CHECK((at(drawn, y, x) == Rgb{200, 0, 0}) == expected);
      lines += expected;
    }
  }
  CHECK(lines > 20);
  CHECK_THROWS_AS(outline(picture, std::vector<float>{1, 0}, 4, 4, 1), Error);
}

TEST_CASE("Sheets hold thumbnails with captions, and say what is missing") {
  const TemporaryFolder folder;
  const Image red = plain(40, 60, {255, 0, 0});
  write_png(folder.path() / "red.png", red.rgb, 40, 60, 3);
  const auto stream = make_cpu_stream();
  const Image sheet = contact_sheet(
      {{{folder.path() / "red.png", "query"}, {folder.path() / "none.png", "0.5"}}, {{folder.path() / "red.png", ""}}},
      32, *stream);
  CHECK(sheet.width == 2 * 36 + 4);
  CHECK(sheet.height == 2 * (32 + 12 + 4) + 4);
  CHECK(at(sheet, 20, 20) == Rgb{255, 0, 0});
  CHECK(at(sheet, 6, 42) == Rgb{200, 200, 200});
  CHECK(at(sheet, 60, 50) == Rgb{255, 255, 255});
  CHECK_THROWS_AS(contact_sheet({}, 32, *stream), Error);

  AttentionMaps two, one;
  two.heads = 2;
  one.heads = 1;
  two.rows = two.columns = one.rows = one.columns = 2;
  two.patch_px = 8;
  one.patch_px = 16;
  two.attention = {0.1F, 0.2F, 0.3F, 0.4F, 0.4F, 0.3F, 0.2F, 0.1F};
  one.attention = two.mean = one.mean = {0.1F, 0.2F, 0.3F, 0.4F};
  const Image compared =
      comparison_sheet({{"a", plain(16, 16, {1, 2, 3}), two}, {"b", plain(32, 32, {4, 5, 6}), one}}, {}, *stream);
  CHECK(compared.width == 4 * (16 + 4) + 4);
  CHECK(compared.height == 2 * (16 + 12 + 4) + 4);
  CHECK(at(compared, 5, 5) == Rgb{1, 2, 3});
  CHECK(at(compared, 4 + 32 + 1, 5) == Rgb{4, 5, 6});
}

TEST_CASE("Names in any script are captions, with question marks for letters that the font lacks") {
  const auto drawn = [](const std::string& caption) { return with_caption(plain(30, 200, {9, 9, 9}), caption).rgb; };
  CHECK(drawn("last~") != drawn("last"));
  CHECK(drawn("mod\xc3\xa8le") == drawn("mod?le"));
  CHECK(drawn("\xe6\xa8\xa1\xe5\x9e\x8b") == drawn("??"));
  CHECK(drawn("a\nb\x7f\x01") == drawn("a?b??"));
  CHECK(drawn("\xff") == drawn("?"));
  CHECK(text_width("\xc3\xa8\x7f", 1) == text_width("??", 1));
}

TEST_CASE("A preview shows two pixels in each character") {
  Image image = plain(4, 2, {0, 0, 0});
  const std::vector<Rgb> colors{{1, 2, 3},    {4, 5, 6},    {7, 8, 9},    {10, 11, 12},
                                {13, 14, 15}, {16, 17, 18}, {19, 20, 21}, {22, 23, 24}};
  for (std::size_t i = 0; i < 8; ++i)
    std::copy(colors[i].begin(), colors[i].end(), image.rgb.begin() + static_cast<std::ptrdiff_t>(3 * i));
  CHECK(terminal_preview(image, 80) ==
        "\x1b[38;2;1;2;3m\x1b[48;2;7;8;9m▀\x1b[38;2;4;5;6m\x1b[48;2;10;11;12m▀\x1b[0m\n"
        "\x1b[38;2;13;14;15m\x1b[48;2;19;20;21m▀\x1b[38;2;16;17;18m\x1b[48;2;22;23;24m▀\x1b[0m\n");
  // One column: means of the rows' pairs; an odd last row has no lower half.
  CHECK(terminal_preview(image, 1) == "\x1b[38;2;6;7;8m\x1b[48;2;18;19;20m▀\x1b[0m\n");
  CHECK(terminal_preview(plain(1, 1, {1, 1, 1}), 80) == "\x1b[38;2;1;1;1m▀\x1b[0m\n");
  CHECK_THROWS_AS(terminal_preview(Image{}, 80), Error);
}

TEST_CASE("Frames of a folder come in the order of their names and are written as a folder") {
  const TemporaryFolder folder;
  for (int i = 0; i < 12; ++i) {
    const Image frame = plain(16, 16, {static_cast<std::uint8_t>(20 * i), 0, 0});
    folder.write(fmt::format("in/{:02}.png", i), encode_png(frame.rgb, 16, 16, 3));
  }
  folder.write("in/notes.txt", "no frame");
  const auto reader = open_frames(folder.path() / "in", 25);
  CHECK(reader->count() == 12);
  const auto writer = create_frames(folder.path() / "out", 25);
  Image frame;
  int count = 0;
  for (; reader->next(frame); ++count) {
    CHECK(at(frame, 3, 3)[0] == 20 * count);
    writer->write(frame);
  }
  writer->finish();
  CHECK(count == 12);
  decode_image_file(folder.path() / "out/frame_000003.png", {}, frame);
  CHECK(at(frame, 0, 0)[0] == 40);
  CHECK_THROWS_AS(open_frames(folder.path() / "none", 25), Error);
  CHECK_THROWS_AS(open_frames(folder.path() / "in", 0), Error);
  CHECK_THROWS_AS(open_frames(folder.path(), 25), Error);  // no pictures
  // A slip that would make a folder called like a video.
  CHECK(contains(error_of([&] { create_frames(folder.path() / "clip.AVI", 25); }), "got .avi, expected .mp4"));
}

TEST_CASE("Videos go through ffmpeg, and without it the error says what to do") {
  const TemporaryFolder folder;
  const std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
  const auto video = folder.path() / "clip.mkv";
  folder.write("empty.mp4", "");
  setenv("PATH", folder.path().c_str(), 1);
  CHECK(error_of([&] { open_frames(folder.path() / "empty.mp4", 25); }).find("apt install ffmpeg") !=
        std::string::npos);
  CHECK(error_of([&] { create_frames(video, 25); }).find("apt install ffmpeg") != std::string::npos);
  CHECK(contains(error_of([&] { create_frames(folder.path() / "CLIP.MP4", 25); }), "apt install ffmpeg"));
  setenv("PATH", path.c_str(), 1);
  if (std::system("command -v ffmpeg > /dev/null 2>&1") != 0) {
    WARN("SKIPPED: ffmpeg is not installed");
    return;
  }
  CHECK(error_of([&] {
          Image frame;
          open_frames(folder.path() / "empty.mp4", 25)->next(frame);
        }).find("ffmpeg failed") != std::string::npos);
  {
    const auto abandoned = create_frames(video, 10);
    abandoned->write(plain(32, 48, {0, 0, 0}));
  }
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);  // empty.mp4
  // A link under the name of the part leads nowhere.
  const auto elsewhere = folder.write("elsewhere", "of somebody else");
  std::filesystem::create_symlink(elsewhere, folder.path() / fmt::format("clip.part{}.mkv", getpid()));
  const auto writer = create_frames(video, 10);
  for (int i = 0; i < 10; ++i) writer->write(plain(33, 49, {static_cast<std::uint8_t>(25 * i), 128, 128}));
  CHECK_THROWS_AS(writer->write(plain(64, 48, {0, 0, 0})), Error);
  writer->finish();
  REQUIRE(std::filesystem::is_regular_file(std::filesystem::symlink_status(video)));
  CHECK(read_text_file(elsewhere) == "of somebody else");
  const auto reader = open_frames(video, 10);
  Image frame;
  int count = 0;
  for (; reader->next(frame); ++count) {
    CHECK(frame.height == 32);
    CHECK(frame.width == 48);
    CHECK(std::abs(at(frame, 16, 24)[0] - 25 * count) <= 12);  // lossy
  }
  CHECK(count == 10);
}
