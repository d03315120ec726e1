#include "kernels/common/cuda/cublas_lt.h"

#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cublas_lt_api.h"

#include <map>

namespace dino::cuda {
namespace {

void check(const CublasLtApi& api, cublasStatus_t status, const char* call, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail_call(call, __FILE__, line, api.status_string(status));
}
#define DINO_CUBLAS(api, function, ...) check(api, (api).function(__VA_ARGS__), "cublasLt " #function, __LINE__)

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::float32: return CUDA_R_32F;
    case DType::bfloat16: return CUDA_R_16BF;
    default: fail("matmul", "unsupported element type; got {}, expected float32 or bfloat16", name_of(dtype));
  }
}

/// A descriptor of cuBLASLt's. Handle: a pointer type of its.
template <typename Handle>
class Descriptor {
 public:
  using Destroy = cublasStatus_t (*)(Handle);
  explicit Descriptor(Destroy destroy) : destroy_(destroy) {}
  ~Descriptor() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Handle get() const { return handle_; }
  Handle* out() { return &handle_; }

 private:
  Handle handle_ = nullptr;
  Destroy destroy_;
};

}  // namespace

/// cuBLASLt's matrices are column-major, and a row-major matrix is the column-major one of its transpose. So it is
/// asked for yᵀ = op(b)ᵀ·op(a)ᵀ: b comes first, M and N change places, and a matrix is transposed for cuBLASLt exactly
/// where it is transposed here. The bias of cuBLASLt runs along its rows, which are the columns of y.
class CublasLt::Plan {
 public:
  Plan(const CublasLtApi& api, cublasLtHandle_t handle, const CublasLtProduct& product)
      : api_(api),
        operation_(api_.matmul_desc_destroy),
        a_(api_.matrix_layout_destroy),
        b_(api_.matrix_layout_destroy),
        y_(api_.matrix_layout_destroy) {
    // Not CUBLAS_COMPUTE_32F_FAST_TF32: fp32 products are fp32.
    DINO_CUBLAS(api_, matmul_desc_create, operation_.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F);
    set(CUBLASLT_MATMUL_DESC_TRANSA, product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    // Its GELU is the tanh approximation, so kernels/gelu does that; the bias is the only epilogue.
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, product.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
    if (product.bias) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(cuda_type(product.result)));
      set_bias(reinterpret_cast<const void*>(std::uintptr_t{kAlignment}));  // the heuristic reads off its alignment
    }
    make_layout(b_, product.operands, product.transpose_b ? product.n : product.k,
                product.transpose_b ? product.k : product.n);
    make_layout(a_, product.operands, product.transpose_a ? product.k : product.m,
                product.transpose_a ? product.m : product.k);
    make_layout(y_, product.result, product.m, product.n);
    choose(handle, product);
  }

  bool supported() const { return supported_; }

  void run(cublasLtHandle_t handle, void* workspace, const CublasLtPointers& pointers, bool accumulate, void* stream) {
    const float alpha = 1;
    const float beta = accumulate ? 1 : 0;
    if (pointers.bias != nullptr) set_bias(pointers.bias);
    DINO_CUBLAS(api_, matmul, handle, operation_.get(), &alpha, pointers.b, b_.get(), pointers.a, a_.get(), &beta,
                pointers.y, y_.get(), pointers.y, y_.get(), &algorithm_, workspace, kWorkspaceBytes,
                static_cast<cudaStream_t>(stream));
  }

 private:
  using Layout = Descriptor<cublasLtMatrixLayout_t>;

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    DINO_CUBLAS(api_, matmul_desc_set_attribute, operation_.get(), attribute, &value, sizeof(value));
  }
  void set_bias(const void* bias) { set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

  /// A dense row-major matrix of `rows` by `columns`, as the column-major one of its transpose.
  void make_layout(Layout& layout, DType dtype, std::int64_t rows, std::int64_t columns) {
    DINO_CUBLAS(api_, matrix_layout_create, layout.out(), cuda_type(dtype), static_cast<std::uint64_t>(columns),
                static_cast<std::uint64_t>(rows), columns);
  }

  /// Takes the kernel that the library's heuristic puts first.
  void choose(cublasLtHandle_t handle, const CublasLtProduct& product) {
    Descriptor<cublasLtMatmulPreference_t> preference(api_.preference_destroy);
    DINO_CUBLAS(api_, preference_create, preference.out());
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      DINO_CUBLAS(api_, preference_set_attribute, preference.get(), attribute, &value, sizeof(value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
    // Parts of a sum over K are added in fp32 and in a fixed order: neither in bf16 nor in place.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{product.b_alignment});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t{product.a_alignment});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::uint32_t{product.y_alignment});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::uint32_t{product.y_alignment});

    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = api_.heuristic(handle, operation_.get(), b_.get(), a_.get(), y_.get(), y_.get(),
                                                 preference.get(), 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return;
    check(api_, status, "cublasLt heuristic", __LINE__);
    supported_ = found > 0 && result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
    algorithm_ = result.algo;
  }

  const CublasLtApi& api_;
  Descriptor<cublasLtMatmulDesc_t> operation_;
  Layout a_, b_, y_;
  cublasLtMatmulAlgo_t algorithm_{};
  bool supported_ = false;
};

struct CublasLt::State {
  State(const CublasLtApi& api_, void* workspace_) : api(api_), handle(api_.destroy), workspace(workspace_) {}

  const CublasLtApi& api;
  Descriptor<cublasLtHandle_t> handle;
  void* workspace;
  std::map<CublasLtProduct, Plan> plans;
};

CublasLt::CublasLt(const CublasLtApi& api, void* workspace) : state_(std::make_unique<State>(api, workspace)) {
  DINO_CUBLAS(api, create, state_->handle.out());
}

CublasLt::~CublasLt() = default;

CublasLt::Plan& CublasLt::plan(const CublasLtProduct& product) {
  // Training has a handful of shapes; evaluation of pictures of many sizes has more.
  constexpr std::size_t kMostPlans = 1024;
  const auto at = state_->plans.find(product);
  if (at != state_->plans.end()) return at->second;
  if (state_->plans.size() >= kMostPlans) state_->plans.clear();
  return state_->plans.try_emplace(product, state_->api, state_->handle.get(), product).first->second;
}

bool CublasLt::supports(const CublasLtProduct& product) { return plan(product).supported(); }

void CublasLt::run(const CublasLtProduct& product, const CublasLtPointers& pointers, bool accumulate, void* stream) {
  plan(product).run(state_->handle.get(), state_->workspace, pointers, accumulate, stream);
}

CublasLt& cublas_lt_of(Stream& stream) {
  auto* owner = dynamic_cast<CublasLtOwner*>(&stream);
  require(owner != nullptr, "matmul", "the stream has no cuBLASLt handle: it is not on a GPU");
  return owner->cublas_lt();
}

}  // namespace dino::cuda
