#include "tests/cudnn/fake_cudnn.h"

#include "kernels/common/array.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

namespace dino::test {
namespace {

constexpr const char* kWhere = "fake cuDNN";
using Extents = std::vector<std::int64_t>;

FakeCudnn state;

// Every function of cuDNN's ends here when something is not as it must be.
struct Refusal {
  cudnnStatus_t status;
};
template <typename... Args>
void demand(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (condition) return;
  state.last_error = fmt::format(format, std::forward<Args>(args)...);
  throw Refusal{CUDNN_STATUS_BAD_PARAM};
}
template <typename Body>
cudnnStatus_t answer(const Body& body) {
  try {
    body();
    return CUDNN_STATUS_SUCCESS;
  } catch (const Refusal& refusal) {
    return refusal.status;
  }
}

std::size_t size_of_type(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return sizeof(void*);
    case CUDNN_TYPE_INT64: return sizeof(std::int64_t);
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    default: return sizeof(int);  // enumerations
  }
}

/// The type of each attribute that the fake knows, and how many values it has; 0: any number.
struct Known {
  cudnnBackendDescriptorType_t of;
  cudnnBackendAttributeType_t type;
  std::int64_t count = 1;
  bool required = true;
};
constexpr auto kDescriptor = CUDNN_TYPE_BACKEND_DESCRIPTOR;
const std::map<cudnnBackendAttributeName_t, Known>& known() {
  static const std::map<cudnnBackendAttributeName_t, Known> attributes = {
      {CUDNN_ATTR_TENSOR_DATA_TYPE, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE}},
      {CUDNN_ATTR_TENSOR_DIMENSIONS, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 0}},
      {CUDNN_ATTR_TENSOR_STRIDES, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 0}},
      {CUDNN_ATTR_TENSOR_UNIQUE_ID, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64}},
      {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64}},
      {CUDNN_ATTR_TENSOR_IS_VIRTUAL, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_BOOLEAN, 1, false}},
      {CUDNN_ATTR_TENSOR_IS_BY_VALUE, {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_BOOLEAN, 1, false}},
      {CUDNN_ATTR_MATMUL_COMP_TYPE, {CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE}},
      {CUDNN_ATTR_OPERATION_MATMUL_ADESC, {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_MATMUL_BDESC, {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_MATMUL_CDESC, {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_MATMUL_DESC, {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_POINTWISE_MODE, {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_TYPE_POINTWISE_MODE}},
      {CUDNN_ATTR_POINTWISE_MATH_PREC, {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE}},
      {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, kDescriptor, 1, false}},
      {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_REDUCTION_OPERATOR, {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE}},
      {CUDNN_ATTR_REDUCTION_COMP_TYPE, {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE}},
      {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_REDUCTION_DESC, {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_MODE, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, CUDNN_TYPE_NORM_MODE}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_PHASE,
       {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, CUDNN_TYPE_NORM_FWD_PHASE}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, {CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_MODE, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, CUDNN_TYPE_NORM_MODE}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC,
       {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, {CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_OPERATIONGRAPH_OPS, {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, kDescriptor, 0}},
      {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_TYPE_HANDLE}},
      {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_ENGINEHEUR_MODE, {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_TYPE_HEUR_MODE}},
      {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, kDescriptor}},
      {CUDNN_ATTR_EXECUTION_PLAN_HANDLE, {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_TYPE_HANDLE}},
      {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_INT64, 0}},
      {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_VOID_PTR, 0}},
      {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_VOID_PTR}},
  };
  return attributes;
}

struct Fake {
  cudnnBackendDescriptorType_t type{};
  bool final = false;
  std::map<cudnnBackendAttributeName_t, std::vector<std::byte>> values;
  // Of an engine's configuration, what the heuristics put there.
  const Fake* graph = nullptr;
  int rank = -1;

