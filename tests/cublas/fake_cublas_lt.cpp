#include "tests/cublas/fake_cublas_lt.h"

#include "kernels/common/cuda/cublas_lt_api.h"
#include "kernels/common/dtype.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace dino::test {
namespace {

constexpr const char* kWhere = "fake cuBLASLt";
int products = 0;
FakeCublasRunner run_product = [](void*, const std::function<void()>& product) { product(); };

struct Operation : cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute{};
  cudaDataType_t scale{};
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int32_t bias_type = -1;  // D's
};
struct Layout : cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type{};
  std::int64_t rows = 0, columns = 0, leading = 0;
};
struct Preference : cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};
/// What a chosen algorithm relies on; in cublasLtMatmulAlgo_t::data.
struct Choice {
  std::uint64_t magic;
  std::uint32_t alignment[4];
  std::uint64_t workspace_bytes;
};
constexpr std::uint64_t kMagic = 0xa160717431;
static_assert(sizeof(Choice) <= sizeof(cublasLtMatmulAlgo_t::data));

template <typename T>
void take(T& to, const void* from, std::size_t size_bytes) {
  require(from != nullptr && size_bytes == sizeof(T), kWhere, "an attribute has {} bytes; got {}", sizeof(T),
          size_bytes);
  std::memcpy(&to, from, sizeof(T));
}

bool is_multiple(const void* address, std::uint32_t alignment) {
  return reinterpret_cast<std::uintptr_t>(address) % alignment == 0;
}

