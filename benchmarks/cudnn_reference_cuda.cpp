#include "benchmarks/cudnn_reference.h"

#include "benchmarks/cudnn_graphs.h"

#include <deque>
#include <memory>

namespace dino::bench::cudnn {
namespace {

/// A handle on the bench's stream, and plans with their memory.
class Session {
 public:
  explicit Session(Bench& bench) : api_(library()), bench_(bench) {
    DINO_CUDNN(api_, create, &handle_);
    // A destructor is not called for what threw in its constructor.
    try {
      DINO_CUDNN(api_, set_stream, handle_, static_cast<cudaStream_t>(bench.stream().handle()));
    } catch (...) {
      api_.destroy(handle_);
      throw;
    }
  }
  ~Session() {
    plans_.clear();
    api_.destroy(handle_);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Api& api() const { return api_; }
  cudnnHandle_t handle() const { return handle_; }
  Bench& bench() { return bench_; }
  Array scratch(DType dtype, const Shape& shape) { return bench_.zeros(dtype, shape); }

  /// The plan's number.
  std::size_t add(Graph&& graph) {
    Plan& plan = plans_.emplace_back(std::move(graph).compile(handle_));
    constexpr std::int64_t kAlignment = 256;
    const auto bytes = static_cast<std::int64_t>(plan.workspace_bytes());
    const Array memory = bench_.zeros(DType::uint8, {bytes + kAlignment});
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    plan.bind(reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment));
    return plans_.size() - 1;
  }
  void run(std::size_t plan) const { plans_[plan].run(handle_); }

 private:
  const Api& api_;
  Bench& bench_;
  cudnnHandle_t handle_ = nullptr;
  std::deque<Plan> plans_;
};

/// Sequences of one length that lie one behind the other.
struct Group {
  std::int64_t first_sequence, first_token, sequences, tokens;
};
std::vector<Group> groups_of(const Bench& bench) {
  const std::vector<std::int32_t> offsets = bench.sequence_offsets();
  std::vector<Group> groups;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    const std::int64_t tokens = offsets[s + 1] - offsets[s];
    if (groups.empty() || groups.back().tokens != tokens) {
      groups.push_back({static_cast<std::int64_t>(s), offsets[s], 0, tokens});
    }
    ++groups.back().sequences;
  }
  return groups;
}

/// The heads that begin at a column of a matrix (T, columns), for the group's tokens.
Heads heads_at(const ConstArray& matrix, const Group& group, std::int64_t column) {
  const std::int64_t columns = matrix.extent(1);
  return {static_cast<const std::byte*>(matrix.data()) +
              static_cast<std::size_t>(group.first_token * columns + column) * size_of(matrix.dtype()),
          group.tokens, group.tokens * columns, columns};
}
/// The heads of a matrix (S, C) that has one row for each sequence.
Heads heads_of_sequences(const ConstArray& matrix, const Group& group) {
  const std::int64_t columns = matrix.extent(1);
  return {static_cast<const std::byte*>(matrix.data()) +
              static_cast<std::size_t>(group.first_sequence * columns) * size_of(matrix.dtype()),
          1, columns, columns};
}

Attention attention_of(Session& session, const Group& group, std::int64_t width, std::int64_t heads, const Heads& q,
                       const Heads& k, const Heads& v, const Heads& out) {
  const Array logsumexp = session.scratch(DType::float32, {group.sequences, heads, q.tokens});
  return {group.sequences, heads, width / heads, q, k, v, out, logsumexp.data()};
}

/// Of packed tokens: qkv (T, 3C), `out` (T, C).
Attention attention_of(Session& session, const Group& group, std::int64_t heads, const ConstArray& qkv,
                       const ConstArray& out) {
  const std::int64_t width = out.extent(1);
  return attention_of(session, group, width, heads, heads_at(qkv, group, 0), heads_at(qkv, group, width),
                      heads_at(qkv, group, 2 * width), heads_at(out, group, 0));
}

/// Of one query a sequence, and its packed keys and values; `out` (S, C).
template <typename Args>
Attention cls_attention_of(Session& session, const Group& group, const Args& args, const ConstArray& out) {
  const std::int64_t width = out.extent(1);
  return attention_of(session, group, width, args.heads, heads_of_sequences(args.q, group), heads_at(args.kv, group, 0),
                      heads_at(args.kv, group, width), heads_of_sequences(out, group));
}

/// Calls the plans one after the other.
Call call_of(const std::shared_ptr<Session>& session, const std::vector<std::size_t>& plans) {
  return [session, plans] {
    for (const std::size_t plan : plans) session->run(plan);
  };
}

/// A backward pass, and its dq_sums, which are to be zero.
struct Backward {
  std::size_t plan;
  Array dq_sums;
};
Backward add_backward(Session& session, const Attention& attention, const Heads& d_out, const Heads& dq,
                      const Heads& dk, const Heads& dv) {
  // What it needs of the forward pass is cuDNN's own.
  session.run(session.add(attention_forward_graph(session.api(), attention)));
  const std::int64_t s = attention.sequences, h = attention.heads, n = attention.q.tokens;
  const Array row_sums = session.scratch(DType::float32, {s, h, n});
  const Array dq_sums = session.scratch(DType::float32, {s, h, n, attention.head_width});
  const AttentionGradients gradients{d_out, dq, dk, dv, row_sums.data(), dq_sums.data()};
  return {session.add(attention_backward_graph(session.api(), attention, gradients)), dq_sums};
}
Call call_of(const std::shared_ptr<Session>& session, const std::vector<Backward>& passes) {
  return [session, passes] {
    for (const Backward& pass : passes) {
      session->bench().stream().zero(pass.dq_sums.data(), pass.dq_sums.size_bytes());
      session->run(pass.plan);
    }
  };
}

}  // namespace

