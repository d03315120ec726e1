#include "kernels/matmul/onednn_matmul.h"

#include "kernels/common/error.h"
#include "kernels/common/out_of_memory.h"

#include <sys/mman.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <map>
#include <string_view>
#include <unordered_map>

namespace dino::cpu {
namespace {

dnnl::memory::data_type onednn_type(DType dtype) {
  switch (dtype) {
    case DType::float32: return dnnl::memory::data_type::f32;
    case DType::bfloat16: return dnnl::memory::data_type::bf16;
    default: fail("matmul", "unsupported element type; got {}, expected float32 or bfloat16", name_of(dtype));
  }
}

/// (rows, columns) as the product sees them; stored row-major, or the other way round when transposed.
dnnl::memory::desc matrix(std::int64_t rows, std::int64_t columns, DType dtype, bool transposed) {
  const dnnl::memory::dims strides = transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{columns, 1};
  return {{rows, columns}, onednn_type(dtype), strides};
}

/// oneDNN crashes where it cannot map memory for the code that it compiles. Throws OutOfMemory before it tries.
void require_room_for_code() {
  constexpr std::size_t kRoom_bytes = std::size_t{16} << 20;  // for all kernels of one product
  void* room = mmap(nullptr, kRoom_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) throw OutOfMemory(kRoom_bytes);
  munmap(room, kRoom_bytes);
}

/// A primitive with its memory objects, made once, so that a call only sets addresses.
class Primitive {
 public:
  Primitive(const OnednnProduct& product, const dnnl::engine& engine) {
    require_room_for_code();
    const auto a = matrix(product.m, product.k, product.operands, product.transpose_a);
    const auto b = matrix(product.k, product.n, product.operands, product.transpose_b);
    const auto y = matrix(product.m, product.n, product.result, false);
    const auto bias = product.bias ? matrix(1, product.n, DType::float32, false) : dnnl::memory::desc();
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (product.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0F);
      attributes.set_post_ops(sum);
    }
    constexpr bool kAllowEmpty = true;
#if DNNL_VERSION_MAJOR >= 3
    const auto description = product.bias ? dnnl::matmul::primitive_desc(engine, a, b, bias, y, attributes, kAllowEmpty)
                                          : dnnl::matmul::primitive_desc(engine, a, b, y, attributes, kAllowEmpty);
#else
    const auto operation = product.bias ? dnnl::matmul::desc(a, b, bias, y) : dnnl::matmul::desc(a, b, y);
    const dnnl::matmul::primitive_desc description(operation, attributes, engine, kAllowEmpty);
#endif
    if (!description || std::string_view(description.impl_info_str()).starts_with("ref")) return;
    primitive_ = dnnl::matmul(description);
    supported_ = true;
    scratch_bytes_ = description.scratchpad_desc().get_size();
    arguments_ = {{DNNL_ARG_SRC, {a, engine, nullptr}},
                  {DNNL_ARG_WEIGHTS, {b, engine, nullptr}},
                  {DNNL_ARG_DST, {y, engine, nullptr}},
                  {DNNL_ARG_SCRATCHPAD, {description.scratchpad_desc(), engine, nullptr}}};
    if (product.bias) arguments_[DNNL_ARG_BIAS] = dnnl::memory(bias, engine, nullptr);
  }

  bool supported() const { return supported_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  void run(const OnednnPointers& pointers, dnnl::stream& stream) {
    arguments_[DNNL_ARG_SRC].set_data_handle(const_cast<void*>(pointers.a));
    arguments_[DNNL_ARG_WEIGHTS].set_data_handle(const_cast<void*>(pointers.b));
    arguments_[DNNL_ARG_DST].set_data_handle(pointers.y);
    arguments_[DNNL_ARG_SCRATCHPAD].set_data_handle(pointers.scratch);
    const auto bias = arguments_.find(DNNL_ARG_BIAS);
    if (bias != arguments_.end()) bias->second.set_data_handle(const_cast<void*>(pointers.bias));
    primitive_.execute(stream, arguments_);
  }

 private:
  dnnl::matmul primitive_;
  bool supported_ = false;
  std::size_t scratch_bytes_ = 0;
  std::unordered_map<int, dnnl::memory> arguments_;
};

/// What a thread that drives a device keeps: training has a handful of shapes, evaluation of pictures of many sizes has
/// more.
struct Cache {
  static constexpr std::size_t kMostPrimitives = 1024;

  Primitive& operator[](const OnednnProduct& product) {
    const auto at = primitives.find(product);
    if (at != primitives.end()) return at->second;
    if (primitives.size() >= kMostPrimitives) primitives.clear();
    return primitives.emplace(product, Primitive(product, engine)).first->second;
  }

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<OnednnProduct, Primitive> primitives;
};

Cache& cache() {
  thread_local Cache cache;
  return cache;
}

/// Runs `function`, turning oneDNN's exceptions into ours.
template <typename Function>
auto translating_errors(const OnednnProduct& product, Function&& function) {
  try {
    return function();
  } catch (const dnnl::error& error) {
    fail("matmul", "oneDNN failed on a {} product ({}, {}) x ({}, {}): {}", name_of(product.operands), product.m,
         product.k, product.k, product.n, error.what());
  }
}

}  // namespace

bool multiplies_bf16_faster() {
  // The library also respects what the user has forbidden it (DNNL_MAX_CPU_ISA).
  static const bool faster = [] {
    const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto has = [isa](dnnl::cpu_isa wanted) {
      const auto bits = static_cast<unsigned>(wanted);
      return (isa & bits) == bits;
    };
    return has(dnnl::cpu_isa::avx512_core_amx) || (has(dnnl::cpu_isa::avx512_core_bf16) && !__builtin_cpu_is("intel"));
  }();
  return faster;
}

bool onednn_supports(const OnednnProduct& product) {
  return translating_errors(product, [&] { return cache()[product].supported(); });
}

std::size_t onednn_scratch_bytes(const OnednnProduct& product) {
  return translating_errors(product, [&] { return cache()[product].scratch_bytes(); });
}

void onednn_run(const OnednnProduct& product, const OnednnPointers& pointers) {
  translating_errors(product, [&] { cache()[product].run(pointers, cache().stream); });
}

}  // namespace dino::cpu