  bool has(cudnnBackendAttributeName_t name) const { return values.count(name) > 0; }
  template <typename T>
  std::vector<T> all(cudnnBackendAttributeName_t name) const {
    const std::vector<std::byte>& bytes = values.at(name);
    std::vector<T> result(bytes.size() / sizeof(T));
    std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
  std::vector<bool> flags(cudnnBackendAttributeName_t name) const {
    std::vector<bool> result;
    for (const std::byte byte : values.at(name)) result.push_back(byte != std::byte{0});
    return result;
  }
  bool flag(cudnnBackendAttributeName_t name) const { return has(name) && flags(name).front(); }
  template <typename T>
  T one(cudnnBackendAttributeName_t name) const {
    return all<T>(name).front();
  }
  const Fake& part(cudnnBackendAttributeName_t name) const { return *one<const Fake*>(name); }

  // Of tensors
  Extents extents() const { return all<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS); }
  Extents strides() const { return all<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES); }
  std::int64_t id() const { return one<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }
  bool is_virtual() const { return flag(CUDNN_ATTR_TENSOR_IS_VIRTUAL); }
  bool is_number() const { return flag(CUDNN_ATTR_TENSOR_IS_BY_VALUE); }
  bool is_half() const { return one<int>(CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_BFLOAT16; }
};

std::int64_t size_of(const Extents& extents) {
  std::int64_t size = 1;
  for (const std::int64_t extent : extents) size *= extent;
  return size;
}

/// The position of the element that is the `i`-th in the order of `extents`, with extents of 1 repeated.
std::int64_t offset_of(std::int64_t i, const Extents& extents, const Extents& own, const Extents& strides) {
  std::int64_t offset = 0;
  for (std::size_t d = extents.size(); d-- > 0;) {
    const std::int64_t at = i % extents[d];
    i /= extents[d];
    if (own[d] != 1) offset += at * strides[d];
  }
  return offset;
}
Extents row_major(const Extents& extents) {
  Extents strides(extents.size(), 1);
  for (std::size_t d = extents.size(); d-- > 1;) strides[d - 1] = strides[d] * extents[d];
  return strides;
}

double rounded(double value, bool half) {
  const auto single = static_cast<float>(value);
  return half ? static_cast<double>(static_cast<float>(BFloat16(single))) : static_cast<double>(single);
}

