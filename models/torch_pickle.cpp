#include "models/torch_pickle.h"

#include <algorithm>
#include <iterator>

namespace dino {
namespace {

constexpr const char* kWhere = "pth";

struct StorageType {
  std::string_view name;
  std::optional<DType> dtype;
  std::uint64_t element_bytes;
};
constexpr StorageType kStorageTypes[] = {{"torch FloatStorage", DType::float32, 4},
                                         {"torch HalfStorage", DType::float16, 2},
                                         {"torch BFloat16Storage", DType::bfloat16, 2},
                                         {"torch DoubleStorage", DType::float64, 8},
                                         {"torch LongStorage", DType::int64, 8},
                                         {"torch IntStorage", DType::int32, 4},
                                         {"torch ByteStorage", DType::uint8, 1},
                                         {"torch BoolStorage", {}, 1},
                                         {"torch CharStorage", {}, 1},
                                         {"torch ShortStorage", {}, 2},
                                         {"torch ComplexFloatStorage", {}, 8},
                                         {"torch ComplexDoubleStorage", {}, 16},
                                         {"torch QInt8Storage", {}, 1},
                                         {"torch QUInt8Storage", {}, 1},
                                         {"torch QInt32Storage", {}, 4},
                                         {"torch QUInt4x2Storage", {}, 1},
                                         {"torch QUInt2x4Storage", {}, 1},
                                         // Of all types that came later, as bytes.
                                         {"torch.storage UntypedStorage", {}, 1}};

// A pickle may use one dictionary or text in a million places; what it makes of a few bytes is bounded by these.
constexpr std::size_t kMaxEntries = std::size_t{1} << 20;
constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;
// What Tensor.expand() made of fewer numbers may have so many; a few bytes could claim any number.
constexpr std::uint64_t kMaxRepeated = std::uint64_t{1} << 20;

bool is_global(const Pickle& pickle, PickleValue::Id id, std::string_view name) {
  return pickle[id].kind == PickleValue::Kind::global && pickle[id].text == name;
}

bool is_dict(const Pickle& pickle, const PickleValue& value) {
  return value.kind == PickleValue::Kind::dict ||
         (value.kind == PickleValue::Kind::object && is_global(pickle, value.callable, "collections OrderedDict"));
}

std::string describe(const Pickle& pickle, const PickleValue& value) {
  if (value.kind == PickleValue::Kind::object && pickle[value.callable].kind == PickleValue::Kind::global) {
    return "an object of the Python class " + pickle[value.callable].text;
  }
  return "a single value";
}

/// The attributes of an argparse.Namespace; null for anything else.
const PickleValue* namespace_attributes(const Pickle& pickle, const PickleValue& value) {
  if (value.kind != PickleValue::Kind::object || value.states.empty()) return nullptr;
  if (!is_global(pickle, value.callable, "argparse Namespace")) {
    // Protocol 2 makes it by copyreg._reconstructor(Namespace, object, None).
    const PickleValue& arguments = pickle[value.arguments];
    if (!is_global(pickle, value.callable, "copy_reg _reconstructor") || arguments.items.empty() ||
        !is_global(pickle, arguments.items[0], "argparse Namespace")) {
      return nullptr;
    }
  }
  const PickleValue& state = pickle[value.states[0]];
  return state.kind == PickleValue::Kind::dict ? &state : nullptr;
}

template <typename Function>
void visit_entries(const Pickle& pickle, const PickleValue& dict, const std::string& prefix, Function&& function) {
  for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& key = pickle[dict.items[i]];
    if (key.kind == PickleValue::Kind::text) function(prefix + key.text, pickle[dict.items[i + 1]]);
  }
}

}  // namespace

void TorchSource::read(std::size_t index, std::span<float> to) {
  const View& view = views_[index];
  const StoredTensor& tensor = tensors_[index];
  require(static_cast<std::size_t>(tensor.shape.size()) == to.size(), kWhere, "{} has {} elements; {} were asked for",
          tensor.name, tensor.shape.size(), to.size());
  const StorageInfo& info = storages_.at(view.storage);
  if (cached_ != view.storage || cache_.empty()) {
    cache_.resize(static_cast<std::size_t>(info.bytes()));
    cached_.clear();
    read_storage(view.storage, info, cache_);
    cached_ = view.storage;
  }
  copy_strided(view, tensor.dtype, to);
}

