#include "benchmarks/cudnn_graph.h"

#include "kernels/common/cuda/check.h"

#include <array>

namespace dino::bench::cudnn {
namespace {

cudnnDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return CUDNN_DATA_FLOAT;
    case DType::bfloat16: return CUDNN_DATA_BFLOAT16;
    default: fail("bench", "cuDNN is not asked for {}", name_of(dtype));
  }
}

Extents row_major(const Extents& extents) {
  Extents strides(extents.size(), 1);
  for (std::size_t i = extents.size(); i-- > 1;) strides[i - 1] = strides[i] * extents[i];
  return strides;
}

/// What cuDNN has to say of the last failure, of which the status alone tells little.
std::string last_words(const Api& api) {
  std::array<char, 1024> text{};
  api.last_error(text.data(), text.size() - 1);
  return text.data();
}

constexpr cudnnDataType_t kFloat = CUDNN_DATA_FLOAT;

}  // namespace

void check(const Api& api, cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  cuda::fail_call(call, file, line, fmt::format("{} ({})", last_words(api), api.error_string(status)));
}

Descriptor::Descriptor(const Api& api, cudnnBackendDescriptorType_t type) : api_(api) {
  DINO_CUDNN(api_, descriptor_create, type, &handle_);
}

Descriptor::~Descriptor() {
  if (handle_ != nullptr) api_.descriptor_destroy(handle_);
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                     const void* values) {
  DINO_CUDNN(api_, set_attribute, handle_, name, type, count, values);
}

void Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  const cudnnBackendDescriptor_t handle = value.get();
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &handle);
}

void Descriptor::finalize() { DINO_CUDNN(api_, finalize, handle_); }

Descriptor& Graph::make(cudnnBackendDescriptorType_t type) { return plan_.descriptors_.emplace_back(api_, type); }

Graph::Tensor Graph::add(DType dtype, const Extents& extents, const Extents& strides, void* address, bool is_number) {
  const cudnnDataType_t type = type_of(dtype);
  const auto dimensions = static_cast<std::int64_t>(extents.size());
  const auto id = static_cast<std::int64_t>(tensors_.size()) + 1;
  constexpr std::int64_t kAlignment = 16;
  const bool is_between = address == nullptr;
  Descriptor& tensor = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dimensions, extents.data());
  tensor.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, dimensions, strides.data());
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &kAlignment);
  tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_between);
  tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &is_number);
  tensor.finalize();
  tensors_.push_back(tensor.get());
  if (!is_between) {
    plan_.ids_.push_back(id);
    plan_.addresses_.push_back(address);
  }
  return {tensors_.size() - 1};
}

Graph::Tensor Graph::memory(const void* address, DType dtype, const Extents& extents, const Extents& strides) {
  require(address != nullptr && reinterpret_cast<std::uintptr_t>(address) % 16 == 0, "bench",
          "cuDNN wants addresses that are multiples of 16; got {}", address);
  return add(dtype, extents, strides, const_cast<void*>(address), false);
}

Graph::Tensor Graph::number(float value, std::size_t dimensions) {
  const Extents ones(dimensions, 1);
  return add(DType::float32, ones, ones, &plan_.numbers_.emplace_back(value), true);
}

Graph::Tensor Graph::between(DType dtype, const Extents& extents, const Extents& strides) {
  return add(dtype, extents, strides.empty() ? row_major(extents) : strides, nullptr, false);
}

Descriptor& Graph::operation(cudnnBackendDescriptorType_t type, Tensors tensors) {
  Descriptor& operation = make(type);
  for (const auto& [name, tensor] : tensors) {
    operation.set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &tensors_[tensor.index]);
  }
  operations_.push_back(operation.get());
  return operation;
}

void Graph::matmul(Tensor a, Tensor b, Tensor y) {
  Descriptor& matmul = make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  matmul.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &kFloat);
  matmul.finalize();
  Descriptor& operation =
      this->operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, {{CUDNN_ATTR_OPERATION_MATMUL_ADESC, a},
                                                                  {CUDNN_ATTR_OPERATION_MATMUL_BDESC, b},
                                                                  {CUDNN_ATTR_OPERATION_MATMUL_CDESC, y}});
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, matmul);
  operation.finalize();
}

void Graph::pointwise(cudnnPointwiseMode_t mode, Tensors tensors) {
  Descriptor& function = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  function.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  function.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &kFloat);
  function.finalize();
  Descriptor& operation = this->operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, tensors);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
  operation.finalize();
}

