#include "kernels/common/cuda/launch.h"
#include "kernels/dino_loss/dino_loss.h"

#include <algorithm>
#include <cfloat>
#include <numbers>

// The loss and its gradient in three launches and two readings of the logits.
//   1. slice_statistics  a block per row and slice of 8192 columns, which its threads hold in registers: maximum and
//   sum
//                        of exponentials.
//   2. column_blocks     a thread per pack of columns and group of images: reads the teacher's rows of an image once,
//                        forms t, then every student view's gradient. Leaves sums of the loss and the entropy for each
//                        block and column sums of the teacher for each group.
//   3. finish            adds these up in their order.
// Bytes for V = 10, G = 2, B = 32, K = 65536 in bf16: 2 x 50 MB are read and 42 MB written, and 4 MB of column sums go
// to and fro in L2; nothing in fp32 has the size of the logits. 50 million exponentials take 14 us of the special
// function units of 132 multiprocessors, the bytes 33 us at 4.3 TB/s: bound by memory.
// Numerics: logits minus their row's maximum in fp32, sums over threads and blocks in double. Rows, slices and groups
// are cut by the sizes alone and there are no atomics: the same bits every time, on every card.
// Reference: dino_loss_reference.cpp.

namespace dino::cuda {
namespace {

/// Σ_k 2^((x_k - maximum) · scale) is `sum`.
struct RowStatistics {
  float maximum;
  float sum;
};
/// Contributions of one block of columns and group of images.
struct BlockSums {
  double loss;
  double entropy;
};

constexpr int kSlice = 8192;  // columns
constexpr int kSliceThreads = 256;
constexpr int kSliceWarps = kSliceThreads / kWarpSize;
constexpr int kColumnThreads = 128;
constexpr int kColumnWarps = kColumnThreads / kWarpSize;
constexpr int kFinishThreads = 256;
constexpr int kFinishWarps = kFinishThreads / kWarpSize;

struct Sizes {
  int images, student_views, teacher_views, columns;
  int slices;        // of a row
  int group_height;  // images
  float student_scale, teacher_scale;

  /// Row `view · images + b` of the student's, then the teacher's.
  __host__ __device__ int views() const { return student_views + teacher_views; }
};

/// Merges the statistics of parts of a row, in their order. NaN in a part is in its sum, and stays.
__device__ __forceinline__ RowStatistics merged(const RowStatistics* parts, int count, float scale) {
  RowStatistics all = parts[0];
  for (int i = 1; i < count; ++i) {
    const RowStatistics part = parts[i];
    const float maximum = fmaxf(all.maximum, part.maximum);
    all.sum = all.sum * exp2f((all.maximum - maximum) * scale) + part.sum * exp2f((part.maximum - maximum) * scale);
    all.maximum = maximum;
  }
  return all;
}

struct SliceShared {
  RowStatistics of_warp[kSliceWarps];
};

/// Statistics of the columns from `begin` on of a row; `shift` is null for none.
template <typename T, int N>
__device__ __forceinline__ RowStatistics slice_of_row(const T* x, const float* shift, int begin, int columns,
                                                      float scale) {
  constexpr int kSteps = kSlice / (kSliceThreads * N);
  const int first = begin + static_cast<int>(threadIdx.x) * N;
  float values[kSteps][N];
  float maximum = -FLT_MAX;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int column = first + step * kSliceThreads * N;
    if (column >= columns) break;
    load(x + column, values[step]);
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int column = first + step * kSliceThreads * N;
    if (column >= columns) break;
    if (shift != nullptr) {
      float center[N];
      load(shift + column, center);
#pragma unroll
      for (int i = 0; i < N; ++i) values[step][i] -= center[i];
    }
    // fmaxf passes over NaN; the sum does not.
#pragma unroll
    for (int i = 0; i < N; ++i) maximum = fmaxf(maximum, values[step][i]);
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(kWholeWarp, maximum, distance));
  }
  float sum = 0;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (first + step * kSliceThreads * N >= columns) break;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += exp2f((values[step][i] - maximum) * scale);
  }
  return {maximum, warp_sum(sum)};
}

