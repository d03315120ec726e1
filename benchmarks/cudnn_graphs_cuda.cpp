#include "benchmarks/cudnn_graphs.h"

#include <cmath>

namespace dino::bench::cudnn {
namespace {

constexpr DType kHalf = DType::bfloat16;
constexpr DType kSingle = DType::float32;

/// Adds tensors of heads to a graph.
class HeadTensors {
 public:
  HeadTensors(Graph& graph, const Attention& a) : graph_(graph), a_(a) {}

  Graph::Tensor plain(const Heads& x) const {
    return graph_.memory(x.data, kHalf, {a_.sequences, a_.heads, x.tokens, a_.head_width},
                         {x.sequence_stride, a_.head_width, x.token_stride, 1});
  }
  /// (S, H, D, N)
  Graph::Tensor transposed(const Heads& x) const {
    return graph_.memory(x.data, kHalf, {a_.sequences, a_.heads, a_.head_width, x.tokens},
                         {x.sequence_stride, a_.head_width, 1, x.token_stride});
  }
  /// (S, H, N of q, N of k), which is never in memory
  Graph::Tensor scores(DType dtype = kSingle) const {
    return graph_.between(dtype, {a_.sequences, a_.heads, a_.q.tokens, a_.k.tokens});
  }
  /// (S, H, N of q, 1)
  Graph::Tensor rows() const { return graph_.between(kSingle, {a_.sequences, a_.heads, a_.q.tokens, 1}); }
  Graph::Tensor rows(const void* data) const {
    const std::int64_t n = a_.q.tokens;
    return graph_.memory(data, kSingle, {a_.sequences, a_.heads, n, 1}, {a_.heads * n, n, 1, 1});
  }
  Graph::Tensor scale() const { return graph_.number(1 / std::sqrt(static_cast<float>(a_.head_width)), 4); }
  /// The scores as the left factor of a product over the queries: (S, H, N of k, N of q) in bfloat16.
  Graph::Tensor turned(Graph::Tensor scores) const {
    const std::int64_t n = a_.q.tokens, m = a_.k.tokens;
    const Graph::Tensor y = graph_.between(kHalf, {a_.sequences, a_.heads, m, n}, {a_.heads * n * m, n * m, 1, m});
    graph_.reshape(scores, y);
    return y;
  }

 private:
  Graph& graph_;
  const Attention& a_;
};

}  // namespace

Graph attention_forward_graph(const Api& api, const Attention& a) {
  Graph graph(api);
  const HeadTensors heads(graph, a);
  const auto q = heads.plain(a.q), k = heads.transposed(a.k), v = heads.plain(a.v), out = heads.plain(a.out);
  const auto logsumexp = heads.rows(a.logsumexp);
  const auto products = heads.scores(), scores = heads.scores(), largest = heads.rows();
  graph.matmul(q, k, products);
  graph.pointwise(CUDNN_POINTWISE_MUL, products, heads.scale(), scores);
  graph.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, largest);
  const auto below = heads.scores(), powers = heads.scores(), total = heads.rows(), log = heads.rows();
  graph.pointwise(CUDNN_POINTWISE_SUB, scores, largest, below);
  graph.pointwise(CUDNN_POINTWISE_EXP, below, powers);
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, total);
  graph.pointwise(CUDNN_POINTWISE_LOG, total, log);
  graph.pointwise(CUDNN_POINTWISE_ADD, largest, log, logsumexp);
  const auto probabilities = heads.scores(kHalf);
  graph.pointwise(CUDNN_POINTWISE_DIV, powers, total, probabilities);
  graph.matmul(probabilities, v, out);
  return graph;
}

Graph attention_backward_graph(const Api& api, const Attention& a, const AttentionGradients& d) {
  Graph graph(api);
  const HeadTensors heads(graph, a);
  const std::int64_t s = a.sequences, h = a.heads, n = a.q.tokens, m = a.k.tokens, c = a.head_width;
  const auto q = heads.plain(a.q), k = heads.transposed(a.k), v = heads.transposed(a.v), out = heads.plain(a.out);
  const auto d_out = heads.plain(d.d_out), dq = heads.plain(d.dq), dk = heads.plain(d.dk), dv = heads.plain(d.dv);
  const auto logsumexp = heads.rows(a.logsumexp), row_sums = heads.rows(d.row_sums), scale = heads.scale();
  const auto dq_sums = graph.memory(d.dq_sums, kSingle, {s, h, n, c}, {h * n * c, n * c, c, 1});

  // Σ d_out · out of each row; the factor of 1 is where dropout would be.
  const auto weighted = graph.between(kSingle, {s, h, n, c}, {h * n * c, n * c, h * c, 1}), sums = heads.rows();
  graph.pointwise(CUDNN_POINTWISE_MUL, d_out, out, weighted);
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, weighted, sums);
  graph.pointwise(CUDNN_POINTWISE_MUL, sums, graph.number(1, 4), row_sums);

  // The probabilities again, and dv.
  const auto products = heads.scores(), scores = heads.scores(), below = heads.scores(), p = heads.scores();
  graph.matmul(q, k, products);
  graph.pointwise(CUDNN_POINTWISE_MUL, products, scale, scores);
  graph.pointwise(CUDNN_POINTWISE_SUB, scores, logsumexp, below);
  graph.pointwise(CUDNN_POINTWISE_EXP, below, p);
  graph.matmul(heads.turned(p), d_out, dv);

  // ds, dk and dq.
  const auto dp = heads.scores(), centered = heads.scores(), slopes = heads.scores(), ds = heads.scores();
  graph.matmul(d_out, v, dp);
  graph.pointwise(CUDNN_POINTWISE_SUB, dp, row_sums, centered);
  graph.pointwise(CUDNN_POINTWISE_MUL, centered, p, slopes);
  graph.pointwise(CUDNN_POINTWISE_MUL, slopes, scale, ds);
  graph.matmul(heads.turned(ds), q, dk);
  const auto k_rows = graph.between(kHalf, {s, h, m, c}, {a.k.sequence_stride, c, a.k.token_stride, 1});
  graph.reshape(k, k_rows);
  graph.matmul(ds, k_rows, dq_sums);
  graph.pointwise(CUDNN_POINTWISE_IDENTITY, dq_sums, dq);
  return graph;
}

