#include "evaluate/linear_probe.h"

#include "engine/random.h"
#include "kernels/column_sum/column_sum.h"
#include "kernels/common/parallel.h"
#include "kernels/matmul/matmul.h"
#include "kernels/optimizer_step/optimizer_step.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dino {
namespace {

constexpr const char* kWhere = "linear";
constexpr double kInitialDeviation = 0.01;
constexpr std::int64_t kRowsAtATime = 4096;  // bounds the memory for logits

/// Loss of one row of K logits, and its gradient with respect to them times `scale`.
double cross_entropy(const float* logits, int classes, std::int32_t label, double scale, float* gradient) {
  const double largest = static_cast<double>(*std::max_element(logits, logits + classes));
  double sum = 0;
  for (int k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(logits[k]) - largest);
  for (int k = 0; k < classes; ++k) {
    const double probability = std::exp(static_cast<double>(logits[k]) - largest) / sum;
    gradient[k] = static_cast<float>(scale * (probability - (k == label ? 1.0 : 0.0)));
  }
  return std::log(sum) + largest - static_cast<double>(logits[label]);
}

/// How many classes come before `label`: larger logits, and equal ones of lower classes. All do where any is NaN.
int rank_of(const float* logits, int classes, std::int32_t label) {
  int before = 0;
  for (int k = 0; k < classes; ++k) {
    if (std::isnan(logits[k])) return classes;
    if (logits[k] > logits[label] || (logits[k] == logits[label] && k < label)) ++before;
  }
  return before;
}

}  // namespace

void LinearProbeOptions::check() const {
  require(!learning_rates.empty(), kWhere, "no learning rate was given");
  for (const double rate : learning_rates)
    require(std::isfinite(rate) && rate > 0, kWhere, "learning rates must be positive; got {}", rate);
  require(epochs >= 1 && batch >= 1, kWhere, "epochs and batch must be at least 1; got {} and {}", epochs, batch);
  require(momentum >= 0 && momentum < 1, kWhere, "the momentum must lie in [0, 1); got {}", momentum);
}

LinearProbe::LinearProbe(Context& context, Communicator& communicator, std::int64_t width, int classes,
                         const LinearProbeOptions& options)
    : context_(context), communicator_(communicator), options_(options), width_(width), classes_(classes) {
  options.check();
  require(width >= 1 && classes >= 2, kWhere, "got features of width {} and {} classes, expected at least 1 and 2",
          width, classes);
  const std::int64_t each = classes * width;
  std::vector<float> initial(static_cast<std::size_t>(count() * (each + classes)), 0.0F);
  Random random(options.seed, RandomStream::weights);
  for (std::int64_t i = 0; i < each; ++i)
    initial[static_cast<std::size_t>(i)] = static_cast<float>(kInitialDeviation * random.normal());
  for (int l = 1; l < count(); ++l) std::copy_n(initial.begin(), each, initial.begin() + l * each);
  parameters_ = context.from_host(ConstArray(initial.data(), Shape{static_cast<std::int64_t>(initial.size())}));
  gradient_ = context.zeros(parameters_.shape(), DType::float32);
  momentum_ = context.zeros(parameters_.shape(), DType::float32);
}

double LinearProbe::learning_rate(int classifier, std::int64_t epoch) const {
  const double cosine = std::cos(std::numbers::pi * static_cast<double>(epoch) / options_.epochs);
  const double batch = static_cast<double>(options_.batch) * communicator_.size();
  return options_.learning_rates.at(static_cast<std::size_t>(classifier)) * batch / 256.0 * (1 + cosine) / 2;
}

Tensor LinearProbe::weights(const Tensor& flat) const {
  const std::int64_t rows = std::int64_t{count()} * classes_;
  return flat.rows(0, rows * width_).reshape({rows, width_});
}

Tensor LinearProbe::biases(const Tensor& flat) const {
  const std::int64_t rows = std::int64_t{count()} * classes_;
  return flat.rows(rows * width_, rows * width_ + rows);
}

