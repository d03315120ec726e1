// The interface of the fake: its descriptors, and what it refuses of them.
#include "tests/cudnn/fake_cudnn.h"

#include "tests/cudnn/fake_descriptor.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

namespace dino::test {
namespace {

FakeCudnn state;

/// What a function of cuDNN's returns that does this.
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

void check_operation(const FakeDescriptor& op) {
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

void check_final(const FakeDescriptor& fake) {
  for (const auto& [name, attribute] : known()) {
    demand(attribute.of != fake.type || !attribute.required || fake.has(name), "attribute {} is missing",
           static_cast<int>(name));
  }
  for (const auto& [name, bytes] : fake.values) {
    if (known().at(name).type != kDescriptor) continue;
    for (const FakeDescriptor* part : fake.all<const FakeDescriptor*>(name))
      demand(part->final, "a part is not finalised");
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
      std::map<std::int64_t, const FakeDescriptor*> tensors;
      demand(fake.one<void*>(CUDNN_ATTR_OPERATIONGRAPH_HANDLE) != nullptr, "a graph without a handle");
      for (const FakeDescriptor* op : fake.all<const FakeDescriptor*>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        const Ends ends = ends_of(*op);
        for (const FakeDescriptor* tensor : ends.in) {
          demand(!tensor->is_virtual() || written.count(tensor->id()) > 0, "a value is read before it is there");
        }
        for (const FakeDescriptor* tensor : ends.out)
          demand(written.insert(tensor->id()).second, "a tensor is written twice");
        for (const auto* list : {&ends.in, &ends.out}) {
          for (const FakeDescriptor* tensor : *list) {
            demand(tensors.try_emplace(tensor->id(), tensor).first->second == tensor, "two tensors have one id");
          }
        }
      }
      break;
    }
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
      const FakeDescriptor& configuration = fake.part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
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

FakeDescriptor& fake_of(cudnnBackendDescriptor_t descriptor) {
  demand(descriptor != nullptr, "no descriptor");
  return *static_cast<FakeDescriptor*>(descriptor);
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
    FakeDescriptor& fake = fake_of(descriptor);
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
    FakeDescriptor& fake = fake_of(descriptor);
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
      FakeDescriptor& configuration = fake_of(static_cast<cudnnBackendDescriptor_t*>(values)[i]);
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
    const FakeDescriptor &plan = fake_of(plan_descriptor), &pack = fake_of(pack_descriptor);
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
    run_graph(*plan.part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).graph, std::move(addresses));
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
    softmax_of_rows(static_cast<const float*>(x), static_cast<float*>(y), from.n, from.c);
    ++state.softmaxes;
  });
}

}  // namespace

Ends ends_of(const FakeDescriptor& op) {
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
    const FakeDescriptor& part = op.part(name);
    if (part.type != CUDNN_BACKEND_TENSOR_DESCRIPTOR) continue;
    (outputs.count(name) > 0 ? ends.out : ends.in).push_back(&part);
  }
  return ends;
}

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
    auto* fake = new FakeDescriptor;
    fake->type = type;
    *descriptor = fake;
    return CUDNN_STATUS_SUCCESS;
  };
  api.descriptor_destroy = [](cudnnBackendDescriptor_t descriptor) {
    --state.descriptors;
    delete static_cast<FakeDescriptor*>(descriptor);
    return CUDNN_STATUS_SUCCESS;
  };
  api.set_attribute = set_attribute;
  api.get_attribute = get_attribute;
  api.finalize = [](cudnnBackendDescriptor_t descriptor) {
    return answer([&] {
      FakeDescriptor& fake = fake_of(descriptor);
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
