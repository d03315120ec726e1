#include "kernels/dino_loss/dino_loss.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

struct Case {
  std::int64_t images, student_views, teacher_views, columns;
};

/// The results of one call, in any element types.
struct Results {
  Results(DType scalar, std::int64_t columns)
      : loss(scalar, {1}), entropy(scalar, {1}), kl(scalar, {1}), sum(scalar, {columns}) {}
  HostArray loss, entropy, kl, sum;
};

DinoLossWithGradient arguments(const Case& c, const HostArray& student, const HostArray& teacher,
                               const HostArray& center, const Array& gradient, const Results& results) {
  return {.student = student,
          .teacher = teacher,
          .center = center,
          .images = static_cast<int>(c.images),
          .student_temperature = 0.1,
          .teacher_temperature = 0.04,
          .gradient_scale = 0.5,
          .student_gradient = gradient,
          .loss = results.loss,
          .teacher_entropy = results.entropy,
          .kl = results.kl,
          .teacher_sum = results.sum};
}

void check_results(const Results& got, const Results& expected, double tolerance) {
  check_close(got.loss, expected.loss, tolerance, "loss");
  // Both may be near zero, as a small difference of larger numbers.
  CHECK(std::abs(got.entropy.at(0) - expected.entropy.at(0)) <= tolerance * (1 + expected.entropy.at(0)));
  CHECK(std::abs(got.kl.at(0) - expected.kl.at(0)) <= tolerance * (1 + expected.loss.at(0)));
  check_close(got.sum, expected.sum, 1e-6, "column sums");
}

void check_case(const Case& c, DType type, double scale, int misalign, Stream& stream) {
  INFO("B " << c.images << ", V " << c.student_views << ", G " << c.teacher_views << ", K " << c.columns << ", "
            << name_of(type) << ", scale " << scale);
  const Shape student_shape{c.student_views * c.images, c.columns};
  HostArray student = random_normal(type, student_shape, 1, scale, 0.3, misalign);
  const HostArray teacher = random_normal(type, {c.teacher_views * c.images, c.columns}, 2, scale, -0.2, misalign);
  const HostArray center = random_normal(DType::float32, {c.columns}, 3, scale / 4, 0, misalign);
  const Results expected(DType::float64, c.columns);
  const HostArray expected_gradient(DType::float64, student_shape);
  reference::dino_loss_with_gradient(
      arguments(c, student.to(DType::float64), teacher.to(DType::float64), center, expected_gradient, expected));

  const Results no_gradient(DType::float32, c.columns);
  dino_loss_with_gradient(arguments(c, student, teacher, center, {}, no_gradient), stream);
  check_results(no_gradient, expected, 2e-6);

  const Results got(DType::float32, c.columns);
  dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
  check_results(got, expected, 2e-6);
  // bf16: at most twice the error of the exact gradient rounded once.
  const double rounding = difference(expected_gradient.to(type), expected_gradient).relative_norm;
  check_close(student, expected_gradient, type == DType::float32 ? 1e-5 : 2 * rounding + 1e-5, "gradient");
}

}  // namespace

static void check_cases(Stream& stream);
TEST_CASE("dino_loss agrees with the oracle", "[device]") { every_stream(check_cases); }
static void check_cases(Stream& stream) {
  const Case cases[] = {{1, 2, 1, 1},   {1, 2, 2, 3},  {3, 4, 2, 17},   {2, 3, 3, 1031},
                        {18, 2, 2, 40}, {1, 9, 8, 24}, {1, 5, 1, 2048}, {2, 10, 2, 3000}};
  for (const Case& c : cases) {
    for (const DType type : {DType::float32, DType::bfloat16}) {
      check_case(c, type, 1.0, 0, stream);
      check_case(c, type, 0.05, 1, stream);
    }
  }
}

static void check_full_size(Stream& stream);
TEST_CASE("dino_loss agrees with the oracle at DINO's size", "[device]") { every_stream(check_full_size); }
static void check_full_size(Stream& stream) { check_case({1, 10, 2, 65536}, DType::bfloat16, 0.1, 0, stream); }