void TorchSource::interpret(const Pickle& pickle) {
  // The old format lists all storages, also those of tensors that lie deeper than we look.
  for (PickleValue::Id id = 0; id < pickle.size(); ++id) {
    if (pickle[id].kind == PickleValue::Kind::persistent) note_storage(pickle, pickle[id]);
  }
  const PickleValue& root = pickle.root();
  require(is_dict(pickle, root), kWhere,
          "{} holds {}, not a dictionary of tensors; try saving the model's state_dict()", path_.string(),
          describe(pickle, root));
  spend(root.items.size() / 2, 0);
  visit_entries(pickle, root, "", [&](const std::string& name, const PickleValue& value) {
    if (is_dict(pickle, value)) {
      spend(value.items.size() / 2, 0);
      visit_entries(pickle, value, name + ".", [&](const std::string& inner_name, const PickleValue& inner) {
        interpret_entry(pickle, inner_name, inner);
      });
    } else if (const PickleValue* attributes = namespace_attributes(pickle, value)) {
      spend(attributes->items.size() / 2, 0);
      visit_entries(pickle, *attributes, name + ".", [&](const std::string& inner_name, const PickleValue& inner) {
        interpret_entry(pickle, inner_name, inner);
      });
    } else {
      interpret_entry(pickle, name, value);
    }
  });
}

/// Called before entries are visited, and before a text is kept.
void TorchSource::spend(std::size_t entries, std::size_t text_bytes) {
  entries_ += entries;
  text_bytes_ += text_bytes;
  require(entries_ <= kMaxEntries && text_bytes_ <= kMaxTextBytes, kWhere,
          "{} holds too much for a checkpoint; got {} entries with {} bytes of text, expected at most {} and {}",
          path_.string(), entries_, text_bytes_, kMaxEntries, kMaxTextBytes);
}

void TorchSource::interpret_entry(const Pickle& pickle, const std::string& name, const PickleValue& value) {
  using Kind = PickleValue::Kind;
  spend(0, name.size() + (value.kind == Kind::text ? value.text.size() : 0));
  switch (value.kind) {
    case Kind::text: metadata_[name] = value.text; return;
    case Kind::integer: metadata_[name] = std::to_string(value.integer); return;
    case Kind::boolean: metadata_[name] = value.integer != 0 ? "True" : "False"; return;
    case Kind::real: metadata_[name] = fmt::format("{}", value.real); return;
    case Kind::object: add_tensor(pickle, name, value); return;
    default: return;
  }
}

void TorchSource::add_tensor(const Pickle& pickle, const std::string& name, const PickleValue& object) {
  PickleValue::Id callable = object.callable, arguments_id = object.arguments;
  // Parameters, tensors with attributes and subclasses stand around the tensor that they are.
  constexpr int kMostWrappings = 4;
  for (int i = 0; i < kMostWrappings; ++i) {
    const std::vector<PickleValue::Id>& items = pickle[arguments_id].items;
    const bool parameter = is_global(pickle, callable, "torch._utils _rebuild_parameter") ||
                           is_global(pickle, callable, "torch._utils _rebuild_parameter_with_state");
    if (parameter && !items.empty() && pickle[items[0]].kind == PickleValue::Kind::object) {
      callable = pickle[items[0]].callable;
      arguments_id = pickle[items[0]].arguments;
    } else if (is_global(pickle, callable, "torch._tensor _rebuild_from_type_v2") && items.size() >= 3) {
      callable = items[0];  // function, type, arguments, attributes
      arguments_id = items[2];
    }
  }
  if (!is_global(pickle, callable, "torch._utils _rebuild_tensor_v2") &&
      !is_global(pickle, callable, "torch._utils _rebuild_tensor")) {
    return;  // some other object, of no interest here
  }
  const PickleValue& arguments = pickle[arguments_id];
  require(arguments.kind == PickleValue::Kind::tuple && arguments.items.size() >= 4 &&
              pickle[arguments.items[0]].kind == PickleValue::Kind::persistent,
          kWhere, "{}: tensor {} is malformed", path_.string(), name);
  // note_storage() has checked the identifier.
  const PickleValue& identifier = pickle[pickle[arguments.items[0]].items[0]];
  View view;
  view.storage = pickle[identifier.items[2]].text;
  const StorageInfo& info = storages_.at(view.storage);
  if (!info.dtype) return;
  require(pickle[arguments.items[2]].items.size() <= Shape::kMaxRank &&
              pickle[arguments.items[3]].items.size() <= Shape::kMaxRank,
          kWhere, "{}: tensor {} has more than {} dimensions", path_.string(), name, Shape::kMaxRank);
  view.offset = sizes(pickle, {arguments.items[1]}, name)[0];
  view.extents = sizes(pickle, pickle[arguments.items[2]].items, name);
  view.strides = sizes(pickle, pickle[arguments.items[3]].items, name);
  require(view.extents.size() == view.strides.size(), kWhere, "{}: tensor {} has {} extents and {} strides",
          path_.string(), name, view.extents.size(), view.strides.size());
  if (std::find(view.extents.begin(), view.extents.end(), 0U) != view.extents.end()) return;  // nothing to read
  require(lies_inside(view, info.elements), kWhere, "{}: tensor {} reaches beyond its storage", path_.string(), name);
  require(
      is_bounded(view, std::max(info.elements, kMaxRepeated)), kWhere,
      "{}: tensor {} repeats the numbers of its storage; got {} stored ones, expected at most {} in all; try saving it "
      "contiguous",
      path_.string(), name, info.elements, kMaxRepeated);
  const std::vector<std::int64_t> extents(view.extents.begin(), view.extents.end());
  tensors_.push_back({name, Shape(std::span(extents)), *info.dtype});
  views_.push_back(std::move(view));
}

