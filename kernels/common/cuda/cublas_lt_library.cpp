#include "kernels/common/cuda/cublas_lt_api.h"
#include "kernels/common/error.h"

#include <dlfcn.h>

#include <string>

namespace dino::cuda {
namespace {

#define DINO_TEXT_OF(x) #x
#define DINO_TEXT(x) DINO_TEXT_OF(x)
constexpr const char* kName = "libcublasLt.so." DINO_TEXT(CUBLAS_VER_MAJOR);

/// Never closed: its kernels may still be on a device when the program ends.
void* open_library() {
  // The loader looks along the program's own path first, which holds lib/ beside it and the toolkit it was built with.
  void* library = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  std::string reason;
  if (library == nullptr) {
    reason = dlerror();
    library = dlopen((std::string("/usr/local/cuda/lib64/") + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  require(library != nullptr, "cuda",
          "cannot load cuBLASLt, which multiplies matrices on the GPU: {}; try a bundle (scripts/bundle.sh), which "
          "brings it along, or LD_LIBRARY_PATH=FOLDER with the folder that holds {}",
          reason, kName);
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  require(function != nullptr, "cuda", "{} has no function {}", kName, name);
}

CublasLtApi load() {
  void* library = open_library();
  CublasLtApi api{};
  find(library, "cublasLtCreate", api.create);
  find(library, "cublasLtDestroy", api.destroy);
  find(library, "cublasLtGetStatusString", api.status_string);
  find(library, "cublasLtMatmulDescCreate", api.matmul_desc_create);
  find(library, "cublasLtMatmulDescDestroy", api.matmul_desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", api.matmul_desc_set_attribute);
  find(library, "cublasLtMatrixLayoutCreate", api.matrix_layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", api.matrix_layout_destroy);
  find(library, "cublasLtMatmulPreferenceCreate", api.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set_attribute);
  find(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  find(library, "cublasLtMatmul", api.matmul);
  return api;
}

}  // namespace

const CublasLtApi& cublas_lt_library() {
  static const CublasLtApi api = load();
  return api;
}

}  // namespace dino::cuda
