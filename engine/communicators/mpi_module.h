#pragma once

// What the program and lib/libdino_mpi.so say to each other, in C: the module is opened where Open MPI's launcher has
// started the program, and by nothing else, so that it needs no MPI in any other case (docs/adr/0007-ranks.md).

#ifdef __cplusplus
extern "C" {
#endif

/// Collectives on MPI_COMM_WORLD, one under way at a time. Each function returns NULL or what MPI says is wrong.
/// Buffers must stay until `test` has said that it is done. Counts and offsets in bytes.
typedef struct DinoMpi {
  const char* (*open)(int* rank, int* size);
  const char* (*all_to_all)(const void* out, const int* out_counts, const int* out_offsets, void* in,
                            const int* in_counts, const int* in_offsets);
  const char* (*all_gather)(const void* out, int count, void* in, const int* in_counts, const int* in_offsets);
  const char* (*broadcast)(void* values, int count, int root);
  const char* (*barrier)(void);
  const char* (*test)(int* done);
  void (*close)(void);
} DinoMpi;

/// The module's one symbol.
const DinoMpi* dino_mpi_module(void);
#define DINO_MPI_MODULE_SYMBOL "dino_mpi_module"

#ifdef __cplusplus
}
#endif
