#pragma once

#include "data/image_source.h"
#include "train/run_folder.h"

#include <array>
#include <cstdint>

namespace dino {

// What the ranks of a run have to agree on. With one rank nothing is sent. Every rank calls these in the same order.

/// Throws Error on every rank, naming the first key that differs, its values and the ranks, where the configurations
/// ask for different runs, or the data sets differ: in the number of pictures, or in their names, classes or order
/// (fingerprint_of()); or where some begin and others resume, or the weights that they begin with have other names.
/// Folders and what a machine is told about itself (threads, device) may differ.
void require_same_configuration(Communicator& communicator, const TrainConfig& config, DType compute_type,
                                const ImageSource& images, StartMode start);

/// Throws Error on every rank, naming the first parameter that differs and the rank, where student, teacher, center or
/// position are not those of rank 0 to the last bit.
void require_same_state(Communicator& communicator, StudentTeacher& networks, const TrainingPosition& position);

/// Every rank gets the networks, the optimiser's state and the position of rank 0.
void share_state(Communicator& communicator, StudentTeacher& networks, TrainingPosition& position);

/// The largest of all ranks' numbers: whether any has received a signal, and which.
int largest_of_ranks(Communicator& communicator, int mine, std::string_view name);
/// The same of each of two.
std::array<int, 2> largest_of_ranks(Communicator& communicator, std::array<int, 2> mine, std::string_view name);

}  // namespace dino
