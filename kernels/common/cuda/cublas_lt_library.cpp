#include "kernels/common/cuda/cublas_lt_api.h"
#include "kernels/common/cuda/shared_library.h"

namespace dino::cuda {
namespace {

#define DINO_TEXT_OF(x) #x
#define DINO_TEXT(x) DINO_TEXT_OF(x)
constexpr const char* kName = "libcublasLt.so." DINO_TEXT(CUBLAS_VER_MAJOR);

CublasLtApi load() {
  const SharedLibrary library("cuda", kName, "cuBLASLt, which multiplies matrices on the GPU");
  CublasLtApi api{};
  library.find("cublasLtCreate", api.create);
  library.find("cublasLtDestroy", api.destroy);
  library.find("cublasLtGetStatusString", api.status_string);
  library.find("cublasLtMatmulDescCreate", api.matmul_desc_create);
  library.find("cublasLtMatmulDescDestroy", api.matmul_desc_destroy);
  library.find("cublasLtMatmulDescSetAttribute", api.matmul_desc_set_attribute);
  library.find("cublasLtMatrixLayoutCreate", api.matrix_layout_create);
  library.find("cublasLtMatrixLayoutDestroy", api.matrix_layout_destroy);
  library.find("cublasLtMatmulPreferenceCreate", api.preference_create);
  library.find("cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  library.find("cublasLtMatmulPreferenceSetAttribute", api.preference_set_attribute);
  library.find("cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  library.find("cublasLtMatmul", api.matmul);
  return api;
}

}  // namespace

const CublasLtApi& cublas_lt_library() {
  static const CublasLtApi api = load();
  return api;
}

}  // namespace dino::cuda
