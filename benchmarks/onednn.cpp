#include "benchmarks/onednn.h"

#include "kernels/common/error.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <memory>
#include <unordered_map>

namespace dino::bench::onednn {
namespace {

using dnnl::memory;

struct Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};
Library& library() {
  static Library library;
  return library;
}

memory::data_type type_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return memory::data_type::f32;
    case DType::bfloat16: return memory::data_type::bf16;
    default: fail("bench", "oneDNN is not asked for {}", name_of(dtype));
  }
}

/// Row-major; (R, C) stored as (C, R) where transposed.
memory::desc description(const Array& array, bool transposed = false) {
  const auto extents = array.shape().extents();
  memory::dims dims(extents.begin(), extents.end()), strides(dims.size());
  std::int64_t stride = 1;
  for (std::size_t i = dims.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  if (transposed) {
    std::swap(dims[0], dims[1]);
    std::swap(strides[0], strides[1]);
  }
  return {dims, type_of(array.dtype()), strides};
}

memory bind(const memory::desc& desc, const Array& array) { return {desc, library().engine, array.data()}; }
memory bind(const Array& array) { return bind(description(array), array); }

using Arguments = std::unordered_map<int, memory>;

Call call_of(const dnnl::primitive& primitive, const Arguments& arguments) {
  return [primitive, arguments] {
    primitive.execute(library().stream, arguments);
    library().stream.wait();
  };
}

// oneDNN 3 has no operation descriptors: a primitive's description takes their arguments, with the destinations.
constexpr auto kForward = dnnl::prop_kind::forward_training;
const auto kScaleAndShift = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;

auto layer_norm_description(const Array& x, double eps) {
  const memory::desc desc = description(x);
  const auto eps32 = static_cast<float>(eps);
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::layer_normalization_forward::primitive_desc(library().engine, kForward, desc, desc, eps32,
                                                           kScaleAndShift);
#else
  return dnnl::layer_normalization_forward::primitive_desc({kForward, desc, eps32, kScaleAndShift}, library().engine);
#endif
}

auto gelu_description(const Array& x) {
  const memory::desc desc = description(x);
  constexpr auto kGelu = dnnl::algorithm::eltwise_gelu_erf;
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::eltwise_forward::primitive_desc(library().engine, kForward, kGelu, desc, desc, 0.0F, 0.0F);
#else
  return dnnl::eltwise_forward::primitive_desc({kForward, kGelu, desc, 0.0F, 0.0F}, library().engine);
#endif
}

}  // namespace

Call add(const Array& a, const Array& b, const Array& y) {
  constexpr auto kAdd = dnnl::algorithm::binary_add;
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::binary::primitive_desc desc(library().engine, kAdd, description(a), description(b), description(y));
#else
  const dnnl::binary::primitive_desc desc({kAdd, description(a), description(b), description(y)}, library().engine);
#endif
  return call_of(dnnl::binary(desc), {{DNNL_ARG_SRC_0, bind(a)}, {DNNL_ARG_SRC_1, bind(b)}, {DNNL_ARG_DST, bind(y)}});
}

Call layer_norm(const Array& x, const Array& gamma, const Array& beta, double eps, const Array& y, const Array& mean,
                const Array& variance) {
  return call_of(dnnl::layer_normalization_forward(layer_norm_description(x, eps)),
                 {{DNNL_ARG_SRC, bind(x)},
                  {DNNL_ARG_DST, bind(y)},
                  {DNNL_ARG_SCALE, bind(gamma)},
                  {DNNL_ARG_SHIFT, bind(beta)},
                  {DNNL_ARG_MEAN, bind(mean)},
                  {DNNL_ARG_VARIANCE, bind(variance)}});
}

