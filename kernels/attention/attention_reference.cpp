#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dino::reference {
namespace {

using Matrix = std::vector<std::vector<double>>;

/// Columns [column, column + width) of rows [begin, end).
Matrix window(const ConstArray& x, std::int64_t begin, std::int64_t end, std::int64_t column, std::int64_t width) {
  Matrix result;
  for (std::int64_t t = begin; t < end; ++t) {
    auto& row = result.emplace_back();
    for (std::int64_t c = 0; c < width; ++c) row.push_back(load_double(x, t * x.extent(1) + column + c));
  }
  return result;
}

void put_window(const Array& x, std::int64_t begin, std::int64_t column, const Matrix& values,
                GradientMode mode = GradientMode::overwrite) {
  if (mode == GradientMode::ignore) return;
  for (std::size_t t = 0; t < values.size(); ++t) {
    for (std::size_t c = 0; c < values[t].size(); ++c) {
      const std::int64_t i =
          (begin + static_cast<std::int64_t>(t)) * x.extent(1) + column + static_cast<std::int64_t>(c);
      store_double(x, i, values[t][c] + (mode == GradientMode::accumulate ? load_double(x, i) : 0.0));
    }
  }
}

Matrix transpose(const Matrix& a) {
  Matrix result(a[0].size(), std::vector<double>(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[0].size(); ++j) result[j][i] = a[i][j];
  }
  return result;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix result(a.size(), std::vector<double>(b[0].size()));
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < b[0].size(); ++j) {
      for (std::size_t k = 0; k < b.size(); ++k) result[i][j] += a[i][k] * b[k][j];
    }
  }
  return result;
}

/// softmax(q kᵀ / √D) and, when asked for, the logarithm of each row's denominator.
Matrix probabilities_of(const Matrix& q, const Matrix& k, std::vector<double>* logsumexp = nullptr) {
  Matrix scores = product(q, transpose(k));
  for (auto& row : scores) {
    for (double& score : row) score /= std::sqrt(static_cast<double>(q[0].size()));
    const double largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double& score : row) sum += score = std::exp(score - largest);
    for (double& score : row) score /= sum;
    if (logsumexp != nullptr) logsumexp->push_back(largest + std::log(sum));
  }
  return scores;
}

/// Gradient of the scores before their division by √D.
Matrix score_gradient(const Matrix& p, const Matrix& v, const Matrix& d_out) {
  Matrix ds = product(d_out, transpose(v));
  for (std::size_t i = 0; i < p.size(); ++i) {
    double mean = 0;
    for (std::size_t j = 0; j < p[i].size(); ++j) mean += p[i][j] * ds[i][j];
    for (std::size_t j = 0; j < p[i].size(); ++j) {
      ds[i][j] = p[i][j] * (ds[i][j] - mean) / std::sqrt(static_cast<double>(v[0].size()));
    }
  }
  return ds;
}

template <typename Body>
void for_sequences_and_heads(const ConstArray& offsets, int heads, Body&& body) {
  for (std::int64_t s = 0; s + 1 < offsets.extent(0); ++s) {
    const std::int64_t begin = offsets.as<std::int32_t>()[s];
    const std::int64_t end = offsets.as<std::int32_t>()[s + 1];
    for (std::int64_t h = 0; h < heads && begin < end; ++h) body(s, h, begin, end);
  }
}

}  // namespace

void attention_forward(const AttentionForward& args) {
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head = width / args.heads;
  const std::int64_t rows = args.qkv.extent(0);
  for_sequences_and_heads(
      args.offsets, args.heads, [&](std::int64_t, std::int64_t h, std::int64_t begin, std::int64_t end) {
        const Matrix q = window(args.qkv, begin, end, h * head, head);
        const Matrix k = window(args.qkv, begin, end, width + h * head, head);
        const Matrix v = window(args.qkv, begin, end, 2 * width + h * head, head);
        std::vector<double> logsumexp;
        put_window(args.out, begin, h * head, product(probabilities_of(q, k, &logsumexp), v));
        if (!args.logsumexp) return;
        for (std::int64_t t = begin; t < end; ++t) {
          store_double(args.logsumexp, h * rows + t, logsumexp[static_cast<std::size_t>(t - begin)]);
        }
      });
}

void attention_backward(const AttentionBackward& args) {
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head = width / args.heads;
  for_sequences_and_heads(
      args.offsets, args.heads, [&](std::int64_t, std::int64_t h, std::int64_t begin, std::int64_t end) {
        const Matrix q = window(args.qkv, begin, end, h * head, head);
        const Matrix k = window(args.qkv, begin, end, width + h * head, head);
        const Matrix v = window(args.qkv, begin, end, 2 * width + h * head, head);
        const Matrix d_out = window(args.d_out, begin, end, h * head, head);
        const Matrix p = probabilities_of(q, k);
        const Matrix ds = score_gradient(p, v, d_out);
        put_window(args.d_qkv, begin, h * head, product(ds, k), args.mode);
        put_window(args.d_qkv, begin, width + h * head, product(transpose(ds), q), args.mode);
        put_window(args.d_qkv, begin, 2 * width + h * head, product(transpose(p), d_out), args.mode);
      });
}

void cls_attention_forward(const ClsAttentionForward& args) {
  const std::int64_t width = args.q.extent(1);
  const std::int64_t head = width / args.heads;
  const std::int64_t rows = args.kv.extent(0);
  for_sequences_and_heads(args.offsets, args.heads,
                          [&](std::int64_t s, std::int64_t h, std::int64_t begin, std::int64_t end) {
                            const Matrix q = window(args.q, s, s + 1, h * head, head);
                            const Matrix k = window(args.kv, begin, end, h * head, head);
                            const Matrix v = window(args.kv, begin, end, width + h * head, head);
                            const Matrix p = probabilities_of(q, k);
                            put_window(args.out, s, h * head, product(p, v));
                            for (std::int64_t t = begin; t < end; ++t) {
                              store_double(args.probabilities, h * rows + t, p[0][static_cast<std::size_t>(t - begin)]);
                            }
                          });
}

void cls_attention_backward(const ClsAttentionBackward& args) {
  const std::int64_t width = args.q.extent(1);
  const std::int64_t head = width / args.heads;
  for_sequences_and_heads(
      args.offsets, args.heads, [&](std::int64_t s, std::int64_t h, std::int64_t begin, std::int64_t end) {
        const Matrix q = window(args.q, s, s + 1, h * head, head);
        const Matrix k = window(args.kv, begin, end, h * head, head);
        const Matrix v = window(args.kv, begin, end, width + h * head, head);
        const Matrix d_out = window(args.d_out, s, s + 1, h * head, head);
        const Matrix p = probabilities_of(q, k);
        const Matrix ds = score_gradient(p, v, d_out);
        put_window(args.dq, s, h * head, product(ds, k), args.dq_mode);
        put_window(args.d_kv, begin, h * head, product(transpose(ds), q), args.d_kv_mode);
        put_window(args.d_kv, begin, width + h * head, product(transpose(p), d_out), args.d_kv_mode);
      });
}

}  // namespace dino::reference
