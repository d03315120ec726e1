#include "models/onnx_export.h"

#include "engine/files.h"
#include "models/protobuf.h"
#include "models/vit.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

namespace dino {
namespace {

// Field numbers and constants of onnx.proto (github.com/onnx/onnx, IR version 8).
constexpr int kIrVersion = 8;
constexpr int kOpset = 17;
namespace model_field {
constexpr int ir_version = 1, producer_name = 2, graph = 7, opset_import = 8, metadata_props = 14;
}
namespace graph_field {
constexpr int node = 1, name = 2, initializer = 5, input = 11, output = 12;
}
namespace node_field {
constexpr int input = 1, output = 2, name = 3, op_type = 4, attribute = 5;
}
namespace attribute_field {
constexpr int name = 1, f = 2, i = 3, s = 4, ints = 8, type = 20;
}
namespace tensor_field {
constexpr int dims = 1, data_type = 2, name = 8, raw_data = 9;
}
enum AttributeType : int { kFloatAttribute = 1, kIntAttribute = 2, kStringAttribute = 3, kIntsAttribute = 7 };
enum TensorType : int { kFloat = 1, kInt64 = 7, kBool = 9, kFloat16 = 10, kBFloat16 = 16 };

TensorType tensor_type(DType dtype) {
  switch (dtype) {
    case DType::float16: return kFloat16;
    case DType::bfloat16: return kBFloat16;
    default: return kFloat;
  }
}

struct Attribute {
  ProtobufWriter bytes;

  Attribute(std::string_view name, std::int64_t value) : Attribute(name, kIntAttribute) {
    bytes.integer(attribute_field::i, value);
  }
  Attribute(std::string_view name, int value) : Attribute(name, std::int64_t{value}) {}
  Attribute(std::string_view name, float value) : Attribute(name, kFloatAttribute) {
    bytes.real(attribute_field::f, value);
  }
  Attribute(std::string_view name, const char* value) : Attribute(name, kStringAttribute) {
    bytes.text(attribute_field::s, value);
  }
  Attribute(std::string_view name, const std::vector<std::int64_t>& values) : Attribute(name, kIntsAttribute) {
    for (const std::int64_t value : values) bytes.integer(attribute_field::ints, value);
  }

 private:
  Attribute(std::string_view name, AttributeType type) {
    bytes.text(attribute_field::name, name);
    bytes.integer(attribute_field::type, type);
  }
};

/// Nodes and constants of a graph. A value is its name.
class GraphWriter {
 public:
  using Value = std::string;

  /// Adds a node with one output, named after it unless `output` is given. Empty inputs are left out.
  Value node(const char* op, const std::vector<Value>& inputs, const std::vector<Attribute>& attributes = {},
             const Value& output = "") {
    const Value name = output.empty() ? fmt::format("{}_{}", op, count_++) : output;
    ProtobufWriter bytes;
    for (const Value& input : inputs) bytes.text(node_field::input, input);
    bytes.text(node_field::output, name);
    bytes.text(node_field::name, name);
    bytes.text(node_field::op_type, op);
    for (const Attribute& attribute : attributes) bytes.message(node_field::attribute, attribute.bytes);
    graph_.message(graph_field::node, bytes);
    return name;
  }

  Value constant(const std::string& name, TensorType type, const Shape& shape, std::vector<std::byte> elements) {
    ProtobufWriter head;
    for (const std::int64_t extent : shape.extents()) head.integer(tensor_field::dims, extent);
    head.integer(tensor_field::data_type, type);
    head.text(tensor_field::name, name);
    head.begin_bytes(tensor_field::raw_data, elements.size());
    ProtobufWriter field;
    field.begin_bytes(graph_field::initializer, head.bytes().size() + elements.size());
    constants_.push_back({field.bytes() + head.bytes(), std::move(elements)});
    return name;
  }
  template <typename T>
  Value constant(const std::string& name, const Shape& shape, const std::vector<T>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return constant(name, std::is_same_v<T, float> ? kFloat : kInt64, shape, std::move(bytes));
  }
  Value integers(const std::vector<std::int64_t>& values) {
    return constant(fmt::format("integers_{}", count_++), Shape{static_cast<std::int64_t>(values.size())}, values);
  }
  Value scalar(float value) { return constant(fmt::format("scalar_{}", count_++), Shape{}, std::vector{value}); }

