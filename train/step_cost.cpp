#include "train/step_cost.h"

#include "engine/rehearsal.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>

namespace dino {
namespace {

double wall_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

/// What an operation's time grows with: products and attention with their flops, all others with their bytes.
bool is_bound_by_flops(double flops, double bytes) { return flops > 20 * bytes; }
double amount(double flops, double bytes) { return is_bound_by_flops(flops, bytes) ? flops : bytes; }

void run_step(StudentTeacher& networks, const TrainConfig& config, const TrainingCrops& crops, std::uint64_t step) {
  const StepValues values{.lr = 1e-5,
                          .weight_decay = config.weight_decay,
                          .teacher_momentum = config.momentum_teacher,
                          .teacher_temp = config.teacher_temp,
                          .step = step};
  for (int i = 0; i < config.accumulation; ++i) networks.run_micro_batch(crops, values);
  networks.update(values);
  networks.wait();
}

}  // namespace

OperationCounter::OperationCounter(Stream& stream, Timing timing) : stream_(stream), timing_(timing) {
  stream.observe(this);
}
OperationCounter::~OperationCounter() { stream_.observe(nullptr); }

double OperationCounter::now_ms() const {
  if (timing_ != Timing::cpu) return wall_ms();
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec)) / omp_get_max_threads();
}

void OperationCounter::clear() {
  operations_.clear();
  places_.clear();
  overhead_ms_ = timed_ms_ = 0;
}

/// A step has no marks; but its operations come in one order (StudentTeacher::forward_and_backward): the teacher cuts
/// its crops into patches first, the student has a group or two to cut, the loss is one operation, and after it and its
/// sums the first other one belongs to backward.
void OperationCounter::enter_phase(const Operation& operation) {
  const std::string_view name = operation.name;
  if (name == "patchify") {
    if (phase_ == StepPhase::update || phase_ == StepPhase::backward) {
      phase_ = StepPhase::teacher;
    } else {
      phase_ = StepPhase::student;
    }
  } else if (name == "dino_loss_with_gradient") {
    phase_ = StepPhase::loss;
  } else if (phase_ == StepPhase::loss && name != "column_sum" && name != "center_update") {
    phase_ = StepPhase::backward;
  }
  if (name == "gradient_norms") phase_ = StepPhase::update;
}

void OperationCounter::begin(const Operation& operation) {
  if (depth_++ > 0) return;
  const bool timed = timing_ != Timing::none;
  const double start_ms = timed ? now_ms() : 0;
  enter_phase(operation);
  OperationCost cost = cost_of(operation, stream_);
  const auto [place, is_new] =
      places_.try_emplace(fmt::format("{} {}: {}", static_cast<int>(phase_), cost.work, cost.size), operations_.size());
  if (is_new) operations_.push_back({operation.name, phase_, std::move(cost), 0, {}});
  current_ = place->second;
  ++operations_[current_].calls;
  if (!timed) return;
  stream_.synchronize();
  begin_ms_ = now_ms();
  overhead_ms_ += begin_ms_ - start_ms;
}

void OperationCounter::end() noexcept {
  if (--depth_ > 0 || timing_ == Timing::none) return;
  try {
    stream_.synchronize();
    const double end_ms = now_ms();
    timed_ms_ += end_ms - begin_ms_;
    operations_[current_].ms.push_back(end_ms - begin_ms_);
    overhead_ms_ += now_ms() - end_ms;
  } catch (const std::exception&) {
    // The device has failed, which the next call on the stream reports; a time is all that is lost here.
  }
}

std::vector<CountedOperation> step_operations(const TrainConfig& config, Device device, DType compute_type) {
  const std::unique_ptr<Context> context = make_rehearsal_context(device);
  SingleProcess communicator;
  StudentTeacher networks(*context, communicator, config, compute_type);
  const TrainingCrops crops = noise_crops(*context, config);
  OperationCounter counter(context->stream(), OperationCounter::Timing::none);
  run_step(networks, config, crops, 0);
  return counter.operations();
}

Work total_work(const std::vector<CountedOperation>& operations) {
  Work work;
  for (const CountedOperation& operation : operations) {
    work.flops += static_cast<double>(operation.calls) * operation.cost.flops;
    work.bytes += static_cast<double>(operation.calls) * operation.cost.bytes;
  }
  return work;
}

double RooflineSpeeds::ms_of(const CountedOperation& operation) const {
  const double rate = operation.cost.type == DType::bfloat16 ? bf16_flops_per_s_ : fp32_flops_per_s_;
  return 1e3 * std::max(operation.cost.flops / rate, operation.cost.bytes / bytes_per_s_);
}

