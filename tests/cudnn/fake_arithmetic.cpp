// What a graph of the fake computes, in double with a rounding at each tensor.
#include "kernels/common/array.h"
#include "tests/cudnn/fake_descriptor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace dino::test {
namespace {

/// The position of the element that is the `i`-th in the order of `extents`, with extents of 1 repeated.
std::int64_t offset_of(std::int64_t i, const Extents& extents, const Extents& own, const Extents& strides) {
  std::int64_t offset = 0;
  for (std::size_t d = extents.size(); d-- > 0;) {
    const std::int64_t at = i % extents[d];
    i /= extents[d];
    if (own[d] != 1) offset += at * strides[d];
  }
  return offset;
}
Extents row_major(const Extents& extents) {
  Extents strides(extents.size(), 1);
  for (std::size_t d = extents.size(); d-- > 1;) strides[d - 1] = strides[d] * extents[d];
  return strides;
}

double rounded(double value, bool half) {
  const auto single = static_cast<float>(value);
  return half ? static_cast<double>(static_cast<float>(BFloat16(single))) : static_cast<double>(single);
}

/// One execution of a graph.
class Run {
 public:
  Run(const FakeDescriptor& graph, std::map<std::int64_t, void*> addresses) : addresses_(std::move(addresses)) {
    const auto ops = graph.all<const FakeDescriptor*>(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    std::set<std::int64_t> ids;
    for (const FakeDescriptor* op : ops) {
      const Ends ends = ends_of(*op);
      for (const auto* list : {&ends.in, &ends.out}) {
        for (const FakeDescriptor* tensor : *list) {
          if (!tensor->is_virtual()) ids.insert(tensor->id());
        }
      }
    }
    for (const std::int64_t id : ids) demand(addresses_.count(id) > 0, "tensor {} has no address", id);
    demand(addresses_.size() == ids.size(), "{} addresses for {} tensors", addresses_.size(), ids.size());
    for (const FakeDescriptor* op : ops) execute(*op);
  }

 private:
  using Values = std::vector<double>;  // row-major

  const Values& read(const FakeDescriptor& tensor) {
    const auto at = values_.find(tensor.id());
    if (at != values_.end()) return at->second;
    demand(!tensor.is_virtual(), "a value is not there");
    const Extents extents = tensor.extents(), strides = tensor.strides();
    const void* data = addresses_.at(tensor.id());
    Values values(static_cast<std::size_t>(size_of(extents)));
    for (std::int64_t i = 0; i < size_of(extents); ++i) {
      const std::int64_t offset = tensor.is_number() ? 0 : offset_of(i, extents, extents, strides);
      values[static_cast<std::size_t>(i)] =
          tensor.is_half() ? static_cast<double>(static_cast<float>(static_cast<const BFloat16*>(data)[offset]))
                           : static_cast<double>(static_cast<const float*>(data)[offset]);
    }
    return values_[tensor.id()] = values;
  }

  void write(const FakeDescriptor& tensor, Values values) {
    const Extents extents = tensor.extents(), strides = tensor.strides();
    for (double& value : values) value = rounded(value, tensor.is_half());
    if (!tensor.is_virtual()) {
      void* data = addresses_.at(tensor.id());
      demand(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "an address is not aligned");
      for (std::int64_t i = 0; i < size_of(extents); ++i) {
        const std::int64_t offset = offset_of(i, extents, extents, strides);
        const auto value = static_cast<float>(values[static_cast<std::size_t>(i)] * (1 + fake_cudnn().wrong_by));
        if (tensor.is_half()) static_cast<BFloat16*>(data)[offset] = BFloat16(value);
        if (!tensor.is_half()) static_cast<float*>(data)[offset] = value;
      }
    }
    values_[tensor.id()] = std::move(values);
  }

  void matmul(const FakeDescriptor& a, const FakeDescriptor& b, const FakeDescriptor& c) {
    const Values &left = read(a), &right = read(b);
    const Extents extents = c.extents();
    const std::int64_t m = extents[2], n = extents[3], k = a.extents()[3];
    // Blocks of keys are added to a sum over queries that lies in memory.
    Values sums = c.is_virtual() || c.is_half() ? Values(static_cast<std::size_t>(size_of(extents))) : read(c);
    for (std::int64_t batch = 0; batch < extents[0] * extents[1]; ++batch) {
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t l = 0; l < k; ++l) {
          const double factor = left[static_cast<std::size_t>((batch * m + i) * k + l)];
          for (std::int64_t j = 0; j < n; ++j) {
            sums[static_cast<std::size_t>((batch * m + i) * n + j)] +=
                factor * right[static_cast<std::size_t>((batch * k + l) * n + j)];
          }
        }
      }
    }
    write(c, std::move(sums));
  }