  /// Declares an input or output; extents are numbers or names of free dimensions.
  void declare(int field, const std::string& name, const std::vector<std::string>& extents) {
    ProtobufWriter shape;
    for (const std::string& extent : extents) {
      constexpr int kDim = 1, kValue = 1, kParameter = 2;
      ProtobufWriter dim;
      const bool number = extent.find_first_not_of("0123456789") == std::string::npos;
      number ? dim.integer(kValue, std::stoll(extent)) : dim.text(kParameter, extent);
      shape.message(kDim, dim);
    }
    constexpr int kElementType = 1, kShape = 2, kTensor = 1, kName = 1, kType = 2;
    ProtobufWriter tensor, type, info;
    tensor.integer(kElementType, kFloat);
    tensor.message(kShape, shape);
    type.message(kTensor, tensor);
    info.text(kName, name);
    info.message(kType, type);
    graph_.message(field, info);
  }

  void write(const std::filesystem::path& path, const std::vector<std::pair<std::string, std::string>>& metadata) {
    graph_.text(graph_field::name, "dino_vision_transformer");
    std::uint64_t graph_bytes = graph_.bytes().size();
    for (const Constant& constant : constants_) graph_bytes += constant.head.size() + constant.elements.size();
    constexpr std::uint64_t kLimit = (std::uint64_t{1} << 31) - (1 << 20);
    require(graph_bytes <= kLimit, "onnx", "{} would have {} bytes; at most {} fit; try --dtype fp16", path.string(),
            graph_bytes, kLimit);
    ProtobufWriter model, opset;
    model.integer(model_field::ir_version, kIrVersion);
    model.text(model_field::producer_name, "dino_cuda");
    opset.integer(/*version*/ 2, kOpset);
    model.message(model_field::opset_import, opset);
    for (const auto& [key, value] : metadata) {
      ProtobufWriter entry;
      entry.text(1, key);
      entry.text(2, value);
      model.message(model_field::metadata_props, entry);
    }
    model.begin_bytes(model_field::graph, graph_bytes);
    AtomicFile file(path);
    file.write(model.bytes());
    file.write(graph_.bytes());
    for (const Constant& constant : constants_) {
      file.write(constant.head);
      file.write(constant.elements);
    }
    file.commit();
  }

 private:
  struct Constant {
    std::string head;  // everything up to the elements
    std::vector<std::byte> elements;
  };

  ProtobufWriter graph_;
  std::vector<Constant> constants_;
  int count_ = 0;
};

/// (rows, columns) as (columns, rows).
std::vector<float> transposed(const std::vector<float>& values, std::int64_t rows) {
  std::vector<float> result(values.size());
  const std::size_t r = static_cast<std::size_t>(rows);
  const std::size_t c = values.size() / r;
  for (std::size_t i = 0; i < r; ++i) {
    for (std::size_t j = 0; j < c; ++j) result[j * r + i] = values[i * c + j];
  }
  return result;
}

/// The network, layer by layer.
class VitGraph {
 public:
  using Value = GraphWriter::Value;

  VitGraph(const WeightsFile& file, DType dtype) : file_(file), config_(file.config()), dtype_(dtype) {
    graph_.declare(graph_field::input, "images", {"batch", "3", "height", "width"});
    const auto text = [](int n) { return std::to_string(n); };
    graph_.declare(graph_field::output, "cls", {"batch", text(config_.embed_dim)});
    graph_.declare(graph_field::output, "patch_tokens", {"batch", "patches", text(config_.embed_dim)});
    graph_.declare(graph_field::output, "attention", {"batch", text(config_.heads), "tokens", "tokens"});

    Value x = embed();
    for (int i = 0; i < config_.depth; ++i) x = block(i, x);
    const Value tokens = norm("norm", x);
    graph_.node("Gather", {tokens, graph_.constant("cls_index", Shape{}, std::vector<std::int64_t>{0})}, {{"axis", 1}},
                "cls");
    constexpr std::int64_t kEnd = std::int64_t{1} << 40;
    graph_.node("Slice", {tokens, graph_.integers({1}), graph_.integers({kEnd}), graph_.integers({1})}, {},
                "patch_tokens");
  }