void check_operation(const Fake& op) {
  const auto extents = [&](cudnnBackendAttributeName_t name) { return op.part(name).extents(); };
  switch (op.type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: {
      const Extents a = extents(CUDNN_ATTR_OPERATION_MATMUL_ADESC), b = extents(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                    c = extents(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
      demand(a.size() == 4 && b.size() == 4 && c.size() == 4 && a[0] == b[0] && a[0] == c[0] && a[1] == b[1] &&
                 a[1] == c[1] && a[2] == c[2] && a[3] == b[2] && b[3] == c[3],
             "the matrices do not go together");
      break;
    }
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: {
      const Extents x = extents(CUDNN_ATTR_OPERATION_POINTWISE_XDESC),
                    y = extents(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
      demand(x == y, "x and y of a pointwise operation have other extents");
      if (!op.has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC)) break;
      const Extents b = extents(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
      demand(b.size() == y.size(), "b has {} dimensions; y {}", b.size(), y.size());
      for (std::size_t d = 0; d < b.size(); ++d) demand(b[d] == 1 || b[d] == y[d], "b cannot be repeated");
      break;
    }
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: {
      const Extents x = extents(CUDNN_ATTR_OPERATION_REDUCTION_XDESC),
                    y = extents(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
      demand(x.size() == y.size(), "x has {} dimensions; y {}", x.size(), y.size());
      for (std::size_t d = 0; d < x.size(); ++d) demand(y[d] == 1 || y[d] == x[d], "y is no reduction of x");
      break;
    }
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      demand(
          size_of(extents(CUDNN_ATTR_OPERATION_RESHAPE_XDESC)) == size_of(extents(CUDNN_ATTR_OPERATION_RESHAPE_YDESC)),
          "a reshape changes the number of elements");
      break;
    case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR: {
      const Extents x = extents(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC);
      const Extents columns{1, x[1], 1, 1}, rows{x[0], 1, 1, 1};
      demand(extents(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC) == x &&
                 extents(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC) == columns &&
                 extents(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC) == columns &&
                 extents(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC) == rows &&
                 extents(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC) == rows,
             "the tensors of the norm do not go together");
      demand(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC).is_number(), "epsilon is no number");
      break;
    }
    case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR: {
      const Extents x = extents(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC);
      const Extents columns{1, x[1], 1, 1}, rows{x[0], 1, 1, 1};
      demand(extents(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC) == x && extents(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC) == x &&
                 extents(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC) == columns &&
                 extents(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC) == columns &&
                 extents(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC) == columns &&
                 extents(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC) == rows &&
                 extents(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC) == rows,
             "the tensors of the norm do not go together");
      break;
    }
    default: break;
  }
}

/// What an operation reads and what it writes.
struct Ends {
  std::vector<const Fake*> in, out;
};
Ends ends_of(const Fake& op) {
  static const std::set<cudnnBackendAttributeName_t> outputs = {CUDNN_ATTR_OPERATION_MATMUL_CDESC,
                                                                CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
                                                                CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
                                                                CUDNN_ATTR_OPERATION_RESHAPE_YDESC,
                                                                CUDNN_ATTR_OPERATION_NORM_FWD_YDESC,
                                                                CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC,
                                                                CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC,
                                                                CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC,
                                                                CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC,
                                                                CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC};
  Ends ends;
  for (const auto& [name, bytes] : op.values) {
    const Known& attribute = known().at(name);
    if (attribute.type != kDescriptor) continue;
    const Fake& part = op.part(name);
    if (part.type != CUDNN_BACKEND_TENSOR_DESCRIPTOR) continue;
    (outputs.count(name) > 0 ? ends.out : ends.in).push_back(&part);
  }
  return ends;
}

void check_final(const Fake& fake) {
  for (const auto& [name, attribute] : known()) {
    demand(attribute.of != fake.type || !attribute.required || fake.has(name), "attribute {} is missing",
           static_cast<int>(name));
  }
  for (const auto& [name, bytes] : fake.values) {
    if (known().at(name).type != kDescriptor) continue;
    for (const Fake* part : fake.all<const Fake*>(name)) demand(part->final, "a part is not finalised");
  }
  switch (fake.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: {
      const Extents extents = fake.extents(), strides = fake.strides();
      demand(extents.size() >= 3 && extents.size() <= CUDNN_DIM_MAX && extents.size() == strides.size(),
             "a tensor of {} extents and {} strides", extents.size(), strides.size());
      for (const std::int64_t extent : extents) demand(extent > 0, "an extent is {}", extent);
      demand(!(fake.is_virtual() && fake.is_number()), "a tensor is virtual and a value");
      break;
    }
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: {
      std::set<std::int64_t> ids, written;
      std::map<std::int64_t, const Fake*> tensors;
      demand(fake.one<void*>(CUDNN_ATTR_OPERATIONGRAPH_HANDLE) != nullptr, "a graph without a handle");
      for (const Fake* op : fake.all<const Fake*>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        const Ends ends = ends_of(*op);
        for (const Fake* tensor : ends.in) {
          demand(!tensor->is_virtual() || written.count(tensor->id()) > 0, "a value is read before it is there");
        }
        for (const Fake* tensor : ends.out) demand(written.insert(tensor->id()).second, "a tensor is written twice");
        for (const auto* list : {&ends.in, &ends.out}) {
          for (const Fake* tensor : *list) {
            demand(tensors.try_emplace(tensor->id(), tensor).first->second == tensor, "two tensors have one id");
          }
        }
      }
      break;
    }
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
      const Fake& configuration = fake.part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
      // The first that the heuristics gave does not do.
      if (configuration.rank == 0 || state.plan_status != CUDNN_STATUS_SUCCESS) {
        ++state.plans_refused;
        state.last_error = "this engine does not do";
        throw Refusal{configuration.rank == 0 ? CUDNN_STATUS_NOT_SUPPORTED : state.plan_status};
      }
      break;
    }
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      demand(fake.all<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).size() ==
                 fake.all<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).size(),
             "not as many addresses as tensors");
      break;
    default: check_operation(fake);
  }
}

