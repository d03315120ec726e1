// The border to C: pointers are checked here, and no exception passes.
#include "api/include/dino_cuda.h"

#include "api/model.h"
#include "api/options.h"
#include "api/pictures.h"
#include "api/refusal.h"
#include "data/decode.h"
#include "engine/text.h"
#include "evaluate/features.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>

using namespace dino;
using namespace dino::api;

struct dino_picture {  // NOLINT(readability-identifier-naming): C's name
  Image image;
};

namespace {

/// Bytes of the character of UTF-8 that the text begins with; 0 where it begins with none.
std::size_t character_bytes(std::string_view text) noexcept {
  for (std::size_t size = 1; size <= std::min<std::size_t>(4, text.size()); ++size) {
    if (is_utf8(text.substr(0, size))) return size;
  }
  return 0;
}

/// One line of UTF-8, cut between two characters. Takes no memory, of which there may be none.
void set_message(dino_error* error, std::string_view text) noexcept {
  if (error == nullptr) return;
  std::size_t at = 0;
  while (!text.empty()) {
    const std::size_t whole = character_bytes(text), size = std::max<std::size_t>(1, whole);
    if (at + size >= sizeof error->message) break;
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const bool control = byte(0) < 0x20 || byte(0) == 0x7F || (size == 2 && byte(0) == 0xC2 && byte(1) < 0xA0);
    if (whole == 0 || control) {
      error->message[at++] = byte(0) == '\n' ? ' ' : '?';
    } else {
      std::copy_n(text.data(), size, error->message + at);
      at += size;
    }
    text.remove_prefix(size);
  }
  error->message[at] = '\0';
}

dino_status failed(dino_error* error, dino_status status, std::string_view text) noexcept {
  set_message(error, text);
  return status;
}

/// The arena's errors are about memory, wherever they come up.
dino_status status_of(const Error& error, dino_status otherwise) {
  return std::string_view(error.what()).starts_with("[arena]") ? DINO_OUT_OF_MEMORY : otherwise;
}

template <typename Body>
dino_status guarded(dino_error* error, const Body& body) noexcept {
  constexpr std::string_view kNoMemory = "[memory] the machine's memory is used up; try fewer or smaller pictures";
  try {
    body();
    return failed(error, DINO_OK, "");
  } catch (const Refusal& refusal) {
    return failed(error, status_of(refusal, refusal.status()), refusal.what());
  } catch (const Error& other) {
    return failed(error, status_of(other, DINO_FAILED), other.what());
  } catch (const std::bad_alloc&) {
    return failed(error, DINO_OUT_OF_MEMORY, kNoMemory);
  } catch (const std::length_error&) {
    return failed(error, DINO_OUT_OF_MEMORY, kNoMemory);
  } catch (const std::exception& other) {
    return failed(error, DINO_FAILED, other.what());
  } catch (...) {
    return failed(error, DINO_FAILED, "[dino_cuda] unknown failure");
  }
}

void require_pointer(const void* pointer, std::string_view where, const char* name) {
  require_argument(pointer != nullptr, where, "{} is null", name);
}

std::span<const dino_image> pictures_of(const dino_image* images, std::size_t count, std::string_view where) {
  require_pointer(images, where, "images");
  require_argument(count >= 1, where, "got {} pictures, expected at least one", count);
  return {images, count};
}

dino_feature_options complete_features(const dino_feature_options* given, const VitConfig& config) {
  dino_feature_options options = complete(given, "features");
  if (options.blocks == 0) options.blocks = 1;
  failing_as(DINO_INVALID_ARGUMENT, [&] {
    FeatureKind{.blocks = options.blocks, .average_patches = options.average_patches != 0}.check(config);
  });
  return options;
}

std::size_t width_of(const dino_feature_options& options, const VitConfig& config) {
  const FeatureKind kind{.blocks = options.blocks, .average_patches = options.average_patches != 0};
  return static_cast<std::size_t>(kind.width(config));
}

/// a·b + c, or the largest number where that is too large.
std::size_t saturated(std::size_t a, std::size_t b, std::size_t c) {
  std::size_t result = 0;
  if (__builtin_mul_overflow(a, b, &result) || __builtin_add_overflow(result, c, &result))
    return std::numeric_limits<std::size_t>::max();
  return result;
}

void require_room(std::size_t needed, const float* to, std::size_t capacity, std::string_view where) {
  require_pointer(to, where, "the output");
  if (capacity >= needed) return;
  throw Refusal(DINO_BUFFER_TOO_SMALL,
                Error(where, fmt::format("there are {} numbers; got room for {}", needed, capacity)));
}

/// Numbers for pictures of which each patch has `each`. Checks all pictures.
std::size_t patch_numbers(std::span<const dino_image> images, const dino_view& view, const VitConfig& config,
                          std::size_t each) {
  std::size_t total = 0;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const Prepared size = prepared_size(images[i], i, view, config);
    const auto patches = static_cast<std::size_t>(size.height_px / config.patch_px) *
                         static_cast<std::size_t>(size.width_px / config.patch_px);
    total = saturated(patches, each, total);
  }
  return total;
}

template <typename Decode>
dino_status make_picture(dino_picture** picture, dino_error* error, const Decode& decode) {
  return guarded(error, [&] {
    require_pointer(picture, "picture", "the place for the picture");
    *picture = nullptr;
    auto made = std::make_unique<dino_picture>();
    decode(made->image);
    *picture = made.release();
  });
}

}  // namespace