  static double apply(int mode, double x, double b) {
    switch (mode) {
      case CUDNN_POINTWISE_ADD: return x + b;
      case CUDNN_POINTWISE_SUB: return x - b;
      case CUDNN_POINTWISE_MUL: return x * b;
      case CUDNN_POINTWISE_DIV: return x / b;
      case CUDNN_POINTWISE_EXP: return std::exp(x);
      case CUDNN_POINTWISE_LOG: return std::log(x);
      case CUDNN_POINTWISE_IDENTITY: return x;
      default: demand(false, "pointwise mode {}", mode); return 0;
    }
  }

  void pointwise(const FakeDescriptor& op) {
    const FakeDescriptor &x = op.part(CUDNN_ATTR_OPERATION_POINTWISE_XDESC),
                         &y = op.part(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    const int mode = op.part(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR).one<int>(CUDNN_ATTR_POINTWISE_MODE);
    Values values = read(x);
    const FakeDescriptor* b =
        op.has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) ? &op.part(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) : nullptr;
    demand((b == nullptr) ==
               (mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG || mode == CUDNN_POINTWISE_IDENTITY),
           "the number of operands");
    for (std::size_t i = 0; i < values.size(); ++i) {
      double second = 0;
      if (b != nullptr) {
        const Extents own = b->extents();
        second = read(
            *b)[static_cast<std::size_t>(offset_of(static_cast<std::int64_t>(i), y.extents(), own, row_major(own)))];
      }
      values[i] = apply(mode, values[i], second);
    }
    write(y, std::move(values));
  }

