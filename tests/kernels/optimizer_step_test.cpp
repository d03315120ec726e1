#include "kernels/optimizer_step/optimizer_step.h"

#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <omp.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

/// Tensors of many sizes with gaps between them: decayed and not, active and not.
DeviceVector<OptimizerSegment> table(std::int64_t& flat_size, std::int64_t step, std::int64_t alignment = 16) {
  DeviceVector<OptimizerSegment> segments;
  std::int64_t offset = 0;
  int i = 0;
  for (const std::int64_t size : {1, 7, 64, 0, 1000, 16384, 16385, 50001, 384, 33}) {
    segments.push_back({.offset = offset,
                        .size = size,
                        .step = step + i % 2,
                        .learning_rate = 0.01 * (1 + i % 3),
                        .weight_decay = 0.04,
                        .teacher_momentum = i % 3 == 1 ? 0.996 : 0.9,
                        .decayed = i % 2 == 0,
                        .adapted = i % 4 < 2,
                        .active = i != 4 && i != 8});
    offset += (size + alignment - 1) / alignment * alignment + (i == 3 ? alignment : 0);
    ++i;
  }
  flat_size = offset;
  return segments;
}

/// Every flat array in one element type; all of them start with values, as after some steps.
struct State {
  State(DType type, std::int64_t n, std::int64_t segments, std::uint64_t seed, int misalign = 0)
      : gradient(random_normal(type, {n}, seed, 0.3, 0, misalign)),
        student(random_normal(type, {n}, seed + 1, 0.5, 0, misalign)),
        first_moment(random_normal(type, {n}, seed + 2, 0.1, 0, misalign)),
        second_moment(random_normal(type, {n}, seed + 3, 0.01, 0.1, misalign)),
        teacher(random_normal(type, {n}, seed + 4, 0.5, 0, misalign)),
        student_working(random_normal(DType::bfloat16, {n}, seed + 5, 1, 0, misalign)),
        teacher_working(random_normal(DType::bfloat16, {n}, seed + 6, 1, 0, misalign)),
        norms(type, {segments}),
        parameter_norms(type, {segments}),
        update_norms(type, {segments}),
        non_finite(from_integers({0})),
        skipped(from_integers(std::vector<std::int32_t>(static_cast<std::size_t>(segments), 0))) {
    // The steps that the table counts are 3 or more where this is used.
    for (std::int64_t s = 0; s < segments; s += 3) skipped.as<std::int32_t>()[s] = static_cast<std::int32_t>(1 + s % 2);
  }

  GradientNorms norms_arguments(std::span<const OptimizerSegment> segments, double clip, bool lars) const {
    GradientNorms args{
        .segments = segments, .gradient = gradient, .norms = norms, .non_finite = non_finite, .clip = clip};
    if (lars) {
      args.student = student;
      args.parameter_norms = parameter_norms;
      args.update_norms = update_norms;
    }
    return args;
  }
  OptimizerStep step_arguments(std::span<const OptimizerSegment> segments, OptimizerKind kind, double clip) const {
    return {.segments = segments,
            .kind = kind,
            .clip = clip,
            .gradient = gradient,
            .norms = norms,
            .parameter_norms = parameter_norms,
            .update_norms = update_norms,
            .non_finite = non_finite,
            .skipped = skipped,
            .student = student,
            .first_moment = first_moment,
            .second_moment = kind == OptimizerKind::adamw ? second_moment.array() : Array(),
            .student_working = student_working,
            .teacher = teacher,
            .teacher_working = teacher_working};
  }

  HostArray gradient, student, first_moment, second_moment, teacher, student_working, teacher_working;
  HostArray norms, parameter_norms, update_norms, non_finite, skipped;
};

}  // namespace