const char* dino_status_name(dino_status status) {
  switch (status) {
    case DINO_OK: return "DINO_OK";
    case DINO_INVALID_ARGUMENT: return "DINO_INVALID_ARGUMENT";
    case DINO_BUFFER_TOO_SMALL: return "DINO_BUFFER_TOO_SMALL";
    case DINO_BAD_WEIGHTS: return "DINO_BAD_WEIGHTS";
    case DINO_BAD_PICTURE: return "DINO_BAD_PICTURE";
    case DINO_NO_DEVICE: return "DINO_NO_DEVICE";
    case DINO_OUT_OF_MEMORY: return "DINO_OUT_OF_MEMORY";
    case DINO_FAILED: return "DINO_FAILED";
    default: return "unknown status";
  }
}

const char* dino_version() { return DINO_VERSION; }

dino_status dino_model_open(const char* path, const dino_model_options* options, dino_model** model,
                            dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "model", "the place for the model");
    *model = nullptr;
    require_pointer(path, "model", "the path");
    *model = std::make_unique<dino_model>(path, complete(options, "model")).release();
  });
}

void dino_model_close(dino_model* model) { delete model; }

dino_status dino_model_describe(const dino_model* model, dino_model_info* info, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "model", "the model");
    require_pointer(info, "model", "the place for the description");
    const std::uint32_t size = info->struct_size;
    require_argument(size >= sizeof size && size <= 4096, "model",
                     "struct_size is {}; expected the size of the structure, {}", size, sizeof *info);
    const VitConfig& config = model->config();
    const dino_model_info full{.struct_size = size,
                               .embed_dim = config.embed_dim,
                               .depth = config.depth,
                               .heads = config.heads,
                               .patch_px = config.patch_px,
                               .image_px = config.image_px,
                               .parameters = model->parameters()};
    std::memset(static_cast<void*>(info), 0, size);
    std::memcpy(static_cast<void*>(info), &full, std::min<std::size_t>(size, sizeof full));
  });
}

const char* dino_model_device(const dino_model* model) { return model == nullptr ? "" : model->device().c_str(); }

dino_status dino_picture_open(const char* path, dino_picture** picture, dino_error* error) {
  return make_picture(picture, error, [&](Image& image) {
    require_pointer(path, "picture", "the path");
    failing_as(DINO_BAD_PICTURE, [&] {
      std::vector<std::byte> bytes;
      read_picture_file(path, bytes);
      decode_image(bytes, path, {}, image);
    });
  });
}

dino_status dino_picture_decode(const void* bytes, size_t size_bytes, dino_picture** picture, dino_error* error) {
  return make_picture(picture, error, [&](Image& image) {
    require_pointer(bytes, "picture", "the pointer to the bytes");
    const std::span file(static_cast<const std::byte*>(bytes), size_bytes);
    failing_as(DINO_BAD_PICTURE, [&] { decode_image(file, "the picture in memory", {}, image); });
  });
}

dino_status dino_picture_image(const dino_picture* picture, dino_image* image, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(picture, "picture", "the picture");
    require_pointer(image, "picture", "the place for the image");
    *image = {.pixels = picture->image.rgb.data(),
              .height = picture->image.height,
              .width = picture->image.width,
              .row_stride_bytes = std::int64_t{picture->image.width} * 3,
              .format = DINO_RGB8,
              .reserved = 0};
  });
}

void dino_picture_close(dino_picture* picture) { delete picture; }

dino_status dino_patch_grid(const dino_model* model, const dino_image* image, const dino_view* view, int32_t* rows,
                            int32_t* columns, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "patch grid", "the model");
    require_pointer(image, "patch grid", "the image");
    require_pointer(rows, "patch grid", "the place for the rows");
    require_pointer(columns, "patch grid", "the place for the columns");
    const VitConfig& config = model->config();
    const Prepared size = prepared_size(*image, 0, complete_view(view, config), config);
    *rows = size.height_px / config.patch_px;
    *columns = size.width_px / config.patch_px;
  });
}

dino_status dino_feature_width(const dino_model* model, const dino_feature_options* options, size_t* width,
                               dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "features", "the model");
    require_pointer(width, "features", "the place for the width");
    *width = width_of(complete_features(options, model->config()), model->config());
  });
}

dino_status dino_features(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                          const dino_feature_options* options, float* features, size_t capacity, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "features", "the model");
    const auto pictures = pictures_of(images, count, "features");
    const dino_feature_options full = complete_features(options, model->config());
    const dino_view full_view = complete_view(view, model->config());
    require_room(saturated(count, width_of(full, model->config()), 0), features, capacity, "features");
    for (std::size_t i = 0; i < count; ++i) prepared_size(pictures[i], i, full_view, model->config());
    model->features(pictures, full_view, full, features);
  });
}

dino_status dino_patch_tokens(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                              float* tokens, size_t capacity, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "patch tokens", "the model");
    const auto pictures = pictures_of(images, count, "patch tokens");
    const dino_view full = complete_view(view, model->config());
    const auto each = static_cast<std::size_t>(model->config().embed_dim);
    require_room(patch_numbers(pictures, full, model->config(), each), tokens, capacity, "patch tokens");
    model->patch_tokens(pictures, full, tokens);
  });
}

dino_status dino_attention(dino_model* model, const dino_image* images, size_t count, const dino_view* view,
                           int32_t layer, float* attention, size_t capacity, dino_error* error) {
  return guarded(error, [&] {
    require_pointer(model, "attention", "the model");
    const auto pictures = pictures_of(images, count, "attention");
    const VitConfig& config = model->config();
    require_argument(layer >= -config.depth && layer < config.depth, "attention",
                     "there is no block {}; the network has {}", layer, config.depth);
    const dino_view full = complete_view(view, config);
    const auto each = static_cast<std::size_t>(config.heads);
    require_room(patch_numbers(pictures, full, config, each), attention, capacity, "attention");
    model->attention(pictures, full, layer, attention);
  });
}