Tensor LinearProbe::logits(std::span<const float> rows, std::int64_t count, Tensor& x) {
  x = context_.from_host(ConstArray(rows.data(), Shape{count, width_}));
  const Tensor y = context_.empty({count, std::int64_t{this->count()} * classes_}, DType::float32);
  matmul({.a = x.array(),
          .b = weights(parameters_).array(),
          .bias = biases(parameters_).array(),
          .y = y.array(),
          .transpose_b = true},
         context_.stream());
  host_logits_.resize(static_cast<std::size_t>(y.size()));
  context_.copy_to_host(y, Array(host_logits_.data(), y.shape()));
  return y;
}

std::vector<double> LinearProbe::step(std::span<const float> rows, std::span<const std::int32_t> labels,
                                      std::int64_t all_rows, std::int64_t epoch) {
  const auto batch = static_cast<std::int64_t>(labels.size());
  require(all_rows >= std::max<std::int64_t>(1, batch) && static_cast<std::int64_t>(rows.size()) == batch * width_,
          kWhere, "got {} numbers for {} rows of {}, of {} in all", rows.size(), batch, width_, all_rows);
  for (const std::int32_t label : labels)
    require(label >= 0 && label < classes_, kWhere, "got label {}, expected 0 to {}", label, classes_ - 1);
  std::vector<double> loss(static_cast<std::size_t>(count()), 0.0);
  if (batch > 0) {
    differentiate(rows, labels, all_rows, loss);
  } else {
    context_.stream().zero(gradient_.data(), gradient_.size_bytes());
  }
  communicator_.all_reduce_sum(gradient_.array(), context_.stream(), "gradients of the linear classifiers");

  std::vector<OptimizerSegment> segments;
  const auto add = [&](std::int64_t first, std::int64_t size) {
    for (int l = 0; l < count(); ++l)
      segments.push_back(
          {.offset = first + l * size, .size = size, .step = 1, .learning_rate = learning_rate(l, epoch)});
  };
  add(0, classes_ * width_);
  add(count() * classes_ * width_, classes_);
  // The table lies where the kernel reads it.
  const auto bytes = static_cast<std::int64_t>(segments.size() * sizeof(OptimizerSegment));
  const Tensor table =
      context_.from_host(ConstArray(reinterpret_cast<const std::uint8_t*>(segments.data()), Shape{bytes}));
  optimizer_step({.segments = {reinterpret_cast<const OptimizerSegment*>(table.data()), segments.size()},
                  .kind = OptimizerKind::sgd,
                  .momentum = options_.momentum,
                  .gradient = gradient_.array(),
                  .student = parameters_.array(),
                  .first_moment = momentum_.array()},
                 context_.stream());
  return loss;
}

void LinearProbe::differentiate(std::span<const float> rows, std::span<const std::int32_t> labels,
                                std::int64_t all_rows, std::vector<double>& loss) {
  const auto batch = static_cast<std::int64_t>(labels.size());
  const double share = 1.0 / static_cast<double>(all_rows);
  Tensor x;
  const Tensor y = logits(rows, batch, x);
  host_gradient_.resize(host_logits_.size());
  std::vector<double> row_loss(static_cast<std::size_t>(batch * count()));
  parallel_for(batch * count(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      row_loss[static_cast<std::size_t>(i)] =
          cross_entropy(host_logits_.data() + i * classes_, classes_, labels[static_cast<std::size_t>(i / count())],
                        share, host_gradient_.data() + i * classes_);
    }
  });
  for (std::size_t i = 0; i < row_loss.size(); ++i)
    loss[i % loss.size()] += row_loss[i] / static_cast<double>(all_rows);

  const Tensor dy = context_.from_host(ConstArray(host_gradient_.data(), y.shape()));
  matmul({.a = dy.array(), .b = x.array(), .y = weights(gradient_).array(), .transpose_a = true}, context_.stream());
  column_sum({.x = dy.array(), .y = biases(gradient_).array()}, context_.stream());
}