MeasuredSpeeds::MeasuredSpeeds(std::vector<CountedOperation> operations, double rest_ms_per_image)
    : rest_ms_per_image_(rest_ms_per_image) {
  double product_flops = 0, product_ms = 0, moved_bytes = 0, moved_ms = 0;
  for (CountedOperation& operation : operations) {
    require(!operation.ms.empty(), "speeds", "{} was not timed", operation.name);
    const OperationCost& cost = operation.cost;
    const Point point{cost.size, cost.bytes, cost.flops, median(std::move(operation.ms))};
    const bool is_product = is_bound_by_flops(point.flops, point.bytes);
    (is_product ? product_flops : moved_bytes) += is_product ? point.flops : point.bytes;
    (is_product ? product_ms : moved_ms) += point.ms;
    points_[cost.work].push_back(point);
  }
  constexpr double kUnlimited = std::numeric_limits<double>::infinity();
  flops_per_ms_ = product_ms > 0 ? product_flops / product_ms : kUnlimited;
  bytes_per_ms_ = moved_ms > 0 ? moved_bytes / moved_ms : kUnlimited;
}

double MeasuredSpeeds::ms_of(const CountedOperation& operation) const {
  const OperationCost& cost = operation.cost;
  if (cost.bytes == 0 && cost.flops == 0) return 0;
  const auto found = points_.find(cost.work);
  if (found == points_.end()) return std::max(cost.flops / flops_per_ms_, cost.bytes / bytes_per_ms_);
  // The same size may have come in several phases, with other things in cache: their mean.
  double sum = 0;
  int same = 0;
  const Point* nearest = nullptr;
  double least = 0;
  const double wanted = amount(cost.flops, cost.bytes);
  for (const Point& point : found->second) {
    if (point.size == cost.size) {
      sum += point.ms;
      ++same;
    }
    const double known = amount(point.flops, point.bytes);
    if (known <= 0) continue;
    const double distance = std::abs(std::log(wanted / known));
    if (nearest == nullptr || distance < least) {
      nearest = &point;
      least = distance;
    }
  }
  if (same > 0) return sum / same;
  if (nearest == nullptr) return 0;
  return nearest->ms * wanted / amount(nearest->flops, nearest->bytes);
}

TrainConfig measured_config(const TrainConfig& config, const RunFacts& facts, const ProfileOptions& options) {
  TrainConfig measured = config;
  measured.depth = std::min(vit_config(config).depth, 2);
  measured.accumulation = std::min(config.accumulation, 2);
  const auto is_too_much = [&] {
    const double flops = total_work(step_operations(measured, facts.device, facts.compute_type)).flops;
    return flops > options.most_flops || !fits(plan_memory(measured, facts), facts.device, options.memory);
  };
  while (measured.batch_size_per_gpu > 1 && is_too_much()) measured.batch_size_per_gpu /= 2;
  return measured;
}

MeasuredSpeeds measure_speeds(Context& context, const TrainConfig& config, const RunFacts& facts,
                              const ProfileOptions& options) {
  const TrainConfig measured = measured_config(config, facts, options);
  SingleProcess communicator;
  StudentTeacher networks(context, communicator, measured, facts.compute_type);
  networks.time_phases();  // without recordings, whose operations would not be seen
  const TrainingCrops crops = noise_crops(context, measured);
  OperationCounter counter(context.stream(), options.timing);
  run_step(networks, measured, crops, 0);  // first touches, and what is made once
  counter.clear();
  std::vector<double> rest_ms;
  for (int step = 1; step <= options.steps; ++step) {
    const double overhead_ms = counter.overhead_ms();
    const double timed_ms = counter.timed_ms();
    const double begin_ms = counter.now_ms();
    run_step(networks, measured, crops, static_cast<std::uint64_t>(step));
    const double step_ms = counter.now_ms() - begin_ms;
    rest_ms.push_back(step_ms - (counter.overhead_ms() - overhead_ms) - (counter.timed_ms() - timed_ms));
  }
  const double images = static_cast<double>(measured.batch_size_per_gpu) * measured.accumulation;
  return MeasuredSpeeds(counter.operations(), std::max(0.0, median(rest_ms)) / images);
}

StepTime predict_step(const std::vector<CountedOperation>& operations, const Speeds& speeds,
                      const TrainConfig& config) {
  StepTime time;
  std::map<std::string, double> groups;
  for (const CountedOperation& operation : operations) {
    const double ms = static_cast<double>(operation.calls) * speeds.ms_of(operation);
    time.phase_ms[static_cast<std::size_t>(operation.phase)] += ms;
    groups[std::string(operation.cost.group)] += ms;
    time.total_ms += ms;
  }
  time.rest_ms = speeds.rest_ms_per_image() * config.batch_size_per_gpu * config.accumulation;
  time.total_ms += time.rest_ms;
  time.group_ms.assign(groups.begin(), groups.end());
  std::stable_sort(time.group_ms.begin(), time.group_ms.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return time;
}

}  // namespace dino
