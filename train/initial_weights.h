#pragma once

#include "train/student_teacher.h"

#include <string>
#include <vector>

namespace dino {

/// Puts the weights of config.init (anything that read_weights() takes; the teacher of a checkpoint) into student and
/// teacher: the backbone, its position embedding resized as the network itself would for config.global_crops_size, and
/// the head where the file has one. Without one the head keeps its random start. Returns what was done and what is
/// worth changing in the configuration, a line each. Throws Error, and changes nothing, when the file holds another
/// network.
std::vector<std::string> load_initial_weights(StudentTeacher& networks, const TrainConfig& config);

}  // namespace dino