static void check_step(Stream& stream);
TEST_CASE("gradient_norms and optimizer_step agree with the oracle", "[device]") { every_stream(check_step); }
static void check_step(Stream& stream) {
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd, OptimizerKind::lars}) {
    for (const double clip : {0.0, 0.3}) {
      for (const int misalign : {0, 1}) {
        INFO("kind " << static_cast<int>(kind) << ", clip " << clip << ", misalign " << misalign);
        const bool lars = kind == OptimizerKind::lars;
        std::int64_t n = 0;
        const auto segments = table(n, 3, misalign == 0 ? 16 : 1);
        const auto count = static_cast<std::int64_t>(segments.size());
        const State got(DType::float32, n, count, 1, misalign);
        const State before(DType::float32, n, count, 1);
        State expected(DType::float64, n, count, 1);
        // The oracle starts from the same fp32 values.
        for (std::int64_t i = 0; i < n; ++i) {
          expected.gradient.set(i, got.gradient.at(i));
          expected.student.set(i, got.student.at(i));
          expected.first_moment.set(i, got.first_moment.at(i));
          expected.second_moment.set(i, got.second_moment.at(i));
          expected.teacher.set(i, got.teacher.at(i));
        }
        reference::gradient_norms(expected.norms_arguments(segments, clip, lars));
        gradient_norms(got.norms_arguments(segments, clip, lars), stream);
        check_close(got.norms, expected.norms, 1e-6, "norms");
        CHECK(*got.non_finite.as<std::int32_t>() == 0);
        if (lars) {
          check_close(got.parameter_norms, expected.parameter_norms, 1e-6, "parameter norms");
          check_close(got.update_norms, expected.update_norms, 1e-6, "update norms");
        }

        reference::optimizer_step(expected.step_arguments(segments, kind, clip));
        optimizer_step(got.step_arguments(segments, kind, clip), stream);
        check_close(got.student, expected.student, 3e-7, "student");
        check_close(got.first_moment, expected.first_moment, 3e-7, "first moment");
        check_close(got.second_moment, expected.second_moment, 3e-7, "second moment");
        check_close(got.teacher, expected.teacher, 3e-7, "teacher");
        for (std::size_t s = 0; s < segments.size(); ++s) {
          for (std::int64_t i = segments[s].offset; i < segments[s].offset + segments[s].size; ++i) {
            const auto rounded = [](double x) {
              return static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(x))));
            };
            const bool working = got.student_working.at(i) ==
                                 (segments[s].active ? rounded(got.student.at(i)) : before.student_working.at(i));
            const bool kept = segments[s].active || (got.student.at(i) == before.student.at(i) &&
                                                     got.first_moment.at(i) == before.first_moment.at(i) &&
                                                     got.second_moment.at(i) == before.second_moment.at(i));
            if (!working || !kept || got.teacher_working.at(i) != rounded(got.teacher.at(i)))
              FAIL("element " << i << " of segment " << s);
          }
        }
        // Padding is left alone.
        const std::int64_t gap = segments[0].offset + 1;
        if (misalign == 0) {
          CHECK(got.student.at(gap) == before.student.at(gap));
          CHECK(got.teacher.at(gap) == before.teacher.at(gap));
        }
      }
    }
  }
}

