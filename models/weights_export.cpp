#include "models/weights_export.h"

#include "engine/files.h"
#include "models/hugging_face.h"
#include "models/onnx_export.h"
#include "models/safetensors.h"
#include "models/torch_writer.h"
#include "models/vit.h"
#include "models/weight_names.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dino {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "convert";
constexpr std::string_view kBackbone = "backbone.";

/// Tensors that own their elements, in the order in which they are written.
struct OwnedTensors {
  std::vector<NamedArray> arrays;
  std::vector<std::vector<std::byte>> elements;
};

std::vector<std::byte> rounded(const WeightsFile& file, const std::string& name, DType dtype) {
  const std::vector<float> values = file.read(name);
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  convert_from_float(values.data(), values.size(), dtype, bytes.data());
  std::vector<float> back(values.size());
  convert_to_float(bytes.data(), dtype, values.size(), back.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(std::isfinite(back[i]), kWhere, "{} holds {} in {}, which is not finite in {}{}", file.path().string(),
            values[i], name, name_of(dtype), std::isfinite(values[i]) ? "; try --dtype fp32 or bf16" : "");
  }
  return bytes;
}

/// Backbone in the official order, then (with `head`) the head's tensors.
std::vector<std::string> names_in_order(const WeightsFile& file, bool head) {
  ParameterLayout layout;
  const Vit vit(layout, file.config());
  file.require_fit(layout, kBackbone);
  std::vector<std::string> names;
  for (const ParameterInfo& info : layout.infos()) names.push_back(info.name);
  for (const std::string& name : file.names())
    if (head && name.starts_with("head.")) names.push_back(name);
  return names;
}

std::vector<std::string> names_in_form(const std::string& name, WeightsForm form) {
  if (form == WeightsForm::hugging_face) return hugging_face_names(name);
  return {form == WeightsForm::dino_cuda ? name : name.substr(kBackbone.size())};
}

OwnedTensors tensors_in_form(const WeightsFile& file, WeightsForm form, DType dtype) {
  OwnedTensors tensors;
  for (const std::string& name : names_in_order(file, form == WeightsForm::dino_cuda)) {
    const std::vector<std::byte>& bytes = tensors.elements.emplace_back(rounded(file, name, dtype));
    const std::vector<std::string> parts = names_in_form(name, form);
    const Shape whole = file.shape(name);
    std::vector<std::int64_t> extents(whole.extents().begin(), whole.extents().end());
    extents[0] /= static_cast<std::int64_t>(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      tensors.arrays.push_back({parts[i], ConstArray(bytes.data() + i * (bytes.size() / parts.size()), dtype,
                                                     Shape(std::span<const std::int64_t>(extents)))});
    }
  }
  return tensors;
}

bool is_torch_name(const fs::path& path) {
  return path.extension() == ".pth" || path.extension() == ".pt" || path.extension() == ".bin";
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string torch_name(DType dtype) { return std::string(name_of(dtype)); }

}  // namespace

WeightsForm weights_form(std::string_view name) {
  if (name == "official") return WeightsForm::official;
  if (name == "timm") return WeightsForm::timm;
  if (name == "hf") return WeightsForm::hugging_face;
  if (name == "dino_cuda") return WeightsForm::dino_cuda;
  if (name == "onnx") return WeightsForm::onnx;
  fail(kWhere, "no form of weights is called {}; expected official, timm, hf, dino_cuda or onnx", name);
}

DType natural_dtype(const WeightsFile& file) {
  const DType stored = file.stored_dtype("backbone.blocks.0.attn.qkv.weight");
  return stored == DType::float16 || stored == DType::bfloat16 ? stored : DType::float32;
}

std::vector<fs::path> export_paths(const fs::path& out, WeightsForm form) {
  const bool named_file = out.extension() == ".safetensors" || is_torch_name(out) || out.extension() == ".onnx";
  if (form == WeightsForm::hugging_face) {
    require(!named_file, kWhere, "the form hf is a folder; got the file name {}; try {}", out.string(),
            (out.parent_path() / out.stem()).string());
    return {out / "config.json", out / "preprocessor_config.json", out / "model.safetensors"};
  }
  if (form == WeightsForm::onnx) {
    require(out.extension() == ".onnx", kWhere, "the form onnx is a file NAME.onnx; got {}", out.string());
  } else {
    require(named_file && out.extension() != ".onnx", kWhere, "got the name {}; expected NAME.safetensors or NAME.pth",
            out.string());
  }
  return {out};
}

void write_weights(const WeightsFile& file, const fs::path& out, WeightsForm form, DType dtype) {
  const std::vector<fs::path> paths = export_paths(out, form);
  const VitConfig& config = file.config();
  if (form == WeightsForm::onnx) {
    for (const std::string& name : names_in_order(file, false)) rounded(file, name, dtype);  // refuses what would fail
    write_onnx(file, out, dtype);
    return;
  }
  const OwnedTensors tensors = tensors_in_form(file, form, dtype);
  if (form == WeightsForm::hugging_face) {
    // Readers prefer the index of a sharded model to the file that is written here.
    require(!fs::exists(out / "model.safetensors.index.json"), kWhere,
            "{} holds a model in several files; try another folder", out.string());
    make_output_folder(out);
    write_text(paths[0], hugging_face_config(config, torch_name(dtype)));
    write_text(paths[1], hugging_face_preprocessor_config(config));
    write_safetensors(paths[2], tensors.arrays, {{"format", "pt"}});
  } else if (is_torch_name(out)) {
    write_torch(out, tensors.arrays);
  } else {
    // transformers and timm ask for the first, read_weights() for the second.
    write_safetensors(out, tensors.arrays, {{"format", "pt"}, {"num_heads", std::to_string(config.heads)}});
  }
}

void require_same_weights(const WeightsFile& file, const WeightsFile& out, DType dtype) {
  const bool head = file.has_head() && out.has_head();
  for (const std::string& name : names_in_order(file, head)) {
    require(out.contains(name) && out.shape(name) == file.shape(name), kWhere, "{} lacks {}, or has another shape",
            out.path().string(), name);
    const std::vector<std::byte> expected = rounded(file, name, dtype);
    const std::vector<std::byte> got = rounded(out, name, dtype);
    require(out.stored_dtype(name) == dtype && got == expected, kWhere, "{} has other values in {} than {}",
            out.path().string(), name, file.path().string());
  }
}

}  // namespace dino