  void write(const std::filesystem::path& path) {
    graph_.write(path, {{"patch_size", std::to_string(config_.patch_px)},
                        {"image_size", std::to_string(config_.image_px)},
                        {"mean", "0.485 0.456 0.406"},
                        {"std", "0.229 0.224 0.225"}});
  }

 private:
  std::vector<float> values(const std::string& name) const { return file_.read("backbone." + name); }

  /// A weight, stored in the type of the file and used in float32.
  Value weight(const std::string& name, const Shape& shape, const std::vector<float>& values) {
    if (dtype_ == DType::float32) return graph_.constant(name, shape, values);
    std::vector<std::byte> bytes(values.size() * size_of(dtype_));
    convert_from_float(values.data(), values.size(), dtype_, bytes.data());
    return graph_.node("Cast", {graph_.constant(name, tensor_type(dtype_), shape, std::move(bytes))},
                       {{"to", std::int64_t{kFloat}}});
  }
  Value weight(const std::string& name) { return weight(name, file_.shape("backbone." + name), values(name)); }

  Value norm(const std::string& name, const Value& x) {
    return graph_.node("LayerNormalization", {x, weight(name + ".weight"), weight(name + ".bias")},
                       {{"axis", -1}, {"epsilon", static_cast<float>(Vit::kNormEps)}});
  }

  Value linear(const std::string& name, const Value& x) {
    const Shape shape = file_.shape("backbone." + name + ".weight");  // (out, in)
    const Value y = graph_.node("MatMul", {x, weight(name + ".weight.transposed", Shape{shape[1], shape[0]},
                                                     transposed(values(name + ".weight"), shape[0]))});
    if (!file_.contains("backbone." + name + ".bias")) return y;
    return graph_.node("Add", {y, weight(name + ".bias")});
  }

  /// (batch, C, rows, columns) as (batch, rows·columns, C).
  Value as_tokens(const Value& x, std::int64_t batch) {
    const Value flat = graph_.node("Reshape", {x, graph_.integers({batch, config_.embed_dim, -1})});
    return graph_.node("Transpose", {flat}, {{"perm", std::vector<std::int64_t>{0, 2, 1}}});
  }

  /// The position embedding (1, rows·columns, C) of the patches for the grid (rows, columns) of the input.
  Value patch_positions(const Value& grid, const std::vector<float>& patches) {
    const std::int64_t side = config_.grid();
    const Value stored =
        weight("pos_embed.patches", {1, config_.embed_dim, side, side}, transposed(patches, side * side));
    // Both sides native: the scale is 1, at which the cubic is the identity.
    const Value same = graph_.node("Equal", {grid, graph_.integers({side, side})});
    const Value all_same = graph_.node("ReduceMin", {graph_.node("Cast", {same}, {{"to", std::int64_t{kInt64}}})},
                                       {{"axes", std::vector<std::int64_t>{0}}});
    const Value native = graph_.node("Cast", {all_same}, {{"to", std::int64_t{kBool}}});
    const Value wanted =
        graph_.node("Add", {graph_.node("Cast", {grid}, {{"to", std::int64_t{kFloat}}}), graph_.scalar(0.1F)});
    const Value scale = graph_.node(
        "Where", {native, graph_.scalar(1.0F), graph_.node("Div", {wanted, graph_.scalar(static_cast<float>(side))})});
    const Value scales =
        graph_.node("Concat", {graph_.constant("unscaled", Shape{2}, std::vector<float>{1, 1}), scale}, {{"axis", 0}});
    return as_tokens(
        graph_.node("Resize", {stored, "", scales},
                    {{"mode", "cubic"}, {"cubic_coeff_a", -0.75F}, {"coordinate_transformation_mode", "half_pixel"}}),
        1);
  }