static void check_adamw(Stream& stream);
TEST_CASE("optimizer_step follows PyTorch's AdamW from the first step", "[device]") { every_stream(check_adamw); }
static void check_adamw(Stream& stream) {
  // torch 1.13: p = 1, gradients 0.5, -0.25; lr 0.1, weight decay 0.04. By hand: the first step moves by the whole
  // rate.
  DeviceVector<OptimizerSegment> segments{
      {.offset = 0, .size = 1, .step = 1, .learning_rate = 0.1, .weight_decay = 0.04, .decayed = true}};
  OptimizerSegment& segment = segments[0];
  HostArray gradient = from_values(DType::float32, {1}, {0.5});
  const HostArray student = from_values(DType::float32, {1}, {1.0});
  const HostArray m = from_values(DType::float32, {1}, {0});
  const HostArray v = from_values(DType::float32, {1}, {0});
  OptimizerStep args{
      .segments = segments, .gradient = gradient, .student = student, .first_moment = m, .second_moment = v};
  optimizer_step(args, stream);
  CHECK(std::abs(student.at(0) - (1 - 0.004 - 0.1)) <= 1e-6);
  CHECK(std::abs(m.at(0) / 0.05 - 1) <= 2e-7);
  CHECK(std::abs(v.at(0) / 0.00025 - 1) <= 2e-7);
  gradient.set(0, -0.25);
  segment.step = 2;
  optimizer_step(args, stream);
  const double corrected_m = (0.9 * 0.05 - 0.1 * 0.25) / (1 - 0.81);
  const double corrected_v = (0.999 * 0.00025 + 0.001 * 0.0625) / (1 - 0.998001);
  CHECK(std::abs(student.at(0) - (0.896 * 0.996 - 0.1 * corrected_m / std::sqrt(corrected_v))) <= 1e-6);

  // The second update after three skipped steps, of which the table was not told, is the second update.
  student.as<float>()[0] = 1;
  m.as<float>()[0] = v.as<float>()[0] = 0;
  const HostArray skipped = from_integers({0}), flag = from_integers({0});
  args.skipped = skipped;
  args.non_finite = flag;
  for (segment.step = 1; segment.step <= 5; ++segment.step) {
    *flag.as<std::int32_t>() = segment.step >= 2 && segment.step <= 4 ? 1 : 0;
    gradient.set(0, segment.step == 1 ? 0.5 : -0.25);
    optimizer_step(args, stream);
  }
  CHECK(*skipped.as<std::int32_t>() == 3);
  CHECK(std::abs(student.at(0) - (0.896 * 0.996 - 0.1 * corrected_m / std::sqrt(corrected_v))) <= 1e-6);
}

static void check_sgd_and_lars(Stream& stream);
TEST_CASE("optimizer_step follows SGD and LARS by hand", "[device]") { every_stream(check_sgd_and_lars); }
static void check_sgd_and_lars(Stream& stream) {
  const DeviceVector<OptimizerSegment> segments{
      {.offset = 0, .size = 2, .learning_rate = 0.5, .weight_decay = 0.1, .decayed = true, .adapted = true}};
  const HostArray gradient = from_values(DType::float32, {2}, {0.3, 0.4});
  const HostArray norms(DType::float32, {1}), p_norms(DType::float32, {1}), u_norms(DType::float32, {1}),
      flag = from_integers({0});
  for (const OptimizerKind kind : {OptimizerKind::sgd, OptimizerKind::lars}) {
    const HostArray student = from_values(DType::float32, {2}, {3.0, 4.0});
    const HostArray m = from_values(DType::float32, {2}, {1.0, 0.0});
    gradient_norms({.segments = segments,
                    .gradient = gradient,
                    .norms = norms,
                    .non_finite = flag,
                    .student = student,
                    .parameter_norms = p_norms,
                    .update_norms = u_norms},
                   stream);
    CHECK(std::abs(norms.at(0) - 0.5) <= 1e-7);
    CHECK(std::abs(p_norms.at(0) - 5.0) <= 1e-6);
    CHECK(std::abs(u_norms.at(0) - 1.0) <= 1e-6);
    optimizer_step({.segments = segments,
                    .kind = kind,
                    .gradient = gradient,
                    .parameter_norms = p_norms,
                    .update_norms = u_norms,
                    .student = student,
                    .first_moment = m},
                   stream);
    const double ratio = kind == OptimizerKind::lars ? 1e-3 * 5.0 / 1.0 : 1.0;
    CHECK(std::abs(m.at(0) - (0.9 + 0.6 * ratio)) <= 1e-6);
    CHECK(std::abs(m.at(1) - 0.8 * ratio) <= 1e-6);
    CHECK(std::abs(student.at(0) - (3 - 0.5 * (0.9 + 0.6 * ratio))) <= 1e-6);
  }
}

