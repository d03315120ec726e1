// dino_cuda.h for C++17 and later: models and pictures that close themselves, results as vectors, failures as
// exceptions. Header-only, so that the border to the library is C's whatever compiler and standard library a program
// uses.
//
//     const dino_cuda::Model model("last.safetensors");
//     const dino_cuda::Picture photo("photo.jpg");
//     const std::vector<float> features = model.features(photo.image());
//     const dino_cuda::Attention attention = model.attention(photo.image());
//
// What dino_cuda.h says of threads, options and pictures holds here as well.
#ifndef DINO_CUDA_HPP_
#define DINO_CUDA_HPP_

#include "dino_cuda.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace dino_cuda {

/// What every function here throws when it fails. what() is the library's one line.
class Error : public std::runtime_error {
 public:
  Error(dino_status status, const char* message) : std::runtime_error(message), status_(status) {}
  dino_status status() const noexcept { return status_; }

 private:
  dino_status status_;
};

namespace detail {

/// Calls a function of the C API, whose last argument is its error.
template <typename Function, typename... Args>
void call(Function function, Args... args) {
  dino_error error;
  const dino_status status = function(args..., &error);
  if (status != DINO_OK) throw Error(status, error.message);
}

template <typename Options>
Options sized() {
  Options options{};
  options.struct_size = static_cast<std::uint32_t>(sizeof(Options));
  return options;
}

}  // namespace detail

inline std::string version() { return dino_version(); }

/// Pixels that somebody else owns, as the library reads them: 8-bit samples, top row first.
inline dino_image image(const void* pixels, std::int64_t height, std::int64_t width, std::int32_t format = DINO_RGB8,
                        std::int64_t row_stride_bytes = 0) noexcept {
  return {pixels, height, width, row_stride_bytes, format, 0};
}

/// dino_view with its size set. `View::whole()` is what `dino_cuda attention` shows the network.
struct View : dino_view {
  View() : dino_view(detail::sized<dino_view>()) {}
  /// The short side resized, then the central square; 0: the network's native side, and 256/224 of it.
  static View center(std::int32_t crop_px = 0, std::int32_t short_side_px = 0) {
    return make(DINO_VIEW_CENTER, crop_px, short_side_px);
  }
  /// The short side resized (0: to 480), then cut to multiples of the patch.
  static View whole(std::int32_t short_side_px = 0) { return make(DINO_VIEW_WHOLE, 0, short_side_px); }
  /// Sides that are multiples of the patch already.
  static View as_is() { return make(DINO_VIEW_AS_IS, 0, 0); }

 private:
  static View make(std::int32_t kind, std::int32_t crop_px, std::int32_t short_side_px) {
    View view;
    view.kind = kind;
    view.crop_px = crop_px;
    view.short_side_px = short_side_px;
    return view;
  }
};

/// dino_model_options with its size set: `ModelOptions options; options.device = "cpu";`.
struct ModelOptions : dino_model_options {
  ModelOptions() : dino_model_options(detail::sized<dino_model_options>()) {}
};

/// dino_feature_options with its size set.
struct FeatureOptions : dino_feature_options {
  FeatureOptions() : dino_feature_options(detail::sized<dino_feature_options>()) {}
};

/// A decoded picture file.
class Picture {
 public:
  explicit Picture(const std::string& path) {
    dino_picture* picture = nullptr;
    detail::call(dino_picture_open, path.c_str(), &picture);
    picture_.reset(picture);
  }
  /// From the content of such a file.
  Picture(const void* bytes, std::size_t size_bytes) {
    dino_picture* picture = nullptr;
    detail::call(dino_picture_decode, bytes, size_bytes, &picture);
    picture_.reset(picture);
  }

  /// The pixels, RGB, valid as long as this picture.
  dino_image image() const {
    dino_image image{};
    detail::call(dino_picture_image, static_cast<const dino_picture*>(picture_.get()), &image);
    return image;
  }

 private:
  struct Close {
    void operator()(dino_picture* picture) const noexcept { dino_picture_close(picture); }
  };
  std::unique_ptr<dino_picture, Close> picture_;
};