std::vector<LinearScore> LinearProbe::evaluate(std::span<const float> rows, std::span<const std::int32_t> labels) {
  const auto n = static_cast<std::int64_t>(labels.size());
  require(n >= 1 && static_cast<std::int64_t>(rows.size()) == n * width_, kWhere, "got {} numbers for {} rows of {}",
          rows.size(), n, width_);
  const auto rates = static_cast<std::size_t>(count());
  std::vector<std::int64_t> hits(2 * rates, 0);  // the best, then the best five
  const auto [first, last] = thread_range(n, communicator_.rank(), communicator_.size());
  for (std::int64_t begin = first; begin < last; begin += kRowsAtATime) {
    const std::int64_t end = std::min(last, begin + kRowsAtATime);
    Tensor x;
    logits(rows.subspan(static_cast<std::size_t>(begin * width_), static_cast<std::size_t>((end - begin) * width_)),
           end - begin, x);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t label = labels[static_cast<std::size_t>(i)];
      if (label < 0 || label >= classes_) continue;  // a class that no training picture has is a miss
      for (int l = 0; l < count(); ++l) {
        const int rank = rank_of(host_logits_.data() + ((i - begin) * count() + l) * classes_, classes_, label);
        hits[static_cast<std::size_t>(l)] += rank < 1 ? 1 : 0;
        hits[static_cast<std::size_t>(l) + rates] += rank < std::min(5, classes_) ? 1 : 0;
      }
    }
  }
  std::vector<std::int64_t> all_hits(hits.size() * static_cast<std::size_t>(communicator_.size()));
  communicator_.all_gather_host(std::as_bytes(std::span(hits)), std::as_writable_bytes(std::span(all_hits)),
                                "hits of the linear classifiers");
  std::fill(hits.begin(), hits.end(), 0);
  for (std::size_t i = 0; i < all_hits.size(); ++i) hits[i % hits.size()] += all_hits[i];
  std::vector<LinearScore> scores;
  for (std::size_t l = 0; l < rates; ++l)
    scores.push_back({100.0 * static_cast<double>(hits[l]) / static_cast<double>(n),
                      100.0 * static_cast<double>(hits[l + rates]) / static_cast<double>(n)});
  return scores;
}

LinearProbe::State LinearProbe::state() {
  State state;
  for (const auto& [tensor, values] : {std::pair{&parameters_, &state.parameters}, {&momentum_, &state.momentum}}) {
    values->resize(static_cast<std::size_t>(tensor->size()));
    context_.copy_to_host(*tensor, Array(values->data(), tensor->shape()));
  }
  return state;
}

void LinearProbe::set_state(const State& state) {
  const auto size = static_cast<std::size_t>(parameters_.size());
  require(state.parameters.size() == size && state.momentum.size() == size, kWhere,
          "got a state of {} numbers, expected {}", state.parameters.size(), size);
  context_.copy_from_host(ConstArray(state.parameters.data(), parameters_.shape()), parameters_);
  context_.copy_from_host(ConstArray(state.momentum.data(), momentum_.shape()), momentum_);
}

std::vector<NamedArray> LinearProbe::arrays_of(const State& state) const {
  const Shape weights{count(), classes_, width_}, biases{count(), classes_};
  return {{"weights", ConstArray(state.parameters.data(), weights)},
          {"biases", ConstArray(state.parameters.data() + weights.size(), biases)},
          {"momentum.weights", ConstArray(state.momentum.data(), weights)},
          {"momentum.biases", ConstArray(state.momentum.data() + weights.size(), biases)}};
}

LinearProbe::State LinearProbe::state_of(const SafetensorsFile& file) const {
  const Shape weights{count(), classes_, width_}, biases{count(), classes_};
  State state;
  const auto append = [&](const std::string& name, const Shape& shape, std::vector<float>& values) {
    const ConstArray array = file[name];
    require_array(array, DType::float32, shape, kWhere, name);
    values.insert(values.end(), array.as<float>(), array.as<float>() + array.size());
  };
  append("weights", weights, state.parameters);
  append("biases", biases, state.parameters);
  append("momentum.weights", weights, state.momentum);
  append("momentum.biases", biases, state.momentum);
  return state;
}

}  // namespace dino
