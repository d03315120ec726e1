#include "engine/parameters.h"

#include "engine/random.h"
#include "kernels/cast/cast.h"

#include <cmath>

namespace dino {
namespace {

float draw_initial(const Initializer& initializer, Random& random) {
  switch (initializer.kind) {
    case Initializer::Kind::zeros: return 0.0F;
    case Initializer::Kind::ones: return 1.0F;
    case Initializer::Kind::uniform: return static_cast<float>(random.uniform(-initializer.scale, initializer.scale));
    case Initializer::Kind::truncated_normal: {
      // PyTorch cuts at the absolute values ±2, which at a deviation of 0.02 never happens; so does this.
      double x = random.normal() * initializer.scale;
      while (std::abs(x) > 2.0) x = random.normal() * initializer.scale;
      return static_cast<float>(x);
    }
  }
  return 0.0F;
}

}  // namespace

ParameterStore::ParameterStore(Context& context, const ParameterLayout& layout, DType compute_type, Role role)
    : context(context), layout(layout), compute_type(compute_type) {
  require(compute_type == DType::float32 || compute_type == DType::bfloat16, "parameters",
          "the compute type is float32 or bfloat16; got {}", name_of(compute_type));
  const Shape flat{layout.flat_size()};
  const bool low = compute_type == DType::bfloat16;
  student = context.zeros(flat, DType::float32);
  if (low) student_working = context.zeros(flat, DType::bfloat16);
  if (role == Role::training) {
    teacher = context.zeros(flat, DType::float32);
    if (low) teacher_working = context.zeros(flat, DType::bfloat16);
    gradient = context.zeros(flat, DType::float32);
    first_moment = context.zeros(flat, DType::float32);
    second_moment = context.zeros(flat, DType::float32);
  }
}

void ParameterStore::initialize(std::uint64_t seed) {
  if (!context.stream().executes()) return;  // the draws take longer than all the rest of a rehearsal
  std::vector<float> values(static_cast<std::size_t>(layout.flat_size()), 0.0F);
  for (const ParameterInfo& info : layout.infos()) {
    Random random(seed, RandomStream::weights, 0, stable_hash(info.name) & 0xffffffffffu);
    for (std::int64_t i = 0; i < info.size(); ++i) {
      values[static_cast<std::size_t>(info.offset + i)] = draw_initial(info.initializer, random);
    }
  }
  const ConstArray host(values.data(), Shape{layout.flat_size()});
  context.copy_from_host(host, student);
  if (teacher) context.copy_from_host(host, teacher);
  refresh_working_copies();
}

void ParameterStore::refresh_working_copies() {
  if (compute_type != DType::bfloat16) return;
  cast({.x = student.array(), .y = student_working.array()}, context.stream());
  if (teacher) cast({.x = teacher.array(), .y = teacher_working.array()}, context.stream());
}

Tensor ParameterStore::window(const Tensor& flat, ParameterId id) const {
  const ParameterInfo& info = layout[id];
  return flat.rows(info.offset, info.offset + info.size()).reshape(info.shape);
}

Weights::Weights(Tape& tape, const ParameterStore& store, const Tensor& values, const Tensor& working,
                 const Tensor& gradient, GradientMode mode)
    : tape_(&tape), store_(&store), values_(values), working_(working), gradient_(gradient), mode_(mode) {}

Weights Weights::student(Tape& tape, const ParameterStore& store, GradientMode mode) {
  return Weights(tape, store, store.student, store.student_working, tape.recording() ? store.gradient : Tensor(), mode);
}

Weights Weights::teacher(Tape& tape, const ParameterStore& store) {
  return Weights(tape, store, store.teacher, store.teacher_working, Tensor(), GradientMode::ignore);
}

Tensor Weights::operator()(ParameterId id) { return rows(id, 0, layout()[id].shape[0]); }

Tensor Weights::rows(ParameterId id, std::int64_t begin, std::int64_t end) {
  for (const Bound& bound : bound_) {
    if (bound.index != id.index_) continue;
    if (bound.begin == begin && bound.end == end) return bound.tensor;
    require(end <= bound.begin || bound.end <= begin, "parameters", "rows of {} are used in two overlapping ranges",
            layout()[id].name);
  }
  const ParameterInfo& info = layout()[id];
  const Tensor& flat = working_ && info.gemm_weight ? working_ : values_;
  Tensor tensor = store_->window(flat, id).rows(begin, end);
  if (gradient_ && info.trainable)
    tensor = tape_->variable(tensor, store_->window(gradient_, id).rows(begin, end), mode_);
  bound_.push_back({id.index_, begin, end, tensor});
  return tensor;
}

}  // namespace dino