/// One execution of a graph.
class Run {
 public:
  Run(const Fake& graph, std::map<std::int64_t, void*> addresses) : addresses_(std::move(addresses)) {
    const auto ops = graph.all<const Fake*>(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    std::set<std::int64_t> ids;
    for (const Fake* op : ops) {
      const Ends ends = ends_of(*op);
      for (const auto* list : {&ends.in, &ends.out}) {
        for (const Fake* tensor : *list) {
          if (!tensor->is_virtual()) ids.insert(tensor->id());
        }
      }
    }
    for (const std::int64_t id : ids) demand(addresses_.count(id) > 0, "tensor {} has no address", id);
    demand(addresses_.size() == ids.size(), "{} addresses for {} tensors", addresses_.size(), ids.size());
    for (const Fake* op : ops) execute(*op);
  }

 private:
  using Values = std::vector<double>;  // row-major

  const Values& read(const Fake& tensor) {
    const auto at = values_.find(tensor.id());
    if (at != values_.end()) return at->second;
    demand(!tensor.is_virtual(), "a value is not there");
    const Extents extents = tensor.extents(), strides = tensor.strides();
    const void* data = addresses_.at(tensor.id());
    Values values(static_cast<std::size_t>(size_of(extents)));
    for (std::int64_t i = 0; i < size_of(extents); ++i) {
      const std::int64_t offset = tensor.is_number() ? 0 : offset_of(i, extents, extents, strides);
      values[static_cast<std::size_t>(i)] =
          tensor.is_half() ? static_cast<double>(static_cast<float>(static_cast<const BFloat16*>(data)[offset]))
                           : static_cast<double>(static_cast<const float*>(data)[offset]);
    }
    return values_[tensor.id()] = values;
  }

  void write(const Fake& tensor, Values values) {
    const Extents extents = tensor.extents(), strides = tensor.strides();
    for (double& value : values) value = rounded(value, tensor.is_half());
    if (!tensor.is_virtual()) {
      void* data = addresses_.at(tensor.id());
      demand(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "an address is not aligned");
      for (std::int64_t i = 0; i < size_of(extents); ++i) {
        const std::int64_t offset = offset_of(i, extents, extents, strides);
        const auto value = static_cast<float>(values[static_cast<std::size_t>(i)] * (1 + state.wrong_by));
        if (tensor.is_half()) static_cast<BFloat16*>(data)[offset] = BFloat16(value);
        if (!tensor.is_half()) static_cast<float*>(data)[offset] = value;
      }
    }
    values_[tensor.id()] = std::move(values);
  }

  void matmul(const Fake& a, const Fake& b, const Fake& c) {
    const Values &left = read(a), &right = read(b);
    const Extents extents = c.extents();
    const std::int64_t m = extents[2], n = extents[3], k = a.extents()[3];
    // Blocks of keys are added to a sum over queries that lies in memory.
    Values sums = c.is_virtual() || c.is_half() ? Values(static_cast<std::size_t>(size_of(extents))) : read(c);
    for (std::int64_t batch = 0; batch < extents[0] * extents[1]; ++batch) {
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t l = 0; l < k; ++l) {
          const double factor = left[static_cast<std::size_t>((batch * m + i) * k + l)];
          for (std::int64_t j = 0; j < n; ++j) {
            sums[static_cast<std::size_t>((batch * m + i) * n + j)] +=
                factor * right[static_cast<std::size_t>((batch * k + l) * n + j)];
          }
        }
      }
    }
    write(c, std::move(sums));
  }

  static double apply(int mode, double x, double b) {
    switch (mode) {
      case CUDNN_POINTWISE_ADD: return x + b;
      case CUDNN_POINTWISE_SUB: return x - b;
      case CUDNN_POINTWISE_MUL: return x * b;
      case CUDNN_POINTWISE_DIV: return x / b;
      case CUDNN_POINTWISE_EXP: return std::exp(x);
      case CUDNN_POINTWISE_LOG: return std::log(x);
      case CUDNN_POINTWISE_IDENTITY: return x;
      default: demand(false, "pointwise mode {}", mode); return 0;
    }
  }

  void pointwise(const Fake& op) {
    const Fake &x = op.part(CUDNN_ATTR_OPERATION_POINTWISE_XDESC), &y = op.part(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    const int mode = op.part(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR).one<int>(CUDNN_ATTR_POINTWISE_MODE);
    Values values = read(x);
    const Fake* b =
        op.has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) ? &op.part(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) : nullptr;
    demand((b == nullptr) ==
               (mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG || mode == CUDNN_POINTWISE_IDENTITY),
           "the number of operands");
    for (std::size_t i = 0; i < values.size(); ++i) {
      double second = 0;
      if (b != nullptr) {
        const Extents own = b->extents();
        second = read(
            *b)[static_cast<std::size_t>(offset_of(static_cast<std::int64_t>(i), y.extents(), own, row_major(own)))];
      }
      values[i] = apply(mode, values[i], second);
    }
    write(y, std::move(values));
  }

  void reduce(const Fake& op) {
    const Fake &x = op.part(CUDNN_ATTR_OPERATION_REDUCTION_XDESC), &y = op.part(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const int kind = op.part(CUDNN_ATTR_OPERATION_REDUCTION_DESC).one<int>(CUDNN_ATTR_REDUCTION_OPERATOR);
    demand(kind == CUDNN_REDUCE_TENSOR_ADD || kind == CUDNN_REDUCE_TENSOR_MAX, "reduction {}", kind);
    const bool is_sum = kind == CUDNN_REDUCE_TENSOR_ADD;
    const Extents own = y.extents();
    Values values(static_cast<std::size_t>(size_of(own)), is_sum ? 0 : -std::numeric_limits<double>::infinity());
    const Values& from = read(x);
    for (std::size_t i = 0; i < from.size(); ++i) {
      double& to =
          values[static_cast<std::size_t>(offset_of(static_cast<std::int64_t>(i), x.extents(), own, row_major(own)))];
      to = is_sum ? to + from[i] : std::max(to, from[i]);
    }
    write(y, std::move(values));
  }

  /// x in the order of its addresses is y in the order of its own.
  void reshape(const Fake& x, const Fake& y) {
    const auto by_address = [](const Fake& tensor, Extents strides) {
      const Extents extents = tensor.extents();
      std::vector<std::pair<std::int64_t, std::size_t>> order;
      for (std::int64_t i = 0; i < size_of(extents); ++i) {
        order.emplace_back(offset_of(i, extents, extents, strides), static_cast<std::size_t>(i));
      }
      std::sort(order.begin(), order.end());
      return order;
    };
    const Values& from = read(x);
    // A virtual x lies row-major in registers or shared memory.
    const auto x_order = by_address(x, x.is_virtual() ? row_major(x.extents()) : x.strides());
    const auto y_order = by_address(y, y.strides());
    Values values(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) values[y_order[i].second] = from[x_order[i].second];
    write(y, std::move(values));
  }

  void norm(const Fake& op) {
    const Fake& x = op.part(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC);
    demand(op.one<int>(CUDNN_ATTR_OPERATION_NORM_FWD_MODE) == CUDNN_LAYER_NORM, "another norm");
    const std::int64_t rows = x.extents()[0], width = x.extents()[1];
    const Values &values = read(x), &scale = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC)),
                 &bias = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC));
    const double epsilon = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC)).front();
    Values y(values.size()), means, inverses;
    for (std::int64_t r = 0; r < rows; ++r) {
      const double* row = values.data() + r * width;
      double mean = 0, variance = 0;
      for (std::int64_t c = 0; c < width; ++c) mean += row[c] / static_cast<double>(width);
      for (std::int64_t c = 0; c < width; ++c)
        variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(width);
      means.push_back(mean);
      inverses.push_back(1 / std::sqrt(variance + epsilon));
      for (std::int64_t c = 0; c < width; ++c) {
        const auto column = static_cast<std::size_t>(c);
        y[static_cast<std::size_t>(r * width) + column] =
            (row[c] - mean) * inverses.back() * scale[column] + bias[column];
      }
    }
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC), y);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC), means);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC), inverses);
  }

  void norm_backward(const Fake& op) {
    const Fake& x = op.part(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC);
    const std::int64_t rows = x.extents()[0], width = x.extents()[1];
    const auto count = static_cast<double>(width);
    const Values &values = read(x), &dy = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC)),
                 &scale = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC)),
                 &means = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC)),
                 &inverses = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC));
    Values dx(values.size()), dscale(static_cast<std::size_t>(width)), dbias(static_cast<std::size_t>(width));
    for (std::int64_t r = 0; r < rows; ++r) {
      const double mean = means[static_cast<std::size_t>(r)], inverse = inverses[static_cast<std::size_t>(r)];
      double sum = 0, product = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<std::size_t>(r * width + c), column = static_cast<std::size_t>(c);
        const double n = (values[at] - mean) * inverse;
        dscale[column] += dy[at] * n;
        dbias[column] += dy[at];
        sum += dy[at] * scale[column];
        product += dy[at] * scale[column] * n;
      }
      for (std::int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<std::size_t>(r * width + c), column = static_cast<std::size_t>(c);
        const double n = (values[at] - mean) * inverse;
        dx[at] = inverse * (dy[at] * scale[column] - sum / count - n * product / count);
      }
    }
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC), dx);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC), dscale);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC), dbias);
  }

  void execute(const Fake& op) {
    switch (op.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(op.part(CUDNN_ATTR_OPERATION_MATMUL_ADESC), op.part(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                      op.part(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: return pointwise(op);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: return reduce(op);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return reshape(op.part(CUDNN_ATTR_OPERATION_RESHAPE_XDESC), op.part(CUDNN_ATTR_OPERATION_RESHAPE_YDESC));
      case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR: return norm(op);
      case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR: return norm_backward(op);
      default: demand(false, "operation {}", static_cast<int>(op.type));
    }
  }

  std::map<std::int64_t, void*> addresses_;
  std::map<std::int64_t, Values> values_;  // by tensor
};

Fake& fake_of(cudnnBackendDescriptor_t descriptor) {
  demand(descriptor != nullptr, "no descriptor");
  return *static_cast<Fake*>(descriptor);
}

constexpr std::int64_t kWorkspaceBytes = 1000;

cudnnStatus_t create(cudnnHandle_t* handle) {
  if (state.create_status != CUDNN_STATUS_SUCCESS) {
    state.last_error = "there is no such GPU";
    return state.create_status;
  }
  ++state.handles;
  *handle = reinterpret_cast<cudnnHandle_t>(new int(0));
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t destroy(cudnnHandle_t handle) {
  --state.handles;
  delete reinterpret_cast<int*>(handle);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set_attribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
  return answer([&] {
    Fake& fake = fake_of(descriptor);
    const auto at = known().find(name);
    demand(!fake.final, "an attribute of what is finalised");
    demand(at != known().end() && at->second.of == fake.type, "attribute {} of descriptor {}", static_cast<int>(name),
           static_cast<int>(fake.type));
    demand(at->second.type == type, "attribute {} has type {}; got {}", static_cast<int>(name),
           static_cast<int>(at->second.type), static_cast<int>(type));
    demand(values != nullptr && count > 0 && (at->second.count == 0 || at->second.count == count),
           "attribute {} has {} values; got {}", static_cast<int>(name), at->second.count, count);
    const auto* bytes = static_cast<const std::byte*>(values);
    fake.values[name].assign(bytes, bytes + static_cast<std::size_t>(count) * size_of_type(type));
  });
}

cudnnStatus_t get_attribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t type, std::int64_t wanted, std::int64_t* count, void* values) {
  return answer([&] {
    Fake& fake = fake_of(descriptor);
    demand(fake.final, "an attribute of what is not finalised");
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
      demand(type == CUDNN_TYPE_INT64 && wanted == 1, "a size is an int64");
      std::memcpy(values, &kWorkspaceBytes, sizeof(kWorkspaceBytes));
      return;
    }
    demand(name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == kDescriptor, "attribute {}", static_cast<int>(name));
    constexpr std::int64_t kEngines = 2;
    *count = kEngines;
    for (std::int64_t i = 0; i < std::min(wanted, kEngines); ++i) {
      Fake& configuration = fake_of(static_cast<cudnnBackendDescriptor_t*>(values)[i]);
      demand(configuration.type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "no engine's configuration");
      configuration.graph = &fake.part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
      configuration.rank = static_cast<int>(i);
      configuration.final = true;
    }
  });
}

cudnnStatus_t execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_descriptor,
                      cudnnBackendDescriptor_t pack_descriptor) {
  return answer([&] {
    const Fake &plan = fake_of(plan_descriptor), &pack = fake_of(pack_descriptor);
    demand(plan.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && plan.final, "no plan");
    demand(pack.type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR && pack.final, "no variant pack");
    demand(plan.one<cudnnHandle_t>(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == handle, "another handle");
    auto* workspace = pack.one<std::byte*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    demand(reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0, "the workspace is not aligned");
    std::memset(workspace, 0xff, kWorkspaceBytes);
    const auto ids = pack.all<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto pointers = pack.all<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    std::map<std::int64_t, void*> addresses;
    for (std::size_t i = 0; i < ids.size(); ++i) addresses[ids[i]] = pointers[i];
    Run(*plan.part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).graph, std::move(addresses));
    ++state.executions;
  });
}