void Graph::pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor y) {
  pointwise(mode, {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x}, {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void Graph::pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y) {
  pointwise(mode, {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
                   {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
                   {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void Graph::reduce(cudnnReduceTensorOp_t kind, Tensor x, Tensor y) {
  Descriptor& reduction = make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &kind);
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &kFloat);
  reduction.finalize();
  Descriptor& operation =
      this->operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
                      {{CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x}, {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y}});
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
  operation.finalize();
}

void Graph::reshape(Tensor x, Tensor y) {
  operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
            {{CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x}, {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y}})
      .finalize();
}

void Graph::layer_norm(Tensor x, Tensor scale, Tensor bias, Tensor epsilon, Tensor y, Tensor mean,
                       Tensor inverse_deviation) {
  constexpr cudnnBackendNormMode_t kMode = CUDNN_LAYER_NORM;
  constexpr cudnnBackendNormFwdPhase_t kPhase = CUDNN_NORM_FWD_TRAINING;
  Descriptor& norm = operation(CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR,
                               {{CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, x},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, scale},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, bias},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, epsilon},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, y},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, mean},
                                {CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, inverse_deviation}});
  norm.set(CUDNN_ATTR_OPERATION_NORM_FWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &kMode);
  norm.set(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_TYPE_NORM_FWD_PHASE, 1, &kPhase);
  norm.finalize();
}

void Graph::layer_norm_backward(Tensor x, Tensor dy, Tensor scale, Tensor mean, Tensor inverse_deviation, Tensor dx,
                                Tensor dscale, Tensor dbias) {
  constexpr cudnnBackendNormMode_t kMode = CUDNN_LAYER_NORM;
  Descriptor& norm = operation(CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR,
                               {{CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, x},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, dy},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, scale},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, mean},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, inverse_deviation},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, dx},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, dscale},
                                {CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, dbias}});
  norm.set(CUDNN_ATTR_OPERATION_NORM_BWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &kMode);
  norm.finalize();
}

Plan Graph::compile(cudnnHandle_t handle) && {
  Descriptor& graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<std::int64_t>(operations_.size()),
            operations_.data());
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  graph.finalize();

  std::string reason = "its heuristics know no engine for it";
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor& heuristics = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (api_.finalize(heuristics.get()) != CUDNN_STATUS_SUCCESS) {
      reason = last_words(api_);
      continue;
    }
    std::int64_t count = 0;
    DINO_CUDNN(api_, get_attribute, heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
               &count, nullptr);
    if (count == 0) {
      const std::string words = last_words(api_);
      if (!words.empty()) reason = words;
      continue;
    }
    std::vector<Descriptor*> configurations;
    std::vector<cudnnBackendDescriptor_t> handles;
    for (std::int64_t i = 0; i < count; ++i) {
      configurations.push_back(&make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
      handles.push_back(configurations.back()->get());
    }
    DINO_CUDNN(api_, get_attribute, heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
               count, &count, handles.data());
    for (std::int64_t i = 0; i < count; ++i) {
      Descriptor& plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, *configurations[static_cast<std::size_t>(i)]);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
      // What the heuristics put first may not do after all.
      if (api_.finalize(plan.get()) != CUDNN_STATUS_SUCCESS) {
        reason = last_words(api_);
        continue;
      }
      std::int64_t size_bytes = 0;
      DINO_CUDNN(api_, get_attribute, plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                 &size_bytes);
      plan_.workspace_bytes_ = static_cast<std::size_t>(size_bytes);
      plan_.plan_ = &plan;
      return std::move(plan_);
    }
  }
  const std::size_t version = api_.version();
  fail("bench", "cuDNN {}.{}.{} has no way to compute this graph: {}", version / 10000, version / 100 % 100,
       version % 100, reason);
}

void Plan::bind(void* workspace) {
  pack_ = &descriptors_.emplace_back(*api_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  const auto count = static_cast<std::int64_t>(ids_.size());
  pack_->set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids_.data());
  pack_->set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, addresses_.data());
  pack_->set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack_->finalize();
}

void Plan::run(cudnnHandle_t handle) const { DINO_CUDNN(*api_, execute, handle, plan_->get(), pack_->get()); }

}  // namespace dino::bench::cudnn
