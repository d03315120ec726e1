#include "engine/tape.h"

#include <utility>

namespace dino {

VariableId Tape::add_variable(Variable variable) {
  variables_.push_back(std::move(variable));
  return static_cast<VariableId>(variables_.size()) - 1;
}

Tensor Tape::variable(const Tensor& value) {
  Tensor result = value;
  if (recording())
    result.variable_ = add_variable({.gradient = {}, .dtype = value.dtype(), .shape = value.shape(), .kept = true});
  return result;
}

Tensor Tape::variable(const Tensor& value, const Tensor& gradient, GradientMode mode) {
  require(gradient.shape() == value.shape(), "tape", "a gradient has the shape of its value; got {}, expected {}",
          gradient.shape().to_string(), value.shape().to_string());
  Tensor result = value;
  if (recording()) {
    result.variable_ = add_variable(
        {.gradient = gradient, .dtype = gradient.dtype(), .shape = value.shape(), .first = mode, .kept = true});
  }
  return result;
}

Tensor Tape::output(const Shape& shape, DType dtype, std::initializer_list<const Tensor*> inputs) {
  Tensor result = context_.empty(shape, dtype);
  if (!recording()) return result;
  std::vector<VariableId> leaves;
  bool depends = false;
  for (const Tensor* input : inputs) {
    if (input == nullptr || !input->requires_gradient()) continue;
    depends = true;
    if (variables_[static_cast<std::size_t>(input->variable())].kept) leaves.push_back(input->variable());
  }
  if (depends)
    result.variable_ = add_variable({.gradient = {}, .dtype = dtype, .shape = shape, .leaves = std::move(leaves)});
  return result;
}

void Tape::record(std::string_view operation, const Tensor& output, Backward backward) {
  if (output.requires_gradient()) records_.push_back({operation, output.variable(), std::move(backward)});
}

GradientTarget Tape::gradient_target(const Tensor& x) {
  if (!x.requires_gradient()) return {};
  Variable& variable = variables_[static_cast<std::size_t>(x.variable())];
  require(!variable.whole, "tape",
          "a gradient is written that was said to be whole; every operation names all its inputs in output()");
  if (!variable.gradient) variable.gradient = context_.empty(variable.shape, variable.dtype);
  const GradientMode mode = variable.reached ? GradientMode::accumulate : variable.first;
  if (variable.adopted && variable.gradient.storage_.use_count() > 1) {
    // Somebody else still reads the adopted gradient: the caller of backward(), or the record that is being played.
    Tensor own = context_.empty(variable.shape, variable.dtype);
    context_.copy(variable.gradient, own);
    variable.gradient = own;
  }
  variable.adopted = false;
  variable.reached = true;
  return {variable.gradient.reshape(x.shape()), mode};
}

bool Tape::give_gradient(const Tensor& x, const Tensor& dx) {
  if (!x.requires_gradient()) return true;
  Variable& variable = variables_[static_cast<std::size_t>(x.variable())];
  if (variable.reached || variable.gradient) return false;
  require(dx.dtype() == variable.dtype && dx.size() == variable.shape.size(), "tape",
          "a gradient of {} {} was given to a variable of {} {}", name_of(dx.dtype()), dx.shape().to_string(),
          name_of(variable.dtype), variable.shape.to_string());
  variable.gradient = dx.detach().reshape(variable.shape);
  variable.reached = true;
  variable.adopted = true;
  return true;
}

Tensor Tape::take_gradient(const Tensor& x) {
  if (!x.requires_gradient()) return {};
  Variable& variable = variables_[static_cast<std::size_t>(x.variable())];
  require(!variable.kept, "tape", "the gradient of a leaf stays where it is");
  variable.reached = false;
  variable.adopted = false;
  return std::exchange(variable.gradient, Tensor());
}

void Tape::backward(const Tensor& y, const Tensor& dy) {
  require(recording() && y.requires_gradient(), "tape", "backward from a value that depends on no variable");
  require(give_gradient(y, dy), "tape", "backward from a value that already has a gradient");
  const auto last = whole_ ? last_uses() : std::vector<std::vector<VariableId>>();
  while (!records_.empty()) {
    const Record record = std::move(records_.back());
    records_.pop_back();
    Variable& output = variables_[static_cast<std::size_t>(record.output)];
    if (output.reached) {
      const Tensor gradient = output.gradient;
      if (!output.kept) output.gradient = Tensor();
      record.backward(*this, gradient);
    }
    if (last.empty()) continue;
    for (const VariableId leaf : last[records_.size()]) {
      Variable& variable = variables_[static_cast<std::size_t>(leaf)];
      variable.whole = true;
      if (variable.gradient) whole_(variable.gradient);
    }
  }
}

std::vector<std::vector<VariableId>> Tape::last_uses() const {
  std::vector<std::vector<VariableId>> last(records_.size());
  std::vector<bool> seen(variables_.size());
  for (std::size_t i = 0; i < records_.size(); ++i) {
    for (const VariableId leaf : variables_[static_cast<std::size_t>(records_[i].output)].leaves) {
      if (seen[static_cast<std::size_t>(leaf)]) continue;
      seen[static_cast<std::size_t>(leaf)] = true;
      last[i].push_back(leaf);
    }
  }
  return last;
}

Tensor Tape::gradient(const Tensor& x) const {
  if (!x.requires_gradient()) return {};
  const Variable& variable = variables_[static_cast<std::size_t>(x.variable())];
  return variable.reached ? variable.gradient.reshape(x.shape()) : Tensor();
}

}  // namespace dino