  void reduce(const FakeDescriptor& op) {
    const FakeDescriptor &x = op.part(CUDNN_ATTR_OPERATION_REDUCTION_XDESC),
                         &y = op.part(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const int kind = op.part(CUDNN_ATTR_OPERATION_REDUCTION_DESC).one<int>(CUDNN_ATTR_REDUCTION_OPERATOR);
    demand(kind == CUDNN_REDUCE_TENSOR_ADD || kind == CUDNN_REDUCE_TENSOR_MAX, "reduction {}", kind);
    const bool is_sum = kind == CUDNN_REDUCE_TENSOR_ADD;
    const Extents own = y.extents();
    Values values(static_cast<std::size_t>(size_of(own)), is_sum ? 0 : -std::numeric_limits<double>::infinity());
    const Values& from = read(x);
    for (std::size_t i = 0; i < from.size(); ++i) {
      double& to =
          values[static_cast<std::size_t>(offset_of(static_cast<std::int64_t>(i), x.extents(), own, row_major(own)))];
      to = is_sum ? to + from[i] : std::max(to, from[i]);
    }
    write(y, std::move(values));
  }

  /// x in the order of its addresses is y in the order of its own.
  void reshape(const FakeDescriptor& x, const FakeDescriptor& y) {
    const auto by_address = [](const FakeDescriptor& tensor, Extents strides) {
      const Extents extents = tensor.extents();
      std::vector<std::pair<std::int64_t, std::size_t>> order;
      for (std::int64_t i = 0; i < size_of(extents); ++i) {
        order.emplace_back(offset_of(i, extents, extents, strides), static_cast<std::size_t>(i));
      }
      std::sort(order.begin(), order.end());
      return order;
    };
    const Values& from = read(x);
    // A virtual x lies row-major in registers or shared memory.
    const auto x_order = by_address(x, x.is_virtual() ? row_major(x.extents()) : x.strides());
    const auto y_order = by_address(y, y.strides());
    Values values(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) values[y_order[i].second] = from[x_order[i].second];
    write(y, std::move(values));
  }

  void norm(const FakeDescriptor& op) {
    const FakeDescriptor& x = op.part(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC);
    demand(op.one<int>(CUDNN_ATTR_OPERATION_NORM_FWD_MODE) == CUDNN_LAYER_NORM, "another norm");
    const std::int64_t rows = x.extents()[0], width = x.extents()[1];
    const Values &values = read(x), &scale = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC)),
                 &bias = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC));
    const double epsilon = read(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC)).front();
    Values y(values.size()), means, inverses;
    for (std::int64_t r = 0; r < rows; ++r) {
      const double* row = values.data() + r * width;
      double mean = 0, variance = 0;
      for (std::int64_t c = 0; c < width; ++c) mean += row[c] / static_cast<double>(width);
      for (std::int64_t c = 0; c < width; ++c)
        variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(width);
      means.push_back(mean);
      inverses.push_back(1 / std::sqrt(variance + epsilon));
      for (std::int64_t c = 0; c < width; ++c) {
        const auto column = static_cast<std::size_t>(c);
        y[static_cast<std::size_t>(r * width) + column] =
            (row[c] - mean) * inverses.back() * scale[column] + bias[column];
      }
    }
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC), y);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC), means);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC), inverses);
  }

  void norm_backward(const FakeDescriptor& op) {
    const FakeDescriptor& x = op.part(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC);
    const std::int64_t rows = x.extents()[0], width = x.extents()[1];
    const auto count = static_cast<double>(width);
    const Values &values = read(x), &dy = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC)),
                 &scale = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC)),
                 &means = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC)),
                 &inverses = read(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC));
    Values dx(values.size()), dscale(static_cast<std::size_t>(width)), dbias(static_cast<std::size_t>(width));
    for (std::int64_t r = 0; r < rows; ++r) {
      const double mean = means[static_cast<std::size_t>(r)], inverse = inverses[static_cast<std::size_t>(r)];
      double sum = 0, product = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<std::size_t>(r * width + c), column = static_cast<std::size_t>(c);
        const double n = (values[at] - mean) * inverse;
        dscale[column] += dy[at] * n;
        dbias[column] += dy[at];
        sum += dy[at] * scale[column];
        product += dy[at] * scale[column] * n;
      }
      for (std::int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<std::size_t>(r * width + c), column = static_cast<std::size_t>(c);
        const double n = (values[at] - mean) * inverse;
        dx[at] = inverse * (dy[at] * scale[column] - sum / count - n * product / count);
      }
    }
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC), dx);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC), dscale);
    write(op.part(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC), dbias);
  }

  void execute(const FakeDescriptor& op) {
    switch (op.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(op.part(CUDNN_ATTR_OPERATION_MATMUL_ADESC), op.part(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
                      op.part(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: return pointwise(op);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: return reduce(op);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return reshape(op.part(CUDNN_ATTR_OPERATION_RESHAPE_XDESC), op.part(CUDNN_ATTR_OPERATION_RESHAPE_YDESC));
      case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR: return norm(op);
      case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR: return norm_backward(op);
      default: demand(false, "operation {}", static_cast<int>(op.type));
    }
  }

  std::map<std::int64_t, void*> addresses_;
  std::map<std::int64_t, Values> values_;  // by tensor
};

}  // namespace

void run_graph(const FakeDescriptor& graph, std::map<std::int64_t, void*> addresses) {
  Run(graph, std::move(addresses));
}

void softmax_of_rows(const float* x, float* y, int n, int c) {
  for (int r = 0; r < n; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * c;
    float* result = y + static_cast<std::ptrdiff_t>(r) * c;
    const auto largest = static_cast<double>(*std::max_element(row, row + c));
    double sum = 0;
    for (int i = 0; i < c; ++i) sum += std::exp(static_cast<double>(row[i]) - largest);
    for (int i = 0; i < c; ++i) {
      const double p = std::exp(static_cast<double>(row[i]) - largest) / sum;
      result[i] = static_cast<float>(p * (1 + fake_cudnn().wrong_by));
    }
  }
}

}  // namespace dino::test
