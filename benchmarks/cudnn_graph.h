#pragma once

#include "benchmarks/cudnn_api.h"
#include "kernels/common/dtype.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

/// Graphs of operations for cuDNN 9, by its backend API (cudnn_graph.h): descriptors that are given attributes and
/// finalised. A Graph describes what is computed, a Plan is what cuDNN makes of it.
namespace dino::bench::cudnn {

/// Throws Error with cuDNN's own words unless the call succeeded: `DINO_CUDNN(api, create, &handle)`.
void check(const Api& api, cudnnStatus_t status, const char* call, const char* file, int line);
#define DINO_CUDNN(api, function, ...) \
  ::dino::bench::cudnn::check(api, (api).function(__VA_ARGS__), "cuDNN " #function, __FILE__, __LINE__)

/// A descriptor that it owns.
class Descriptor {
 public:
  Descriptor(const Api& api, cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  cudnnBackendDescriptor_t get() const { return handle_; }
  /// Gives an attribute `count` values of a type.
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count, const void* values);
  void set(cudnnBackendAttributeName_t name, const Descriptor& value);
  void finalize();

 private:
  const Api& api_;
  cudnnBackendDescriptor_t handle_ = nullptr;
};

using Extents = std::vector<std::int64_t>;

/// A graph that has been compiled, with the addresses that it works on.
class Plan {
 public:
  /// Bytes of memory that run() needs beside.
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  /// Gives it this memory, a multiple of 256. Must come before run(), once.
  void bind(void* workspace);
  /// Puts it on the handle's stream.
  void run(cudnnHandle_t handle) const;

 private:
  friend class Graph;
  explicit Plan(const Api& api) : api_(&api) {}

  const Api* api_;
  std::deque<Descriptor> descriptors_;  // all that the plan was made of
  std::deque<float> numbers_;
  std::vector<std::int64_t> ids_;
  std::vector<void*> addresses_;  // by id
  std::size_t workspace_bytes_ = 0;
  Descriptor* plan_ = nullptr;
  Descriptor* pack_ = nullptr;
};

/// Operations on tensors, appended in the order in which they are computed; arithmetic and sums are fp32.
class Graph {
 public:
  /// A tensor of this graph.
  struct Tensor {
    std::size_t index;
  };

  explicit Graph(const Api& api) : plan_(api), api_(api) {}

  /// One in memory, at an address that is a multiple of 16. Strides are in elements.
  Tensor memory(const void* address, DType dtype, const Extents& extents, const Extents& strides);
  /// A number, passed by value; of so many dimensions, each 1.
  Tensor number(float value, std::size_t dimensions);
  /// One that only operations see; row-major, or with strides.
  Tensor between(DType dtype, const Extents& extents, const Extents& strides = {});

  /// y = a·b, over the last two dimensions.
  void matmul(Tensor a, Tensor b, Tensor y);
  /// y = f(x) or f(x, b), element by element; b may have extents of 1.
  void pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor y);
  void pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y);
  /// y = sum or maximum of x over the dimensions in which y has an extent of 1.
  void reduce(cudnnReduceTensorOp_t operation, Tensor x, Tensor y);
  /// y is x as seen with y's extents and strides.
  void reshape(Tensor x, Tensor y);
  void layer_norm(Tensor x, Tensor scale, Tensor bias, Tensor epsilon, Tensor y, Tensor mean, Tensor inverse_deviation);
  void layer_norm_backward(Tensor x, Tensor dy, Tensor scale, Tensor mean, Tensor inverse_deviation, Tensor dx,
                           Tensor dscale, Tensor dbias);

  /// The first of the engines in the order of cuDNN's heuristics that takes the graph on the handle's device. Throws
  /// Error with cuDNN's reason where there is none. The graph is gone afterwards.
  Plan compile(cudnnHandle_t handle) &&;

 private:
  Tensor add(DType dtype, const Extents& extents, const Extents& strides, void* address, bool is_number);
  Descriptor& make(cudnnBackendDescriptorType_t type);
  using Tensors = std::initializer_list<std::pair<cudnnBackendAttributeName_t, Tensor>>;
  /// A new operation with its tensors, to be finalised.
  Descriptor& operation(cudnnBackendDescriptorType_t type, Tensors tensors);
  void pointwise(cudnnPointwiseMode_t mode, Tensors tensors);

  Plan plan_;
  const Api& api_;
  std::vector<cudnnBackendDescriptor_t> tensors_, operations_;
};

}  // namespace dino::bench::cudnn
