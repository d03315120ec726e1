#include "models/tensor_source.h"

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
  explicit SafetensorsSource(const std::filesystem::path& path) : file_(SafetensorsFile::read(path)) {
    metadata_ = file_.metadata();
    for (const std::string& name : file_.names()) tensors_.push_back({name, file_[name].shape(), file_[name].dtype()});
  }

  void read(std::size_t index, std::span<float> to) override {
    const ConstArray array = file_[tensors_[index].name];
    require(static_cast<std::size_t>(array.size()) == to.size(), "weights", "{} has {} elements; {} were asked for",
            tensors_[index].name, array.size(), to.size());
    convert_to_float(static_cast<const std::byte*>(array.data()), array.dtype(), to.size(), to.data());
  }

 private:
  SafetensorsFile file_;
};

}  // namespace

void convert_to_float(const std::byte* from, DType dtype, std::size_t n, float* to) {
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

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path) {
  return std::make_unique<SafetensorsSource>(path);
}

std::unique_ptr<TensorSource> open_tensors(const std::filesystem::path& path) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), "weights",
          "{} is a folder; expected a file of weights, such as its last.safetensors", path.string());
  std::ifstream stream(path, std::ios::binary);
  require(stream.good(), "weights", "cannot read {}: {}", path.string(), std::strerror(errno));
  char start[9] = {};
  stream.read(start, sizeof start);
  require(stream.gcount() == sizeof start, "weights", "{} is too short to hold weights", path.string());
  if (std::memcmp(start, "PK\3\4", 4) == 0) return open_torch_zip(path);
  // The length of a safetensors header may begin with any byte, so its JSON is looked for first.
  if (start[8] == '{') return open_safetensors(path);
  require(start[0] == '\x80', "weights", "{} is no weights file; expected .safetensors, or what torch.save writes",
          path.string());
  return open_torch_legacy(path);
}

}  // namespace dino
