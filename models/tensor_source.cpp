#include "models/tensor_source.h"

#include "engine/files.h"
#include "models/safetensors.h"
#include "models/torch_file.h"

#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

namespace dino {
namespace {

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -value : value;
  }
  const std::uint32_t wide = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

/// Rounds to nearest, ties to even.
std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above: infinite
  if (magnitude < 0x38800000u) {  // below 2^-14: the sum with 0.5 leaves the result in the lowest bits, rounded
    const float sum = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(0.5F)));
  }
  const std::uint32_t rebased = magnitude - ((127u - 15u) << 23);
  return static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
}

template <typename T, typename Convert>
void convert_back(const float* from, std::size_t n, std::byte* to, Convert&& convert) {
  for (std::size_t i = 0; i < n; ++i) {
    const T value = convert(from[i]);
    std::memcpy(to + i * sizeof(T), &value, sizeof(T));
  }
}

template <typename T, typename Convert>
void convert_all(const std::byte* from, std::size_t n, float* to, Convert&& convert) {
  for (std::size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    to[i] = convert(value);
  }
}

class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(const std::filesystem::path& path) : file_(path) {
    metadata_ = file_.metadata();
    files_ = {path};
    for (const std::string& name : file_.names()) tensors_.push_back({name, file_.shape(name), file_.dtype(name)});
  }

  void read(std::size_t index, std::span<float> to) override {
    const StoredTensor& tensor = tensors_[index];
    require(static_cast<std::size_t>(tensor.shape.size()) == to.size(), "weights",
            "{} has {} elements; {} were asked for", tensor.name, tensor.shape.size(), to.size());
    if (tensor.dtype == DType::float32) return file_.read(tensor.name, std::as_writable_bytes(to));
    std::vector<std::byte> stored(to.size() * size_of(tensor.dtype));
    file_.read(tensor.name, stored);
    convert_to_float(stored.data(), tensor.dtype, to.size(), to.data());
  }

 private:
  SafetensorsReader file_;
};

/// The file of weights in a folder that Hugging Face's save_pretrained wrote.
std::filesystem::path weights_in_folder(const std::filesystem::path& folder) {
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"}) {
    if (file_exists(folder / name)) return folder / name;
  }
  fail("weights", "{} is a folder without model.safetensors; expected a file of weights, such as its last.safetensors",
       folder.string());
}

}  // namespace

void convert_to_float(const std::byte* from, DType dtype, std::size_t n, float* to) {
  if (n == 0) return;  // an empty tensor may have no memory
  const auto plain = [](auto value) { return static_cast<float>(value); };
  switch (dtype) {
    case DType::float32: std::memcpy(to, from, n * sizeof(float)); return;
    case DType::float64: return convert_all<double>(from, n, to, plain);
    case DType::bfloat16: return convert_all<BFloat16>(from, n, to, plain);
    case DType::float16: return convert_all<std::uint16_t>(from, n, to, half_to_float);
    case DType::uint8: return convert_all<std::uint8_t>(from, n, to, plain);
    case DType::int32: return convert_all<std::int32_t>(from, n, to, plain);
    case DType::int64: return convert_all<std::int64_t>(from, n, to, plain);
  }
}

void convert_from_float(const float* from, std::size_t n, DType dtype, std::byte* to) {
  if (n == 0) return;
  switch (dtype) {
    case DType::float32: std::memcpy(to, from, n * sizeof(float)); return;
    case DType::bfloat16: return convert_back<BFloat16>(from, n, to, [](float value) { return BFloat16(value); });
    case DType::float16: return convert_back<std::uint16_t>(from, n, to, float_to_half);
    default: fail("weights", "weights cannot be written as {}; expected float32, bfloat16 or float16", name_of(dtype));
  }
}

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path) {
  return std::make_unique<SafetensorsSource>(path);
}

std::unique_ptr<TensorSource> open_tensors(const std::filesystem::path& file_or_folder) {
  std::error_code ignored;
  const std::filesystem::path path =
      std::filesystem::is_directory(file_or_folder, ignored) ? weights_in_folder(file_or_folder) : file_or_folder;
  // A pipe would be waited for.
  const std::string obstacle = why_no_file(path);
  require(obstacle.empty(), "weights", "cannot read {}: {}; expected a file of weights", path.string(), obstacle);
  std::ifstream stream(path, std::ios::binary);
  require(stream.good(), "weights", "cannot read {}: {}", path.string(), std::strerror(errno));
  char start[9] = {};
  stream.read(start, sizeof start);
  require(stream.gcount() == sizeof start, "weights", "{} is too short to hold weights", path.string());
  if (std::memcmp(start, "PK\3\4", 4) == 0) return open_torch_zip(path);
  // The length of a safetensors header may begin with any byte, so its JSON is looked for first.
  if (start[8] == '{' && start[0] != '{') return open_safetensors(path);
  if (path.filename().string().ends_with(".json")) return open_sharded(path);
  if (start[8] == '{') return open_safetensors(path);
  require(start[0] == '\x80', "weights", "{} is no weights file; expected .safetensors, or what torch.save writes",
          path.string());
  return open_torch_legacy(path);
}

}  // namespace dino
