#include "benchmarks/cudnn_api.h"
#include "kernels/common/cuda/shared_library.h"

namespace dino::bench::cudnn {

Api open_library() {
  const SharedLibrary library("bench", "libcudnn.so.9", "cuDNN, which the kernels are compared with");
  Api api{};
  library.find("cudnnGetVersion", api.version);
  library.find("cudnnGetErrorString", api.error_string);
  library.find("cudnnGetLastErrorString", api.last_error);
  library.find("cudnnCreate", api.create);
  library.find("cudnnDestroy", api.destroy);
  library.find("cudnnSetStream", api.set_stream);
  library.find("cudnnBackendCreateDescriptor", api.descriptor_create);
  library.find("cudnnBackendDestroyDescriptor", api.descriptor_destroy);
  library.find("cudnnBackendSetAttribute", api.set_attribute);
  library.find("cudnnBackendGetAttribute", api.get_attribute);
  library.find("cudnnBackendFinalize", api.finalize);
  library.find("cudnnBackendExecute", api.execute);
  library.find("cudnnCreateTensorDescriptor", api.tensor_create);
  library.find("cudnnSetTensor4dDescriptor", api.tensor_set);
  library.find("cudnnDestroyTensorDescriptor", api.tensor_destroy);
  library.find("cudnnSoftmaxForward", api.softmax);
  return api;
}

[[gnu::weak]] const Api& library() {
  static const Api api = open_library();
  return api;
}

}  // namespace dino::bench::cudnn
