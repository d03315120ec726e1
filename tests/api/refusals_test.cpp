// What the C API does with files, pictures and options that make no sense: a status and one line, never more.
#include "tests/api/c_model.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <cmath>
#include <functional>

using namespace dino;
using namespace dino::test;

TEST_CASE("Weights that cannot be used are refused") {
  const TemporaryFolder folder;
  const auto open = [](const std::string& path, dino_model_options options = on_cpu()) {
    return [path, options](dino_error* error) {
      dino_model* model = reinterpret_cast<dino_model*>(&error);
      const dino_status status = dino_model_open(path.c_str(), &options, &model, error);
      CHECK(model == nullptr);
      return status;
    };
  };
  check_refused(DINO_BAD_WEIGHTS, "nowhere", open("nowhere.safetensors"));
  check_refused(DINO_BAD_WEIGHTS, "", open(""));
  // Paths may hold anything, and the message is UTF-8 without control characters all the same.
  check_refused(DINO_BAD_WEIGHTS, "read ?a??b c?d\u00e9\u20ac.pth",
                open("\xff"
                     "a\xe2\x82"
                     "b\nc\xc2\x9b"
                     "d\u00e9\u20ac.pth"));
  check_refused(DINO_BAD_WEIGHTS, "bad.pth", open(folder.write("bad.pth", std::string_view("no weights")).string()));
  std::vector<std::byte> bytes;
  read_picture_file(golden_dir() / "backbone.safetensors", bytes);
  check_refused(
      DINO_BAD_WEIGHTS, "cut.safetensors",
      open(folder.write("cut.safetensors", std::span<const std::byte>(bytes).first(bytes.size() / 2)).string()));
  check_refused(DINO_BAD_WEIGHTS, "", open(golden("forward.safetensors")));

  const std::string good = golden("backbone.safetensors");
  const auto with = [&](auto change) {
    auto options = on_cpu();
    change(options);
    return open(good, options);
  };
  check_refused(DINO_BAD_WEIGHTS, "heads", with([](auto& o) { o.heads = 7; }));
  check_refused(DINO_NO_DEVICE, "device", with([](auto& o) { o.device = "gpu"; }));
  check_refused(DINO_NO_DEVICE, "device", with([](auto& o) { o.device = "cuda:99"; }));
  check_refused(DINO_INVALID_ARGUMENT, "threads", with([](auto& o) { o.threads = -1; }));
  check_refused(DINO_INVALID_ARGUMENT, "threads", with([](auto& o) { o.threads = 1 << 30; }));
  check_refused(DINO_INVALID_ARGUMENT, "network", with([](auto& o) { o.network = 2; }));
  check_refused(DINO_INVALID_ARGUMENT, "heads", with([](auto& o) { o.heads = -1; }));
  check_refused(DINO_INVALID_ARGUMENT, "precision", with([](auto& o) { o.precision = 9; }));
  check_refused(DINO_INVALID_ARGUMENT, "batch", with([](auto& o) { o.batch = -4; }));
  check_refused(DINO_INVALID_ARGUMENT, "gpu_memory_share", with([](auto& o) { o.gpu_memory_share = 1.5F; }));
  check_refused(DINO_INVALID_ARGUMENT, "gpu_memory_share",
                with([](auto& o) { o.gpu_memory_share = std::numeric_limits<float>::quiet_NaN(); }));
  check_refused(DINO_INVALID_ARGUMENT, "struct_size", with([](auto& o) { o.struct_size = 0; }));
  check_refused(DINO_INVALID_ARGUMENT, "struct_size", with([](auto& o) { o.struct_size = 0xffffffffU; }));
  dino_model* model = nullptr;
  const auto options = on_cpu();
  check_refused(DINO_INVALID_ARGUMENT, "null",
                [&](dino_error* error) { return dino_model_open(nullptr, &options, &model, error); });
  check_refused(DINO_INVALID_ARGUMENT, "null",
                [&](dino_error* error) { return dino_model_open(good.c_str(), &options, nullptr, error); });

  // Options of a newer version are refused where they are set, and only there.
  struct Newer {
    dino_model_options known;
    std::int64_t added;
  } newer{on_cpu(), 0};
  newer.known.struct_size = sizeof newer;
  REQUIRE(dino_model_open(good.c_str(), &newer.known, &model, nullptr) == DINO_OK);
  dino_model_close(model);
  newer.added = 1;
  check_refused(DINO_INVALID_ARGUMENT, "newer",
                [&](dino_error* error) { return dino_model_open(good.c_str(), &newer.known, &model, error); });
}

