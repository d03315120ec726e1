// The exported ONNX graph, run by a small interpreter in double, against the recordings of the official network.
#include "models/onnx_export.h"

#include "engine/files.h"
#include "models/safetensors.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>

using namespace dino;
using namespace dino::test;

namespace {

constexpr double kGoldenTolerance = 2e-5;

/// One field of a protobuf message: a number, or bytes.
struct Field {
  int number = 0;
  std::uint64_t integer = 0;  // also the bits of a float
  std::string_view bytes;
};

std::vector<Field> fields_of(std::string_view message) {
  std::vector<Field> fields;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const std::uint64_t tag = varint();
    Field field;
    field.number = static_cast<int>(tag >> 3);
    switch (tag & 7) {
      case 0: field.integer = varint(); break;
      case 2: {
        const std::uint64_t size = varint();
        REQUIRE(size <= message.size() - at);
        field.bytes = message.substr(at, size);
        at += size;
        break;
      }
      case 5: {
        std::uint32_t bits = 0;
        REQUIRE(message.size() - at >= 4);
        std::memcpy(&bits, message.data() + at, 4);
        field.integer = bits;
        at += 4;
        break;
      }
      default: FAIL("wire type " << (tag & 7));
    }
    fields.push_back(field);
  }
  return fields;
}

/// A tensor of any type, in double.
struct Value {
  std::vector<std::int64_t> shape;
  std::vector<double> data;

  std::int64_t size() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  std::size_t rank() const { return shape.size(); }
};

struct Node {
  std::string op, output;
  std::vector<std::string> inputs;
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<std::int64_t>> lists;
};

struct Model {
  std::vector<Node> nodes;
  std::map<std::string, Value> constants;
  std::map<std::string, int> constant_types;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> inputs, outputs;
  int opset = 0;
};

Value read_tensor(std::string_view message, std::string& name, int& type) {
  Value value;
  std::string_view raw;
  for (const Field& f : fields_of(message)) {
    if (f.number == 1) value.shape.push_back(static_cast<std::int64_t>(f.integer));
    if (f.number == 2) type = static_cast<int>(f.integer);
    if (f.number == 8) name = f.bytes;
    if (f.number == 9) raw = f.bytes;
  }
  const std::map<int, DType> types = {
      {1, DType::float32}, {7, DType::int64}, {10, DType::float16}, {16, DType::bfloat16}};
  const DType dtype = types.at(type);
  const auto n = static_cast<std::size_t>(value.size());
  REQUIRE(raw.size() == n * size_of(dtype));
  std::vector<float> values(n);
  if (dtype == DType::int64) {
    for (std::size_t i = 0; i < n; ++i) {
      std::int64_t x = 0;
      std::memcpy(&x, raw.data() + 8 * i, 8);
      value.data.push_back(static_cast<double>(x));
    }
    return value;
  }
  convert_to_float(reinterpret_cast<const std::byte*>(raw.data()), dtype, n, values.data());
  value.data.assign(values.begin(), values.end());
  return value;
}

Node read_node(std::string_view message) {
  Node node;
  for (const Field& f : fields_of(message)) {
    if (f.number == 1) node.inputs.emplace_back(f.bytes);
    if (f.number == 2) node.output = f.bytes;
    if (f.number == 4) node.op = f.bytes;
    if (f.number != 5) continue;
    std::string name;
    for (const Field& a : fields_of(f.bytes)) {
      if (a.number == 1) name = a.bytes;
      if (a.number == 2) node.numbers[name] = std::bit_cast<float>(static_cast<std::uint32_t>(a.integer));
      if (a.number == 3) node.numbers[name] = static_cast<double>(static_cast<std::int64_t>(a.integer));
      if (a.number == 4) node.texts[name] = a.bytes;
      if (a.number == 8) node.lists[name].push_back(static_cast<std::int64_t>(a.integer));
    }
  }
  return node;
}

std::string name_of_info(std::string_view message) {
  for (const Field& f : fields_of(message)) {
    if (f.number == 1) return std::string(f.bytes);
  }
  return "";
}