static void check_mixed_types(Stream& stream);
TEST_CASE("dino_loss takes logits of mixed types", "[device]") { every_stream(check_mixed_types); }
static void check_mixed_types(Stream& stream) {
  const Case c{2, 3, 2, 100};
  HostArray student = random_normal(DType::bfloat16, {6, 100}, 1);
  const HostArray teacher = random_normal(DType::float32, {4, 100}, 2);
  const HostArray center = random_normal(DType::float32, {100}, 3);
  const Results expected(DType::float64, 100);
  const Results got(DType::float32, 100);
  reference::dino_loss_with_gradient(
      arguments(c, student.to(DType::float64), teacher.to(DType::float64), center, {}, expected));
  dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
  check_results(got, expected, 2e-6);
}

TEST_CASE("dino_loss: the oracle's gradient is the loss's") {
  const Case c{2, 4, 2, 7};
  const HostArray student = random_normal(DType::float64, {8, 7}, 1, 0.2);
  const HostArray teacher = random_normal(DType::float64, {4, 7}, 2, 0.1);
  const HostArray center = random_normal(DType::float64, {7}, 3, 0.1);
  const HostArray gradient(DType::float64, {8, 7});
  const Results results(DType::float64, 7);
  reference::dino_loss_with_gradient(arguments(c, student, teacher, center, gradient, results));
  const auto loss = [&] {
    const Results moved(DType::float64, 7);
    reference::dino_loss_with_gradient(arguments(c, student, teacher, center, {}, moved));
    return 0.5 * moved.loss.at(0);
  };
  check_gradient(loss, student, gradient, 1e-7, "dino_loss student", 56);
}

static void check_uniform(Stream& stream);
TEST_CASE("dino_loss of a uniform output is ln K", "[device]") { every_stream(check_uniform); }
static void check_uniform(Stream& stream) {
  for (const std::int64_t columns : {4096, 65536}) {
    const Case c{1, 3, 2, columns};
    HostArray student = random_normal(DType::bfloat16, {3, columns}, 1, 0.0, 2.0);
    const HostArray teacher = random_normal(DType::bfloat16, {2, columns}, 1, 0.0, -1.0);
    const HostArray center = random_normal(DType::float32, {columns}, 1, 0.0);
    const Results got(DType::float32, columns);
    dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
    CHECK(std::abs(got.loss.at(0) - std::log(static_cast<double>(columns))) <= 1e-5);
    CHECK(std::abs(got.kl.at(0)) <= 1e-5);
    for (std::int64_t i = 0; i < student.size(); ++i) {
      if (!(std::abs(student.at(i)) <= 1e-9)) FAIL("the gradient of the uniform output is zero; got " << student.at(i));
    }
  }
}

static void check_large_logits(Stream& stream);
TEST_CASE("dino_loss stands large logits", "[device]") { every_stream(check_large_logits); }
static void check_large_logits(Stream& stream) {
  const Case c{1, 3, 2, 500};
  for (const double offset : {-3e4, 3e4}) {
    HostArray student = random_normal(DType::float32, {3, 500}, 1, 200.0, offset);
    const HostArray teacher = random_normal(DType::float32, {2, 500}, 2, 200.0, -offset);
    const HostArray center = random_normal(DType::float32, {500}, 3);
    const Results expected(DType::float64, 500);
    const Results got(DType::float32, 500);
    HostArray gradient(DType::float64, {3, 500});
    reference::dino_loss_with_gradient(
        arguments(c, student.to(DType::float64), teacher.to(DType::float64), center, gradient, expected));
    dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
    check_close(got.loss, expected.loss, 1e-5, "loss");
    check_close(student, gradient, 1e-4, "gradient");
  }
}

static void check_nan(Stream& stream);
TEST_CASE("dino_loss of NaN logits is NaN", "[device]") { every_stream(check_nan); }
static void check_nan(Stream& stream) {
  const Case c{1, 3, 2, 2100};
  for (const bool in_student : {true, false}) {
    for (const std::int64_t where : {0, 3, 1100, 2099, 2100 + 5}) {
      HostArray student = random_normal(DType::float32, {3, 2100}, 1);
      HostArray teacher = random_normal(DType::float32, {2, 2100}, 2);
      const HostArray center = random_normal(DType::float32, {2100}, 3);
      (in_student ? student : teacher).set(where, std::numeric_limits<double>::quiet_NaN());
      const Results got(DType::float32, 2100);
      dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
      CHECK(std::isnan(got.loss.at(0)));
      CHECK(std::isnan(got.entropy.at(0)) == !in_student);
      CHECK(std::isnan(student.at(in_student ? where / 2100 * 2100 : 2 * 2100)));
    }
  }
}