TEST_CASE("Pictures and options that make no sense are refused") {
  const Model model;
  const Image picture = photo();
  std::vector<float> room(1 << 16);
  const auto features = [&](dino_image image, dino_view view = view_of(DINO_VIEW_CENTER),
                            dino_feature_options options = sized<dino_feature_options>()) {
    return [&, image, view, options](dino_error* error) {
      return dino_features(model, &image, 1, &view, &options, room.data(), room.size(), error);
    };
  };
  const auto with = [&](auto change) {
    dino_image image = image_of(picture);
    change(image);
    return features(image);
  };
  const auto refuse = [&](const std::string& part, const auto& call) {
    check_refused(DINO_INVALID_ARGUMENT, part, call);
  };
  refuse("no pixels", with([](auto& i) { i.pixels = nullptr; }));
  refuse("0×", with([](auto& i) { i.width = 0; }));
  refuse("×-3", with([](auto& i) { i.height = -3; }));
  refuse("pixels in all", with([](auto& i) { i.height = std::numeric_limits<std::int64_t>::max(); }));
  refuse("pixels in all", with([](auto& i) { i.width = std::int64_t{1} << 40; }));
  refuse("pixels in all", with([](auto& i) { i.width = i.height = 20000; }));
  refuse("too long", with([](auto& i) {
           i.width = 100000000;
           i.height = 1;
         }));
  refuse("stride of 599", with([](auto& i) { i.row_stride_bytes = 599; }));
  refuse("stride of -600", with([](auto& i) { i.row_stride_bytes = -600; }));
  refuse("stride", with([](auto& i) { i.row_stride_bytes = std::numeric_limits<std::int64_t>::max(); }));
  refuse("format 6", with([](auto& i) { i.format = 6; }));
  refuse("format -1", with([](auto& i) { i.format = -1; }));
  refuse("reserved", with([](auto& i) { i.reserved = 1; }));
  refuse("normalised already", with([](auto& i) { i.format = DINO_NORMALIZED_F32; }));

  const auto viewed = [&](std::int32_t kind, std::int32_t crop_px, std::int32_t short_side_px) {
    return features(image_of(picture), view_of(kind, crop_px, short_side_px));
  };
  refuse("kind 3", viewed(3, 0, 0));
  refuse("crop_px -8", viewed(DINO_VIEW_CENTER, -8, 0));
  refuse("short_side_px -8", viewed(DINO_VIEW_CENTER, 0, -8));
  refuse("multiple", viewed(DINO_VIEW_CENTER, model.info().patch_px + 1, 0));
  refuse("larger", viewed(DINO_VIEW_CENTER, 64, 32));
  refuse("between 0", viewed(DINO_VIEW_CENTER, 1 << 30, 1 << 30));
  refuse("million", viewed(DINO_VIEW_CENTER, 1 << 14, 1 << 14));
  refuse("million", viewed(DINO_VIEW_WHOLE, 0, 60000));
  refuse("crop_px", viewed(DINO_VIEW_WHOLE, 8, 0));
  refuse("below the patch", viewed(DINO_VIEW_WHOLE, 0, 1));
  refuse("does not resize", viewed(DINO_VIEW_AS_IS, 0, 8));
  refuse("multiples of the patch", features({.pixels = picture.rgb.data(),
                                             .height = model.info().patch_px,
                                             .width = model.info().patch_px + 1,
                                             .row_stride_bytes = 0,
                                             .format = DINO_RGB8,
                                             .reserved = 0},
                                            view_of(DINO_VIEW_AS_IS)));
  auto unsized_view = view_of(DINO_VIEW_CENTER);
  unsized_view.struct_size = 3;
  refuse("struct_size", features(image_of(picture), unsized_view));

  const auto optioned = [&](auto change) {
    auto options = sized<dino_feature_options>();
    change(options);
    return features(image_of(picture), view_of(DINO_VIEW_CENTER), options);
  };
  refuse("blocks", optioned([](auto& o) { o.blocks = -1; }));
  refuse("blocks", optioned([](auto& o) { o.blocks = 99; }));
  refuse("average", optioned([](auto& o) {
           o.blocks = 2;
           o.average_patches = 1;
         }));
  refuse("struct_size", optioned([](auto& o) { o.struct_size = 0; }));
  std::size_t width = 0;
  auto many = sized<dino_feature_options>();
  many.blocks = 99;
  refuse("blocks", [&](dino_error* error) { return dino_feature_width(model, &many, &width, error); });

  // Null pointers and too little room, for each function.
  const dino_image image = image_of(picture);
  std::int32_t rows = 0, columns = 0;
  refuse("null", [&](dino_error* e) { return dino_feature_width(nullptr, nullptr, &width, e); });
  refuse("null", [&](dino_error* e) { return dino_feature_width(model, nullptr, nullptr, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(nullptr, &image, nullptr, &rows, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, nullptr, nullptr, &rows, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, &image, nullptr, nullptr, &columns, e); });
  refuse("null", [&](dino_error* e) { return dino_patch_grid(model, &image, nullptr, &rows, nullptr, e); });
  auto info = sized<dino_model_info>();
  refuse("null", [&](dino_error* e) { return dino_model_describe(nullptr, &info, e); });
  refuse("null", [&](dino_error* e) { return dino_model_describe(model, nullptr, e); });
  info.struct_size = 0;
  refuse("struct_size", [&](dino_error* e) { return dino_model_describe(model, &info, e); });
  using Function =
      std::function<dino_status(dino_model*, const dino_image*, std::size_t, float*, std::size_t, dino_error*)>;
  const std::vector<Function> functions{[](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_features(m, i, n, nullptr, nullptr, to, size, e);
                                        },
                                        [](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_patch_tokens(m, i, n, nullptr, to, size, e);
                                        },
                                        [](auto m, auto i, auto n, auto to, auto size, auto e) {
                                          return dino_attention(m, i, n, nullptr, -1, to, size, e);
                                        }};
  const auto patches = static_cast<std::size_t>(model.info().image_px / model.info().patch_px) *
                       static_cast<std::size_t>(model.info().image_px / model.info().patch_px);
  const auto embed_dim = static_cast<std::size_t>(model.info().embed_dim);
  const std::size_t sizes[] = {embed_dim, patches * embed_dim, patches * static_cast<std::size_t>(model.info().heads)};
  for (std::size_t f = 0; f < functions.size(); ++f) {
    const auto call = [&](dino_model* m, const dino_image* i, std::size_t n, float* to, std::size_t size) {
      return [&, m, i, n, to, size](dino_error* error) { return functions[f](m, i, n, to, size, error); };
    };
    refuse("null", call(nullptr, &image, 1, room.data(), room.size()));
    refuse("null", call(model, nullptr, 1, room.data(), room.size()));
    refuse("at least one", call(model, &image, 0, room.data(), room.size()));
    refuse("null", call(model, &image, 1, nullptr, room.size()));
    check_refused(DINO_BUFFER_TOO_SMALL, std::to_string(sizes[f]), call(model, &image, 1, room.data(), sizes[f] - 1));
    CHECK(call(model, &image, 1, room.data(), sizes[f])(nullptr) == DINO_OK);
    // The second picture is the bad one.
    const dino_image two[] = {image, {}};
    refuse("picture 1", call(model, two, 2, room.data(), room.size()));
  }
  for (const std::int32_t layer : {model.info().depth, -model.info().depth - 1, 1 << 30})
    refuse("block", [&](dino_error* e) {
      return dino_attention(model, &image, 1, nullptr, layer, room.data(), room.size(), e);
    });

  // Numbers that are none.
  std::vector<float> normalized(3 * 64 * 64, 0.5F);
  const dino_image planes{.pixels = normalized.data(),
                          .height = 64,
                          .width = 64,
                          .row_stride_bytes = 0,
                          .format = DINO_NORMALIZED_F32,
                          .reserved = 0};
  CHECK(features(planes, view_of(DINO_VIEW_AS_IS))(nullptr) == DINO_OK);
  dino_image apart = planes;
  apart.row_stride_bytes = 64 * 4 + 4;
  refuse("stride", features(apart, view_of(DINO_VIEW_AS_IS)));
  normalized[100] = std::numeric_limits<float>::quiet_NaN();
  refuse("not finite", features(planes, view_of(DINO_VIEW_AS_IS)));
  // It goes on working afterwards.
  CHECK(features(image)(nullptr) == DINO_OK);
}
