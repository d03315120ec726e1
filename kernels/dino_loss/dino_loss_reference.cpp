#include "kernels/dino_loss/dino_loss.h"

#include <cmath>
#include <vector>

namespace dino::reference {
namespace {

/// ln softmax of a row, (row - shift) / temperature. Two-pass.
std::vector<double> log_softmax(const ConstArray& logits, std::int64_t row, std::int64_t columns,
                                const ConstArray& shift, double temperature) {
  std::vector<double> x(static_cast<std::size_t>(columns));
  double maximum = -INFINITY;
  for (std::int64_t k = 0; k < columns; ++k) {
    const double value = (load_double(logits, row * columns + k) - (shift ? load_double(shift, k) : 0.0)) / temperature;
    x[static_cast<std::size_t>(k)] = value;
    if (!(value <= maximum)) maximum = value;
  }
  double sum = 0;
  for (const double value : x) sum += std::exp(value - maximum);
  for (double& value : x) value -= maximum + std::log(sum);
  return x;
}

}  // namespace

void dino_loss_with_gradient(const DinoLossWithGradient& args) {
  const auto [images, student_views, teacher_views, columns] = dino_loss_sizes(args);
  const double pairs = static_cast<double>(teacher_views * (student_views - 1) * images);
  double loss = 0;
  double entropy = 0;
  double kl = 0;
  for (std::int64_t b = 0; b < images; ++b) {
    std::vector<std::vector<double>> log_t;
    for (std::int64_t i = 0; i < teacher_views; ++i) {
      log_t.push_back(log_softmax(args.teacher, i * images + b, columns, args.center, args.teacher_temperature));
      for (const double l : log_t.back()) entropy -= l > -700 || std::isnan(l) ? std::exp(l) * l : 0;
    }
    for (std::int64_t v = 0; v < student_views; ++v) {
      const auto log_p = log_softmax(args.student, v * images + b, columns, {}, args.student_temperature);
      for (std::int64_t k = 0; k < columns; ++k) {
        const auto at = static_cast<std::size_t>(k);
        double gradient = 0;
        for (std::int64_t i = 0; i < teacher_views; ++i) {
          if (i == v) continue;
          const double l = log_t[static_cast<std::size_t>(i)][at];
          const double t = std::exp(l);
          loss -= t * log_p[at];
          kl += t * (l - log_p[at]);
          gradient += std::exp(log_p[at]) - t;
        }
        if (args.student_gradient) {
          store_double(args.student_gradient, (v * images + b) * columns + k,
                       args.gradient_scale * gradient / (args.student_temperature * pairs));
        }
      }
    }
  }
  store_double(args.loss, 0, loss / pairs);
  store_double(args.teacher_entropy, 0, entropy / static_cast<double>(teacher_views * images));
  store_double(args.kl, 0, kl / pairs);
  for (std::int64_t k = 0; k < columns; ++k) {
    double sum = 0;
    for (std::int64_t row = 0; row < teacher_views * images; ++row) sum += load_double(args.teacher, row * columns + k);
    store_double(args.teacher_sum, k, sum);
  }
}

void center_update(const CenterUpdate& args) {
  if (args.non_finite && *args.non_finite.as<std::int32_t>() != 0) return;
  for (std::int64_t k = 0; k < args.center.size(); ++k) {
    const double mean = load_double(args.sum, k) / static_cast<double>(args.rows);
    store_double(args.center, k, args.momentum * load_double(args.center, k) + (1 - args.momentum) * mean);
  }
}

}  // namespace dino::reference