struct Legacy {
  int n = 0, c = 0;
};
cudnnStatus_t tensor_set(cudnnTensorDescriptor_t tensor, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c,
                         int h, int w) {
  return answer([&] {
    demand(format == CUDNN_TENSOR_NCHW && type == CUDNN_DATA_FLOAT && n > 0 && c > 0 && h == 1 && w == 1,
           "another tensor than rows of fp32");
    *reinterpret_cast<Legacy*>(tensor) = {n, c};
  });
}
cudnnStatus_t softmax(cudnnHandle_t handle, cudnnSoftmaxAlgorithm_t algorithm, cudnnSoftmaxMode_t mode,
                      const void* alpha, cudnnTensorDescriptor_t x_tensor, const void* x, const void* beta,
                      cudnnTensorDescriptor_t y_tensor, void* y) {
  return answer([&] {
    demand(handle != nullptr && algorithm == CUDNN_SOFTMAX_ACCURATE && mode == CUDNN_SOFTMAX_MODE_INSTANCE,
           "another softmax");
    demand(*static_cast<const float*>(alpha) == 1 && *static_cast<const float*>(beta) == 0, "other factors");
    const Legacy &from = *reinterpret_cast<Legacy*>(x_tensor), &to = *reinterpret_cast<Legacy*>(y_tensor);
    demand(from.n == to.n && from.c == to.c, "x and y of other extents");
    for (int r = 0; r < from.n; ++r) {
      const float* row = static_cast<const float*>(x) + static_cast<std::ptrdiff_t>(r) * from.c;
      float* result = static_cast<float*>(y) + static_cast<std::ptrdiff_t>(r) * from.c;
      const auto largest = static_cast<double>(*std::max_element(row, row + from.c));
      double sum = 0;
      for (int c = 0; c < from.c; ++c) sum += std::exp(static_cast<double>(row[c]) - largest);
      for (int c = 0; c < from.c; ++c) {
        const double p = std::exp(static_cast<double>(row[c]) - largest) / sum;
        result[c] = static_cast<float>(p * (1 + state.wrong_by));
      }
    }
    ++state.softmaxes;
  });
}

}  // namespace