Call layer_norm_backward(const Array& x, const Array& dy, const Array& gamma, double eps, const Array& mean,
                         const Array& variance, const Array& dx, const Array& dgamma, const Array& dbeta) {
  const memory::desc desc = description(x);
  const auto eps32 = static_cast<float>(eps);
  constexpr auto kBackward = dnnl::prop_kind::backward;
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::layer_normalization_backward::primitive_desc backward(
      library().engine, kBackward, desc, desc, desc, eps32, kScaleAndShift, layer_norm_description(x, eps));
#else
  const dnnl::layer_normalization_backward::primitive_desc backward({kBackward, desc, desc, eps32, kScaleAndShift},
                                                                    library().engine, layer_norm_description(x, eps));
#endif
  return call_of(dnnl::layer_normalization_backward(backward),
                 {{DNNL_ARG_SRC, bind(x)},
                  {DNNL_ARG_DIFF_DST, bind(dy)},
                  {DNNL_ARG_SCALE, bind(gamma)},
                  {DNNL_ARG_SHIFT, bind(gamma)},  // unused, but oneDNN 2 insists
                  {DNNL_ARG_MEAN, bind(mean)},
                  {DNNL_ARG_VARIANCE, bind(variance)},
                  {DNNL_ARG_DIFF_SRC, bind(dx)},
                  {DNNL_ARG_DIFF_SCALE, bind(dgamma)},
                  {DNNL_ARG_DIFF_SHIFT, bind(dbeta)}});
}

Call gelu(const Array& x, const Array& y) {
  return call_of(dnnl::eltwise_forward(gelu_description(x)), {{DNNL_ARG_SRC, bind(x)}, {DNNL_ARG_DST, bind(y)}});
}

Call gelu_backward(const Array& x, const Array& dy, const Array& dx) {
  const memory::desc desc = description(x);
  constexpr auto kGelu = dnnl::algorithm::eltwise_gelu_erf;
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::eltwise_backward::primitive_desc backward(library().engine, kGelu, desc, desc, desc, 0.0F, 0.0F,
                                                        gelu_description(x));
#else
  const dnnl::eltwise_backward::primitive_desc backward({kGelu, desc, desc, 0.0F, 0.0F}, library().engine,
                                                        gelu_description(x));
#endif
  return call_of(dnnl::eltwise_backward(backward),
                 {{DNNL_ARG_SRC, bind(x)}, {DNNL_ARG_DIFF_DST, bind(dy)}, {DNNL_ARG_DIFF_SRC, bind(dx)}});
}

Call matmul(const Array& a, bool transpose_a, const Array& b, bool transpose_b, const Array& bias, const Array& y) {
  const memory::desc a_desc = description(a, transpose_a), b_desc = description(b, transpose_b);
  const memory::desc y_desc = description(y);
  const memory::desc bias_desc = bias ? description(bias.reshaped({1, bias.size()})) : memory::desc();
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc desc =
      bias ? dnnl::matmul::primitive_desc(library().engine, a_desc, b_desc, bias_desc, y_desc)
           : dnnl::matmul::primitive_desc(library().engine, a_desc, b_desc, y_desc);
#else
  const dnnl::matmul::primitive_desc desc(
      bias ? dnnl::matmul::desc(a_desc, b_desc, bias_desc, y_desc) : dnnl::matmul::desc(a_desc, b_desc, y_desc),
      library().engine);
#endif
  Arguments arguments{{DNNL_ARG_SRC, bind(a_desc, a)}, {DNNL_ARG_WEIGHTS, bind(b_desc, b)}, {DNNL_ARG_DST, bind(y)}};
  if (bias) arguments[DNNL_ARG_BIAS] = bind(bias_desc, bias);
  return call_of(dnnl::matmul(desc), arguments);
}

Call column_sum(const Array& x, const Array& y) {
  constexpr auto kSum = dnnl::algorithm::reduction_sum;
  const Array row = y.reshaped({1, y.size()});
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::reduction::primitive_desc desc(library().engine, kSum, description(x), description(row), 0.0F, 0.0F);
#else
  const dnnl::reduction::primitive_desc desc({kSum, description(x), description(row), 0.0F, 0.0F}, library().engine);
#endif
  return call_of(dnnl::reduction(desc), {{DNNL_ARG_SRC, bind(x)}, {DNNL_ARG_DST, bind(row)}});
}

Call reorder(const Array& x, const Array& y) {
  const memory from = bind(x), to = bind(y);
  return call_of(dnnl::reorder(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

}  // namespace dino::bench::onednn