/// Enters the storage that ('storage', type, key, device, number of elements) describes.
void TorchSource::note_storage(const Pickle& pickle, const PickleValue& persistent) {
  using Kind = PickleValue::Kind;
  const PickleValue& id = pickle[persistent.items[0]];
  require(id.kind == Kind::tuple && id.items.size() >= 5 && pickle[id.items[0]].text == "storage" &&
              pickle[id.items[1]].kind == Kind::global && pickle[id.items[2]].kind == Kind::text &&
              pickle[id.items[4]].kind == Kind::integer,
          kWhere, "{}: the description of a storage is malformed", path_.string());
  const std::string& key = pickle[id.items[2]].text;
  require(id.items.size() == 5 || pickle[id.items[5]].kind == Kind::none, kWhere,
          "{}: the storage {} is a view of another, as PyTorch before 0.4 wrote them; try saving it with a newer one",
          path_.string(), key);
  const auto type = std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes),
                                 [&](const StorageType& t) { return t.name == pickle[id.items[1]].text; });
  require(type != std::end(kStorageTypes), kWhere, "{}: the storage {} has the unknown type {}", path_.string(), key,
          pickle[id.items[1]].text);
  const std::int64_t elements = pickle[id.items[4]].integer;
  require(elements >= 0 && elements <= (std::int64_t{1} << 40), kWhere, "{}: the storage {} claims {} elements",
          path_.string(), key, elements);
  const StorageInfo info{type->dtype, type->element_bytes, static_cast<std::uint64_t>(elements)};
  const auto [at, added] = storages_.emplace(key, info);
  require(added || at->second == info, kWhere, "{}: the storage {} is described in two ways", path_.string(), key);
}

std::vector<std::uint64_t> TorchSource::sizes(const Pickle& pickle, const std::vector<PickleValue::Id>& ids,
                                              const std::string& name) const {
  std::vector<std::uint64_t> values;
  for (const PickleValue::Id id : ids) {
    require(pickle[id].kind == PickleValue::Kind::integer && pickle[id].integer >= 0, kWhere,
            "{}: tensor {} has a size that is not a natural number", path_.string(), name);
    values.push_back(static_cast<std::uint64_t>(pickle[id].integer));
  }
  return values;
}

/// Whether every element lies in the storage.
bool TorchSource::lies_inside(const View& view, std::uint64_t elements) {
  std::uint64_t last = view.offset;
  if (last >= elements) return false;
  for (std::size_t i = 0; i < view.extents.size(); ++i) {
    const std::uint64_t steps = view.extents[i] - 1;
    if (steps > 0 && view.strides[i] > (elements - 1 - last) / steps) return false;
    last += steps * view.strides[i];
  }
  return true;
}

/// Whether there are at most `limit` elements, some of which may lie in one place.
bool TorchSource::is_bounded(const View& view, std::uint64_t limit) {
  std::uint64_t count = 1;
  for (const std::uint64_t extent : view.extents) {
    if (extent > limit / count) return false;
    count *= extent;
  }
  return true;
}

void TorchSource::copy_strided(const View& view, DType dtype, std::span<float> to) const {
  const std::size_t size = size_of(dtype);
  std::uint64_t expected = 1;
  bool dense = true;
  for (std::size_t i = view.extents.size(); i-- > 0;) {
    dense = dense && (view.extents[i] == 1 || view.strides[i] == expected);
    expected *= view.extents[i];
  }
  if (dense) {
    convert_to_float(cache_.data() + view.offset * size, dtype, to.size(), to.data());
    return;
  }
  std::vector<std::uint64_t> index(view.extents.size(), 0);
  std::uint64_t at = view.offset;
  for (float& value : to) {
    convert_to_float(cache_.data() + at * size, dtype, 1, &value);
    for (std::size_t i = index.size(); i-- > 0;) {
      at += view.strides[i];
      if (++index[i] < view.extents[i]) break;
      at -= view.strides[i] * view.extents[i];
      index[i] = 0;
    }
  }
}

}  // namespace dino