bench::cudnn::Api FakeCudnn::api() {
  bench::cudnn::Api api{};
  api.version = [] { return std::size_t{CUDNN_VERSION}; };
  api.error_string = [](cudnnStatus_t status) {
    return status == CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_OF_THE_FAKE";
  };
  api.last_error = [](char* text, std::size_t size) { std::strncpy(text, state.last_error.c_str(), size); };
  api.create = create;
  api.destroy = destroy;
  api.set_stream = [](cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; };
  api.descriptor_create = [](cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
    ++state.descriptors;
    auto* fake = new Fake;
    fake->type = type;
    *descriptor = fake;
    return CUDNN_STATUS_SUCCESS;
  };
  api.descriptor_destroy = [](cudnnBackendDescriptor_t descriptor) {
    --state.descriptors;
    delete static_cast<Fake*>(descriptor);
    return CUDNN_STATUS_SUCCESS;
  };
  api.set_attribute = set_attribute;
  api.get_attribute = get_attribute;
  api.finalize = [](cudnnBackendDescriptor_t descriptor) {
    return answer([&] {
      Fake& fake = fake_of(descriptor);
      demand(!fake.final, "finalised twice");
      check_final(fake);
      fake.final = true;
    });
  };
  api.execute = execute;
  api.tensor_create = [](cudnnTensorDescriptor_t* tensor) {
    ++state.descriptors;
    *tensor = reinterpret_cast<cudnnTensorDescriptor_t>(new Legacy);
    return CUDNN_STATUS_SUCCESS;
  };
  api.tensor_set = tensor_set;
  api.tensor_destroy = [](cudnnTensorDescriptor_t tensor) {
    --state.descriptors;
    delete reinterpret_cast<Legacy*>(tensor);
    return CUDNN_STATUS_SUCCESS;
  };
  api.softmax = softmax;
  return api;
}

FakeCudnn& fake_cudnn() { return state; }
void reset_fake_cudnn() { state = {}; }

}  // namespace dino::test