namespace {

/// A matrix (R, C) as an image of C channels and one pixel, channels last: what the engines for norms take.
Graph::Tensor channels(Graph& graph, const ConstArray& x) {
  const std::int64_t rows = x.extent(0), width = x.extent(1);
  return graph.memory(x.data(), x.dtype(), {rows, width, 1, 1}, {width, 1, width, width});
}
Graph::Tensor of_columns(Graph& graph, const ConstArray& x) {
  const std::int64_t width = x.size();
  return graph.memory(x.data(), x.dtype(), {1, width, 1, 1}, {width, 1, width, width});
}
Graph::Tensor of_rows(Graph& graph, const ConstArray& x) {
  return graph.memory(x.data(), x.dtype(), {x.size(), 1, 1, 1}, {1, 1, 1, 1});
}

}  // namespace

Graph layer_norm_graph(const Api& api, const ConstArray& x, const ConstArray& gamma, const ConstArray& beta, double eps,
                       const Array& y, const Array& mean, const Array& rstd) {
  Graph graph(api);
  const auto x_tensor = channels(graph, x), scale = of_columns(graph, gamma), bias = of_columns(graph, beta);
  const auto epsilon = graph.number(static_cast<float>(eps), 4);
  graph.layer_norm(x_tensor, scale, bias, epsilon, channels(graph, y), of_rows(graph, mean), of_rows(graph, rstd));
  return graph;
}

Graph layer_norm_backward_graph(const Api& api, const ConstArray& x, const ConstArray& dy, const ConstArray& gamma,
                                const ConstArray& mean, const ConstArray& rstd, const Array& dx, const Array& dgamma,
                                const Array& dbeta) {
  Graph graph(api);
  const auto x_tensor = channels(graph, x), dy_tensor = channels(graph, dy), scale = of_columns(graph, gamma);
  const auto mean_tensor = of_rows(graph, mean), rstd_tensor = of_rows(graph, rstd);
  graph.layer_norm_backward(x_tensor, dy_tensor, scale, mean_tensor, rstd_tensor, channels(graph, dx),
                            of_columns(graph, dgamma), of_columns(graph, dbeta));
  return graph;
}

Graph sum_graph(const Api& api, const ConstArray& a, const ConstArray& b, const Array& y) {
  Graph graph(api);
  const auto a_tensor = channels(graph, a), b_tensor = channels(graph, b);
  graph.pointwise(CUDNN_POINTWISE_ADD, a_tensor, b_tensor, channels(graph, y));
  return graph;
}

Graph scaled_rows_graph(const Api& api, const ConstArray& x, const ConstArray& row, float factor, const Array& y) {
  Graph graph(api);
  auto value = channels(graph, x);
  if (row) {
    const auto difference =
        graph.between(kSingle, {x.extent(0), x.extent(1), 1, 1}, {x.extent(1), 1, x.extent(1), x.extent(1)});
    graph.pointwise(CUDNN_POINTWISE_SUB, value, of_columns(graph, row), difference);
    value = difference;
  }
  graph.pointwise(CUDNN_POINTWISE_MUL, value, graph.number(factor, 4), channels(graph, y));
  return graph;
}

Graph differences_graph(const Api& api, const ConstArray& a, const std::vector<ConstArray>& b, float factor,
                        const Array& y) {
  Graph graph(api);
  const std::int64_t size = b.front().size(), repeats = a.size() / size;
  const Extents extents{repeats, size, 1, 1}, strides{size, 1, size, size};
  const auto all = graph.memory(a.data(), kSingle, extents, strides);
  auto sum = all;
  for (const ConstArray& subtrahend : b) {
    const auto one = graph.memory(subtrahend.data(), kSingle, {1, size, 1, 1}, strides);
    const auto difference = graph.between(kSingle, extents, strides);
    graph.pointwise(CUDNN_POINTWISE_SUB, sum, one, difference);
    sum = difference;
    if (&subtrahend == &b.back()) break;
    const auto next = graph.between(kSingle, extents, strides);
    graph.pointwise(CUDNN_POINTWISE_ADD, sum, all, next);
    sum = next;
  }
  graph.pointwise(CUDNN_POINTWISE_MUL, sum, graph.number(factor, 4),
                  graph.memory(y.data(), y.dtype(), extents, strides));
  return graph;
}

}  // namespace dino::bench::cudnn