Model read_model(const std::string& file) {
  Model model;
  for (const Field& f : fields_of(file)) {
    if (f.number == 8) model.opset = static_cast<int>(fields_of(f.bytes).at(0).integer);
    if (f.number == 14) {
      const std::vector<Field> entry = fields_of(f.bytes);
      model.metadata[std::string(entry.at(0).bytes)] = entry.at(1).bytes;
    }
    if (f.number != 7) continue;
    for (const Field& g : fields_of(f.bytes)) {
      if (g.number == 1) model.nodes.push_back(read_node(g.bytes));
      if (g.number == 11) model.inputs.push_back(name_of_info(g.bytes));
      if (g.number == 12) model.outputs.push_back(name_of_info(g.bytes));
      if (g.number != 5) continue;
      std::string name;
      int type = 0;
      Value value = read_tensor(g.bytes, name, type);
      REQUIRE(model.constants.emplace(name, std::move(value)).second);
      model.constant_types[name] = type;
    }
  }
  return model;
}

/// Row-major strides, 0 along dimensions that are broadcast to `to`.
std::vector<std::int64_t> broadcast_strides(const Value& value, const std::vector<std::int64_t>& to) {
  std::vector<std::int64_t> strides(to.size(), 0);
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < value.rank(); ++i) {
    const std::int64_t extent = value.shape[value.rank() - 1 - i];
    const std::size_t at = to.size() - 1 - i;
    REQUIRE((extent == to[at] || extent == 1));
    strides[at] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
  return strides;
}

/// Calls `function` with every index of `shape`, in row-major order.
void each_index(const std::vector<std::int64_t>& shape,
                const std::function<void(const std::vector<std::int64_t>&)>& function) {
  std::vector<std::int64_t> index(shape.size(), 0);
  const std::int64_t n = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  for (std::int64_t i = 0; i < n; ++i) {
    function(index);
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

std::int64_t dot(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), std::int64_t{0});
}

Value elementwise(const std::vector<const Value*>& in,
                  const std::function<double(const std::vector<double>&)>& function) {
  Value out;
  for (const Value* value : in) {
    if (value->rank() > out.rank()) out.shape.insert(out.shape.begin(), value->rank() - out.rank(), 1);
    for (std::size_t i = 0; i < value->rank(); ++i) {
      std::int64_t& extent = out.shape[out.rank() - 1 - i];
      if (extent == 1) extent = value->shape[value->rank() - 1 - i];
    }
  }
  std::vector<std::vector<std::int64_t>> strides;
  for (const Value* value : in) strides.push_back(broadcast_strides(*value, out.shape));
  std::vector<double> arguments(in.size());
  each_index(out.shape, [&](const std::vector<std::int64_t>& index) {
    for (std::size_t k = 0; k < in.size(); ++k)
      arguments[k] = in[k]->data[static_cast<std::size_t>(dot(index, strides[k]))];
    out.data.push_back(function(arguments));
  });
  return out;
}

/// Elements [begin, end) along an axis.
Value cut(const Value& x, std::size_t axis, std::int64_t begin, std::int64_t end) {
  Value out{x.shape, {}};
  end = std::min(end, x.shape.at(axis));
  out.shape[axis] = end - begin;
  each_index(x.shape, [&](const std::vector<std::int64_t>& index) {
    if (index[axis] >= begin && index[axis] < end)
      out.data.push_back(x.data[static_cast<std::size_t>(dot(index, broadcast_strides(x, x.shape)))]);
  });
  return out;
}

/// (…, n, k) · (…, k, m) or (k, m).
Value matmul(const Value& a, const Value& b) {
  const std::int64_t n = a.shape[a.rank() - 2], k = a.shape.back(), m = b.shape.back();
  REQUIRE(b.shape[b.rank() - 2] == k);
  Value out{a.shape, {}};
  out.shape.back() = m;
  out.data.resize(static_cast<std::size_t>(out.size()));
  const std::int64_t batches = a.size() / (n * k);
  REQUIRE((b.rank() == 2 || b.size() == batches * k * m));
  for (std::int64_t s = 0; s < batches; ++s) {
    const double* right = b.data.data() + (b.rank() == 2 ? 0 : s * k * m);
    for (std::int64_t i = 0; i < n; ++i) {
      double* row = out.data.data() + (s * n + i) * m;
      for (std::int64_t l = 0; l < k; ++l) {
        const double left = a.data[static_cast<std::size_t>((s * n + i) * k + l)];
        for (std::int64_t j = 0; j < m; ++j) row[j] += left * right[l * m + j];
      }
    }
  }
  return out;
}