static void check_zero_norms(Stream& stream);
TEST_CASE("LARS leaves a zero parameter and a zero update at ratio 1", "[device]") { every_stream(check_zero_norms); }
static void check_zero_norms(Stream& stream) {
  const DeviceVector<OptimizerSegment> segments{{.offset = 0, .size = 1, .learning_rate = 1, .adapted = true}};
  const HostArray zero = from_values(DType::float32, {1}, {0}), one = from_values(DType::float32, {1}, {1});
  const HostArray student = zero.copy(), m = zero.copy();
  optimizer_step({.segments = segments,
                  .kind = OptimizerKind::lars,
                  .gradient = one,
                  .parameter_norms = zero,
                  .update_norms = one,
                  .student = student,
                  .first_moment = m},
                 stream);
  CHECK(student.at(0) == -1.0);
}

static void check_non_finite(Stream& stream);
TEST_CASE("gradient_norms sees what is not finite, and only where it counts", "[device]") {
  every_stream(check_non_finite);
}
static void check_non_finite(Stream& stream) {
  std::int64_t n = 0;
  auto segments = table(n, 1);
  const auto count = static_cast<std::int64_t>(segments.size());
  const auto flag_with = [&](std::int64_t where, double value, std::int32_t& flag) {
    State state(DType::float32, n, count, 1);
    state.gradient.set(where, value);
    gradient_norms(state.norms_arguments(segments, 0, false), stream);
    flag = *state.non_finite.as<std::int32_t>();
    return state.norms.at(7);
  };
  std::int32_t flag = -1;
  const std::int64_t last = segments[7].offset + segments[7].size - 1;
  flag_with(last, std::numeric_limits<double>::quiet_NaN(), flag);
  CHECK(flag == 1);
  flag_with(segments[7].offset, std::numeric_limits<double>::infinity(), flag);
  CHECK(flag == 1);
  flag_with(segments[0].offset + 1, std::numeric_limits<double>::quiet_NaN(), flag);  // padding
  CHECK(flag == 0);
  flag_with(segments[8].offset, std::numeric_limits<double>::quiet_NaN(), flag);  // inactive
  CHECK(flag == 0);
  const double norm = flag_with(last, 1e25, flag);  // its square is beyond fp32
  CHECK(flag == 0);
  CHECK(std::abs(norm / 1e25 - 1) <= 1e-6);

  // Losses count as well, and a flag that is set stays.
  const State state(DType::float32, n, count, 1);
  for (const double value : {1.0, std::numeric_limits<double>::infinity(), 2.0}) {
    const HostArray losses = from_values(DType::float32, {3}, {0.5, 0.25, value});
    GradientNorms args = state.norms_arguments(segments, 0, false);
    args.losses = losses;
    gradient_norms(args, stream);
    CHECK(*state.non_finite.as<std::int32_t>() == (value == 1.0 ? 0 : 1));
  }
  const HostArray no_norms(DType::float32, {0});
  gradient_norms({.segments = {}, .gradient = state.gradient, .norms = no_norms, .non_finite = state.non_finite},
                 stream);
  CHECK(*state.non_finite.as<std::int32_t>() == 1);
}

static void check_left_alone(Stream& stream);
TEST_CASE("optimizer_step leaves everything as it is where something was not finite", "[device]") {
  every_stream(check_left_alone);
}
static void check_left_alone(Stream& stream) {
  std::int64_t n = 0;
  const auto segments = table(n, 3);
  const auto count = static_cast<std::int64_t>(segments.size());
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd, OptimizerKind::lars}) {
    State got(DType::float32, n, count, 1);
    const State before(DType::float32, n, count, 1);
    got.gradient.set(segments[7].offset, std::numeric_limits<double>::quiet_NaN());
    gradient_norms(got.norms_arguments(segments, 0.3, kind == OptimizerKind::lars), stream);
    REQUIRE(*got.non_finite.as<std::int32_t>() == 1);
    optimizer_step(got.step_arguments(segments, kind, 0.3), stream);
    check_close(got.student, before.student, 0.0, "student");
    check_close(got.first_moment, before.first_moment, 0.0, "first moment");
    check_close(got.second_moment, before.second_moment, 0.0, "second moment");
    check_close(got.student_working, before.student_working, 0.0, "student's working copy");
    check_close(got.teacher, before.teacher, 0.0, "teacher");
    check_close(got.teacher_working, before.teacher_working, 0.0, "teacher's working copy");
    for (std::size_t s = 0; s < segments.size(); ++s) {
      CHECK(got.skipped.as<std::int32_t>()[s] == before.skipped.as<std::int32_t>()[s] + (segments[s].active ? 1 : 0));
    }
  }
}