template <typename Student, typename Teacher, int N>
__global__ void __launch_bounds__(kSliceThreads)
    slice_statistics(const Student* student, const Teacher* teacher, const float* center, const Sizes sizes,
                     RowStatistics* statistics) {
  const int row = static_cast<int>(blockIdx.x) / sizes.slices;
  const int begin = static_cast<int>(blockIdx.x) % sizes.slices * kSlice;
  const int student_rows = sizes.student_views * sizes.images;
  const bool is_student = row < student_rows;
  const float scale = is_student ? sizes.student_scale : sizes.teacher_scale;
  const RowStatistics part =
      is_student
          ? slice_of_row<Student, N>(student + std::int64_t{row} * sizes.columns, nullptr, begin, sizes.columns, scale)
          : slice_of_row<Teacher, N>(teacher + std::int64_t{row - student_rows} * sizes.columns, center, begin,
                                     sizes.columns, scale);
  auto& shared = shared_memory<SliceShared>();
  if (threadIdx.x % kWarpSize == 0) shared.of_warp[threadIdx.x / kWarpSize] = part;
  __syncthreads();
  if (threadIdx.x == 0) statistics[blockIdx.x] = merged(shared.of_warp, kSliceWarps, scale);
}

__device__ __forceinline__ BlockSums warp_sum(BlockSums sums) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    sums.loss += __shfl_xor_sync(kWholeWarp, sums.loss, distance);
    sums.entropy += __shfl_xor_sync(kWholeWarp, sums.entropy, distance);
  }
  return sums;
}

/// The sums over a block's threads, in the first of them. `of_warp` has an entry for each warp.
__device__ __forceinline__ BlockSums block_sum(BlockSums sums, BlockSums* of_warp, int warps) {
  sums = warp_sum(sums);
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return sums;
  for (int warp = 1; warp < warps; ++warp) {
    sums.loss += of_warp[warp].loss;
    sums.entropy += of_warp[warp].entropy;
  }
  return sums;
}

template <typename Student, typename Teacher>
struct Columns {
  const Student* student;
  const Teacher* teacher;
  const float* center;
  Student* gradient;  // null: not computed; may be `student`
  const RowStatistics* statistics;
  BlockSums* block_sums;  // (groups, blocks of columns)
  float* column_sums;     // (groups, K)
  Sizes sizes;
  float unit;  // gradient_scale / (student_temperature · pairs · B)
};

/// What the second pass needs of a row.
struct Row {
  float maximum;
  float inverse_sum;
};

struct ColumnShared {
  BlockSums of_warp[kColumnWarps];
  // and (group_height, V + G) Rows behind it
};

/// maximum - x, finite for any finite x. NaN is lost here and comes back with the row's sum.
__device__ __forceinline__ float below(float maximum, float x) { return fminf(maximum - x, FLT_MAX); }