/// Weights of the four neighbours of a point `t` behind the second one (Keys 1981).
std::array<double, 4> cubic(double t, double a) {
  const auto near = [a](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto far = [a](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  return {far(1 + t), near(t), near(1 - t), far(2 - t)};
}

/// One dimension at another size, by the definition of ONNX's Resize with half_pixel.
Value resize_axis(const Value& x, std::size_t axis, double scale, double a) {
  Value out{x.shape, {}};
  out.shape[axis] = static_cast<std::int64_t>(std::floor(static_cast<double>(x.shape[axis]) * scale));
  const std::vector<std::int64_t> strides = broadcast_strides(x, x.shape);
  each_index(out.shape, [&](const std::vector<std::int64_t>& index) {
    const double at = (static_cast<double>(index[axis]) + 0.5) / scale - 0.5;
    const double first = std::floor(at);
    const auto weights = cubic(at - first, a);
    double sum = 0;
    for (int k = 0; k < 4; ++k) {
      std::vector<std::int64_t> source = index;
      source[axis] = std::clamp<std::int64_t>(static_cast<std::int64_t>(first) - 1 + k, 0, x.shape[axis] - 1);
      sum += weights[static_cast<std::size_t>(k)] * x.data[static_cast<std::size_t>(dot(source, strides))];
    }
    out.data.push_back(sum);
  });
  return out;
}

Value convolve(const Value& x, const Value& w, const Value& b, std::int64_t stride) {
  const std::int64_t batch = x.shape[0], channels = x.shape[1], height = x.shape[2], width = x.shape[3];
  const std::int64_t side = w.shape[3];
  Value out{{batch, w.shape[0], (height - side) / stride + 1, (width - side) / stride + 1}, {}};
  each_index(out.shape, [&](const std::vector<std::int64_t>& at) {
    double sum = b.data[static_cast<std::size_t>(at[1])];
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t i = 0; i < side; ++i) {
        for (std::int64_t j = 0; j < side; ++j) {
          const std::int64_t from = ((at[0] * channels + c) * height + at[2] * stride + i) * width + at[3] * stride + j;
          sum += x.data[static_cast<std::size_t>(from)] *
                 w.data[static_cast<std::size_t>(((at[1] * channels + c) * side + i) * side + j)];
        }
      }
    }
    out.data.push_back(sum);
  });
  return out;
}

/// Applies `function` to each row of the last dimension.
Value by_rows(Value x, const std::function<void(std::span<double>)>& function) {
  const auto width = static_cast<std::size_t>(x.shape.back());
  for (std::size_t at = 0; at < x.data.size(); at += width) function(std::span(x.data).subspan(at, width));
  return x;
}