Call attention_forward(Bench& bench, const AttentionForward& args) {
  const auto session = std::make_shared<Session>(bench);
  std::vector<std::size_t> plans;
  for (const Group& group : groups_of(bench)) {
    const Attention attention = attention_of(*session, group, args.heads, args.qkv, args.out);
    plans.push_back(session->add(attention_forward_graph(session->api(), attention)));
  }
  return call_of(session, plans);
}

Call attention_backward(Bench& bench, const AttentionBackward& args) {
  const auto session = std::make_shared<Session>(bench);
  const std::int64_t width = args.d_out.extent(1);
  const Array out = session->scratch(args.d_out.dtype(), args.d_out.shape());
  std::vector<Backward> passes;
  for (const Group& group : groups_of(bench)) {
    const Attention attention = attention_of(*session, group, args.heads, args.qkv, out);
    passes.push_back(add_backward(*session, attention, heads_at(args.d_out, group, 0), heads_at(args.d_qkv, group, 0),
                                  heads_at(args.d_qkv, group, width), heads_at(args.d_qkv, group, 2 * width)));
  }
  return call_of(session, passes);
}

Call cls_attention_forward(Bench& bench, const ClsAttentionForward& args) {
  const auto session = std::make_shared<Session>(bench);
  std::vector<std::size_t> plans;
  for (const Group& group : groups_of(bench)) {
    const Attention attention = cls_attention_of(*session, group, args, args.out);
    plans.push_back(session->add(attention_forward_graph(session->api(), attention)));
  }
  return call_of(session, plans);
}

Call cls_attention_backward(Bench& bench, const ClsAttentionBackward& args) {
  const auto session = std::make_shared<Session>(bench);
  const std::int64_t width = args.d_out.extent(1);
  const Array out = session->scratch(args.d_out.dtype(), args.d_out.shape());
  std::vector<Backward> passes;
  for (const Group& group : groups_of(bench)) {
    const Attention attention = cls_attention_of(*session, group, args, out);
    passes.push_back(add_backward(*session, attention, heads_of_sequences(args.d_out, group),
                                  heads_of_sequences(args.dq, group), heads_at(args.d_kv, group, 0),
                                  heads_at(args.d_kv, group, width)));
  }
  return call_of(session, passes);
}

Call layer_norm_forward(Bench& bench, const LayerNormForward& args) {
  const auto session = std::make_shared<Session>(bench);
  const std::size_t sum = session->add(sum_graph(session->api(), args.x, args.branch, args.sum));
  const std::size_t norm = session->add(layer_norm_graph(session->api(), args.sum, args.gamma, args.beta, args.eps,
                                                         args.normalized, args.mean, args.rstd));
  return call_of(session, std::vector{sum, norm});
}