cublasStatus_t create(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t destroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* status_string(cublasStatus_t) { return "an error of the fake"; }

cublasStatus_t operation_create(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute, cudaDataType_t scale) {
  auto* made = new Operation;
  made->compute = compute;
  made->scale = scale;
  *operation = made;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t operation_destroy(cublasLtMatmulDesc_t operation) {
  delete static_cast<Operation*>(operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t operation_set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void* from,
                             std::size_t size_bytes) {
  auto& to = *static_cast<Operation*>(operation);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: take(to.transpose_a, from, size_bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: take(to.transpose_b, from, size_bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: take(to.epilogue, from, size_bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: take(to.bias, from, size_bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: take(to.bias_type, from, size_bytes); break;
    default: fail(kWhere, "unknown attribute of an operation; got {}", static_cast<int>(attribute));
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t layout_create(cublasLtMatrixLayout_t* layout, cudaDataType_t type, std::uint64_t rows,
                             std::uint64_t columns, std::int64_t leading) {
  auto* made = new Layout;
  made->type = type;
  made->rows = static_cast<std::int64_t>(rows);
  made->columns = static_cast<std::int64_t>(columns);
  made->leading = leading;
  *layout = made;
  require(leading >= made->rows, kWhere, "the leading dimension must cover the rows; got {} and {}", leading, rows);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t layout_destroy(cublasLtMatrixLayout_t layout) {
  delete static_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t preference_create(cublasLtMatmulPreference_t* preference) {
  *preference = new Preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_destroy(cublasLtMatmulPreference_t preference) {
  delete static_cast<Preference*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                              const void* from, std::size_t size_bytes) {
  auto& to = *static_cast<Preference*>(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: take(to.workspace, from, size_bytes); break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: take(to.reductions, from, size_bytes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: take(to.alignment[0], from, size_bytes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: take(to.alignment[1], from, size_bytes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: take(to.alignment[2], from, size_bytes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: take(to.alignment[3], from, size_bytes); break;
    default: fail(kWhere, "unknown attribute of a preference; got {}", static_cast<int>(attribute));
  }
  return CUBLAS_STATUS_SUCCESS;
}

struct Size {
  std::int64_t m, n, k;
};

/// The product's extents, after every check that the documentation names.
Size size_of_product(const Operation& operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool ta = operation.transpose_a == CUBLAS_OP_T;
  const bool tb = operation.transpose_b == CUBLAS_OP_T;
  const Size size{ta ? a.columns : a.rows, tb ? b.rows : b.columns, ta ? a.rows : a.columns};
  require((tb ? b.columns : b.rows) == size.k, kWhere, "A and B have different inner dimensions");
  require(d.rows == size.m && d.columns == size.n && c.rows == size.m && c.columns == size.n, kWhere,
          "C and D must be {} by {}; got {} by {} and {} by {}", size.m, size.n, c.rows, c.columns, d.rows, d.columns);
  require(operation.compute == CUBLAS_COMPUTE_32F && operation.scale == CUDA_R_32F, kWhere, "not a product in fp32");
  const bool fp32 = a.type == CUDA_R_32F && d.type == CUDA_R_32F;
  const bool bf16 = a.type == CUDA_R_16BF && (d.type == CUDA_R_16BF || d.type == CUDA_R_32F);
  require(a.type == b.type && c.type == d.type && (fp32 || bf16), kWhere, "types that do not go together");
  require(operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT || operation.epilogue == CUBLASLT_EPILOGUE_BIAS, kWhere,
          "an epilogue that is not the exact one; got {}", operation.epilogue);
  if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    require(operation.bias_type == -1 || operation.bias_type == d.type, kWhere, "the bias must have D's type");
  }
  return size;
}

cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation_, cublasLtMatrixLayout_t a_,
                         cublasLtMatrixLayout_t b_, cublasLtMatrixLayout_t c_, cublasLtMatrixLayout_t d_,
                         cublasLtMatmulPreference_t preference_, int wanted, cublasLtMatmulHeuristicResult_t results[],
                         int* found) {
  const auto& operation = *static_cast<Operation*>(operation_);
  const auto& preference = *static_cast<Preference*>(preference_);
  const auto& a = *static_cast<Layout*>(a_);
  size_of_product(operation, a, *static_cast<Layout*>(b_), *static_cast<Layout*>(c_), *static_cast<Layout*>(d_));
  require(wanted > 0, kWhere, "no results are wanted");
  require((preference.reductions & ~std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}) == 0, kWhere,
          "a sum in parts may be rounded to the result's type or added in any order");
  *found = 0;
  const std::uint32_t least = *std::min_element(std::begin(preference.alignment), std::end(preference.alignment));
  if (a.type == CUDA_R_16BF && least < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
  Choice choice{.magic = kMagic, .alignment = {}, .workspace_bytes = preference.workspace};
  std::copy(std::begin(preference.alignment), std::end(preference.alignment), choice.alignment);
  std::memcpy(results[0].algo.data, &choice, sizeof(choice));
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].workspaceSize = preference.workspace;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

float load(const void* data, cudaDataType_t type, std::int64_t i) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[i]
                            : static_cast<float>(static_cast<const BFloat16*>(data)[i]);
}

struct Matrices {
  const void* a;
  const void* b;
  const void* c;
  void* d;
  Layout a_layout, b_layout, c_layout, d_layout;
};

/// Outer products, column of D by column: nothing like the kernel's order, and quick enough.
void compute(const Operation& operation, const Size& size, float alpha, float beta, const Matrices& matrices) {
  const auto& [a, b, c, d, la, lb, lc, ld] = matrices;
  std::vector<float> column(static_cast<std::size_t>(size.m));
  const bool ta = operation.transpose_a == CUBLAS_OP_T;
  const bool tb = operation.transpose_b == CUBLAS_OP_T;
  const bool has_bias = operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
  for (std::int64_t j = 0; j < size.n; ++j) {
    std::fill(column.begin(), column.end(), 0.0F);
    for (std::int64_t l = 0; l < size.k; ++l) {
      const float factor = load(b, lb.type, tb ? j + l * lb.leading : l + j * lb.leading);
      for (std::int64_t i = 0; i < size.m; ++i) {
        const float element = load(a, la.type, ta ? l + i * la.leading : i + l * la.leading);
        column[static_cast<std::size_t>(i)] += element * factor;
      }
    }
    for (std::int64_t i = 0; i < size.m; ++i) {
      const std::int64_t at = i + j * ld.leading;
      float value = alpha * column[static_cast<std::size_t>(i)];
      if (beta != 0) value += beta * load(c, lc.type, at);  // C is not read, NaN and all, where beta is zero
      if (has_bias) value += load(operation.bias, ld.type, i);
      if (ld.type == CUDA_R_32F) {
        static_cast<float*>(d)[at] = value;
      } else {
        static_cast<BFloat16*>(d)[at] = BFloat16(value);
      }
    }
  }
}

cublasStatus_t matmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation_, const void* alpha_, const void* a,
                      cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                      const void* beta_, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                      cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                      std::size_t workspace_bytes, cudaStream_t stream) {
  const auto& operation = *static_cast<Operation*>(operation_);
  const Matrices matrices{a,
                          b,
                          c,
                          d,
                          *static_cast<Layout*>(a_layout),
                          *static_cast<Layout*>(b_layout),
                          *static_cast<Layout*>(c_layout),
                          *static_cast<Layout*>(d_layout)};
  const Size size =
      size_of_product(operation, matrices.a_layout, matrices.b_layout, matrices.c_layout, matrices.d_layout);
  require(algorithm != nullptr, kWhere, "no algorithm");
  Choice choice;
  std::memcpy(&choice, algorithm->data, sizeof(choice));
  require(choice.magic == kMagic, kWhere, "the algorithm was not chosen by the heuristic");
  const void* addresses[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    require(is_multiple(addresses[i], choice.alignment[i]), kWhere, "matrix {} is less aligned than was promised", i);
  }
  require(workspace != nullptr && is_multiple(workspace, 256), kWhere, "no workspace, or not aligned");
  require(workspace_bytes >= choice.workspace_bytes, kWhere, "the workspace is smaller than was promised");
  const float alpha = *static_cast<const float*>(alpha_);
  const float beta = *static_cast<const float*>(beta_);
  require(c == d && matrices.c_layout.leading == matrices.d_layout.leading, kWhere, "C and D differ");
  if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    // No preference speaks of the bias: kernels take it for one of 16 bytes.
    require(operation.bias != nullptr && is_multiple(operation.bias, 16), kWhere, "the bias is at no multiple of 16");
  }
  run_product(stream, [=] {
    std::memset(workspace, 0xff, std::min<std::size_t>(workspace_bytes, 4096));
    compute(operation, size, alpha, beta, matrices);
  });
  ++products;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const cuda::CublasLtApi& fake_cublas_lt() {
  static const cuda::CublasLtApi api{.create = create,
                                     .destroy = destroy,
                                     .status_string = status_string,
                                     .matmul_desc_create = operation_create,
                                     .matmul_desc_destroy = operation_destroy,
                                     .matmul_desc_set_attribute = operation_set,
                                     .matrix_layout_create = layout_create,
                                     .matrix_layout_destroy = layout_destroy,
                                     .preference_create = preference_create,
                                     .preference_destroy = preference_destroy,
                                     .preference_set_attribute = preference_set,
                                     .heuristic = heuristic,
                                     .matmul = matmul};
  return api;
}

int fake_cublas_lt_products() { return products; }

void run_fake_products_by(FakeCublasRunner runner) { run_product = std::move(runner); }

}  // namespace dino::test