TEST_CASE("dino_loss does not depend on the number of threads") {
  const Case c{3, 4, 2, 5000};
  const int threads = omp_get_max_threads();
  std::vector<HostArray> gradients;
  std::vector<Results> results;
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    const auto stream = make_cpu_stream();
    HostArray student = random_normal(DType::bfloat16, {12, 5000}, 1);
    const HostArray teacher = random_normal(DType::bfloat16, {6, 5000}, 2);
    const HostArray center = random_normal(DType::float32, {5000}, 3);
    Results& got = results.emplace_back(DType::float32, 5000);
    dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), *stream);
    gradients.push_back(std::move(student));
  }
  omp_set_num_threads(threads);
  for (const std::size_t i : {1, 2}) {
    check_close(gradients[i], gradients[0], 0.0, "gradient");
    check_close(results[i].loss, results[0].loss, 0.0, "loss");
    check_close(results[i].entropy, results[0].entropy, 0.0, "entropy");
    check_close(results[i].sum, results[0].sum, 0.0, "column sums");
  }
}

TEST_CASE("dino_loss refuses arguments that disagree") {
  const auto stream = make_cpu_stream();
  const HostArray student = random_normal(DType::float32, {4, 8}, 1);
  const HostArray teacher = random_normal(DType::float32, {4, 8}, 2);
  const HostArray center = random_normal(DType::float32, {8}, 3);
  const HostArray short_center = random_normal(DType::float32, {7}, 3);
  const Results results(DType::float32, 8);
  CHECK_THROWS_AS(dino_loss_with_gradient(arguments({3, 1, 1, 8}, student, teacher, center, {}, results), *stream),
                  Error);
  CHECK_THROWS_AS(dino_loss_with_gradient(arguments({4, 1, 1, 8}, student, teacher, center, {}, results), *stream),
                  Error);
  CHECK_THROWS_AS(
      dino_loss_with_gradient(arguments({2, 2, 2, 8}, student, teacher, short_center, {}, results), *stream), Error);
  CHECK_THROWS_AS(dino_loss_with_gradient(arguments({2, 2, 2, 8}, student, teacher, center, center, results), *stream),
                  Error);
}

TEST_CASE("dino_loss on CUDA does not depend on the order of the threads", "[device]") {
  std::vector<HostArray> gradients;
  std::vector<Results> results;
  every_stream([&](Stream& stream) {
    if (stream.device() == Device::cpu) return;  // its instruction sets may differ
    const Case c{18, 4, 2, 1300};
    HostArray student = random_normal(DType::bfloat16, {72, 1300}, 1);
    const HostArray teacher = random_normal(DType::bfloat16, {36, 1300}, 2);
    const HostArray center = random_normal(DType::float32, {1300}, 3);
    Results& got = results.emplace_back(DType::float32, 1300);
    dino_loss_with_gradient(arguments(c, student, teacher, center, student, got), stream);
    gradients.push_back(std::move(student));
    check_close(gradients.back(), gradients[0], 0.0, "gradient");
    check_close(got.loss, results[0].loss, 0.0, "loss");
    check_close(got.entropy, results[0].entropy, 0.0, "entropy");
    check_close(got.sum, results[0].sum, 0.0, "column sums");
  });
}

static void check_center(Stream& stream);
TEST_CASE("center_update is the moving mean", "[device]") { every_stream(check_center); }
static void check_center(Stream& stream) {
  for (const std::int64_t n : {1, 1000}) {
    const HostArray sum = random_normal(DType::float32, {n}, 1, 8.0, 0, 1);
    HostArray center = random_normal(DType::float32, {n}, 2);
    HostArray expected = center.to(DType::float64);
    reference::center_update({.sum = sum, .rows = 12, .momentum = 0.9, .center = expected});
    center_update({.sum = sum, .rows = 12, .momentum = 0.9, .center = center}, stream);
    check_close(center, expected, 1e-6, "center");
    for (const std::int32_t flag : {0, 1}) {
      const HostArray non_finite = from_integers({flag});
      const HostArray before = center.copy();
      const CenterUpdate args{.sum = sum, .rows = 12, .momentum = 0.5, .center = center, .non_finite = non_finite};
      if (flag == 0) {
        const HostArray moved = center.to(DType::float64);
        reference::center_update({.sum = sum, .rows = 12, .momentum = 0.5, .center = moved});
        center_update(args, stream);
        check_close(center, moved, 1e-6, "center with a flag that is not set");
      } else {
        center_update(args, stream);
        check_close(center, before, 0.0, "center with a flag that is set");
      }
    }
  }
}