/// N columns of all images of a group. The most teacher views are kMost; t stays in registers.
template <typename Student, typename Teacher, int N, int kMost>
__device__ __forceinline__ BlockSums columns_of_group(const Columns<Student, Teacher>& args, const Row* rows, int first,
                                                      int end, int column) {
  constexpr int kAtOnce = 4;  // student rows whose loads are under way together
  const Sizes& sizes = args.sizes;
  const std::int64_t stride = std::int64_t{sizes.images} * sizes.columns;  // from view to view
  float center[N];
  load(args.center + column, center);
  float column_sums[N] = {};
  BlockSums sums{0, 0};
  for (int b = first; b < end; ++b, rows += sizes.views()) {
    const std::int64_t start = std::int64_t{b} * sizes.columns + column;
    float t[kMost][N];
    float all[N] = {};
    float entropy = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i < sizes.teacher_views) load(args.teacher + i * stride + start, t[i]);
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= sizes.teacher_views) break;
      const Row row = rows[sizes.student_views + i];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        column_sums[n] += t[i][n];
        const float distance = below(row.maximum, t[i][n] - center[n]);
        t[i][n] = exp2f(-distance * sizes.teacher_scale) * row.inverse_sum;
        entropy += t[i][n] * distance;
        all[n] += t[i][n];
      }
    }
    float loss = 0;
    for (int v0 = 0; v0 < sizes.student_views; v0 += kAtOnce) {
      // The compiler may not move these loads over the stores of gradients, which may go to the student's logits.
      Pack<Student, N> packs[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (v0 + k >= sizes.student_views) break;
        packs[k] = *reinterpret_cast<const Pack<Student, N>*>(args.student + (v0 + k) * stride + start);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int v = v0 + k;
        if (v >= sizes.student_views) break;
        const Row row = rows[v];
        const bool is_teachers = v < sizes.teacher_views;
        const float to_probability =
            args.unit * static_cast<float>(sizes.teacher_views - (is_teachers ? 1 : 0)) * row.inverse_sum;
        float gradient[N];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          float target = all[n];
          if (is_teachers) {
            // Added up anew: the difference from `all` would cancel.
            target = 0;
#pragma unroll
            for (int i = 0; i < kMost; ++i) {
              if (i != v && i < sizes.teacher_views) target += t[i][n];
            }
          }
          const float distance = below(row.maximum, to_float(packs[k].values[n]));
          loss += target * distance;
          gradient[n] = exp2f(-distance * sizes.student_scale) * to_probability - target * args.unit;
        }
        if (args.gradient != nullptr) store(gradient, args.gradient + v * stride + start);
      }
    }
    sums.loss += static_cast<double>(loss);
    sums.entropy += static_cast<double>(entropy);
  }
  store(column_sums, args.column_sums + std::int64_t{blockIdx.y} * sizes.columns + column);
  return sums;
}

