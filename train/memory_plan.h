#pragma once

#include "engine/communicator.h"
#include "engine/context.h"
#include "kernels/common/dtype.h"
#include "train/config.h"
#include "train/student_teacher.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dino {

/// What a run needs to know of its surroundings.
struct RunFacts {
  Device device = Device::cpu;
  DType compute_type = DType::float32;
  int ranks = 1;
  unsigned loader_threads = 1;
  int picture_height_px = 375, picture_width_px = 500;  // of a decoded picture: ImageNet's usual
  /// Runs an evaluation as it comes between the epochs, on networks that only rehearse; or none.
  std::function<void(Context&, StudentTeacher&)> evaluation = {};
};

/// The bytes that a training run takes, by kind. Those of the device are what a rehearsal of its first steps allocates
/// (engine/rehearsal.h): exactly what the run's arena will hold. Not gone through: the film of a report, which takes
/// less.
struct MemoryPlan {
  // On the device, which may be the host:
  std::size_t weights = 0;  // of the student, with the working copy
  std::size_t teacher = 0;  // the same
  std::size_t gradient = 0;
  std::size_t optimizer = 0;    // moments
  std::size_t tables = 0;       // center, norms, segments
  std::size_t crops = 0;        // in 8 bits
  std::size_t activations = 0;  // and their gradients, logits included (or the pictures, where the device makes crops
                                // of them and they are more): the most at once
  std::size_t evaluation = 0;   // that an evaluation takes beyond a step
  std::size_t gaps = 0;         // between blocks
  std::size_t arena_peak = 0;   // all but the gaps

  // On the host besides:
  std::size_t loader = 0;      // batches ahead, and what each thread works in
  std::size_t checkpoint = 0;  // the copy of the tensor that is written or read
  std::size_t sums = 0;        // what comes from other ranks, where it does not go from GPU to GPU
  std::size_t program = 0;     // code, libraries, threads; measured, see memory_plan.cpp

  // On the disk:
  std::size_t checkpoint_file = 0;

  std::size_t device_bytes() const { return arena_peak + gaps; }
  std::size_t host_bytes() const { return loader + checkpoint + sums + program; }
};

/// Runs two steps and an evaluation on a device that only plays one. Throws Error where the configuration does.
MemoryPlan plan_memory(const TrainConfig& config, const RunFacts& facts);

/// Crops of so many images on the context's device: noise, or nothing but their place in a rehearsal.
TrainingCrops noise_crops(Context& context, const TrainConfig& config);

/// Memory that a run may take.
struct MemoryLimits {
  std::size_t device_bytes = SIZE_MAX;   // of the arena
  std::size_t host_bytes = SIZE_MAX;     // of the host, with the arena where the device is the host
  std::size_t address_bytes = SIZE_MAX;  // that the host may map beside the arena
  std::string host = {};                 // what limits the host, for messages: HostMemory::to_string()
};
/// Those of a context's arena and of this process. Ranks on one machine get equal parts of its memory: every rank calls
/// it, before any has begun to take some.
MemoryLimits memory_limits(Context& context, Communicator& communicator);
bool fits(const MemoryPlan& plan, Device device, const MemoryLimits& limits);

/// The largest batch_size_per_gpu that fits, by rehearsals; 0 where not even 1 does. At most `most`.
int largest_batch(const TrainConfig& config, const RunFacts& facts, const MemoryLimits& limits, int most = 1 << 14);

/// batch_size_per_gpu and accumulation of the same product, with the largest batch that fits; nothing where none does.
std::optional<std::pair<int, int>> same_global_batch(const TrainConfig& config, const RunFacts& facts,
                                                     const MemoryLimits& limits);

/// Throws Error where a run on the context's device would not fit into its arena or into the memory that the host has
/// left, or into this rank's part of it, with the largest kinds, what there is, and a batch and an accumulation that
/// would do. Every rank calls it.
void require_memory(const TrainConfig& config, const RunFacts& facts, Context& context, Communicator& communicator);

/// `weights 85 MiB, gradient 85 MiB, …`: the largest kinds first, at most `most` of them.
std::string largest_kinds(const MemoryPlan& plan, std::size_t most);
/// All kinds with their names, those of the device first.
std::vector<std::pair<std::string, std::size_t>> kinds_of(const MemoryPlan& plan);

}  // namespace dino