Value run_node(const Node& node, const std::function<const Value&(std::size_t)>& in) {
  const auto integers = [&](std::size_t i) {
    std::vector<std::int64_t> values;
    for (const double x : in(i).data) values.push_back(static_cast<std::int64_t>(x));
    return values;
  };
  const auto axis_of = [&](const Value& x) {
    const auto axis = static_cast<std::int64_t>(node.numbers.at("axis"));
    return static_cast<std::size_t>(axis < 0 ? axis + static_cast<std::int64_t>(x.rank()) : axis);
  };
  const std::string& op = node.op;
  if (op == "Add") return elementwise({&in(0), &in(1)}, [](const auto& x) { return x[0] + x[1]; });
  if (op == "Mul") return elementwise({&in(0), &in(1)}, [](const auto& x) { return x[0] * x[1]; });
  if (op == "Div") return elementwise({&in(0), &in(1)}, [](const auto& x) { return x[0] / x[1]; });
  if (op == "Equal") return elementwise({&in(0), &in(1)}, [](const auto& x) { return x[0] == x[1] ? 1.0 : 0.0; });
  if (op == "Erf") return elementwise({&in(0)}, [](const auto& x) { return std::erf(x[0]); });
  if (op == "Where")
    return elementwise({&in(0), &in(1), &in(2)}, [](const auto& x) { return x[0] != 0 ? x[1] : x[2]; });
  if (op == "Cast") return in(0);
  if (op == "MatMul") return matmul(in(0), in(1));
  if (op == "Shape") {
    Value out{{static_cast<std::int64_t>(in(0).rank())}, {}};
    for (const std::int64_t extent : in(0).shape) out.data.push_back(static_cast<double>(extent));
    return out;
  }
  if (op == "ReduceMin") {
    REQUIRE(in(0).rank() == 1);
    return {{1}, {*std::min_element(in(0).data.begin(), in(0).data.end())}};
  }
  if (op == "Conv") {
    REQUIRE(node.lists.at("kernel_shape") == node.lists.at("strides"));
    return convolve(in(0), in(1), in(2), node.lists.at("strides")[0]);
  }
  if (op == "Slice") {
    const std::size_t axis = node.inputs.size() > 3 ? static_cast<std::size_t>(integers(3)[0]) : 0;
    return cut(in(0), axis, integers(1)[0], integers(2)[0]);
  }
  if (op == "Gather") {
    REQUIRE(in(1).rank() == 0);
    const std::size_t axis = axis_of(in(0));
    Value out = cut(in(0), axis, integers(1)[0], integers(1)[0] + 1);
    out.shape.erase(out.shape.begin() + static_cast<std::ptrdiff_t>(axis));
    return out;
  }
  if (op == "Reshape") {
    Value out{integers(1), in(0).data};
    std::int64_t known = 1;
    for (std::size_t i = 0; i < out.rank(); ++i) {
      if (out.shape[i] == 0) out.shape[i] = in(0).shape[i];
      if (out.shape[i] > 0) known *= out.shape[i];
    }
    for (std::int64_t& extent : out.shape)
      if (extent < 0) extent = in(0).size() / known;
    REQUIRE(out.size() == in(0).size());
    return out;
  }
  if (op == "Transpose") {
    const std::vector<std::int64_t>& order = node.lists.at("perm");
    const std::vector<std::int64_t> strides = broadcast_strides(in(0), in(0).shape);
    Value out;
    std::vector<std::int64_t> moved;
    for (const std::int64_t from : order) {
      out.shape.push_back(in(0).shape[static_cast<std::size_t>(from)]);
      moved.push_back(strides[static_cast<std::size_t>(from)]);
    }
    each_index(out.shape,
               [&](const auto& index) { out.data.push_back(in(0).data[static_cast<std::size_t>(dot(index, moved))]); });
    return out;
  }
  if (op == "Expand") {
    Value target{integers(1), {}};
    target.data.assign(static_cast<std::size_t>(target.size()), 0);
    return elementwise({&in(0), &target}, [](const auto& x) { return x[0]; });
  }
  if (op == "Concat") {
    const std::size_t axis = axis_of(in(0));
    Value out{in(0).shape, {}};
    out.shape[axis] = 0;
    std::int64_t outer = 1;
    for (std::size_t i = 0; i < axis; ++i) outer *= out.shape[i];
    for (std::size_t k = 0; k < node.inputs.size(); ++k) out.shape[axis] += in(k).shape[axis];
    for (std::int64_t o = 0; o < outer; ++o) {
      for (std::size_t k = 0; k < node.inputs.size(); ++k) {
        const std::int64_t block = in(k).size() / outer;
        out.data.insert(out.data.end(), in(k).data.begin() + o * block, in(k).data.begin() + (o + 1) * block);
      }
    }
    REQUIRE(out.size() == static_cast<std::int64_t>(out.data.size()));
    return out;
  }
  if (op == "Resize") {
    REQUIRE(node.texts.at("mode") == "cubic");
    REQUIRE(node.texts.at("coordinate_transformation_mode") == "half_pixel");
    REQUIRE(node.inputs.at(1).empty());
    Value out = in(0);
    for (std::size_t axis = 0; axis < 4; ++axis) {
      const double scale = in(2).data.at(axis);
      if (scale != 1) out = resize_axis(out, axis, scale, node.numbers.at("cubic_coeff_a"));
    }
    return out;
  }
  if (op == "LayerNormalization") {
    REQUIRE(node.numbers.at("axis") == -1);
    return by_rows(in(0), [&](std::span<double> row) {
      const double n = static_cast<double>(row.size());
      const double mean = std::accumulate(row.begin(), row.end(), 0.0) / n;
      double variance = 0;
      for (const double x : row) variance += (x - mean) * (x - mean) / n;
      for (std::size_t i = 0; i < row.size(); ++i)
        row[i] = (row[i] - mean) / std::sqrt(variance + node.numbers.at("epsilon")) * in(1).data[i] + in(2).data[i];
    });
  }
  if (op == "Softmax") {
    REQUIRE(node.numbers.at("axis") == -1);
    return by_rows(in(0), [](std::span<double> row) {
      const double top = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (double& x : row) sum += x = std::exp(x - top);
      for (double& x : row) x /= sum;
    });
  }
  FAIL("the interpreter does not know " << op);
  return {};
}