TEST_CASE("gradient_norms and optimizer_step do not depend on the number of threads") {
  std::int64_t n = 0;
  const auto segments = table(n, 2);
  const int threads = omp_get_max_threads();
  std::vector<State> states;
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    const auto stream = make_cpu_stream();
    const State& state = states.emplace_back(DType::float32, n, static_cast<std::int64_t>(segments.size()), 5);
    gradient_norms(state.norms_arguments(segments, 0.3, true), *stream);
    optimizer_step(state.step_arguments(segments, OptimizerKind::lars, 0.3), *stream);
  }
  omp_set_num_threads(threads);
  for (const std::size_t i : {1, 2}) {
    check_close(states[i].norms, states[0].norms, 0.0, "norms");
    check_close(states[i].update_norms, states[0].update_norms, 0.0, "update norms");
    check_close(states[i].student, states[0].student, 0.0, "student");
    check_close(states[i].teacher, states[0].teacher, 0.0, "teacher");
  }
}

TEST_CASE("optimizer_step refuses tables and arrays that disagree") {
  const auto stream = make_cpu_stream();
  const State state(DType::float32, 64, 2, 1);
  const auto try_step = [&](std::vector<OptimizerSegment> segments) {
    OptimizerStep args = state.step_arguments(segments, OptimizerKind::adamw, 0);
    args.skipped = {};
    optimizer_step(args, *stream);
  };
  CHECK_THROWS_AS(try_step({{.offset = 0, .size = 20, .step = 1}, {.offset = 16, .size = 8, .step = 1}}), Error);
  CHECK_THROWS_AS(try_step({{.offset = 0, .size = 16, .step = 1}, {.offset = 60, .size = 8, .step = 1}}), Error);
  CHECK_THROWS_AS(try_step({{.offset = 0, .size = 16, .step = 0}}), Error);
  CHECK_NOTHROW(try_step({{.offset = 0, .size = 16, .step = 1}, {.offset = 32, .size = 8, .step = 1}}));
}

TEST_CASE("golden: norms of the first step's gradients") {
  int runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir())) {
    const std::string file_name = entry.path().filename().string();
    if (!file_name.starts_with("train_") || !file_name.ends_with(".safetensors")) continue;
    INFO(file_name);
    ++runs;
    const SafetensorsFile file = SafetensorsFile::read(entry.path());
    std::vector<OptimizerSegment> segments;
    std::vector<float> flat;
    std::istringstream order(file.metadata("parameter_order"));
    for (std::string name; std::getline(order, name, ',');) {
      if (!file.contains("step0.grad." + name)) continue;  // has no gradient
      const ConstArray gradient = file["step0.grad." + name];
      segments.push_back({.offset = static_cast<std::int64_t>(flat.size()), .size = gradient.size()});
      flat.insert(flat.end(), gradient.as<float>(), gradient.as<float>() + gradient.size());
      flat.resize((flat.size() + 15) / 16 * 16, 0.0F);
    }
    const ConstArray expected = file["step0.grad_norms"];
    REQUIRE(static_cast<std::int64_t>(segments.size()) == expected.size());
    const HostArray norms(DType::float32, expected.shape()), flag = from_integers({0});
    const auto stream = make_cpu_stream();
    gradient_norms({.segments = segments,
                    .gradient = ConstArray(flat.data(), Shape{static_cast<std::int64_t>(flat.size())}),
                    .norms = norms,
                    .non_finite = flag},
                   *stream);
    for (std::int64_t s = 0; s < expected.size(); ++s)
      CHECK(std::abs(norms.at(s) / load_double(expected, s) - 1) <= 2e-5);
  }
  CHECK(runs >= 1);
}