Call layer_norm_backward(Bench& bench, const LayerNormBackward& args) {
  const auto session = std::make_shared<Session>(bench);
  const Array of_norm = session->scratch(args.dx.dtype(), args.dx.shape());
  const std::size_t norm = session->add(layer_norm_backward_graph(
      session->api(), args.sum, args.d_normalized, args.gamma, args.mean, args.rstd, of_norm, args.dgamma, args.dbeta));
  const std::size_t sum = session->add(sum_graph(session->api(), of_norm, args.d_sum, args.dx));
  return [session, norm, sum, args] {
    session->run(norm);
    session->run(sum);
    session->bench().stream().copy(args.d_branch.data(), args.dx.data(), args.dx.size_bytes());
  };
}

namespace {

/// Softmax of each row of (R, C) fp32, in place.
class RowSoftmax {
 public:
  RowSoftmax(std::shared_ptr<Session> session, const Array& x) : session_(std::move(session)), x_(x) {
    const Api& api = session_->api();
    DINO_CUDNN(api, tensor_create, &tensor_);
    DINO_CUDNN(api, tensor_set, tensor_, CUDNN_TENSOR_NCHW, CUDNN_DATA_FLOAT, static_cast<int>(x.extent(0)),
               static_cast<int>(x.extent(1)), 1, 1);
  }
  ~RowSoftmax() {
    if (tensor_ != nullptr) session_->api().tensor_destroy(tensor_);
  }
  RowSoftmax(const RowSoftmax&) = delete;
  RowSoftmax& operator=(const RowSoftmax&) = delete;

  void run() const {
    constexpr float kOne = 1, kZero = 0;
    DINO_CUDNN(session_->api(), softmax, session_->handle(), CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_INSTANCE, &kOne,
               tensor_, x_.data(), &kZero, tensor_, x_.data());
  }

 private:
  std::shared_ptr<Session> session_;
  Array x_;
  cudnnTensorDescriptor_t tensor_ = nullptr;
};

/// Rows [first, first + count) of a matrix.
Array rows_of(const Array& matrix, std::int64_t first, std::int64_t count) {
  const std::int64_t columns = matrix.extent(1);
  return {static_cast<std::byte*>(matrix.data()) + static_cast<std::size_t>(first * columns) * size_of(matrix.dtype()),
          matrix.dtype(),
          {count, columns}};
}

}  // namespace

Call dino_loss_gradient(Bench& bench, const DinoLossWithGradient& args) {
  const auto session = std::make_shared<Session>(bench);
  const Api& api = session->api();
  const auto [images, views, globals, columns] = dino_loss_sizes(args);
  const Array teacher = session->scratch(DType::float32, {globals * images, columns});
  const Array student = session->scratch(DType::float32, {views * images, columns});
  const std::size_t teacher_logits = session->add(
      scaled_rows_graph(api, args.teacher, args.center, 1 / static_cast<float>(args.teacher_temperature), teacher));
  const std::size_t student_logits =
      session->add(scaled_rows_graph(api, args.student, {}, 1 / static_cast<float>(args.student_temperature), student));
  const auto teacher_softmax = std::make_shared<RowSoftmax>(session, teacher);
  const auto student_softmax = std::make_shared<RowSoftmax>(session, student);

  const double pairs = static_cast<double>((views - 1) * globals * images);
  const auto factor = static_cast<float>(args.gradient_scale / (pairs * args.student_temperature));
  std::vector<std::size_t> differences;
  for (std::int64_t view = 0; view < views;) {
    // The local views have the same partners: all of the teacher's.
    const std::int64_t count = view < globals ? 1 : views - globals;
    std::vector<ConstArray> partners;
    for (std::int64_t i = 0; i < globals; ++i) {
      if (i != view) partners.push_back(rows_of(teacher, i * images, images));
    }
    if (!partners.empty()) {
      differences.push_back(
          session->add(differences_graph(api, rows_of(student, view * images, count * images), partners, factor,
                                         rows_of(args.student_gradient, view * images, count * images))));
    }
    view += count;
  }
  return [=] {
    session->run(teacher_logits);
    session->run(student_logits);
    teacher_softmax->run();
    student_softmax->run();
    for (const std::size_t plan : differences) session->run(plan);
  };
}

}  // namespace dino::bench::cudnn