/// The values of all names, with images (B, 3, H, W). Every input must have been computed before it is used.
std::map<std::string, Value> run_model(const Model& model, const ConstArray& images) {
  std::map<std::string, Value> values = model.constants;
  const auto extents = images.shape().extents();
  Value& input = values["images"];
  input.shape.assign(extents.begin(), extents.end());
  input.data.assign(images.as<float>(), images.as<float>() + images.size());
  for (const Node& node : model.nodes) {
    INFO(node.op << " " << node.output);
    Value result = run_node(node, [&](std::size_t i) -> const Value& { return values.at(node.inputs.at(i)); });
    REQUIRE(values.emplace(node.output, std::move(result)).second);
  }
  return values;
}

void check_value(const Value& got, const ConstArray& expected, double tolerance, const char* what) {
  CHECK(got.shape == std::vector<std::int64_t>(expected.shape().extents().begin(), expected.shape().extents().end()));
  REQUIRE(static_cast<std::int64_t>(got.data.size()) == expected.size());
  check_close(ConstArray(got.data.data(), expected.shape()), expected, tolerance, what);
}

Model exported(DType dtype) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "vit.onnx";
  write_onnx(read_weights(golden_dir() / "backbone.safetensors"), path, dtype);
  return read_model(read_text_file(path));
}

}  // namespace

TEST_CASE("golden features and attention come out of the ONNX graph, at every size") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "forward.safetensors");
  // The rounding of weights is the only difference: 2^-11 and 2^-8 at most, some tens of them added up.
  for (const auto& [dtype, tolerance] :
       {std::pair{DType::float32, kGoldenTolerance}, {DType::float16, 2e-3}, {DType::bfloat16, 2e-2}}) {
    const Model model = exported(dtype);
    CHECK(model.opset == 17);
    CHECK(model.inputs == std::vector<std::string>{"images"});
    CHECK(model.outputs == std::vector<std::string>{"cls", "patch_tokens", "attention"});
    for (const std::string name : {"native", "local", "wide", "large"}) {
      INFO(name << " " << name_of(dtype));
      const auto values = run_model(model, golden[name + ".images"]);
      check_value(values.at("cls"), golden[name + ".cls"], tolerance, "cls");
      check_value(values.at("attention"), golden[name + ".last_attention"], tolerance, "attention");
      // All tokens but CLS.
      const ConstArray tokens = golden[name + ".tokens_last"];
      const std::int64_t length = tokens.extent(1), width = tokens.extent(2);
      std::vector<float> patches;
      for (std::int64_t b = 0; b < tokens.extent(0); ++b) {
        const float* first = tokens.as<float>() + (b * length + 1) * width;
        patches.insert(patches.end(), first, first + (length - 1) * width);
      }
      check_value(values.at("patch_tokens"), ConstArray(patches.data(), {tokens.extent(0), length - 1, width}),
                  tolerance, "patch tokens");
      if (dtype != DType::float32) break;
    }
  }
}

TEST_CASE("golden weights are stored in the ONNX file once, in the type asked for") {
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  std::int64_t parameters = 0;
  for (const std::string& name : golden.names()) parameters += golden[name].size();
  for (const auto& [dtype, code] : {std::pair{DType::float32, 1}, {DType::float16, 10}, {DType::bfloat16, 16}}) {
    const Model model = exported(dtype);
    std::int64_t stored = 0;
    for (const auto& [name, value] : model.constants) {
      // Scalars and scales are float32 in every file.
      if (model.constant_types.at(name) == code && value.size() > 2) stored += value.size();
    }
    CHECK(stored == parameters);
    CHECK(model.metadata.at("patch_size") == golden.metadata("patch_size"));
    CHECK(model.metadata.at("image_size") == golden.metadata("img_size"));
  }
}