/// Block (columns, group).
template <typename Student, typename Teacher, int N, int kMost>
__global__ void __launch_bounds__(kColumnThreads, 1) column_blocks(const Columns<Student, Teacher> args) {
  const Sizes& sizes = args.sizes;
  const int first = static_cast<int>(blockIdx.y) * sizes.group_height;
  const int end = first + sizes.group_height < sizes.images ? first + sizes.group_height : sizes.images;
  auto& shared = shared_memory<ColumnShared>();
  auto* rows = reinterpret_cast<Row*>(&shared + 1);
  for (int r = static_cast<int>(threadIdx.x); r < (end - first) * sizes.views(); r += kColumnThreads) {
    const int view = r % sizes.views();
    const std::int64_t row = std::int64_t{view} * sizes.images + first + r / sizes.views();
    const RowStatistics statistics = merged(args.statistics + row * sizes.slices, sizes.slices,
                                            view < sizes.student_views ? sizes.student_scale : sizes.teacher_scale);
    rows[r] = {statistics.maximum, 1.0F / statistics.sum};
  }
  __syncthreads();
  const int column = static_cast<int>(blockIdx.x * kColumnThreads + threadIdx.x) * N;
  BlockSums sums{0, 0};
  if (column < sizes.columns) {
    sums = columns_of_group<Student, Teacher, N, kMost>(args, rows, first, end, column);
  }
  sums = block_sum(sums, shared.of_warp, kColumnWarps);
  if (threadIdx.x == 0) args.block_sums[std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = sums;
}

struct Finish {
  const RowStatistics* statistics;
  const BlockSums* block_sums;
  const float* column_sums;
  int blocks;  // of block_sums
  int groups;
  Sizes sizes;
  double student_temperature, teacher_temperature, pairs;  // pairs of all images
  float *loss, *entropy, *kl, *teacher_sum;
};

struct FinishShared {
  BlockSums of_warp[kFinishWarps];
};

/// The last block adds up the loss and the entropy, each of the others its columns.
__global__ void __launch_bounds__(kFinishThreads) finish(const Finish args) {
  const Sizes& sizes = args.sizes;
  if (blockIdx.x + 1 < gridDim.x) {
    const int column = static_cast<int>(blockIdx.x * kFinishThreads + threadIdx.x);
    if (column >= sizes.columns) return;
    float sum = 0;
    for (int g = 0; g < args.groups; ++g) sum += args.column_sums[std::int64_t{g} * sizes.columns + column];
    args.teacher_sum[column] = sum;
    return;
  }
  BlockSums sums{0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < args.blocks; i += kFinishThreads) {
    sums.loss += args.block_sums[i].loss;
    sums.entropy += args.block_sums[i].entropy;
  }
  // -Σ t ln p = ln(sum) + Σ t (maximum - x) / temperature, all of it non-negative.
  sums.loss /= args.student_temperature;
  sums.entropy /= args.teacher_temperature;
  for (int row = static_cast<int>(threadIdx.x); row < sizes.views() * sizes.images; row += kFinishThreads) {
    const int view = row / sizes.images;
    const bool is_student = view < sizes.student_views;
    const RowStatistics statistics = merged(args.statistics + std::int64_t{row} * sizes.slices, sizes.slices,
                                            is_student ? sizes.student_scale : sizes.teacher_scale);
    const double log_sum = log(static_cast<double>(statistics.sum));
    if (is_student) {
      sums.loss += log_sum * static_cast<double>(sizes.teacher_views - (view < sizes.teacher_views ? 1 : 0));
    } else {
      sums.entropy += log_sum;
    }
  }
  sums = block_sum(sums, shared_memory<FinishShared>().of_warp, kFinishWarps);
  if (threadIdx.x != 0) return;
  const double loss = sums.loss / args.pairs;
  const double entropy = sums.entropy / (static_cast<double>(sizes.teacher_views) * sizes.images);
  *args.loss = static_cast<float>(loss);
  *args.entropy = static_cast<float>(entropy);
  *args.kl = static_cast<float>(loss - entropy);
}

/// Images of a group: some 16 groups, and rows that fit into shared memory many times over.
int group_height(const DinoLossSizes& sizes) {
  constexpr std::int64_t kGroups = 16;
  constexpr std::int64_t kRows = 1024;
  const std::int64_t fitting = std::max<std::int64_t>(1, kRows / (sizes.student_views + sizes.teacher_views));
  return static_cast<int>(std::min(fitting, (sizes.images + kGroups - 1) / kGroups));
}

template <typename Student, typename Teacher, int N>
void run(const DinoLossWithGradient& args, const DinoLossSizes& checked, Stream& stream) {
  const Sizes sizes{.images = static_cast<int>(checked.images),
                    .student_views = static_cast<int>(checked.student_views),
                    .teacher_views = static_cast<int>(checked.teacher_views),
                    .columns = static_cast<int>(checked.columns),
                    .slices = static_cast<int>(blocks_for(checked.columns, kSlice)),
                    .group_height = group_height(checked),
                    .student_scale = static_cast<float>(std::numbers::log2e / args.student_temperature),
                    .teacher_scale = static_cast<float>(std::numbers::log2e / args.teacher_temperature)};
  const std::int64_t parts = std::int64_t{sizes.views()} * sizes.images * sizes.slices;
  const unsigned groups = blocks_for(sizes.images, sizes.group_height);
  const unsigned wide = blocks_for(sizes.columns, kColumnThreads * N);
  const double pairs = static_cast<double>(checked.pairs() * checked.images);

  // Block sums, statistics and column sums, the last where packs of 16 bytes may begin.
  const std::size_t block_sum_bytes = std::size_t{groups} * wide * sizeof(BlockSums);
  const std::size_t part_bytes = (static_cast<std::size_t>(parts) * sizeof(RowStatistics) + 15) / 16 * 16;
  const std::size_t column_sum_bytes = std::size_t{groups} * static_cast<std::size_t>(sizes.columns) * sizeof(float);
  auto* scratch = static_cast<std::byte*>(stream.scratch(block_sum_bytes + part_bytes + column_sum_bytes));
  auto* block_sums = reinterpret_cast<BlockSums*>(scratch);
  auto* statistics = reinterpret_cast<RowStatistics*>(scratch + block_sum_bytes);
  auto* column_sums = reinterpret_cast<float*>(scratch + block_sum_bytes + part_bytes);

  launch(slice_statistics<Student, Teacher, N>, {static_cast<unsigned>(parts), kSliceThreads, sizeof(SliceShared)},
         stream, args.student.as<Student>(), args.teacher.as<Teacher>(), args.center.as<float>(), sizes, statistics);

  const Columns<Student, Teacher> columns{
      .student = args.student.as<Student>(),
      .teacher = args.teacher.as<Teacher>(),
      .center = args.center.as<float>(),
      .gradient = args.student_gradient.as<Student>(),
      .statistics = statistics,
      .block_sums = block_sums,
      .column_sums = column_sums,
      .sizes = sizes,
      .unit = static_cast<float>(args.gradient_scale / (args.student_temperature * pairs))};
  const LaunchShape shape{
      dim3(wide, groups), kColumnThreads,
      sizeof(ColumnShared) + static_cast<std::size_t>(sizes.group_height * sizes.views()) * sizeof(Row)};
  if (sizes.teacher_views <= 2) {
    launch(column_blocks<Student, Teacher, N, 2>, shape, stream, columns);
  } else {
    launch(column_blocks<Student, Teacher, N, kMaxTeacherViews>, shape, stream, columns);
  }

  const Finish last{.statistics = statistics,
                    .block_sums = block_sums,
                    .column_sums = column_sums,
                    .blocks = static_cast<int>(groups * wide),
                    .groups = static_cast<int>(groups),
                    .sizes = sizes,
                    .student_temperature = args.student_temperature,
                    .teacher_temperature = args.teacher_temperature,
                    .pairs = pairs,
                    .loss = args.loss.as<float>(),
                    .entropy = args.teacher_entropy.as<float>(),
                    .kl = args.kl.as<float>(),
                    .teacher_sum = args.teacher_sum.as<float>()};
  launch(finish, {blocks_for(sizes.columns, kFinishThreads) + 1, kFinishThreads, sizeof(FinishShared)}, stream, last);
}

constexpr int kCenterThreads = 256;

__global__ void __launch_bounds__(kCenterThreads) move_center(const float* sum, float* center, std::int64_t size,
                                                              float keep, float add, const std::int32_t* non_finite) {
  if (non_finite != nullptr && *non_finite != 0) return;
  const std::int64_t k = std::int64_t{blockIdx.x} * kCenterThreads + threadIdx.x;
  if (k < size) center[k] = keep * center[k] + add * sum[k];
}

}  // namespace

void dino_loss_with_gradient(const DinoLossWithGradient& args, Stream& stream) {
  const DinoLossSizes sizes = check_dino_loss(args);
  visit_compute_type(args.student.dtype(), "dino_loss", [&](auto student) {
    visit_compute_type(args.teacher.dtype(), "dino_loss", [&](auto teacher) {
      using Student = decltype(student);
      using Teacher = decltype(teacher);
      using Wider = std::conditional_t<(sizeof(Student) > sizeof(Teacher)), Student, Teacher>;
      const int pack = pack_size<Wider>(sizes.columns, args.student, args.teacher, args.center, args.student_gradient);
      with_pack<Wider>(pack, [&](auto n) { run<Student, Teacher, n>(args, sizes, stream); });
    });
  });
}

void center_update(const CenterUpdate& args, Stream& stream) {
  check_center_update(args);
  const std::int64_t size = args.center.size();
  launch(move_center, {blocks_for(size, kCenterThreads), kCenterThreads}, stream, args.sum.as<float>(),
         args.center.as<float>(), size, static_cast<float>(args.momentum),
         static_cast<float>((1 - args.momentum) / static_cast<double>(args.rows)), args.non_finite.as<std::int32_t>());
}

}  // namespace dino::cuda