  Value embed() {
    const std::int64_t patch = config_.patch_px;
    const Value patches =
        graph_.node("Conv", {"images", weight("patch_embed.proj.weight"), weight("patch_embed.proj.bias")},
                    {{"kernel_shape", std::vector<std::int64_t>{patch, patch}},
                     {"strides", std::vector<std::int64_t>{patch, patch}}});
    const Value shape = graph_.node("Shape", {patches});
    const Value grid = graph_.node("Slice", {shape, graph_.integers({2}), graph_.integers({4})});
    const Value batch = graph_.node("Slice", {shape, graph_.integers({0}), graph_.integers({1})});

    const std::vector<float> positions = values("pos_embed");
    const std::vector<float> first(positions.begin(), positions.begin() + config_.embed_dim);
    const std::vector<float> rest(positions.begin() + config_.embed_dim, positions.end());
    const Value patch_tokens = graph_.node("Add", {as_tokens(patches, 0), patch_positions(grid, rest)});
    const Value cls_shape = graph_.node("Concat", {batch, graph_.integers({1, config_.embed_dim})}, {{"axis", 0}});
    const Value cls =
        graph_.node("Add", {weight("cls_token"), weight("pos_embed.cls", {1, 1, config_.embed_dim}, first)});
    const Value cls_tokens = graph_.node("Expand", {cls, cls_shape});
    return graph_.node("Concat", {cls_tokens, patch_tokens}, {{"axis", 1}});
  }

  Value attend(const std::string& name, const Value& x, bool last) {
    const std::int64_t width = config_.embed_dim / config_.heads;
    const Value qkv =
        graph_.node("Reshape", {linear(name + ".qkv", x), graph_.integers({0, 0, 3, config_.heads, width})});
    const auto part = [&](std::int64_t which, const std::vector<std::int64_t>& order) {
      const Value one = graph_.node(
          "Gather", {qkv, graph_.constant(fmt::format("{}.part_{}", name, which), Shape{}, std::vector{which})},
          {{"axis", 2}});
      return graph_.node("Transpose", {one}, {{"perm", order}});
    };
    const Value q = part(0, {0, 2, 1, 3});  // (batch, H, N, D)
    const Value k = part(1, {0, 2, 3, 1});  // (batch, H, D, N)
    const Value v = part(2, {0, 2, 1, 3});
    const Value scale = graph_.scalar(static_cast<float>(1 / std::sqrt(static_cast<double>(width))));
    const Value scores = graph_.node("Mul", {graph_.node("MatMul", {q, k}), scale});
    const Value probabilities = graph_.node("Softmax", {scores}, {{"axis", -1}}, last ? "attention" : "");
    const Value heads = graph_.node("MatMul", {probabilities, v});
    const Value together = graph_.node("Transpose", {heads}, {{"perm", std::vector<std::int64_t>{0, 2, 1, 3}}});
    return linear(name + ".proj", graph_.node("Reshape", {together, graph_.integers({0, 0, config_.embed_dim})}));
  }

  /// x·Φ(x), by the error function.
  Value gelu(const Value& x) {
    const Value erf = graph_.node("Erf", {graph_.node("Div", {x, graph_.scalar(std::numbers::sqrt2_v<float>)})});
    const Value doubled = graph_.node("Mul", {x, graph_.node("Add", {erf, graph_.scalar(1.0F)})});
    return graph_.node("Mul", {doubled, graph_.scalar(0.5F)});
  }

  Value block(int i, const Value& x) {
    const std::string name = fmt::format("blocks.{}.", i);
    const Value middle =
        graph_.node("Add", {x, attend(name + "attn", norm(name + "norm1", x), i + 1 == config_.depth)});
    const Value hidden = gelu(linear(name + "mlp.fc1", norm(name + "norm2", middle)));
    return graph_.node("Add", {middle, linear(name + "mlp.fc2", hidden)});
  }

  const WeightsFile& file_;
  VitConfig config_;
  DType dtype_;
  GraphWriter graph_;
};

}  // namespace

void write_onnx(const WeightsFile& file, const std::filesystem::path& path, DType dtype) {
  VitGraph(file, dtype).write(path);
}

}  // namespace dino