/// The patch tokens of one picture: (rows, columns, width).
struct PatchTokens {
  std::int32_t rows = 0, columns = 0, width = 0;
  std::vector<float> values;
};

/// What the CLS token of one picture looks at: (heads, rows, columns).
struct Attention {
  std::int32_t heads = 0, rows = 0, columns = 0;
  std::vector<float> values;

  /// Mean over the heads: (rows, columns).
  std::vector<float> mean() const {
    const std::size_t patches = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
    std::vector<float> result(patches, 0.0F);
    for (std::size_t i = 0; i < values.size(); ++i) result[i % patches] += values[i] / static_cast<float>(heads);
    return result;
  }
};

/// A trained network on a device. Its functions may be called by several threads, and then wait for each other.
class Model {
 public:
  explicit Model(const std::string& path, const ModelOptions& options = {}) {
    dino_model* model = nullptr;
    detail::call(dino_model_open, path.c_str(), static_cast<const dino_model_options*>(&options), &model);
    model_.reset(model);
  }

  dino_model_info info() const {
    auto info = detail::sized<dino_model_info>();
    detail::call(dino_model_describe, static_cast<const dino_model*>(model_.get()), &info);
    return info;
  }
  std::string device() const { return dino_model_device(model_.get()); }

  /// Numbers for each picture.
  std::size_t feature_width(const FeatureOptions& options = {}) const {
    std::size_t width = 0;
    detail::call(dino_feature_width, static_cast<const dino_model*>(model_.get()),
                 static_cast<const dino_feature_options*>(&options), &width);
    return width;
  }
  /// (pictures, feature_width(options)).
  std::vector<float> features(const std::vector<dino_image>& images, const View& view = {},
                              const FeatureOptions& options = {}) const {
    std::vector<float> values(images.size() * feature_width(options));
    detail::call(dino_features, model_.get(), images.data(), images.size(), static_cast<const dino_view*>(&view),
                 static_cast<const dino_feature_options*>(&options), values.data(), values.size());
    return values;
  }
  std::vector<float> features(const dino_image& image, const View& view = {},
                              const FeatureOptions& options = {}) const {
    return features(std::vector<dino_image>{image}, view, options);
  }

  PatchTokens patch_tokens(const dino_image& image, const View& view = {}) const {
    PatchTokens tokens;
    grid(image, view, tokens.rows, tokens.columns);
    tokens.width = info().embed_dim;
    tokens.values.resize(static_cast<std::size_t>(tokens.rows) * static_cast<std::size_t>(tokens.columns) *
                         static_cast<std::size_t>(tokens.width));
    detail::call(dino_patch_tokens, model_.get(), &image, std::size_t{1}, static_cast<const dino_view*>(&view),
                 tokens.values.data(), tokens.values.size());
    return tokens;
  }

  /// In block `layer`, negative from the end.
  Attention attention(const dino_image& image, const View& view = View::whole(), std::int32_t layer = -1) const {
    Attention attention;
    grid(image, view, attention.rows, attention.columns);
    attention.heads = info().heads;
    attention.values.resize(static_cast<std::size_t>(attention.heads) * static_cast<std::size_t>(attention.rows) *
                            static_cast<std::size_t>(attention.columns));
    detail::call(dino_attention, model_.get(), &image, std::size_t{1}, static_cast<const dino_view*>(&view), layer,
                 attention.values.data(), attention.values.size());
    return attention;
  }

  /// For what is not here.
  dino_model* get() const noexcept { return model_.get(); }

 private:
  struct Close {
    void operator()(dino_model* model) const noexcept { dino_model_close(model); }
  };

  void grid(const dino_image& image, const View& view, std::int32_t& rows, std::int32_t& columns) const {
    detail::call(dino_patch_grid, static_cast<const dino_model*>(model_.get()), &image,
                 static_cast<const dino_view*>(&view), &rows, &columns);
  }

  std::unique_ptr<dino_model, Close> model_;
};

}  // namespace dino_cuda

#endif  // DINO_CUDA_HPP_
